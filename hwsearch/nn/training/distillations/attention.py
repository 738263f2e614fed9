"""Attention maps: where a network looks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import Distillation, Maps, resized


class Attention(Distillation):
    """The mean square over the channels says where a network looks (Zagoruyko and Komodakis, ICLR'17, section 3.1).

    These maps are scaled to length 1. The distance is the mean over stages and images of their squared difference, between 0 and 2. They
    need no equal widths and no layers of their own; the teacher's are resized to the student's.
    """

    def forward(self, own: Maps, wanted: Maps) -> torch.Tensor:
        """The mean squared difference."""
        distances = []
        for mine, other in zip(own, wanted, strict=True):
            a, b = (each.square().mean(dim=1, keepdim=True) for each in (mine, other))
            distances.append((F.normalize(a.flatten(1)) - F.normalize(resized(b, a).flatten(1))).square().sum(dim=1).mean())
        return torch.stack(distances).mean()
