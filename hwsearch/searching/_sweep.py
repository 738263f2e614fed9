"""sweep(): the same search at many limits, each point helping the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from .._files._writing import PathLike
from ..algorithms._load import load_algorithm
from ..algorithms._problem import Devices, Score, problem
from ..algorithms.base import Algorithm
from ..costs._metrics import Limit, Metric, check_limits, prove_feasible
from ..errors import Infeasible, InvalidInput, require
from ..scores._predictor import Predictor
from ..spaces._space import SearchSpace
from ._loop import solve
from ._result import SearchResult

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
    space: str | SearchSpace,
    *,
    predictor: Predictor | PathLike | Score,
    limits: Mapping[str, float | Sequence[float]],
    device: Devices | None = None,
    weights: Sequence[float] | None = None,
    metrics: Sequence[Metric] = (),
    algorithm: str | Algorithm | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> Sweep:
    """Search at many limits at once: every combination of the values given.

    Points are searched from the tightest to the loosest, and the best rows of earlier points, feasible at looser ones, are the seeds
    of later ones, so a looser point is never worse than a tighter one. An exact algorithm reduces the problem once for all of them.

    Args:
        space: a space or its name.
        predictor: as in :func:`hwsearch.search`.
        limits: metric name -> the most it may be: a number, or several.
        device, weights, metrics: as in :func:`hwsearch.search`.
        algorithm: as in :func:`hwsearch.search`; with ``"exact"`` the front is certified.
        seed: of every point.
        steps: of every point.

    Raises:
        InvalidInput: no metric has several values, or a metric has none.
        Infeasible: none of the points can be met.
        HwsearchError: as :func:`hwsearch.search`.
    """
    if not isinstance(limits, Mapping):
        raise InvalidInput(f"limits must map metric names to one number or several, not {limits!r}.")
    axes = {name: [check_limits({name: one}, [name])[name] for one in _several(most)] for name, most in limits.items()}
    if not axes or not all(axes.values()):
        raise InvalidInput(f"limits must hold at least one value a metric, such as {{'latency_ms': [15, 20, 25]}}, not {limits!r}.")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*(sorted(axis) for axis in axes.values()))]
    base = problem(space, predictor=predictor, device=device, weights=weights, metrics=metrics, limits=points[-1])
    method = load_algorithm(algorithm, base)
    results: list[SearchResult] = []
    infeasible: list[tuple[Mapping[str, float], str]] = []
    for point in points:
        named = {limit.metric.name: limit.metric.name.partition("[")[0] for limit in base.limits}  # without the device
        bounds = tuple(
            Limit(limit.metric, float(point.get(limit.metric.name, point.get(named[limit.metric.name], 0.0)))) for limit in base.limits
        )
        try:
            seeds = prove_feasible(bounds).reshape(-1, len(base.space.choices))
            earlier = [result.front.X[:8] for result in results[-4:]]
            posed = replace(base, limits=bounds, seeds=np.concatenate([seeds, *earlier]))
            results.append(solve(posed, method, seed=seed, steps=steps, sources={"predictor": predictor, "device": device}))
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
