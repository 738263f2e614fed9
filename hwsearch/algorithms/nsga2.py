"""NSGA-II: the whole trade-off between the score and any metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..costs._metrics import Metric, values_of
from ..errors import UnknownName
from ._pareto import nondominated
from .base import mutation_rates

if TYPE_CHECKING:
    from ._problem import Problem


@dataclass(frozen=True)
class NSGA2State:
    """The population.

    Attributes:
        X: rows, shape ``(n, genes)``; those that the last step was told about come after the population.
        scores: NaN if infeasible, shape ``(n,)``.
        excess: how far over the limits, 0 if they are met, shape ``(n,)``.
        step: steps taken.
    """

    X: Rows
    scores: Values
    excess: Values
    step: int = 0


@dataclass(frozen=True)
class NSGA2:
    """Non-dominated sorting and crowding distance (Deb et al., IEEE TEC 2002), with constraint domination and unseen children only.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import NSGA2
        >>> trade = NSGA2(population=50, metrics=("macs",), steps=10)
        >>> front = hwsearch.search("resnet_digits", trade, predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}).front
        >>> len(front) > 5, bool(front.values["macs"].max() > 2 * front.values["macs"].min())
        (True, True)

    Attributes:
        population: rows kept, and children a step.
        metrics: names of what is traded against the score; the limited metrics if empty, or else the first one that the problem knows.
        steps: steps of a search.
    """

    name: ClassVar[str] = "nsga2"
    takes_late_answers: ClassVar[bool] = True
    population: int = 128
    metrics: tuple[str, ...] = ()
    steps: int = 120

    def init(self, problem: Problem) -> NSGA2State:
        """The state before the first step.

        Raises:
            UnknownName: a metric that the problem does not know.
        """
        self.traded(problem)
        return NSGA2State(np.empty((0, len(problem.space.choices)), dtype=np.uint8), np.empty(0), np.empty(0))

    def traded(self, problem: Problem) -> tuple[Metric, ...]:
        """The metrics that are traded against the score."""
        known = {metric.name: metric for metric in problem.metrics}
        for name in self.metrics:
            if name not in known:
                raise UnknownName("metric to trade", name, known)
        names = self.metrics or tuple(dict.fromkeys(limit.metric.name for limit in problem.limits)) or tuple(known)[:1]
        return tuple(known[name] for name in names)

    def ask(self, state: NSGA2State, problem: Problem, rng: np.random.Generator) -> tuple[Rows, NSGA2State]:
        """Children of the survivors of what is known; seeds and random rows at first."""
        space = problem.space
        if not len(state.X):
            return np.concatenate([problem.seeds, space.sample(self.population, rng)]), state
        costs = np.column_stack([-state.scores, values_of(self.traded(problem), state.X)])
        order = self._survivors(costs, state.excess)
        X = state.X[order]
        kept = replace(state, X=X, scores=state.scores[order], excess=state.excess[order])
        children: list[Rows] = []
        seen = {row.tobytes() for row in X}
        for _ in range(8):
            n = 2 * self.population
            mothers, fathers = (X[np.minimum(rng.integers(len(X), size=n), rng.integers(len(X), size=n))] for _ in range(2))
            crossed = space.cross(mothers, fathers, rng)
            some = rng.random(n) < 0.8
            crossed[some] = space.mutate(crossed[some], rng, mutation_rates(X.shape[1], int(some.sum()), rng))
            for row in crossed:
                if row.tobytes() not in seen:
                    seen.add(row.tobytes())
                    children.append(row)
            if len(children) >= self.population:
                break
        return np.array(children[: self.population], dtype=np.uint8).reshape(-1, X.shape[1]), kept

    def tell(self, state: NSGA2State, X: Rows, scores: Values, costs: Values) -> NSGA2State:
        """Put the new rows beside the population."""
        excess = np.maximum(costs - 1.0, 0.0).sum(axis=1) if costs.shape[1] else np.zeros(len(X))
        excess[np.isnan(scores) & (excess == 0)] = np.inf  # its score failed
        return replace(
            state,
            X=np.concatenate([state.X, X]),
            scores=np.concatenate([state.scores, scores]),
            excess=np.concatenate([state.excess, excess]),
            step=state.step + 1,
        )

    def done(self, state: NSGA2State) -> bool:
        """Never: the front may always grow."""
        return False

    def _survivors(self, costs: Values, excess: Values) -> npt.NDArray[np.intp]:
        """Indices of the rows that live on, best first."""
        order: list[npt.NDArray[np.intp]] = []
        left = np.flatnonzero(excess == 0)
        count = 0
        while len(left) and count < self.population:
            front = left[nondominated(costs[left])]
            front = front[np.argsort(-crowding(costs[front]), kind="stable")]
            order.append(front)
            count += len(front)
            left = np.setdiff1d(left, front)
        over = np.flatnonzero(excess > 0)
        order.append(over[np.argsort(excess[over], kind="stable")])
        return np.concatenate(order)[: self.population].astype(np.intp)


def crowding(points: Values) -> Values:
    """Crowding distance of the points of a front (Deb et al., 2002, section III-B); infinite at its ends, shape ``(n,)``."""
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        if span > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
        distance[order[[0, -1]]] = np.inf
    return distance
