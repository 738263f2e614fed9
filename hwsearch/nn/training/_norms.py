"""Batch norms that go by the images of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ._processes import ALONE, Processes


def normalised(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, team: Processes = ALONE) -> torch.Tensor:
    """Normalise each channel by the mean and the variance of the images of a step (Ioffe and Szegedy, ICML'15).

    Args:
        x: this process's images, shape ``(n, c, ...)``.
        weight, bias: shape ``(c,)``.
        eps: is added to the variance.
        team: the processes whose images count. All of them call this for the same layers in the same order.
    """
    if team.count == 1:
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    result: torch.Tensor = _Shared.apply(x, weight, bias, eps, team)  # type: ignore[no-untyped-call]
    return result


class _Shared(torch.autograd.Function):
    """Batch norm by the moments of several processes: one message forward, one backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, team: Processes) -> torch.Tensor:
        """Normalise; the gradients of ``weight`` and ``bias`` are this process's own, since the training adds gradients up."""
        variance, mean = (each.double() for each in torch.var_mean(x.float(), _others(x), correction=0))
        count = torch.full_like(mean, x.numel() // x.shape[1])
        sums = torch.stack([count, count * mean, count * (variance + mean.square())])  # in double, so that the difference below is exact
        team.add_up([sums])
        count, mean, square = sums[0], sums[1] / sums[0], sums[2] / sums[0]
        variance = (square - mean.square()).clamp_min(0.0)
        ctx.save_for_backward(x, weight, mean.float(), torch.rsqrt(variance + eps).float(), count.float())
        ctx.team = team
        return F.batch_norm(x, mean.float(), variance.float(), weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients, of ``x`` by what the moments did to all images."""
        x, weight, mean, scale, count = ctx.saved_tensors
        given, shape = gradients[0].float(), (1, -1, *[1] * (x.ndim - 2))
        normed = (x.float() - mean.view(shape)) * scale.view(shape)
        own = torch.stack([given.sum(_others(x)), (given * normed).sum(_others(x))])
        sums = own.clone()
        ctx.team.add_up([sums])
        to_bias, to_weight = (sums / count).view(2, *shape)
        to_x = (given - to_bias - normed * to_weight) * (scale * weight).view(shape)
        return to_x.to(x.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None, None


def _others(x: torch.Tensor) -> tuple[int, ...]:
    """All axes but that of the channels."""
    return (0, *range(2, x.ndim))
