"""Groups of channels that a network can lose: found by running the rules over its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from ._axes import Factor, Labels, on, tie_along
from ._factors import Factors
from ._state import get
from .rules import Call, Flow, find_rule
from .rules.base import base_name, bound, shape_of, where


@dataclass(frozen=True)
class Group:
    """Channels of equal standing: any of them can be removed without the others.

    A unit may be one channel or several that go together, for example all of an attention head.

    Example:
        >>> import hwsearch, torch
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.BatchNorm2d(32), torch.nn.Conv2d(32, 4, 3)
        >>> (group, *_) = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8)).groups
        >>> group.width, group.opened, group.read
        (32, (('0.weight', 1),), (('2.weight', 1),))

    Attributes:
        id: its name, for example ``"g3"``.
        width: how many units it has.
        units: an internal number for each unit, in the order in which they lie, shape ``(width,)``.
        opened: ``(weight, channels a unit)`` of the kernels that make these channels.
        read: the same of the kernels that read them.
        follow: the same of all other parameters and statistics.
        reason: why it is frozen; empty where it is searchable.
    """

    id: str
    width: int
    units: Labels = field(repr=False, compare=False)
    opened: tuple[tuple[str, int], ...]
    read: tuple[tuple[str, int], ...]
    follow: tuple[tuple[str, int], ...]
    reason: str = ""

    @property
    def searchable(self) -> bool:
        """Whether its width may change."""
        return not self.reason and self.width > 1

    @property
    def step(self) -> int:
        """Channels a unit, in the first kernel that makes them."""
        return self.opened[0][1] if self.opened else self.read[0][1] if self.read else 1


@dataclass(frozen=True)
class Extent:
    """The size of an axis when groups have been cut: ``fixed + sum(channels a unit * units kept)``.

    Example:
        >>> import hwsearch, torch
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> first, last = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8)).kernels
        >>> first.out({"g0": 16}), last.into({"g0": 16})  # channels where 16 units of the group are kept
        (16, 16)
    """

    fixed: int
    parts: tuple[tuple[str, int], ...] = ()

    def __call__(self, kept: Mapping[str, int]) -> int:
        """The size where ``kept`` gives how many units of each group are left."""
        return self.fixed + sum(each * kept[group] for group, each in self.parts)


@dataclass(frozen=True)
class Kernel:
    """An operation that multiplies: a convolution, a linear layer, a product of activations.

    Example:
        >>> import hwsearch, torch
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> adopted = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> [(kernel.name, kernel.macs(adopted.widths), kernel.macs({**adopted.widths, "g0": 16})) for kernel in adopted.kernels]
        [('0.weight', 31104.0, 15552.0), ('2.weight', 18432.0, 9216.0)]

    Attributes:
        name: of its weights; empty where there are none.
        node: of the operation in the graph.
        op: for example ``"conv2d"``.
        module: the dotted name of the module that it is in.
        count: multiply-accumulates are ``count`` times the product of the extents, for one image.
        extents: the sizes that they depend on.
        out: the extent of the channels that it makes; ``None`` for a product of activations.
        into: the extent of the channels that it reads, of each group.
        ranks: of a factor of a layer (:mod:`hwsearch.nn.adoption._factors`): the groups between the factors, and the width of each.
        merged: for the ranks that keep all units, ``count`` and ``extents`` of the layer that it then is the end of.
    """

    name: str
    node: str
    op: str
    module: str
    count: float
    extents: tuple[Extent, ...]
    out: Extent | None = None
    into: Extent | None = None
    ranks: tuple[tuple[str, int], ...] = ()
    merged: Mapping[frozenset[str], tuple[float, tuple[Extent, ...]]] = field(default_factory=dict, hash=False, repr=False)

    def macs(self, kept: Mapping[str, int]) -> float:
        """Multiply-accumulates for one image where ``kept`` gives how many units of each group are left."""
        off = frozenset(group for group, width in self.ranks if kept[group] == width)
        count, extents = self.merged.get(off, (self.count, self.extents))
        return count * prod(extent(kept) for extent in extents)

    def apart(self, kept: Mapping[str, int]) -> float:
        """The same as if all factors of layers stayed apart."""
        return self.count * prod(extent(kept) for extent in self.extents)

    @property
    def groups(self) -> frozenset[str]:
        """The groups that its multiply-accumulates depend on."""
        ways = [self.extents, *(extents for _, extents in self.merged.values())]
        parts = {group for extents in ways for each in extents for group, _ in each.parts}
        return frozenset(parts | {group for group, _ in self.ranks})


@dataclass(frozen=True)
class Analysis:
    """What the rules say of a graph: the groups, the kernels, the labels of every tensor, and which layers are products of others."""

    flow: Flow
    groups: tuple[Group, ...]
    kernels: tuple[Kernel, ...]
    factors: tuple[Factors, ...] = ()

    def within(self, layer: Factors) -> list[Kernel]:
        """The kernels of the factors of a layer, those of all its calls."""
        return [kernel for kernel in self.kernels if kernel.ranks and kernel.ranks[0][0] == layer.ranks[0]]

    def freeze(self, reasons: Mapping[str, str]) -> Analysis:
        """The same with some groups frozen, each for a reason."""
        groups = tuple(replace(group, reason=reasons.get(group.id, group.reason)) for group in self.groups)
        numbers = {int(unit): number for number, group in enumerate(groups) for unit in group.units}
        return Analysis(self.flow, groups, _joined(_kernels(self.flow, groups, numbers), self.factors), self.factors)


def analyse(network: fx.GraphModule, batch: int, frozen: Mapping[str, str]) -> Analysis:
    """Find groups and kernels.

    Args:
        network: from :func:`~hwsearch.nn.adoption._capture.capture`.
        batch: the size of the batch axis in its recorded sizes.
        frozen: parameters whose channels have to stay, each with the reason.
    """
    flow = _flow(network, batch, frozen, frozenset())
    columns = frozenset(node.name for node in network.graph.nodes if _few(flow, node))
    if columns:
        flow = _flow(network, batch, frozen, columns)
    groups, unit_group = _make_groups(network, flow)
    return Analysis(flow, groups, _kernels(flow, groups, unit_group))


def _few(flow: Flow, node: fx.Node) -> bool:
    """Whether a node is a grouped convolution that has fewer groups to lose than it has channels inside each group."""
    if not isinstance(node.target, torch._ops.OpOverload) or base_name(node.target) not in ("conv1d", "conv2d", "conv3d"):
        return False
    args = bound(node)
    out, into, *_ = shape_of(args["weight"])
    left = min((len(np.unique(flow.atoms.find(factor.labels))) for factor in flow.factors(node)), default=1)
    groups = int(args["groups"])
    return groups > 1 and left < min(into, out // groups)


def _flow(network: fx.GraphModule, batch: int, frozen: Mapping[str, str], columns: frozenset[str]) -> Flow:
    flow = Flow(batch=batch, columns=columns)
    first: dict[str, fx.Node] = {}
    for node in network.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            if first.setdefault(name, node) is node:
                flow.axes[node] = tuple(Factor((dim,), flow.atoms.new(n)) for dim, n in enumerate(shape_of(node)) if n > 1)
                _freeze(flow, node, frozen.get(name, ""))
            else:
                flow.axes[node] = flow.axes[first[name]]
        elif node.op == "output":
            for each in node.all_input_nodes:
                _freeze(flow, each, "output of the network")
        elif node.op == "call_function":
            _apply(flow, node)
        else:
            flow.axes[node] = ()
    _settle(flow)
    return flow


def _freeze(flow: Flow, node: fx.Node, reason: str) -> bool:
    """Keep everything that lies on a node's result, where there is a reason; whether there was anything to keep."""
    factors = flow.factors(node) if reason else ()
    for factor in factors:
        flow.atoms.freeze(factor.labels, reason)
    return bool(factors)


