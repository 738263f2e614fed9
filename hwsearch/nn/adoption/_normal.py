"""Least squares of one layer: what it multiplies by its weights, and the normal equations of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


@dataclass
class Normal:
    """The normal equations of a layer of some groups: sums over positions, in double precision.

    Attributes:
        xx: products of inputs, shape ``(groups, d, d)``.
        xy: products of inputs with wanted outputs, shape ``(groups, d, outputs)``.
        x: inputs, shape ``(groups, d)``.
        y: wanted outputs, shape ``(groups, outputs)``.
        n: how many positions.
    """

    xx: Any = 0.0
    xy: Any = 0.0
    x: Any = 0.0
    y: Any = 0.0
    n: int = 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add positions: inputs of shape ``(n, groups, d)`` and wanted outputs of shape ``(n, groups, outputs)``."""
        x, y = x.double().transpose(0, 1), y.double().transpose(0, 1)
        self.xx = self.xx + x.transpose(1, 2) @ x
        self.xy = self.xy + x.transpose(1, 2) @ y
        self.x, self.y, self.n = self.x + x.sum(1), self.y + y.sum(1), self.n + x.shape[1]

    def forget_wanted(self) -> None:
        """Forget the wanted outputs."""
        self.xy, self.y = 0.0, 0.0

    def add_wanted(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add wanted outputs of positions whose inputs are there already."""
        self.xy = self.xy + torch.einsum("ngd,ngo->gdo", x, y).double()
        self.y = self.y + y.double().sum(0)

    def solve(self, weight: torch.Tensor, ridge: float, intercept: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights, shape ``(groups, outputs, d)``, and the intercept, shape ``(groups, outputs)``.

        Args:
            weight: where the ridge pulls to, of the same shape.
            ridge: its strength, relative to the mean square of the inputs.
            intercept: whether there may be one.
        """
        xx, xy = self.xx / self.n, self.xy / self.n
        x, y = self.x / self.n, self.y / self.n
        if intercept:
            xx = xx - x[:, :, None] * x[:, None, :]
            xy = xy - x[:, :, None] * y[:, None, :]
        before = weight.double().transpose(1, 2)
        scale = xx.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        system = xx + ridge * scale[:, None, None] * torch.eye(xx.shape[1], dtype=xx.dtype)
        found = before + torch.linalg.solve(system, xy - xx @ before)
        left = y - (x[:, None, :] @ found)[:, 0] if intercept else torch.zeros_like(y)
        return found.transpose(1, 2), left


def patches(call: dict[str, Any], name: str, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """What a layer multiplies by its weights at some positions: shape ``(positions, groups, d)``.

    Args:
        call: the layer's arguments by name, with the sizes of its weights.
        name: ``"conv1d"``, ``"conv2d"`` or ``"linear"``.
        x: its input.
        at: numbers of positions, those of one image after those of another.
    """
    if name == "linear":
        return x.reshape(-1, 1, x.shape[-1])[at]
    one = name == "conv1d"
    stride, padding, dilation = ((first, call[key][0]) if one else (call[key][0], call[key][-1]) for key, first in _SETTINGS)
    size = (1, *call["size"][2:]) if one else tuple(call["size"][2:])
    padded = F.pad(x.unsqueeze(2) if one else x, (padding[1], padding[1], padding[0], padding[0]))
    high, wide = ((padded.shape[2 + k] - dilation[k] * (size[k] - 1) - 1) // stride[k] + 1 for k in range(2))
    image, row, column = at // (high * wide), at // wide % high, at % wide
    rows = (row * stride[0])[:, None] + dilation[0] * torch.arange(size[0])
    columns = (column * stride[1])[:, None] + dilation[1] * torch.arange(size[1])
    taken = padded.permute(0, 2, 3, 1)[image[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2).reshape(len(at), call["groups"], -1)


_SETTINGS = (("stride", 1), ("padding", 0), ("dilation", 1))


def positions(name: str, y: torch.Tensor) -> torch.Tensor:
    """The result of a layer with one row for each position: shape ``(positions, channels)``."""
    return y.reshape(-1, y.shape[-1]) if name == "linear" else y.flatten(2).transpose(1, 2).reshape(-1, y.shape[1])
