"""Lagrange: what every option can come to at best, by bounds that hold whatever the others are, so that most options drop out.

With prices on the limits a program is a sum of costs alone, and eliminating one gene after the other gives its least value (Dechter, 1999)
in the time of a few lookups: a lower bound of the program (Geoffrion, 1974). Run backwards, the same elimination gives the least value
with each single option. An option whose value is beyond that of a row known to be within the limits is in no better row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._types import Flags, Values
from ._factors import Factor, Scope, joined_size, matches, packed, paired

MOST_PAIRS = 30_000_000
"""Pairs of options that an elimination may make altogether."""
_PAIRS_EACH = 500
"""And for each option: with more a solver that knows nothing of bounds is as fast."""
_UNSURE = 2
"""How far the number of pairs that an elimination is planned to make may be off."""
_ROUNDS = 40

Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Join:
    """Options of two nodes, paired where they agree on the genes of both."""

    left: int
    right: int
    first: Index
    second: Index


@dataclass(frozen=True, eq=False)
class _Best:
    """Options of a node by the genes that are still visible: of each group the best one counts."""

    of: int
    group: Index
    order: Index
    starts: Index


class Elimination:
    """The elimination of all genes of some factors, as indices, so that any prices can be run through it.

    Args:
        parts: the factors, which have options.
        sizes: gene -> number of its allowed indices.

    Attributes:
        possible: whether it takes no more pairs than it may, and some options of all factors agree.
    """

    def __init__(self, parts: Sequence[Factor], sizes: Mapping[int, int]) -> None:
        self._leaves = len(parts)
        self._steps: list[_Join | _Best] = []
        most = min(MOST_PAIRS, _PAIRS_EACH * sum(map(len, parts)))
        self._nodes = [Factor(part.genes, part.rows, np.zeros((len(part), 0))) for part in parts]
        order = _order(parts, sizes, _UNSURE * most)
        self.possible = order is not None
        pairs, left = 0, set(range(len(parts)))
        for gene in order or ():
            where, cost = _joining(self._nodes, left, gene, sizes)
            pairs += int(cost)
            if pairs > most:
                self.possible = False
            if not self.possible:
                return
            where = sorted(where, key=lambda node: len(self._nodes[node]))
            node = where[0]
            for other in where[1:]:
                node = self._join(node, other)
            left -= set(where)
            left.add(self._best(node, {g for other in left for g in self._nodes[other].genes}))
        self._roots = sorted(left)
        self.possible = self.possible and all(len(self._nodes[root]) for root in self._roots)

    def _join(self, left: int, right: int) -> int:
        first, second = matches(self._nodes[left], self._nodes[right])
        return self._made(_Join(left, right, first, second), paired(self._nodes[left], self._nodes[right], first, second))

    def _best(self, node: int, visible: set[int]) -> int:
        own = self._nodes[node]
        genes = tuple(gene for gene in own.genes if gene in visible)
        group = packed(own.columns(genes))
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        rows = own.columns(genes)[order[starts]]
        return self._made(_Best(node, group, order, starts), Factor(genes, rows, np.zeros((len(rows), 0))))

    def _made(self, step: _Join | _Best, node: Factor) -> int:
        self._steps.append(step)
        self._nodes.append(node)
        return len(self._nodes) - 1

    def forward(self, costs: Sequence[Values]) -> list[Values]:
        """The least cost of what has been joined into each node, for each of its options.

        Args:
            costs: of each factor's options.
        """
        values = list(costs)
        for step in self._steps:
            if isinstance(step, _Join):
                values.append(values[step.left][step.first] + values[step.right][step.second])
            else:
                values.append(np.minimum.reduceat(values[step.of][step.order], step.starts))
        return values

    def least(self, values: Sequence[Values]) -> float:
        """The least cost of all, given what :meth:`forward` returned."""
        return float(sum(values[root][0] for root in self._roots))

    def options(self, values: Sequence[Values]) -> list[int]:
        """An option of each factor, which together cost least, given what :meth:`forward` returned."""
        chosen = [0] * len(values)
        for node in reversed(range(self._leaves, len(values))):
            step = self._steps[node - self._leaves]
            if isinstance(step, _Join):
                chosen[step.left], chosen[step.right] = int(step.first[chosen[node]]), int(step.second[chosen[node]])
            else:
                start = step.starts[chosen[node]]
                stop = step.starts[chosen[node] + 1] if chosen[node] + 1 < len(step.starts) else len(step.order)
                members = step.order[start:stop]
                chosen[step.of] = int(members[values[step.of][members].argmin()])
        return chosen[: self._leaves]

    def marginals(self, values: list[Values]) -> list[Values]:
        """The least cost of all with each option of each factor, given what :meth:`forward` returned; infinite if it fits no others."""
        least = self.least(values)
        found = [np.full(len(each), np.inf) for each in values]
        for root in self._roots:
            found[root][:] = least
        for node in reversed(range(self._leaves, len(values))):
            step = self._steps[node - self._leaves]
            if isinstance(step, _Join):
                np.minimum.at(found[step.left], step.first, found[node])
                np.minimum.at(found[step.right], step.second, found[node])
            else:
                found[step.of] = values[step.of] + (found[node] - values[node])[step.group]
        return found[: self._leaves]


@dataclass(frozen=True)
class _Planned:
    """What the order of an elimination depends on of a node."""

    genes: tuple[int, ...]
    options: int

    def __len__(self) -> int:
        return self.options


def _order(parts: Sequence[Factor], sizes: Mapping[int, int], most: float) -> list[int] | None:
    """The genes in the order in which they are eliminated, each the cheapest at its turn; ``None`` if it takes more pairs than ``most``.

    Planned without looking at options, of which there may be as many as there are combinations of values.
    """
    nodes = [_Planned(part.genes, len(part)) for part in parts]
    left, order, pairs = set(range(len(parts))), [], 0.0
    found: dict[int, tuple[list[int], float]] = {}
    while genes := {gene for node in left for gene in nodes[node].genes}:
        found |= {gene: _joining(nodes, left, gene, sizes) for gene in genes - found.keys()}
        gene = min(genes, key=lambda gene: (found[gene][1], gene))
        where, cost = found[gene]
        order.append(gene)
        pairs += cost
        if pairs > most:
            return None
        left -= set(where)
        visible = {g for node in where for g in nodes[node].genes} & {g for node in left for g in nodes[node].genes}
        nodes.append(_Planned(tuple(sorted(visible)), int(min(cost, math.prod(sizes[g] for g in visible)))))
        near = {g for node in left if visible & set(nodes[node].genes) for g in nodes[node].genes}  # what they join may be others now
        for changed in near | {g for node in where for g in nodes[node].genes}:
            found.pop(changed, None)
        left.add(len(nodes) - 1)
    return order


def _joining(nodes: Sequence[Scope], left: set[int], gene: int, sizes: Mapping[int, int]) -> tuple[list[int], float]:
    """The nodes that have to be joined to eliminate a gene, and about how many pairs that takes."""
    where = [node for node in sorted(left) if gene in nodes[node].genes]
    inside = [g for node in where for g in nodes[node].genes]
    outside = {g for node in left - set(where) for g in nodes[node].genes}
    shared = {g for g in inside if g in outside or inside.count(g) > 1}
    return where, joined_size(nodes, where, shared, sizes)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lower bounds of a program.

    Attributes:
        least: no choice of options within the limits has a lower objective.
        options: for each factor, no choice of options within the limits with this option has a lower objective.
    """

    least: float
    options: list[Values]

    def margin(self, options: int) -> float:
        """How far above the least the bounds of that many options are, the lowest ones."""
        every = np.concatenate(self.options)
        lowest = np.sort(every[np.isfinite(every)])
        return float(lowest[min(options, len(lowest) - 1)] - self.least)

    def core(self, margin: float) -> list[Flags]:
        """The options whose bounds are at most ``margin`` above the least."""
        return [option <= self.least + margin for option in self.options]


