"""2:4 sparsity: of every four neighbours along the input channels two weights are zero, as the tensor cores of NVIDIA GPUs want it.

The two smallest are zero. While a network learns, the others keep learning: gradients pass the mask, and what it hides
decays a little faster (SR-STE, Zhou et al., ICLR'21, section 4.2), so that choices can still change. Before that, the channels inside a
block are put into the order that hides the least (channel permutations, Pool and Yu, NeurIPS'21), which costs nothing: the layer before
gives its outputs in that order.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.autograd.function import FunctionCtx

GROUP = 4
DECAY = 2e-4
"""How much faster hidden weights decay; that of SR-STE's experiments."""
_VALUES = 2**24
_SWAPS = tuple(itertools.product(range(GROUP), range(GROUP)))


def mask(weight: torch.Tensor) -> torch.Tensor:
    """Where the two largest of every four input channels are.

    Args:
        weight: shape ``(cout, cin, ...)``, ``cin`` a multiple of 4.

    Returns:
        Booleans, shaped like ``weight``.
    """
    magnitude = weight.detach().abs().movedim(1, -1)
    order = magnitude.reshape(-1, GROUP).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    shown: torch.Tensor = (order < GROUP // 2).view(magnitude.shape).movedim(-1, 1)
    return shown


class _Thin(torch.autograd.Function):
    """The mask forward; backward the gradient as it comes, and the decay of what is hidden."""

    @staticmethod
    def forward(ctx: FunctionCtx, weight: torch.Tensor) -> torch.Tensor:
        shown = mask(weight)
        ctx.save_for_backward(weight, shown)
        return weight * shown

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> torch.Tensor:
        weight, shown = ctx.saved_tensors
        result: torch.Tensor = gradients[0] + DECAY * weight * ~shown
        return result


def thin(weight: torch.Tensor) -> torch.Tensor:
    """The weight with two of every four input channels hidden, to be trained through; shape ``(cout, cin, ...)``."""
    result: torch.Tensor = _Thin.apply(weight)  # type: ignore[no-untyped-call]
    return result


def kept(weight: torch.Tensor) -> float:
    """The share of its magnitude that a weight of shape ``(cout, cin, ...)`` keeps."""
    magnitude = weight.detach().abs()
    return float((magnitude * mask(weight)).sum() / magnitude.sum().clamp_min(1e-30))


def best_order(weight: torch.Tensor, rounds: int = 100) -> torch.Tensor:
    """An order of the input channels in which the mask keeps more.

    In each round the groups of four are paired at random, all swaps of one channel between the groups of a pair are tried, and the best is
    made where it helps. No round makes it worse.

    Args:
        weight: shape ``(cout, cin, ...)``, ``cin`` a multiple of 4.
        rounds: how many.

    Returns:
        Channel numbers, shape ``(cin,)``.
    """
    magnitude = weight.detach().abs().movedim(1, -1).flatten(0, -2).float()
    count = magnitude.shape[1] // GROUP
    order = torch.arange(magnitude.shape[1]).view(count, GROUP)
    generator = torch.Generator().manual_seed(0)
    if count < 2:
        return order.flatten()
    for _ in range(rounds):
        pairs = torch.randperm(count, generator=generator)[: count // 2 * 2].view(-1, 2)
        for some in torch.split(pairs, max(1, _VALUES // (len(magnitude) * 2 * GROUP * (len(_SWAPS) + 1)))):
            tried = order[some][:, None].repeat(1, len(_SWAPS) + 1, 1, 1)
            for number, (left, right) in enumerate(_SWAPS, start=1):
                tried[:, number, 0, left], tried[:, number, 1, right] = order[some[:, 1], right], order[some[:, 0], left]
            shown = magnitude[:, tried].topk(GROUP // 2, dim=-1).values.sum(dim=(0, -1, -2))
            gain, chosen = shown.max(dim=1)
            better = gain > shown[:, 0] * (1 + 1e-6)
            order[some[better]] = tried[better, chosen[better]]
    return order.flatten()
