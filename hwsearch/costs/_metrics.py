"""Metrics and limits: what a network costs, compiled to small tables.

Every cost is a sum over the network's blocks (or, for peak memory, a maximum), and every slot's blocks depend on a few genes
only, so a cost compiles to one dense array a slot and the cost of a population is a sum of gathers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .._files._writing import PathLike
from ..devices._table import LatencyTable, load_table
from ..errors import Infeasible, InvalidInput, InvalidLimit, UnknownName
from ..networks._blocks import Block
from ..spaces import _tables
from ..spaces._genes import Rows, only
from ..spaces._space import SearchSpace

Values = npt.NDArray[np.float64]

_CHUNK = 4096
"""Rows scored at once: their indices stay in the processor's cache."""


@dataclass(frozen=True)
class _Kind:
    unit: str
    words: str
    of_block: Callable[[Block], float] | None = None
    peak: bool = False


_KINDS: dict[str, _Kind] = {
    "latency_ms": _Kind("ms", "faster"),
    "energy_mj": _Kind("mJ", "more frugal"),
    "macs": _Kind("", "smaller", lambda block: block.macs),
    "bitops": _Kind("", "smaller", lambda block: block.bitops),
    "params": _Kind("", "smaller", lambda block: block.params),
    "size_mb": _Kind("MB", "smaller", lambda block: block.weight_bytes / 1e6),
    "peak_memory_mb": _Kind("MB", "smaller", lambda block: block.activation_bytes / 1e6, peak=True),
}
_OWN = _Kind("", "lower")  # of costs that a space brings along
METRICS: tuple[str, ...] = tuple(_KINDS)
"""Latency (ms) and energy (mJ) come from a device's table. MACs, BitOps, parameters, size (weights as deployed, MB of 10^6 bytes) and
peak memory (live feature maps of one image, MB) are counted."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A cost of networks, compiled for one space and, where it is measured, one device.

    Attributes:
        name: one of :data:`METRICS`.
        unit: of its values.
        space: the space whose rows it takes.
        tables: gene indices and cost arrays, one a slot; their sum (maximum, if ``peak``) is the cost. Sums are exact in any order: entries
            are rounded to a common power of two, far below what can be measured.
        peak: whether blocks combine by maximum and not by sum.
        device: where it was measured; ``None`` for counted costs.
    """

    name: str
    unit: str
    space: SearchSpace
    tables: tuple[_tables.Table, ...] = field(repr=False)
    peak: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.peak:
            object.__setattr__(self, "tables", _tables.exact(self.tables))

    def __call__(self, X: npt.ArrayLike) -> Values:
        """The cost of every row of ``X`` (shape ``(n, genes)``), shape ``(n,)``; infinite where the device cannot run it."""
        return evaluate([self], X)[:, 0]

    def __neg__(self) -> Metric:
        """The metric with its sign changed: ``predictor=-metric("sensitivity", space)`` searches for the least sensitivity."""
        if self.peak:
            raise InvalidInput(f"{self.name} is a maximum over blocks; only sums of tables can change their sign.")
        return replace(self, name=f"-{self.name}", tables=tuple((genes, -array) for genes, array in self.tables))

    @cached_property
    def folded(self) -> tuple[_tables.Table, ...]:
        """The tables merged into fewer, which look up faster."""
        return _tables.fold(self.tables, self.space.sizes, np.maximum if self.peak else np.add)

    @property
    def lower_bound(self) -> float:
        """A value that no architecture of the space can beat; reached by :attr:`minimum` where that is not ``None``."""
        return self._minimum[0]

    @property
    def minimum(self) -> Rows | None:
        """A canonical row, shape ``(genes,)``, of least cost; ``None`` where finding it would take too much memory."""
        return self._minimum[1]

    @cached_property
    def _minimum(self) -> tuple[float, Rows | None]:
        op = np.maximum if self.peak else np.add
        tables = allowed_tables(self.tables, self.space)
        try:
            value, chosen = _tables.minimise(tables, op)
        except _tables.TooWideError:
            minima = [array.min() for _, array in tables]
            return float(max(minima) if self.peak else sum(minima)), None
        return value, allowed_row(chosen, self.space)


def allowed_tables(tables: Sequence[_tables.Table], space: SearchSpace) -> list[_tables.Table]:
    """The tables cut down to the values that searches of ``space`` may use."""
    return [(genes, array[np.ix_(*(space.allowed[gene] for gene in genes))]) for genes, array in tables]


def allowed_row(chosen: Mapping[int, int], space: SearchSpace) -> Rows:
    """The canonical row of an assignment found in :func:`allowed_tables`."""
    row = np.array([[allowed[chosen.get(gene, 0)] for gene, allowed in enumerate(space.allowed)]], dtype=np.uint8)
    return only(space.canonical(row))


