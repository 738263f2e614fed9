"""Surrogate: for costly scores, a model of the score that is fitted to what is known says which networks to evaluate next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .._types import Flags, Rows, Values
from ..costs._metrics import Metric, values_of
from ..costs._paths import path_lengths, path_metrics
from ..errors import UnknownName
from ..spaces._keys import contains, row_keys
from ._acquisition import Belief, Candidates, Goal
from .evolution import founders

if TYPE_CHECKING:
    from ._problem import Problem

_SAMPLE = 1024
"""Random rows that the first ones are chosen from, and rows of a generation where the space is too large to look at each."""
_FITTED = 2000
"""The model is fitted to this many networks at most, the best and the latest ones: the work grows with their third power."""


@dataclass(frozen=True)
class SurrogateState:
    """What is known, and what was asked for.

    Attributes:
        X: rows that the algorithm was told about, shape ``(n, genes)``.
        scores: NaN if infeasible or failed, shape ``(n,)``.
        asked: rows that were asked for and are not among them yet, shape ``(m, genes)``.
        step: times that it was told.
        over: nothing was left to ask for.
    """

    X: Rows
    scores: Values
    asked: Rows
    step: int = 0
    over: bool = False


@dataclass(frozen=True)
class Surrogate:
    """Bayesian optimisation (Jones et al., 1998) of costly scores, for the best network or for a front.

    A Gaussian process over genes, sums of genes and the metrics of each network, and what lies on the paths of a cell whose edges the space
    declares (see :func:`hwsearch.costs.path_metrics`, and for the best network :func:`hwsearch.costs.path_lengths`), predicts the scores,
    made normal by their ranks. The next
    networks are those that are expected to raise the best score most; for a front, the volume that it dominates (Emmerich et al., 2006).
    All networks of a small space are looked at; in a large one candidates are bred on the model.
    The networks of a batch differ: each is chosen as if those before it had been evaluated, and so are those whose answers are missing.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import Surrogate
        >>> def train_and_test(X):  # takes minutes a network
        ...     return 0.9 + 0.001 * X.mean(axis=1)
        >>> few = hwsearch.Run(evaluations=30)
        >>> result = hwsearch.search("resnet_digits", Surrogate(founders=20), predictor=train_and_test, limits={"macs": 1e6}, run=few)
        >>> result.history[-1]["feasible"]
        30

    Attributes:
        metrics: names of what is traded against the score; if empty, only the best score within the limits counts.
        founders: random networks that are evaluated first.
        batch: networks a step, but at least a twenty-fifth of those that are known.
        levels: at which fronts of several metrics are compared.
        whole: spaces of this size are looked at as a whole.
        generations: of candidates in larger spaces.
        steps: of a search without a budget of evaluations.
    """

    name: ClassVar[str] = "surrogate"
    takes_late_answers: ClassVar[bool] = True
    metrics: tuple[str, ...] = ()
    founders: int = 16
    batch: int = 1
    levels: int = 64
    whole: int = 20_000
    generations: int = 10
    steps: int = 25

    def init(self, problem: Problem) -> SurrogateState:
        """The state before the first step.

        Raises:
            UnknownName: a metric that the problem does not know.
        """
        self.traded(problem)
        empty = np.empty((0, len(problem.space.choices)), dtype=np.uint8)
        return SurrogateState(empty, np.empty(0), empty)

    def traded(self, problem: Problem) -> tuple[Metric, ...]:
        """The metrics that are traded against the score."""
        known = {metric.name: metric for metric in problem.metrics}
        for name in self.metrics:
            if name not in known:
                raise UnknownName("metric to trade", name, known)
        return tuple(known[name] for name in self.metrics)

    def ask(self, state: SurrogateState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, SurrogateState]:
        """Random rows within the limits at first, then those that promise most; the nearest to the limits if none is within them."""
        missing = self.founders - int((~np.isnan(state.scores)).sum())
        chosen = self._first(problem, missing, rng) if missing > 0 else self._next(state, problem, rng)
        return chosen, replace(state, asked=np.concatenate([state.asked, chosen]), over=not len(chosen))

    def tell(self, state: SurrogateState, X: Rows, scores: Values, costs: Values) -> SurrogateState:
        """Remember the scores."""
        left = state.asked[~contains(np.sort(row_keys(X)), row_keys(state.asked))]
        return replace(
            state, X=np.concatenate([state.X, X]), scores=np.concatenate([state.scores, scores]), asked=left, step=state.step + 1
        )

    def done(self, state: SurrogateState) -> bool:
        """Whether there was nothing left to ask for."""
        return state.over

    def _first(self, problem: Problem, count: int, rng: np.random.Generator) -> Rows:
        """Random new rows within the limits; for a front, from all over the first metric."""
        X = self._everything(problem) if self._is_small(problem) else _bred_within(problem, rng)
        met = X[_feasible(problem, X)]
        if not len(met):
            costs = problem.costs(X).max(axis=1, initial=0.0)
            return X[np.argsort(costs, kind="stable")[:count]]
        some = met[rng.permutation(len(met))[:_SAMPLE]]
        traded = self.traded(problem)
        if not traded:
            return some[:count]
        order = np.argsort(traded[0](some), kind="stable")
        return some[order[np.unique(np.linspace(0, len(some) - 1, count).astype(np.intp))]]

    def _next(self, state: SurrogateState, problem: Problem, rng: np.random.Generator) -> Rows:
        """The rows that promise most."""
        known = np.flatnonzero(~np.isnan(state.scores))
        if len(known) > _FITTED:
            best = known[np.argsort(-state.scores[known], kind="stable")[: _FITTED // 2]]
            known = np.union1d(best, known[-_FITTED // 2 :])
        X, y = state.X[known], state.scores[known]
        belief = Belief.of(problem.space, self._read(problem), X, y, int(rng.integers(2**31)))
        goal = self._goal(problem, X, y, rng)
        pool = self._everything(problem) if self._is_small(problem) else self._bred(problem, belief, goal, X, rng)
        pool = pool[_feasible(problem, pool)]
        found = Candidates(belief, goal, np.concatenate([state.asked, pool]))
        for index in range(len(state.asked)):
            found.assume(index)
        chosen = found.take(max(self.batch, len(known) // 25)) - len(state.asked)
        return pool[chosen]

    def _read(self, problem: Problem) -> tuple[Metric, ...]:
        """The metrics that the model reads: those of the problem, and what lies on the paths of a cell whose edges the space declares.

        For the best score how long these paths are, too: it tells the best cells apart. A front is mostly of others.
        """
        space, known = problem.space, problem.shared
        read = (path_metrics,) if self.metrics else (path_metrics, path_lengths)
        for each in read if space.edges else ():
            if each not in known:
                known[each] = each(space, space.edges)
        names = {metric.name for metric in problem.metrics}
        return (*problem.metrics, *(metric for each in read for metric in known.get(each, ()) if metric.name not in names))

    def _goal(self, problem: Problem, X: Rows, y: Values, rng: np.random.Generator) -> Goal:
        """The best score, or the volume of a front up to the limits of the metrics that are traded, or the most that is known of them."""
        traded = self.traded(problem)
        limits = {limit.metric.name: limit.at_most for limit in problem.limits}
        least = np.array([metric.lower_bound for metric in traded])
        values = values_of(traded, X) if traded else np.empty((len(X), 0))
        known = [column[np.isfinite(column)].max(initial=low) for column, low in zip(values.T, least, strict=True)]
        most = np.array([limits.get(metric.name, highest) for metric, highest in zip(traded, known, strict=True)])
        share = rng.random((self.levels if len(traded) > 1 else 0, len(traded))) ** (1 / max(1, len(traded)))
        return Goal.of(traded, most, least + (most - least) * share, X, y)

    def _is_small(self, problem: Problem) -> bool:
        return problem.space.size <= self.whole

    def _everything(self, problem: Problem) -> Rows:
        """All rows that were not asked for yet."""
        return _unseen(problem, np.concatenate(list(problem.space.enumerate())))

    def _bred(self, problem: Problem, belief: Belief, goal: Goal, X: Rows, rng: np.random.Generator) -> Rows:
        """New rows within the limits that promise much, bred on the model, from known ones and random ones."""
        space = problem.space
        pool = np.concatenate([X, _bred_within(problem, rng)])
        for _ in range(self.generations):
            pool = _distinct(pool[_feasible(problem, pool)])
            worth = Candidates(belief, goal, pool).worth()
            parents = pool[np.argsort(-worth, kind="stable")[: _SAMPLE // 4]]
            mothers, fathers = (parents[rng.integers(len(parents), size=_SAMPLE)] for _ in range(2))
            crossed = space.cross(mothers, fathers, rng)
            near = space.mutate(parents, rng, 1.0 / len(space.sizes))
            pool = np.concatenate([parents, crossed, near, space.mutate(crossed, rng, 1.0 / len(space.sizes))])
        return _unseen(problem, pool)


def _feasible(problem: Problem, X: Rows) -> Flags:
    """Which rows are within the limits, shape ``(n,)``."""
    return np.asarray((problem.costs(X) <= 1.0).all(axis=1))


def _distinct(X: Rows) -> Rows:
    """The rows without repeats, in their order."""
    return X[np.sort(np.unique(row_keys(X), return_index=True)[1])]


def _unseen(problem: Problem, X: Rows) -> Rows:
    """The rows without repeats and without those that were evaluated or wait for it."""
    X = _distinct(X)
    return X[~contains(problem.seen, row_keys(X))]


def _bred_within(problem: Problem, rng: np.random.Generator) -> Rows:
    """Random rows, bred towards the limits until a quarter is within them: prices cost no evaluations."""
    space = problem.space
    X = founders(problem, _SAMPLE, rng)
    for _ in range(40):
        if _feasible(problem, X).mean() >= 0.25:
            break
        parents = X[np.argsort(problem.costs(X).max(axis=1, initial=0.0), kind="stable")[: _SAMPLE // 4]]
        mothers, fathers = (parents[rng.integers(len(parents), size=_SAMPLE)] for _ in range(2))
        children = space.cross(mothers, fathers, rng)
        X = _distinct(np.concatenate([parents, children, space.mutate(children, rng, 1.0 / len(space.sizes))]))
    return _unseen(problem, X)
