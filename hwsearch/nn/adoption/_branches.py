"""Branches that a network can do without: ``f`` in ``x + f(x)``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from .rules.base import base_name, shape_of


@dataclass(frozen=True)
class Branch:
    """A residual branch.

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
        node: of the addition in the graph.
        stays: the node whose value is left when the branch is removed.
        module: the module that the addition is in.
        weights: parameters that are used in the branch alone.
        kernels: nodes of operations that are gone with it.
        reason: why it is frozen; empty where it can be removed.
    """

    id: str
    node: str
    stays: str
    module: str
    weights: tuple[str, ...]
    kernels: tuple[str, ...]
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
            inside = _inside(node, stays, other)
            if inside:
                weights = tuple(str(each.target) for each in inside if each.op == "get_attr")
                names = tuple(each.name for each in inside if each.op == "call_function")
                found.append(Branch(f"b{len(found)}", node.name, stays.name, str(node.meta.get("module", "")), weights, names))
                break
    return tuple(found)


def _inside(end: fx.Node, stays: fx.Node, other: fx.Node) -> list[fx.Node]:
    """The nodes between ``stays`` and ``other``; nothing where they do not make a branch."""
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
    closed = all(user in within for node in inside if node.op != "get_attr" for user in node.users)
    heavy = any("conv" in str(node.target) or "linear" in str(node.target) or "mm" in str(node.target) for node in inside)
    return inside if reached and closed and heavy else []


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
