"""Backend: a device and its runtime.

A backend opens a network, a sequence of blocks, as a session, and a session says how long its runs take. Everything else (what
to measure, in which order, when to stop) is :mod:`hwsearch.profile`. To add one, subclass :class:`Backend`, register it, and
run :func:`hwsearch.testing.check_backend` on it; :mod:`hwsearch.backends.roofline` is the smallest one.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files._reading import PathLike
from .._files._writing import write_atomic
from ..devices._device import Device
from ..errors import InvalidInput, Unsupported
from ..networks._blocks import Block
from ._trained import Check, Runner, TrainedModel

Times = npt.NDArray[np.float64]
"""Seconds of runs, shape ``(runs,)``.

Example:
    >>> from hwsearch.backends import Roofline, Times
    >>> with Roofline().open([]) as session:
    ...     seconds: Times = session.times(3)
    >>> [f"{each:.6f}" for each in seconds]  # an empty network takes what a call takes
    ['0.000010', '0.000010', '0.000010']
"""
Network = Sequence[Block]
"""Blocks in the order of execution.

Example:
    >>> from hwsearch.backends import Network, Roofline
    >>> from hwsearch.networks import Block
    >>> network: Network = [Block("conv", 3, 16, 32, kernel=3), Block("head", 8, 10, 32)]
    >>> Roofline().check(network)
    Traceback (most recent call last):
        ...
    hwsearch.errors.InvalidInput: Block head-in8-out10-px32-k1-s1-g1-fp32 takes 8 channels of 32 px, and conv-... gives 16 channels ...
