"""Images with labels, as training and evaluation use them."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, Union

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from ..._files._writing import PathLike
from ...errors import InvalidInput, UnknownName
from ..training._processes import ALONE, Processes

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Normalize:
    """Turns pixels into a network's input: ``(pixel / 255 - mean) / std``, channel by channel.

    Example:
        >>> import torch
        >>> from hwsearch.nn import Normalize
        >>> white = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
        >>> Normalize(mean=(0.5,), std=(0.25,))(white).unique().tolist()
        [2.0]

    Attributes:
        mean, std: one number a channel, of pixels scaled to 0..1.

    Raises:
        InvalidInput: different numbers of both, or a standard deviation that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(map(math.isfinite, self.mean + self.std)) or not all(std > 0 for std in self.std):
            raise InvalidInput(f"mean and std must be as many finite numbers, and std positive, not {self.mean} and {self.std}.")

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
DataLike = Union[PathLike, tuple[Any, ...], Mapping[str, Any], "Dataset[Any]", "DataLoader[Any]", "Data"]
"""Images, or what :func:`hwsearch.nn.load_data` makes images of: a name, a folder, a name with its folder, arrays, datasets or loaders."""


class Data(ABC):
    """A labelled set of images in three splits: as training and evaluation use it.

    The images are square, since networks resize them to a square: crop or pad others.

    Example:
        >>> from hwsearch.nn import load_data
        >>> data = load_data("digits")
        >>> images, labels = next(iter(data.batches("test", batch=50)))
        >>> images.dtype, tuple(images.shape), labels.dtype
        (torch.uint8, (50, 1, 8, 8), torch.int64)

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
    def recipe(self) -> str:
        """The name of the recipe that such images are trained by if no other is named."""
        return self.name

    @property
    def normalize(self) -> Normalize:
        """What turns these images into a network's input."""
        return Normalize(self.mean, self.std)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what makes these images what they are, 16 hexadecimal digits: another one means other pixels, labels or splits.

        Weights, scores, predictors and finished networks keep it, so that old results are never taken for those of new images. By default
        every image is read once; a class that reads from disk should tell its files apart without reading them.
        """
        hashed = hashlib.sha256(str(self.classes).encode())
        for split in SPLITS:
            hashed.update(f"{split} {self.count(split)}".encode())
            for x, y in self.batches(split, 1024):
                hashed.update(f"{tuple(x.shape)}".encode())
                for tensor in (x, y):
                    hashed.update(tensor.cpu().contiguous().numpy().tobytes())
        return hashed.hexdigest()[:16]

    @property
    def identity(self) -> dict[str, str]:
        """Name and fingerprint, as files keep them."""
        return {"data": self.name, "data_fingerprint": self.fingerprint}

    @property
    def label(self) -> str:
        """Name and fingerprint in one line."""
        return f"{self.name} {self.fingerprint}"

    def normalized(self, normalize: Normalize | None) -> Self:
        """The same images, normalised as a network wants them; unchanged if it does not say."""
        other = copy(self)
        if normalize is not None:
            vars(other).update(mean=normalize.mean, std=normalize.std)
        return other

    def check(self, team: Processes = ALONE, *, progress: bool = False) -> None:  # noqa: B027
        """Look for images that cannot be read; asked for once before a training begins. By default there is nothing to look for.

        Args:
            team: the processes that train together; each may look at its share.
            progress: show a bar with the time left.

        Raises:
            FileError: some cannot be read; the message names them.
        """

    @abstractmethod
    def count(self, split: str) -> int:
        """How many images ``"train"``, ``"val"`` or ``"test"`` holds.

        Raises:
            UnknownName: there is no such split.
        """

    @abstractmethod
    def batches(self, split: str, batch: int, most: int | None = None) -> Iterator[Batch]:
        """The images of a split in their order, as they are evaluated; the first ``most`` of them if that is given.

        Raises:
            UnknownName: there is no such split.
        """

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """The labels of a split, shape ``(n,)``. By default every image is read; a class that knows them without should say so."""
        return np.concatenate([y.numpy() for _, y in self.batches(split, 1024)])

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
    """Raise UnknownName if there is no such split."""
    if name not in SPLITS:
        raise UnknownName("split", name, SPLITS)


def same_data(found: Mapping[str, Any], wanted: Mapping[str, Any], path: PathLike) -> dict[str, Any]:
    """Check that a file comes from the images that are used now, as far as it says so.

    Args:
        found: what the file says about its arguments, :attr:`Data.identity` among them; files written before data had fingerprints lack it.
        wanted: the same of the images that are used now.
        path: the file.

    Returns:
        What the file says, with today's fingerprint if it keeps none.

    Raises:
        InvalidInput: it comes from images that had the same name and another content.
    """
    then, now = found.get("data_fingerprint"), wanted.get("data_fingerprint")
    if then is not None and then != now and found.get("data") == wanted.get("data"):
        raise InvalidInput(
            f"{path} comes from other images that were called {wanted.get('data')!r}, too: their fingerprint is {then} there and "
            f"{now} here. Images, labels, splits or augmentation have changed since, or, in a folder, the times of the files. "
            "To start anew with the images of today, name another file or delete this one; to go on with it, bring back the images that it "
            "comes from."
        )
    return {**found, "data_fingerprint": now}