def _apply(flow: Flow, node: fx.Node) -> None:
    """Run the rule of an operation; where there is none or it fails, all that reaches the operation is kept, and the report says so."""
    rule = find_rule(node.target)
    reason = f"unknown operation {where(node)}"
    if rule is not None:
        try:
            flow.axes[node] = rule.axes(Call.of(flow, node))
            return
        except Exception as error:
            # A user's network must not fail over an overload or arguments that a rule was not written for.
            reason = f"the rule for {where(node)} does not cover its arguments ({type(error).__name__}: {error})"
    shape = node.meta.get("shape")
    flow.axes[node] = [() for _ in shape] if isinstance(shape, list) else ()
    frozen = [_freeze(flow, each, reason) for each in node.all_input_nodes]
    if any(frozen):
        flow.unknown[node] = reason


def _settle(flow: Flow) -> None:
    """Tie what lies on several axes jointly until every tensor can be cut along one of them.

    Of several ways the one is taken that leaves most units.
    """
    again = True
    while again:
        again = False
        for node in flow.axes:
            for factor in flow.factors(node):
                if len(factor.dims) < 2 or len(varies := factor.varies(flow.atoms)) < 2:
                    continue
                again = True
                best = max(varies, key=lambda dim: _left(flow, factor, dim))
                tie_along(flow.atoms, factor, [dim for dim in factor.dims if dim != best])


