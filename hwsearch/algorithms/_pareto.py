"""Non-dominated points, and the volume that they dominate."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
import numpy.typing as npt

from .._types import Values

_TOGETHER = 96
"""Points that are compared with each other at once."""
_PAIRS = 2_000_000
"""Pairs of points that are compared at once."""
_SWEPT = 1000
"""More points of three costs than these are swept."""


def pareto(first: Values, second: Values) -> npt.NDArray[np.intp]:
    """Indices of the points that no other point beats in one of two costs without losing in the other, ascending in ``first``.

    Args:
        first: lower is better, shape ``(n,)``.
        second: lower is better, shape ``(n,)``.
    """
    order = np.lexsort((second, first))
    least = np.minimum.accumulate(second[order]) if len(order) else second
    keep = np.ones(len(order), dtype=np.bool_)
    keep[1:] = second[order][1:] < least[:-1]
    return order[keep]


def nondominated(points: Values) -> npt.NDArray[np.intp]:
    """Indices of the points that no other point equals or beats in every cost (of equal points the first stays), by the first cost.

    Example:
        >>> import numpy as np
        >>> from hwsearch.algorithms import nondominated
        >>> points = np.array([[1.0, 5.0], [2.0, 2.0], [3.0, 3.0], [4.0, 1.0]])  # latency and error of four networks
        >>> nondominated(points).tolist()
        [0, 1, 3]

    Args:
        points: lower is better in every column, shape ``(n, costs)``.
    """
    if points.shape[1] == 2:
        return pareto(points[:, 0], points[:, 1])
    order = np.lexsort(points.T[::-1])
    if points.shape[1] == 3 and len(points) > _SWEPT:
        return _swept(points, order)
    return order[_unbeaten(points[order])]


def nondominated_within(groups: npt.NDArray[np.int64], points: Values) -> npt.NDArray[np.intp]:
    """Indices of the points that no other point of their group equals or beats in every cost, ascending.

    Small groups of one size are looked at together, so that many of them take no longer than their pairs do.

    Args:
        groups: that each point is of, shape ``(n,)``.
        points: as of :func:`nondominated`.
    """
    order = np.lexsort((*points.T[::-1], groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[:1]] - 1))
    sizes = np.diff(starts, append=len(order))
    kept = []
    for size in np.unique(sizes):
        some = starts[sizes == size]
        if size <= _TOGETHER:
            for few in np.array_split(some, -(-len(some) * size * size // _PAIRS)):
                members = order[few[:, None] + np.arange(size)]
                beaten = _beaten(points[members], points[members]) & np.tri(size, k=-1, dtype=np.bool_)
                kept.append(members[~beaten.any(axis=2)])
        else:
            kept += [order[start + nondominated(points[order[start : start + size]])] for start in some]
    return np.sort(np.concatenate(kept))


def _beaten(points: Values, others: Values) -> npt.NDArray[np.bool_]:
    """Which points are equalled or beaten in every cost by which others, shape ``(..., points, others)``."""
    found = others[..., None, :, 0] <= points[..., :, None, 0]
    for cost in range(1, points.shape[-1]):
        found &= others[..., None, :, cost] <= points[..., :, None, cost]
    return found


def _unbeaten(points: Values) -> npt.NDArray[np.intp]:
    """The places of points that no point before them equals or beats in every cost; they are sorted, the first cost first."""
    kept = [np.empty(0, dtype=np.intp)]
    for start in range(0, len(points), _TOGETHER):
        block = np.arange(start, min(start + _TOGETHER, len(points)))
        block = block[~_beaten(points[block], points[np.concatenate(kept)]).any(axis=1)]
        among = _beaten(points[block], points[block]) & np.tri(len(block), k=-1, dtype=np.bool_)
        kept.append(block[~among.any(axis=1)])
    return np.concatenate(kept)


def _swept(points: Values, order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Non-dominated points of three costs, in time that hardly grows with how many they are (Kung, Luccio and Preparata, 1975).

    A point is beaten only by points before it in the order of the first cost, and of those the stairs in the other two costs
    are all that counts: ever higher seconds with ever lower thirds.

    Args:
        points: shape ``(n, 3)``.
        order: that sorts them, the first cost first.
    """
    kept, seconds, thirds = [], list[float](), list[float]()
    for index, second, third in zip(order.tolist(), points[order, 1].tolist(), points[order, 2].tolist(), strict=True):
        before = bisect_right(seconds, second)
        if before and thirds[before - 1] <= third:
            continue
        kept.append(index)
        start = end = bisect_left(seconds, second)
        while end < len(thirds) and thirds[end] >= third:
            end += 1
        seconds[start:end], thirds[start:end] = [second], [third]
    return np.array(kept, dtype=np.intp)


def hypervolume(points: Values, reference: Values) -> float:
    """The volume between points and a reference that they dominate, by slicing along the last cost (Zitzler, 1999).

    Example:
        >>> import numpy as np
        >>> from hwsearch.algorithms import hypervolume
        >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), reference=np.array([3.0, 3.0]))
        3.0

    Args:
        points: lower is better in every column, shape ``(n, costs)``.
        reference: the worst corner, shape ``(costs,)``; points beyond it count for nothing.
    """
    inside = points[(points < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    inside = inside[nondominated(inside)]
    if points.shape[1] == 1:
        return float(reference[0] - inside[:, 0].min())
    if points.shape[1] == 2:
        ends = np.concatenate([inside[1:, 0], reference[:1]])
        return float(((ends - inside[:, 0]) * (reference[1] - inside[:, 1])).sum())
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    depths = np.diff(np.concatenate([inside[:, -1], reference[-1:]]))
    return float(sum(depth * hypervolume(inside[: i + 1, :-1], reference[:-1]) for i, depth in enumerate(depths) if depth > 0))
