"""Problem: what to maximise, and within which limits.

A problem scores rows: cheap compiled metrics first, the predictor last and only on rows that meet every limit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files._writing import PathLike
from ..costs._metrics import METRICS, Limit, Metric, available, check_limits, evaluate, metric, prove_feasible
from ..devices._table import QUANTITIES, LatencyTable, load_table
from ..errors import InvalidInput, WrongSpace
from ..scores._predictor import Predictor, load_predictor
from ..spaces._load import load_space
from ..spaces._space import Rows, SearchSpace

Values = npt.NDArray[np.float64]
Score = Callable[[Rows], npt.ArrayLike]
Devices = LatencyTable | PathLike | Sequence[LatencyTable | PathLike]
"""A latency table, its path, or its name in ``latency_tables/``; or several of them."""


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
    """

    space: SearchSpace
    score: Score = field(repr=False)
    limits: tuple[Limit, ...]
    seeds: Rows = field(repr=False)
    metrics: tuple[Metric, ...] = field(repr=False)
    seen: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64), repr=False)
    shared: dict[Any, Any] = field(default_factory=dict, repr=False)

    def costs(self, X: Rows) -> Values:
        """The limited metrics of rows as fractions of their limits (at most 1: met), shape ``(n, limits)``."""
        costs = np.zeros((len(X), len(self.limits)))
        if self.limits and len(X):
            values = evaluate([limit.metric for limit in self.limits], X)
            for column, limit in enumerate(self.limits):
                costs[:, column] = limit.ratio(values[:, column])
        return costs

    def evaluate(self, X: Rows) -> tuple[Values, Values]:
        """Score rows.

        Args:
            X: canonical rows, shape ``(n, genes)``.

        Returns:
            Scores, NaN where a limit is exceeded, shape ``(n,)``; and the limited metrics as fractions of their limits, shape
            ``(n, limits)``.

        Raises:
            InvalidInput: the predictor's answer has another shape, or is not finite.
        """
        scores = np.full(len(X), np.nan)
        costs = self.costs(X)
        feasible = (costs <= 1.0).all(axis=1)
        if feasible.any():
            found = _numbers(self.score(X[feasible]))
            if found.shape != (int(feasible.sum()),):
                raise InvalidInput(
                    f"The predictor returned the shape {found.shape} for {int(feasible.sum())} rows; one score a row was expected."
                )
            if not np.isfinite(found).all():
                raise InvalidInput(f"The predictor returned {int((~np.isfinite(found)).sum())} scores that are not finite.")
            scores[feasible] = found
        return scores, costs

    def slopes(self, X: Rows) -> npt.NDArray[np.float32]:
        """How the scores of canonical rows change with each feature, to first order, shape ``(n, features)``.

        Without columns where the score cannot tell: only those with a method ``slopes`` of their own can.
        """
        known = getattr(self.score, "slopes", None)
        found = None if known is None else known(X)
        return np.empty((len(X), 0), dtype=np.float32) if found is None else found

    @property
    def sloped(self) -> bool:
        """Whether the score knows its slopes."""
        return bool(self.slopes(np.zeros((1, len(self.space.choices)), dtype=np.uint8)).size)

    def cautions(self, row: Rows, equals: int) -> tuple[str, ...]:
        """Why the score of the best row should not be taken at its word; nothing where there is no reason.

        Args:
            row: a canonical row, shape ``(genes,)``.
            equals: how many other rows that were evaluated have exactly the same score.
        """
        found = []
        if equals >= 10:
            found.append(
                f"The prediction is saturated: {equals} other networks have exactly the same score, and it cannot tell good from better "
                "there. Tighten the limits, or use another predictor."
            )
        doubts, outside = getattr(self.score, "doubt", None), getattr(self.score, "outside", None)
        if doubts is not None and outside is not None:
            doubt, report = float(doubts(row[None])[0]), getattr(self.score, "report", None)
            if outside(row[None])[0]:
                found.append(
                    "The network has a value of a gene that no network had which the predictor was fitted on. Evaluate it before you "
                    "trust it."
                )
            if report is not None and doubt > 2 * report.rmse:
                found.append(
                    f"The predictor is unsure: +-{doubt:.2g}, where its error on held-out networks is {report.rmse:.2g}. Evaluate the "
                    "network before you trust it."
                )
        return tuple(found)


