"""What a distillation is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

Maps = Sequence[torch.Tensor]
"""Feature maps, shapes ``(n, channels, height, width)``, in the order of execution."""


class Distillation(nn.Module):
    """Tells how far the feature maps of a student are from those of its teacher.

    Parameters that it has are learned together with the student, and are no part of the result.

    Args:
        own, wanted: feature maps of student and teacher for a few images, to see their shapes; the same number of both. Those that stand
            at the same place of the two sequences are compared.
    """

    def __init__(self, own: Maps, wanted: Maps) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, own: Maps, wanted: Maps) -> torch.Tensor:
        """The distance, one number, 0 if the maps are equal.

        Args:
            own: feature maps of the student, through which gradients flow.
            wanted: those of the teacher.
        """


def embeddings(own: Maps, wanted: Maps) -> tuple[torch.Tensor, torch.Tensor]:
    """What the last maps of student and teacher say of each image: their means over all points, shapes ``(n, channels)``."""
    last, there = own[-1].float().mean(dim=(2, 3)), wanted[-1].float().mean(dim=(2, 3))
    return last, there
