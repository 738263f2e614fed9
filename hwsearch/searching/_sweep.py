"""sweep(): the same search at many limits, each point helping the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Unpack

import numpy as np

from ..algorithms._load import load_algorithm
from ..algorithms._problem import Parts, Problem
from ..algorithms.base import Algorithm
from ..algorithms.surrogate import Surrogate
from ..costs._limits import check_limits
from ..errors import EvaluationsFailed, Infeasible, InvalidInput, require
from ..spaces._space import SearchSpace
from ._loop import explore, narrowed, result, solve
from ._result import SearchResult
from ._run import ONCE, Run
from ._search import on_workers

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Sweep:
    """The answers at many limits.

    Example:
        >>> import hwsearch
        >>> limits = {"macs": [1e3, 5e5, 1e6]}
        >>> points = hwsearch.sweep("resnet_digits", limits, predictor=lambda X: X.sum(axis=1), run=hwsearch.Run(steps=3))
        >>> len(points), [most for most, _ in points.infeasible], points[0].best_score <= points[1].best_score
        (2, [{'macs': 1000.0}], True)

    Attributes:
        results: one for each combination of limits that can be met, tightest first.
        infeasible: the combinations that cannot be met, with the reason.
    """

    results: tuple[SearchResult, ...]
    infeasible: tuple[tuple[Mapping[str, float], str], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[SearchResult]:
        return iter(self.results)

    def __getitem__(self, index: int) -> SearchResult:
        return self.results[index]

    def __repr__(self) -> str:
        lines = [repr(result) for result in self.results]
        lines += [f"<not possible: {reason}>" for _, reason in self.infeasible]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """A pandas DataFrame: a row a point, with its limits, its best score, the bound where there is one, and the metrics.

        Example:
            >>> import hwsearch
            >>> limits = {"macs": [5e5, 1e6]}
            >>> points = hwsearch.sweep("resnet_digits", limits, predictor=lambda X: X.sum(axis=1), run=hwsearch.Run(steps=3))
            >>> points.to_frame()["macs <="].tolist()
            [500000.0, 1000000.0]

        Raises:
            MissingDependency: pandas is not installed.
        """
        frames = require("pandas", feature="Sweep.to_frame()", extra="pandas")
        frame: pd.DataFrame = frames.DataFrame(
            [
                {**{f"{name} <=": most for name, most in r.limits.items()}, "score": r.best_score, "bound": r.bound, **r.values}
                for r in self.results
            ]
        )
        return frame


def sweep(
    problem: Problem | str | SearchSpace,
    limits: Mapping[str, float | Sequence[float]],
    algorithm: str | Algorithm | None = None,
    *,
    seed: int = 0,
    run: Run = ONCE,
    **parts: Unpack[Parts],
) -> Sweep:
    """Search at many limits at once: every combination of the values given.

    Points are searched from the tightest to the loosest, and the best rows of earlier points, feasible at looser ones, are the seeds
    of later ones, so a looser point is never worse than a tighter one. An exact algorithm reduces the problem once for all of them.
    A budget of evaluations is one for all points: the front is searched as a whole, and each point is the best that it holds.

    Args:
        problem: as in :func:`hwsearch.search`; limits that it has already hold at every point.
        limits: metric name -> the most it may be: a number, or several.
        algorithm: as in :func:`hwsearch.search`; with ``"exact"`` the front is certified.
        seed: of every point.
        run: of every point; a sweep keeps a state only within a budget of ``run.evaluations``, which all points share.

    Raises:
        InvalidInput: no metric has several values, or a metric has none.
        Infeasible: none of the points can be met.
        HwsearchError: as :func:`hwsearch.search`.

    Example:
        >>> import hwsearch
        >>> points = {"macs": [5e5, 1e6]}
        >>> front = hwsearch.sweep("resnet_digits", points, predictor=lambda X: X.sum(axis=1), run=hwsearch.Run(steps=3))
        >>> [result.limits["macs"] for result in front]
        [500000.0, 1000000.0]
    """
    if not isinstance(limits, Mapping):
        raise InvalidInput(f"limits must map metric names to one number or several, not {limits!r}.")
    if run.state is not None and run.evaluations is None:
        raise InvalidInput("A sweep is not kept in a state file; search its points one by one (hwsearch.search) to keep them.")
    axes = {name: [check_limits({name: one}, [name])[name] for one in _several(most)] for name, most in limits.items()}
    if not axes or not all(axes.values()):
        raise InvalidInput(f"limits must hold at least one value a metric, such as {{'latency_ms': [15, 20, 25]}}, not {limits!r}.")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*(sorted(axis) for axis in axes.values()))]
    base = Problem.of(problem, **parts)
    results: list[SearchResult] = []
    infeasible: list[tuple[Mapping[str, float], str]] = []
    with on_workers(base.within(points[-1]), run) as loosest:
        if run.evaluations is None:
            answer = _one_by_one(loosest, load_algorithm(algorithm, loosest), results, seed, run)
        else:
            answer = _of_one_front(loosest, _of_fronts(algorithm, loosest, axes), seed, run)
        for point in points:
            try:
                results.append(answer(loosest.within(point)))
            except (Infeasible, EvaluationsFailed) as error:
                infeasible.append((point, str(error)))
    if not results:
        raise Infeasible(f"None of {len(points)} points can be met. The loosest: {infeasible[-1][1]}")
    return Sweep(tuple(results), tuple(infeasible))


def _one_by_one(loosest: Problem, method: Algorithm, results: list[SearchResult], seed: int, run: Run) -> Callable[[Problem], SearchResult]:
    """Searches each point from the best rows of those before it."""

    def answer(task: Problem) -> SearchResult:
        earlier = [each.front.X[:8] for each in results[-4:]]
        return solve(replace(task, seeds=np.concatenate([task.seeds, *earlier])), method, seed=seed, run=run)

    return answer


def _of_one_front(loosest: Problem, method: Algorithm, seed: int, run: Run) -> Callable[[Problem], SearchResult]:
    """Searches a front once, within a budget of evaluations, and answers each point from what is known then."""
    state = explore(loosest, method, seed=seed, run=run)
    return lambda task: result(narrowed(state, task))


def _of_fronts(algorithm: str | Algorithm | None, problem: Problem, axes: Mapping[str, Sequence[float]]) -> Algorithm:
    """The algorithm of a sweep within a budget: by default one that trades the score against the limits that have several values."""
    if algorithm is not None:
        return load_algorithm(algorithm, problem)
    several = {name for name, values in axes.items() if len(values) > 1}
    limited = dict.fromkeys(limit.metric.name for limit in problem.limits)
    return Surrogate(metrics=tuple(name for name in limited if name in several or name.partition("[")[0] in several))


def _several(most: object) -> Sequence[object]:
    """The values of one metric's limit; a single one is a sequence of one."""
    if isinstance(most, np.ndarray):
        return np.ravel(most).tolist()
    return most if isinstance(most, Sequence) and not isinstance(most, str | bytes) else (most,)
