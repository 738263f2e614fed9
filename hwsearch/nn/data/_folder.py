"""Folders of image files, one subfolder a class, such as ImageNet, or of shards: read from disk as they are needed."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from ..._files._writing import PathLike
from ..._progress import progress as show_progress
from ...errors import CorruptFile, FileError, InvalidInput
from ..training._processes import ALONE, Processes
from ._images import SPLITS, check_split
from ._pictures import read_picture
from ._pixels import held_out
from ._shards import Member, listed_shards, shards_in
from ._streamed import PictureData, loader
from ._vision import import_torchvision

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, as everybody normalises them."""
_MANY = 50_000
"""From this many training images on, a folder is trained by the recipe of ImageNet."""
_ENOUGH = 6
"""A photograph is decoded with at least this many pixels a side for each that a network is given, so that the smallest random crop, a
quarter of a side, still has half again as many as are shown of it."""
_NAMED = 10
"""Of many damaged files this many are named."""
_Place = str | Member
"""Where an image is: the path of its file, or a member of a shard."""
_Item = tuple[_Place, int]
"""An image and its label."""


class DamagedWarning(UserWarning):
    """Images that cannot be read are skipped.

    Example:
        >>> import warnings
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from hwsearch.nn import folder_data
        >>> for number in range(20):
        ...     for name in ("cat", "dog"):
        ...         Path("pets", name).mkdir(parents=True, exist_ok=True)
        ...         Image.new("RGB", (16, 16), (number, 0, 0)).save(f"pets/{name}/{number}.png")
        >>> size = Path("pets/cat/broken.png").write_bytes(b"no image")
        >>> with warnings.catch_warnings(record=True, action="always") as told:
        ...     data = folder_data("pets", size=16, workers=0, skip_damaged=True)
        >>> str(told[0].message)
        '1 damaged image is skipped: pets/cat/broken.png is not a whole image: cannot identify image file.'
    """


def folder_data(
    folder: PathLike, *, size: int = 224, workers: int | None = None, skip_damaged: bool = False, channels: int = 3
) -> FolderData:
    """The images of a folder: files in ``train/<class>/**`` and ``val/<class>/**``, or in ``<class>/**``; or shards of WebDataset.

    The classes are the folders right below ``train``, whatever lies in them: ``train/cat/1.png`` and ``train/cat/images/1.png`` are both
    a ``cat``. The other splits must have the same classes.

    Shards are plain tar files in the folder itself: ``train*.tar``, and perhaps ``val*.tar`` and ``test*.tar``. A picture ``KEY.jpg`` (or
    png, webp, ...) stands beside ``KEY.cls``, the number of its class from 0, or ``KEY.json`` with that number as its ``label``.

    Without ``test`` its place is taken by ``val``, as with ImageNet, and every tenth of the training images, at most 10,000, is held out
    for validation: nothing is chosen on the images of the final accuracy. Of a folder without splits, or with shards to train only, a
    tenth of each class is held out for validation, and another for the test.

    Args:
        folder: holds ``train`` and ``val``, the classes, or the shards.
        size: height and width of what a network is given, px; it resizes them to its own resolution.
        workers: processes that read and vary images; if omitted, one fewer than cores. Their number changes no image.
        skip_damaged: read every image now, and skip those that cannot be read: a :class:`DamagedWarning` lists them. Otherwise a
            training that begins reads every image once before its first step, and refuses damaged ones by name.
        channels: 3, or 1 for grey: colours become their brightness.

    Raises:
        FileError: a folder is missing, or holds no images, or not those of all classes; a shard is damaged or compressed.
        InvalidInput: a size below 8 or a negative number of workers.
        MissingDependency: torchvision is not installed.

    Example:
        >>> import io, pathlib, tarfile
        >>> from PIL import Image
        >>> pathlib.Path("shards").mkdir()
        >>> with tarfile.open("shards/train-0.tar", "w") as shard:
        ...     for number in range(30):
        ...         Image.new("RGB", (20, 16), (number, 0, 0)).save(picture := io.BytesIO(), "PNG")
        ...         for ending, content in (("png", picture.getvalue()), ("cls", b"%d" % (number % 2))):
        ...             (member := tarfile.TarInfo(f"{number}.{ending}")).size = len(content)
        ...             shard.addfile(member, io.BytesIO(content))
        >>> from hwsearch.nn import folder_data
        >>> data = folder_data("shards", size=16)
        >>> data.classes, data.count("train"), data.count("test")
        (2, 26, 2)
    """
    if size < 8 or (workers is not None and workers < 0) or channels not in (1, 3):
        raise InvalidInput(f"size must be at least 8, workers at least 0 and channels 1 or 3, not {size}, {workers} and {channels}.")
    workers = max(0, min(8, (os.cpu_count() or 1) - 1)) if workers is None else workers
    classes, found = _found(Path(folder))
    if skip_damaged:
        found = _undamaged(found, workers)
    return FolderData(_completed(found, Path(folder)), classes, size, workers, channels)


