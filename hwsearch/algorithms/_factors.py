"""Options: what remains to be decided once genes that few tables share are folded away.

A *factor* lists, for some genes, the ways ("options") to set them, each with what it brings to the objective and to every limit. Two
factors join over the genes they share. A gene that only one factor holds is decided inside that factor, so of the options that
agree on everything visible from outside only the non-dominated ones are kept: bucket elimination (Dechter, 1999) with vectors
of costs in place of numbers. What is left is small, and its linear relaxation is tight.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .._types import Values
from ..spaces._arrays import Column
from ..spaces._sums import Link
from ._pareto import nondominated_within

MOST_JOINED = 150_000
"""Options made at once by a join that may not pay."""
_MOST_GROWTH = 1.5
"""By how much a join may be larger than what was joined."""
_ENOUGH = 300
"""Indices that joins may copy altogether, for each option that there was: what a solver is spared is worth no more."""
_PAYS = 0.7
"""The share of the options that a join may leave: fewer options with more ways to agree are no easier for a solver."""


class Scope(Protocol):
    """Options of some genes, as far as it matters what joining them takes: a factor, or what is known of one."""

    @property
    def genes(self) -> tuple[int, ...]:
        """What they decide."""

    def __len__(self) -> int:
        """How many there are."""


@dataclass(frozen=True, eq=False)
class Factor:
    """Ways to set some genes.

    Attributes:
        genes: in ascending order; sums over genes, which have columns behind them, count as genes.
        rows: their indices, an option a row, shape ``(options, genes)``.
        costs: what an option adds to the objective (to be made small) and to each summed limit, shape ``(options, 1 + limits)``.
    """

    genes: tuple[int, ...]
    rows: npt.NDArray[np.uint16]
    costs: Values

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self, genes: Sequence[int]) -> npt.NDArray[np.uint16]:
        """The indices of some of its genes, shape ``(options, len(genes))``."""
        return self.rows[:, [self.genes.index(gene) for gene in genes]]


def factors(tables: Sequence[Sequence[Column]], derived: Sequence[Link], allowed: Sequence[Sequence[int]]) -> list[Factor]:
    """Tables as factors, those within the scope of another one added to it; and how sums follow from genes, as factors as well.

    Args:
        tables: those of the objective (to be made small), then those of each summed limit; infinite for combinations that are impossible.
        derived: the columns behind the genes, which are sums.
        allowed: for each gene the indices that may be used.
    """
    may = [np.asarray(indices, dtype=np.uint16) for indices in allowed]
    rows: dict[tuple[int, ...], npt.NDArray[np.uint16]] = {}
    for link in derived:
        chosen = _combinations([may[source] for source in link.sources])
        index = link.index[tuple(chosen.T)].astype(np.uint16)
        may.append(np.unique(index))
        rows[(*link.sources, link.column)] = np.column_stack([chosen, index])
    every = {columns for entries in tables for columns, _ in entries}
    for columns in sorted(every, key=lambda columns: (-len(columns), columns)):
        if not any(set(columns) <= set(scope) for scope in rows):
            rows[columns] = _combinations([may[column] for column in columns])
    held = set().union(*rows)
    rows |= {(gene,): _combinations([may[gene]]) for gene in range(len(allowed)) if gene not in held}
    costs = {scope: np.zeros((len(options), len(tables))) for scope, options in rows.items()}
    home = {columns: min((scope for scope in rows if set(columns) <= set(scope)), key=lambda scope: len(rows[scope])) for columns in every}
    for number, entries in enumerate(tables):
        for columns, array in entries:
            scope = home[columns]
            costs[scope][:, number] += array[tuple(rows[scope][:, scope.index(column)] for column in columns)]
    made = []
    for scope, options in rows.items():
        possible = np.isfinite(costs[scope]).all(axis=1)
        made.append(Factor(scope, options[possible], costs[scope][possible]))
    return made


def _combinations(indices: Sequence[npt.NDArray[np.uint16]]) -> npt.NDArray[np.uint16]:
    """Every combination of some columns' indices, shape ``(combinations, columns)``."""
    grid = np.indices(tuple(map(len, indices))).reshape(len(indices), math.prod(map(len, indices)))
    rows = np.empty(grid.shape[::-1], dtype=np.uint16)
    for column, (own, place) in enumerate(zip(indices, grid, strict=True)):
        rows[:, column] = own[place]
    return rows


