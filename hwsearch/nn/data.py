"""Images with labels: scikit-learn's digits, CIFAR-10 through torchvision, the user's own arrays, or a folder of image files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from .._store import PathLike
from ..errors import FileError, InvalidInput, UnknownName, require
from .vision import import_torchvision

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
            if y.dtype != torch.int64 or y.shape != x.shape[:1] or not len(y) or int(y.min()) < 0 or int(y.max()) >= self.classes:
                raise InvalidInput(
                    f"Data {self.name!r}: {split}_y must be int64 labels below {self.classes}, one for each of {len(x)} images."
                )

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


def check_split(name: str) -> None:
    """Raise UnknownName where there is no such split."""
    if name not in SPLITS:
        raise UnknownName("split", name, SPLITS)


def _drawn(count: int, seed: int) -> Index:
    """The numbers of the images in a random order that has nothing to do with that of training."""
    return np.random.default_rng([seed, 0xCA11]).permutation(count)


def load_data(data: str | tuple[str, PathLike] | Data, folder: PathLike | None = None) -> Data:
    """The images of that name; a :class:`Data` is handed back as it is.

    Args:
        data: ``"digits"`` (1,797 scanned digits of 8x8 px that come with scikit-learn), ``"cifar10"``, ``"imagefolder"``, or a name with
            its folder as one tuple; or a folder, which is what it looks like.
        folder: where the files are: for ``"cifar10"`` the folder that holds ``cifar-10-batches-py``, for ``"imagefolder"`` the one that
            holds ``train`` and ``val`` (see :func:`folder_data`).

    Raises:
        UnknownName: there are no images of that name.
        FileError: the folder lacks the files.
        MissingDependency: scikit-learn or torchvision is not installed.
    """
    if isinstance(data, Data):
        return data
    name, folder = (data, folder) if isinstance(data, str) else data
    if name not in _LOADERS and folder is None and Path(name).is_dir():
        name, folder = ("cifar10" if (Path(name) / "cifar-10-batches-py").is_dir() else "imagefolder"), name
    if name not in _LOADERS:
        raise UnknownName("data", name, _LOADERS)
    return _LOADERS[name](folder)


def _digits(folder: PathLike | None) -> Data:
    """Scanned digits (Alpaydin and Kaynak 1998), 1,077 to train, 360 to validate and 360 to test, stratified."""
    if folder is not None:
        raise InvalidInput("The digits come with scikit-learn: they need no folder.")
    datasets = require("sklearn.datasets", feature="the digits data", extra="torch")
    selection = require("sklearn.model_selection", feature="the digits data", extra="torch")
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = np.rint(pixels * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 1, 8, 8)
    rest, test = selection.train_test_split(np.arange(len(labels)), test_size=360, random_state=0, stratify=labels)
    train, val = selection.train_test_split(rest, test_size=360, random_state=0, stratify=labels[rest])
    return make_data("digits", *((images[index], labels[index]) for index in (train, val, test)), shift=1)


def _cifar10(folder: PathLike | None) -> Data:
    """CIFAR-10 (Krizhevsky 2009): 45,000 to train, the last 5,000 training images to validate, and 10,000 to test."""
    if folder is None:
        raise InvalidInput("cifar10 needs the folder that holds 'cifar-10-batches-py': load_data('cifar10', folder).")
    datasets = import_torchvision().datasets
    try:
        train, test = (datasets.CIFAR10(os.fspath(folder), train=flag, download=False) for flag in (True, False))
    except (RuntimeError, OSError) as error:
        raise FileError(
            f"{Path(folder) / 'cifar-10-batches-py'} does not hold CIFAR-10 whole ({error}). Expected there: data_batch_1 .. data_batch_5, "
            "test_batch and batches.meta, as unpacked from cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html."
        ) from error
    x, y = train.data.transpose(0, 3, 1, 2), np.array(train.targets)
    held_out = (test.data.transpose(0, 3, 1, 2), np.array(test.targets))
    return make_data("cifar10", (x[:45000], y[:45000]), (x[45000:], y[45000:]), held_out, shift=4, flip=True)


def _imagefolder(folder: PathLike | None) -> Data:
    """A folder of image files, read from disk as they are needed."""
    from .folder import folder_data

    if folder is None:
        raise InvalidInput("imagefolder needs the folder that holds 'train' and 'val': load_data('imagefolder', folder).")
    return folder_data(folder)


_LOADERS: dict[str, Callable[[PathLike | None], Data]] = {"digits": _digits, "cifar10": _cifar10, "imagefolder": _imagefolder}

Split = tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]


def make_data(name: str, train: Split, val: Split, test: Split, *, shift: int = 0, flip: bool = False) -> ArrayData:
    """Your own images, held in memory.

    Args:
        name: how the data is called in files.
        train, val, test: ``uint8`` images of shape ``(n, channels, height, width)`` and their labels of shape ``(n,)``.
        shift: augmentation moves an image by up to this many pixels.
        flip: whether augmentation may mirror an image.

    Raises:
        InvalidInput: images or labels of the wrong type or shape.
    """
    images, labels = train
    if images.ndim != 4 or not len(images) or not len(labels):
        raise InvalidInput(f"Data {name!r}: training images must have the shape (n, channels, height, width), not {images.shape}.")
    mean = images.mean(axis=(0, 2, 3), dtype=np.float64) / 255.0
    std = images.std(axis=(0, 2, 3), dtype=np.float64) / 255.0
    tensors: dict[str, Any] = {
        f"{split}_{letter}": torch.from_numpy(np.ascontiguousarray(array))
        for split, (x, y) in zip(SPLITS, (train, val, test), strict=True)
        for letter, array in (("x", x), ("y", y.astype(np.int64)))
    }
    classes = int(labels.max()) + 1
    return ArrayData(name, mean=tuple(mean.tolist()), std=tuple(std.tolist()), classes=classes, shift=shift, flip=flip, **tensors)
