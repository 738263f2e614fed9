"""Exact minima of sums (or maxima) of small tables, by variable elimination.

A cost is a sum of tables that share genes. Removing one gene after the other (add up the tables that hold it, keep the
least over its values) gives the least sum over all rows, and, walking back, a row that reaches it: the min-sum form of
bucket elimination (Dechter, 1999). On chain-like networks the tables met on the way stay small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Table = tuple[tuple[int, ...], npt.NDArray[np.float64]]
"""Gene indices in ascending order, and an array with one axis a gene."""

MOST_CELLS = 20_000_000


class TooWideError(Exception):
    """The tables are too entangled: elimination would need more than :data:`MOST_CELLS` cells at once."""


def table(genes: Sequence[int], array: npt.NDArray[np.float64]) -> Table:
    """A table with its genes sorted (``array`` has one axis a gene, in the order given)."""
    order = np.argsort(np.asarray(genes, dtype=np.intp))
    return tuple(int(genes[i]) for i in order), array.transpose(order)


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


def expand(entry: Table, genes: Sequence[int]) -> npt.NDArray[np.float64]:
    """The array of a table with an axis of length one for each of ``genes`` (sorted) that it does not hold."""
    own, array = entry
    shape = iter(array.shape)
    return array.reshape([next(shape) if gene in own else 1 for gene in genes])


def combine(tables: Sequence[Table], op: np.ufunc = np.add) -> Table:
    """The sum (or, with ``np.maximum``, the maximum) of tables, over the union of their genes."""
    genes = sorted({gene for own, _ in tables for gene in own})
    total = expand(tables[0], genes)
    for entry in tables[1:]:
        total = op(total, expand(entry, genes))
    return tuple(genes), np.asarray(total, order="C")


def cells(genes: Sequence[int], sizes: Sequence[int]) -> int:
    """Number of combinations of the genes."""
    return math.prod(sizes[gene] for gene in genes)


def fold(tables: Sequence[Table], sizes: Sequence[int], op: np.ufunc = np.add, most: int = 8192) -> tuple[Table, ...]:
    """Merge tables as long as a merged one has at most ``most`` cells, or no more than its parts: fewer lookups, the same sum."""
    kept: list[Table] = []
    for entry in sorted(tables, key=lambda entry: -entry[1].size):
        best: tuple[int, int] | None = None
        for index, other in enumerate(kept):
            merged = cells(sorted({*entry[0], *other[0]}), sizes)
            growth = merged - other[1].size
            if (growth == 0 or merged <= most) and (best is None or growth < best[0]):
                best = (growth, index)
        if best is None:
            kept.append(entry)
        else:
            kept[best[1]] = combine([kept[best[1]], entry], op)
    return tuple(kept)


def minimise(tables: Sequence[Table], op: np.ufunc = np.add) -> tuple[float, dict[int, int]]:
    """The least value of the sum (or maximum) of tables over all assignments, and an assignment that reaches it.

    Args:
        tables: at least one; arrays that share a gene agree on its length.
        op: ``np.add`` or ``np.maximum``.

    Returns:
        The least value, and for each gene the index at which it is reached.

    Raises:
        TooWideError: an intermediate table would be too large.
    """
    left = list(tables)
    sizes = {gene: length for own, array in left for gene, length in zip(own, array.shape, strict=True)}
    steps: list[tuple[int, Table]] = []
    while sizes:
        unions = {gene: sorted({g for own, _ in left if gene in own for g in own}) for gene in sizes}
        cost = {gene: math.prod(sizes[g] for g in union) for gene, union in unions.items()}
        gene = min(cost, key=lambda gene: (cost[gene], gene))
        if cost[gene] > MOST_CELLS:
            raise TooWideError
        joined = combine([entry for entry in left if gene in entry[0]], op)
        steps.append((gene, joined))
        axis = joined[0].index(gene)
        rest = tuple(g for g in joined[0] if g != gene)
        left = [entry for entry in left if gene not in entry[0]]
        left.append((rest, joined[1].min(axis=axis)))
        del sizes[gene]
    value = float(combine(left, op)[1])
    chosen: dict[int, int] = {}
    for gene, (own, array) in reversed(steps):
        line = array[tuple(slice(None) if g == gene else chosen[g] for g in own)]
        chosen[gene] = int(np.argmin(line))
    return value, chosen
