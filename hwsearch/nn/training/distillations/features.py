"""Hints: feature maps as they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .base import Distillation, Maps, resized


class Features(Distillation):
    """The student's feature maps are drawn to the teacher's (FitNets, Romero et al., ICLR'15, section 2.2).

    Where the widths differ, a 1 x 1 convolution, which is learned along, turns the student's map into one of the teacher's width. The
    distance is the mean squared difference relative to the mean square of the teacher's map, and the mean of that over the stages, so it
    is 1 for a student that gives nothing. The teacher's maps are resized to the student's.
    """

    def __init__(self, own: Maps, wanted: Maps) -> None:
        super().__init__(own, wanted)
        rng = np.random.default_rng(0)  # equal widths get equal weights: a training that goes on makes them again
        self.regressors = nn.ModuleList(_regressor(a.shape[1], b.shape[1], rng) for a, b in zip(own, wanted, strict=True))

    def forward(self, own: Maps, wanted: Maps) -> torch.Tensor:
        """The mean squared difference, relative to the teacher's squares."""
        distances = []
        for regressor, mine, other in zip(self.regressors, own, wanted, strict=True):
            a, b = regressor(mine), resized(other, mine)
            distances.append((a - b).square().mean() / b.square().mean().clamp_min(1e-12))
        return torch.stack(distances).mean()


def _regressor(width: int, wanted: int, rng: np.random.Generator) -> nn.Module:
    """From one width to another; nothing to do if they are equal."""
    if width == wanted:
        return nn.Identity()
    module = nn.Conv2d(width, wanted, 1)
    weight = torch.from_numpy(rng.normal(0, width**-0.5, (wanted, width, 1, 1))).float()
    module.load_state_dict({"weight": weight, "bias": torch.zeros(wanted)})
    return module
