"""Training in a shorter number format than float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CPU = Path("/proc/cpuinfo")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""What CPUs call their instructions for bf16, which others take many times as long to imitate."""
_ATEN = torch.ops.aten
_CONVOLUTIONS = {torch.conv1d, torch.conv2d, _ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv2d.padding}
"""Called with an input, weights, a bias, stride, padding, dilation and groups."""


@contextmanager
def mixed(device: str, amp: str | None) -> Iterator[None]:
    """The context in which a network is trained in the number format of a recipe.

    On a CPU convolutions in groups stay in float32, channels last: what is made of their gradients in bfloat16 takes oneDNN up to 30 times
    as long there (of a depthwise 5x5 with stride 2).

    Args:
        device: the type of the device, such as ``"cpu"``.
        amp: of a recipe.
    """
    if amp is None or (device == "cpu" and amp == "bf16" and not _has_bf16(_CPU)):
        yield
        return
    with torch.autocast(device, dtype=AMP[amp]), _InGroups() if device == "cpu" else nullcontext():
        yield


class _InGroups(TorchFunctionMode):
    """Convolutions in groups are computed in float32, channels last."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or (args[6] if len(args) > 6 else kwargs.get("groups", 1)) == 1:
            return func(*args, **kwargs)
        args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, _whole, (args, kwargs))
        with torch.autocast("cpu", enabled=False):
            return func(*args, **kwargs)


def _whole(x: torch.Tensor) -> torch.Tensor:
    """A tensor in float32; images channels last."""
    return x.to(torch.float32, memory_format=torch.channels_last if x.ndim == 4 else torch.preserve_format)


@cache
def _has_bf16(cpu: Path) -> bool:
    """Whether a CPU has instructions for bf16, as Linux tells in a file; taken to be so where there is no such file."""
    try:
        return not _BF16.isdisjoint(cpu.read_text().split())
    except OSError:
        return True
