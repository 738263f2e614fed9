"""Problem: what to maximise, and within which limits.

A problem scores rows: cheap compiled metrics first, the predictor last and only on rows that meet every limit.
"""

from __future__ import annotations

import functools
import operator
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from .._files._writing import PathLike
from .._types import Rows, Values
from .._types import Score as Score
from ..costs._limits import Limit, check_limits, prove_feasible
from ..costs._metrics import METRICS, Metric, available, metric, values_of
from ..devices._table import QUANTITIES, LatencyTable, load_table
from ..errors import InvalidInput, SaturationWarning, WrongSpace
from ..scores._predictor import Predictor, load_predictor
from ..spaces._load import load_space
from ..spaces._space import SearchSpace

Devices = LatencyTable | PathLike | Sequence[LatencyTable | PathLike]
"""A latency table, its path, or its name in ``latency_tables/``; or several of them."""


_SHIPPED = tuple(Path(__file__).parents[up] / "latency_tables" for up in (1, 2))
"""Where the tables lie that come with hwsearch: inside the package, or beside it in a checkout."""
_RENAMED = {"slopes": "gradient", "doubt": "std", "outside": "extrapolates"}
"""Former names of what a score may know of itself: a score that has only these would be searched less well without a word."""


class Parts(TypedDict, total=False):
    """The arguments of :meth:`Problem.of` but for the limits, for verbs that have limits of their own."""

    predictor: Predictor | PathLike | Score
    device: Devices | None
    weights: Sequence[float] | None
    metrics: Sequence[Metric]


class Posing(Parts, total=False):
    """The arguments of :meth:`Problem.of`, which every verb that takes a problem takes in its place."""

    limits: Mapping[str, float] | None


