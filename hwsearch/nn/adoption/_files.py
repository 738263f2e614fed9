"""A cut network in one file: weights as safetensors, with its operations and what was kept as JSON in the header.

To load it, neither the user's class nor any of the user's code is needed: operations are named as PyTorch names them. Outputs are equal to
the bit.
"""

from __future__ import annotations

import math
import os
from typing import Any

import msgspec
import torch
from safetensors.torch import load, save
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from ..._files._reading import check_header, guarded, parse_json, parse_tensor_header, read_bytes
from ..._files._writing import PathLike, write_atomic
from ...errors import CorruptFile, InvalidInput
from ._rounding import integers, rounded
from ._run import ARITHMETIC
from ._state import get, put

FORMAT = "hwsearch-adopted-network"
VERSION = 1
_PYTHON = {each.__name__: each for each in ARITHMETIC}
_OWN = {each.__name__: each for each in (rounded, integers)}
_OTHERS: dict[str, dict[str, Any]] = {"python": _PYTHON, "hwsearch": _OWN}
"""Operations that are not PyTorch's: sizes are computed by those of Python, integers by our own."""
_WORDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
_CLOSED = ("from_file",)
"""Operations that reach beyond tensors; a file that names one is refused."""


def save_network(network: fx.GraphModule, path: PathLike) -> None:
    """Write a network that :meth:`~hwsearch.nn.adoption.Adopted.extract` gave, whole or not at all.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import load_network, save_network
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> adopted = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> small = hwsearch.extract(adopted.architecture([0]))
        >>> save_network(small, "small.safetensors")
        >>> images = torch.randn(2, 3, 8, 8)
        >>> torch.equal(load_network("small.safetensors")(images), small(images))
        True

    Args:
        network: the network; it may have been trained since.
        path: the file, usually ``*.safetensors``.

    Raises:
        InvalidInput: its inputs or outputs are in containers of the user's own, or an operation has an argument that JSON cannot hold.
        FileError: it cannot be written there.
    """
    codegen = network.graph._codegen
    if not isinstance(codegen, _PyTreeCodeGen):
        raise InvalidInput("Only networks that were adopted and extracted can be written.")
    info = codegen.pytree_info
    kept: list[Any] = [info.in_spec, info.out_spec]
    try:
        specs = [pytree.treespec_dumps(each) for each in kept]
    except (NotImplementedError, TypeError) as error:
        raise InvalidInput(f"Inputs and outputs must be tensors in tuples, lists and dicts, to be written to a file: {error}") from error
    nodes, tensors = [], {}
    for node in network.graph.nodes:
        line = {"name": node.name, "op": node.op, "target": _target(node), "args": _encoded(node.args), "kwargs": _encoded(node.kwargs)}
        nodes.append(line | ({"given": bool(node.meta["given"])} if node.op == "placeholder" else {}))
        if node.op == "get_attr":
            tensors[str(node.target)] = get(network, str(node.target))
    header = {
        "format": FORMAT,
        "version": VERSION,
        "arguments": list(info.orig_args),
        "inputs": specs[0],
        "outputs": specs[1],
        "nodes": nodes,
        "parameters": {name: each.requires_grad for name, each in tensors.items() if isinstance(each, nn.Parameter)},
        "plan": network.meta.get("plan"),
        "facts": network.meta.get("facts"),
    }
    whole = {name: each.detach().contiguous() for name, each in tensors.items()}
    write_atomic(path, save(whole, metadata={"hwsearch": msgspec.json.encode(header).decode()}))


def load_network(path: PathLike) -> fx.GraphModule:
    """Read what :func:`save_network` wrote, in evaluation mode.

    ``network.meta["plan"]`` says what was kept, and ``network.meta["facts"]`` how it was trained, if it was.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import load_network, save_network
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> adopted = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> save_network(hwsearch.extract(adopted.architecture([0])), "cut.safetensors")
        >>> load_network("cut.safetensors")(torch.randn(2, 3, 8, 8)).shape  # needs none of the code that made it
        torch.Size([2, 4, 4, 4])

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is truncated or foreign.
        NewerVersion: it was written by a newer hwsearch.
    """
    data = read_bytes(path, "adopted network")
    _, metadata = parse_tensor_header(data, path, "adopted network")
    if "hwsearch" not in metadata:
        raise CorruptFile(f"{os.fspath(path)} is no adopted network: it is a safetensors file of something else.")
    header = check_header(parse_json(metadata["hwsearch"].encode(), path), format=FORMAT, version=VERSION, path=path)
    with guarded(path, "adopted network"):
        return _built(header, load(data))


def _built(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> fx.GraphModule:
    root, graph = nn.Module(), fx.Graph()
    for name, tensor in tensors.items():
        trained = header["parameters"].get(name)
        put(root, name, tensor if trained is None else nn.Parameter(tensor, bool(trained)))
    known: dict[str, fx.Node] = {}
    for line in header["nodes"]:
        op, target = str(line["op"]), str(line["target"])
        args, kwargs = _decoded(line["args"], known), _decoded(line["kwargs"], known)
        node = graph.create_node(op, _found(target) if op == "call_function" else target, tuple(args), kwargs, str(line["name"]))
        if op == "placeholder":
            node.meta["given"] = bool(line["given"])
        known[str(line["name"])] = node
    specs = [pytree.treespec_loads(header[each]) for each in ("inputs", "outputs")]
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo([str(each) for each in header["arguments"]], *specs)))
    network = fx.GraphModule(root, graph, "Network").eval()
    network.meta.update({key: header[key] for key in ("plan", "facts") if header.get(key) is not None})
    return network


def _target(node: fx.Node) -> str:
    """The name of an operation."""
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    name = getattr(node.target, "__name__", "")
    for space, known in _OTHERS.items():
        if known.get(name) is node.target:
            return f"{space}.{name}"
    raise InvalidInput(f"{node.target} is no operation of PyTorch and cannot be written to a file.")


def _found(name: str) -> Any:
    """The operation of a name."""
    space, base, *overload = name.split(".")
    if space in _OTHERS:
        return _OTHERS[space][base]
    found = getattr(getattr(getattr(torch.ops, space), base), overload[0])
    if not isinstance(found, torch._ops.OpOverload) or base in _CLOSED:
        raise InvalidInput(f"{name} is no operation on tensors.")
    return found


def _encoded(value: Any) -> Any:
    """An argument as JSON data."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, dict):
        return {str(key): _encoded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for word, kind in _WORDS.items():
        if isinstance(value, kind):
            return {word: str(value).removeprefix("torch.")}
    raise InvalidInput(f"An argument of type {type(value).__name__} cannot be written to a file.")


def _decoded(value: Any, known: dict[str, fx.Node]) -> Any:
    """An argument from JSON data."""
    if isinstance(value, list):
        return [_decoded(each, known) for each in value]
    if not isinstance(value, dict):
        return value
    word, inner = next(iter(value.items())) if len(value) == 1 else ("", "")
    if word == "node":
        return known[inner]
    if word == "float":
        return float(inner)
    if word == "device":
        return torch.device(inner)
    if word in _WORDS and isinstance(inner, str):
        found = getattr(torch, inner)
        if not isinstance(found, _WORDS[word]):
            raise InvalidInput(f"{inner} is no {word}.")
        return found
    return {key: _decoded(each, known) for key, each in value.items()}
