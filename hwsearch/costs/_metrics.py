"""Metrics: what a network costs, compiled to small tables.

Every cost is a sum over the network's blocks (or, for peak memory, a maximum), and every slot's blocks depend on a few genes
only, so a cost compiles to one dense array a slot and the cost of a population is a sum of gathers.
"""

from __future__ import annotations

import hashlib
import itertools
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .._files._writing import PathLike
from .._registry import find, names
from .._types import Rows, Values
from ..devices._table import LatencyTable, load_table
from ..errors import InvalidInput, UnknownName
from ..networks._blocks import Block
from ..spaces import _tables
from ..spaces._arrays import check_axes
from ..spaces._lowering import checked_table
from ..spaces._space import SearchSpace
from ..spaces._sums import Sum
from ..spaces._tables import TableSum


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
peak memory (live feature maps of one image, MB) are counted.

Example:
    >>> import hwsearch
    >>> from hwsearch.costs import METRICS
    >>> METRICS
    ('latency_ms', 'energy_mj', 'macs', 'bitops', 'params', 'size_mb', 'peak_memory_mb')
    >>> hwsearch.metric("size_mb", hwsearch.load_space("resnet_digits")).unit
    'MB'
"""


def _kind(name: str) -> _Kind | None:
    """What is known of a cost by its name, whether it is built in or a plug-in; ``None`` if there is no such cost."""
    if name in _KINDS:
        return _KINDS[name]
    return _Kind("", "lower", find("cost", name)) if name in names("cost") else None


def adjective(name: str) -> str:
    """What a network is called that has less of a metric, such as ``"faster"``."""
    return _KINDS.get(name, _OWN).words


@dataclass(frozen=True, eq=False)
class Metric:
    """A cost of networks, compiled for one space and, if it is measured, one device.

    A cost of your own is made by :meth:`of_blocks`, :meth:`from_tables` or :meth:`largest_of`, which check it.

    Example:
        >>> import hwsearch
        >>> space = hwsearch.load_space("resnet_digits")
        >>> params = hwsearch.metric("params", space)
        >>> int(params.lower_bound), int(params.upper_bound)
        (9146, 121146)
        >>> space.decode(params.minimum)["stage1.depth"]
        1

    Attributes:
        name: any name; in a search it takes the place of the metric of :data:`METRICS` that has the same name.
        unit: of its values.
        space: the space whose rows it takes.
        tables: arrays over genes, and sums of genes, whose sum (or maximum) is the cost. The genes of a table ascend, a gene that needs
            another stands beside it, and cells of inactive genes repeat those at index zero.
        device: where it was measured; ``None`` for counted costs.
        others: further sums of tables, if the cost is the largest of several sums.

    Raises:
        InvalidInput: the genes of a table do not ascend, or its array has another shape than they have values.
    """

    name: str
    unit: str
    space: SearchSpace
    tables: TableSum
    device: str | None = None
    others: tuple[TableSum, ...] = ()

    def __post_init__(self) -> None:
        for genes, array in itertools.chain(*self.sums):
            if not check_axes(genes, array, self.space.sizes):
                raise InvalidInput(
                    f"Metric {self.name!r} has a table over the genes {genes} of the shape {array.shape}. Genes must ascend and have one "
                    "axis each; Metric.from_tables() takes them by name and in any order."
                )

    @classmethod
    def from_tables(
        cls, name: str, space: SearchSpace, tables: Iterable[tuple[Sequence[str | Sum[str]], npt.ArrayLike]], *, unit: str = ""
    ) -> Metric:
        """A cost that is a sum of tables, each over a few genes.

        Args:
            name: of the cost.
            space: the space whose rows it takes.
            tables: ``(gene names, array with one axis a gene)``. A table that uses a gene that needs another must name both; what it
                holds for inactive genes is ignored, but at index zero. Infinity marks what is impossible. Where only what genes add up
                to matters, such as the channels of a concatenation, a :class:`~hwsearch.spaces.Sum` stands in the place of a name.
            unit: of the cost.

        Raises:
            UnknownName: a table names a gene that does not exist.
            InvalidInput: an array has the wrong shape or holds NaN, or a gene's need is missing.

        Example:
            >>> import hwsearch
            >>> from hwsearch.costs import Metric
            >>> space = hwsearch.load_space("resnet_digits")
            >>> pixels = Metric.from_tables("pixels", space, [(["resolution"], [px**2 for px in space.choices[0].values])])
            >>> pixels.lower_bound == min(space.choices[0].values) ** 2
            True
        """
        return cls(name, unit, space, TableSum(tuple(checked_table(space, name, genes, array) for genes, array in tables)))

    @classmethod
    def of_blocks(cls, name: str, space: SearchSpace, cost: Callable[[Block], float], *, unit: str = "", peak: bool = False) -> Metric:
        """A cost that is a sum over the blocks that a device runs, or their maximum.

        Boundaries, where the number format of feature maps changes, are blocks as well, without weights (``block.boundary``).

        Args:
            name: of the cost.
            space: the space whose rows it takes.
            cost: of one block; infinite for what is impossible.
            unit: of the cost.
            peak: whether the cost of a network is the largest of its blocks and not their sum.

        Example:
            >>> import hwsearch
            >>> from hwsearch.costs import Metric
            >>> space = hwsearch.load_space("resnet_digits")
            >>> integers = Metric.of_blocks("int8_params", space, lambda block: block.params if block.precision == "int8" else 0)
            >>> integers.lower_bound
            0.0
        """
        each = np.array([*map(cost, space.unique_blocks), 0.0])
        return cls(name, unit, space, TableSum(_of_slots(space, each, peak), peak))

    @classmethod
    def largest_of(cls, name: str, metrics: Sequence[Metric]) -> Metric:
        """A cost that is the largest of several, each a sum over blocks: what takes longest decides.

        A limit on it is a limit on each of them, so that every search and every proof takes it.

        Args:
            name: of the cost.
            metrics: of one space and in one unit, at least one.

        Raises:
            InvalidInput: none, metrics of different spaces or units, or one that is no sum over blocks.

        Example:
            >>> import hwsearch, numpy as np
            >>> from hwsearch.costs import Metric
            >>> space = hwsearch.load_space("resnet_digits")
            >>> macs, params = hwsearch.metric("macs", space), hwsearch.metric("params", space)
            >>> X = space.sample(3, np.random.default_rng(0))
            >>> bool((Metric.largest_of("work", [macs, params])(X) == np.maximum(macs(X), params(X))).all())
            True
        """
        sums = [total for entry in metrics for total in entry.sums]
        if not sums or any(total.peak for total in sums):
            raise InvalidInput("largest_of() takes at least one metric, each a sum over blocks and not a maximum such as peak memory.")
        if len({(entry.space.fingerprint, entry.unit) for entry in metrics}) > 1:
            raise InvalidInput(f"The metrics {[entry.name for entry in metrics]} are of different spaces or units: they have no largest.")
        return cls(name, metrics[0].unit, metrics[0].space, sums[0], metrics[0].device, tuple(sums[1:]))

    @property
    def peak(self) -> bool:
        """Whether blocks combine by maximum and not by sum."""
        return self.tables.peak

    @property
    def sums(self) -> tuple[TableSum, ...]:
        """The sums of tables whose largest is the cost; most costs have one."""
        return (self.tables, *self.others)

    @property
    def digest(self) -> str:
        """A hash of all tables: what was found with them belongs to them."""
        hashed = hashlib.sha256()
        for total in self.sums:
            for genes, array in total:
                axes = [(gene.base, [(term.genes, term.adds) for term in gene.terms]) if isinstance(gene, Sum) else gene for gene in genes]
                hashed.update(f"{total.peak} {axes} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()[:16]

    @cached_property
    def parts(self) -> tuple[Metric, ...]:
        """Metrics of one sum each, of the same name, whose largest is this one: to limit it is to limit each of them."""
        return tuple(replace(self, tables=total, others=()) for total in self.sums) if self.others else (self,)

    def __call__(self, X: npt.ArrayLike) -> Values:
        """The cost of every row of ``X`` (shape ``(n, genes)``), shape ``(n,)``; infinite if the device cannot run it."""
        return values_of([self], X)[:, 0]

    def __neg__(self) -> Metric:
        """The metric with its sign changed: ``predictor=-metric("sensitivity", space)`` searches for the least sensitivity.

        Raises:
            InvalidInput: it is a maximum.
        """
        if self.others:
            raise InvalidInput(f"{self.name!r} is the largest of {len(self.sums)} sums; only a single sum of tables can be negated.")
        return replace(self, name=f"-{self.name}", tables=-self.tables)

    def plus(self, tables: TableSum) -> Metric:
        """The metric with a sum of tables added, which is over the same genes and in the same unit.

        Raises:
            InvalidInput: it is a maximum over blocks.
        """
        return replace(self, tables=self.tables + tables, others=tuple(total + tables for total in self.others))

    @property
    def lower_bound(self) -> float:
        """A value that no architecture of the space can beat; reached by :attr:`minimum` if that is not ``None``."""
        return self._minimum[0]

    @cached_property
    def upper_bound(self) -> float:
        """A value that no architecture of the space exceeds; infinite if there are networks that the device cannot run."""
        inside = [total.within(self.space.allowed) for total in self.sums]
        return max(float(total.op.reduce([array.max() for _, array in total])) for total in inside)

    @property
    def minimum(self) -> Rows | None:
        """A canonical row, shape ``(genes,)``, of least cost; ``None`` if finding it would take too much memory.

        Also ``None`` of a cost that is the largest of several sums, if these are not least together.
        """
        return self._minimum[1]

    @cached_property
    def _minimum(self) -> tuple[float, Rows | None]:
        value, chosen = max((total.within(self.space.allowed).minimum for total in self.sums), key=operator.itemgetter(0))
        row = None if chosen is None else self.space.row_of(chosen)
        return value, row if row is None or not self.others or self(row[None])[0] <= value else None


def metric(name: str, space: SearchSpace, table: LatencyTable | PathLike | None = None, *, interpolate: bool | None = None) -> Metric:
    """Compile a cost for one space and, if it is measured, one device.

    Args:
        name: one of :data:`METRICS`, a cost that was registered (see :func:`hwsearch.register`), or a cost that the space brings along
            (see :meth:`SearchSpace.from_tables`).
        space: the space whose rows it will take.
        table: the device's latency table, or its path; needed for ``latency_ms`` and ``energy_mj`` only.
        interpolate: whether blocks that are not in the table may be estimated from those that are; if ``None``, they are if the
            table was made under a budget.

    Raises:
        UnknownName: no such metric.
        InvalidInput: a measured metric without a table.
        MissingBlocks: the table lacks blocks of the space, and they are not to be estimated.

    Example:
        >>> import hwsearch, numpy as np
        >>> space = hwsearch.load_space("resnet_digits")
        >>> macs = hwsearch.metric("macs", space)
        >>> X = space.sample(3, np.random.default_rng(0))
        >>> macs(X).shape, bool((macs(X) >= macs.lower_bound).all())
        ((3,), True)
    """
    table = load_table(table) if isinstance(table, str | os.PathLike) else table
    if name in space.costs:
        own = _KINDS.get(name, _OWN)
        return Metric(name, own.unit, space, TableSum(space.costs[name], own.peak))
    kind = _kind(name)
    if kind is None:
        raise UnknownName("metric", name, [*_KINDS, *names("cost"), *space.costs])
    if kind.of_block is not None:
        return Metric.of_blocks(name, space, kind.of_block, unit=kind.unit, peak=kind.peak)
    if table is None:
        raise InvalidInput(f"{name} is measured: name a device's latency table (device=..., or table=...).")
    blocks, wanted = space.unique_blocks, space.reachable
    cost = np.full(len(blocks) + 1, np.inf)
    cost[-1] = 0.0
    cost[wanted] = table.costs([blocks[i] for i in wanted], name, interpolate=interpolate, space=space.name)
    tables = list(_of_slots(space, cost))
    if name == "latency_ms" and table.network_ms:
        tables.append(((), np.array(table.network_ms)))
    return Metric(name, kind.unit, space, TableSum(tuple(tables)), table.device.name)


def _of_slots(space: SearchSpace, cost: Values, peak: bool = False) -> tuple[_tables.Table, ...]:
    """A table a slot, from the cost of each unique block, with a last entry for no block, shape ``(blocks + 1,)``."""
    op = np.maximum if peak else np.add
    return tuple(_tables.table(slot.genes, op.reduce(cost[slot.blocks], axis=-1, initial=0.0)) for slot in space.slot_blocks)


def available(space: SearchSpace, table: LatencyTable | None = None) -> tuple[str, ...]:
    """Names of the metrics that are known of a space and, if given, a device: those that the space brings along first.

    Energy is known if it is known of every block that a search can meet.

    Example:
        >>> import hwsearch
        >>> hwsearch.costs.available(hwsearch.load_space("resnet_digits"))
        ('macs', 'bitops', 'params', 'size_mb', 'peak_memory_mb')
    """
    measured = [] if table is None else ["latency_ms"]
    if table is not None and table.has_energy(space.unique_blocks[index] for index in space.reachable):
        measured.append("energy_mj")
    counted = [*(name for name, kind in _KINDS.items() if kind.of_block is not None), *names("cost")] if space.slots else []
    return tuple(dict.fromkeys([*space.costs, *measured, *counted]))


def values_of(metrics: Sequence[Metric], X: npt.ArrayLike) -> Values:
    """Several metrics of one space at once, sharing the work of indexing.

    Args:
        metrics: all of one space.
        X: rows of that space, shape ``(n, genes)``.

    Returns:
        Costs, shape ``(n, metrics)``, C-contiguous.

    Example:
        >>> import hwsearch, numpy as np
        >>> space = hwsearch.load_space("resnet_digits")
        >>> metrics = [hwsearch.metric("macs", space), hwsearch.metric("size_mb", space)]
        >>> hwsearch.costs.values_of(metrics, space.sample(3, np.random.default_rng(0))).shape
        (3, 2)
    """
    if not metrics:
        return np.zeros((len(np.asarray(X)), 0))
    found = _tables.evaluate([total for entry in metrics for total in entry.sums], metrics[0].space.check(X))
    if found.shape[1] == len(metrics):
        return found
    return np.maximum.reduceat(found, np.cumsum([0, *(len(entry.sums) for entry in metrics[:-1])]), axis=1)
