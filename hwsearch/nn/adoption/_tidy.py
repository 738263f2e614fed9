"""A captured graph made plain: no operations in place, no dropout, constants computed once, paddings as numbers, shuffles as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ._lines import source_line
from ._run import execute
from ._state import get, put
from .rules.base import base_name, bound, shape_of

aten = torch.ops.aten
_DROPOUT = ("dropout", "feature_dropout", "alpha_dropout")
_MOVES = ("view", "reshape", "_unsafe_view", "transpose", "permute", "contiguous", "clone", "flatten", "unflatten", "swapaxes")


def tidy(network: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """Bring a captured graph into the form that rules and rewriting expect, and note shapes and source lines at every node."""
    for node in network.graph.find_nodes(op="placeholder"):
        node.meta["given"] = isinstance(node.meta.get("val"), torch.Tensor)
    _drop(network)
    _convolutions(network)
    _out_of_place(network)
    _fold(network)
    _note(network, inputs)
    _joins(network)
    _paddings(network)
    _shuffles(network)
    _compute_weights(network)
    network.graph.eliminate_dead_code()
    _note(network, inputs)
    for node in network.graph.nodes:
        node.meta = {key: node.meta[key] for key in ("shape", "constant", "given") if key in node.meta} | {
            "line": source_line(node),
            "module": _module(node),
        }
    network.recompile()
    return network


def _module(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _note(network: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> None:
    """Record the sizes of every result."""

    def note(node: fx.Node, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            node.meta["shape"] = tuple(value.shape)
            if node.op == "get_attr" and not value.is_floating_point() and not value.is_complex():
                node.meta["constant"] = value
        elif isinstance(value, list | tuple) and value and all(isinstance(each, torch.Tensor) for each in value):
            node.meta["shape"] = [tuple(each.shape) for each in value]
        elif isinstance(value, int):
            node.meta["number"] = value
        return value

    execute(network, inputs, after=note)


def _drop(network: fx.GraphModule) -> None:
    """Remove checks and what does nothing in evaluation."""
    for node in list(network.graph.nodes):
        if node.op == "call_module" or (node.op == "call_function" and "assert" in str(node.target)):
            node.replace_all_uses_with(None)
            network.graph.erase_node(node)
        elif (_name(node) in _DROPOUT and not bound(node)["train"]) or _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)


def _changes_nothing(node: fx.Node) -> bool:
    """Whether a tensor is made one of the type that it has already, and is no copy."""
    if _name(node) != "to" or bound(node).get("copy"):
        return False
    before, after = (getattr(each.meta.get("val"), "dtype", None) for each in (node.all_input_nodes[0], node))
    return before is not None and before == after


def _convolutions(network: fx.GraphModule) -> None:
    """Give convolutions of any kind, as compiled modules have them, the operation of their kind."""
    for node in network.graph.nodes:
        if _name(node) not in ("convolution", "_convolution"):
            continue
        call = bound(node)
        first, last = ("input", "weight", "bias", "stride", "padding"), ("output_padding", "groups", "dilation")
        kind = f"conv_transpose{len(call['stride'])}d" if call["transposed"] else f"conv{len(call['stride'])}d"
        packet = getattr(aten, kind)
        node.target = getattr(packet, packet.overloads()[0])
        given = [call[name] for name in (*first, *(last if call["transposed"] else ("dilation", "groups")))]
        if not call["transposed"]:  # what is as usual is left out, as capturing again does
            usual = (1, 0, 1, 1)  # stride, padding, dilation, groups
            while len(given) > 3 and set(given[-1] if isinstance(given[-1], list | tuple) else [given[-1]]) == {usual[len(given) - 4]}:
                given.pop()
        node.args = tuple(given)
        node.kwargs = {}


def _joins(network: fx.GraphModule) -> None:
    """Leave out what has no values where tensors are joined."""
    for node in network.graph.nodes:
        if _name(node) == "cat":
            tensors = bound(node)["tensors"]
            held = [each for each in tensors if 0 not in shape_of(each)]
            if len(held) == 1:
                node.replace_all_uses_with(held[0])
            elif held and len(held) < len(tensors):
                node.args = (held, *node.args[1:])


def _paddings(network: fx.GraphModule) -> None:
    """Give convolutions whose padding is a word (``"same"``, ``"valid"``) the zeros that it stands for, as numbers."""
    for node in network.graph.nodes:
        call = bound(node) if _name(node) in ("conv1d", "conv2d", "conv3d") else {}
        if not isinstance(call.get("padding"), str):
            continue
        sizes = shape_of(call["weight"])[2:]
        dilations = [call["dilation"]] * len(sizes) if isinstance(call["dilation"], int) else call["dilation"]
        zeros = [step * (size - 1) if call["padding"] == "same" else 0 for size, step in zip(sizes, dilations, strict=False)]
        if any(each % 2 for each in zeros):  # one zero more behind than before, which a convolution cannot add itself
            sides = [side for each in reversed(zeros) for side in (each // 2, each - each // 2)]
            with network.graph.inserting_before(node):
                call["input"] = network.graph.call_function(aten.constant_pad_nd.default, (call["input"], sides))
            call["input"].meta = dict(node.meta)
            zeros = [0] * len(zeros)
        call["padding"] = [each // 2 for each in zeros]
        node.target = getattr(aten, _name(node)).default
        node.args, node.kwargs = tuple(call[argument.name] for argument in node.target._schema.arguments), {}


def _aliases(node: fx.Node) -> bool:
    """Whether a result shares memory with an argument without being it."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return node.op == "call_function"
    return any(each.alias_info is not None and not each.alias_info.is_write for each in target._schema.returns) or base_name(target) in (
        "reshape",
        "contiguous",
        "flatten",
        "to",
    )


