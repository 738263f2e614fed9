"""sweep(): the same search at many limits, each point helping the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Unpack

import numpy as np

from ..algorithms._load import load_algorithm
from ..algorithms._problem import Parts, Problem
from ..algorithms.base import Algorithm
from ..costs._limits import check_limits
from ..errors import Infeasible, InvalidInput, require
from ..spaces._space import SearchSpace
from ._loop import solve
from ._result import SearchResult
from ._run import ONCE, Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Sweep:
    """The answers at many limits.

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

    Args:
        problem: as in :func:`hwsearch.search`; limits that it has already hold at every point.
        limits: metric name -> the most it may be: a number, or several.
        algorithm: as in :func:`hwsearch.search`; with ``"exact"`` the front is certified.
        seed: of every point.
        run: of every point; a sweep keeps no state.

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
    if run.state is not None:
        raise InvalidInput("A sweep is not kept in a state file; search its points one by one (hwsearch.search) to keep them.")
    axes = {name: [check_limits({name: one}, [name])[name] for one in _several(most)] for name, most in limits.items()}
    if not axes or not all(axes.values()):
        raise InvalidInput(f"limits must hold at least one value a metric, such as {{'latency_ms': [15, 20, 25]}}, not {limits!r}.")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*(sorted(axis) for axis in axes.values()))]
    base = Problem.of(problem, **parts)
    results: list[SearchResult] = []
    infeasible: list[tuple[Mapping[str, float], str]] = []
    loosest = base.within(points[-1])
    method = load_algorithm(algorithm, loosest)
    for point in points:
        try:
            task = loosest.within(point)
            earlier = [result.front.X[:8] for result in results[-4:]]
            results.append(solve(replace(task, seeds=np.concatenate([task.seeds, *earlier])), method, seed=seed, run=run))
        except Infeasible as error:
            infeasible.append((point, str(error)))
    if not results:
        raise Infeasible(f"None of {len(points)} points can be met. The loosest: {infeasible[-1][1]}")
    return Sweep(tuple(results), tuple(infeasible))


def _several(most: object) -> Sequence[object]:
    """The values of one metric's limit; a single one is a sequence of one."""
    if isinstance(most, np.ndarray):
        return np.ravel(most).tolist()
    return most if isinstance(most, Sequence) and not isinstance(most, str | bytes) else (most,)
