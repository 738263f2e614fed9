"""Tables: arrays over genes and sums of genes, sorted, joined and folded into fewer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ._sums import Axis, Link, Sum, lengths, links, order

A = TypeVar("A", bound=np.generic)
X = TypeVar("X", bound=Axis)
Table = tuple[tuple[Axis, ...], npt.NDArray[np.float64]]
"""Gene indices in ascending order, then sums over genes, and an array with one axis for each of them."""
Column = tuple[tuple[int, ...], npt.NDArray[np.float64]]
"""A table over columns alone, ascending: those of genes, and those of sums behind them."""


def table(axes: Sequence[Axis], array: npt.NDArray[np.float64], former: Sequence[Axis] = ()) -> Table:
    """A table with its axes sorted.

    Args:
        axes: in any order; those that are equal become one.
        array: with one axis for each of them.
        former: what the axes of the array stand for, if some are sums that had further values.
    """
    for place, (axis, before) in enumerate(zip(axes, former, strict=False)):
        if isinstance(axis, Sum) and isinstance(before, Sum) and len(axis) < len(before):
            array = array.take(np.searchsorted(before.values, axis.values), axis=place)
    own = sorted(set(axes), key=order)
    if len(own) < len(axes):  # what lies off the diagonal of equal sums cannot be
        places = np.ix_(*(range(array.shape[axes.index(axis)]) for axis in own))
        return tuple(own), array[tuple(places[own.index(axis)] for axis in axes)]
    return tuple(own), np.asarray(array.transpose([axes.index(axis) for axis in own]), order="C")


def check_axes(axes: Sequence[Axis], array: npt.NDArray[np.float64], sizes: Sequence[int]) -> bool:
    """Whether axes are sorted and different, and the array has their shape, for genes with that many values."""
    return list(axes) == sorted(set(axes), key=order) and array.shape == lengths(axes, sizes)


def numbered(groups: Sequence[Iterable[Table]], genes: int) -> tuple[list[list[Column]], tuple[Link, ...]]:
    """Tables whose sums are columns behind those of the genes, and how these columns follow from the ones before.

    Args:
        groups: tables over genes and sums.
        genes: the number of genes.
    """
    found = [list(tables) for tables in groups]
    derived = links(frozenset(axis for tables in found for axes, _ in tables for axis in axes if isinstance(axis, Sum)), genes)
    column: dict[Axis, int] = {link.total: link.column for link in derived}
    made = [
        [_columns([axis if isinstance(axis, int) else column[axis] for axis in axes], array) for axes, array in tables] for tables in found
    ]
    return made, derived


def _columns(axes: Sequence[int], array: npt.NDArray[np.float64]) -> Column:
    places = np.argsort(np.asarray(axes, dtype=np.intp))
    return tuple(axes[place] for place in places), array.transpose(places)


def exact(tables: Sequence[Table]) -> tuple[Table, ...]:
    """The tables rounded to multiples of one power of two that is so coarse that every sum of their entries is exact.

    Entries change by a share of their total that is below the precision of a number; whole numbers, and a table that is alone, do not
    change at all. Sums no longer depend on the order in which tables are added up, so what is proven of folded or joined tables holds for
    the sum itself.
    """
    with np.errstate(over="ignore"):
        total = sum(float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) for _, array in tables)
    if len(tables) < 2 or total == 0.0 or not math.isfinite(total):
        return tuple(tables)
    unit = math.ldexp(1.0, max(math.frexp(total)[1] - 52, -1022))
    return tuple((genes, np.asarray(np.rint(array / unit) * unit)) for genes, array in tables)


def expand(own: Sequence[X], array: npt.NDArray[A], axes: Sequence[X]) -> npt.NDArray[A]:
    """An array over its own axes (sorted), with an axis of length one for each of ``axes`` (sorted) that it does not hold."""
    shape = iter(array.shape)
    return array.reshape([next(shape) if axis in own else 1 for axis in axes])


def combine(
    tables: Sequence[tuple[tuple[X, ...], npt.NDArray[np.float64]]], op: np.ufunc = np.add
) -> tuple[tuple[X, ...], npt.NDArray[np.float64]]:
    """The sum (or, with ``np.maximum``, the maximum) of tables, over the union of their axes."""
    axes = sorted({axis for own, _ in tables for axis in own}, key=order)
    total = expand(*tables[0], axes)
    for entry in tables[1:]:
        total = op(total, expand(*entry, axes))
    return tuple(axes), np.asarray(total, order="C")


def fold(tables: Sequence[Table], op: np.ufunc = np.add, most: int = 8192) -> tuple[Table, ...]:
    """Merge tables as long as a merged one has at most ``most`` cells, or no more than its parts: fewer lookups, the same sum."""
    sizes = {axis: length for axes, array in tables for axis, length in zip(axes, array.shape, strict=True)}
    kept: list[Table] = []
    for entry in sorted(tables, key=lambda entry: -entry[1].size):
        best: tuple[int, int] | None = None
        for index, other in enumerate(kept):
            merged = math.prod(sizes[axis] for axis in {*entry[0], *other[0]})
            growth = merged - other[1].size
            if (growth == 0 or merged <= most) and (best is None or growth < best[0]):
                best = (growth, index)
        if best is None:
            kept.append(entry)
        else:
            kept[best[1]] = combine([kept[best[1]], entry], op)
    return tuple(kept)
