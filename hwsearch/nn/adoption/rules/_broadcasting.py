"""What lies on the axes of a result whose inputs are broadcast against each other."""

from __future__ import annotations

from torch import fx

from .._axes import Axes, Factor, on, tie_along
from .base import Flow, shape_of, where

FIXED = "it meets values of fixed size"
_SPREAD = "a single channel, which all of another meet"


def merge(flow: Flow, node: fx.Node, inputs: list[fx.Node]) -> Axes:
    """What lies on a result whose inputs are broadcast against each other and combined value by value."""
    rank = max((len(shape_of(each)) for each in inputs), default=0)
    result: Axes = ()
    sizes = [1] * rank
    for each in inputs:
        moved = aligned(flow, each, rank)
        result = broadcast(flow, node, (result, sizes), moved)
        sizes = [max(a, b) for a, b in zip(sizes, moved[1], strict=True)]
    return result


def aligned(flow: Flow, node: fx.Node, rank: int) -> tuple[Axes, list[int]]:
    """What lies on the axes of a tensor, and its sizes, with axes of size one before it up to a rank."""
    shape = shape_of(node)
    shift = rank - len(shape)
    moved = tuple(Factor(tuple(dim + shift for dim in factor.dims), factor.labels) for factor in flow.factors(node))
    return moved, [1] * shift + list(shape)


def broadcast(flow: Flow, node: fx.Node, first: tuple[Axes, list[int]], second: tuple[Axes, list[int]]) -> Axes:
    """The same for two inputs of equal rank, each with its sizes."""
    a, b = _settle(flow, node, first, second), _settle(flow, node, second, first)
    result = list(a)
    for factor in b:
        overlapping = [each for each in result if set(each.dims) & set(factor.dims)]
        dims = tuple(sorted({dim for each in (factor, *overlapping) for dim in each.dims}))
        for each in overlapping:
            flow.atoms.tie(each.over(dims), factor.over(dims))
            result.remove(each)
        result.append(factor if not overlapping else max((factor, *overlapping), key=lambda each: len(each.dims)))
        if overlapping and set(result[-1].dims) != set(dims):
            # They overlap in part: what is tied over all of these axes is one unit on the axes that they share.
            shared = set.intersection(*(set(each.dims) for each in (factor, *overlapping)))
            reduced = tie_along(flow.atoms, result.pop(), [dim for dim in factor.dims if dim not in shared]) if shared else None
            result += [reduced] if reduced else []
    return tuple(result)


def _settle(flow: Flow, node: fx.Node, mine: tuple[Axes, list[int]], other: tuple[Axes, list[int]]) -> Axes:
    """Tie over the axes along which the other side has values of fixed size, and leave out those along which one place meets many."""
    kept = []
    for factor in mine[0]:
        spread = [dim for dim in factor.dims if mine[1][dim] == 1 < other[1][dim]]
        fixed = [dim for dim in factor.dims if other[1][dim] > 1 and on(other[0], dim) is None]
        reduced = tie_along(flow.atoms, factor, {*fixed, *spread}) if fixed or spread else factor
        if reduced is None:
            flow.atoms.freeze(factor.labels, f"{_SPREAD if spread else FIXED} ({where(node)})")
        else:
            kept.append(reduced)
    return tuple(kept)
