"""Sums (or maxima) of small tables over genes: what costs, linear predictors and surrogates are, and their exact minima.

A slot's cost depends on a few genes, so a network's cost is a sum of one entry a table. An axis of a table is a gene, or a sum over genes
(see :mod:`hwsearch.spaces._sums`), which has a column of its own behind the genes while rows are evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..errors import InvalidInput
from ._arrays import Table as Table
from ._arrays import exact as exact
from ._arrays import fold as fold
from ._arrays import table as table
from ._changes import moved
from ._elimination import TooWideError
from ._elimination import minimise as minimise
from ._sums import Axis, Sum, genes_of, links

_CHUNK = 4096
"""Rows evaluated at once: their indices stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class TableSum:
    """A sum of tables, or their maximum: one number for every row of genes.

    Sums are exact in any order, since entries are rounded to a common power of two (see :func:`exact`).

    Attributes:
        tables: gene indices, ascending, then sums over genes, and an array with one axis for each of them, for each table. Tables that
            share a gene agree on its length.
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

    @cached_property
    def sums(self) -> frozenset[Sum[int]]:
        """The sums over genes that axes stand for."""
        return frozenset(axis for axes, _ in self.tables for axis in axes if isinstance(axis, Sum))

    def changed(self, X: Rows, genes: npt.NDArray[np.intp], indices: Rows) -> Values:
        """The value of every row after each of some changes of one gene, looking up only what depends on that gene (exactly).

        Args:
            X: rows, shape ``(n, genes)``.
            genes: the gene that each change is of, shape ``(changes,)``.
            indices: the index that it takes, shape ``(changes,)``.

        Returns:
            Shape ``(n, changes)``.
        """
        now = self(X)
        plain = np.isfinite(now) & (not self.peak)
        if plain.all():
            return moved(self.folded, now, X, genes, indices)
        found = np.empty((len(X), len(genes)))
        found[plain] = moved(self.folded, now[plain], X[plain], genes, indices)
        X, rest = X[~plain], ~plain
        for gene in np.unique(genes):
            places = np.flatnonzero(genes == gene)
            moving, still = self._parted(int(gene))
            rows = np.repeat(X, len(places), axis=0)
            rows[:, gene] = np.tile(indices[places], len(X))
            found[np.ix_(rest, places)] = self.op(moving(rows).reshape(len(X), -1), still(X)[:, None])
        return found

    def _parted(self, gene: int) -> tuple[TableSum, TableSum]:
        """The tables that depend on a gene, and the others."""
        known: dict[int, tuple[TableSum, TableSum]] = self.__dict__.setdefault("_parts", {})
        if gene not in known:
            moving = [any(gene in genes_of(axis) for axis in axes) for axes, _ in self.folded]
            parts = []
            for which in (True, False):
                some = TableSum(tuple(entry for entry, moves in zip(self.folded, moving, strict=True) if moves is which), self.peak)
                some.__dict__["folded"] = some.tables
                parts.append(some)
            known[gene] = (parts[0], parts[1])
        return known[gene]

    def within(self, allowed: Sequence[Sequence[int]]) -> TableSum:
        """The same over some indices of each gene only, which are counted from 0 again.

        Args:
            allowed: for each gene the indices that are kept.
        """
        fewer = {total: total.within(allowed) for total in self.sums}
        made = []
        for axes, array in self.tables:
            cut = array[np.ix_(*(allowed[axis] if isinstance(axis, int) else range(len(axis)) for axis in axes))]
            made.append(table([axis if isinstance(axis, int) else fewer[axis] for axis in axes], cut, axes))
        return TableSum(tuple(made), self.peak)

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
    genes = X.shape[1]
    derived = links(frozenset().union(*(entry.sums for entry in sums)), genes)
    column: dict[Axis, int] = {link.total: link.column for link in derived}
    plan: dict[tuple[int, ...], tuple[tuple[int, ...], list[tuple[int, Values, np.ufunc]]]] = {}
    for place, entry in enumerate(sums):
        for axes, array in entry.folded:
            where = tuple(axis if isinstance(axis, int) else column[axis] for axis in axes)
            plan.setdefault(where, (array.shape, []))[1].append((place, array.ravel(), entry.op))
    result = np.zeros((len(X), len(sums)))
    for start in range(0, len(X), _CHUNK):
        columns: list[npt.NDArray[Any]] = list(np.ascontiguousarray(X[start : start + _CHUNK].T))
        for link in derived:
            columns.append(link.index.ravel().take(_cells(columns, link.sources, link.index.shape)))
        total = np.zeros((len(sums), len(X[start : start + _CHUNK])))
        for where, (shape, entries) in plan.items():
            cells = _cells(columns, where, shape) if where else np.zeros(total.shape[1], dtype=np.intp)
            for place, flat, op in entries:
                op(total[place], flat.take(cells), out=total[place])
        result[start : start + _CHUNK] = total.T
    return result


def _cells(columns: Sequence[npt.NDArray[Any]], where: Sequence[int], shape: Sequence[int]) -> npt.NDArray[np.intp]:
    """Which cell of a flattened array over some columns each row falls into, shape ``(n,)``."""
    index = columns[where[0]].astype(np.intp)
    for place, length in zip(where[1:], shape[1:], strict=True):
        index *= length
        index += columns[place]
    return index
