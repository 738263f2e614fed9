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

from ...errors import InvalidInput, check_count
from ._images import SPLITS, Batch, Data, Index, Share, check_split
from ._pixels import Array, Form, as_array, as_labels, held_out, squared

Split = tuple[npt.ArrayLike | torch.Tensor, npt.ArrayLike | torch.Tensor]
"""Images and labels."""


@dataclass(frozen=True)
class ArrayData(Data):
    """Images that are held in memory; :func:`make_data` makes them.

    Example:
        >>> import numpy as np
        >>> from hwsearch.nn import make_data
        >>> images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
        >>> data = make_data("mine", (images, np.arange(40) % 4), flip=True)
        >>> type(data).__name__, data.count("train"), data.count("val"), data.flip
        ('ArrayData', 32, 4, True)

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

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """The labels of a split."""
        return self.split(split)[1].numpy()

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


def make_data(
    name: str,
    train: Split,
    val: Split | None = None,
    test: Split | None = None,
    *,
    shift: int = 0,
    flip: bool = False,
    oblong: str = "pad",
    classes: int | None = None,
) -> ArrayData:
    """Your own images, held in memory.

    Args:
        name: how the data is called in files.
        train, val, test: images and their labels, each as a numpy array or a torch tensor. Images have the shape
            ``(n, channels, height, width)``, ``(n, height, width, channels)`` or ``(n, height, width)``, and any usual type: ``uint8``;
            truth values or numbers from 0 to 1 (shares of white); other numbers from 0 to 255; or any others, of 16 bits or normalised,
            which are scaled from the least to the largest of the training images to 8 bits. Labels have the shape ``(n,)``, whole numbers
            from 0, or ``(n, classes)`` with a single 1 in each row. If ``test`` is omitted its place is taken by ``val``, and a tenth of
            the training images of each class is held out for validation; if both are omitted, a tenth for each.
        shift: augmentation moves an image by up to this many pixels.
        flip: whether augmentation may mirror an image.
        oblong: what is done to images that are not square: ``"pad"`` with black, ``"crop"`` the middle, or ``"stretch"``.
        classes: how many different labels there are, if not all of them are among the training images.

    Returns:
        The data. A channel that is the same in all training images is shifted to zero and not scaled.

    Raises:
        InvalidInput: images or labels of the wrong type or shape.
        UnknownName: of what is done to oblong images.

    Example:
        >>> import numpy as np
        >>> from hwsearch.nn import make_data
        >>> photographs, labels = np.zeros((40, 12, 16, 3), np.float32), np.arange(40) % 2
        >>> data = make_data("mine", (photographs, labels))
        >>> data.count("train"), data.classes, tuple(data.train_x.shape)
        (32, 2, (32, 3, 16, 16))
    """
    splits = dict(zip(SPLITS, (train, val, test), strict=True))
    given = {split: _pair(name, split, pair) for split, pair in splits.items() if pair is not None or split == "train"}
    form = Form.of(given["train"][0], f"Data {name!r}: train_x")
    pixels = {split: squared(torch.from_numpy(form(x, f"Data {name!r}: {split}_x")), oblong) for split, (x, _) in given.items()}
    labels = {split: y for split, (_, y) in given.items()}
    _complete(name, pixels, labels)
    images = pixels["train"].numpy()
    mean, std = _moments(images)
    count = int(labels["train"].max()) + 1 if classes is None else check_count("classes", classes, least=1)
    tensors = {f"{split}_x": x for split, x in pixels.items()} | {f"{split}_y": torch.from_numpy(y) for split, y in labels.items()}
    return ArrayData(name, mean=mean, std=std, classes=count, shift=shift, flip=flip, **tensors)


def _complete(name: str, pixels: dict[str, torch.Tensor], labels: dict[str, npt.NDArray[np.int64]]) -> None:
    """Add the splits that are lacking, as :func:`make_data` says.

    Raises:
        InvalidInput: there are images for the test, and none for validation.
    """
    if "test" in pixels:
        if "val" not in pixels:
            raise InvalidInput(f"Data {name!r}: validation images are missing; those for the test alone do not do.")
        return
    names: tuple[str, ...] = SPLITS
    if "val" in pixels:
        names, pixels["test"], labels["test"] = ("train", "val"), pixels["val"], labels["val"]
    all_x, all_y = pixels["train"], labels["train"]
    for split, index in zip(names, held_out(all_y, len(names)), strict=True):
        pixels[split], labels[split] = all_x[torch.from_numpy(index)], all_y[index]


def _pair(name: str, split: str, pair: Any) -> tuple[Array, npt.NDArray[np.int64]]:
    """The images and the labels of a split as arrays.

    Raises:
        InvalidInput: they are none.
    """
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise InvalidInput(f"Data {name!r}: {split} must be two arrays, the images and their labels, not {type(pair).__name__}.")
    what = f"Data {name!r}: {split}"
    x, y = as_array(pair[0], f"{what}_x"), as_labels(as_array(pair[1], f"{what}_y"), f"{what}_y")
    if y.shape != x.shape[:1] or not len(y) or y.min() < 0:
        raise InvalidInput(f"{what}_y must be labels from 0, one for each of the images of shape {x.shape}, not {y.shape}.")
    return x, y


def _moments(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of pixels scaled to 0..1; 1 where a channel never changes."""
    mean = images.mean(axis=(0, 2, 3), dtype=np.float64) / 255.0
    std = images.std(axis=(0, 2, 3), dtype=np.float64) / 255.0
    std[images.min(axis=(0, 2, 3)) == images.max(axis=(0, 2, 3))] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())
