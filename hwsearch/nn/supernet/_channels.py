"""Channels by importance: narrower networks take the first channels of each layer, so those that matter most should come first.

Once-for-All (ICLR'20, section 3.3) sorts the channels inside a block by the L1 norm of the weights that read them before it makes widths
elastic. Here all channels are sorted, also those that residual sums tie together over the blocks of a stage: whatever reads or writes the
same feature map gets the same order, so the networks that were trained so far compute what they did.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import nn

from ...networks._blocks import Layer
from ...spaces._space import SearchSpace
from ._elastic import ElasticLayer
from ._held import check_kept
from ._supernet import Supernet


@dataclass(frozen=True)
class _Use:
    """One layer of the supernet and the channels that it reads and writes.

    Attributes:
        layer: with weights.
        reads, writes: numbers of axes.
        roles: the layers that it stands for.
    """

    layer: ElasticLayer
    reads: int
    writes: int
    roles: tuple[Layer, ...]

    @property
    def channelwise(self) -> bool:
        """Whether each channel is on its own, as in a depthwise convolution."""
        return self.roles[0].groups > 1


class _Axes:
    """The channels between layers, numbered; what a sum ties together has one number in the end."""

    def __init__(self) -> None:
        self.parents: list[int] = []

    def new(self) -> int:
        self.parents.append(len(self.parents))
        return len(self.parents) - 1

    def find(self, axis: int) -> int:
        while self.parents[axis] != axis:
            axis = self.parents[axis]
        return axis

    def tie(self, one: int, other: int) -> int:
        self.parents[self.find(other)] = self.find(one)
        return one


def rank_channels(supernet: Supernet, kept: SearchSpace) -> None:
    """Put the channels of all layers into the order of their importance, the largest L1 norm of the weights that read them first.

    Every network of ``kept`` computes what it did: channels move only between its widths. Channels of grouped convolutions stay where they
    are.

    Args:
        supernet: its weights are re-ordered in place.
        kept: the space of the supernet, restricted to the networks that have been trained.

    Raises:
        InvalidInput: the weights are made from widths, so they have no order.
    """
    check_kept(supernet.generated, "have no order of channels")
    axes, uses, fixed = _walk(supernet, kept)
    readers: dict[int, list[_Use]] = {}
    borders: dict[int, set[int]] = {}
    for use in uses:
        if not use.channelwise:
            readers.setdefault(axes.find(use.reads), []).append(use)
        for axis, widths in ((use.reads, {role.cin for role in use.roles}), (use.writes, {role.cout for role in use.roles})):
            borders.setdefault(axes.find(axis), {0}).update(widths)
    with torch.no_grad():
        orders = {axis: _order(found, sorted(borders[axis])) for axis, found in readers.items() if axis not in fixed}
        for use in uses:
            _permute(use, orders.get(axes.find(use.reads)), orders.get(axes.find(use.writes)))


def _walk(supernet: Supernet, kept: SearchSpace) -> tuple[_Axes, list[_Use], set[int]]:
    """Which channels every layer reads and writes in the networks of ``kept``, and the axes whose order is not ours to choose."""
    axes = _Axes()
    uses: list[_Use] = []
    image = axes.new()
    ends = [image]
    for module, blocks, always in supernet.places(kept):
        start = ends[0]
        for end in ends[1:]:
            axes.tie(start, end)
        graphs = [block.graph for block in blocks]
        inner = _through(axes, uses, module.body[:-1], [graph.body[:-1] for graph in graphs], start)
        axes.tie(inner, _through(axes, uses, module.excite, [graph.excite for graph in graphs], inner))
        out = _through(axes, uses, module.body[-1:], [graph.body[-1:] for graph in graphs], inner)
        aside = _through(axes, uses, module.shortcut, [graph.shortcut or () for graph in graphs], start)
        if aside != start:
            axes.tie(out, aside)
        if any(graph.shortcut == () for graph in graphs):
            axes.tie(out, start)
        ends = [out] if always else [*ends, out]
    grouped = [use for use in uses if any(1 < role.groups != role.cin for role in use.roles)]
    fixed = [image, *ends, *(axis for use in grouped for axis in (use.reads, use.writes))]
    return axes, uses, {axes.find(axis) for axis in fixed}


def _through(axes: _Axes, uses: list[_Use], elastic: nn.ModuleList, stacks: list[tuple[Layer, ...]], axis: int) -> int:
    """Follow channels through layers in a row, noting what these read and write; returns the channels that come out."""
    for layer, roles in zip(elastic, zip(*filter(None, stacks), strict=True), strict=False):
        assert isinstance(layer, ElasticLayer)
        if roles[0].pooling:
            continue
        reads, axis = axis, axes.new()
        uses.append(_Use(layer, reads, axis, roles))
        if uses[-1].channelwise:
            axes.tie(reads, axis)
    return axis


def _order(readers: list[_Use], borders: list[int]) -> torch.Tensor:
    """The channels of an axis, most important first between each two borders, shape ``(width,)``."""
    device = readers[0].layer.weight.device
    norms = torch.zeros(borders[-1], device=device)
    for use in readers:
        found = use.layer.weight.abs().transpose(0, 1).flatten(1).sum(dim=1)
        norms[: len(found)] += found[: len(norms)]
    groups = [start + norms[start:end].argsort(descending=True, stable=True) for start, end in itertools.pairwise(borders)]
    return torch.cat(groups)


def _permute(use: _Use, reads: torch.Tensor | None, writes: torch.Tensor | None) -> None:
    """Put the channels of one layer into the given orders."""
    layer = use.layer
    if writes is not None:
        own = [layer.weight, layer.bias, *((layer.norm.weight, layer.norm.bias) if layer.norm is not None else ())]
        for tensor in own:
            if tensor is not None:
                _move(tensor, writes, 0)
    if reads is not None and not use.channelwise:
        _move(layer.weight, reads, 1)


def _move(tensor: torch.Tensor, order: torch.Tensor, dim: int) -> None:
    """Re-order the first channels along one dimension; a layer may have fewer or more of them than the order."""
    count = min(len(order), tensor.shape[dim])
    part = tensor.narrow(dim, 0, count)
    part.copy_(part.index_select(dim, order[:count]))
