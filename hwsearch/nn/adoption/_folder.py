"""An adopted network as a folder, from which any process makes the same search space without the user's class."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import safetensors.torch

from ..._files._reading import guarded, read_bytes, read_document
from ..._files._writing import PathLike, write_atomic
from ...errors import InvalidInput, WrongSpace
from ._adopt import adopt
from ._adopted import Adopted
from ._cut import Cut
from ._files import load_network, save_network

FORMAT = "hwsearch-adopted"
VERSION = 1
FILE, NETWORK, INPUTS = "adopted.json", "network.safetensors", "inputs.safetensors"


class _Document(msgspec.Struct, frozen=True):
    name: str
    fingerprint: str
    step: int
    frozen: list[str]
    inputs: int
    precisions: Annotated[tuple[Literal["fp32", "int8"], ...], msgspec.Meta(min_length=1)] = ("fp32",)


def save_adopted(space: Adopted, folder: PathLike) -> Path:
    """Write an adopted network into a folder, which every command and :func:`hwsearch.load_space` take in the place of a name.

    Args:
        space: what :func:`hwsearch.adopt` returned.
        folder: where to; it is made if it is missing.

    Returns:
        The folder.

    Raises:
        InvalidInput: the network takes inputs by keyword, or has operations or outputs that a file cannot hold.
        FileError: it cannot be written there.

    Example:
        >>> import hwsearch
        >>> import torch
        >>> from hwsearch.nn.adoption import save_adopted
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> space = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> hwsearch.load_space(save_adopted(space, "my-net")).fingerprint == space.fingerprint
        True
    """
    there = Path(folder)
    whole = Cut(space.network, replace(space.analysis, factors=()), np.empty(0, dtype=np.int64)).build()
    if whole.graph._codegen.pytree_info.in_spec.child(1).num_leaves:  # type: ignore[attr-defined]
        raise InvalidInput("A network that takes inputs by keyword cannot be written to a folder yet; call it with positional inputs.")
    save_network(whole, there / NETWORK)
    tensors = {str(number): each.detach().contiguous() for number, each in enumerate(space.inputs)}
    write_atomic(there / INPUTS, safetensors.torch.save(tensors))
    known = {str(node.target) for node in whole.graph.find_nodes(op="get_attr")}
    document = _Document(space.name, space.fingerprint, space.step, sorted(space.frozen & known), len(tensors), space.precisions)  # type: ignore[arg-type]
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, **msgspec.structs.asdict(document)}
    write_atomic(there / FILE, msgspec.json.format(msgspec.json.encode(header)) + b"\n")
    return there


def load_adopted(folder: PathLike) -> Adopted:
    """Adopt the network of a folder that :func:`save_adopted` wrote; its cuts are proven again.

    Raises:
        FileError: a file of it cannot be read; CorruptFile or NewerVersion if it is not one that this hwsearch can read.
        WrongSpace: this version of hwsearch or PyTorch makes another space of the network, so that tables and results do not fit.
    """
    path = os.path.join(folder, FILE)
    found = read_document(path, "adopted network", format=FORMAT, version=VERSION)
    with guarded(path, "adopted network"):
        document = msgspec.convert(found, _Document)
    network, there = load_network(os.path.join(folder, NETWORK)), os.path.join(folder, INPUTS)
    data = read_bytes(there, "example inputs")
    with guarded(there, "example inputs"):
        tensors = safetensors.torch.load(data)
        inputs = tuple(tensors[str(number)] for number in range(document.inputs))
    space = adopt(network, inputs, freeze=document.frozen, step=document.step, precisions=document.precisions)
    if space.fingerprint != document.fingerprint:
        raise WrongSpace(
            f"{os.fspath(folder)} was written as space {document.name!r} ({document.fingerprint}), and this hwsearch and PyTorch make "
            f"{space.fingerprint} of it. Adopt the network anew."
        )
    return space._but(name=document.name)
