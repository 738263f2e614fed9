"""From what a runtime's profiler says of operations to what the kernels of a user's network take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..networks._fused import kernel_of

WARM = 2
"""Runs that do not count, since making a session has filled the caches with other things."""
_LEAST = 0.1
"""At least this share of what a profiler says of an operation is real."""


def kernels_ms(names: Sequence[str], took_ms: npt.NDArray[np.float64], whole_ms: float) -> dict[str, float]:
    """What the operations of each kernel take together, by the kernel's name.

    A profiler adds some microseconds to each operation. This constant is what has to be subtracted from each of them so that they add up to
    what the network takes without the profiler. Operations that the runtime inserted belong to the kernel that comes next.

    Args:
        names: of the operations, in the order of execution; see :func:`hwsearch.networks.kernel_of`.
        took_ms: what the profiler says of each, shape ``(len(names),)``.
        whole_ms: what the network takes without the profiler.
    """
    real = np.maximum(took_ms - _surplus(took_ms, whole_ms), _LEAST * took_ms)
    kernels = [kernel_of(name) for name in names]
    found: dict[str, float] = {}
    after = next((kernel for kernel in reversed(kernels) if kernel is not None), "")
    for kernel, ms in zip(reversed(kernels), reversed(real.tolist()), strict=True):
        after = kernel or after
        found[after] = found.get(after, 0.0) + ms
    return {kernel: ms for kernel, ms in found.items() if ms > 0}


def _surplus(took: npt.NDArray[np.float64], whole: float) -> float:
    """What to subtract from each of some times, of which a tenth is left at least, so that they add up to ``whole``; perhaps 0."""
    low, high = 0.0, float(took.max(initial=0.0))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(took - middle, _LEAST * took).sum() > whole else (low, middle)
    return low
