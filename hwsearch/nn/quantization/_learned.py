"""Steps that are learned: quantisers as parameters of a network in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ._quantize import Quantizer

OUT, PRE, WEIGHT = "out_grid", "pre_grid", "weight_grid"
"""Under these names a layer or a block holds the grid of its output, and a layer those before its activation and of its weights."""
LEAST = 1e-12
"""Channels that are multiplied by less have a step all the same."""


class _Rounded(torch.autograd.Function):
    """Rounding to ``step * integer`` with integers in ``least .. most``.

    Backward the gradient passes to ``x`` where that is not clipped. To the step goes that of learned step sizes (LSQ, ICLR'20, equation 3),
    or the part of it that comes from clipped values alone, which is that of a learned clipping level (PACT, 2018, section 3).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, step: torch.Tensor, least: int, most: int, inner: bool) -> torch.Tensor:
        # Weights are divided and maps multiplied, as when they are shipped, so that not even the last bit differs.
        scaled = x / step if step.ndim else x * (1.0 / step)
        ctx.save_for_backward(scaled)
        ctx.least, ctx.most, ctx.inner, ctx.shape = least, most, inner, step.shape
        return scaled.round().clamp_(least, most).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        (scaled,) = ctx.saved_tensors
        (gradient,) = gradients
        low, high = (float(np.nextafter(np.float32(end), np.float32(beyond))) for end, beyond in ((ctx.least, -np.inf), (ctx.most, np.inf)))
        passed = torch.ops.aten.hardtanh_backward(gradient, scaled, low, high)  # which lets pass what is between two bounds, without them
        slope = scaled.round().clamp_(ctx.least, ctx.most)
        slope = slope.mul_(gradient).addcmul_(passed, scaled, value=-1) if ctx.inner else slope.mul_(gradient - passed)
        return passed, slope.sum() if not ctx.shape else slope.flatten(1).sum(dim=1).view(ctx.shape), None, None, None


class Grid(nn.Module):
    """A quantiser that learns its step.

    Args:
        step: to begin with: shape ``()``, or ``(cout,)`` for weights.
        zero: the integer that stands for 0, as of :class:`Quantizer`.
        bits: 2 to 8.
        symmetric: as of :class:`Quantizer`; grids of weights are, without the least integer.
        inner: whether values that are not clipped teach the step as well (LSQ), or clipped ones alone (PACT).
    """

    def __init__(self, step: torch.Tensor, zero: int, bits: int, symmetric: bool = False, inner: bool = True) -> None:
        super().__init__()
        self.step = nn.Parameter(step.detach().clone())
        self.register_buffer("facts", torch.tensor([zero, bits, int(symmetric)]))
        self.zero, self.bits, self.symmetric, self.inner = zero, bits, symmetric, inner

    @property
    def quantizer(self) -> Quantizer:
        """The quantiser of a feature map as it is now."""
        return Quantizer(float(self.step.detach().abs()), self.zero, self.bits, self.symmetric)

    @property
    def steps(self) -> torch.Tensor:
        """The steps of weights as they are now, shape ``(cout,)``."""
        return self.step.detach().abs()

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest integer."""
        most = 2 ** (self.bits - 1) - 1
        if self.step.ndim:
            return -most, most
        return (-most - 1, most) if self.symmetric else (-self.zero, 2**self.bits - 1 - self.zero)

    @property
    def reach(self) -> torch.Tensor:
        """The largest value of a feature map that is not clipped (PACT's alpha)."""
        least, most = self.range
        return self._eased(self.step.abs(), max(most, -least) ** -2) * most

    @staticmethod
    def _eased(step: torch.Tensor, scale: float) -> torch.Tensor:
        """The same step, with this share of its gradient."""
        return step.detach() + (step - step.detach()) * scale

    def folded(self, factor: torch.Tensor | None) -> torch.Tensor:
        """The steps of weights once they are multiplied by a factor, such as that of the batch norm that is folded in.

        Args:
            factor: shape ``(cout,)``; ``None`` for 1.
        """
        return self.step.abs() if factor is None else self.step.abs() * factor.abs().clamp_min(LEAST)

    def forward(self, x: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
        """Round ``x``, which is ``factor`` times what the step is for.

        LSQ scales the step's gradient by ``1 / sqrt(values of an image, or of a filter, x integers)`` (section 2.2). PACT descends in the
        clipping level, ``integers x step``, and so the gradient is that divided by the square of the integers; that of :attr:`reach` too.
        """
        least, most = self.range
        step = self.folded(factor).view(-1, *[1] * (x.ndim - 1)) if self.step.ndim else self.step.abs()
        integers = max(most, -least)
        scale = (x[0].numel() * integers) ** -0.5 if self.inner else integers**-2
        out: torch.Tensor = _Rounded.apply(x.float(), self._eased(step, scale), least, most, self.inner)  # type: ignore[no-untyped-call]
        return out


def grid(module: nn.Module, name: str, bits: int) -> Grid | None:
    """The quantiser that a layer or a block has learned under a name, if it is for this number of bits."""
    found = getattr(module, name, None)
    return found if isinstance(found, Grid) and found.bits == bits else None


def learned(network: nn.Module) -> dict[str, torch.Tensor]:
    """The learned quantisers of a network, by name."""
    return {name: tensor for name, tensor in network.state_dict().items() if "_grid." in name}


def teach(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a network the quantisers of another one, as :func:`learned` tells."""
    for name in state:
        path, _, last = name.rpartition(".")
        if last == "step":
            owner, _, what = path.rpartition(".")
            zero, bits, symmetric = state[f"{path}.facts"].tolist()
            setattr(network.get_submodule(owner), what, Grid(state[name], zero, bits, bool(symmetric)))


def forget(network: nn.Module) -> None:
    """Take all of its quantisers from a network."""
    for module in network.modules():
        for name in (OUT, PRE, WEIGHT):
            if isinstance(getattr(module, name, None), Grid):
                delattr(module, name)


def grids(network: nn.Module) -> Iterator[Grid]:
    """All of them."""
    return (module for module in network.modules() if isinstance(module, Grid))
