"""Weights on disk: safetensors with a checked header."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..._files._reading import check_header, parse_json, read_bytes
from ..._files._writing import PathLike, write_atomic
from ...errors import CorruptFile, WrongSpace

SUPERNET_FORMAT = "hwsearch-supernet"
CHECKPOINT_FORMAT = "hwsearch-training"
VERSION = 1

Tensors = dict[str, torch.Tensor]


class Named(Protocol):
    """What weights belong to: a search space, or one network.

    Attributes:
        name: what it is called.
        fingerprint, weights_fingerprint: tell it apart from others, and from others but for precisions.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def weights_fingerprint(self) -> str: ...


def write(
    path: PathLike, format: str, space: Named, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], *, sync: bool = True
) -> None:
    """Write tensors and facts of a space, whole or not at all.

    Args:
        path: the file.
        format: what the file is.
        space: the search space that the weights belong to.
        tensors: by name.
        facts: JSON data for the header; with a ``"weights_fingerprint"`` among them the file can be read for other precisions too.
        sync: see :func:`hwsearch._files._writing.write_atomic`.
    """
    header = {"format": format, "version": VERSION, "space": space.name, "fingerprint": space.fingerprint, **facts}
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(whole, metadata={"hwsearch": msgspec.json.encode(header).decode()}), sync=sync)


def read(path: PathLike, format: str, space: Named) -> tuple[Tensors, dict[str, Any]]:
    """Read what :func:`write` wrote.

    Returns:
        The tensors, and the header.

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is truncated, foreign, or holds weights that are not finite.
        NewerVersion: it was written by a newer hwsearch.
        WrongSpace: it belongs to another search space.
    """
    name = os.fspath(path)
    data = read_bytes(path, "weights")
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        document = msgspec.json.decode(data[8 : 8 + length])
    except (SafetensorError, msgspec.DecodeError, ValueError) as error:
        raise CorruptFile(f"{name} is not a whole safetensors file: {error}.") from error
    found = document.get("__metadata__", {}).get("hwsearch")
    if found is None:
        raise CorruptFile(f"{name} is not a {format} file: it is a safetensors file of something else.")
    header = check_header(parse_json(found.encode(), path), format=format, version=VERSION, path=path)
    if header.get("fingerprint") != space.fingerprint and header.get("weights_fingerprint") != space.weights_fingerprint:
        raise WrongSpace(
            f"{name} holds weights of space {header.get('space')!r} ({header.get('fingerprint')}), not of {space.name!r} "
            f"({space.fingerprint}). Take the weights of this one, or train it: hwsearch train {space.name}, for a supernet."
        )
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CorruptFile(f"{name}: {key!r} holds values that are not finite.")
    return tensors, header


def fill(into: Mapping[str, torch.Tensor], tensors: Tensors, path: PathLike) -> None:
    """Copy what was read from ``path`` into tensors of the same names.

    Raises:
        CorruptFile: names, shapes or types differ.
    """
    if into.keys() != tensors.keys():
        raise CorruptFile(f"{os.fspath(path)}: its weights are not those that belong here: {sorted(into.keys() ^ tensors.keys())[:3]} ...")
    with torch.no_grad():
        for name, tensor in into.items():
            found = tensors[name]
            if tensor.shape != found.shape or tensor.dtype != found.dtype:
                raise CorruptFile(f"{os.fspath(path)}: {name} has the shape {tuple(found.shape)}, not {tuple(tensor.shape)}.")
            tensor.copy_(found)
