"""A part of a module, and what it is called with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..._files._writing import PathLike
from ...errors import InvalidInput, UnknownName
from .._imported import import_onnx


def submodule(
    module: nn.Module, part: str, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A submodule and what it is called with when the whole module runs."""
    known = dict(module.named_modules())
    if part not in known:
        raise UnknownName("part", part, (name for name in known if name))
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = known[part].register_forward_pre_hook(lambda _, given, keywords: seen.append((given, keywords)), with_kwargs=True)
    modes = {each: each.training for each in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(*args, **named)
    except Exception as error:
        if not seen:
            raise InvalidInput(f"The module does not run on the example inputs: {error}") from error
    finally:
        handle.remove()
        for each, mode in modes.items():
            each.training = mode
    if not seen:
        raise InvalidInput(f"The module does not call its part {part!r} on the example inputs.")
    return known[part], seen[0][0], seen[0][1]


def target(
    module: nn.Module | PathLike, inputs: torch.Tensor | Sequence[Any] | None, keywords: Mapping[str, Any] | None, part: str
) -> tuple[nn.Module, nn.Module, tuple[Any, ...], dict[str, Any]]:
    """What is adopted: the whole module, which an ONNX file stands for as well, the part of it, and what that is called with.

    Raises:
        InvalidInput: example inputs are missing.
        UnknownName: there is no such part.
    """
    if isinstance(module, str | os.PathLike):
        module, examples = import_onnx(module)
        inputs = examples if inputs is None and not keywords else inputs
    if inputs is None and not keywords:
        raise InvalidInput("inputs are missing: give an example input, such as torch.randn(1, 3, 224, 224). Only ONNX files bring theirs.")
    args: tuple[Any, ...] = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs or ())
    named = dict(keywords or {})
    return module, *(submodule(module, part, args, named) if part else (module, args, named))
