"""Images that are held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ...errors import InvalidInput
from ._images import SPLITS, Batch, Data, Index, Share, check_split

Split = tuple[npt.ArrayLike | torch.Tensor, npt.ArrayLike | torch.Tensor]
"""Images and labels."""


@dataclass(frozen=True)
class ArrayData(Data):
    """Images that are held in memory; :func:`make_data` makes them.

    Attributes:
        name: as users ask for it.
        train_x, val_x, test_x: ``uint8`` images, shape ``(n, channels, height, width)``.
        train_y, val_y, test_y: ``int64`` labels, shape ``(n,)``.
        mean, std: of the training pixels scaled to 0..1, one number a channel.
        classes: how many different labels there are.
        shift: augmentation moves an image by up to this many pixels.
        flip: whether augmentation may mirror an image.

    Raises:
        InvalidInput: images or labels of the wrong type or shape.
    """

    name: str
    train_x: torch.Tensor
    train_y: torch.Tensor
    val_x: torch.Tensor
    val_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        for split in SPLITS:
            x, y = self.split(split)
            if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != len(self.mean):
                raise InvalidInput(
                    f"Data {self.name!r}: {split}_x must be uint8 of shape (n, {len(self.mean)}, h, w), not {x.dtype} {tuple(x.shape)}."
                )
            if x.shape[2] != x.shape[3]:
                raise InvalidInput(
                    f"Data {self.name!r}: {split}_x holds images that are {x.shape[2]} px high and {x.shape[3]} px wide. Networks take "
                    "square ones: crop or pad them."
                )
            if y.dtype != torch.int64 or y.shape != x.shape[:1] or not len(y) or int(y.min()) < 0 or int(y.max()) >= self.classes:
                raise InvalidInput(
                    f"Data {self.name!r}: {split}_y must be int64 labels below {self.classes}, one for each of {len(x)} images."
                )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all pixels and labels, and of how training images are varied."""
        return hashlib.sha256(f"{super().fingerprint} {self.shift} {self.flip}".encode()).hexdigest()[:16]

    def split(self, name: str) -> Batch:
        """Images and labels of ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            UnknownName: there is no such split.
        """
        check_split(name)
        return getattr(self, f"{name}_x"), getattr(self, f"{name}_y")

    def count(self, split: str) -> int:
        """How many images a split holds."""
        return len(self.split(split)[1])

    def batches(self, split: str, batch: int, most: int | None = None) -> Iterator[Batch]:
        """The images of a split in their order."""
        x, y = self.split(split)
        for start in range(0, len(y[:most]), batch):
            yield x[:most][start : start + batch], y[:most][start : start + batch]

    def training(self, shares: Iterable[Share], seed: int) -> Iterator[Batch]:
        """Training images, moved and mirrored at random, one batch a share."""
        for step, part, index in shares:
            yield self.augmented(index, np.random.default_rng([seed, step, part])), self.train_y[torch.from_numpy(index)]

    def calibration_images(self, seed: int) -> torch.Tensor:
        """Up to 512 training images drawn at random."""
        return self.train_x[torch.from_numpy(_drawn(len(self.train_x), seed)[:512])]

    def augmented(self, index: Index, rng: np.random.Generator) -> torch.Tensor:
        """Training images, each moved and mirrored at random.

        Args:
            index: which ones, shape ``(n,)``.
            rng: where the randomness comes from.

        Returns:
            ``uint8``, shape ``(n, channels, height, width)``.
        """
        images = self.train_x[torch.from_numpy(index)]
        n, channels, height, width = images.shape
        moves = rng.integers(0, 2 * self.shift + 1, size=(2, n))
        mirrored = rng.integers(0, 2, size=n).astype(bool) & self.flip
        rows = moves[0][:, None] + np.arange(height)
        columns = moves[1][:, None] + np.arange(width)
        columns[mirrored] = columns[mirrored, ::-1]
        padded = F.pad(images, (self.shift,) * 4)
        return padded[
            torch.arange(n)[:, None, None, None],
            torch.arange(channels)[:, None, None],
            torch.from_numpy(rows)[:, None, :, None],
            torch.from_numpy(columns)[:, None, None, :],
        ]