def metric(name: str, space: SearchSpace, table: LatencyTable | PathLike | None = None, *, interpolate: bool | None = None) -> Metric:
    """Compile a metric.

    Args:
        name: one of :data:`METRICS`, or a cost that the space brings along (see :meth:`SearchSpace.from_tables`).
        space: the space whose rows it will take.
        table: the device's latency table, or its path; needed for ``latency_ms`` and ``energy_mj`` only.
        interpolate: whether blocks that are not in the table may be estimated from those that are; where ``None``, they are if the
            table was made under a budget.

    Raises:
        UnknownName: no such metric.
        InvalidInput: a measured metric without a table.
        MissingBlocks: the table lacks blocks of the space, and they are not to be estimated.
    """
    table = load_table(table) if isinstance(table, str | os.PathLike) else table
    kind = _KINDS.get(name, _OWN)
    if name in space.costs:
        return Metric(name, kind.unit, space, space.costs[name], kind.peak)
    if name not in _KINDS:
        raise UnknownName("metric", name, [*_KINDS, *space.costs])
    blocks = space.unique_blocks
    cost = np.full(len(blocks) + 1, np.inf)
    cost[-1] = 0.0
    if kind.of_block is not None:
        cost[:-1] = [kind.of_block(block) for block in blocks]
    elif table is None:
        raise InvalidInput(f"{name} is measured: name a device's latency table (device=..., or table=...).")
    else:
        wanted = space.reachable
        cost[wanted] = table.costs([blocks[i] for i in wanted], name, interpolate=interpolate, space=space.name)
    op = np.maximum if kind.peak else np.add
    tables = [_tables.table(slot.genes, op.reduce(cost[slot.blocks], axis=-1, initial=0.0)) for slot in space.slot_blocks]
    if name == "latency_ms" and table is not None and table.network_ms:
        tables.append(((), np.array(table.network_ms)))
    return Metric(name, kind.unit, space, tuple(tables), kind.peak, table.device.name if table and not kind.of_block else None)


def available(space: SearchSpace, table: LatencyTable | None = None) -> tuple[str, ...]:
    """Names of the metrics that are known of a space and, where it is given, a device: those that the space brings along first.

    Energy is known if it is known of every block that a search can meet.
    """
    measured = [] if table is None else ["latency_ms"]
    if table is not None and table.has_energy(space.unique_blocks[index] for index in space.reachable):
        measured.append("energy_mj")
    counted = [name for name, kind in _KINDS.items() if kind.of_block is not None] if space.slots else []
    return tuple(dict.fromkeys([*space.costs, *measured, *counted]))


def evaluate(metrics: Sequence[Metric], X: npt.ArrayLike) -> Values:
    """Several metrics of one space at once, sharing the work of indexing.

    Args:
        metrics: all of one space.
        X: rows of that space, shape ``(n, genes)``.

    Returns:
        Costs, shape ``(n, metrics)``, C-contiguous.
    """
    if not metrics:
        return np.zeros((len(np.asarray(X)), 0))
    space = metrics[0].space
    rows = space.check(X)
    plan: dict[tuple[int, ...], list[tuple[int, Values, np.ufunc]]] = {}
    for column, entry in enumerate(metrics):
        for genes, array in entry.folded:
            plan.setdefault(genes, []).append((column, array.ravel(), np.maximum if entry.peak else np.add))
    result = np.zeros((len(rows), len(metrics)))
    for start in range(0, len(rows), _CHUNK):
        chunk = np.ascontiguousarray(rows[start : start + _CHUNK].T)
        total = np.zeros((len(metrics), chunk.shape[1]))
        for genes, entries in plan.items():
            index = np.zeros(chunk.shape[1], dtype=np.intp)
            for gene in genes:
                index *= space.sizes[gene]
                index += chunk[gene]
            for column, flat, op in entries:
                op(total[column], flat.take(index), out=total[column])
        result[start : start + _CHUNK] = total.T
    return result


@dataclass(frozen=True, eq=False)
class Limit:
    """The most that a metric may be.

    Attributes:
        metric: the compiled metric.
        at_most: in the metric's unit.
    """

    metric: Metric
    at_most: float

    def __str__(self) -> str:
        return f"{self.metric.name} <= {self.at_most:g}"

    def violation(self, X: npt.ArrayLike) -> Values:
        """By which fraction of the limit each row exceeds it, 0 where it does not, shape ``(n,)``."""
        result: Values = np.maximum(self.ratio(self.metric(X)) - 1.0, 0.0)
        return result

    def ratio(self, values: Values) -> Values:
        """Values of the metric as fractions of the limit: at most 1 where it is met, shape as given."""
        if self.at_most > 0:
            return values / self.at_most
        return np.where(values > 0, np.inf, 0.0)


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


def _weigh(limits: Sequence[Limit], summed: Sequence[Limit], rounds: int) -> list[Rows]:
    space = limits[0].metric.space
    scaled = [[(genes, array / limit.at_most) for genes, array in allowed_tables(limit.metric.tables, space)] for limit in summed]
    weights = np.full(len(summed), 1.0 / len(summed))
    rows: list[Rows] = []
    for step in range(rounds):
        tables = [(genes, array * weight) for weight, entry in zip(weights, scaled, strict=True) for genes, array in entry]
        try:
            bound, chosen = _tables.minimise(tables)
        except _tables.TooWideError:
            return rows
        if bound > 1.0 + 1e-9:
            together = " and ".join(map(str, summed))
            raise Infeasible(
                f"{together} cannot be met together, though each can be met alone: on some of them every {space.name!r} architecture is at "
                f"least {bound - 1:.1%} over. Raise one of the limits by more than that, or drop it."
            )
        row = allowed_row(chosen, space)
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
        f"{limit} cannot be met: no {entry.space.name!r} architecture{where} is {_KINDS.get(entry.name, _OWN).words} than "
        f"{least:.6g}{unit} ({how}). {hint}"
    )
