"""cheapest(): the least of a cost at a score, which is search() turned round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np

from .._types import Rows, Score, Values
from ..algorithms._load import load_algorithm
from ..algorithms._problem import Posing, Problem
from ..algorithms.base import Algorithm
from ..algorithms.surrogate import Surrogate
from ..costs._limits import Limit, prove_feasible
from ..costs._metrics import Metric, values_of
from ..errors import Infeasible, InvalidInput
from ..spaces._space import SearchSpace
from ._loop import explore, result, solve
from ._result import Front, SearchResult
from ._run import ONCE, Run
from ._search import on_workers


def cheapest(
    problem: Problem | str | SearchSpace,
    cost: str,
    score: float,
    algorithm: str | Algorithm | None = None,
    *,
    seed: int = 0,
    run: Run = ONCE,
    **posing: Unpack[Posing],
) -> SearchResult:
    """Find the network that costs least among those with a score of at least ``score``: :func:`hwsearch.search` turned round.

    Args:
        problem: as in :func:`hwsearch.search`.
        cost: the name of what shall be least, such as ``"latency_ms"``.
        score: the least predicted score.
        algorithm, seed, run: as in :func:`hwsearch.search`.

    Returns:
        As of :func:`hwsearch.search`, the cost limited to what was reached; its front is the network alone. Within a budget of
        ``run.evaluations`` the front of score and cost is searched, and its cheapest network that is good enough is taken.

    Raises:
        Infeasible: no network that the search came across has such a score within the limits; the message holds the best one.
        HwsearchError: as :func:`hwsearch.search`.

    Example:
        >>> import hwsearch
        >>> result = hwsearch.cheapest("resnet_digits", "macs", 9.0, predictor=lambda X: X.sum(axis=1), run=hwsearch.Run(steps=3))
        >>> result.best_score >= 9.0
        True
    """
    task = Problem.of(problem, **posing)
    by = named(task, cost)
    if run.evaluations is not None:
        return _of_known(task, by, score, algorithm, seed, run)
    turned = replace(_possible(task, by), score=_Cheap(task.score, by, score), sources={**task.sources, "cheapest": cost})
    found = solve(turned, load_algorithm(algorithm, turned), seed=seed, run=run)
    row = found.best.genes[None]
    reached = float(np.asarray(task.score(row))[0])
    if reached < score:
        raise Infeasible(
            f"No network with a score of at least {score:g} was found; the best has {reached:g}. Ask for less, or raise limits."
        )
    values = costs_of(task, row)
    front = Front(task.space, row, np.array([reached]), {name: np.array([value]) for name, value in values.items()})
    return replace(found, best_score=reached, values=values, limits={**found.limits, cost: values[cost]}, front=front)


def _of_known(problem: Problem, cost: Metric, enough: float, algorithm: str | Algorithm | None, seed: int, run: Run) -> SearchResult:
    """The cheapest of the networks that a search within a budget of evaluations evaluated."""
    method = Surrogate(metrics=(cost.name,)) if algorithm is None else load_algorithm(algorithm, problem)
    with on_workers(_possible(problem, cost), run) as spread:
        state = explore(spread, method, seed=seed, run=run)
        found = result(state)
    good = np.flatnonzero(state.scores >= enough)  # of all networks: the front may trade the score against other metrics
    if not len(good):
        raise Infeasible(f"No network with a score of at least {enough:g} was found; the best has {found.best_score:g}. Ask for less.")
    least = good[np.lexsort((-state.scores[good], cost(state.X[good])))[:1]]
    row, scores = state.X[least], state.scores[least]
    values = costs_of(problem, row)
    alone = Front(problem.space, row, scores, {name: np.array([value]) for name, value in values.items()})
    limits = {**found.limits, cost.name: values[cost.name]}
    return replace(found, best=alone[0], best_score=float(scores[0]), values=values, limits=limits, front=alone)


@dataclass(frozen=True)
class _Cheap:
    """-cost if the score suffices; otherwise a penalty below every -cost that grows with the shortfall."""

    score: Score
    cost: Metric
    enough: float

    def __call__(self, X: Rows) -> Values:
        missing = np.maximum(self.enough - np.asarray(self.score(X), dtype=np.float64), 0.0)
        worst = max(sum(float(array[np.isfinite(array)].max(initial=0.0)) for _, array in total) for total in self.cost.sums)
        return np.where(missing > 0, -worst * (1 + missing), -self.cost(X))


def _possible(problem: Problem, cost: Metric) -> Problem:
    """The problem with a limit that keeps out networks of infinite cost, where there are any.

    Raises:
        Infeasible: there are no others within the limits.
    """
    impossible = [part for part in cost.parts if not all(np.isfinite(array).all() for _, array in part.tables)]
    if not impossible:
        return problem
    finite = [sum(float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) for _, array in part.tables) for part in impossible]
    limits = (*problem.limits, *map(Limit, impossible, finite))
    return replace(problem, limits=limits, seeds=prove_feasible(limits).reshape(-1, len(problem.space.choices)))


def named(problem: Problem, metric: str) -> Metric:
    for entry in problem.metrics:
        if entry.name == metric:
            return entry
    known = ", ".join(entry.name for entry in problem.metrics)
    raise InvalidInput(f"{metric!r} is not known here: {known} are. For what is measured, name a device's latency table.")


def costs_of(problem: Problem, row: Rows) -> dict[str, float]:
    """All metrics of one row, shape ``(1, genes)``."""
    return dict(zip((entry.name for entry in problem.metrics), values_of(problem.metrics, row)[0].tolist(), strict=True))
