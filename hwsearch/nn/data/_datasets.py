"""Images that a torch ``Dataset``, a ``DataLoader`` or a dataset of Hugging Face holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, default_collate

from ...errors import InvalidInput, check_count
from ._arrays import make_data
from ._folder import MEAN, STD
from ._images import SPLITS, Data, check_split
from ._pixels import LABELS, Form, as_array, as_labels, held_out, squared
from ._streamed import Items, PictureData, StreamedData, seeded

_SAMPLE = 256
"""The form of images, their moments and their fingerprint come from this many of a split."""
_SMALL = 64
"""Pictures that are all of one square size up to this are held in memory, and moved instead of cropped."""
_LARGE = 224


def dataset_data(name: str, datasets: Any, *, size: int | None = None, classes: int | None = None, workers: int = 0) -> Data:
    """The images of a torch ``Dataset``, of a ``DataLoader``, or of a dataset of Hugging Face.

    An item is an image and its class, as a tuple or as a row with names. What is done with the images depends on what they are:

    - **tensors or arrays** have been through transforms of yours: they are taken as they are, augmented as you augment them, and only
      brought to 8 bits (:func:`make_data` says how). All random numbers of the transforms follow from the seed of the training.
    - **pictures** (``PIL.Image``) are cropped, resized and mirrored as those of :func:`folder_data`; small ones that have all the same
      square size are held in memory, and moved by up to an eighth of it.

    Of a loader only what it loads from is used (of that the items that a ``SubsetRandomSampler`` names, if it has one), unless it has a
    ``collate_fn`` of its own, or loads from a stream: then all its batches are read into memory once.

    Args:
        name: how the data is called in files.
        datasets: one for training, or ``(train, val)``, or ``(train, val, test)``. Without the last its place is taken by ``val``, and a
            tenth of the training images of each class is held out for validation; of one alone a tenth for each. Images that are held out
            have been through the transforms of training, so give all three where these are random.
        size: height and width to which pictures are brought, px; if omitted, the shorter side of most of them, at most 224.
        classes: how many different labels there are; if omitted, as the dataset says, or by the labels.
        workers: processes that read and vary images.

    Raises:
        InvalidInput: items are no images with classes, or images differ in their sizes.

    Example:
        >>> import torch
        >>> from hwsearch.nn import dataset_data
        >>> pairs = torch.utils.data.TensorDataset(torch.rand(40, 3, 8, 8), torch.arange(40) % 2)
        >>> data = dataset_data("mine", pairs)
        >>> data.count("train"), data.classes
        (32, 2)
    """
    several = datasets if isinstance(datasets, tuple | list) else (datasets,)
    given = {split: _source(each) for split, each in zip(SPLITS, several, strict=False) if each is not None}
    if all(isinstance(each, tuple) for each in given.values()):
        pairs: Any = [given.get(split) for split in SPLITS]
        return make_data(name, *pairs, classes=classes)
    if any(isinstance(each, tuple) for each in given.values()):
        raise InvalidInput(f"Data {name!r}: give datasets for all splits, or streams for all of them.")
    splits: dict[str, _Rows] = {split: _Rows(each) for split, each in given.items()}
    told = _told_classes(given["train"]) if classes is None else check_count("classes", classes, least=1)
    splits = _completed(splits)
    classes = told or int(max(rows.labels.max() for rows in splits.values())) + 1
    sample = [splits["train"][int(number)] for number in _spread(len(splits["train"]))]
    if not hasattr(sample[0][0], "convert"):
        return _Transformed(name, splits, classes, workers)
    sides = {picture.size for picture, _ in sample}
    if size is None and len(sides) == 1 and (side := max(min(sides))) <= _SMALL and side == min(min(sides)):
        arrays: Any = [rows.arrays() for rows in splits.values()]
        return make_data(name, *arrays, shift=side // 8, classes=classes)
    size = size or min(_LARGE, int(np.median([min(picture.size) for picture, _ in sample])))
    return _Pictured(name, splits, classes, size=size, workers=workers)


def _source(given: Any) -> Any:
    """What a loader loads from; or all that it loads, as two arrays, if that can be read from the loader only."""
    if isinstance(given, DataLoader):
        if hasattr(given.dataset, "__getitem__") and hasattr(given.dataset, "__len__") and given.collate_fn is default_collate:
            some = given.sampler.indices if isinstance(given.sampler, SubsetRandomSampler) else None
            return given.dataset if some is None else Subset(given.dataset, sorted(map(int, some)))
        parts = [_parted(batch) for batch in given]
        if not parts:
            raise InvalidInput("The DataLoader holds no images.")
        x, y = (np.concatenate([as_array(part[place], "a batch") for part in parts]) for place in (0, 1))
        return x, y
    if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")) or isinstance(given, str | bytes) or not len(given):
        raise InvalidInput(
            f"A dataset must have items by their numbers, each an image with its class, and at least one, not {type(given).__name__}. Put "
            "a stream into a DataLoader."
        )
    return given


def _parted(item: Any) -> tuple[Any, Any]:
    """The image and the class of an item, or of a batch.

    Raises:
        InvalidInput: it holds none.
    """
    if isinstance(item, Mapping):
        labels = [key for key in LABELS if key in item] or [key for key, value in item.items() if isinstance(value, int | np.integer)]
        images = [key for key, value in item.items() if hasattr(value, "convert") or len(getattr(value, "shape", ())) > 1]
        if labels and images:
            return item[images[0]], item[labels[0]]
    elif isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise InvalidInput(f"An item of a dataset must be an image and its class, not {type(item).__name__}: {str(item)[:80]}.")


@dataclass(frozen=True)
class _Rows:
    """Some items of a dataset, each as an image and its class.

    Attributes:
        items: the dataset.
        index: which of its items; all if ``None``.
    """

    items: Any
    index: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.items) if self.index is None else len(self.index)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        image, label = _parted(self.items[number if self.index is None else int(self.index[number])])
        return image, int(as_labels(np.atleast_1d(as_array(label, "a class")), "the classes of a dataset")[0])

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """All classes, from the list that the dataset keeps of them if it does."""
        known = getattr(self.items, "targets", None)
        if known is None and hasattr(self.items, "column_names"):
            known = next((self.items[name] for name in LABELS if name in self.items.column_names), None)
        if known is None or len(known) != len(self.items):
            known = [_Rows(self.items)[number][1] for number in range(len(self.items))]
        labels = as_labels(as_array(list(known) if not isinstance(known, torch.Tensor) else known, "classes"), "the classes of a dataset")
        return labels if self.index is None else labels[self.index]

    def arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """All pictures and classes in memory."""
        grey = all(self[int(number)][0].mode in ("1", "L") for number in _spread(len(self)))
        pictures = [np.asarray(self[number][0].convert("L" if grey else "RGB")) for number in range(len(self))]
        return np.stack(pictures), self.labels


def _completed(splits: dict[str, _Rows]) -> dict[str, _Rows]:
    """All three splits; those that are lacking are taken from the others, as :func:`make_data` does."""
    if "test" not in splits:
        names = ("train", "val") if "val" in splits else SPLITS
        splits = {**splits, "test": splits["val"]} if "val" in splits else splits
        parts = held_out(splits["train"].labels, len(names))
        splits = {**splits, **{split: _Rows(splits["train"].items, index) for split, index in zip(names, parts, strict=True)}}
    if "val" not in splits:
        raise InvalidInput("Validation images are missing; those for the test alone do not do.")
    return {split: splits[split] for split in SPLITS}


def _spread(count: int) -> npt.NDArray[np.int64]:
    """Numbers of some images from everywhere."""
    return np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))


def _told_classes(dataset: Any) -> int | None:
    """How many classes a dataset says that it has."""
    for feature in (getattr(dataset, "features", None) or {}).values():
        if isinstance(getattr(feature, "num_classes", None), int):
            return int(feature.num_classes)
    classes = getattr(dataset, "classes", None)
    return len(classes) if isinstance(classes, list | tuple) else None


def _fingerprint(splits: Mapping[str, _Rows], *settings: object) -> str:
    """A hash of how many items there are, and of some of them."""
    hashed = hashlib.sha256(repr(settings).encode())
    for split, rows in splits.items():
        hashed.update(f"{split} {len(rows)} {getattr(rows.items, '_fingerprint', '')}".encode())
        for number in _spread(len(rows)):
            with seeded(0, int(number)):
                image, label = rows[int(number)]
            pixels = np.asarray(image) if hasattr(image, "convert") else as_array(image, "an image")
            hashed.update(f"{label} {pixels.shape} {pixels.dtype}".encode() + np.ascontiguousarray(pixels).tobytes())
    return hashed.hexdigest()[:16]


class _Pictured(PictureData):
    """Pictures that a dataset holds."""

    def __init__(self, name: str, splits: Mapping[str, _Rows], classes: int, *, size: int, workers: int) -> None:
        super().__init__(name, classes, MEAN, STD, size=size, workers=workers)
        self.splits = splits

    @cached_property
    def fingerprint(self) -> str:
        """A hash of how many pictures there are, and of some of them."""
        return _fingerprint(self.splits, self.classes, self.size)

    def count(self, split: str) -> int:
        """How many pictures a split holds."""
        check_split(split)
        return len(self.splits[split])

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """The labels of a split."""
        return self.splits[split].labels

    def pictures(self, split: str) -> Items:
        """The pictures of a split in colour."""
        return _Coloured(self.splits[split])


@dataclass(frozen=True)
class _Coloured:
    """Pictures in colour."""

    rows: _Rows

    def __getitem__(self, number: int) -> tuple[Any, int]:
        picture, label = self.rows[number]
        return picture.convert("RGB"), label


class _Transformed(StreamedData):
    """Tensors that a dataset holds, or that transforms make of what it holds."""

    def __init__(self, name: str, splits: Mapping[str, _Rows], classes: int, workers: int) -> None:
        self.splits = splits
        raw = [self._plain("train", int(number)) for number in _spread(len(splits["train"]))]
        sizes = {image.shape for image in raw}
        if len(sizes) > 1:
            raise InvalidInput(
                f"Data {name!r}: images have several shapes, such as {' and '.join(map(str, sorted(sizes)[:2]))}. Give the dataset a "
                "transform that brings them to one size, or pictures instead of tensors."
            )
        sample = np.stack(raw)
        self.form = Form.of(sample, f"Data {name!r}: train_x")
        pixels = squared(torch.from_numpy(self.form(sample, "train_x")), "pad").numpy()
        mean, std = pixels.mean(axis=(0, 2, 3)) / 255.0, pixels.std(axis=(0, 2, 3)) / 255.0
        std[std == 0] = 1.0
        super().__init__(name, classes, tuple(mean.tolist()), tuple(std.tolist()), workers=workers)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of how many images there are, and of some of them."""
        return _fingerprint(self.splits, self.classes, self.form)

    def count(self, split: str) -> int:
        """How many images a split holds."""
        check_split(split)
        return len(self.splits[split])

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """The labels of a split."""
        return self.splits[split].labels

    def _plain(self, split: str, number: int) -> npt.NDArray[Any]:
        with seeded(0, number):
            return as_array(self.splits[split][number][0], "an image")

    def reader(self, split: str, seed: int) -> Dataset[Any]:
        """Reads images of a split, and brings them to 8 bits."""
        return _EightBits(self.splits[split], self.form, seed)


class _EightBits(Dataset[Any]):
    """One image at a time, by step and number."""

    def __init__(self, rows: _Rows, form: Form, seed: int) -> None:
        self.rows, self.form, self.seed = rows, form, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        step, number = key
        with seeded(*((0, number) if step < 0 else (self.seed, step, number))):
            image, label = self.rows[number]
        pixels = self.form(as_array(image, "an image")[None], "an image")
        return squared(torch.from_numpy(pixels), "pad")[0], label
