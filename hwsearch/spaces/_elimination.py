"""Elimination: the least sum (or maximum) of tables, and where it is.

Removing one gene after the other (add up the tables that hold it, keep the least over its values) gives the least sum over all rows, and,
walking back, a row that reaches it: the min-sum form of bucket elimination (Dechter, 1999). On chain-like networks the tables met on the
way stay small. A sum over genes is replaced, in the tables that hold it, by a shorter sum and the gene that links the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ._arrays import Column, Table, combine, expand, numbered
from ._sums import Link, genes_of

MOST_CELLS = 20_000_000


class TooWideError(Exception):
    """The tables are too entangled: elimination would need more than :data:`MOST_CELLS` cells at once."""


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
    genes = 1 + max((gene for axes, _ in tables for axis in axes for gene in genes_of(axis)), default=-1)
    (columns,), derived = numbered([tables], genes)
    at_once = _least_together(columns, derived, genes)
    if at_once is not None:
        return float(op.reduce([array.min() for _, array in columns])), at_once
    buckets = _Buckets(columns, derived)
    steps: list[tuple[int, Column | Link]] = []
    while (cheapest := buckets.cheapest()) is not None:
        cells, column = cheapest
        if cells > MOST_CELLS:
            raise TooWideError
        if column in buckets.waiting:
            steps.append((column, buckets.waiting[column]))
            buckets.replace(column)
        else:
            joined = combine(buckets.take(column), op) if buckets.holders[column] else ((column,), np.zeros(buckets.sizes[column]))
            steps.append((column, joined))
            buckets.put((tuple(c for c in joined[0] if c != column), joined[1].min(axis=joined[0].index(column))))
        buckets.forget(column)
    value = float(combine([*buckets.left.values()], op)[1]) if buckets.left else 0.0
    chosen: dict[int, int] = {}
    for column, step in reversed(steps):
        if isinstance(step, Link):
            chosen[column] = int(step.index[tuple(chosen[source] for source in step.sources)])
        else:
            own, array = step
            chosen[column] = int(np.argmin(array[tuple(slice(None) if c == column else chosen[c] for c in own)]))
    return value, {column: index for column, index in chosen.items() if column < genes}


def _least_together(tables: Sequence[Column], derived: Sequence[Link], genes: int) -> dict[int, int] | None:
    """For each gene an index at which every table is at its least; ``None`` if the first such cells do not agree, or without tables.

    They agree where costs grow with every gene, so that the smallest network has least of all.
    """
    row: dict[int, int] = {}
    for own, array in tables:
        row = dict(zip(own, map(int, np.unravel_index(array.argmin(), array.shape)), strict=True)) | row
    row = {gene: row.get(gene, 0) for gene in range(genes)}
    for link in derived:
        row[link.column] = int(link.index[tuple(row[source] for source in link.sources)])
    agree = bool(tables) and all(array[tuple(row[column] for column in own)] == array.min() for own, array in tables)
    held = {column for own, _ in tables for column in own} | {source for link in derived for source in link.sources}
    return {gene: row[gene] for gene in range(genes) if gene in held} if agree else None


class _Buckets:
    """The tables that are left while columns are eliminated.

    A column that a sum waiting to be replaced depends on stays until then, since the sum's tables become tables over it.

    Args:
        tables: over columns.
        derived: the columns that are sums.
    """

    def __init__(self, tables: Iterable[Column], derived: Sequence[Link]) -> None:
        self.sizes = {link.column: len(link.total) for link in derived}
        self.waiting = {link.column: link for link in derived}
        self.left: dict[int, Column] = {}
        self.holders: dict[int, set[int]] = {column: set() for column in self.sizes}
        self._readers: dict[int, set[int]] = {}
        self._costs: dict[int, int] = {}
        self._made = 0
        for link in derived:
            for source, length in zip(link.sources, link.index.shape, strict=True):
                self.sizes[source] = length
                self.holders.setdefault(source, set())
                self._readers.setdefault(source, set()).add(link.column)
        for entry in tables:
            self.put(entry)

    def put(self, entry: Column) -> None:
        """Add a table."""
        for column, length in zip(entry[0], entry[1].shape, strict=True):
            self.sizes[column] = length
            self.holders.setdefault(column, set()).add(self._made)
            self._costs.pop(column, None)
        self.left[self._made] = entry
        self._made += 1

    def take(self, column: int) -> list[Column]:
        """Remove the tables over a column, and return them."""
        taken = []
        for number in sorted(self.holders[column]):
            entry = self.left.pop(number)
            for other in entry[0]:
                self.holders[other].discard(number)
                self._costs.pop(other, None)
            taken.append(entry)
        return taken

    def replace(self, column: int) -> None:
        """Make the tables over a sum tables over what it depends on."""
        link = self.waiting.pop(column)
        for axes, array in self.take(column):
            new = sorted({*axes, *link.sources} - {column})
            shape = [self.sizes[each] for each in new]
            index = np.broadcast_to(expand(link.sources, link.index, new), shape)
            places = np.ix_(*map(np.arange, shape))
            self.put((tuple(new), array[tuple(index if axis == column else places[new.index(axis)] for axis in axes)]))
        for source in link.sources:
            self._readers[source].discard(column)

    def forget(self, column: int) -> None:
        """Drop a column, which no table is over any more."""
        del self.sizes[column], self.holders[column]
        self._costs.pop(column, None)

    def cheapest(self) -> tuple[int, int] | None:
        """The cells that eliminating a column takes, and the column, where these are fewest; ``None`` if no column is left."""
        free = [column for column in self.sizes if not self._readers.get(column)]
        return min(((self._cost(column), column) for column in free), default=None)

    def _cost(self, column: int) -> int:
        if column not in self._costs:
            scopes = [set(self.left[number][0]) for number in self.holders[column]]
            if column in self.waiting:
                sources = self.waiting[column].sources
                cells = sum(math.prod(self.sizes[each] for each in scope.union(sources) - {column}) for scope in scopes)
            else:
                cells = math.prod(self.sizes[each] for each in set().union(*scopes))
            self._costs[column] = cells
        return self._costs[column]
