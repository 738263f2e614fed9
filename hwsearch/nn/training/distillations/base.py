"""What a distillation is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ....errors import InvalidInput

Maps = Sequence[torch.Tensor]
"""Feature maps in float32, shapes ``(n, channels, height, width)``, in the order in which the student makes its own."""


class Distillation(nn.Module):
    """Tells how far the feature maps of a student are from those of its teacher.

    Parameters that it has are learned together with the student, and are no part of the result.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn import Distillation, Recipe
        >>> class Means(Distillation):  # what is bright in the maps of the teacher shall be bright in those of the student
        ...     def forward(self, own, wanted):
        ...         return sum((a.mean(1) - b.mean(1)).square().mean() for a, b in zip(own, wanted))
        >>> hwsearch.register("distillation", "means", Means)
        >>> recipe = Recipe(epochs=20, hints={"means": 10.0})  # with a teacher
        >>> own, wanted = [torch.zeros(2, 8, 4, 4)], [torch.ones(2, 8, 4, 4)]
        >>> float(Means(own, wanted)(own, wanted))
        1.0

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


def resized(wanted: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A map of the teacher, averaged to the size of one of the student.

    Raises:
        InvalidInput: one is a sequence of tokens, and the other has a height and a width, so that no point of one stands for a point of
            the other.
    """
    lines = [each.shape[3] == 1 and each.shape[2] > 1 for each in (own, wanted)]
    planes = [each.shape[3] > 1 for each in (own, wanted)]
    if any(lines) and any(planes):
        sizes = [tuple(each.shape[2:]) for each in (own, wanted)]
        raise InvalidInput(
            f"A feature map of the network has the size {sizes[0]}, the one of its teacher {sizes[1]}: tokens cannot be compared with a "
            "map point by point. Name other pairs in the recipe's stages, or take the hints 'distances' or 'angles', which compare images."
        )
    return F.adaptive_avg_pool2d(wanted, (own.shape[2], own.shape[3]))


def embeddings(own: Maps, wanted: Maps) -> tuple[torch.Tensor, torch.Tensor]:
    """What the last maps of student and teacher say of each image: their means over all points, shapes ``(n, channels)``."""
    last, there = own[-1].mean(dim=(2, 3)), wanted[-1].mean(dim=(2, 3))
    return last, there