def matches(left: Factor, right: Factor) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """All pairs of options that agree on the genes that both hold: the options of each, shape ``(pairs,)``, ascending on the left."""
    shared = [gene for gene in left.genes if gene in right.genes]
    a, b = np.split(packed(np.concatenate([left.columns(shared), right.columns(shared)])), [len(left)])
    order = np.argsort(b, kind="stable")
    low, high = np.searchsorted(b[order], a, "left"), np.searchsorted(b[order], a, "right")
    count = high - low
    first = np.repeat(np.arange(len(a)), count)
    second = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)]
    return first, second


def agreeing(left: Factor, right: Factor) -> int:
    """How many pairs of options agree on the genes that both hold."""
    shared = [gene for gene in left.genes if gene in right.genes]
    a, b = np.split(packed(np.concatenate([left.columns(shared), right.columns(shared)])), [len(left)])
    size = int(max(a.max(initial=0), b.max(initial=0))) + 1
    return int(np.bincount(a, minlength=size) @ np.bincount(b, minlength=size))


def join(left: Factor, right: Factor) -> Factor:
    """All pairs of options that agree on the genes that both hold, as a factor."""
    return paired(left, right, *matches(left, right))


def join_all(parts: Sequence[Factor], most: int) -> Factor | None:
    """The join of some factors, or ``None`` if it holds, on the way, more than ``most`` indices."""
    merged = parts[0]
    for part in parts[1:]:
        if agreeing(merged, part) * len({*merged.genes, *part.genes}) > most:
            return None
        merged = join(merged, part)
    return merged


