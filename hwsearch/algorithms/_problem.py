"""Problem: what to maximise, and within which limits.

A problem scores rows: cheap compiled metrics first, the predictor last and only on rows that meet every limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from .._files._writing import PathLike
from .._types import Rows, Values
from .._types import Score as Score
from ..costs._limits import Limit, prove_feasible
from ..costs._metrics import Metric, values_of
from ..devices._table import LatencyTable
from ..errors import InvalidInput, UnknownName
from ..scores._predictor import Predictor
from ..spaces._load import load_space
from ..spaces._space import SearchSpace
from ._parts import Devices, compare_arithmetic, limits_of, metrics_of, moved, scored, tables_of, told


class Parts(TypedDict, total=False):
    """The arguments of :meth:`Problem.of` but for the limits, for verbs that have limits of their own."""

    predictor: Predictor | PathLike | Score
    device: Devices | None
    weights: Sequence[float] | None
    metrics: Sequence[Metric]


class Posing(Parts, total=False):
    """The arguments of :meth:`Problem.of`, which every verb that takes a problem takes in its place."""

    limits: Mapping[str, float] | None


_ARGUMENTS = (*Posing.__annotations__, "seed", "run", "verify")
"""What verbs that pose a problem may be told: the arguments of :meth:`Problem.of`, and how to search."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What to maximise, and within which limits.

    Example:
        >>> import hwsearch, numpy as np
        >>> limits = {"macs": 1e6, "size_mb": 0.05}
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits=limits)
        >>> scores, costs = problem.evaluate(problem.space.sample(100, np.random.default_rng(0)))
        >>> costs.shape  # as fractions of the limits
        (100, 2)
        >>> bool((np.isnan(scores) == (costs > 1).any(axis=1)).all())  # no score beyond a limit
        True

    Attributes:
        space: where to search.
        score: canonical rows, shape ``(n, genes)``, -> scores, higher is better, shape ``(n,)``.
        limits: the most that metrics may be; a metric that is the largest of several sums is limited by one of each, of its name.
        seeds: rows worth trying first, shape ``(k, genes)``.
        metrics: everything that is reported of a network, limited or not.
        seen: keys of the rows that the search has evaluated so far, ascending (see :func:`hwsearch.spaces.row_keys`), shape ``(m,)``.
        shared: what algorithms have worked out and may find again, here or in a problem that differs in how tight its limits are.
        tables: of the devices that it was posed for.
        sources: where its predictor and its devices came from, for the record.
    """

    space: SearchSpace
    score: Score = field(repr=False)
    limits: tuple[Limit, ...]
    seeds: Rows = field(repr=False)
    metrics: tuple[Metric, ...] = field(repr=False)
    seen: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64), repr=False)
    shared: dict[Any, Any] = field(default_factory=dict, repr=False)
    tables: tuple[LatencyTable, ...] = field(default=(), repr=False)
    sources: Mapping[str, str | None] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        space: Problem | str | SearchSpace,
        **posing: Unpack[Posing],
    ) -> Problem:
        """Pose a problem: load its parts and check them against each other.

        Args:
            space: a space or its name; a problem that is posed already is returned as it is.
            predictor: a fitted predictor, the path of one, or any callable from rows ``(n, genes)`` to scores ``(n,)``.
            device: a latency table, its path, or its name in ``latency_tables/``. The search offers only the precisions that it holds. Of
                several devices a limit on ``latency_ms`` or ``energy_mj`` holds on each: the metrics are then called
                ``latency_ms[device]`` and so on, and may also be limited by these names.
            weights: of several devices, each at least 0: what is limited and reported is then the weighted sum over the devices.
            metrics: further costs to limit and to report, such as that of :func:`hwsearch.costs.fit_metric`; they come before others of
                their names.
            limits: metric name -> the most it may be, any number of them.

        Raises:
            UnknownName: of a space, a metric or an argument.
            InvalidLimit: a limit that is negative, NaN, infinite or no number.
            Infeasible: limits that, provably, no architecture meets.
            InvalidInput: a measured metric is limited, and no device is named; or devices and weights do not fit together.
            WrongSpace: the predictor or one of the metrics belongs to another space.
            MissingBlocks: the device's table lacks blocks of the space.

        Example:
            >>> import hwsearch
            >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
            >>> [str(limit) for limit in problem.limits]
            ['macs <= 1e+06']
        """
        for name in posing:
            if name not in _ARGUMENTS:
                raise UnknownName("argument", name, _ARGUMENTS)
        predictor, device, weights = posing.get("predictor"), posing.get("device"), posing.get("weights")
        metrics, limits = posing.get("metrics", ()), posing.get("limits")
        if isinstance(space, Problem):
            if any(given is not None for given in (predictor, device, weights, limits)) or len(metrics):
                raise InvalidInput("The problem is posed already; predictor, device, weights, metrics and limits go with a space.")
            return space
        score, where = scored(predictor, load_space(space))
        tables = tables_of(device)
        if where.with_role("precision"):
            for table in tables:
                where = where.restrict({"precision": table.precisions})
            compare_arithmetic(score, where, tables)
        own = moved(metrics, where)
        others = [entry for entry in metrics_of(where, tables, weights) if entry.name not in {mine.name for mine in own}]
        posed = cls(
            where,
            score,
            limits=(),
            seeds=np.empty((0, len(where.choices)), dtype=np.uint8),
            metrics=(*own, *others),
            tables=tuple(tables),
            sources={"predictor": told(predictor), "device": told(device)},
        )
        return posed.within(limits or {})

    def within(self, limits: Mapping[str, float]) -> Problem:
        """The same problem with these limits in the place of those on the same metrics; the others stay.

        Example:
            >>> import hwsearch
            >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
            >>> [str(limit) for limit in problem.within({"macs": 5e5, "size_mb": 0.05}).limits]
            ['macs <= 500000', 'size_mb <= 0.05']

        Args:
            limits: metric name -> the most it may be.

        Raises:
            HwsearchError: as :meth:`Problem.of`.
        """
        new = limits_of(self.space, self.tables, self.metrics, limits)
        names = {limit.metric.name for limit in new}
        bounds = (*(limit for limit in self.limits if limit.metric.name not in names), *new)
        seeds = prove_feasible(bounds).reshape(-1, len(self.space.choices))
        limited = {limit.metric.name for limit in bounds}
        metrics = tuple(sorted(self.metrics, key=lambda entry: entry.name not in limited))
        return replace(self, limits=bounds, seeds=seeds, metrics=metrics)

    def having(self, score: Score, metrics: Sequence[Metric] = ()) -> Problem:
        """The same problem with another score, and with other metrics in the place of those of the same names.

        Example:
            >>> import hwsearch, numpy as np
            >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
            >>> doubled = problem.having(lambda X: 2 * problem.score(X))
            >>> X = problem.space.sample(3, np.random.default_rng(0))
            >>> bool((doubled.score(X) == 2 * problem.score(X)).all()), len(doubled.limits)
            (True, 1)

        Raises:
            Infeasible: limits that, provably, no architecture meets by the new metrics.
        """
        new = {entry.name: replace(entry, space=self.space) for entry in metrics}
        kept: dict[tuple[str, float], list[Metric]] = {}
        for limit in self.limits:
            kept.setdefault((limit.metric.name, limit.at_most), []).append(limit.metric)
        limits = tuple(Limit(part, most) for (name, most), own in kept.items() for part in (new[name].parts if name in new else own))
        seeds = prove_feasible(limits).reshape(-1, len(self.space.choices)) if new else self.seeds
        known = tuple(new.get(entry.name, entry) for entry in self.metrics)
        return replace(self, score=score, limits=limits, seeds=seeds, metrics=known, shared={})

    def costs(self, X: Rows) -> Values:
        """The limited metrics of rows as fractions of their limits (at most 1: met), shape ``(n, limits)``."""
        costs = np.zeros((len(X), len(self.limits)))
        if self.limits and len(X):
            values = values_of([limit.metric for limit in self.limits], X)
            for column, limit in enumerate(self.limits):
                costs[:, column] = limit.ratio(values[:, column])
        return costs

    def evaluate(self, X: Rows) -> tuple[Values, Values]:
        """Score rows.

        Args:
            X: canonical rows, shape ``(n, genes)``.

        Returns:
            Scores, NaN if a limit is exceeded, shape ``(n,)``; and the limited metrics as fractions of their limits, shape
            ``(n, limits)``.

        Raises:
            InvalidInput: the predictor's answer has another shape, or is not finite.
        """
        scores = np.full(len(X), np.nan)
        costs = self.costs(X)
        feasible = (costs <= 1.0).all(axis=1)
        if feasible.any():
            found = numbers(self.score(X[feasible]))
            if found.shape != (int(feasible.sum()),):
                raise InvalidInput(
                    f"The predictor returned the shape {found.shape} for {int(feasible.sum())} rows; one score a row was expected."
                )
            if not np.isfinite(found).all():
                raise InvalidInput(f"The predictor returned {int((~np.isfinite(found)).sum())} scores that are not finite.")
            scores[feasible] = found
        return scores, costs

    def gradient(self, X: Rows) -> npt.NDArray[np.float32]:
        """How the scores of canonical rows change with each feature, to first order, shape ``(n, features)``.

        Without columns if the score cannot tell: only those with a method ``gradient`` of their own can.
        """
        known = getattr(self.score, "gradient", None)
        found = None if known is None else known(X)
        return np.empty((len(X), 0), dtype=np.float32) if found is None else found

    @property
    def has_gradient(self) -> bool:
        """Whether the score knows its gradient."""
        return bool(self.gradient(np.zeros((1, len(self.space.choices)), dtype=np.uint8)).size)

    def cautions(self, row: Rows, equals: int) -> tuple[str, ...]:
        """Reasons to distrust the predicted score of the best row, if there are any.

        Args:
            row: a canonical row, shape ``(genes,)``.
            equals: how many other rows that were evaluated have exactly the same score.
        """
        found = []
        if equals >= 10:
            found.append(
                f"The prediction is saturated: {equals} other networks have exactly the same score, "
                "so their order among themselves is arbitrary. Tighten the limits, or use another predictor."
            )
        std, extrapolates = getattr(self.score, "std", None), getattr(self.score, "extrapolates", None)
        if std is not None and extrapolates is not None:
            unsure, report = float(std(row[None])[0]), getattr(self.score, "report", None)
            if extrapolates(row[None])[0]:
                found.append(
                    "The network has a value of a gene that no network had which the predictor was fitted on. Evaluate it before you "
                    "trust it."
                )
            if report is not None and unsure > 2 * report.rmse:
                found.append(
                    f"The predictor is unsure: +-{unsure:.2g}, and its error on held-out networks is {report.rmse:.2g}. Evaluate the "
                    "network before you trust it."
                )
        return tuple(found)


def numbers(found: object) -> Values:
    """What a score returned, as numbers.

    Raises:
        InvalidInput: it is no array of real numbers.
    """
    try:
        array = np.asarray(found)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"The predictor returned what is no array of numbers: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"The predictor returned values of the type {array.dtype}; a real number for each row was expected.")
    return array.astype(np.float64)
