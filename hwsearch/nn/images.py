"""Images with labels: what training and evaluation ask of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from ..errors import UnknownName

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Normalize:
    """Turns pixels into a network's input: ``(pixel / 255 - mean) / std``, channel by channel.

    Attributes:
        mean, std: one number a channel, of pixels scaled to 0..1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise ``uint8`` images of shape ``(n, c, h, w)``; ``float32`` of the same shape, channels last in memory."""
        scale = torch.tensor([1.0 / (255.0 * std) for std in self.std], device=images.device).view(1, -1, 1, 1)
        shift = torch.tensor([mean / std for mean, std in zip(self.mean, self.std, strict=True)], device=images.device).view(1, -1, 1, 1)
        return images.to(torch.float32, memory_format=torch.channels_last).mul_(scale).sub_(shift)


Index = npt.NDArray[np.int64]
Share = tuple[int, int, Index]
"""Training images to be taken together: the step, which part of the step's batch they are, and their numbers, shape ``(n,)``."""
Batch = tuple[torch.Tensor, torch.Tensor]
"""Images, ``uint8`` of shape ``(n, channels, height, width)``, and labels, ``int64`` of shape ``(n,)``."""


class Data(ABC):
    """A labelled set of images in three splits: what training and evaluation ask of it.

    Attributes:
        name: as users ask for it.
        mean, std: of pixels scaled to 0..1, one number a channel.
        classes: how many different labels there are.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int

    @property
    def normalize(self) -> Normalize:
        """What turns these images into a network's input."""
        return Normalize(self.mean, self.std)

    def normalized(self, normalize: Normalize | None) -> Self:
        """The same images, normalised as a network wants them; as they are where it does not say."""
        other = copy(self)
        if normalize is not None:
            vars(other).update(mean=normalize.mean, std=normalize.std)
        return other

    @abstractmethod
    def count(self, split: str) -> int:
        """How many images ``"train"``, ``"val"`` or ``"test"`` holds.

        Raises:
            UnknownName: there is no such split.
        """

    @abstractmethod
    def batches(self, split: str, batch: int, most: int | None = None) -> Iterator[Batch]:
        """The images of a split in their order, as they are evaluated; the first ``most`` of them where that is given.

        Raises:
            UnknownName: there is no such split.
        """

    @abstractmethod
    def training(self, shares: Iterable[Share], seed: int) -> Iterator[Batch]:
        """Training images, varied at random, one batch a share.

        What comes out depends on ``seed`` and the share alone, not on what came before: a training that goes on at any step sees what it
        would have seen.
        """

    @abstractmethod
    def calibration_images(self, seed: int) -> torch.Tensor:
        """Some hundred training images drawn at random, as they are evaluated; ``uint8``, shape ``(n, channels, h, w)``."""


def check_split(name: str) -> None:
    """Raise UnknownName where there is no such split."""
    if name not in SPLITS:
        raise UnknownName("split", name, SPLITS)