def _found(folder: Path) -> tuple[int, dict[str, list[_Item]]]:
    """The number of classes in a folder, and the images of the splits that there are, with their labels.

    Raises:
        FileError: there are none, or not those of all classes.
    """
    if shards := shards_in(folder):
        classes, members = listed_shards(shards)
        return classes, {split: [*items] for split, items in members.items()}
    if _unsplit(folder):
        names, items = _listed(folder)
        return len(names), {"train": items}
    listed = {split: _listed(folder / split) for split in SPLITS if split != "test" or os.path.isdir(folder / "test")}
    names = listed["train"][0]
    for split, (others, _) in listed.items():
        if odd := sorted(set(names) ^ set(others)):
            raise FileError(
                f"{folder / split} must hold the {len(names)} classes of {folder / 'train'}, one subfolder each. Only one of "
                f"the two has {', '.join(map(repr, odd[:_NAMED]))}{' and others' * (len(odd) > _NAMED)}."
            )
    return len(names), {split: items for split, (_, items) in listed.items()}


def _completed(found: dict[str, list[_Item]], folder: Path) -> dict[str, list[_Item]]:
    """All three splits; those that are lacking are held out, as :func:`folder_data` says.

    Raises:
        FileError, InvalidInput: there are too few images for that.
    """
    if "test" in found:
        return found
    images = found["train"]
    if "val" not in found:
        parts = held_out(np.array([label for _, label in images]), len(SPLITS))
        return {split: [images[index] for index in part] for split, part in zip(SPLITS, parts, strict=True)}
    order = np.random.default_rng(0).permutation(len(images))
    held = min(10000, len(order) // 10)
    if not held:
        raise FileError(f"{folder / 'train'} holds only {len(order)} images; at least 10 are needed to hold some out.")
    split_off = {name: [images[index] for index in sorted(some)] for name, some in (("train", order[held:]), ("val", order[:held]))}
    return {**split_off, "test": found["val"]}


def _unsplit(folder: Path) -> bool:
    """Whether a folder holds folders, and none of them is a split; whatever cannot be looked into does not."""
    try:
        inside = [path.name for path in folder.iterdir() if path.is_dir()]
    except (OSError, ValueError):
        return False
    return bool(inside) and not set(inside) & set(SPLITS)


def _listed(folder: Path) -> tuple[list[str], list[_Item]]:
    """The classes of a folder in the order of their names, and the image files with their labels."""
    try:
        found = import_torchvision().datasets.ImageFolder(os.fspath(folder))
        return found.classes, [*found.samples]
    except (OSError, ValueError) as error:
        raise FileError(
            f"{folder} is not a folder of images: {error}. Expected there: one subfolder a class, with image files in it."
        ) from error


def _undamaged(found: dict[str, list[_Item]], workers: int) -> dict[str, list[_Item]]:
    """The files that can be read; the others are listed in a warning.

    Raises:
        FileError: none of a split can be.
    """
    damaged = _damaged([path for items in found.values() for path, _ in items], workers, progress=False)
    left = {name: [item for item in items if item[0] not in damaged] for name, items in found.items()}
    if empty := next((name for name, items in left.items() if not items), None):
        raise FileError(f"No image of {empty!r} can be read: {' '.join(list(damaged.values())[:_NAMED])}")
    if damaged:
        count = "1 damaged image is" if len(damaged) == 1 else f"{len(damaged)} damaged images are"
        warnings.warn(f"{count} skipped: {' '.join(damaged.values())}", DamagedWarning, stacklevel=3)
    return left


def _damaged(paths: Sequence[_Place], workers: int, progress: bool) -> dict[_Place, str]:
    """Read images; returns what is wrong with each that cannot be read, by its place."""
    damaged: dict[_Place, str] = {}
    with show_progress("checking images", len(paths), progress) as advance:
        for some in loader(_Readable(paths), workers, batch_size=16, collate_fn=dict):
            damaged |= {path: wrong for path, wrong in some.items() if wrong}
            advance(len(some))
    return damaged


class FolderData(PictureData):
    """Images on disk; :func:`folder_data` finds them.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from hwsearch.nn import folder_data
        >>> for number in range(20):
        ...     for name in ("left", "right"):
        ...         Path("arrows", name).mkdir(parents=True, exist_ok=True)
        ...         Image.new("L", (16, 12), number).save(f"arrows/{name}/{number}.png")
        >>> data = folder_data("arrows", size=16, workers=0, channels=1)
        >>> images, labels = next(iter(data.batches("val", batch=4)))
        >>> tuple(images.shape), Path(data.items["val"][0][0]).suffix
        ((4, 1, 16, 16), '.png')

    Args:
        items: by split, the files or the members of shards, and their labels.
        classes: how many different labels there are.
        size: height and width of what a network is given, px.
        workers: processes that read and vary images.
        channels: 3, or 1 for grey.
    """

    def __init__(self, items: dict[str, list[_Item]], classes: int, size: int, workers: int, channels: int = 3) -> None:
        mean, std = (MEAN, STD) if channels == 3 else ((sum(MEAN) / 3,), (sum(STD) / 3,))
        super().__init__("imagefolder", classes, mean, std, size=size, workers=workers)
        self.items, self.channels = items, channels
        self._readable: set[_Place] = set()

    @property
    def recipe(self) -> str:
        """That of ImageNet for as many photographs as it takes to need it, and a shorter one for fewer."""
        return "imagefolder" if self.count("train") >= _MANY else "photographs"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names, labels, sizes and times of all files, and of the size to which their images are brought.

        Of members of shards the time is that of the shard. Times are whole seconds, which copies keep that are made to (``cp -a``,
        ``rsync -a``, ``tar``). No image is read.

        Raises:
            FileError: a file has disappeared.
        """
        root = Path(os.path.commonpath({_file(place) for items in self.items.values() for place, _ in items}))
        stat = lru_cache(maxsize=1)(os.stat)  # of the many members of a shard once
        grey = " grey" if self.channels == 1 else ""
        hashed = hashlib.sha256(f"{self.classes} {self.size}{grey}".encode())
        for split in SPLITS:
            for place, label in self.items[split]:
                path = _file(place)
                try:
                    facts = stat(path)
                except OSError as error:
                    raise FileError(f"Cannot read image {path}: {error.strerror or error}. Was the folder changed meanwhile?") from error
                name, length = Path(path).relative_to(root).as_posix(), facts.st_size
                if isinstance(place, Member):
                    name, length = f"{name}\0{place.name}\0{place.offset}", place.size
                hashed.update(f"{split}\0{name}\0{label}\0{length}\0{int(facts.st_mtime)}\n".encode(errors="surrogateescape"))
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
                f"{len(damaged)} of {len(paths)} images cannot be read: {named} Replace or delete these files, or leave them out "
                "by folder_data with skip_damaged=True."
            )
        self._readable.update(paths)

    def count(self, split: str) -> int:
        """How many images a split holds."""
        check_split(split)
        return len(self.items[split])

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """The labels of a split; no image is read."""
        check_split(split)
        return np.array([label for _, label in self.items[split]], dtype=np.int64)

    def pictures(self, split: str) -> _Pictures:
        """The files of a split, each read when it is needed."""
        return _Pictures(self.items[split], "RGB" if self.channels == 3 else "L", _ENOUGH * self.size)


def _file(place: _Place) -> str:
    """The file that an image is in."""
    return place.path if isinstance(place, Member) else place


class _Pictures:
    """Files, or members of shards, that are read one at a time.

    Args:
        items: where they are, and their labels.
        mode: of the pictures, as ``PIL`` calls it.
        least: pixels a side, if they have as many.
    """

    def __init__(self, items: Sequence[_Item], mode: str, least: int) -> None:
        self.items, self.mode, self.least = items, mode, least

    def __getitem__(self, number: int) -> tuple[Any, int]:
        path, label = self.items[number]
        return read_picture(path, self.least).convert(self.mode), label


class _Readable(Dataset[Any]):
    """What is wrong with one image at a time: its place, and nothing or the message."""

    def __init__(self, paths: Sequence[_Place]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[_Place, str]:
        try:
            read_picture(self.paths[number], 1)
        except FileError as error:
            return self.paths[number], str(error)
        return self.paths[number], ""
