"""Images that are read when they are needed, one by one, whatever they come from."""

from __future__ import annotations

import copy
import multiprocessing
import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ...errors import FileError, InvalidInput
from ._images import Batch, Data, Share
from ._kept import kept
from ._vision import import_transforms

_CALIBRATION = 256
_Key = tuple[int, int]
"""Step and number of an image; the step is -1 where an image is evaluated."""


class Items(Protocol):
    """Images by their numbers, each with its label."""

    def __getitem__(self, number: int, /) -> Any: ...


def loader(files: Dataset[Any], workers: int, **how: Any) -> DataLoader[Any]:
    """Reads images with several processes, or in this process if it may not start any, as in a pool."""
    workers = 0 if multiprocessing.current_process().daemon else workers
    generator = torch.Generator()  # of the loader's own, so that the user's random numbers stay as they are
    return DataLoader(files, num_workers=workers, generator=generator, **how)


class StreamedData(Data):
    """Images that are read when they are needed.

    What is evaluated many times, the images of ``"val"`` and ``"test"``, is decoded once and kept on disk; see :mod:`._kept`.

    Args:
        name, classes, mean, std: see :class:`Data`.
        workers: processes that read and vary images.
    """

    def __init__(self, name: str, classes: int, mean: tuple[float, ...], std: tuple[float, ...], *, workers: int) -> None:
        self.name, self.classes, self.mean, self.std, self.workers = name, classes, mean, std, workers

    @abstractmethod
    def reader(self, split: str, seed: int) -> Dataset[Any]:
        """What reads an image of a split by its step and number, the step -1 where it is evaluated, as ``uint8`` and with its label."""

    def batches(self, split: str, batch: int, most: int | None = None) -> Iterator[Batch]:
        """The images of a split in their order, as they are evaluated."""
        count = len(range(self.count(split))[:most])
        if split == "train":
            yield from self._in_order(split, batch, count)
        else:
            yield from kept(f"{self.fingerprint}-{split}", count, batch, lambda: self._in_order(split, batch, count))

    def _in_order(self, split: str, batch: int, count: int) -> Iterator[Batch]:
        keys = [(-1, number) for number in range(count)]
        return self._loaded(split, 0, (keys[start : start + batch] for start in range(0, count, batch)))

    def training(self, shares: Iterable[Share], seed: int) -> Iterator[Batch]:
        """Training images, varied at random; one batch a share."""
        return self._loaded("train", seed, ([(step, int(number)) for number in index] for step, _, index in shares))

    def calibration_images(self, seed: int) -> torch.Tensor:
        """Up to 256 training images drawn at random, as they are evaluated."""
        drawn = np.random.default_rng([seed, 0xCA11]).permutation(self.count("train"))[:_CALIBRATION]
        return next(self._loaded("train", 0, [[(-1, int(number)) for number in drawn]]))[0]

    def _loaded(self, split: str, seed: int, keys: Iterable[Sequence[_Key]]) -> Iterator[Batch]:
        pinned = torch.cuda.is_available()
        try:
            yield from loader(self.reader(split, seed), self.workers, batch_sampler=keys, pin_memory=pinned)
        except FileError as error:  # of a worker, whose whole traceback torch puts before the message
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None


class PictureData(StreamedData):
    """Pictures of any size: files, or what holds such pictures.

    In training a random part of an image, 8 to 100 % of its area, is cut out, resized and perhaps mirrored (Inception's crop, Szegedy et
    al., CVPR'15, section 6); in evaluation the shorter side is resized to 256/224 of the size, and the centre is cut out.

    Args:
        name, classes, mean, std, workers: see :class:`StreamedData`.
        size: height and width of what a network is given, px.
    """

    def __init__(self, name: str, classes: int, mean: tuple[float, ...], std: tuple[float, ...], *, size: int, workers: int) -> None:
        super().__init__(name, classes, mean, std, workers=workers)
        self.size = size

    def at(self, size: int) -> Self:
        """The same pictures, brought to another height and width, px."""
        other = copy.copy(self)
        vars(other).pop("fingerprint", None)  # it tells sizes apart
        other.size = size
        return other

    @abstractmethod
    def pictures(self, split: str) -> Items:
        """The pictures of a split by their numbers, as ``PIL.Image``, each with its label."""

    def reader(self, split: str, seed: int) -> Dataset[Any]:
        """Reads and crops the pictures of a split."""
        return _Cropped(self.pictures(split), self.size, seed)


class _Cropped(Dataset[Any]):
    """One picture at a time, by step and number, cropped and perhaps varied."""

    def __init__(self, pictures: Items, size: int, seed: int) -> None:
        self.pictures, self.size, self.seed = pictures, size, seed
        v2 = import_transforms()
        to_tensor = v2.PILToTensor()
        self.varied = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), to_tensor])
        self.centred = v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size), to_tensor])

    def __getitem__(self, key: _Key) -> tuple[torch.Tensor, int]:
        step, number = key
        image, label = self.pictures[number]
        if step < 0:
            return self.centred(image), label
        with seeded(self.seed, step, number):
            return self.varied(image), label


Augment = Callable[[torch.Tensor], torch.Tensor]
"""An augmentation of the user's: ``uint8`` images of shape ``(n, channels, height, width)`` to the same, or to another height and width."""


def augmented(batches: Iterator[Batch], shares: Iterable[Share], augment: Augment | None, seed: int) -> Iterator[Batch]:
    """Batches of training images, varied by an augmentation of the user's, if there is one.

    Its random numbers (of torch, numpy and Python) follow from the seed, the step and the part of the batch alone.

    Raises:
        InvalidInput: it gives something else than as many ``uint8`` images.
    """
    if augment is None:
        yield from batches
        return
    for (step, part, _), (x, y) in zip(shares, batches, strict=True):
        with seeded(seed, step, part, 0xA6):
            varied: Any = augment(x)
        if not isinstance(varied, torch.Tensor) or varied.dtype != torch.uint8 or varied.ndim != 4 or varied.shape[:2] != x.shape[:2]:
            told = f"{varied.dtype} {tuple(varied.shape)}" if isinstance(varied, torch.Tensor) else type(varied).__name__
            raise InvalidInput(f"augment must give uint8 images of shape {tuple(x.shape)}, or of another height and width, not {told}.")
        yield varied, y


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Random numbers of Python, numpy and torch on the CPU follow from these numbers within this block, and go on as before after it."""
    (state,) = np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)
    generator = torch.default_generator  # torch.manual_seed would also seed GPUs, which takes half a millisecond and stays so
    before, legacy, of_torch = random.getstate(), np.random.get_state(), generator.get_state()  # noqa: NPY002 - what users' transforms use
    generator.manual_seed(int(state >> np.uint64(1)))
    random.seed(int(state))
    np.random.seed(int(state) % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(legacy)  # noqa: NPY002
        generator.set_state(of_torch)
