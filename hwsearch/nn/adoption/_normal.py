"""Least squares of one layer: what it multiplies by its weights, and the normal equations of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

_ROWS = 4096
"""Positions whose products are summed up in single precision."""
_COLUMNS = 144
"""Inputs whose products with those before them are computed at once."""


class Normal:
    """The normal equations of a layer of some groups: sums over positions.

    Sums are kept in double precision, and products are made in that of the inputs, a few thousand positions at a time, which is faster.
    Inputs and wanted outputs are counted from their means over the first positions, so that nothing is lost where these are
    large beside what varies.

    Attributes:
        n: how many positions.
    """

    def __init__(self) -> None:
        self.n = 0
        self._xx: Any = 0.0
        self._xy: Any = 0.0
        self._x: Any = 0.0
        self._y: Any = 0.0
        self._origin: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add positions: inputs of shape ``(n, groups, d)`` and wanted outputs of shape ``(n, groups, outputs)``."""
        if not len(x):
            return
        if self._origin is None:
            self._origin = x.mean(0), y.mean(0)
            self._xx = x.new_zeros((x.shape[1], x.shape[2], x.shape[2]), dtype=torch.float64)
        self.n += len(x)
        for each in self._centred(x, 0):
            some = each.transpose(0, 1)
            for start in range(0, x.shape[2], _COLUMNS):
                stop = start + _COLUMNS
                self._xx[:, start:stop, :stop] += some[:, :, start:stop].transpose(1, 2) @ some[:, :, :stop]
            self._x = self._x + some.double().sum(1)
        self.add_wanted(x, y)

    def forget_wanted(self) -> None:
        """Forget the wanted outputs."""
        self._xy, self._y = 0.0, 0.0

    def add_wanted(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add wanted outputs of positions whose inputs are there already."""
        if self._origin is None:
            return
        for some, wanted in zip(self._centred(x, 0), self._centred(y, 1), strict=True):
            self._xy = self._xy + torch.einsum("ngd,ngo->gdo", some, wanted).double()
            self._y = self._y + wanted.double().sum(0)

    def _centred(self, values: torch.Tensor, which: int) -> Iterator[torch.Tensor]:
        """A few thousand positions at a time, counted from the origin of inputs (0) or of wanted outputs (1)."""
        assert self._origin is not None
        return (some - self._origin[which] for some in values.split(_ROWS))

    def solve(self, weight: torch.Tensor, ridge: float, intercept: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights, shape ``(groups, outputs, d)``, and the intercept, shape ``(groups, outputs)``.

        Args:
            weight: where the ridge pulls to, of the same shape.
            ridge: its strength, relative to the mean square of the inputs.
            intercept: whether there may be one.
        """
        assert self._origin is not None
        x, y = self._x / self.n, self._y / self.n
        xx = self._xx.tril() + self._xx.tril(-1).transpose(1, 2)
        xx, xy = xx / self.n - x[:, :, None] * x[:, None, :], self._xy / self.n - x[:, :, None] * y[:, None, :]
        x, y = (mean + origin.double() for mean, origin in zip((x, y), self._origin, strict=True))
        if not intercept:
            xx, xy = xx + x[:, :, None] * x[:, None, :], xy + x[:, :, None] * y[:, None, :]
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
