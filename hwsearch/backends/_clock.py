"""The one timing loop, and what all runtimes are given to run on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import Times

Clock = Callable[[], int]
_FINE_S = 1e-6
"""Clocks that move in larger steps tell nothing of short runs."""
_TRIES = 4
"""A run is repeated so often until the clock has moved; it then counts as a nanosecond."""


def timed(run: Callable[[], object], runs: int, clock: Clock = time.perf_counter_ns) -> Times:
    """Run something again and again, and read the clock before and after each run.

    A run during which the clock stood still, as the clocks of virtual machines do now and then, is repeated.

    Args:
        run: runs once, to its end.
        runs: how often.
        clock: that is read, ns; see :func:`clock_of`.

    Returns:
        Seconds of each run, shape ``(runs,)``.
    """
    marks = np.empty((runs, 2), dtype=np.int64)
    still = np.arange(runs)
    for _ in range(_TRIES):
        for i in still:
            start = clock()
            run()
            marks[i] = start, clock()
        still = np.flatnonzero(marks[:, 1] <= marks[:, 0])
    return np.asarray(np.maximum(marks[:, 1] - marks[:, 0], 1) * 1e-9, dtype=np.float64)


def clock_of(threads: int) -> Clock:
    """The clock for a runtime that computes in the thread that calls it, if in one alone.

    Of one thread the time counts that it had a processor, and not the time that it waited for one since other programs had it: without
    these both are the same. Where the system does not tell that, or several threads work, it is the time that passes.
    """
    fine = time.get_clock_info("thread_time").resolution <= _FINE_S
    return time.thread_time_ns if threads == 1 and fine else time.perf_counter_ns


def random_input(kind: npt.DTypeLike, shape: list[int]) -> npt.NDArray[Any]:
    """Random numbers to run a network on: the latency of a network does not depend on them.

    Args:
        kind: a type of floating-point numbers or of whole numbers.
        shape: of the input.

    Returns:
        An array of this shape and type: normal numbers; or whole numbers, those of one byte without sign from all of their range, and 0
        and 1 of those of several bytes, which may be places in a table.
    """
    rng, wanted = np.random.default_rng(0), np.dtype(kind)
    if wanted.kind == "f":
        return rng.standard_normal(shape).astype(wanted)
    most = 256 if wanted == np.uint8 else 120 if wanted.itemsize == 1 else 2
    return rng.integers(0, most, shape).astype(wanted)


def input_shape(sizes: list[Any], batch: int) -> list[int]:
    """The shape of an input of an ONNX model, whose open dimensions become the batch."""
    return [size if isinstance(size, int) and size > 0 else batch for size in sizes]
