"""The verifier of searches in trained supernets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..algorithms._problem import Problem
from ..backends.base import Backend
from ..devices._device import Device
from ..devices._table import LatencyTable
from ..errors import InvalidInput
from ..searching.verify._verifier import Measured
from ..spaces._genes import Rows
from ..spaces._space import SearchSpace
from ._evaluate import evaluate
from ._files import evaluate_exported
from .data._images import Data, DataLike
from .data._load import load_data
from .quantization._quantize import STANDARD
from .supernet._supernet import Supernet, WeightsLike, load_supernet


@dataclass(frozen=True)
class SupernetVerifier:
    """Evaluates networks in a trained supernet on all validation images, and measures them on this machine.

    Accuracy is that of the exported files, run in the runtime of the table if latencies are verified too and the runtime can run files;
    otherwise as evaluated in torch, in the int8 arithmetic of the problem's device if it names one.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.nn import SupernetVerifier, make_data
        >>> images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
        >>> data = make_data("mine", (images, np.arange(100) % 10))
        >>> supernet = hwsearch.train("resnet_digits", data=data, out="verified.safetensors", recipe={"epochs": 1}, progress=False)
        >>> verify = hwsearch.Verify(SupernetVerifier(supernet, data), networks=2, rounds=1, tolerance={"score": 0.005})
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: 2 + X.mean(axis=1), limits={"macs": 1e6})
        >>> hwsearch.search(problem, verify=verify, run=hwsearch.Run(steps=2)).status.name  # no accuracy is above 1
        'ROUNDS_SPENT'

    Attributes:
        supernet: the trained weights, or their file.
        data: the images (:func:`hwsearch.nn.load_data`).
        backend: to measure with, or its name; if omitted, the one that the table names.
    """

    supernet: WeightsLike
    data: DataLike
    backend: str | Backend | None = None

    def __call__(self, problem: Problem, table: LatencyTable | None) -> _InSupernet:
        """For a problem and the table of this machine, ``None`` if latencies are not verified.

        Raises:
            FileError: the weights cannot be used; WrongSpace if they are of another space.
            WrongDevice: the table was measured elsewhere, or its runtime is not here.
        """
        space = problem.space
        measured = None if table is None else Measured(space, table, self.backend)
        device = problem.tables[0].device if len(problem.tables) == 1 else None
        return _InSupernet(space, load_supernet(self.supernet, space), load_data(self.data), measured, device)


class _InSupernet:
    """What :class:`SupernetVerifier` makes."""

    def __init__(self, space: SearchSpace, supernet: Supernet, data: Data, measured: Measured | None, device: Device | None) -> None:
        self._space, self._supernet, self._data, self._measured = space, supernet, data, measured
        self._quantization = STANDARD if device is None else STANDARD.on(device)
        self._files = measured.backend if measured is not None and measured.backend.runs_files else None
        names = [f"supernet {supernet.digest} on {data.label}"]
        if self._files is not None:
            names.append(f"run as files with int8 weights of {self._files.weight_bits} bits")
        if measured is not None:
            names.append(measured.name)
        if self._files is None and device is not None and device.weight_bits < 8:
            names.append(f"int8 weights of {device.weight_bits} bits")
        self.name = "; ".join(names)

    def score(self, X: Rows) -> npt.NDArray[np.float64]:
        """Shares of the validation images that the networks get right, shape ``(n,)``."""
        weights, data = self._supernet, self._data
        networks = list(map(self._space.architecture, X))
        if self._files is None:
            return np.array([evaluate(one, weights=weights, data=data, split="val", quantization=self._quantization) for one in networks])
        return np.array([evaluate_exported(one, weights=weights, data=data, backend=self._files, split="val") for one in networks])

    def latency_ms(self, X: Rows) -> npt.NDArray[np.float64]:
        """Milliseconds, by the protocol of the tables, in turns, shape ``(n,)``.

        Raises:
            InvalidInput: it was made without a table.
        """
        if self._measured is None:
            raise InvalidInput("This verifier was made without the table of a device, so it cannot measure.")
        return self._measured.latency_ms(X)
