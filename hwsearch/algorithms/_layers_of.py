"""What each gene decides about: the layer of the largest network that it changes most, as numbers for an agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from .._types import Rows, Values
from ..networks._blocks import Block
from ..networks._fused import Fused
from ..spaces._space import SearchSpace

TOLD = ("depthwise", "of_weights", "of_maps", "channels_in", "channels_out", "kernel", "stride", "size", "weights")
"""What is told of a layer: whether it is depthwise; whether the gene changes bits of its weights and of its feature maps; its channels,
the positions of its kernel, its stride, the positions of its input, and its weights."""


class _Shape(NamedTuple):
    """A layer as it is compared: two are the same if all of this is."""

    cin: int
    cout: int
    kernel: int
    size: int
    out: int
    groups: int
    weights: int
    weight_bits: int
    activation_bits: int


def layers_of(space: SearchSpace, largest: Rows, least: Rows, genes: tuple[int, ...]) -> Values:
    """The layer that each gene changes most, between its largest and its least value, in the largest network.

    Args:
        space: whose genes they are.
        largest: the row of the largest network, with inactive genes at their largest value too, shape ``(genes,)``.
        least: the same of the least value of each gene.
        genes: columns.

    Returns:
        A row of :data:`TOLD` for each gene, shape ``(len(genes), 9)``; zeros of spaces that are given as tables, whose layers are unknown.
    """
    found = np.zeros((len(genes), len(TOLD)))
    if not space.slots:
        return found
    for place, gene in enumerate(genes):
        whole = with_active(space, largest, gene)
        reduced = whole.copy()
        reduced[gene] = least[gene]
        before, after = (Counter(_shapes(space, row)) for row in (whole, reduced))
        changed = before - after
        if changed:
            layer = max(changed, key=lambda shape: (shape.weights * shape.out, shape))
            others = [each for each in after - before if each[:7] == layer[:7]]  # the same layer at other bits
            found[place] = (
                layer.groups > 1 and layer.groups == layer.cin,
                any(each.weight_bits != layer.weight_bits for each in others),
                any(each.activation_bits != layer.activation_bits for each in others),
                layer.cin,
                layer.cout,
                layer.kernel,
                np.sqrt(layer.size / max(1, layer.out)),
                layer.size,
                layer.weights,
            )
    return found


def with_active(space: SearchSpace, row: Rows, gene: int) -> Rows:
    """The row in which what a gene needs has the last allowed value that it needs, so that the gene counts."""
    row = row.copy()
    need = space.needs[gene]
    while need is not None:
        parent, wanted = need
        may = [index for index in space.allowed[parent] if wanted[index]]
        if may and not wanted[row[parent]]:
            row[parent] = may[-1]
        need = space.needs[parent]
    return row


def _shapes(space: SearchSpace, row: Rows) -> Iterator[_Shape]:
    for block in space.blocks(row):
        yield from _of_block(block)


def _of_block(block: Block) -> Iterator[_Shape]:
    bits = block.bits.weight_bits, block.bits.activation_bits
    if isinstance(block, Fused):
        into, onto = prod(block.into), prod(block.onto)
        yield _Shape(block.cin, block.cout, prod(block.taps), into, onto, block.groups, block.weights, *bits)
    for layer in block.graph.layers:
        size, out = layer.size**2, layer.out_size**2
        yield _Shape(layer.cin, layer.cout, layer.kernel**2, size, out, layer.groups, layer.weights, *bits)
