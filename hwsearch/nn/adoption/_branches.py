"""What a network can do without: branches, ``f`` in ``x + f(x)``, and blocks, ``f`` in ``f(x)`` where that has the shape of ``x``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from ._axes import Labels
from .rules.base import base_name, shape_of


@dataclass(frozen=True)
class Passing:
    """Whose channels stand in the place of those that a block makes once it is removed.

    Attributes:
        made: the group of channels that the block makes.
        given: the group of channels that it is given.
        units: for each unit of the one, the unit of the other at the same place.
    """

    made: str
    given: str
    units: tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """Something that may be removed: a residual branch, or a block that keeps the shape of what it is given.

    Example:
        >>> import hwsearch, torch
        >>> class Residual(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv = torch.nn.Conv2d(8, 8, 3, padding=1)
        ...     def forward(self, x):
        ...         return x + self.conv(x)
        >>> space = hwsearch.adopt(torch.nn.Sequential(Residual(), Residual()), torch.randn(1, 8, 8, 8))
        >>> [(branch.id, branch.weights, branch.searchable) for branch in space.branches]
        [('b0', ('0.conv.bias', '0.conv.weight'), True), ('b1', ('1.conv.bias', '1.conv.weight'), True)]

    Attributes:
        id: its name, for example ``"b0"``.
        node: of the addition in the graph, or the last one of the block.
        stays: the node whose value is left when the branch is removed.
        module: the module that this node is in.
        weights: parameters that are used in the branch, if not there alone.
        kernels: nodes of operations that are gone with it.
        passing: whose channels then stand in the place of those that a block makes; ``None`` for a residual branch.
        reason: why it is frozen; empty where it can be removed.
    """

    id: str
    node: str
    stays: str
    module: str
    weights: tuple[str, ...]
    kernels: tuple[str, ...]
    passing: Passing | None = None
    reason: str = ""

    @property
    def searchable(self) -> bool:
        """Whether it may be removed."""
        return not self.reason


def find_branches(network: fx.GraphModule) -> tuple[Branch, ...]:
    """All additions ``x + f(x)`` of equal shapes, where nothing within ``f`` is used elsewhere and ``f`` sees nothing but ``x``."""
    found: list[Branch] = []
    for node in network.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload) or base_name(node.target) != "add":
            continue
        sides = [each for each in node.args[:2] if isinstance(each, fx.Node)]
        if len(sides) < 2 or sides[0] is sides[1] or shape_of(sides[0]) != shape_of(sides[1]) or len(shape_of(node)) < 2:
            continue
        for stays, other in (sides, sides[::-1]):
            inside = between(stays, other, node)
            if any("conv" in str(each.target) or "linear" in str(each.target) or "mm" in str(each.target) for each in inside):
                found.append(made_of(f"b{len(found)}", node, stays, inside))
                break
    return tuple(found)


def made_of(ident: str, node: fx.Node, stays: fx.Node, inside: Iterable[fx.Node], passing: Passing | None = None) -> Branch:
    """A branch or block of some nodes."""
    held = list(inside)
    weights = tuple(str(each.target) for each in held if each.op == "get_attr")
    names = tuple(each.name for each in held if each.op == "call_function")
    return Branch(ident, node.name, stays.name, str(node.meta.get("module", "")), weights, names, passing)


def pass_on(branches: Iterable[Branch], kept: Mapping[str, Labels]) -> dict[str, Labels]:
    """The units that are kept of each group when some branches are removed: what a block made is what it would have been given.

    Args:
        branches: those that are removed, in the order of the network.
        kept: the units kept of some groups; all of the others.
    """
    left = dict(kept)
    for passing in (branch.passing for branch in branches):
        if passing is not None:
            left.pop(passing.made, None)
            if passing.given in left:
                left[passing.made] = np.flatnonzero(np.isin(passing.units, left[passing.given]))
    return left


def between(stays: fx.Node, other: fx.Node, end: fx.Node) -> list[fx.Node]:
    """The nodes between ``stays`` and ``other``, that one included; none where anything but ``end`` reads them from outside."""
    inside: list[fx.Node] = []
    reached = False
    for node in _before(other, stays):
        if node is stays:
            reached = True
        elif node.op == "placeholder":
            return []
        else:
            inside.append(node)
    within = {*inside, end}
    closed = all(user in within for node in inside if node is not end and node.op != "get_attr" for user in node.users)
    return inside if reached and closed else []


def _before(node: fx.Node, stop: fx.Node) -> Iterator[fx.Node]:
    """A node and all that it depends on, not going past ``stop``; numbers such as sizes are left out."""
    seen, waiting = {node}, [node]
    while waiting:
        each = waiting.pop()
        yield each
        if each is stop:
            continue
        for source in each.all_input_nodes:
            if (
                source not in seen
                and "number" not in source.meta
                and (source.op == "get_attr" or shape_of(source) or "shape" in source.meta)
            ):
                seen.add(source)
                waiting.append(source)
