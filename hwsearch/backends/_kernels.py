"""From what a runtime's profiler says of operations to what the kernels of a user's network take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..networks._fused import kernel_of
from .base import Times

WARM = 2
"""Runs that do not count, since making a session has filled the caches with other things."""
_LEAST = 0.1
"""At least this share of what a profiler says of an operation is real."""


def resolved_us(begin_us: Times, took_us: Times) -> Times:
    """What operations take, from times that a profiler counts in whole microseconds.

    What it says of an operation of 2.9 us is 2 each time. But operations begin at other parts of a microsecond in each run, so what lies
    between two beginnings is right on average. It holds what the profiler itself takes, as well, which :func:`kernels_ms` subtracts.

    Args:
        begin_us: when each operation began, in the order of execution, shape ``(runs, operations)``.
        took_us: what the profiler says of each, shape ``(runs, operations)``.

    Returns:
        Of each operation the mean of the faster half of its runs, shape ``(operations,)``.
    """
    between = np.diff(begin_us, axis=1)
    # One operation inside another begins before that one ends; and after the last one nothing begins.
    outside = between >= took_us[:, :-1]
    surplus = float(np.median((between - took_us[:, :-1])[outside])) if outside.any() else 0.0
    spent = took_us + surplus
    spent[:, :-1] = np.where(outside, between, spent[:, :-1])
    return np.asarray(np.sort(spent, axis=0)[: max(1, (len(spent) + 1) // 2)].mean(axis=0), dtype=np.float64)


def kernels_ms(names: Sequence[str], took_ms: Times, whole_ms: float) -> dict[str, float]:
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


def _surplus(took: Times, whole: float) -> float:
    """What to subtract from each of some times, of which a tenth is left at least, so that they add up to ``whole``; perhaps 0."""
    low, high = 0.0, float(took.max(initial=0.0))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(took - middle, _LEAST * took).sum() > whole else (low, middle)
    return low
