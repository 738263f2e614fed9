"""Batch norms folded into the layers before them, which is how runtimes compute and how quantised layers are written."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn

from ._run import execute
from ._state import copied, get, put
from .rules.base import base_name, bound, shape_of

aten = torch.ops.aten
_KERNELS = ("conv1d", "conv2d", "conv3d", "linear")


def name_of(node: Any) -> str:
    """The plain name of an operation; empty for anything else."""
    return base_name(node.target) if isinstance(node, fx.Node) and isinstance(node.target, torch._ops.OpOverload) else ""


def folded(network: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """A copy of a graph that computes the same with fewer operations, and shares nothing with it; sizes are noted at every node.

    Batch norms behind a convolution or a linear layer of their own become part of its weights: ``w g / s`` and ``b - m g / s``, with
    ``s = sqrt(var + eps)``. Means over all of a feature map become average poolings, which runtimes have in integers too, and zeros
    around a feature map become the padding of the convolutions behind, if they are alike on both sides.

    Args:
        network: the graph.
        inputs: one batch to run it on, for the sizes.
    """
    plain = copied(network)
    for node in plain.graph.find_nodes(op="get_attr"):
        tensor = get(plain, str(node.target))
        if tensor.is_floating_point():
            put(plain, str(node.target), _fixed(tensor))
    execute(plain, inputs, after=_note)
    graph = plain.graph
    uses = Counter(str(node.target) for node in graph.find_nodes(op="get_attr"))
    for node in list(graph.nodes):
        if name_of(node) in ("batch_norm", "_native_batch_norm_legit_no_training"):
            _fold(graph, plain, node, uses)
        elif name_of(node) == "mean":
            _pool(graph, node)
        elif pads(node):
            _join(graph, node)
    graph.eliminate_dead_code()
    result = fx.GraphModule(plain, graph, "Network").eval()
    result.meta = dict(network.meta)
    return result


def _note(node: fx.Node, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        node.meta["shape"] = tuple(value.shape)
    return value


def _fold(graph: fx.Graph, root: nn.Module, norm: fx.Node, uses: Counter[str]) -> None:
    """Make one batch norm part of the layer before it, if that is its own."""
    layer: Any = norm.args[0]
    if name_of(layer) not in _KERNELS or len(layer.users) > 1:
        return
    statistics = [bound(norm)[each] for each in ("running_mean", "running_var", "weight", "bias")]
    if None in statistics[:2] or any(each is not None and each.op != "get_attr" for each in statistics):
        return
    own, given = bound(layer), bound(norm)
    held = [own["weight"], *([own["bias"]] if own["bias"] is not None else [])]
    if any(each.op != "get_attr" or uses[str(each.target)] > 1 or len(each.users) > 1 for each in held):
        return
    if bool(given.get("training")) or len(shape_of(layer)) != len(shape_of(own["weight"])):  # whose channels are elsewhere
        return
    weight = get(root, str(own["weight"].target))
    mean, variance = (get(root, str(given[each].target)) for each in ("running_mean", "running_var"))
    scale, shift = (None if given[each] is None else get(root, str(given[each].target)) for each in ("weight", "bias"))
    factor = (torch.ones_like(mean) if scale is None else scale) / torch.sqrt(variance + given["eps"])
    before = torch.zeros_like(mean) if own["bias"] is None else get(root, str(own["bias"].target))
    bias = (torch.zeros_like(mean) if shift is None else shift) + (before - mean) * factor
    stem = str(own["weight"].target).rpartition(".")[0]
    name = str(own["bias"].target) if own["bias"] is not None else f"{stem}.bias" if stem else f"_{norm.name}_bias"
    put(root, str(own["weight"].target), _fixed(weight * factor.view(-1, *[1] * (weight.ndim - 1))))
    put(root, name, _fixed(bias))
    if own["bias"] is None:
        with graph.inserting_before(layer):
            fresh = graph.get_attr(name)
        layer.args = (*layer.args[:2], fresh, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    graph.erase_node(norm)


def pads(node: fx.Node) -> bool:
    """Whether an operation puts zeros around a feature map."""
    given = bound(node) if name_of(node) in ("pad", "constant_pad_nd") else {"mode": ""}
    return bool(given.get("mode", "constant") == "constant" and not given.get("value"))


def _join(graph: fx.Graph, pad: fx.Node) -> None:
    """Leave zeros to the convolutions that read them."""
    sizes: Any = pad.args[1]
    if len(sizes) != 4 or not all(isinstance(each, int) and each >= 0 for each in sizes):
        return
    if sizes[0] != sizes[1] or sizes[2] != sizes[3]:
        return
    convolutions = [user for user in pad.users if name_of(user) == "conv2d" and not isinstance(bound(user)["padding"], str)]
    for each in convolutions:
        given = bound(each)
        there = [given["padding"]] if isinstance(given["padding"], int) else given["padding"]
        given["input"], given["padding"] = pad.args[0], [there[0] + sizes[2], there[-1] + sizes[0]]
        each.args, each.kwargs = tuple(given.values()), {}
    if not pad.users:
        graph.erase_node(pad)


def _fixed(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _pool(graph: fx.Graph, mean: fx.Node) -> None:
    """Write a mean over all of a feature map as a pooling."""
    given = bound(mean)
    dims = given.get("dim")
    if not isinstance(given["self"], fx.Node) or len(shape_of(given["self"])) != 4 or given.get("dtype") is not None:
        return
    if not isinstance(dims, list | tuple) or sorted(each % 4 for each in dims) != [2, 3]:
        return
    with graph.inserting_before(mean):
        pooled = graph.call_function(aten.adaptive_avg_pool2d.default, (given["self"], [1, 1]))
        flat = pooled if given["keepdim"] else graph.call_function(aten.flatten.using_ints, (pooled, 1))
    shape = shape_of(given["self"])
    pooled.meta["shape"], flat.meta["shape"] = (*shape[:2], 1, 1), shape_of(mean)
    mean.replace_all_uses_with(flat)
    graph.erase_node(mean)
    pooled.name = mean.name