def _left(flow: Flow, factor: Factor, dim: int) -> int:
    """How many units are left along an axis when all others are tied: the parts of a graph of units."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place = factor.dims.index(dim)
    units, numbers = np.unique(flow.atoms.find(factor.labels), return_inverse=True)
    numbers = np.moveaxis(numbers.reshape(factor.labels.shape), place, 0).reshape(factor.labels.shape[place], -1)
    first = np.repeat(numbers[:, 0], numbers.shape[1])
    graph = coo_array((np.ones(numbers.size), (first, numbers.reshape(-1))), shape=(len(units), len(units)))
    return int(connected_components(graph, directed=False)[0])


def _make_groups(network: fx.GraphModule, flow: Flow) -> tuple[tuple[Group, ...], dict[int, int]]:
    """Put units of the same standing together: those that lie on the same axes of the same parameters, as often."""
    lying: dict[int, Counter[tuple[str, int]]] = {}
    for node in {str(node.target): node for node in flow.axes if node.op == "get_attr"}.values():
        for factor in flow.factors(node):
            for unit, times in zip(*np.unique(flow.atoms.find(factor.labels), return_counts=True), strict=True):
                lying.setdefault(int(unit), Counter())[str(node.target), factor.dims[0]] = int(times)
    reasons: dict[int, str] = {}
    for labels, reason in flow.atoms.frozen:
        for unit in np.unique(flow.atoms.find(labels)):
            reasons.setdefault(int(unit), reason)
    by: dict[tuple[tuple[tuple[tuple[str, int], int], ...], str], list[int]] = {}
    for unit, places in sorted(lying.items()):
        if any(place in flow.roles for place in places):
            by.setdefault((tuple(sorted(places.items())), reasons.get(unit, "")), []).append(unit)
    groups: list[Group] = []
    unit_group: dict[int, int] = {}
    for (lies, reason), units in by.items():
        kinds: dict[str, list[tuple[str, int]]] = {"out": [], "in": [], "": []}
        for place, times in lies:
            kinds[flow.roles.get(place, "")].append((place[0], times))
        trained = kinds["out"] or any(isinstance(get(network, name), nn.Parameter) for name, _ in kinds[""])
        alone = "a single unit" if len(units) == 1 else "" if trained else "no layer makes these channels"
        unit_group |= dict.fromkeys(units, len(groups))
        opened, read, follow = (tuple(kinds[kind]) for kind in ("out", "in", ""))
        groups.append(Group(f"g{len(groups)}", len(units), np.array(units, dtype=np.int64), opened, read, follow, reason or alone))
    return tuple(groups), unit_group


def _kernels(flow: Flow, groups: tuple[Group, ...], unit_group: Mapping[int, int]) -> tuple[Kernel, ...]:
    found = []
    for each in flow.multiplications:
        extents = {place: extent(flow, place[0], place[1], groups, unit_group) for place in each.axes}
        roles = {flow.roles.get((str(node.target), dim)): extents[node, dim] for node, dim in each.axes if node.op == "get_attr"}
        op, module = base_name(each.node.target), str(each.node.meta.get("module", ""))
        sizes = tuple(extents.values())
        found.append(Kernel(each.weight, each.node.name, op, module, each.count, sizes, roles.get("out"), roles.get("in")))
    return tuple(found)


def _joined(kernels: Sequence[Kernel], factors: Iterable[Factors]) -> tuple[Kernel, ...]:
    """The same kernels; those of factors know what they are together with the ones before them."""
    by = {kernel.node: kernel for kernel in kernels}
    for each in factors:
        ranks = tuple(zip(each.ranks, each.full, strict=True))
        parts = [by[node] for node in each.nodes]
        for number, kernel in enumerate(parts):
            merged: dict[frozenset[str], tuple[float, tuple[Extent, ...]]] = {}
            for off in each.states():
                first = each.first(number, off)
                if first is None:
                    merged[off] = (0.0, ())
                elif first != number:
                    assert kernel.out is not None
                    into = parts[first].into
                    assert into is not None
                    merged[off] = (kernel.count * prod(each.joint(first, number)), (kernel.out, into))
            by[kernel.node] = replace(kernel, ranks=ranks, merged=merged)
    return tuple(by[kernel.node] for kernel in kernels)


def extent(flow: Flow, node: fx.Node, dim: int, groups: tuple[Group, ...], unit_group: Mapping[int, int]) -> Extent:
    """The size of one axis as a function of the units kept.

    A group of which only some units lie on the axis counts in full: which of them are kept would have to be known.
    """
    size = shape_of(node)[dim]
    factor = on(flow.factors(node), dim)
    if factor is None or factor.varies(flow.atoms) not in ((dim,), ()):
        return Extent(size)
    labels = np.moveaxis(factor.labels, factor.dims.index(dim), 0).reshape(size, -1)[:, 0]
    counts: Counter[int] = Counter(unit_group.get(int(unit), -1) for unit in flow.atoms.find(labels))
    held = [(groups[number], times) for number, times in counts.items() if number >= 0 and groups[number].searchable]
    free = [(group, times) for group, times in held if times % group.width == 0]
    return Extent(size - sum(times for _, times in free), tuple((group.id, times // group.width) for group, times in free))


def matching(names: Iterable[str], patterns: Iterable[str]) -> dict[str, str]:
    """Names that a pattern of the user stands for: a parameter, a module, or a pattern with ``*``; each with the reason."""
    from fnmatch import fnmatchcase

    found = {}
    for name in names:
        for pattern in patterns:
            if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") or fnmatchcase(name, f"{pattern}.*"):
                found[name] = f"frozen by {pattern!r}"
    return found


def units(groups: Iterable[Group], kept: Mapping[str, npt.NDArray[np.integer]]) -> Labels:
    """The internal numbers of all units that are removed."""
    gone = [np.delete(group.units, kept[group.id]) for group in groups if group.id in kept]
    return np.concatenate(gone) if gone else np.empty(0, dtype=np.int64)