def bounds(parts: Sequence[Factor], sizes: Mapping[int, int], most: Values) -> Bounds | None:
    """The best bounds that prices on the limits give; ``None`` if the factors are too entangled, or no options of all of them agree.

    The prices are those at which a cutting-plane model of the bound peaks (Kelley, 1960).

    Args:
        parts: the factors.
        sizes: gene -> number of its allowed indices.
        most: the limits, shape ``(limits,)``.
    """
    elimination = Elimination(parts, sizes)
    if not elimination.possible:
        return None
    best, prices = -np.inf, np.zeros(len(most))
    cuts: list[Values] = []
    ceiling = _ceiling(parts, most)
    price = prices
    for _ in range(_ROUNDS if len(most) else 1):
        values = elimination.forward([part.costs @ np.array([1.0, *price]) for part in parts])
        bound = elimination.least(values) - float(price @ most)
        if bound > best:
            best, prices = bound, price
        chosen = elimination.options(values)
        cuts.append(sum(part.costs[option] for part, option in zip(parts, chosen, strict=True)) - np.array([0.0, *most]))
        peak, price = _peak(np.array(cuts), ceiling)
        if peak - best <= 1e-9 * max(1.0, abs(best)) or any(np.array_equal(cut, cuts[-1]) for cut in cuts[:-1]):
            break
    values = elimination.forward([part.costs @ np.array([1.0, *prices]) for part in parts])
    paid = float(prices @ most)
    return Bounds(best, [option - paid for option in elimination.marginals(values)])


def _ceiling(parts: Sequence[Factor], most: Values) -> Values:
    """Prices that are surely enough."""
    span = sum(np.ptp(part.costs, axis=0) for part in parts)
    room = np.maximum(most - sum(part.costs[:, 1:].min(axis=0) for part in parts), 1e-9 * span[1:])
    ceiling: Values = np.divide(10.0 * max(span[0], 1e-12), room, out=np.zeros(len(most)), where=room > 0)
    return ceiling


def _peak(cuts: Values, ceiling: Values) -> tuple[float, Values]:
    """Where the least of some planes over prices is highest, and that height.

    Args:
        cuts: the height of each plane at prices of zero, and its slopes, shape ``(planes, 1 + limits)``.
        ceiling: the highest price on each limit.
    """
    from scipy.optimize import linprog

    unit = np.array([1.0, *ceiling])  # prices as shares of the ceiling, since limits have very different units
    scale = max(float(np.abs(cuts[:, 0]).max()), 1e-12)
    planes = cuts * unit / scale
    found = linprog(
        np.array([-1.0, *np.zeros(len(ceiling))]),
        A_ub=np.column_stack([np.ones(len(cuts)), -planes[:, 1:]]),
        b_ub=planes[:, 0],
        bounds=[(None, None), *[(0.0, 1.0)] * len(ceiling)],
        method="highs",
    )
    if found.x is None:
        return np.inf, ceiling * 0.0
    return float(found.x[0]) * scale, found.x[1:] * ceiling
