"""Integers or floats: which kernels of a graph can be in int8, and which results are then in the format of which kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from ._folding import name_of, pads
from ._state import get
from .rules.base import bound, shape_of

PRECISIONS = ("fp32", "int8")
RELUS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min")
CURVES = ("silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "gelu", "leaky_relu", "elu")
JOINS = ("add", "mul", "cat")
POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
MOVES = ("flatten", "view", "reshape", "permute", "transpose", "contiguous", "index_select")


def weighted(network: fx.GraphModule) -> dict[fx.Node, str]:
    """The convolutions and linear layers with weights of their own, each with the name of its weights."""
    return {
        node: str(node.args[1].target)
        for node in network.graph.nodes
        if name_of(node) in ("conv1d", "conv2d", "linear") and isinstance(node.args[1], fx.Node) and node.args[1].op == "get_attr"
    }


def able(network: fx.GraphModule) -> dict[fx.Node, str]:
    """Those that can be in int8: float32, weights that they share with no other, and of linear layers those that read vectors."""
    uses = Counter(str(each.target) for each in network.graph.find_nodes(op="get_attr"))
    found = {}
    for node, name in weighted(network).items():
        held = [each for each in (bound(node)["weight"], bound(node)["bias"]) if each is not None]
        alone = all(each.op == "get_attr" and uses[str(each.target)] == 1 and len(each.users) == 1 for each in held)
        source: Any = node.args[0]
        fits = source.op != "get_attr" and len(shape_of(source)) == len(shape_of(held[0]))
        if alone and fits and get(network, name).dtype == torch.float32:
            found[node] = name
    return found


def tensors_of(node: fx.Node) -> list[fx.Node]:
    """The activations that an operation reads, each once."""
    return [each for each in node.all_input_nodes if each.op != "get_attr" and shape_of(each)]


def origins(network: fx.GraphModule, kernels: Collection[fx.Node]) -> dict[fx.Node, fx.Node]:
    """For each result that can be on a grid, the kernel in whose format it is: it is an integer where that kernel is in int8.

    The results of convolutions are in their own format. What pools, moves, clips and bends follows what it reads; a sum, a product or a cat
    follows what was there first among what it reads, such as the trunk that a residual branch is added to, and the others are converted.
    Everything else is in floats: linear layers give floats too.

    Args:
        network: a graph, its batch norms folded or not.
        kernels: those that can be in int8.
    """
    place = {node: number for number, node in enumerate(network.graph.nodes)}
    found: dict[fx.Node, fx.Node] = {}
    for node in network.graph.nodes:
        name, tensors = name_of(node), sorted(tensors_of(node), key=place.__getitem__)
        if node in kernels and name != "linear":
            found[node] = node
        elif tensors and tensors[0] in found and (name in (*RELUS, *CURVES, *JOINS, *POOLS, *MOVES) or pads(node) or _folds(node)):
            found[node] = found[tensors[0]]
    return found


def _folds(node: fx.Node) -> bool:
    """Whether an operation becomes part of what is before it, or a pooling, when a graph is folded."""
    if name_of(node) == "mean":
        dims: Any = bound(node).get("dim")
        rank = len(shape_of(node.args[0]))
        return rank == 4 and isinstance(dims, list | tuple) and sorted(each % 4 for each in dims) == [2, 3]
    source = node.args[0] if node.args else None
    return name_of(node) == "batch_norm" and name_of(source) in ("conv1d", "conv2d") and len(source.users) == 1  # type: ignore[union-attr]
