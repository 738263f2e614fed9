"""Folders of image files, one subfolder a class, such as ImageNet: read from disk as they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .._store import PathLike
from ..errors import FileError, InvalidInput
from .images import SPLITS, Batch, Data, Share, check_split
from .vision import import_torchvision, import_transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, as everybody normalises them."""
_CALIBRATION = 256
_Key = tuple[int, int]
"""Step and number of an image; the step is -1 where an image is evaluated."""


def folder_data(folder: PathLike, *, size: int = 224, workers: int | None = None) -> FolderData:
    """The images of a folder with ``train/<class>/*`` and ``val/<class>/*``, and perhaps ``test/<class>/*``.

    Without ``test`` its place is taken by ``val``, as with ImageNet, and every tenth of the training images, at most 10,000, is held out
    for validation: nothing is chosen on the images that the final accuracy is told of.

    Args:
        folder: holds ``train`` and ``val``.
        size: height and width of what a network is given, px; it resizes them to its own resolution.
        workers: processes that read and vary images; one a core, less the one that trains, where left out. It changes no image.

    Raises:
        FileError: a folder is missing, or holds no images.
        InvalidInput: a size below 8 or a negative number of workers.
        MissingDependency: torchvision is not installed.
    """
    if size < 8 or (workers is not None and workers < 0):
        raise InvalidInput(f"size must be at least 8 and workers at least 0, not {size} and {workers}.")
    found = {name: _listed(Path(folder) / name) for name in SPLITS if name != "test" or (Path(folder) / "test").is_dir()}
    classes = sorted({Path(path).parent.name for path, _ in found["train"]})
    for name, items in found.items():
        if sorted({Path(path).parent.name for path, _ in items}) != classes:
            raise FileError(f"{Path(folder) / name} must hold the {len(classes)} classes of {Path(folder) / 'train'}, one subfolder each.")
    if "test" not in found:
        order = np.random.default_rng(0).permutation(len(found["train"]))
        held = min(10000, len(order) // 10)
        if not held:
            raise FileError(f"{Path(folder) / 'train'} holds only {len(order)} images; at least 10 are needed to hold some out.")
        found = {
            "train": [found["train"][index] for index in sorted(order[held:])],
            "val": [found["train"][index] for index in sorted(order[:held])],
            "test": found["val"],
        }
    return FolderData(found, len(classes), size, max(0, min(8, (os.cpu_count() or 1) - 1)) if workers is None else workers)


def _listed(folder: Path) -> list[tuple[str, int]]:
    """The image files of a folder and their labels, in the order of their names."""
    try:
        return list(import_torchvision().datasets.ImageFolder(os.fspath(folder)).samples)
    except OSError as error:
        raise FileError(
            f"{folder} is not a folder of images: {error}. Expected there: one subfolder a class, with image files in it."
        ) from error


class FolderData(Data):
    """Images on disk; :func:`folder_data` finds them.

    In training a random part of an image, 8 to 100 % of its area, is cut out, resized and perhaps mirrored (Inception's crop, Szegedy et
    al., CVPR'15, section 6); in evaluation the shorter side is resized to 256/224 of the size, and the centre is cut out.

    Args:
        items: by split, the files and their labels.
        classes: how many different labels there are.
        size: height and width of what a network is given, px.
        workers: processes that read and vary images.
    """

    def __init__(self, items: dict[str, list[tuple[str, int]]], classes: int, size: int, workers: int) -> None:
        self.name, self.mean, self.std, self.classes = "imagefolder", MEAN, STD, classes
        self.items, self.size, self.workers = items, size, workers

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names, labels, sizes and times of all files, and of the size to which their images are brought.

        Times are whole seconds, which copies keep that are made to (``cp -a``, ``rsync -a``, ``tar``). No image is read.

        Raises:
            FileError: a file has disappeared.
        """
        root = Path(os.path.commonpath([path for items in self.items.values() for path, _ in items]))
        hashed = hashlib.sha256(f"{self.classes} {self.size}".encode())
        for split in SPLITS:
            for path, label in self.items[split]:
                try:
                    facts = os.stat(path)
                except OSError as error:
                    raise FileError(f"Cannot read image {path}: {error.strerror or error}. Was the folder changed meanwhile?") from error
                name = Path(path).relative_to(root).as_posix()
                hashed.update(f"{split}\0{name}\0{label}\0{facts.st_size}\0{int(facts.st_mtime)}\n".encode(errors="surrogateescape"))
        return hashed.hexdigest()[:16]

    def count(self, split: str) -> int:
        """How many images a split holds."""
        check_split(split)
        return len(self.items[split])

    def batches(self, split: str, batch: int, most: int | None = None) -> Iterator[Batch]:
        """The images of a split in their order, the centre of each."""
        keys = [(-1, number) for number in range(self.count(split))][:most]
        return self._loaded(split, 0, (keys[start : start + batch] for start in range(0, len(keys), batch)))

    def training(self, shares: Iterable[Share], seed: int) -> Iterator[Batch]:
        """Training images, a random part of each, perhaps mirrored; one batch a share."""
        return self._loaded("train", seed, ([(step, int(number)) for number in index] for step, _, index in shares))

    def calibration_images(self, seed: int) -> torch.Tensor:
        """Up to 256 training images drawn at random, the centre of each."""
        drawn = np.random.default_rng([seed, 0xCA11]).permutation(self.count("train"))[:_CALIBRATION]
        return next(self._loaded("train", 0, [[(-1, int(number)) for number in drawn]]))[0]

    def _loaded(self, split: str, seed: int, keys: Iterable[Sequence[_Key]]) -> Iterator[Batch]:
        files = _Files(self.items[split], self.size, seed)
        generator = torch.Generator()  # of the loader's own, so that the user's random numbers stay as they are
        loader: DataLoader[Any] = DataLoader(files, batch_sampler=keys, num_workers=self.workers, generator=generator)  # type: ignore[arg-type]
        yield from loader


class _Files(Dataset[Any]):
    """One image at a time, by step and number."""

    def __init__(self, items: Sequence[tuple[str, int]], size: int, seed: int) -> None:
        self.items, self.size, self.seed = items, size, seed
        v2 = import_transforms()
        to_tensor = v2.PILToTensor()
        self.varied = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), to_tensor])
        self.centred = v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size), to_tensor])

    def __getitem__(self, key: _Key) -> tuple[torch.Tensor, int]:
        step, number = key
        path, label = self.items[number]
        image = import_torchvision().datasets.folder.default_loader(path)
        if step < 0:
            return self.centred(image), label
        with torch.random.fork_rng(devices=[]):
            (state,) = np.random.SeedSequence([self.seed, step, number]).generate_state(1, np.uint64)
            torch.manual_seed(int(state >> np.uint64(1)))
            return self.varied(image), label
