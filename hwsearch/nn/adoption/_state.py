"""Tensors of a module by their dotted names, hashes of them, and copies of graphs with them."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import fx, nn

from ...errors import InvalidInput


def get(root: nn.Module, name: str) -> torch.Tensor:
    """The tensor of a dotted name."""
    found: Any = root
    for part in name.split("."):
        found = getattr(found, part)
    assert isinstance(found, torch.Tensor)
    return found


def put(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Store a tensor under a dotted name: a parameter as such, all else as a buffer.

    Raises:
        InvalidInput: part of the name stands for a tensor already.
    """
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            if hasattr(root, part):
                raise InvalidInput(f"{name} cannot be stored: {part} is a tensor already.")
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    for held in (root._parameters, root._buffers):
        held.pop(last, None)
    root.__dict__.pop(last, None)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor)


def copied(network: fx.GraphModule) -> fx.GraphModule:
    """A graph that computes the same, in evaluation mode, and shares no tensor with the other one."""
    graph, root = fx.Graph(), nn.Module()
    known: dict[fx.Node, fx.Node] = {}
    for node in network.graph.nodes:
        known[node] = graph.node_copy(node, known.__getitem__)
        known[node].name = node.name
        if node.op == "get_attr":
            tensor = get(network, str(node.target))
            fresh = tensor.detach().clone()
            put(root, str(node.target), nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh)
    graph.set_codegen(network.graph._codegen)
    result = fx.GraphModule(root, graph, "Network").eval()
    result.meta = dict(network.meta)
    return result


def digest(tensors: tuple[torch.Tensor, ...]) -> str:
    """A hash of tensors, 16 hexadecimal digits."""
    hashed = hashlib.sha256()
    for each in tensors:
        hashed.update(f"{each.dtype} {tuple(each.shape)}".encode())
        hashed.update(each.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())  # numpy knows no bfloat16
    return hashed.hexdigest()[:16]


def weights_digest(network: nn.Module) -> str:
    """A hash of the weights of a network."""
    return digest(tuple(each.cpu() for _, each in sorted(network.state_dict().items())))
