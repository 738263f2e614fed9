"""The kernels of a network: what a runtime does at once, found in its graph, each as a place whose blocks depend on a few genes.

A piece has at most one operation that multiplies. What works value by value on its result joins it, and so does what is computed for it
alone, such as a pooling before a linear layer. Operations in between, such as a concatenation, make pieces of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ...networks._fused import CONVOLUTIONS, LINEAR, PRODUCTS, labelled
from ._state import put
from .rules.base import base_name, shape_of

_FREE = (
    "view",
    "reshape",
    "_unsafe_view",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "contiguous",
    "clone",
    "alias",
    "detach",
    "expand",
)
_JOINS = ("batch_norm", "hardswish", "hardsigmoid", "hardtanh", "relu6", "leaky_relu", "elu", "prelu", "gelu", "softmax")
"""Operations that work value by value though torch does not say so, and those that a runtime does with what is before them."""


@dataclass
class Piece:
    """A kernel, as nodes of a graph.

    Attributes:
        name: of the node that it is named after.
        nodes: in the order of the graph.
        main: the node that multiplies, if one does.
    """

    name: str
    nodes: list[fx.Node] = field(default_factory=list)
    main: fx.Node | None = None

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of its operations; a batch norm behind weights is part of them."""
        names = [base_name(node.target) for node in self.nodes]
        place = self.nodes.index(self.main) if self.main is not None else -1
        folded = place + 1 if 0 <= place < len(names) - 1 and names[place + 1] == "batch_norm" else -1
        return tuple(name for number, name in enumerate(names) if number != folded)


def find_pieces(network: fx.GraphModule) -> tuple[Piece, ...]:
    """The kernels of a captured network, in its order."""
    owner: dict[fx.Node, Piece] = {}
    pieces: list[Piece] = []
    for node in network.graph.nodes:
        if not _works(node):
            continue
        name = base_name(node.target)
        multiplies = name in (*CONVOLUTIONS, *LINEAR, *PRODUCTS)
        sources = [source_of(each) for each in node.all_input_nodes if each.op != "get_attr" and "number" not in each.meta]
        joined = None if multiplies else _joined(node, sources, owner, pieces)
        if joined is None:
            joined = Piece(node.name, main=node if multiplies else None)
            before = owner.get(source_of(node.args[0])) if multiplies and node.args and isinstance(node.args[0], fx.Node) else None
            if before is not None and before.main is None and _ends(before, node.args[0], node):
                joined.nodes = before.nodes
                owner.update(dict.fromkeys(before.nodes, joined))
                pieces.remove(before)
            pieces.append(joined)
        joined.nodes.append(node)
        owner[node] = joined
    return tuple(pieces)


def _works(node: fx.Node) -> bool:
    """Whether a runtime has something to do for a node."""
    return isinstance(node.target, torch._ops.OpOverload) and "shape" in node.meta and base_name(node.target) not in _FREE


def source_of(node: fx.Node) -> fx.Node:
    """The node that a value comes from, past what only looks at it in another way."""
    while node.op == "call_function" and not _works(node) and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _joined(node: fx.Node, sources: list[fx.Node], owner: dict[fx.Node, Piece], pieces: list[Piece]) -> Piece | None:
    """The piece that a node which does not multiply becomes a part of."""
    name, able = base_name(node.target), []
    for given, source in zip((each for each in node.all_input_nodes if each.op != "get_attr"), sources, strict=False):
        piece = owner.get(source)
        if piece is not None and _ends(piece, given, node):
            along = torch.Tag.pointwise in node.target.tags or name in _JOINS  # type: ignore[union-attr]
            if (along and shape_of(source) == shape_of(node)) or (piece.main is None and len(sources) == 1):
                able.append(piece)
    return max(able, key=lambda piece: (piece.main is not None, pieces.index(piece)), default=None)


def _ends(piece: Piece, given: fx.Node, user: fx.Node) -> bool:
    """Whether a piece computes a value last, and only for one user."""
    node = given
    while True:
        if set(node.users) != {user}:
            return False
        if node is piece.nodes[-1]:
            return True
        if _works(node) or not node.args or not isinstance(node.args[0], fx.Node):
            return False
        node, user = node.args[0], node


def scoped(network: fx.GraphModule, owner: dict[fx.Node, str]) -> fx.GraphModule:
    """The same network, each operation inside modules that bear the name of its piece, which files of it then tell.

    Args:
        network: perhaps cut.
        owner: names of the pieces that its nodes belong to; those of which nothing is said belong to what comes after them.
    """
    root, graph, made = torch.nn.Module(), fx.Graph(), dict[fx.Node, fx.Node]()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        put(root, name, tensor)
    names = dict(owner)
    for node in reversed(network.graph.nodes):
        names.setdefault(node, next((names[user] for user in node.users if names[user]), ""))
    for node in network.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and names[node]:
            place = labelled(node.name, names[node])
            root.add_module(place, _Operation(node.target))
            args, kwargs = fx.map_arg((node.args, node.kwargs), made.__getitem__)
            made[node] = graph.call_module(place, args, kwargs)
        else:
            made[node] = graph.node_copy(node, made.__getitem__)
    graph.set_codegen(network.graph._codegen)
    return fx.GraphModule(root, graph, "Network").eval()


class _Operation(torch.nn.Module):
    """One operation as a module."""

    def __init__(self, target: torch._ops.OpOverload) -> None:
        super().__init__()
        self.target = target

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the operation computes."""
        return self.target(*args, **kwargs)
