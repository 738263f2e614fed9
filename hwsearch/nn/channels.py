"""Channels by importance: narrower networks take the first channels of each layer, so those that matter most should come first.

Once-for-All (ICLR'20, section 3.3) sorts the channels inside a block by the L1 norm of the weights that read them before it makes widths
elastic. Here all channels are sorted, also those that residual sums tie together over the blocks of a stage: whatever reads or writes the
same feature map gets the same order, so the networks that were trained so far compute what they did.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..blocks import Block, Layer
from ..space import SearchSpace
from .elastic import ElasticBlock, ElasticLayer
from .supernet import Supernet


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

    Every network of ``kept`` computes what it did: channels move only between its widths. Where one convolution has several groups of
    channels, they stay where they are.

    Args:
        supernet: whose weights are re-ordered in place.
        kept: the space of the supernet, restricted to the networks that have been trained.
    """
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
    ends, fixed = [image], [image]
    for module, blocks, always in _standing(supernet, kept):
        start = ends[0]
        for end in ends[1:]:
            axes.tie(start, end)
        out = start
        for index, layer in enumerate(module.body):
            out = _use(axes, uses, layer, out, tuple(block.graph.body[index] for block in blocks))
        shortcuts = [block.graph.shortcut for block in blocks]
        longest = max((len(shortcut) for shortcut in shortcuts if shortcut), default=0)
        aside = start
        for index in range(longest):
            aside = _use(axes, uses, module.shortcut[index], aside, tuple(shortcut[index] for shortcut in shortcuts if shortcut))
        if longest:
            axes.tie(out, aside)
        if any(shortcut == () for shortcut in shortcuts):
            axes.tie(out, start)
        ends = [out] if always else [*ends, out]
    fixed += [*ends, *(axis for use in uses if use.channelwise and _grouped(use) for axis in (use.reads, use.writes))]
    return axes, uses, {axes.find(axis) for axis in fixed}


def _use(axes: _Axes, uses: list[_Use], layer: object, reads: int, roles: tuple[Layer, ...]) -> int:
    """Note what a layer reads and writes, and return the latter."""
    assert isinstance(layer, ElasticLayer)
    if roles[0].pooling:
        return reads
    writes = axes.new()
    if roles[0].groups > 1:
        axes.tie(reads, writes)
    uses.append(_Use(layer, reads, writes, roles))
    return writes


def _grouped(use: _Use) -> bool:
    return any(not role.groups == role.cin == role.cout for role in use.roles)


def _standing(supernet: Supernet, kept: SearchSpace) -> Iterator[tuple[ElasticBlock, list[Block], bool]]:
    """In the order of execution: each block of the supernet, what it stands for in ``kept``, and whether it is never left out."""
    space = supernet.space
    weighty = np.array([not block.boundary for block in space.unique_blocks] + [False])
    for slot, lowered in zip(space.slots, space.slot_blocks, strict=True):
        cells = lowered.blocks[np.ix_(*(kept.allowed[gene] for gene in lowered.genes))]
        standing = cells[weighty[cells]]
        if len(standing):
            module = supernet.block(slot.name)
            yield module, [space.unique_blocks[index] for index in np.unique(standing)], bool(weighty[cells].any(axis=-1).all())


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
