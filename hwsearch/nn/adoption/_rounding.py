"""Rounding to integers as operations of a graph: what PyTorch computes for it, and how ONNX writes it."""

from __future__ import annotations

from typing import Any

import torch

from ..quantization._quantize import Quantizer


def rounded(x: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
    """A feature map on the grid of ``scale * (integer - zero)``, integers in 0 .. 255; in ONNX a quantiser and a dequantiser."""
    found: torch.Tensor = _Rounded.apply(x, scale, zero)  # type: ignore[no-untyped-call]
    return found


def integers(values: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Weights or biases that are kept as integers, with one step an output channel; in ONNX a dequantiser.

    Args:
        values: ``int8`` or ``int32``, shape ``(cout, ...)``.
        steps: shape ``(cout,)``.
    """
    found: torch.Tensor = _Integers.apply(values, steps)  # type: ignore[no-untyped-call]
    return found


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
        return Quantizer(scale, zero, 8)(x)

    @staticmethod
    def symbolic(g: Any, x: Any, scale: float, zero: int) -> Any:
        step = g.op("Constant", value_t=torch.tensor(scale, dtype=torch.float32))
        origin = g.op("Constant", value_t=torch.tensor(zero, dtype=torch.uint8))
        return g.op("DequantizeLinear", g.op("QuantizeLinear", x, step, origin), step, origin).setType(x.type())


class _Integers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return values.to(torch.float32) * steps.view(-1, *[1] * (values.ndim - 1))

    @staticmethod
    def symbolic(g: Any, values: Any, steps: Any) -> Any:
        kind, sizes = values.type().dtype(), values.type().sizes()
        origin = g.op("Constant", value_t=torch.zeros(sizes[0], dtype=kind))
        found = g.op("DequantizeLinear", values, steps, origin, axis_i=0)
        return found.setType(steps.type().with_sizes(sizes))
