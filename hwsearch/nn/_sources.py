"""Torch modules by the names that a shell can give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from .._files._reading import guarded, read_bytes
from ..errors import InvalidInput, UnknownName
from .data._named import function_of
from .data._vision import import_torchvision


def load_module(source: str) -> nn.Module:
    """The torch module of ``FILE.py:FUNCTION``, ``MODULE:FUNCTION``, ``torchvision:NAME`` or ``timm:NAME``; libraries' are untrained.

    Raises:
        InvalidInput: the text has another form, the function returns no module, or timm is not installed.
        FileError: there is no such file.
        UnknownName: the file or library has no such name.
        MissingDependency: torchvision is not installed.
    """
    where, colon, name = source.rpartition(":")
    if not colon or not name:
        raise InvalidInput(f"{source!r} names no network: give FILE.py:FUNCTION, FILE.onnx, torchvision:NAME or timm:NAME.")
    if where == "torchvision":
        models = import_torchvision().models
        if name not in models.list_models():
            raise UnknownName("network of torchvision", name, models.list_models())
        return _checked(models.get_model(name, weights=None), source)
    if where == "timm":
        timm = _timm()
        if name not in timm.list_models():
            raise UnknownName("network of timm", name, timm.list_models())
        return _checked(timm.create_model(name, pretrained=False), source)
    return _checked(function_of(source)(), source)


def load_weights(module: nn.Module, path: Path) -> None:
    """Give a module the weights of a file: a state dict as safetensors, or as ``torch.save`` wrote it (without arbitrary objects).

    Raises:
        FileError: it cannot be read, or holds no state dict.
        InvalidInput: names or sizes are not those of the module.
    """
    data = read_bytes(path, "weights")
    with guarded(path, "state dict"):
        tensors: Any = load(data) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        tensors = {str(name): tensors[name] for name in tensors}
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InvalidInput(f"The weights of {path} do not fit the network: {error}") from error


def random_inputs(sizes: Iterable[Sequence[int]]) -> list[torch.Tensor]:
    """Example inputs of some sizes, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tuple(size), generator=generator) for size in sizes]


def _timm() -> Any:
    try:
        return import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise InvalidInput("Networks of timm need the package timm, which is not installed. Install it with: pip install timm") from error


def _checked(found: Any, source: str) -> nn.Module:
    if not isinstance(found, nn.Module):
        raise InvalidInput(f"{source} returned {type(found).__name__}, not a torch module.")
    return found
