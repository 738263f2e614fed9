"""Problem: what to maximise, and within which limits.

A problem scores rows: cheap compiled metrics first, the predictor last and only on rows that meet every limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._store import PathLike
from .errors import InvalidInput, WrongSpace
from .metrics import METRICS, Limit, Metric, available, check_limits, evaluate, metric, prove_feasible
from .predictor import Predictor, load_predictor
from .space import Rows, SearchSpace
from .spaces import load_space
from .table import LatencyTable, load_table

Values = npt.NDArray[np.float64]
Score = Callable[[Rows], npt.ArrayLike]


@dataclass(frozen=True, eq=False)
class Problem:
    """What to maximise, and within which limits.

    Attributes:
        space: where to search.
        score: canonical rows, shape ``(n, genes)``, -> scores, higher is better, shape ``(n,)``.
        limits: the most that metrics may be.
        seeds: rows worth trying first, shape ``(k, genes)``.
        metrics: everything that is reported of a network, limited or not.
        shared: what algorithms have worked out and may find again, here or in a problem that differs in how tight its limits are.
    """

    space: SearchSpace
    score: Score = field(repr=False)
    limits: tuple[Limit, ...]
    seeds: Rows = field(repr=False)
    metrics: tuple[Metric, ...] = field(repr=False)
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
            found = np.asarray(self.score(X[feasible]), dtype=np.float64)
            if found.shape != (int(feasible.sum()),):
                raise InvalidInput(
                    f"The predictor returned the shape {found.shape} for {int(feasible.sum())} rows; one score a row was expected."
                )
            if not np.isfinite(found).all():
                raise InvalidInput(f"The predictor returned {int((~np.isfinite(found)).sum())} scores that are not finite.")
            scores[feasible] = found
        return scores, costs

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
        if isinstance(self.score, Predictor):
            doubt, report = float(self.score.doubt(row[None])[0]), self.score.report
            if self.score.outside(row[None])[0]:
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
    device: LatencyTable | PathLike | None = None,
    limits: Mapping[str, float] | None = None,
) -> Problem:
    """Load the parts of a search and check them against each other.

    Args:
        space: a space or its name.
        predictor: a fitted predictor, the path of one, or any callable from rows ``(n, genes)`` to scores ``(n,)``.
        device: a latency table, its path, or its name in ``latency_tables/``. The search offers only the precisions that it holds.
        limits: metric name -> the most it may be, any number of them.

    Raises:
        UnknownName: of a space or a metric.
        InvalidLimit: a limit that is negative, NaN, infinite or no number.
        Infeasible: limits that, provably, no architecture meets.
        InvalidInput: a measured metric is limited, and no device is named.
        WrongSpace: the predictor belongs to another space.
        MissingBlocks: the device's table lacks blocks of the space.
    """
    where = load_space(space)
    checked = check_limits(limits or {}, [*METRICS, *where.costs])
    if isinstance(predictor, str | Path):
        predictor = load_predictor(predictor, where)
    if not callable(predictor):
        raise InvalidInput(f"predictor must be a Predictor, the path of one, or a callable from rows to scores, not {predictor!r}.")
    if isinstance(predictor, Predictor) and predictor.fingerprint != where.fingerprint:
        raise WrongSpace(
            f"The predictor is of space {predictor.space.name!r} ({predictor.fingerprint}), not of {where.name!r} ({where.fingerprint})."
        )
    table = None if device is None else find_table(device)
    if table is not None and any(choice.name.endswith("precision") for choice in where.choices):
        where = where.restrict({"*precision": table.precisions})
    names = dict.fromkeys([*checked, *available(where, table)])
    metrics = tuple(metric(name, where, table) for name in names)
    bounds = tuple(Limit(entry, checked[entry.name]) for entry in metrics if entry.name in checked)
    seeds = prove_feasible(bounds).reshape(-1, len(where.choices))
    return Problem(where, predictor, bounds, seeds, metrics)


def find_table(device: LatencyTable | PathLike) -> LatencyTable:
    """A device's latency table, given itself, its path, or its name in the folder ``latency_tables/``.

    Raises:
        FileError: there is no such file, or it is no latency table; the message names what was looked for.
    """
    if isinstance(device, LatencyTable):
        return device
    named = Path("latency_tables", f"{device}.json")
    return load_table(named if not Path(device).exists() and named.exists() else device)