def _out_of_place(network: fx.GraphModule) -> None:
    """Replace operations in place by those that make a new tensor, wherever no view of the old one exists."""
    for node in list(network.graph.nodes):
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or not target._schema.name.endswith("_") or target._schema.name.endswith("__"):
            continue
        first = node.args[0]
        packet = getattr(aten, base_name(target), None)
        plain = getattr(packet, target._overloadname, None)
        if plain is None or _aliases(first) or first.op != "call_function" or any(_aliases(user) for user in first.users):
            continue
        node.target = plain
        order = {each: place for place, each in enumerate(network.graph.nodes)}
        first.replace_all_uses_with(node, delete_user_cb=lambda user, node=node, order=order: order[user] > order[node])


def _fold(network: fx.GraphModule) -> None:
    """Compute once what depends neither on inputs nor on weights."""
    constant: set[fx.Node] = set()
    whose: dict[fx.Node, fx.Node] = {}  # the first node with the memory of a result
    written: dict[fx.Node, int] = {}  # where something was last written into it
    places = {node: place for place, node in enumerate(network.graph.nodes)}
    for node, place in places.items():
        if node.op == "get_attr":
            if str(node.target).rpartition(".")[2].startswith(("lifted_tensor", "_tensor_constant")):
                constant.add(node)
        elif node.op == "call_function":
            tensors = [each for each in node.all_input_nodes if not _is_made(node, each)]
            writes = isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
            if all(each in constant for each in tensors) and (tensors or _is_made(node)):
                constant.add(node)
                if tensors and (writes or _aliases(node)):
                    whose[node] = whose.get(tensors[0], tensors[0])
                if writes:
                    written[whose[node]] = place
            elif writes and node.args[0] in constant:
                return
    readers = [(node, user) for node in places if node in constant and node.op != "get_attr" for user in node.users if user not in constant]
    if not readers or any(written.get(whose.get(node, node), -1) > places[user] for node, user in readers):
        return
    values = _values(network, constant)
    made = {node: values[node] for node, _ in readers if isinstance(values[node], torch.Tensor)}
    for number, (node, value) in enumerate(made.items()):
        name = f"_constant_{number}"
        network.register_buffer(name, value.clone())
        with network.graph.inserting_before(node):
            fresh = network.graph.get_attr(name)
        node.replace_all_uses_with(fresh, delete_user_cb=lambda user: user not in constant)
        fresh.meta["constant"] = value.clone()
    for node in reversed(list(network.graph.nodes)):
        if node in constant and not node.users:
            network.graph.erase_node(node)


def _is_made(node: fx.Node, source: fx.Node | None = None) -> bool:
    """Whether a node makes a tensor of one value, of whose sizes none comes from another node; ``source`` gives only its type."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    name = base_name(node.target)
    if name not in ("new_zeros", "new_ones", "new_full", "zeros", "ones", "full", "arange", "linspace", "scalar_tensor", "eye"):
        return False
    sizes = bound(node).get("size", [])
    if any(isinstance(each, fx.Node) for each in sizes):
        return False
    return source is None or (name.startswith("new_") and source is node.args[0])


_KERNELS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")
_PICKS = ("split", "split_with_sizes", "chunk", "slice", "select", "unbind", "cat", "unsqueeze", "squeeze", "expand", "t", "index_select")


def _compute_weights(network: fx.GraphModule) -> None:
    """Compute once the weights of layers that are made from parameters: by weight or spectral norm, or standardised.

    The result becomes a parameter with the name of the largest one that it is made from. Weights that are only picked, moved or changed
    value by value stay as they are, since cutting goes through that.
    """
    made = set(network.graph.find_nodes(op="get_attr"))
    for node in network.graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and made.issuperset(node.all_input_nodes):
            made.add(node)
    ready: dict[fx.Node, fx.Node] = {}
    for node in network.graph.nodes:
        weight = bound(node)["weight"] if _name(node) in _KERNELS else None
        if not isinstance(weight, fx.Node) or weight.op != "call_function" or weight not in made:
            continue
        chain = _sources(weight)
        if all(_carries(each) for each in chain):
            continue
        if weight not in ready:
            ready[weight] = _computed(network, weight, chain)
        node.replace_input_with(weight, ready[weight])


def _carries(node: fx.Node) -> bool:
    """Whether channels go through an operation on weights as they are."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    return _name(node) in (*_MOVES, *_PICKS) or torch.Tag.pointwise in node.target.tags


