"""Hybrid: exact optima of an additive surrogate, planted into evolution on the true score."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .._types import Rows, Values
from ..errors import Infeasible
from ..spaces._keys import contains, row_keys
from ..spaces._space import SearchSpace
from ..spaces._tables import Table, TableSum
from ._additive import additive
from ._milp import Program
from .evolution import Evolution, EvolutionState

if TYPE_CHECKING:
    from ._problem import Problem


@dataclass(frozen=True)
class HybridState(EvolutionState):
    """What evolution remembers, and what the surrogate is fitted on.

    Attributes:
        samples: the best feasible rows met, shape ``(k, genes)``.
        sample_scores: their scores, shape ``(k,)``.
        bound: no row within the limits has a higher score; finite only if the score itself is a sum of tables.
        slack: a score that is no further below the bound counts as optimal.
        surrogate_bound: no row within the limits has a higher score by the last surrogate; proven, but of the surrogate.
    """

    samples: Rows = field(default_factory=lambda: np.empty((0, 0), dtype=np.uint8))
    sample_scores: Values = field(default_factory=lambda: np.empty(0))
    bound: float = np.inf
    slack: float = 0.0
    surrogate_bound: float = np.inf


@dataclass(frozen=True)
class Hybrid(Evolution):
    """Evolution that is shown, now and then, the optimum of what the score looks like so far.

    The surrogate is a sum of tables over single genes and over pairs that share a table of a limit, fitted by ridge regression to the rows
    met so far, the better the heavier. Its optima within the limits, and within somewhat tighter ones, are found exactly
    and join the children; evolution on the true score corrects what the surrogate gets wrong, and the next surrogate is fitted nearer
    to the answer. If the score itself is a sum of tables, it is its own surrogate and its optimum is proven.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import Hybrid
        >>> space = hwsearch.load_space("resnet_digits")
        >>> score = hwsearch.metric("params", space)  # a sum of tables, so that its optimum is proven
        >>> hwsearch.search(space, Hybrid(steps=10, seconds=30.0), predictor=score, limits={"macs": 1e6}).status.name
        'OPTIMAL'

    Attributes:
        refits: steps after which a surrogate is fitted.
        budgets: fractions of the limits at which it is solved.
        samples: the most rows that it is fitted on.
        seconds: the most that one of the surrogate's solutions may take.
    """

    name: ClassVar[str] = "hybrid"
    refits: tuple[int, ...] = (4, 10, 20)
    budgets: tuple[float, ...] = (1.0, 0.985)
    samples: int = 3000
    seconds: float = 1.0

    def init(self, problem: Problem) -> HybridState:
        """The state before the first step, without parents and samples."""
        first = super().init(problem)
        own = {entry.name: getattr(first, entry.name) for entry in fields(first)}
        return HybridState(**own, samples=first.X, sample_scores=first.scores)

    def ask(self, state: EvolutionState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, EvolutionState]:
        """Evolution's children and, after some steps, the surrogate's optima."""
        X, after = super().ask(state, problem, rng)
        assert isinstance(after, HybridState)
        own = additive(problem.score, problem.space)
        if state.step not in ((0,) if own is not None else self.refits) or (own is None and len(after.samples) < 50):
            return X, after
        rows, bound, slack = self._optima(problem, own or surrogate(problem, after.samples, after.sample_scores))
        rows = rows[np.sort(np.unique(row_keys(rows), return_index=True)[1])]
        rows = rows[~contains(problem.seen, row_keys(rows))]
        after = replace(after, surrogate_bound=bound, bound=bound if own is not None else np.inf, slack=slack)
        island = np.concatenate([after.asked_island_of(X), np.arange(len(rows)) % after.islands])
        return np.concatenate([X, rows]), self.noted(after, np.concatenate([X, rows]), island)

    def tell(self, state: EvolutionState, X: Rows, scores: Values, costs: Values) -> EvolutionState:
        """Keep the elite, and the best rows as samples."""
        after = super().tell(state, X, scores, costs)
        assert isinstance(after, HybridState)
        if after.step > max(self.refits, default=0):
            return replace(after, samples=after.samples[:0], sample_scores=after.sample_scores[:0])
        known = ~np.isnan(scores)
        pool, values = np.concatenate([after.samples, X[known]]), np.concatenate([after.sample_scores, scores[known]])
        best = np.argsort(-values, kind="stable")[: self.samples]
        return replace(after, samples=pool[best], sample_scores=values[best])

    def _optima(self, problem: Problem, tables: TableSum) -> tuple[Rows, float, float]:
        """The optima of a sum of tables at the budgets, shape ``(k, genes)``; its bound at the limits, and the slack of that."""
        program = Program.compile(problem.space, tables, problem.limits)
        most = np.array([limit.at_most for limit in program.summed])
        proof = additive(problem.score, problem.space) is not None
        gap, seconds = (1e-6, 60.0) if proof else (1e-3, self.seconds)
        found = []
        bound = np.inf
        for part in self.budgets if len(most) and not proof else (1.0,):
            try:
                solution = program.solve(part * most, gap=gap, seconds=seconds)
            except Infeasible:
                if part == 1.0:
                    raise
                continue  # which says nothing about the limits themselves
            bound = solution.bound if part == 1.0 else bound
            found += [] if solution.row is None else [solution.row]
        return np.array(found, dtype=np.uint8).reshape(-1, len(problem.space.choices)), bound, program.slack(gap)


def surrogate(problem: Problem, X: Rows, scores: Values, most: int = 1500) -> TableSum:
    """A sum of tables that looks like the score on the given rows, the better ones most of all.

    Args:
        problem: whose limits' tables say which pairs of genes belong together.
        X: canonical rows, shape ``(n, genes)``.
        scores: theirs, shape ``(n,)``.
        most: weights of pairs; if there would be more, pairs are dropped.
    """
    space = problem.space
    scopes = [[axis for axis in axes if isinstance(axis, int)] for limit in problem.limits for axes, _ in limit.metric.tables]
    together = {pair for genes in scopes for pair in itertools.combinations(genes, 2)}
    pairs: list[tuple[int, int]] = []
    for a, b in sorted(together):
        if sum(space.sizes[c] * space.sizes[d] for c, d in pairs) + space.sizes[a] * space.sizes[b] <= most:
            pairs.append((a, b))
    active = space.active(X)
    parts = [space.features(X)]
    for a, b in pairs:
        cell = X[:, a].astype(np.intp) * space.sizes[b] + X[:, b]
        shown = np.where(active[:, a] & active[:, b], cell, -1)
        parts.append((shown[:, None] == np.arange(space.sizes[a] * space.sizes[b])).astype(np.float32))
    design = np.concatenate(parts, axis=1)
    spread = max(float(scores.max() - np.median(scores)), 1e-12)
    weight = np.exp((scores - scores.max()) / spread)
    centre = float(np.average(scores, weights=weight))
    root = np.sqrt(weight).astype(np.float32)
    scaled = design * root[:, None]
    gram = (scaled.T @ scaled).astype(np.float64)
    gram[np.diag_indices(len(gram))] += 1.0
    weights = np.linalg.solve(gram, scaled.T @ ((scores - centre) / spread * root)) * spread
    return _tables(space, pairs, weights, centre)


def _tables(space: SearchSpace, pairs: Sequence[tuple[int, int]], weights: Values, centre: float) -> TableSum:
    """Weights of single genes and of pairs as tables, zero for inactive genes."""
    made: list[Table] = [((), np.asarray(centre))]
    start = 0
    for genes in (*((gene,) for gene in range(len(space.sizes))), *pairs):
        shape = tuple(space.sizes[gene] for gene in genes)
        own = weights[start : start + int(np.prod(shape))].reshape(shape)
        start += own.size
        scope = space.with_needs(genes)
        lengths = tuple(space.sizes[gene] for gene in scope)
        cells = np.zeros((int(np.prod(lengths)), len(space.sizes)), dtype=np.uint8)
        cells[:, scope] = space.cells(scope)
        shown = np.asarray(space.active(cells)[:, list(genes)].all(axis=1))
        values = np.where(shown, own[tuple(cells[:, gene] for gene in genes)], 0.0)
        made.append((scope, values.reshape(lengths)))
    return TableSum(tuple(made))
