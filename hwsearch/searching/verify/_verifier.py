"""What verifies a search: networks evaluated and measured for real."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ..._files._writing import PathLike
from ...backends._load import load_backend
from ...backends.base import Backend
from ...devices._table import LatencyTable
from ...errors import FileError, MissingDependency, UnknownName, Unsupported, WrongDevice
from ...profiling._profile import measure_many
from ...spaces._space import Rows, SearchSpace

if TYPE_CHECKING:
    from ...nn.data._images import Data
    from ...nn.supernet._supernet import Supernet

Values = npt.NDArray[np.float64]


class Verifier(Protocol):
    """What evaluates and measures networks for real.

    Attributes:
        name: what it evaluates with and where it measures; measurements of another name are not gone on with.
    """

    name: str

    def score(self, X: Rows) -> npt.ArrayLike:
        """Scores of canonical rows ``(n, genes)``, higher is better, finite, shape ``(n,)``."""

    def latency_ms(self, X: Rows) -> npt.ArrayLike:
        """Milliseconds of canonical rows ``(n, genes)``, measured beside each other, positive, shape ``(n,)``."""


class OnHand:
    """Accuracy of networks on all validation images, and their latency on this machine.

    Accuracy is that of the exported files, run in the runtime of the table where that can be done; otherwise as evaluated in torch.

    Args:
        space: of the rows.
        supernet: the trained weights, or their file; needed for scores.
        data: the images (:func:`hwsearch.nn.load_data`); needed for scores.
        table: of this device: latencies are measured with its backend and put in proportion to its sentinel; needed for latencies.
        backend: instead of the one that the table names.

    Raises:
        FileError: the weights cannot be used; WrongSpace where they are of another space.
        WrongDevice: the table was measured elsewhere, or its runtime is not here.
        MissingDependency: torch is not installed.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        supernet: PathLike | Supernet | None = None,
        data: PathLike | tuple[str, PathLike] | Data | None = None,
        table: LatencyTable | None = None,
        backend: Backend | None = None,
    ) -> None:
        self._space, self._table = space, table
        names = []
        self._files: Backend | None = None
        if supernet is not None and data is not None:
            from ...nn.data._load import load_data
            from ...nn.supernet._supernet import load_supernet

            self._supernet, self._data = load_supernet(supernet, space), load_data(data)
            names.append(f"supernet {self._supernet.digest} on {self._data.label}")
        if table is not None:
            self._backend = backend or _backend_of(table)
            if change := self._backend.describe().difference(table.device):
                raise _elsewhere(table, change)
            if names and self._backend.runs_files:
                self._files = self._backend
                names.append(f"run as files with int8 weights of {self._backend.weight_bits} bits")
            names.append(f"{table.device.name}, sentinel {table.protocol.sentinel_ms:g} ms")
        self.name = "; ".join(names)

    def score(self, X: Rows) -> Values:
        """Shares of the validation images that the networks get right, shape ``(n,)``."""
        from ...nn._evaluate import evaluate
        from ...nn._files import evaluate_exported

        networks = list(map(self._space.architecture, X))
        if self._files is None:
            return np.array([evaluate(one, weights=self._supernet, data=self._data, split="val") for one in networks])
        return np.array(
            [evaluate_exported(one, weights=self._supernet, data=self._data, backend=self._files, split="val") for one in networks]
        )

    def latency_ms(self, X: Rows) -> Values:
        """Milliseconds, by the protocol of the tables, in turns, shape ``(n,)``."""
        networks = [self._space.blocks(row) for row in X]
        return np.array([one.latency_ms for one in measure_many(networks, backend=self._backend, table=self._table)])


def _backend_of(table: LatencyTable) -> Backend:
    """The backend that a table was measured with, as far as the table tells."""
    device = table.device
    threads = {"threads": device.threads} if device.kind == "cpu" else {}
    try:
        return load_backend(device.runtime, batch=device.batch, **threads)
    except (UnknownName, MissingDependency, Unsupported, FileError, TypeError) as error:
        raise _elsewhere(table, str(error)) from error


def _elsewhere(table: LatencyTable, why: str) -> WrongDevice:
    return WrongDevice(
        f"{table.source} was measured elsewhere, or otherwise: {why.rstrip('.')}. Latencies are verified on the device itself, or by a "
        "verifier of your own (hwsearch.searching.OnHand takes a backend). To verify the score alone, leave latency_ms out of the "
        "tolerances: tolerance={'score': 0.005}, or --tolerance score=0.005."
    )
