"""What a cut network costs on paper, as sums of small tables over its genes.

A size is linear in the units that are kept of each group, so multiply-accumulates and parameters are polynomials, and each of their terms
is a table over the few genes that it depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx, nn

from ...spaces._lowering import checked_table
from ...spaces._space import SearchSpace
from ...spaces._tables import Table
from ._genes import Places
from ._groups import Analysis, Extent, extent
from ._state import get
from .rules.base import shape_of

_APART = 8
"""Branches that a parameter may be used in, each of which may go."""
Terms = dict[tuple[str, ...], float]
"""A polynomial: groups (one several times for its powers) -> coefficient."""


def counted(space: SearchSpace, places: Places, analysis: Analysis, network: fx.GraphModule) -> dict[str, tuple[Table, ...]]:
    """Multiply-accumulates of one image, parameters, and their size in MB of 10^6 bytes, as tables over the genes of a space.

    Weights in int8 take a byte each, and four bytes an output channel for its step.
    """
    macs = _Sum(space, places)
    for kernel in analysis.kernels:
        for off, gates in _gates(space, places, kernel.ranks):
            count, extents = kernel.merged.get(off, (kernel.count, kernel.extents))
            macs.add([kernel.node], count, extents, *gates)
    layers = {weight: (each, number) for each in analysis.factors for number, weight in enumerate(each.weights)}
    params, size = _Sum(space, places), _Sum(space, places)
    numbers = {int(unit): number for number, group in enumerate(analysis.groups) for unit in group.units}
    held = {str(node.target): node for node in network.graph.find_nodes(op="get_attr")}
    users: dict[str, list[str]] = {name: [] for name in held}
    for node in network.graph.find_nodes(op="get_attr"):
        users[str(node.target)] += [user.name for user in node.users]
    sources = {name: extent(analysis.flow, held[name], 1, analysis.groups, numbers) for name in layers}
    for name, node in held.items():
        tensor = get(network, name)
        if isinstance(tensor, nn.Parameter):
            sizes = [extent(analysis.flow, node, dim, analysis.groups, numbers) for dim in range(len(shape_of(node)))]
            bits, each = places.bits.get(name), 1e-6 * tensor.element_size()
            if name in layers:
                layer, last = layers[name]
                for off, gates in _gates(space, places, tuple(zip(layer.ranks, layer.full, strict=True))):
                    first = layer.first(last, off)
                    if first is not None:
                        taps, into = float(prod(layer.joint(first, last))), sources[layer.weights[first]]
                        params.add(users[name], taps, [sizes[0], into], *gates)
                        size.add(users[name], each * taps, [sizes[0], into], *gates)
                continue
            params.add(users[name], 1.0, sizes)
            size.add(users[name], each, sizes, Formats(bits, {"int8": 1e-6 / each} if bits else {}))
            if bits:
                size.add(users[name], 4e-6, sizes[:1], Formats(bits, {"fp32": 0.0}))
    return {"macs": macs.tables("macs"), "params": params.tables("params"), "size_mb": size.tables("size_mb")}


def expanded(count: float, extents: Iterable[Extent]) -> Terms:
    """The product of a number and some sizes, as a polynomial in the units kept."""
    terms: Terms = {(): count}
    for each in extents:
        grown: Terms = {}
        for groups, factor in terms.items():
            for more, times in (((), each.fixed), *(((group,), times) for group, times in each.parts)):
                key = tuple(sorted((*groups, *more)))
                grown[key] = grown.get(key, 0.0) + factor * times
        terms = grown
    return {groups: factor for groups, factor in terms.items() if factor}


@dataclass(frozen=True)
class Formats:
    """What a precision, or a rank, makes of a count.

    Attributes:
        gene: of the precision or the rank, if there is one.
        factors: its value -> what the count is multiplied by; 1 if omitted.
    """

    gene: str | None = None
    factors: Mapping[Any, float] = field(default_factory=dict)


def _gates(space: SearchSpace, places: Places, ranks: Sequence[tuple[str, int]]) -> Iterator[tuple[frozenset[str], tuple[Formats, ...]]]:
    """All sets of ranks that may be off, each with what makes a count 0 where another set is; a rank without a gene always is."""
    for pattern in product((False, True), repeat=len(ranks)):
        gates, possible = [], True
        for (group, full), off in zip(ranks, pattern, strict=True):
            gene = places.groups.get(group)
            if gene is None:
                possible = possible and off
                continue
            values = space.choices[space.position[gene]].values
            gates.append(Formats(gene, {value: 0.0 for value in values if (value == full) != off}))
        if possible:
            yield frozenset(group for (group, _), off in zip(ranks, pattern, strict=True) if off), tuple(gates)


class _Sum:
    """Polynomials of what lies in branches or outside of them, added up as tables."""

    def __init__(self, space: SearchSpace, places: Places) -> None:
        self._space, self._places = space, places
        self._arrays: dict[tuple[str, ...], npt.NDArray[np.float64]] = {}

    def add(self, users: Sequence[str], count: float, extents: Sequence[Extent], *formats: Formats) -> None:
        """Add a product of sizes of an operation, or of a parameter that operations use: it is there as long as one of them is.

        Several that may go each for itself are counted by inclusion and exclusion; where they are too many for that, as if none could.
        """
        lying = dict.fromkeys(frozenset(self._places.around.get(user, ())) for user in users)
        ways = [each for each in lying if not any(other < each for other in lying)]  # what lies in fewer branches stays longer
        if not 0 < len(ways) <= _APART:
            ways = [frozenset()]
        for number in range(1, len(ways) + 1):
            for some in combinations(ways, number):
                self._polynomial(tuple(sorted(frozenset().union(*some))), (-1) ** (number + 1) * count, extents, formats)

    def _polynomial(self, around: Sequence[str], count: float, extents: Sequence[Extent], formats: Sequence[Formats]) -> None:
        """Add a product of sizes of what is gone with any of these branches."""
        for groups, factor in expanded(count, extents).items():
            for ways in product(*(self._places.ways(group, around) for group in groups)):
                gates = {gate for way in ways for gate in way.gates}
                if len(dict(gates)) == len(gates):
                    full = prod(self._width(group) for group, way in zip(groups, ways, strict=True) if way.gene is None)
                    there = [Formats(gene, {1 - value: 0.0}) for gene, value in sorted(gates)]
                    self._add(around, factor * full, [way.gene for way in ways if way.gene is not None], (*formats, *there))

    def _width(self, group: str) -> int:
        """All units of a group."""
        return int(self._space.choices[self._space.position[self._places.groups[group]]].values[-1])

    def _add(self, around: Sequence[str], factor: float, widths: Sequence[str], formats: Sequence[Formats]) -> None:
        """Add a number times the values of some genes."""
        given = [each for each in formats if each.gene is not None]
        own = {*around, *widths, *(str(each.gene) for each in given)}
        genes = [self._space.choices[gene] for gene in self._space.with_needs(self._space.position[name] for name in own)]
        names = tuple(choice.name for choice in genes)
        values = dict(zip(names, np.meshgrid(*(choice.values for choice in genes), indexing="ij"), strict=True)) if genes else {}
        there = prod((values[name] for name in around), start=np.float64(factor))
        for each in given:
            found = np.vectorize(lambda value, each=each: each.factors.get(value, 1.0), otypes=[np.float64])(values[str(each.gene)])
            there = there * found
        array = prod((values[gene] for gene in widths), start=there)
        full = np.broadcast_to(array, [len(choice.values) for choice in genes])
        self._arrays[names] = self._arrays.get(names, 0.0) + full

    def tables(self, cost: str) -> tuple[Table, ...]:
        """The tables of a cost."""
        return tuple(checked_table(self._space, cost, names, array) for names, array in self._arrays.items())
