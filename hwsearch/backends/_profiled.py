"""A model file that a runtime runs with its own profiler and without."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ._kernels import WARM, kernels_ms
from .base import Session, Times

_TRACED_S = 0.02
"""A network runs for about this long under the profiler, so that the whole microseconds that it counts in even out."""

Trace = Callable[[int], tuple[Sequence[str], Times]]
"""From a number of runs to the names of the operations, in the order of execution, and what each took, ms, as the profiler says."""


class ProfiledSession(Session):
    """A file that is run without the profiler and with it: the first tells what the network takes, the second how that is shared.

    Args:
        plain: runs the file without the profiler.
        trace: runs it with the profiler, in a session made anew.
    """

    def __init__(self, plain: Session, trace: Trace) -> None:
        self._plain, self._trace = plain, trace
        self.batch = plain.batch
        self._kernels: dict[str, float] = {}

    @property
    def kernels_ms(self) -> Mapping[str, float]:
        """What each kernel took in the last series of runs."""
        return self._kernels

    def times(self, runs: int) -> Times:
        """Seconds of each run without the profiler, shape ``(runs,)``; a single run tells nothing of kernels."""
        if runs == 1:
            return self._plain.times(1)
        self._plain.times(WARM)  # making a session has filled the caches with other things
        found = self._plain.times(runs)
        names, took_ms = self._trace(max(runs, math.ceil(_TRACED_S / float(found.min()))))
        self._kernels = kernels_ms(names, took_ms, 1e3 * float(found.min()))
        return found

    def close(self) -> None:
        """Release the session without the profiler."""
        self._plain.close()
