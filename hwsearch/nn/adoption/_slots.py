"""The kernels of a network as the slots of its search space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
from torch import fx

from ...networks._fused import CONVOLUTIONS, LINEAR, PRODUCTS, Fused
from ...spaces._genes import Genes
from ...spaces._kernels import FactorHere, Format, KernelHere, PartHere, Size
from ...spaces._lowering import Slot
from ...spaces._sums import Sum
from ._factors import Factors
from ._genes import Places, Way
from ._groups import Analysis, Extent, extent
from ._parts import Parted, find_parts
from ._pieces import Piece
from .rules.base import base_name, bound, shape_of

Axis = str | Sum[str]


def kernel_slots(genes: Genes, places: Places, analysis: Analysis, network: fx.GraphModule) -> tuple[Slot, ...]:
    """A slot for each kernel of a network, in its order.

    Args:
        genes: of the space.
        places: which gene stands for which group or branch.
        analysis: groups and extents.
        network: the captured graph.
    """
    sizes, parts = _Sizes(genes, places, analysis), find_parts(network, places)
    mains = {parted.piece.main.name: parted.piece for parted in parts if parted.piece.main is not None}
    layers = {node: (each, number) for each in analysis.factors for number, node in enumerate(each.nodes)}
    found: list[Slot] = []
    for parted in parts:
        node = "" if parted.piece.main is None else parted.piece.main.name
        if node in layers:
            each, number = layers[node]
            found.append(sizes.factor(each, number, [mains[name] for name in each.nodes]))
        else:
            found.extend(sizes.slots(parted))
    return tuple(found)


class _Sizes:
    """The sizes of tensors as functions of genes."""

    def __init__(self, genes: Genes, places: Places, analysis: Analysis) -> None:
        self._genes, self._places, self._analysis = genes, places, analysis
        self._widths = {group.id: group.width for group in analysis.groups}
        self._numbers = {int(unit): number for number, group in enumerate(analysis.groups) for unit in group.units}

    def slots(self, parted: Parted) -> Iterator[Slot]:
        """The slot of a kernel, and one for each of its parts that may stand alone."""
        around = self._places.around.get((parted.piece.main or parted.piece.nodes[0]).name, ())
        for number, part in enumerate(parted.parts):
            piece = part.piece
            axes: list[Axis] = [*around]
            here = self._here(piece, axes, around)
            reads, readers = self._formats(part.reads, axes), self._formats(part.readers, axes)
            alone = replace(here, format=self._format(part.gene, axes), reads=reads, readers=readers)
            if len(parted.parts) == 1:
                yield Slot(piece.name, tuple(axes), alone)
                continue
            whole = None
            if number == parted.main:
                reads = self._formats(parted.reads, axes)
                whole = replace(self._here(parted.piece, axes, around), format=alone.format, reads=reads)
            formats = self._formats([each.gene for each in parted.parts], axes)
            yield Slot(piece.name, tuple(axes), PartHere(alone, whole, formats))

    def factor(self, layer: Factors, last: int, pieces: Sequence[Piece]) -> Slot:
        """The slot of a factor of a layer: it stands alone, or for all those before it that it is one layer with, or is part of the next.

        Args:
            layer: the layer.
            last: the number of the factor.
            pieces: the kernels of all factors.
        """
        around = self._places.around.get(layer.nodes[last], ())
        axes: list[Axis] = [*around]
        near = [(rank, width) for rank, width in zip(layer.ranks, layer.full, strict=True) if layer.ranks.index(rank) <= last]
        gates = []
        for rank, width in near:
            if rank in self._places.groups:
                gene = self._places.groups[rank]
                axes.extend(needed for needed in self._needs(gene) if needed not in axes)
                gates.append((rank, axes.index(gene), width))
        ways: dict[tuple[bool, ...], KernelHere | None] = {}
        fixed = {rank for rank, _ in near} - {rank for rank, _, _ in gates}
        for pattern in product((False, True), repeat=len(gates)):
            off = fixed | {rank for (rank, _, _), is_off in zip(gates, pattern, strict=True) if is_off}
            first = layer.first(last, off)
            ways[pattern] = None if first is None else self._joint(layer, (first, last), pieces, axes, around)
        return Slot(pieces[last].name, tuple(axes), FactorHere(tuple((place, width) for _, place, width in gates), tuple(ways.items())))

    def _joint(self, layer: Factors, span: tuple[int, int], pieces: Sequence[Piece], axes: list[Axis], around: Sequence[str]) -> KernelHere:
        """The kernel that some factors of a layer are; the axes of its slot are extended."""
        first, last = span
        begin, end = (self._here(pieces[number], axes, around) for number in span)
        if first == last:
            return end
        before, main = pieces[first].ops, base_name(pieces[last].main.target)  # type: ignore[union-attr]
        ops = (*before[: before.index(main)], *pieces[last].ops)
        onto, into = end.kernel.onto, begin.kernel.into
        taps = layer.joint(first, last) or (1,)
        return replace(end, kernel=Fused.of(ops, begin.kernel.cin, end.kernel.cout, into=into, onto=onto, taps=taps), cin=begin.cin)

    def _format(self, gene: str | None, axes: list[Axis]) -> Format:
        """The precision that a gene tells, by its place among the axes of a slot; these are extended."""
        if gene is None:
            return Format()
        for needed in self._needs(gene):
            if needed not in axes:
                axes.append(needed)
        return Format(axes.index(gene))

    def _formats(self, genes: Iterable[str | None], axes: list[Axis]) -> tuple[Format, ...]:
        return tuple(self._format(gene, axes) for gene in genes)

    def _here(self, piece: Piece, axes: list[Axis], around: Sequence[str]) -> KernelHere:
        """How a kernel follows from the values on the axes of a slot; these are extended."""
        first, last, main = piece.nodes[0], piece.nodes[-1], piece.main
        name = base_name(main.target) if main is not None else ""
        taps: tuple[int, ...] = (1,)
        groups, keeps = 1, True
        if main is not None and name in CONVOLUTIONS:
            given = bound(main)
            taps, groups = shape_of(given["weight"])[2:], int(given["groups"])
            keeps = groups == 1 or main.name in self._analysis.flow.columns
        source = self._largest(main if first is main else first)
        read = source if main is None or first is main else _tensor(main)
        made = main if main is not None else last if shape_of(last) else source
        if not all(prod(shape_of(each) or (0,)) for each in (read, made)):  # numbers, lists, or no values at all, that no gene changes
            return KernelHere(Fused.of(piece.ops, 1, 1), (Size(1),), (Size(1),), tuple(range(len(around))))
        cout = self._channels(made, name)
        onto = _rest(shape_of(made), cout)
        cin = (len(shape_of(read)) - 1,) if name in PRODUCTS else self._channels(read, name)
        into = _rest(shape_of(source), cin if source is read else self._channels(source, ""))
        full = Fused.of(
            piece.ops,
            prod(shape_of(read)[dim] for dim in cin),
            prod(shape_of(made)[dim] for dim in cout),
            into=into,
            onto=onto,
            taps=tuple(taps) or (1,),
            groups=groups,
        )
        counted = sum(kernel.apart(self._widths) for kernel in self._analysis.kernels if main is not None and kernel.node == main.name)
        if full.macs and counted > full.macs:  # a product has rows that no axis of its result shows
            full = replace(full, onto=(*full.onto, round(counted / full.macs)))
        ins, outs = (tuple(self._size(node, dim, axes, around) for dim in dims) for node, dims in ((read, cin), (made, cout)))
        return KernelHere(full, ins, outs, tuple(range(len(around))), keeps)

    def _largest(self, node: fx.Node) -> fx.Node:
        """The input of a node with the most values; its result where it joins several."""
        given = [each for each in node.all_input_nodes if each.op != "get_attr" and shape_of(each)]
        if base_name(node.target) in ("cat", "stack") or not given:
            return node
        return max(given, key=lambda each: prod(shape_of(each)))

    def _channels(self, node: fx.Node, name: str) -> tuple[int, ...]:
        """The axes of a tensor that count as its channels."""
        rank = len(shape_of(node))
        usual = rank - 1 if name in (*LINEAR, *PRODUCTS) or (rank == 3 and name not in CONVOLUTIONS) else min(1, rank - 1)
        free = {dim for dim in range(1, rank) if self._extent(node, dim).parts}
        if name == "scaled_dot_product_attention":
            return tuple(sorted(free - {usual})) or (1,)
        return tuple(sorted(free | ({usual} if name or not free else set())))

    def _extent(self, node: fx.Node, dim: int) -> Extent:
        return extent(self._analysis.flow, node, dim, self._analysis.groups, self._numbers)

    def _size(self, node: fx.Node, dim: int, axes: list[Axis], around: Sequence[str]) -> Size:
        """The size of an axis, by the place of its gene, or of a sum of genes, among the axes of a slot; these are extended."""
        found = self._extent(node, dim)
        if not found.parts:
            return Size(found.fixed)
        ways = {group: self._places.ways(group, around) for group, _ in found.parts}
        if len(ways) == 1 and len(next(iter(ways.values()))) == 1:
            ((group, each),) = found.parts
            gene = self._places.groups[group]
            for needed in self._needs(gene):
                if needed not in axes:
                    axes.append(needed)
            return Size(found.fixed, each, axes.index(gene))
        terms: dict[str | tuple[str, ...], Any] = {}
        for group, each in found.parts:
            names, adds = self._term(group, each, ways[group])
            terms[names] = terms.get(names, 0) + adds
        total = Sum.of(terms, found.fixed)
        if total not in axes:
            axes.append(total)
        return Size(0, 1, axes.index(total))

    def _needs(self, gene: str) -> list[str]:
        """A gene after those that it needs."""
        return [self._genes.choices[number].name for number in self._genes.with_needs([self._genes.position[gene]])]

    def _term(self, group: str, each: int, ways: Sequence[Way]) -> tuple[tuple[str, ...], Any]:
        """What a group adds to a sum, over the genes that its units depend on and those that these need."""
        own = {self._genes.position[gene] for way in ways for gene in (way.gene, *dict(way.gates)) if gene is not None}
        choices = [self._genes.choices[number] for number in self._genes.with_needs(own)]
        names = tuple(choice.name for choice in choices)
        grid = dict(zip(names, np.meshgrid(*(np.asarray(choice.values, dtype=np.int64) for choice in choices), indexing="ij"), strict=True))
        added: Any = 0
        for way in ways:
            there = prod((grid[gene] == value for gene, value in way.gates), start=np.int64(each))
            added = added + there * (self._widths[group] if way.gene is None else grid[way.gene])
        return names, added


def _tensor(node: fx.Node) -> fx.Node:
    """The activation that an operation multiplies."""
    return next((each for each in node.all_input_nodes if each.op != "get_attr" and shape_of(each)), node)


def _rest(shape: Mapping[int, int] | Sequence[int], channels: Sequence[int]) -> tuple[int, ...]:
    """The sizes of a tensor beside the batch and its channels."""
    return tuple(size for dim, size in enumerate(shape) if dim > 0 and dim not in channels) or (1,)
