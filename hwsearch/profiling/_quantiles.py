"""Quantiles of a handful of numbers, which numpy's general function takes a hundred times longer to find."""

from __future__ import annotations

import math
from collections.abc import Iterable


def quantiles(values: Iterable[float], *shares: float) -> tuple[float, ...]:
    """What :func:`numpy.quantile` returns for a short list, to the last bit.

    Args:
        values: at least one.
        shares: each from 0 (the smallest value) to 1 (the largest).
    """
    ordered = sorted(map(float, values))
    return tuple(_at(ordered, share * (len(ordered) - 1)) for share in shares)


def _at(ordered: list[float], place: float) -> float:
    """Between two neighbours in a straight line, counted from the nearer one."""
    before = math.floor(place)
    low, high, part = ordered[before], ordered[min(before + 1, len(ordered) - 1)], place - before
    return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part
