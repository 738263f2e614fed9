"""A part of a module, and what it is called with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...errors import InvalidInput, UnknownName


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
