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
from typing import Any

import numpy as np
import numpy.typing as npt

from .._types import Values
from ..spaces._tables import TableSum
from ._pareto import nondominated

MOST_JOINED = 150_000
"""Options made at once by a join that may not pay."""


@dataclass(frozen=True, eq=False)
class Factor:
    """Ways to set some genes.

    Attributes:
        genes: in ascending order.
        rows: their indices, an option a row, shape ``(options, genes)``.
        costs: what an option adds to the objective (to be made small) and to each summed limit, shape ``(options, 1 + limits)``.
    """

    genes: tuple[int, ...]
    rows: npt.NDArray[np.uint8]
    costs: Values

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self, genes: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The indices of some of its genes, shape ``(options, len(genes))``."""
        return self.rows[:, [self.genes.index(gene) for gene in genes]]


def factors(
    tables: Sequence[TableSum],
    excluded: Sequence[tuple[tuple[int, ...], npt.NDArray[np.bool_]]],
    allowed: Sequence[Sequence[int]],
) -> list[Factor]:
    """Tables as factors, those within the scope of another one added to it.

    Args:
        tables: those of the objective (to be made small), then those of each summed limit.
        excluded: tables that are true for combinations that are impossible.
        allowed: for each gene the indices that may be used.
    """
    scopes: list[tuple[int, ...]] = []
    every = {genes for entries in tables for genes, _ in entries} | {genes for genes, _ in excluded}
    for genes in sorted(every, key=lambda genes: (-len(genes), genes)):
        if not any(set(genes) <= set(scope) for scope in scopes):
            scopes.append(genes)
    single = set().union(*map(set, scopes)) if scopes else set()
    scopes += [(gene,) for gene in range(len(allowed)) if gene not in single]
    shapes = [tuple(len(allowed[gene]) for gene in scope) for scope in scopes]
    home = {genes: min((i for i, s in enumerate(scopes) if set(genes) <= set(s)), key=lambda i: math.prod(shapes[i])) for genes in every}
    costs = [np.zeros((*shape, len(tables))) for shape in shapes]
    for column, entries in enumerate(tables):
        for genes, array in entries:
            costs[home[genes]][..., column] += _spread(genes, array, scopes[home[genes]], allowed)
    for genes, impossible in excluded:
        costs[home[genes]][..., 0] += np.where(_spread(genes, impossible, scopes[home[genes]], allowed), np.inf, 0.0)
    made = []
    for scope, shape, cost in zip(scopes, shapes, costs, strict=True):
        rows = np.zeros((math.prod(shape), len(scope)), dtype=np.uint8)
        for column, (gene, index) in enumerate(zip(scope, np.indices(shape).reshape(len(shape), -1), strict=True)):
            rows[:, column] = np.asarray(allowed[gene], dtype=np.uint8)[index]
        flat = cost.reshape(-1, len(tables))
        possible = np.isfinite(flat).all(axis=1)
        made.append(Factor(scope, rows[possible], flat[possible]))
    return made


def _spread(genes: Sequence[int], array: npt.NDArray[Any], scope: Sequence[int], allowed: Sequence[Sequence[int]]) -> npt.NDArray[Any]:
    """A table cut down to the allowed indices, with an axis of length one for each gene of the scope that it does not hold."""
    cut = array[np.ix_(*(allowed[gene] for gene in genes))] if genes else array
    lengths = iter(cut.shape)
    return cut.reshape([next(lengths) if gene in genes else 1 for gene in scope])


def join(left: Factor, right: Factor) -> Factor:
    """All pairs of options that agree on the genes that both hold."""
    shared = [gene for gene in left.genes if gene in right.genes]
    a, b = np.split(_key(np.concatenate([left.columns(shared), right.columns(shared)])), [len(left)])
    order = np.argsort(b, kind="stable")
    low, high = np.searchsorted(b[order], a, "left"), np.searchsorted(b[order], a, "right")
    count = high - low
    first = np.repeat(np.arange(len(a)), count)
    second = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)]
    genes = tuple(sorted({*left.genes, *right.genes}))
    rows = np.empty((len(first), len(genes)), dtype=np.uint8)
    for column, gene in enumerate(genes):
        source, index = (left, first) if gene in left.genes else (right, second)
        rows[:, column] = source.rows[index, source.genes.index(gene)]
    return Factor(genes, rows, left.costs[first] + right.costs[second])


def project(factor: Factor, visible: Collection[int]) -> Factor:
    """Of the options that agree on the visible genes, those that no other one equals or beats in every cost."""
    if not len(factor):
        return factor
    key = _key(factor.columns([gene for gene in factor.genes if gene in visible]))
    if factor.costs.shape[1] <= 2:
        kept = _staircase(key, factor.costs)
    else:
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        groups = np.split(order, starts[1:])
        kept = np.concatenate([group[nondominated(factor.costs[group])] for group in groups])
    kept = np.sort(kept)
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


def _key(columns: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """A number for every row of indices, equal for equal rows, ascending from 0."""
    if not columns.shape[1]:
        return np.zeros(len(columns), dtype=np.int64)
    packed = np.ascontiguousarray(columns).view(np.dtype((np.void, columns.shape[1])))[:, 0]
    found: npt.NDArray[np.int64] = np.unique(packed, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return found


def reduce(parts: Sequence[Factor], sizes: Mapping[int, int]) -> list[Factor]:
    """Decide genes inside factors, joining factors if the result is no larger than they were.

    Args:
        parts: what to reduce.
        sizes: gene -> number of its allowed indices.
    """
    left = list(parts)
    blocked: dict[int, tuple[int, ...]] = {}
    while True:
        holders: dict[int, list[int]] = {}
        for index, factor in enumerate(left):
            for gene in factor.genes:
                holders.setdefault(gene, []).append(index)
        shared = {gene for gene, where in holders.items() if len(where) > 1}
        left = [project(factor, shared) if any(gene not in shared for gene in factor.genes) else factor for factor in left]
        best: tuple[float, int] | None = None
        for gene in sorted(shared):
            if blocked.get(gene) != tuple(len(left[index]) for index in holders[gene]):
                size = _joined(left, holders[gene], shared, sizes)
                if size <= MOST_JOINED and (best is None or size < best[0]):
                    best = (size, gene)
        if best is None:
            return left
        gene = best[1]
        where = holders[gene]
        merged = left[where[0]]
        for index in where[1:]:
            merged = join(merged, left[index])
        outside = {g for index, factor in enumerate(left) if index not in where for g in factor.genes}
        merged = project(merged, outside)
        if len(merged) <= 1.5 * sum(len(left[index]) for index in where) + 64:
            left = [factor for index, factor in enumerate(left) if index not in where] + [merged]
        else:
            blocked[gene] = tuple(len(left[index]) for index in where)


def _joined(parts: Sequence[Factor], where: Sequence[int], shared: set[int], sizes: Mapping[int, int]) -> float:
    """About how many options the join of some factors has."""
    scopes = [[gene for gene in parts[index].genes if gene in shared] for index in where]
    count = float(math.prod(sizes[gene] for gene in set().union(*map(set, scopes))))
    for index, scope in zip(where, scopes, strict=True):
        count *= max(1.0, len(parts[index]) / math.prod(sizes[gene] for gene in scope))
    return count
