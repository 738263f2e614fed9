"""Regions: kernels of a network that change their precision together.

A runtime computes in integers from where a value is quantised to where it is needed in floats again, and both conversions cost time; a
kernel in int8 between two in fp32 rarely pays. What can be chosen well is a stretch of kernels: those inside a residual branch, or else
all those whose maps have one size, which add up to or are joined with each other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod

from torch import fx

from ._branches import Branch
from ._formats import able, origins
from .rules.base import shape_of


@dataclass(frozen=True)
class Region:
    """Kernels that are in one precision.

    Attributes:
        branch: the residual branch that holds them; empty where none does.
        kernels: their nodes in the graph, and the names of their weights.
    """

    branch: str
    kernels: tuple[tuple[str, str], ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of their weights."""
        return tuple(weight for _, weight in self.kernels)


def find_regions(network: fx.GraphModule, branches: Sequence[Branch], frozen: Collection[str]) -> tuple[Region, ...]:
    """The regions of a captured network, in its order.

    Kernels that cannot be in int8, and those whose weights are frozen, are in none.

    Args:
        network: the captured graph.
        branches: its residual branches.
        frozen: names of parameters that are to stay as they are.
    """
    sizes = _sizes(network)
    found: dict[object, list[tuple[str, str]]] = {}
    within: dict[object, str] = {}
    for node, weight in able(network).items():
        if weight not in frozen:
            holding = [each for each in branches if each.searchable and each.passing is None and node.name in each.kernels]
            inner = min(holding, key=lambda branch: len(branch.kernels)).id if holding else ""
            key = inner or sizes[node]
            found.setdefault(key, []).append((node.name, weight))
            within[key] = inner
    return tuple(Region(within[key], tuple(kernels)) for key, kernels in found.items())


def of_one_format(network: fx.GraphModule, branches: Sequence[Branch], regions: Sequence[Region]) -> tuple[Branch, ...]:
    """The same branches; blocks are frozen that may be given one precision and give another, which what reads them would have to know."""
    kernels = able(network)
    region = {node: number for number, each in enumerate(regions) for node, _ in each.kernels}
    formats = {node.name: region.get(kernel.name, -1) for node, kernel in origins(network, kernels).items()}
    return tuple(
        replace(branch, reason="what it is given may be in another precision than what it makes")
        if branch.searchable and branch.passing is not None and formats.get(branch.stays, -1) != formats.get(branch.node, -1)
        else branch
        for branch in branches
    )


def _sizes(network: fx.GraphModule) -> dict[fx.Node, tuple[int, ...]]:
    """The size of the map that each node makes; of what is a single pixel, that of the largest map that it is used for."""
    found: dict[fx.Node, tuple[int, ...]] = {}
    for node in reversed(network.graph.nodes):
        own = tuple(shape_of(node)[2:])
        found[node] = own if prod(own) > 1 else max((found[user] for user in node.users), key=prod, default=())
    return found