def _sources(node: fx.Node) -> list[fx.Node]:
    """A node and all that it is made from."""
    found, waiting = {node: None}, [node]
    while waiting:
        for each in waiting.pop().all_input_nodes:
            if each not in found:
                found[each] = None
                waiting.append(each)
    return list(found)


def _computed(network: fx.GraphModule, weight: fx.Node, chain: list[fx.Node]) -> fx.Node:
    """A parameter of the value that a node has, in place of the node."""
    parts = {str(each.target): get(network, str(each.target)) for each in chain if each.op == "get_attr"}
    largest = max(parts, key=lambda name: parts[name].numel())
    sources = [each for each in network.graph.find_nodes(op="get_attr") if each.target == largest]
    shared = len(weight.users) > 1 or any(user not in chain for each in (*chain, *sources) if each is not weight for user in each.users)
    name = f"{largest}_{weight.name}" if shared else largest
    value = _values(network, set(chain))[weight].detach().clone()
    trained = isinstance(parts[largest], nn.Parameter) and parts[largest].requires_grad
    put(network, name, nn.Parameter(value, trained))
    with network.graph.inserting_before(weight):
        fresh = network.graph.get_attr(name)
    fresh.meta["shape"] = tuple(value.shape)
    return fresh


def _values(network: fx.GraphModule, nodes: set[fx.Node]) -> dict[fx.Node, Any]:
    """Run a part of the graph that needs no inputs."""
    env: dict[fx.Node, Any] = {}
    for node in network.graph.nodes:
        if node not in nodes:
            continue
        if node.op == "get_attr":
            env[node] = get(network, str(node.target)).detach().clone()
        else:
            args = fx.map_arg(node.args, lambda each: env[each] if each in env else torch.zeros(()))
            with torch.no_grad():
                env[node] = node.target(*args, **fx.map_arg(node.kwargs, lambda each: env[each]))
    return env


def _shuffles(network: fx.GraphModule) -> None:
    """Replace views and permutations that together only reorder one axis by a selection along that axis."""
    number = 0
    for node in list(network.graph.nodes):
        if _name(node) not in _MOVES or not shape_of(node.args[0]):
            continue
        chain = [node]
        while len(chain[-1].users) == 1 and _name(next(iter(chain[-1].users))) in _MOVES and len(chain) < 6:
            chain.append(next(iter(chain[-1].users)))
            found = _reorders(chain)
            if found is None:
                continue
            dim, places = found
            name = f"_shuffle_{number}"
            number += 1
            network.register_buffer(name, torch.from_numpy(places))
            with network.graph.inserting_after(chain[-1]):
                index = network.graph.get_attr(name)
            with network.graph.inserting_after(index):
                picked = network.graph.call_function(aten.index_select.default, (node.args[0], dim, index))
            index.meta["constant"] = torch.from_numpy(places)
            picked.meta = dict(chain[-1].meta)
            chain[-1].replace_all_uses_with(picked)
            for each in reversed(chain):
                network.graph.erase_node(each)
            break


def _name(node: Any) -> str:
    return base_name(node.target) if isinstance(node, fx.Node) and isinstance(node.target, torch._ops.OpOverload) else ""


def _reorders(chain: list[fx.Node]) -> tuple[int, Any] | None:
    """The axis and the order, where a chain of moves only reorders one axis."""
    start = chain[0].args[0]
    shape = shape_of(start)
    names = [_name(each) for each in chain]
    if shape_of(chain[-1]) != shape or not {"transpose", "permute", "swapaxes"} & set(names) or len(shape) < 2:
        return None
    before = torch.arange(int(np.prod(shape)), dtype=torch.int32).reshape(shape)
    value: Any = before
    for each in chain:
        args = fx.map_arg(each.args[1:], lambda node: node.meta["number"])
        move: Any = each.target
        value = move(value, *args, **each.kwargs)
    for dim in range(1, len(shape)):
        stride = int(np.prod(shape[dim + 1 :]))
        places = value.select(0, 0)
        for _ in range(dim - 1):
            places = places.select(0, 0)
        while places.ndim > 1:
            places = places.select(1, 0)
        places = places // stride
        if int(places.max()) < shape[dim] and torch.equal(before.index_select(dim, places), value):
            return (dim, places.numpy().astype(np.int64)) if not torch.equal(before, value) else None
    return None
