"""Limits: the most that metrics may be, checked, and refused with proof if they cannot be met."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..errors import Infeasible, InvalidInput, InvalidLimit, UnknownName
from ._metrics import METRICS, Metric, adjective


@dataclass(frozen=True, eq=False)
class Limit:
    """The most that a metric may be.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.costs import Limit
        >>> space = hwsearch.load_space("resnet_digits")
        >>> limit = Limit(hwsearch.metric("macs", space), 1e6)
        >>> print(limit)
        macs <= 1e+06
        >>> limit.ratio(np.array([5e5, 1e6, 2e6])).tolist()
        [0.5, 1.0, 2.0]
        >>> X = space.sample(1000, np.random.default_rng(0))
        >>> bool((limit.violation(X)[limit.metric(X) <= 1e6] == 0).all())
        True

    Attributes:
        metric: the compiled metric.
        at_most: in the metric's unit.
    """

    metric: Metric
    at_most: float

    def __str__(self) -> str:
        return f"{self.metric.name} <= {self.at_most:g}"

    def violation(self, X: npt.ArrayLike) -> Values:
        """By which fraction of the limit each row exceeds it, 0 if it does not, shape ``(n,)``."""
        result: Values = np.maximum(self.ratio(self.metric(X)) - 1.0, 0.0)
        return result

    def ratio(self, values: Values) -> Values:
        """Values of the metric as fractions of the limit: at most 1 if it is met, shape as given."""
        if self.at_most > 0:
            return values / self.at_most
        return np.where(values > 0, np.inf, 0.0)


def together(limits: Sequence[Limit]) -> str:
    """Limits in words, each once."""
    return " and ".join(dict.fromkeys(map(str, limits)))


def check_limits(limits: Mapping[str, object], known: Collection[str] = METRICS) -> dict[str, float]:
    """Check the names and numbers of limits.

    Args:
        limits: metric name -> the most it may be.
        known: the metrics that there are.

    Raises:
        InvalidInput: not a mapping of names to numbers.
        UnknownName: no such metric.
        InvalidLimit: not a number, NaN, infinite or negative.
    """
    if not isinstance(limits, Mapping):
        raise InvalidInput(f"limits must map metric names to numbers, such as {{'latency_ms': 1.5}}, not {limits!r}.")
    checked = {}
    for name, value in limits.items():
        if name not in known:
            raise UnknownName("metric in limits", name, known)
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise InvalidLimit(f"limits[{name!r}] must be a number, the most that {name} may be, not {value!r}.")
        try:
            number = float(value)
        except OverflowError:
            number = math.copysign(math.inf, value > 0 or -1)
        if math.isnan(number):
            raise InvalidLimit(f"limits[{name!r}] is NaN; it must be a number, the most that {name} may be.")
        if math.isinf(number):
            raise InvalidLimit(f"limits[{name!r}] is infinite; leave it out if {name} does not matter.")
        if number < 0:
            raise InvalidLimit(f"limits[{name!r}] is {number:g}; a limit is never negative.")
        checked[name] = number
    return checked


def prove_feasible(limits: Sequence[Limit], rounds: int = 40) -> Rows:
    """Refuse limits that cannot be met, and otherwise return rows that are good places to start from.

    Each limit alone is compared with the exact least value of its metric. Several limits together are compared through
    Lagrangian bounds: for any weights that sum to one, the least weighted sum of the metrics' fractions of their limits must not
    exceed one. The weights that show most are looked for by multiplicative updates.

    Args:
        limits: any number, of one space.
        rounds: how many weightings to try.

    Returns:
        Canonical rows met on the way, shape ``(k, genes)``; the last one meets all limits if such a row was met.

    Raises:
        Infeasible: with proof; the message holds the least reachable values.
    """
    rows: list[Rows] = []
    for limit in limits:
        least, row = limit.metric.lower_bound, limit.metric.minimum
        if least > limit.at_most:
            raise Infeasible(_unreachable(limit, least, exact=row is not None))
        if row is not None:
            rows.append(row)
    summed = [limit for limit in limits if not limit.metric.peak and limit.at_most > 0]
    if len(summed) > 1:
        rows += _weigh(limits, summed, rounds)
    if not rows:
        return np.empty((0, 0), dtype=np.uint8)
    return np.stack(rows)


def idle(limits: Sequence[Limit]) -> tuple[str, ...]:
    """Of each limit that every network of the space meets, that it limits nothing, as a sentence."""
    said = []
    parts: dict[str, list[Limit]] = {}
    for limit in limits:
        parts.setdefault(str(limit), []).append(limit)
    for text, (limit, *others) in parts.items():
        most = max(part.metric.upper_bound for part in (limit, *others))
        if most <= limit.at_most:
            unit = f" {limit.metric.unit}" if limit.metric.unit else ""
            said.append(
                f"The limit {text} excludes no network: none of the space has more than {most:.4g}{unit}. Is it in another unit, or meant "
                "for another device?"
            )
    return tuple(said)


def _weigh(limits: Sequence[Limit], summed: Sequence[Limit], rounds: int) -> list[Rows]:
    space = limits[0].metric.space
    fractions = [limit.metric.tables.within(space.allowed) * (1.0 / limit.at_most) for limit in summed]
    weights = np.full(len(summed), 1.0 / len(summed))
    rows: list[Rows] = []
    for step in range(rounds):
        bound, chosen = functools.reduce(operator.add, (part * weight for weight, part in zip(weights, fractions, strict=True))).minimum
        if chosen is None:
            return rows
        if bound > 1.0 + 1e-9:
            raise Infeasible(
                f"{together(summed)} cannot be met together, though each can be met alone: on some of them every {space.name!r} "
                f"architecture is at least {bound - 1:.1%} over. Raise one of the limits by more than that, or drop it."
            )
        row = space.row_of(chosen)
        rows.append(row)
        ratios = np.array([float(limit.ratio(limit.metric(row[None]))[0]) for limit in summed])
        if (ratios <= 1.0).all() and all(limit.violation(row[None])[0] == 0 for limit in limits):
            break
        weights = weights * np.exp(np.minimum(ratios - 1.0, 10.0) * 4.0 / math.sqrt(step + 1.0))
        weights /= weights.sum()
    return rows


def _unreachable(limit: Limit, least: float, *, exact: bool) -> str:
    entry = limit.metric
    where = f" on {entry.device!r}" if entry.device else ""
    how = "the least over all architectures" if exact else "sum of slot minima"
    unit = f" {entry.unit}" if entry.unit else ""
    hint = "Raise the limit, or allow a lower precision." if entry.name not in ("macs", "params") else "Raise the limit."
    return (
        f"{limit} cannot be met: no {entry.space.name!r} architecture{where} is {adjective(entry.name)} than "
        f"{least:.6g}{unit} ({how}). {hint}"
    )