"""


class Session(ABC):
    """A network, ready to run. Use it in a ``with`` statement, or close it.

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.networks import Block
        >>> with Roofline().open([Block("conv", 3, 8, 32, kernel=3)]) as session:
        ...     print(session.times(5).shape, session.batch)
        (5,) 1

    Attributes:
        batch: images of one run.
    """

    batch: int = 1

    @abstractmethod
    def times(self, runs: int) -> Times:
        """Run the network again and again.

        Args:
            runs: how often, at least 1.

        Returns:
            Seconds of each run, shape ``(runs,)``.
        """

    @property
    def energy_mj(self) -> float | None:
        """Millijoules of one run, or ``None`` if there is no meter."""
        return None

    @property
    def kernels_ms(self) -> Mapping[str, float]:
        """What each kernel of a user's network took in the last :meth:`times`, at its fastest, by name; nothing unless it was opened by
        :meth:`Backend.profiled`."""
        return {}

    @property
    def throttled(self) -> bool:
        """Whether the device was held back, by heat or power, during the last :meth:`times`, so that they say little."""
        return False

    def close(self) -> None:  # noqa: B027 - many sessions have nothing to release
        """Release what the session holds."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Backend(ABC):
    """A device and its runtime.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.backends import Backend, Session
        >>> class Counted(Session):
        ...     def __init__(self, network):
        ...         self.seconds = 1e-3 * len(network)
        ...     def times(self, runs):
        ...         return np.full(runs, self.seconds)
        >>> class Millisecond(Backend):  # a device on which every block takes a millisecond
        ...     name, precisions = "millisecond", ("fp32", "int8")
        ...     def describe(self):
        ...         return hwsearch.devices.Device("millisecond", "analytic", "none", runtime=self.name, runtime_version="1")
        ...     def _open(self, network):
        ...         return Counted(network)
        >>> network = [hwsearch.networks.Block("conv", 3, 8, 32, kernel=3), hwsearch.networks.Block("head", 8, 10, 32)]
        >>> hwsearch.measure(network, backend=Millisecond(), progress=False).latency_ms
        2.0

    Attributes:
        name: under which it is registered.
        batch: images of one run.
        energy: what its sessions' energies are: ``"measured"``, ``"estimated"`` or ``"unavailable"``.
        runs_files: whether :meth:`runner` computes what model files compute.
        tells_kernels: whether :meth:`profiled` tells what each kernel of a model file takes.
        suffix: how the names of its model files end, such as ``".onnx"``; ``None`` if it writes no trained networks.
        takes_graphs: whether it writes model files of ONNX graphs too (:attr:`TrainedModel.graph`).
        zero_points: whether quantised feature maps have zero points in its model files.
        weight_bits: how many bits the weights of ``int8`` blocks may have so that the integer arithmetic of this device carries their
            products exactly.
    """

    name: str
    energy: str = "unavailable"
    batch: int = 1
    runs_files: bool = False
    tells_kernels: bool = False
    suffix: str | None = None
    takes_graphs: bool = False
    zero_points: bool = True
    weight_bits: int = 8

    @property
    @abstractmethod
    def precisions(self) -> tuple[str, ...]:
        """The precisions that this device runs, and runs faster or smaller for it."""

    @abstractmethod
    def describe(self) -> Device:
        """The device, its runtime, and what else explains a measurement."""

    @property
    def here(self) -> bool:
        """Whether the device is part of this machine, so that sessions can be opened."""
        return True

    def supports(self, block: Block) -> bool:
        """Whether the device runs this block."""
        return block.alone and block.precision in self.precisions

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """How to measure one block.

        Returns:
            A network that holds the block, and the same without it; the block costs what the first takes longer than the second.
            By default the block alone, and nothing at all (what a call costs). A runtime that changes a block by its neighbours
            (fusion, memory layouts) puts neighbours around it.
        """
        return (block,), ()

    def open(self, network: Network) -> Session:
        """Make a network ready to run; an empty network does nothing, and takes what a call takes.

        Raises:
            Unsupported: the device cannot run one of the blocks.
            InvalidInput: a block does not fit the one before it.
            BuildFailed: the runtime's builder crashed, hung or ran out of memory over this network.
        """
        self.check(network)
        return self._open(network)

    def check(self, network: Network) -> None:
        """Check that the device runs the blocks of a network.

        Raises:
            Unsupported: it does not run one of them.
            InvalidInput: a block does not fit the one before it.
        """
        check_fit(network)
        for block in network:
            if not self.supports(block):
                if not block.alone:
                    raise Unsupported(
                        f"Backend {self.name!r} cannot run kernel {block.key} alone: kernels of a user's network run inside it. Export the "
                        "network and measure the file."
                    )
                known = block.precision in self.precisions
                why = f"it does not support this {block.kind} block" if known else f"its precisions are {', '.join(self.precisions)}"
                hint = "" if known else " Search only these precisions, by restricting the genes '*.precision' of the space."
                raise Unsupported(f"Backend {self.name!r} cannot run block {block.key}: {why}.{hint}")

    @abstractmethod
    def _open(self, network: Network) -> Session:
        """Open a network that was checked."""

    def load(self, path: PathLike) -> Session:
        """Make a model file ready to run on random inputs.

        Raises:
            Unsupported: this backend reads no files.
            FileError: the file cannot be used.
        """
        raise Unsupported(f"Backend {self.name!r} does not run model files ({path}); give it blocks.")

    def profiled(self, path: PathLike) -> Session:
        """Make a model file ready to run on random inputs in such a way that each run also tells what its kernels take.

        The operations of the file are named by :func:`hwsearch.networks.labelled`, which says to which kernel each belongs, and
        :attr:`Session.kernels_ms` is what the runtime itself says of all operations of a kernel together. What the runtime inserts between
        kernels, such as a change of the memory layout, belongs to the kernel that comes next. Runs are slower than those of :meth:`load`.

        Raises:
            Unsupported: this backend does not tell what single kernels take.
            FileError: the file cannot be used.
        """
        raise Unsupported(
            f"Backend {self.name!r} does not tell what single kernels of a network take, so kernels of a user's network cannot be profiled "
            "on it. Measure whole model files with hwsearch.measure(), or profile with backend='onnxruntime'."
        )

    def runner(self, model: Any) -> Runner:
        """A function that computes the output of a model on this device.

        Args:
            model: the bytes of a model file, or its path.

        Returns:
            It takes the inputs of the model, one array each, and returns its output, or a list of its outputs if there are several; all
            with the batch that the model was written for.

        Raises:
            Unsupported: this backend does not run models on given inputs.
        """
        raise Unsupported(f"Backend {self.name!r} does not run models on given inputs.")

    @property
    def options(self) -> dict[str, Any]:
        """What ``load_backend(backend.name, **options)`` needs to make another one like it, on another machine say."""
        return {}

    def model(self, network: Network) -> bytes:
        """The model file of a network, which :meth:`load` makes ready to run wherever the runtime is.

        Raises:
            Unsupported: the device cannot run one of the blocks, or this backend has no model files.
            InvalidInput: a block does not fit the one before it.
        """
        self.check(network)
        return self._model(network)

    def encode(self, model: TrainedModel) -> bytes:
        """The model file of a trained network, which :meth:`runner` runs.

        Raises:
            Unsupported: the device cannot run one of the blocks, or this backend writes no trained networks, or none of other parts than
                blocks.
            InvalidInput: a batch that its files cannot take.
        """
        if model.graph is not None and not self.takes_graphs:
            raise Unsupported(f"Backend {self.name!r} writes networks of blocks only. Export for 'onnxruntime' or 'openvino'.")
        # Sparse weights are zeros among those of a dense block, wherever no kernel skips them.
        self.check([replace(block, precision=block.bits.dense) for block in model.network])
        return self._encode(model)

    def write(self, model: TrainedModel, out: PathLike, check: Check) -> Path:
        """Write the model file of a trained network if it computes what the network does, as :func:`hwsearch.export` asks.

        Args:
            model: the network.
            out: the file.
            check: compares what the file computes with the evaluation.

        Raises:
            BuildFailed: it computes something else.
            Unsupported, InvalidInput: as :meth:`encode`.
        """
        data = self.encode(model)
        check("exported file", self.runner(data))
        write_atomic(out, data)
        return Path(out)

    def notes(self, path: PathLike) -> Mapping[str, str]:
        """What a model file says of itself, by key: the :attr:`TrainedModel.notes` that it was written with.

        Raises:
            FileError: the file cannot be used.
            Unsupported: this backend reads no files.
        """
        raise Unsupported(f"Backend {self.name!r} reads no model files ({path}).")

    def _model(self, network: Network) -> bytes:
        """The model file of a network that was checked."""
        raise Unsupported(f"Backend {self.name!r} has no model files, so it cannot be measured on another machine.")

    def _encode(self, model: TrainedModel) -> bytes:
        """The model file of a trained network that was checked."""
        raise Unsupported(f"Backend {self.name!r} writes no trained networks into model files.")


def check_fit(network: Network) -> None:
    """Check that each block takes what the one before it gives.

    Raises:
        InvalidInput: channels, sizes or number formats do not fit.
    """
    for before, after in itertools.pairwise(network):
        if not (before.alone and after.alone):
            continue  # kernels of a user's network are no chain
        if before.kind == "head":
            raise InvalidInput(f"Block {after.key} comes after the classifier {before.key}, which ends a network.")
        if (before.cout, before.out_size) != (after.cin, after.size):
            raise InvalidInput(
                f"Block {after.key} takes {after.cin} channels of {after.size} px, and {before.key} before it gives "
                f"{before.cout} channels of {before.out_size} px."
            )
        gives = before.bits.dense if before.bits.quantized and before.kind != "dequantize" else "float"
        takes = after.bits.dense if after.bits.quantized and after.kind != "quantize" else "float"
        if gives != takes:
            raise InvalidInput(f"Block {after.key} takes {takes} values, and {before.key} before it gives {gives}; put a boundary between.")