@dataclass(frozen=True, eq=False)
class Problem:
    """What to maximise, and within which limits.

    Attributes:
        space: where to search.
        score: canonical rows, shape ``(n, genes)``, -> scores, higher is better, shape ``(n,)``.
        limits: the most that metrics may be.
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
        *,
        predictor: Predictor | PathLike | Score | None = None,
        device: Devices | None = None,
        weights: Sequence[float] | None = None,
        metrics: Sequence[Metric] = (),
        limits: Mapping[str, float] | None = None,
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
            UnknownName: of a space or a metric.
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
        if isinstance(space, Problem):
            if any(given is not None for given in (predictor, device, weights, limits)) or len(metrics):
                raise InvalidInput("The problem is posed already; predictor, device, weights, metrics and limits go with a space.")
            return space
        score, where = _scored(predictor, load_space(space))
        tables = _tables(device)
        if where.with_role("precision"):
            for table in tables:
                where = where.restrict({"precision": table.precisions})
            _compare_arithmetic(score, where, tables)
        own = [_moved(entry, where, place) for place, entry in enumerate(metrics)]
        others = [entry for entry in _metrics(where, tables, weights) if entry.name not in {mine.name for mine in own}]
        posed = cls(
            where,
            score,
            limits=(),
            seeds=np.empty((0, len(where.choices)), dtype=np.uint8),
            metrics=(*own, *others),
            tables=tuple(tables),
            sources={"predictor": _told(predictor), "device": _told(device)},
        )
        return posed.within(limits or {})

    def within(self, limits: Mapping[str, float]) -> Problem:
        """The same problem with these limits in the place of those on the same metrics; the others stay.

        Args:
            limits: metric name -> the most it may be.

        Raises:
            HwsearchError: as :meth:`Problem.of`.
        """
        new = _limits(self.space, self.tables, self.metrics, limits)
        names = {limit.metric.name for limit in new}
        bounds = (*(limit for limit in self.limits if limit.metric.name not in names), *new)
        seeds = prove_feasible(bounds).reshape(-1, len(self.space.choices))
        limited = {limit.metric.name for limit in bounds}
        metrics = tuple(sorted(self.metrics, key=lambda entry: entry.name not in limited))
        return replace(self, limits=bounds, seeds=seeds, metrics=metrics)

    def having(self, score: Score, metrics: Sequence[Metric] = ()) -> Problem:
        """The same problem with another score, and with other metrics in the place of those of the same names.

        Raises:
            Infeasible: limits that, provably, no architecture meets by the new metrics.
        """
        new = {entry.name: replace(entry, space=self.space) for entry in metrics}
        limits = tuple(replace(limit, metric=new.get(limit.metric.name, limit.metric)) for limit in self.limits)
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


def _scored(predictor: Predictor | PathLike | Score | None, space: SearchSpace) -> tuple[Score, SearchSpace]:
    """What scores the rows of a space, and the space with what a predictor has learned of it.

    Raises:
        InvalidInput: it is neither a predictor nor callable, or has methods of former names only.
        WrongSpace: it belongs to another space.
    """
    found = load_predictor(predictor, space) if isinstance(predictor, str | Path) else predictor
    if not callable(found):
        raise InvalidInput(f"predictor must be a Predictor, the path of one, or a callable from rows to scores, not {predictor!r}.")
    for old, new in _RENAMED.items():
        if callable(getattr(found, old, None)) and not hasattr(found, new):
            raise InvalidInput(f"The predictor has a method {old!r}, which is called {new!r} now. Rename it.")
    if isinstance(found, Predictor) and found.fingerprint != space.fingerprint:
        raise WrongSpace(
            f"The predictor is of space {found.space.name!r} ({found.fingerprint}), not of {space.name!r} ({space.fingerprint})."
        )
    if isinstance(found, Predictor) and found.space.learned:
        return found, space.knowing(found.space.learned)
    return found, space


def _moved(entry: Metric, space: SearchSpace, place: int) -> Metric:
    """A metric of the same space, however restricted, that stands at a place among those that were given.

    Raises:
        InvalidInput: it is no metric.
        WrongSpace: it is of another space.
    """
    if not isinstance(entry, Metric):
        raise InvalidInput(
            f"metrics[{place}] is {entry!r}, not a hwsearch.costs.Metric. A search has to bound what it limits: make the cost with "
            "Metric.of_blocks() or Metric.from_tables()."
        )
    if entry.space.fingerprint != space.fingerprint:
        raise WrongSpace(f"The metric {entry.name!r} is of space {entry.space.name!r}, not of {space.name!r}.")
    return replace(entry, space=space)


def _tables(device: Devices | None) -> list[LatencyTable]:
    if device is None:
        return []
    return [find_table(each) for each in (device if isinstance(device, Sequence) and not isinstance(device, str) else [device])]


def _limits(space: SearchSpace, tables: Sequence[LatencyTable], known: Sequence[Metric], limits: Mapping[str, float]) -> tuple[Limit, ...]:
    """The limits on metrics that are known, which may be named without their device.

    Raises:
        UnknownName, InvalidLimit: of a limit.
        InvalidInput: a measured metric is limited, and no device is named.
        MissingBlocks: the device's table lacks blocks of the space.
    """
    checked = check_limits(limits, [*METRICS, *(entry.name for entry in known)])
    for name in checked:
        if name in QUANTITIES and all(name != entry.name for entry in known):
            for table in tables:
                if name not in available(space, table):
                    metric(name, space, table)  # raises, and says for which blocks there is none
        if not any(name in (entry.name, _plain(entry)) for entry in known):
            raise InvalidInput(f"{name} is measured: name a device's latency table (device=...).")
    most = {entry.name: checked.get(entry.name, checked.get(_plain(entry))) for entry in known}
    return tuple(Limit(entry, value) for entry in known if (value := most[entry.name]) is not None)


def _told(source: object) -> str | None:
    """Where a part came from: a path as it was given, anything else as it shows itself."""
    return source if source is None or isinstance(source, str) else str(source) if isinstance(source, Path) else repr(source)


def _compare_arithmetic(predictor: object, space: SearchSpace, tables: Sequence[LatencyTable]) -> None:
    """Warn if a predictor was fitted to int8 networks with weights of other bits than a device carries."""
    bits = getattr(predictor, "weight_bits", None)
    choices = zip(space.choices, space.allowed, strict=True)
    offered = {choice.values[index] for choice, allowed in choices if choice.is_precision for index in allowed}
    for table in tables if bits is not None and "int8" in offered else ():
        if table.device.weight_bits != bits:
            warnings.warn(
                f"The predictor was fitted to networks with int8 weights of {bits} bits, and the products of {table.device.name!r} carry "
                f"{table.device.weight_bits}, which is what files for it have. Fit a predictor for this device with: "
                f"hwsearch fit-predictor --device {table.source}, or "
                "fit_predictor(..., sampling=Sampling(quantization=Quantization().on(table.device))).",
                SaturationWarning,
                stacklevel=4,
            )


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


def _metrics(space: SearchSpace, tables: Sequence[LatencyTable], weights: Sequence[float] | None) -> tuple[Metric, ...]:
    """Everything that is known of a network on some devices."""
    if weights is not None:
        shares = np.asarray(weights)
        if shares.shape != (len(tables),) or shares.dtype.kind not in "biuf" or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
            raise InvalidInput(f"weights must hold a finite number of at least 0 for each of {len(tables)} devices, not {weights!r}.")
    names = [table.device.name for table in tables]
    if len(set(names)) < len(names):
        raise InvalidInput(f"Several devices must differ in their names, not {names}.")
    known = [available(space, table) for table in tables] or [available(space)]
    found: list[Metric] = []
    for name in dict.fromkeys(name for each in known for name in each):
        each = [metric(name, space, table) for table, has in zip(tables, known, strict=False) if name in has]
        if len(tables) < 2 or each[0].device is None:
            found.append(each[0] if each else metric(name, space))
        elif weights is None:
            found += [replace(entry, name=f"{name}[{entry.device}]") for entry in each]
        elif len(each) == len(tables):
            total = functools.reduce(operator.add, (entry.tables * weight for entry, weight in zip(each, weights, strict=True)))
            found.append(replace(each[0], tables=total, device=" + ".join(f"{w:g} {n}" for w, n in zip(weights, names, strict=True))))
    return tuple(found)


def _plain(entry: Metric) -> str:
    """The name of a metric without the device in it."""
    return entry.name.partition("[")[0]


def find_table(device: LatencyTable | PathLike) -> LatencyTable:
    """A device's latency table, given itself, its path, or its name: in the folder ``latency_tables/``, or of those that ship.

    Raises:
        FileError: there is no such file, or it is no latency table; the message names what was looked for.
    """
    if isinstance(device, LatencyTable):
        return device
    named = [folder / f"{device}.json" for folder in (Path("latency_tables"), *_SHIPPED)]
    return load_table(next(filter(os.path.exists, (device, *named)), device))
