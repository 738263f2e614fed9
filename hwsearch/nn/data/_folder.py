"""Folders of image files, one subfolder a class, such as ImageNet: read from disk as they are needed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..._files._writing import PathLike
from ..._progress import progress as show_progress
from ...errors import CorruptFile, FileError, InvalidInput
from ..training._processes import ALONE, Processes
from ._images import SPLITS, Batch, Data, Share, check_split
from ._pictures import read_picture
from ._vision import import_torchvision, import_transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, as everybody normalises them."""
_CALIBRATION = 256
_NAMED = 10
"""Of many damaged files this many are named."""
_Key = tuple[int, int]
"""Step and number of an image; the step is -1 where an image is evaluated."""
_Item = tuple[str, int]
"""A file and its label."""


class DamagedWarning(UserWarning):
    """Images that cannot be read are skipped."""


def folder_data(folder: PathLike, *, size: int = 224, workers: int | None = None, skip_damaged: bool = False) -> FolderData:
    """The images of a folder with ``train/<class>/**`` and ``val/<class>/**``, and perhaps ``test/<class>/**``.

    The classes are the folders right below ``train``, whatever lies in them: ``train/cat/1.png`` and ``train/cat/images/1.png`` are both
    a ``cat``. The other splits must have the same classes.

    Without ``test`` its place is taken by ``val``, as with ImageNet, and every tenth of the training images, at most 10,000, is held out
    for validation: nothing is chosen on the images of the final accuracy.

    Args:
        folder: holds ``train`` and ``val``.
        size: height and width of what a network is given, px; it resizes them to its own resolution.
        workers: processes that read and vary images; if omitted, one fewer than cores. Their number changes no image.
        skip_damaged: read every image now, and skip those that cannot be read: a :class:`DamagedWarning` lists them. Otherwise a
            training that begins reads every image once before its first step, and refuses damaged ones by name.

    Raises:
        FileError: a folder is missing, or holds no images, or not those of all classes.
        InvalidInput: a size below 8 or a negative number of workers.
        MissingDependency: torchvision is not installed.
    """
    if size < 8 or (workers is not None and workers < 0):
        raise InvalidInput(f"size must be at least 8 and workers at least 0, not {size} and {workers}.")
    workers = max(0, min(8, (os.cpu_count() or 1) - 1)) if workers is None else workers
    listed = {name: _listed(Path(folder) / name) for name in SPLITS if name != "test" or os.path.isdir(Path(folder) / "test")}
    classes = listed["train"][0]
    for name, (others, _) in listed.items():
        if odd := sorted(set(classes) ^ set(others)):
            raise FileError(
                f"{Path(folder) / name} must hold the {len(classes)} classes of {Path(folder) / 'train'}, one subfolder each. Only one of "
                f"the two has {', '.join(map(repr, odd[:_NAMED]))}{' and others' * (len(odd) > _NAMED)}."
            )
    found = {name: items for name, (_, items) in listed.items()}
    if skip_damaged:
        found = _undamaged(found, workers)
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
    return FolderData(found, len(classes), size, workers)


def _listed(folder: Path) -> tuple[list[str], list[_Item]]:
    """The classes of a folder in the order of their names, and the image files with their labels."""
    try:
        found = import_torchvision().datasets.ImageFolder(os.fspath(folder))
        return found.classes, found.samples
    except (OSError, ValueError) as error:
        raise FileError(
            f"{folder} is not a folder of images: {error}. Expected there: one subfolder a class, with image files in it."
        ) from error


def _undamaged(found: dict[str, list[_Item]], workers: int) -> dict[str, list[_Item]]:
    """The files that can be read; the others are listed in a warning."""
    damaged = _damaged([path for items in found.values() for path, _ in items], workers, progress=False)
    if damaged:
        warnings.warn(f"{len(damaged)} damaged images are skipped: {' '.join(damaged.values())}", DamagedWarning, stacklevel=3)
    return {name: [item for item in items if item[0] not in damaged] for name, items in found.items()}


def _damaged(paths: Sequence[str], workers: int, progress: bool) -> dict[str, str]:
    """Read files; returns what is wrong with each that cannot be read, by its path."""
    damaged: dict[str, str] = {}
    with show_progress("checking images", len(paths), progress) as advance:
        for some in _loader(_Readable(paths), workers, batch_size=16, collate_fn=dict):
            damaged |= {path: wrong for path, wrong in some.items() if wrong}
            advance(len(some))
    return damaged


def _loader(files: Dataset[Any], workers: int, **how: Any) -> DataLoader[Any]:
    """Reads files with several processes, or in this process if it may not start any, as in a pool."""
    workers = 0 if multiprocessing.current_process().daemon else workers
    generator = torch.Generator()  # of the loader's own, so that the user's random numbers stay as they are
    return DataLoader(files, num_workers=workers, generator=generator, **how)


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

    def __init__(self, items: dict[str, list[_Item]], classes: int, size: int, workers: int) -> None:
        self.name, self.mean, self.std, self.classes = "imagefolder", MEAN, STD, classes
        self.items, self.size, self.workers = items, size, workers
        self._readable: set[str] = set()

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

    def check(self, team: Processes = ALONE, *, progress: bool = False) -> None:
        """Read every image once, each process its share of them.

        Args:
            team: the processes that train together.
            progress: show a bar with the time left.

        Raises:
            CorruptFile: some cannot be read; the message names them.
        """
        paths = sorted({path for items in self.items.values() for path, _ in items} - self._readable)
        damaged = _damaged(paths[team.rank :: team.count], self.workers, progress and team.first)
        if damaged:
            named = " ".join(list(damaged.values())[:_NAMED]) + " And others." * (len(damaged) > _NAMED)
            raise CorruptFile(
                f"{len(damaged)} of {len(paths)} images cannot be read: {named} Replace or delete these files, or leave them out: "
                "hwsearch.nn.folder_data(folder, skip_damaged=True)."
            )
        self._readable.update(paths)

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
        try:
            yield from _loader(_Files(self.items[split], self.size, seed), self.workers, batch_sampler=keys)
        except FileError as error:  # of a worker, whose whole traceback torch puts before the message
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None


class _Readable(Dataset[Any]):
    """What is wrong with one file at a time: its path, and nothing or the message."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[str, str]:
        try:
            read_picture(self.paths[number])
        except FileError as error:
            return self.paths[number], str(error)
        return self.paths[number], ""


class _Files(Dataset[Any]):
    """One image at a time, by step and number."""

    def __init__(self, items: Sequence[_Item], size: int, seed: int) -> None:
        self.items, self.size, self.seed = items, size, seed
        v2 = import_transforms()
        to_tensor = v2.PILToTensor()
        self.varied = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), to_tensor])
        self.centred = v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size), to_tensor])

    def __getitem__(self, key: _Key) -> tuple[torch.Tensor, int]:
        step, number = key
        path, label = self.items[number]
        image = read_picture(path)
        if step < 0:
            return self.centred(image), label
        with torch.random.fork_rng(devices=[]):
            (state,) = np.random.SeedSequence([self.seed, step, number]).generate_state(1, np.uint64)
            torch.manual_seed(int(state >> np.uint64(1)))
            return self.varied(image), label
