"""Sums (or maxima) of small tables over genes: what costs, linear predictors and surrogates are, and their exact minima.

A slot's cost depends on a few genes, so a network's cost is a sum of one entry a table. Removing one gene after the other (add up the
tables that hold it, keep the least over its values) gives the least sum over all rows, and, walking back, a row that reaches it: the
min-sum form of bucket elimination (Dechter, 1999). On chain-like networks the tables met on the way stay small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .._types import Values
from ..errors import InvalidInput

Table = tuple[tuple[int, ...], npt.NDArray[np.float64]]
"""Gene indices in ascending order, and an array with one axis a gene."""


MOST_CELLS = 20_000_000
_CHUNK = 4096
"""Rows evaluated at once: their indices stay in the processor's cache."""


class TooWideError(Exception):
    """The tables are too entangled: elimination would need more than :data:`MOST_CELLS` cells at once."""


@dataclass(frozen=True, eq=False)
class TableSum:
    """A sum of tables, or their maximum: one number for every row of genes.

    Sums are exact in any order, since entries are rounded to a common power of two (see :func:`exact`).

    Attributes:
        tables: gene indices, ascending, and an array with one axis a gene, for each table. Tables that share a gene agree on its length.
        peak: whether entries, which are not negative then, combine by maximum and not by sum.

    Example:
        >>> import numpy as np
        >>> from hwsearch.spaces import TableSum
        >>> cost = TableSum((((0,), np.array([1.0, 2.0])), ((0, 1), np.array([[5.0, 3.0], [0.0, 4.0]]))))
        >>> cost(np.array([[0, 0], [1, 0]])).tolist()
        [6.0, 2.0]
        >>> cost.minimum
        (2.0, {1: 0, 0: 1})
    """

    tables: tuple[Table, ...] = field(repr=False)
    peak: bool = False

    def __post_init__(self) -> None:
        if not self.peak:
            object.__setattr__(self, "tables", exact(self.tables))

    def __iter__(self) -> Iterator[Table]:
        return iter(self.tables)

    def __len__(self) -> int:
        return len(self.tables)

    def __call__(self, X: npt.NDArray[np.uint8]) -> Values:
        """The value of every row of ``X`` (shape ``(n, genes)``), shape ``(n,)``."""
        return evaluate([self], X)[:, 0]

    def __add__(self, other: TableSum) -> TableSum:
        self._check_summed()
        other._check_summed()
        return TableSum((*self.tables, *other.tables))

    def __neg__(self) -> TableSum:
        return self * -1.0

    def __sub__(self, other: TableSum) -> TableSum:
        return self + -other

    def __mul__(self, factor: float) -> TableSum:
        self._check_summed()
        return TableSum(tuple((genes, array * factor) for genes, array in self.tables))

    def _check_summed(self) -> None:
        """Check that the entries are summed.

        Raises:
            InvalidInput: they combine by maximum.
        """
        if self.peak:
            raise InvalidInput("This is a maximum of tables, such as peak memory; only sums of tables can be added, scaled or negated.")

    @property
    def op(self) -> np.ufunc:
        """What combines entries."""
        return np.maximum if self.peak else np.add

    @cached_property
    def folded(self) -> tuple[Table, ...]:
        """The tables merged into fewer, which look up faster."""
        return fold(self.tables, self.op)

    def within(self, allowed: Sequence[Sequence[int]]) -> TableSum:
        """The same over some indices of each gene only, which are counted from 0 again.

        Args:
            allowed: for each gene the indices that are kept.
        """
        return TableSum(tuple((genes, array[np.ix_(*(allowed[gene] for gene in genes))]) for genes, array in self.tables), self.peak)

    @cached_property
    def minimum(self) -> tuple[float, dict[int, int] | None]:
        """The least value over all rows, and for each gene the index at which it is reached.

        If finding these would take too much memory, a lower bound of the least value, and ``None``.
        """
        try:
            return minimise(self.tables, self.op)
        except TooWideError:
            return float(self.op.reduce([array.min() for _, array in self.tables])), None


def evaluate(sums: Sequence[TableSum], X: npt.NDArray[np.uint8]) -> Values:
    """Several sums at once, sharing the work of indexing.

    Args:
        sums: over the genes of one space.
        X: rows, shape ``(n, genes)``.

    Returns:
        Shape ``(n, len(sums))``, C-contiguous.
    """
    plan: dict[tuple[int, ...], list[tuple[int, Values, np.ufunc]]] = {}
    lengths: dict[int, int] = {}
    for column, entry in enumerate(sums):
        for genes, array in entry.folded:
            plan.setdefault(genes, []).append((column, array.ravel(), entry.op))
            lengths.update(zip(genes, array.shape, strict=True))
    result = np.zeros((len(X), len(sums)))
    for start in range(0, len(X), _CHUNK):
        chunk = np.ascontiguousarray(X[start : start + _CHUNK].T)
        total = np.zeros((len(sums), chunk.shape[1]))
        for genes, entries in plan.items():
            index = np.zeros(chunk.shape[1], dtype=np.intp)
            for gene in genes:
                index *= lengths[gene]
                index += chunk[gene]
            for column, flat, op in entries:
                op(total[column], flat.take(index), out=total[column])
        result[start : start + _CHUNK] = total.T
    return result


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


def fold(tables: Sequence[Table], op: np.ufunc = np.add, most: int = 8192) -> tuple[Table, ...]:
    """Merge tables as long as a merged one has at most ``most`` cells, or no more than its parts: fewer lookups, the same sum."""
    sizes = {gene: length for genes, array in tables for gene, length in zip(genes, array.shape, strict=True)}
    kept: list[Table] = []
    for entry in sorted(tables, key=lambda entry: -entry[1].size):
        best: tuple[int, int] | None = None
        for index, other in enumerate(kept):
            merged = math.prod(sizes[gene] for gene in {*entry[0], *other[0]})
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
        tables: arrays that share a gene agree on its length.
        op: ``np.add`` or ``np.maximum``.

    Returns:
        The least value (0 of no tables), and for each gene the index at which it is reached.

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
    value = float(combine(left, op)[1]) if left else 0.0
    chosen: dict[int, int] = {}
    for gene, (own, array) in reversed(steps):
        line = array[tuple(slice(None) if g == gene else chosen[g] for g in own)]
        chosen[gene] = int(np.argmin(line))
    return value, chosen
