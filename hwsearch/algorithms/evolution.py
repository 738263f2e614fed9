"""Evolution: islands that evolve apart and merge, pair by pair, into one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..spaces._keys import contains, row_keys
from .base import mutation_rates

if TYPE_CHECKING:
    from ._problem import Problem


@dataclass(frozen=True)
class EvolutionState:
    """What evolution remembers.

    Attributes:
        X: the parents of all islands, island by island, best first, shape ``(p, genes)``.
        scores: their scores, NaN if infeasible, shape ``(p,)``.
        tightness: the largest of their costs as a fraction of its limit, 0 without limits, shape ``(p,)``.
        island: the island of each, shape ``(p,)``.
        asked: keys of the rows that were just asked for, sorted, shape ``(k,)``.
        asked_island: their islands, shape ``(k,)``.
        islands: how many there are.
        best: the best score so far.
        step: steps taken.
        stale: steps since the best score rose or islands merged.
    """

    X: Rows
    scores: Values
    tightness: Values
    island: npt.NDArray[np.int64]
    asked: npt.NDArray[np.uint64]
    asked_island: npt.NDArray[np.int64]
    islands: int
    best: float = -np.inf
    step: int = 0
    stale: int = 0

    def asked_island_of(self, X: Rows) -> npt.NDArray[np.int64]:
        """The islands that asked for rows, shape ``(n,)``."""
        return self.asked_island[np.searchsorted(self.asked, row_keys(X))] if len(X) else self.asked_island[:0]


@dataclass(frozen=True)
class Evolution:
    """Elitist evolution on islands, vectorised over all of them.

    One big population converges too early and to a different optimum each time. Many small ones that merge in pairs, each pair
    crossing what its halves found apart, come to nearly the same optimum every time. Costs are much cheaper than scores, so more
    children are made than are scored: those that were met before, exceed a limit, or waste more of the limits than the parents
    do are dropped. Islands without a feasible parent breed towards the limits.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import Evolution
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> evolved = hwsearch.search(problem, Evolution(population=200, steps=10), run=hwsearch.Run(polish=False))
        >>> drawn = hwsearch.search(problem, "random", run=hwsearch.Run(steps=8, polish=False))  # as many networks at random
        >>> evolved.best_score > drawn.best_score
        True

    Attributes:
        population: children scored in a step, over all islands.
        islands: at the start, or fewer if the population does not allow 32 children for each.
        parents: elite kept in a step, over all islands, but at most ``crowd`` on one of them.
        crowd: see ``parents``.
        alone: steps before islands merge for the first time.
        together: steps between later merges.
        surplus: children made for each that is scored.
        steps: the most steps of a search.
        patience: steps without a better score, all islands merged, after which the search is done.
    """

    name: ClassVar[str] = "evolution"
    population: int = 2560
    islands: int = 40
    parents: int = 1600
    crowd: int = 240
    alone: int = 30
    together: int = 15
    surplus: int = 2
    steps: int = 120
    patience: int = 12

    def init(self, problem: Problem) -> EvolutionState:
        """The state before the first step, without parents."""
        none, keys, islands = np.empty(0), np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        count = max(1, min(self.islands, self.population // 32))
        return EvolutionState(np.empty((0, len(problem.space.choices)), dtype=np.uint8), none, none, islands, keys, islands, count)

    def ask(self, state: EvolutionState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, EvolutionState]:
        """Random rows and the problem's seeds at first, then children."""
        if not len(state.X):
            X = founders(problem, 2 * self.population, rng)
            island = rng.integers(state.islands, size=len(X))
        else:
            X, island = self._children(state, problem, rng)
        tightness = _tightness(problem, X)
        keys, first = np.unique(row_keys(X), return_index=True)
        new = first[~contains(problem.seen, keys)]
        X, island, tightness = X[new], island[new], tightness[new]
        chosen = self._choose(state, tightness, island, rng) if len(state.X) else np.arange(len(X))
        return X[chosen], self.noted(state, X[chosen], island[chosen])

    def noted(self, state: EvolutionState, X: Rows, island: npt.NDArray[np.int64]) -> EvolutionState:
        """The state that knows which islands asked for which rows."""
        keys = row_keys(X)
        order = np.argsort(keys)
        return replace(state, asked=keys[order], asked_island=island[order])

    def tell(self, state: EvolutionState, X: Rows, scores: Values, costs: Values) -> EvolutionState:
        """Keep the elite of each island; merge islands when it is time."""
        tightness = costs.max(axis=1) if costs.shape[1] else np.zeros(len(X))
        island = state.asked_island_of(X)
        step, islands = state.step + 1, state.islands
        every = np.concatenate([state.island, island])
        merging = islands > 1 and step >= self.alone and (step - self.alone) % self.together == 0
        if merging:
            islands, every = (islands + 1) // 2, every // 2
        pool, pool_scores = np.concatenate([state.X, X]), np.concatenate([state.scores, scores])
        pool_tightness = np.concatenate([state.tightness, tightness])
        feasible = ~np.isnan(pool_scores)
        worth = np.where(feasible, -pool_scores, pool_tightness)
        order = np.lexsort((worth, ~feasible, every))
        kept = order[rank(every[order]) < max(2, min(self.crowd, self.parents // islands))]
        best = float(np.max(pool_scores[feasible], initial=-np.inf))
        return replace(
            state,
            X=pool[kept],
            scores=pool_scores[kept],
            tightness=pool_tightness[kept],
            island=every[kept],
            islands=islands,
            best=best,
            step=step,
            stale=0 if best > state.best or merging else state.stale + 1,
        )

    def done(self, state: EvolutionState) -> bool:
        """Whether the islands have merged and the best score has not risen for ``patience`` steps."""
        return state.islands == 1 and state.stale >= self.patience

    def _children(self, state: EvolutionState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, npt.NDArray[np.int64]]:
        """Mutants and crossovers, each island among itself."""
        space = problem.space
        count = np.bincount(state.island, minlength=state.islands)
        first = np.cumsum(count) - count
        living = np.flatnonzero(count)
        island = living[np.arange(self.population * self.surplus) % len(living)]
        n = len(island)

        def pick() -> Rows:
            picked: Rows = state.X[first[island] + (np.minimum(rng.random(n), rng.random(n)) * count[island]).astype(np.intp)]
            return picked

        children, others = pick(), pick()
        crossed = np.flatnonzero(rng.random(n) < 0.5)
        children[crossed] = space.cross(children[crossed], others[crossed], rng)
        rate = mutation_rates(len(space.sizes), n, rng)
        rate[crossed] = 0.02
        changed = np.ones(n, dtype=np.bool_)
        changed[crossed] = rng.random(len(crossed)) < 0.4
        children[changed] = space.mutate(children[changed], rng, rate[changed])
        return children, island

    def _choose(
        self, state: EvolutionState, tightness: Values, island: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> npt.NDArray[np.intp]:
        """Indices of the children to score: feasible ones about as tight as the parents first, then the nearest to the limits."""
        feasible = ~np.isnan(state.scores)
        least = float(np.quantile(state.tightness[feasible], 0.1)) - 0.03 if feasible.any() else 0.0
        class_ = np.where(tightness > 1.0, 2, np.where(tightness < least, 1, 0))
        within = np.where(tightness > 1.0, tightness, rng.random(len(tightness)))
        # By island, then class, then within the class: as one number, which sorts faster than three keys.
        order = np.argsort(island + class_ / 4 + np.minimum(within, 1e3) / 8e3)
        order = order[rank(island[order]) < max(1, self.population // len(np.unique(state.island)))]
        known = feasible.any()
        return order[class_[order] == 0] if known and (class_[order] == 0).sum() >= len(order) // 4 else order


def founders(problem: Problem, n: int, rng: np.random.Generator) -> Rows:
    """Random rows, the problem's seeds and mixtures of both; of these the ``n`` nearest to what the limits allow."""
    space = problem.space
    X = np.concatenate([problem.seeds, space.sample(n, rng)])
    if len(problem.seeds):
        seeds = problem.seeds[rng.integers(len(problem.seeds), size=n)]
        keep = rng.random((n, X.shape[1])) < rng.random((n, 1))
        mixed = np.where(keep, space.awake(seeds), space.awake(space.sample(n, rng))).astype(np.uint8)
        X = np.concatenate([X, space.canonical(mixed)])
    return X[np.argsort(np.maximum(_tightness(problem, X), 1.0), kind="stable")[:n]]


def _tightness(problem: Problem, X: Rows) -> Values:
    """The largest of the costs of each row as a fraction of its limit, 0 without limits, shape ``(n,)``."""
    costs = problem.costs(X)
    return costs.max(axis=1) if costs.shape[1] else np.zeros(len(X))


def rank(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """The place of each entry within its group, from 0; equal groups stand together."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(starts, len(groups)))
    return np.arange(len(groups)) - np.repeat(starts, lengths)
