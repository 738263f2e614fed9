"""What a cut network costs on paper, as sums of small tables over its genes.

A size is linear in the units that are kept of each group, so multiply-accumulates and parameters are polynomials, and each of their terms
is a table over the few genes that it depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

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

Terms = dict[tuple[str, ...], float]
"""A polynomial: groups (one several times for its powers) -> coefficient."""


def counted(space: SearchSpace, places: Places, analysis: Analysis, network: fx.GraphModule) -> dict[str, tuple[Table, ...]]:
    """Multiply-accumulates of one image, parameters, and their size in MB of 10^6 bytes, as tables over the genes of a space.

    Weights in int8 take a byte each, and four bytes an output channel for its step.
    """
    macs = _Sum(space, places)
    for kernel in analysis.kernels:
        macs.add(kernel.node, kernel.count, kernel.extents)
    params, size = _Sum(space, places), _Sum(space, places)
    numbers = {int(unit): number for number, group in enumerate(analysis.groups) for unit in group.units}
    for name, node in {str(node.target): node for node in network.graph.find_nodes(op="get_attr")}.items():
        tensor = get(network, name)
        if isinstance(tensor, nn.Parameter):
            sizes = [extent(analysis.flow, node, dim, analysis.groups, numbers) for dim in range(len(shape_of(node)))]
            params.add(name, 1.0, sizes)
            bits, each = places.bits.get(name), 1e-6 * tensor.element_size()
            size.add(name, each, sizes, Formats(bits, {"int8": 1e-6 / each} if bits else {}))
            if bits:
                size.add(name, 4e-6, sizes[:1], Formats(bits, {"fp32": 0.0}))
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
    """What a precision makes of a count.

    Attributes:
        gene: of the precision, if there is one.
        factors: precision -> what the count is multiplied by; 1 if omitted.
    """

    gene: str | None = None
    factors: Mapping[str, float] = field(default_factory=dict)


_ANY = Formats()


class _Sum:
    """Polynomials of what lies in branches or outside of them, added up as tables."""

    def __init__(self, space: SearchSpace, places: Places) -> None:
        self._space, self._places = space, places
        self._arrays: dict[tuple[str, ...], npt.NDArray[np.float64]] = {}

    def add(self, place: str, count: float, extents: Sequence[Extent], formats: Formats = _ANY) -> None:
        """Add a product of sizes of a node or a parameter, which is gone with the branches that it lies in."""
        around, gene = self._places.around.get(place, ()), formats.gene
        for groups, factor in expanded(count, extents).items():
            own = {*around, *(self._places.groups[group] for group in groups), *([gene] if gene else [])}
            genes = [self._space.choices[gene] for gene in self._space.with_needs(self._space.position[name] for name in own)]
            names = tuple(choice.name for choice in genes)
            values = dict(zip(names, np.meshgrid(*(choice.values for choice in genes), indexing="ij"), strict=True)) if genes else {}
            there = prod((values[name] for name in around), start=np.float64(factor))
            if gene:
                there = there * np.vectorize(lambda name: formats.factors.get(name, 1.0), otypes=[np.float64])(values[gene])
            array = prod((values[self._places.groups[group]] for group in groups), start=there)
            full = np.broadcast_to(array, [len(choice.values) for choice in genes])
            self._arrays[names] = self._arrays.get(names, 0.0) + full

    def tables(self, cost: str) -> tuple[Table, ...]:
        """The tables of a cost."""
        return tuple(checked_table(self._space, cost, names, array) for names, array in self._arrays.items())
