"""What a network can do without: branches, ``f`` in ``x + f(x)``, and blocks, ``f`` in ``f(x)`` where that has the shape of ``x``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    """All additions ``x + f(x, ...)`` of equal shapes, where nothing that ``f`` makes of ``x`` is used elsewhere.

    What else ``f`` sees, such as a mask, positions or the tokens of an encoder, stays if it is used elsewhere, too.
    """
    found: list[Branch] = []
    for node in network.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload) or base_name(node.target) != "add":
            continue
        sides = [each for each in node.args[:2] if isinstance(each, fx.Node)]
        if len(sides) < 2 or sides[0] is sides[1] or shape_of(sides[0]) != shape_of(sides[1]) or len(shape_of(node)) < 2:
            continue
        for stays, other in (sides, sides[::-1]):
            inside = _gone(stays, other, node)
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


def between(stays: fx.Node, end: fx.Node) -> list[fx.Node]:
    """The nodes between ``stays`` and ``end``, that one included; none where others see what they make, or they see anything else."""
    inside = _gone(stays, end, end)
    seen = {source for node in inside for source in _sources(node)}
    return inside if seen <= {stays, *inside} else []


def _gone(stays: fx.Node, other: fx.Node, end: fx.Node) -> list[fx.Node]:
    """What only ``end`` needs beside ``stays`` to compute ``other``; nothing where more than that sees what is made of ``stays``."""
    walked = sorted(_before(other, stays))
    if stays not in walked:
        return []
    made = {stays}
    for node in walked:
        if not made.isdisjoint(_sources(node)):
            made.add(node)
    gone: dict[fx.Node, None] = {end: None}
    for node in reversed(walked):
        users = [user in gone for user in node.users]
        if node in made and node not in (stays, end) and not all(users):
            return []
        if node is not stays and node.op != "placeholder" and (any(users) if node.op == "get_attr" else all(users)):
            gone[node] = None
    return [node for node in gone if node is not end or node is other]


def _before(node: fx.Node, stop: fx.Node) -> set[fx.Node]:
    """A node and all that it depends on, not going past ``stop``."""
    seen, waiting = {node}, [node]
    while waiting:
        each = waiting.pop()
        if each is not stop:
            fresh = [source for source in _sources(each) if source not in seen]
            seen.update(fresh)
            waiting += fresh
    return seen


def _sources(node: fx.Node) -> list[fx.Node]:
    """What a node is given; numbers such as sizes are left out."""
    return [
        source
        for source in node.all_input_nodes
        if "number" not in source.meta and (source.op == "get_attr" or shape_of(source) or "shape" in source.meta)
    ]
