"""Tensors of a module by their dotted names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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
