"""The genes of a network: a width for each group of channels, whether each residual branch is there, and the precision of each region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from math import ceil, gcd, lcm

from ...networks._precision import Precision
from ...spaces._genes import Choice, Value
from ._branches import Branch
from ._factors import MARK, Factors
from ._groups import Analysis, Group
from ._regions import Region

_RANKS = 8
"""Ranks of a layer that are offered, at most, besides the layer as it was."""
_MOST = 16
"""Widths that a group may be cut to, at most."""


@dataclass(frozen=True)
class Way:
    """One of the numbers of units that a group may have.

    Attributes:
        gene: whose value it is; ``None`` for all units.
        gates: genes of blocks, each with the value where it is this number.
    """

    gene: str | None
    gates: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Places:
    """Which gene stands for which group, branch or region.

    Attributes:
        choices: the genes, in the order of the network; the genes of what lies in a branch need that of the branch.
        groups: gene of each searchable group, by the group's id.
        branches: gene of each searchable branch or block, by its id.
        around: for each node or parameter, the genes of the branches that it lies in, the outermost first.
        regions: the region that each gene of a precision stands for, by the gene.
        passed: for the channels that a block makes, by group, the gene of the block and the group that stands for them without it.
    """

    choices: tuple[Choice, ...]
    groups: Mapping[str, str]
    branches: Mapping[str, str]
    around: Mapping[str, tuple[str, ...]] = field(repr=False)
    regions: Mapping[str, Region] = field(repr=False, default_factory=dict)
    passed: Mapping[str, tuple[str, str]] = field(repr=False, default_factory=dict)

    def ways(self, group: str, around: Sequence[str] = ()) -> tuple[Way, ...]:
        """What the units kept of a group may be: its own, or those that stand for them where blocks are removed.

        Args:
            group: its id.
            around: genes of branches and blocks that are known to be there.
        """
        own = self.groups.get(group)
        if group not in self.passed or self.passed[group][0] in around:
            return (Way(own, ()),)
        gene, given = self.passed[group]
        return Way(own, ((gene, 1),)), *(Way(way.gene, (*way.gates, (gene, 0))) for way in self.ways(given, around))

    @property
    def bits(self) -> dict[str, str]:
        """The gene of the precision of each kernel that has one, by the name of its weights."""
        return {weight: gene for gene, region in self.regions.items() for weight in region.weights}

    def precisions(self, values: Mapping[str, Value]) -> dict[str, str]:
        """The precisions of kernels where active genes have these values, by the names of weights.

        Those in fp32 are left out, and so are those that are gone with a branch or a block.
        """
        there = [
            (weight, str(values.get(gene, "fp32")))
            for gene, region in self.regions.items()
            for node, weight in region.kernels
            if all(values.get(each, 1) for each in self.around.get(node, ()))
        ]
        return {weight: precision for weight, precision in there if precision != "fp32"}


def find_genes(
    analysis: Analysis, branches: Sequence[Branch], step: int, regions: Sequence[Region] = (), precisions: Sequence[str] = ("fp32",)
) -> Places:
    """The genes of a network.

    Args:
        analysis: its groups and kernels.
        branches: its residual branches.
        step: channels are kept in multiples of this number, where the layer is wide enough.
        regions: kernels that are in one precision.
        precisions: what these may be in; where that is fp32 alone, there are no genes for it. The finest one comes last.
    """
    removable = sorted((each for each in branches if each.searchable), key=lambda each: -len(each.kernels))
    order = {kernel.name: place for place, kernel in reversed(list(enumerate(analysis.kernels)))}
    by_weight: dict[str, list[Group]] = {}
    finer = tuple(sorted(dict.fromkeys(precisions), key=lambda name: Precision.parse(name).fineness))
    beginning = {region.kernels[0][0]: region for region in regions if finer != ("fp32",)}
    placed: dict[str, Region] = {}
    for group in analysis.groups:
        if group.searchable:
            first = min((name for name, _ in _parts(group)), key=lambda name: order.get(name, len(order)))
            by_weight.setdefault(first, []).append(group)
    names: dict[str, str] = {}
    choices: list[Choice] = []

    def add(ident: str, stem: str, kind: str, values: Sequence[Value], outside: str | None) -> str:
        name = f"{stem}.{kind}" if stem else kind
        number = 1
        while name in names.values():
            number += 1
            name = f"{stem}.{kind}{number}" if stem else f"{kind}{number}"
        names[ident] = name
        choices.append(Choice(name, tuple(values), None if outside is None else (outside, (1,)), kind))
        return name

    def around(place: str) -> list[str]:
        return [names[each.id] for each in removable if each.id in names and (place in each.kernels or place in each.weights)]

    for kernel in analysis.kernels:
        for branch in removable:
            if branch.id not in names and kernel.node in branch.kernels:
                add(branch.id, _place(branch, analysis), "depth", (0, 1), next(iter(reversed(around(kernel.node))), None))
        if kernel.node in beginning:
            region = beginning[kernel.node]
            stem = names[region.branch].rpartition(".")[0] if region.branch else _stem(kernel.name)
            placed[add(f"precision of {kernel.node}", stem, "precision", finer, names.get(region.branch))] = region
        for group in by_weight.pop(kernel.name, []):
            add(group.id, _stem(kernel.name), *_offered(group, analysis, step), _inside(group, analysis, removable, names))
    for weight, groups in by_weight.items():
        for group in groups:
            add(group.id, _stem(weight), *_offered(group, analysis, step), _inside(group, analysis, removable, names))
    places = {place for branch in removable for place in (*branch.kernels, *branch.weights)}
    return Places(
        tuple(choices),
        {group.id: names[group.id] for group in analysis.groups if group.id in names},
        {branch.id: names[branch.id] for branch in removable if branch.id in names},
        {place: tuple(around(place)) for place in places},
        placed,
        {each.passing.made: (names[each.id], each.passing.given) for each in removable if each.passing is not None and each.id in names},
    )


def _offered(group: Group, analysis: Analysis, step: int) -> tuple[str, tuple[int, ...]]:
    """The kind of the gene of a group, and how many units may be kept."""
    for layer in analysis.factors:
        if group.id in layer.ranks:
            return "rank", rank_values(layer, group, analysis, step)
    return "width", widths(group, step)


def rank_values(layer: Factors, group: Group, analysis: Analysis, step: int) -> tuple[int, ...]:
    """The ranks of a layer that are offered, ascending; the last one stands for the layer as it was.

    They are multiples of ``step``, or of the half of it and so on if that leaves none, at which the layer has fewer multiply-accumulates
    than as it was; at most eight of them.
    """
    whole = {each.id: each.width for each in analysis.groups}
    kernels = analysis.within(layer)
    most = sum(kernel.macs(whole) for kernel in kernels)
    less = [rank for rank in range(1, group.width) if sum(kernel.macs(whole | {group.id: rank}) for kernel in kernels) < most]
    while step > 1 and not any(rank % step == 0 for rank in less):
        step //= 2
    offered = [rank for rank in less if rank % step == 0] or [max(1, group.width // 2)]
    stride = ceil(len(offered) / _RANKS)
    return (*offered[::-1][::stride][::-1], group.width)


def _stem(weight: str) -> str:
    """The layer of a weight; of one that is written as a product the whole."""
    return f".{weight.removesuffix('.weight')}".split(MARK)[0].removeprefix(".")


def _place(branch: Branch, analysis: Analysis) -> str:
    """What a branch or block is called: the innermost module that holds its layers; of a block in a longer one its first layer."""
    inside = [each.name for each in analysis.kernels if each.node in branch.kernels and each.name]
    shared = _shared(inside)
    apart = (each.name for each in analysis.kernels if each.name and each.node not in branch.kernels)
    within = any(not shared or name.startswith(f"{shared}.") for name in apart)
    return _stem(inside[0]) if branch.passing is not None and within else shared


def _shared(weights: Sequence[str]) -> str:
    """The innermost module that holds all layers of some weights."""
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*(_stem(weight).split(".") for weight in weights), strict=False))
    return ".".join(parts[0] for parts in same)


def _parts(group: Group) -> tuple[tuple[str, int], ...]:
    """The parameters that a group is named after: those that make it, or else those that read it, or else all others."""
    return group.opened or group.read or group.follow


def _inside(group: Group, analysis: Analysis, branches: Sequence[Branch], names: Mapping[str, str]) -> str | None:
    """The gene of the innermost branch that holds all parameters of a group, and all that uses them."""
    weights = {name for name, _ in (*group.opened, *group.read, *group.follow)}
    users = {kernel.node for kernel in analysis.kernels if kernel.name in weights}
    holding = [
        branch
        for branch in branches
        if branch.id in names
        and ((weights <= set(branch.weights) and users <= set(branch.kernels)) or (branch.passing and branch.passing.made == group.id))
    ]
    return names[holding[-1].id] if holding else None


def widths(group: Group, step: int) -> tuple[int, ...]:
    """How many units of a group may be kept, ascending, the full width last.

    Channels are multiples of ``step`` in every kernel that makes them, unless that leaves nothing to choose from: then the step is halved.
    At most 16 widths are offered.
    """
    each = [channels for _, channels in group.opened] or [group.step]
    while True:
        units = lcm(*(step // gcd(step, channels) for channels in each))
        if units < group.width or step == 1:
            break
        step = max(1, step // 2)
    stride = units * -(-group.width // (units * _MOST))
    return (*range(stride, group.width, stride), group.width)