def problem(
    space: str | SearchSpace,
    *,
    predictor: Predictor | PathLike | Score,
    device: Devices | None = None,
    weights: Sequence[float] | None = None,
    metrics: Sequence[Metric] = (),
    limits: Mapping[str, float] | None = None,
) -> Problem:
    """Load the parts of a search and check them against each other.

    Args:
        space: a space or its name.
        predictor: a fitted predictor, the path of one, or any callable from rows ``(n, genes)`` to scores ``(n,)``.
        device: a latency table, its path, or its name in ``latency_tables/``. The search offers only the precisions that it holds. Of
            several devices a limit on ``latency_ms`` or ``energy_mj`` holds on each: the metrics are then called
            ``latency_ms[device]`` and so on, and may also be limited by these names.
        weights: of several devices, each at least 0: what is limited and reported is then the weighted sum over the devices.
        metrics: further costs to limit and to report, such as that of :func:`hwsearch.fit_metric`; they come before others of their names.
        limits: metric name -> the most it may be, any number of them.

    Raises:
        UnknownName: of a space or a metric.
        InvalidLimit: a limit that is negative, NaN, infinite or no number.
        Infeasible: limits that, provably, no architecture meets.
        InvalidInput: a measured metric is limited, and no device is named; or devices and weights do not fit together.
        WrongSpace: the predictor or one of the metrics belongs to another space.
        MissingBlocks: the device's table lacks blocks of the space.
    """
    where = load_space(space)
    if isinstance(predictor, str | Path):
        predictor = load_predictor(predictor, where)
    if not callable(predictor):
        raise InvalidInput(f"predictor must be a Predictor, the path of one, or a callable from rows to scores, not {predictor!r}.")
    if isinstance(predictor, Predictor) and predictor.fingerprint != where.fingerprint:
        raise WrongSpace(
            f"The predictor is of space {predictor.space.name!r} ({predictor.fingerprint}), not of {where.name!r} ({where.fingerprint})."
        )
    if device is None:
        tables = []
    elif isinstance(device, Sequence) and not isinstance(device, str):
        tables = [find_table(each) for each in device]
    else:
        tables = [find_table(device)]
    if any(choice.is_precision for choice in where.choices):
        for table in tables:
            where = where.restrict({"*precision": table.precisions})
    for entry in metrics:
        if entry.space.fingerprint != where.fingerprint:
            raise WrongSpace(f"The metric {entry.name!r} is of space {entry.space.name!r}, not of {where.name!r}.")
    own = {entry.name for entry in metrics}
    known = [*(replace(entry, space=where) for entry in metrics), *(e for e in _metrics(where, tables, weights) if e.name not in own)]
    checked = check_limits(limits or {}, [*METRICS, *(entry.name for entry in known)])
    for name in checked:
        for table in [] if name in own or name not in QUANTITIES else tables:
            if name not in available(where, table):
                metric(name, where, table)  # raises, and says for which blocks there is none
        if not any(name in (entry.name, _plain(entry)) for entry in known):
            raise InvalidInput(f"{name} is measured: name a device's latency table (device=...).")
    most = {entry.name: checked.get(entry.name, checked.get(_plain(entry))) for entry in known}
    bounds = tuple(Limit(entry, value) for entry in known if (value := most[entry.name]) is not None)
    seeds = prove_feasible(bounds).reshape(-1, len(where.choices))
    return Problem(where, predictor, bounds, seeds, tuple(sorted(known, key=lambda entry: most[entry.name] is None)))


def _numbers(found: object) -> Values:
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
            parts = [(genes, w * array) for entry, w in zip(each, weights, strict=True) for genes, array in entry.tables]
            found.append(
                replace(each[0], tables=tuple(parts), device=" + ".join(f"{w:g} {n}" for w, n in zip(weights, names, strict=True)))
            )
    return tuple(found)


def _plain(entry: Metric) -> str:
    """The name of a metric without the device in it."""
    return entry.name.partition("[")[0]


def find_table(device: LatencyTable | PathLike) -> LatencyTable:
    """A device's latency table, given itself, its path, or its name in the folder ``latency_tables/``.

    Raises:
        FileError: there is no such file, or it is no latency table; the message names what was looked for.
    """
    if isinstance(device, LatencyTable):
        return device
    named = Path("latency_tables", f"{device}.json")
    return load_table(named if not os.path.exists(device) and os.path.exists(named) else device)
