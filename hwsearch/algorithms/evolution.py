"""Evolution: mutation and crossover among the best and along the trade-off, finished by local search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..space import Rows, SearchSpace
from ._pareto import pareto
from .base import Values

if TYPE_CHECKING:
    from ..problem import Problem


@dataclass(frozen=True)
class EvolutionState:
    """What evolution remembers.

    Attributes:
        X: the parents, best first, shape ``(p, genes)``.
        scores: their scores, NaN where infeasible, shape ``(p,)``.
        tightness: the largest of their costs as a fraction of its limit, 0 without limits, shape ``(p,)``.
        front: non-dominated feasible rows in score and tightness, shape ``(f, genes)``.
        front_scores: their scores, descending, shape ``(f,)``.
        front_tightness: their tightness, descending, shape ``(f,)``.
        step: steps taken.
        stale: steps since the best score rose.
    """

    X: Rows
    scores: Values
    tightness: Values
    front: Rows
    front_scores: Values
    front_tightness: Values
    step: int = 0
    stale: int = 0


@dataclass(frozen=True)
class Evolution:
    """Elitist evolution, vectorised over the population.

    Parents are the best rows found (feasible ones by score, then infeasible ones by how far they are over) and the front of score
    against tightness, whose members bring cheap building blocks. Children are half mutants, half crossovers; a share of random
    newcomers keeps the search global. Whenever the best score has not risen for two steps, the best row's neighbours (one gene or
    two genes changed) are tried as well, so that the answer is a local optimum when the search ends by itself.

    Attributes:
        population: children a step.
        parents: elite kept from step to step.
        steps: the most steps of a search.
        patience: steps without a better score after which the search is done.
        newcomers: share of the children that are random rows.
        pairs: the most two-gene neighbours tried in one step.
    """

    name: ClassVar[str] = "evolution"
    population: int = 512
    parents: int = 96
    steps: int = 120
    patience: int = 24
    newcomers: float = 0.1
    pairs: int = 2048

    def init(self, problem: Problem) -> EvolutionState:
        """The state before the first step, without parents."""
        none = np.empty(0)
        empty = np.empty((0, len(problem.space.choices)), dtype=np.uint8)
        return EvolutionState(empty, none, none, empty, none, none)

    def ask(self, state: EvolutionState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, EvolutionState]:
        """Random rows and the problem's seeds at first; then children, and now and then the neighbours of the best."""
        space = problem.space
        if not len(state.X):
            return np.concatenate([problem.seeds, space.sample(2 * self.population, rng)]), state
        fresh = max(1, round(self.population * self.newcomers))
        half = (self.population - fresh) // 2
        mothers = self._pick(state, half, rng)
        rates = np.exp(rng.uniform(np.log(1.0 / len(space.choices)), np.log(0.3), size=half))
        children = [space.mutate(mothers, rng, rates)]
        crossed = space.cross(self._pick(state, half, rng), self._pick(state, half, rng), rng)
        some = rng.random(half) < 0.3
        crossed[some] = space.mutate(crossed[some], rng, 0.0)
        children += [crossed, space.sample(fresh, rng)]
        if state.stale >= 2:
            children.append(self._around(state, space, rng))
        return np.concatenate(children), state

    def tell(self, state: EvolutionState, X: Rows, scores: Values, costs: Values) -> EvolutionState:
        """Keep the elite and the front of the parents and the new rows."""
        tightness = costs.max(axis=1) if costs.shape[1] else np.zeros(len(X))
        pool = np.concatenate([state.X, X])
        pool_scores = np.concatenate([state.scores, scores])
        pool_tightness = np.concatenate([state.tightness, tightness])
        feasible = ~np.isnan(pool_scores)
        order = np.lexsort((pool_tightness, -np.where(feasible, pool_scores, 0.0), ~feasible))[: self.parents]
        before = state.scores[0] if len(state.scores) else np.nan
        after = pool_scores[order[0]] if len(order) else np.nan
        better = not np.isnan(after) and (np.isnan(before) or after > before)
        front = self._front(state, X, scores, tightness)
        return EvolutionState(
            pool[order],
            pool_scores[order],
            pool_tightness[order],
            *front,
            step=state.step + 1,
            stale=0 if better else state.stale + 1,
        )

    def done(self, state: EvolutionState) -> bool:
        """Whether the best score has not risen for ``patience`` steps."""
        return state.stale >= self.patience

    def _pick(self, state: EvolutionState, n: int, rng: np.random.Generator) -> Rows:
        """Parents: a quarter from the front, the others from the elite, the better the likelier."""
        ranks = np.minimum(rng.integers(len(state.X), size=n), rng.integers(len(state.X), size=n))
        picked: Rows = state.X[ranks]
        if len(state.front):
            other = rng.random(n) < 0.25
            picked = np.where(other[:, None], state.front[rng.integers(len(state.front), size=n)], picked).astype(np.uint8)
        return picked

    def _around(self, state: EvolutionState, space: SearchSpace, rng: np.random.Generator) -> Rows:
        """Rows that differ from the best in one gene, and some that differ in two."""
        ones = space.neighbours(state.X[0])
        if not len(ones):
            return ones
        first = rng.permutation(len(ones))[: max(1, self.pairs // len(ones))]
        twos = [space.neighbours(ones[index]) for index in first]
        return np.concatenate([ones, *twos])

    def _front(self, state: EvolutionState, X: Rows, scores: Values, tightness: Values) -> tuple[Rows, Values, Values]:
        feasible = ~np.isnan(scores)
        rows = np.concatenate([state.front, X[feasible]])
        all_scores = np.concatenate([state.front_scores, scores[feasible]])
        all_tightness = np.concatenate([state.front_tightness, tightness[feasible]])
        kept = pareto(-all_scores, all_tightness)
        if len(kept) > self.parents:
            kept = kept[np.linspace(0, len(kept) - 1, self.parents).astype(np.intp)]
        return rows[kept], all_scores[kept], all_tightness[kept]