def paired(left: Factor, right: Factor, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> Factor:
    """Pairs of options as a factor, given what :func:`matches` returned."""
    genes = tuple(sorted({*left.genes, *right.genes}))
    rows = np.empty((len(first), len(genes)), dtype=np.uint16)
    for column, gene in enumerate(genes):
        source, index = (left, first) if gene in left.genes else (right, second)
        rows[:, column] = source.rows[index, source.genes.index(gene)]
    return Factor(genes, rows, left.costs[first] + right.costs[second])


def project(factor: Factor, visible: Collection[int]) -> Factor:
    """Of the options that agree on the visible genes, those that no other one equals or beats in every cost."""
    if not len(factor):
        return factor
    key = packed(factor.columns([gene for gene in factor.genes if gene in visible]))
    kept = np.sort(_staircase(key, factor.costs)) if factor.costs.shape[1] <= 2 else nondominated_within(key, factor.costs)
    return Factor(factor.genes, factor.rows[kept], factor.costs[kept])


def _staircase(key: npt.NDArray[np.int64], costs: Values) -> npt.NDArray[np.intp]:
    """Non-dominated options within each key, for one or two costs, without a loop."""
    second = costs[:, 1] if costs.shape[1] > 1 else np.zeros(len(costs))
    order = np.lexsort((costs[:, 0], second, key))
    rank = np.searchsorted(np.sort(costs[:, 0]), costs[:, 0])  # equal costs, equal rank
    level = rank[order] - key[order] * (len(order) + 1)
    least = np.minimum.accumulate(level)
    keep = np.ones(len(order), dtype=np.bool_)
    keep[1:] = level[1:] < least[:-1]
    return order[keep]


def packed(columns: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """A number for every row of indices, equal for equal rows, ascending from 0."""
    if not columns.shape[1]:
        return np.zeros(len(columns), dtype=np.int64)
    sizes = [int(column.max(initial=0)) + 1 for column in columns.T]
    cells = math.prod(sizes)
    if cells >= 2**62:
        whole = np.ascontiguousarray(columns).view(np.dtype((np.void, columns.shape[1] * columns.itemsize)))[:, 0]
        return np.unique(whole, return_inverse=True)[1].astype(np.int64).reshape(-1)
    number = columns[:, 0].astype(np.int64)
    for column, size in zip(columns.T[1:], sizes[1:], strict=True):
        number *= size
        number += column
    if cells > 4 * len(number) + 1024:
        return np.unique(number, return_inverse=True)[1].astype(np.int64).reshape(-1)
    met = np.zeros(cells, dtype=np.int64)
    met[number] = 1
    return (np.cumsum(met) - 1)[number]


def reduce(parts: Sequence[Factor], sizes: Mapping[int, int]) -> list[Factor]:
    """Decide genes inside factors, joining factors if what comes of it has clearly fewer options than they had.

    A join may grow for a while, since what it grows into may shrink when its next gene is decided. What has not paid in the end is
    undone: of all joins, one inside the other, those are kept that leave fewest options.

    Args:
        parts: what to reduce.
        sizes: gene -> number of its allowed indices.
    """
    folding = _Folding(parts)
    while (gene := folding.next(sizes)) is not None:
        folding.decide(gene)
    return folding.best


class _Folding:
    """Factors that are joined over one gene after the other, and for each of them the fewest options that stand for the same.

    Args:
        parts: the factors to begin with.
    """

    def __init__(self, parts: Sequence[Factor]) -> None:
        self._left = dict(enumerate(parts))
        self._holders: dict[int, set[int]] = {}
        for number, part in self._left.items():
            for gene in part.genes:
                self._holders.setdefault(gene, set()).add(number)
        for number, part in self._left.items():
            if any(len(self._holders[gene]) == 1 for gene in part.genes):
                self._left[number] = project(part, self._shared)
        self._best = {number: [part] for number, part in self._left.items()}
        self._sizes: dict[int, float] = {}
        self._waiting = set(self._shared)
        self._room = _ENOUGH * sum(map(len, parts)) + 2 * MOST_JOINED

    @property
    def best(self) -> list[Factor]:
        """The factors that have fewest options altogether."""
        return [part for number in self._left for part in self._best[number]]

    @property
    def _shared(self) -> set[int]:
        return {gene for gene, where in self._holders.items() if len(where) > 1}

    def next(self, sizes: Mapping[int, int]) -> int | None:
        """The gene to decide next, whose factors make the smallest join; ``None`` if none is worth a try."""
        new = self._waiting - self._sizes.keys()
        shared = self._shared if new else set()
        for gene in new:
            where = sorted(self._holders[gene])
            self._sizes[gene] = joined_size([self._left[number] for number in where], range(len(where)), shared, sizes)
        able = [gene for gene in self._waiting if self._sizes[gene] <= MOST_JOINED]
        return min(able, key=lambda gene: (self._sizes[gene], gene), default=None)

    def decide(self, gene: int) -> None:
        """Join the factors that hold a gene and decide it, or leave it alone if they grow by too much."""
        self._waiting.discard(gene)
        where = sorted(self._holders[gene])
        before = [part for number in where for part in self._best[number]]
        fewest = sum(map(len, before))
        merged = join_all([self._left[number] for number in where], self._room)
        if merged is None:
            return
        self._room -= merged.rows.size
        merged = project(merged, {other for other in merged.genes if self._holders[other] - set(where)})
        if len(merged) > _MOST_GROWTH * min(sum(len(self._left[number]) for number in where), fewest) + 64:
            return
        made = max(self._left) + 1
        for number in where:
            del self._left[number], self._best[number]
        self._left[made] = merged
        self._best[made] = [merged] if len(merged) <= _PAYS * fewest else before
        for other in merged.genes:
            self._holders[other] = (self._holders[other] - set(where)) | {made}
            self._sizes.pop(other, None)
            self._waiting.discard(other)
            if len(self._holders[other]) > 1:
                self._waiting.add(other)


def joined_size(parts: Sequence[Scope], where: Sequence[int], shared: set[int], sizes: Mapping[int, int]) -> float:
    """About how many options the join of some factors has."""
    scopes = [[gene for gene in parts[index].genes if gene in shared] for index in where]
    count = float(math.prod(sizes[gene] for gene in set().union(*map(set, scopes))))
    for index, scope in zip(where, scopes, strict=True):
        count *= max(1.0, len(parts[index]) / math.prod(sizes[gene] for gene in scope))
    return count