def _drawn(count: int, seed: int) -> Index:
    """The numbers of the images in a random order that has nothing to do with that of training."""
    return np.random.default_rng([seed, 0xCA11]).permutation(count)


def make_data(name: str, train: Split, val: Split, test: Split, *, shift: int = 0, flip: bool = False) -> ArrayData:
    """Your own images, held in memory.

    Args:
        name: how the data is called in files.
        train, val, test: square ``uint8`` images of shape ``(n, channels, height, width)`` and their labels of shape ``(n,)``, whole
            numbers from 0; each as a numpy array or a torch tensor.
        shift: augmentation moves an image by up to this many pixels.
        flip: whether augmentation may mirror an image.

    Returns:
        The data. A channel that is the same in all training images is shifted to zero and not scaled.

    Raises:
        InvalidInput: images or labels of the wrong type or shape.

    Example:
        >>> import numpy as np
        >>> from hwsearch.nn import make_data
        >>> pairs = [(np.zeros((4, 1, 8, 8), np.uint8), np.arange(4)) for _ in range(3)]
        >>> make_data("mine", *pairs).count("train")
        4
    """
    tensors: dict[str, torch.Tensor] = {}
    given: tuple[Any, ...] = (train, val, test)
    for split, pair in zip(SPLITS, given, strict=True):
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise InvalidInput(f"Data {name!r}: {split} must be two arrays, the images and their labels, not {type(pair).__name__}.")
        x, what = _array(pair[0], f"{split}_x"), f"Data {name!r}: {split}"
        if x.dtype != np.uint8:
            raise InvalidInput(f"{what}_x must be uint8 of shape (n, channels, height, width), not {x.dtype} {x.shape}.")
        tensors[f"{split}_x"] = torch.from_numpy(np.ascontiguousarray(x))
        tensors[f"{split}_y"] = torch.from_numpy(_labels(_array(pair[1], f"{split}_y"), f"{what}_y"))
    images, labels = tensors["train_x"].numpy(), tensors["train_y"]
    if images.ndim != 4 or not images.size or not len(labels):
        raise InvalidInput(f"Data {name!r}: training images must have the shape (n, channels, height, width), not {images.shape}.")
    mean = images.mean(axis=(0, 2, 3), dtype=np.float64) / 255.0
    std = images.std(axis=(0, 2, 3), dtype=np.float64) / 255.0
    std[images.min(axis=(0, 2, 3)) == images.max(axis=(0, 2, 3))] = 1.0
    classes = int(labels.max()) + 1
    return ArrayData(name, mean=tuple(mean.tolist()), std=tuple(std.tolist()), classes=classes, shift=shift, flip=flip, **tensors)


def _array(given: npt.ArrayLike | torch.Tensor, what: str) -> npt.NDArray[Any]:
    """An array or a tensor, wherever it is, as an array.

    Raises:
        InvalidInput: it is neither.
    """
    try:
        return given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what} cannot be read as an array: {error}.") from error


def _labels(given: npt.NDArray[Any], what: str) -> npt.NDArray[np.int64]:
    """Labels as whole numbers.

    Raises:
        InvalidInput: they are others; nothing is rounded.
    """
    if given.dtype.kind not in "biuf":
        raise InvalidInput(f"{what} must be whole numbers, one a class, not {given.dtype}.")
    labels = given.astype(np.int64) if given.dtype.kind != "f" or np.isfinite(given).all() else None
    if labels is None or not np.array_equal(labels, given):
        raise InvalidInput(f"{what} must be whole numbers, one a class, and some are not; round them yourself where that is what you mean.")
    return labels
