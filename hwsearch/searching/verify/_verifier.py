"""What verifies a search: networks evaluated and measured for real."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from ..._types import Rows, Values
from ...algorithms._problem import Problem
from ...backends._load import load_backend
from ...backends.base import Backend
from ...devices._table import LatencyTable
from ...errors import FileError, InvalidInput, MissingDependency, Unsupported, WrongDevice
from ...profiling._measure import Model, measure
from ...spaces._space import SearchSpace
from ._records import QUANTITIES


class Verifier(Protocol):
    """What evaluates and measures networks for real.

    Example:
        >>> import hwsearch
        >>> class Tested:  # a verifier of your own: what networks really score
        ...     name = "my test bench"
        ...     def score(self, X):
        ...         return 0.9 + 0.001 * X.mean(axis=1)
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: 0.9 + 0.001 * X.mean(axis=1), limits={"macs": 1e6})
        >>> result = hwsearch.search(problem, verify=hwsearch.Verify(Tested(), networks=2), run=hwsearch.Run(steps=3))
        >>> result.status.name, result.verification.agreed
        ('VERIFIED', True)

    Attributes:
        name: what it evaluates with and where it measures; measurements of another name are not gone on with.
    """

    name: str

    def score(self, X: Rows) -> npt.ArrayLike:
        """Scores of canonical rows ``(n, genes)``, higher is better, finite, shape ``(n,)``."""

    def latency_ms(self, X: Rows) -> npt.ArrayLike:
        """Milliseconds of canonical rows ``(n, genes)``, measured beside each other, positive, shape ``(n,)``."""


MakesVerifier = Callable[[Problem, LatencyTable | None], "Verifier | Measured"]
"""Makes the verifier for a problem and the table of the device whose latencies are verified, ``None`` if they are not."""


@dataclass(frozen=True)
class Verify:
    """What a search verifies, by what, and how closely.

    Example:
        >>> import hwsearch
        >>> class Tested:  # what networks really score, which is a tenth below what is predicted
        ...     name = "my test bench"
        ...     def score(self, X):
        ...         return 0.8 + 0.001 * X.mean(axis=1)
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: 0.9 + 0.001 * X.mean(axis=1), limits={"macs": 1e6})
        >>> verify = hwsearch.Verify(Tested(), networks=2, rounds=1)
        >>> result = hwsearch.search(problem, verify=verify, run=hwsearch.Run(steps=3))
        >>> result.status.name, f"{result.verification.rounds[0].error('score'):.3f}"
        ('ROUNDS_SPENT', '0.100')

    Attributes:
        verifier: what evaluates and measures: :class:`hwsearch.nn.SupernetVerifier`, :class:`hwsearch.searching.DeviceVerifier` for
            latencies alone, or a :class:`Verifier` of your own.
        networks: how many of the best networks are verified in each round. If the best of them has mixed precisions, the same network
            in one precision throughout is verified as well: of those within the limits the best predicted. The answer is no worse.
        rounds: of searching and verifying, at most.
        tolerance: what is verified, and how far prediction and measurement of the answer may be apart: ``"score"`` by its value,
            ``"latency_ms"`` by a share of the prediction. If omitted, 0.005 and, on one device, 0.03. Latency is measured on this machine,
            which must be the device; ``{"score": 0.005}`` goes without.
    """

    verifier: Verifier | MakesVerifier
    networks: int = 8
    rounds: int = 4
    tolerance: Mapping[str, float] | None = None


def verifier_for(verify: Verify, problem: Problem, table: LatencyTable | None, quantities: Collection[str]) -> Verifier | Measured:
    """The verifier of a search, made for its problem if it is not ready: a verifier has a name, what makes one has none.

    Raises:
        InvalidInput: what was given neither verifies nor makes what does, or it does not verify one of the quantities.
        HwsearchError: as what makes it.
    """
    given = verify.verifier
    if hasattr(given, "name"):
        found: Verifier | Measured = cast(Verifier, given)
    elif callable(given):
        found = given(problem, table)
    else:
        raise InvalidInput(f"Verify(verifier=) must have the attributes of hwsearch.searching.Verifier, or make what has, not {given!r}.")
    for name in quantities:
        if not callable(getattr(found, name, None)):
            others = {other: QUANTITIES[other] for other in QUANTITIES if callable(getattr(found, other, None))}
            hint = " To verify scores, give trained weights and images: Verify(hwsearch.nn.SupernetVerifier(weights, data))."
            raise InvalidInput(
                f"The verifier ({found.name}) does not verify {name}.{hint if name == 'score' else ''} What it verifies goes without: "
                f"tolerance={others!r}."
            )
    return found


@dataclass(frozen=True)
class DeviceVerifier:
    """Measures networks on this machine, which must be the device of the table.

    Example:
        >>> import hwsearch
        >>> from hwsearch.searching import DeviceVerifier, Verify
        >>> space = hwsearch.load_space("resnet_digits").restrict({"resolution": [8], "precision": ["int8"]})
        >>> few = hwsearch.profiling.Effort(max_rounds=1, checks=12, fits=12)
        >>> table = hwsearch.profile(space, backend="roofline", out="verified.json", effort=few, progress=False)
        >>> verify = Verify(DeviceVerifier("roofline"), networks=2, tolerance={"latency_ms": 0.03})
        >>> problem = hwsearch.Problem.of(space, predictor=lambda X: X.sum(axis=1), device=table, limits={"latency_ms": 0.03})
        >>> result = hwsearch.search(problem, verify=verify, run=hwsearch.Run(steps=3))
        >>> result.status.name, abs(result.verification.networks[0].error("latency_ms")) < 0.03
        ('VERIFIED', True)

    Attributes:
        backend: to measure with, or its name; if omitted, the one that the table names.
    """

    backend: str | Backend | None = None

    def __call__(self, problem: Problem, table: LatencyTable | None) -> Measured:
        """For a problem and the table of this machine (see :data:`MakesVerifier`).

        Raises:
            InvalidInput: there is no table.
            WrongDevice: the table was measured elsewhere, or its runtime is not here.
        """
        if table is None:
            raise InvalidInput("DeviceVerifier measures latencies; to verify scores alone, use hwsearch.nn.SupernetVerifier.")
        return Measured(problem.space, table, self.backend)


class Measured:
    """Latencies of networks by the protocol of the tables, in proportion to the sentinel of this device's table.

    Args:
        space: of the rows.
        table: of this machine.
        backend: instead of the one that the table names.

    Raises:
        WrongDevice: the table was measured elsewhere, or its runtime is not here.
    """

    def __init__(self, space: SearchSpace, table: LatencyTable, backend: str | Backend | None = None) -> None:
        self._space, self._table = space, table
        self.backend = _backend_of(table) if backend is None else load_backend(backend)
        if change := self.backend.describe().difference(table.device):
            raise _elsewhere(table, change)
        self.name = f"{table.device.name}, sentinel {table.protocol.sentinel_ms:g} ms"

    def latency_ms(self, X: Rows) -> Values:
        """Milliseconds, shape ``(n,)``."""
        if not self._space.kernels_only:
            return self._measured([self._space.blocks(row) for row in X])
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{number}{self.backend.suffix}" for number in range(len(X))]
            for path, row in zip(paths, X, strict=True):
                path.write_bytes(self._space.model_file(row))
            return self._measured(paths)

    def _measured(self, models: Sequence[Model]) -> Values:
        return np.array([one.latency_ms for one in measure(models, backend=self.backend, table=self._table)])


def _backend_of(table: LatencyTable) -> Backend:
    """The backend that a table was measured with, as far as the table tells."""
    device = table.device
    threads = {"threads": device.threads} if device.kind == "cpu" else {}
    try:
        return load_backend(device.runtime, batch=device.batch, **threads)
    except (InvalidInput, MissingDependency, Unsupported, FileError) as error:
        raise _elsewhere(table, str(error)) from error


def _elsewhere(table: LatencyTable, why: str) -> WrongDevice:
    return WrongDevice(
        f"{table.source} was measured elsewhere, or otherwise: {why.rstrip('.')}. Latencies are verified on the device itself, or by a "
        "verifier of your own (hwsearch.searching.DeviceVerifier takes a backend). To verify the score alone, leave latency_ms out of the "
        "tolerances: tolerance={'score': 0.005}, or --tolerance score=0.005."
    )
