"""Images by their names (scikit-learn's digits, CIFAR-10 through torchvision, a folder of image files, a function), or as objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..._files._writing import PathLike
from ...errors import FileError, InvalidInput, UnknownName, require
from ._arrays import make_data
from ._datasets import dataset_data
from ._folder import folder_data
from ._images import Data, DataLike
from ._named import function_of
from ._vision import import_torchvision


def load_data(data: DataLike, folder: PathLike | None = None) -> Data:
    """Images, whatever they come from; a :class:`Data` is returned as it is.

    Args:
        data: ``"digits"`` (1,797 scanned digits of 8x8 px that come with scikit-learn), ``"cifar10"``, ``"imagefolder"``, or a name with
            its folder as one tuple; or a folder, which is what is in it, shards included. ``"imagefolder:size=64,channels=1"`` takes the
            pictures of a folder at 64 px instead of 224, and grey. Or ``"MODULE:FUNCTION"`` or ``"FILE.py:FUNCTION"``, which returns any
            of these.
            Images and labels as two arrays or tensors, as :func:`make_data` takes them; a torch ``Dataset`` or ``DataLoader``, or a
            dataset of Hugging Face, as :func:`dataset_data` does; or two or three of these, for training, validation and test, as a tuple
            or by these names (``"train"``, ``"val"`` or ``"validation"``, ``"test"``).
        folder: where the files are: for ``"cifar10"`` the folder that holds ``cifar-10-batches-py``, for ``"imagefolder"`` the one that
            holds ``train`` and ``val``, or shards ``train*.tar`` (see :func:`folder_data`). A function is called with it.

    Raises:
        UnknownName: there are no images of that name, or there is no such function.
        InvalidInput: none of these.
        FileError: the folder lacks the files.
        MissingDependency: scikit-learn or torchvision is not installed.

    Example:
        >>> from hwsearch.nn import load_data
        >>> data = load_data("digits")
        >>> data.classes, data.count("train"), data.count("test")
        (10, 1077, 360)
    """
    if isinstance(data, Data):
        return data
    given: Any = data
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], str | os.PathLike):
        given, folder = given
    if not isinstance(given, str | os.PathLike):
        return _of_objects(given)
    name = os.fspath(given)
    if name not in _LOADERS and folder is None and os.path.isdir(name):
        name, folder = ("cifar10" if os.path.isdir(Path(name) / "cifar-10-batches-py") else "imagefolder"), name
    if name not in _LOADERS and name.lower().endswith(".tar"):
        raise InvalidInput(f"Data {name!r}: give the folder of the shards, whose names say of which split they are: train*.tar, val*.tar.")
    if name not in _LOADERS and isinstance(given, os.PathLike):
        raise FileError(f"There is no folder {name}.")
    if folder is not None and name.startswith("imagefolder:"):
        told = _numbers(name)
        return folder_data(Path(folder).expanduser(), size=told.get("size", 224), channels=told.get("channels", 3))
    if name not in _LOADERS and ":" in name:
        return load_data(function_of(name)(*(() if folder is None else (folder,))))
    if name not in _LOADERS:
        raise UnknownName("data", name, [*_LOADERS, "MODULE:FUNCTION", "a folder that exists"])
    return _LOADERS[name](None if folder is None else Path(folder).expanduser())


def _numbers(name: str) -> dict[str, int]:
    """The options in the name of a folder's data.

    Raises:
        InvalidInput: they are written otherwise than ``imagefolder:size=64,channels=1``.
    """
    told = {option: number for option, _, number in (text.partition("=") for text in name.partition(":")[2].split(","))}
    if not set(told) <= {"size", "channels"} or not all(number.isdecimal() for number in told.values()):
        raise InvalidInput(f"Data {name!r}: after the colon size and channels are told, as in imagefolder:size=64,channels=1.")
    return {option: int(number) for option, number in told.items()}


def _of_objects(given: Any) -> Data:
    """The images in arrays, datasets or loaders.

    Raises:
        InvalidInput: there are none.
    """
    if isinstance(given, Mapping) and "train" in given:
        splits = [given["train"], next((given[name] for name in _VAL if name in given), None), given.get("test")]
    elif isinstance(given, tuple | list) and 2 <= len(given) <= 3 and all(_is_pair(each) or is_dataset(each) for each in given):
        splits = [*given, None][:3]
    else:
        splits = [given, None, None]
    there = [each for each in splits if each is not None]
    if there and all(map(_is_pair, there)):
        pairs: Any = splits
        return make_data("mine", *pairs)
    if there and all(map(is_dataset, there)):
        return dataset_data("mine", splits)
    raise InvalidInput(
        "data must be a name such as 'digits', a folder, a name with its folder, a hwsearch.nn.Data, images with labels, a torch Dataset "
        f"or DataLoader, or a dataset of Hugging Face, not {type(given).__name__}. Images and labels that are held in memory: "
        "hwsearch.nn.make_data('mine', (images, labels), (images, labels), (images, labels)), for training, validation and test. "
        "Images of other kinds need a class of Data of their own."
    )


def _is_pair(given: Any) -> bool:
    """Whether these are images and labels."""
    return isinstance(given, tuple | list) and len(given) == 2 and all(len(getattr(each, "shape", ())) > 0 for each in given)


def is_dataset(given: Any) -> bool:
    """Whether this holds images by their numbers, or loads them."""
    if isinstance(given, Dataset | DataLoader):
        return True
    return hasattr(given, "column_names") and hasattr(given, "__getitem__") and hasattr(given, "__len__")


def _digits(folder: PathLike | None) -> Data:
    """Scanned digits (Alpaydin and Kaynak 1998), 1,077 to train, 360 to validate and 360 to test, stratified."""
    if folder is not None:
        raise InvalidInput(
            "The digits come with scikit-learn and need no folder. For images of your own give their folder as data, in the shell: "
            f"--data {os.fspath(folder)}."
        )
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
        raise InvalidInput("cifar10 needs the folder that holds 'cifar-10-batches-py': ('cifar10', FOLDER), or --data cifar10 FOLDER.")
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
    """A folder of image files or shards, read from disk as they are needed."""
    if folder is None:
        raise InvalidInput(
            "imagefolder needs the folder that holds 'train' and 'val': ('imagefolder', FOLDER), or --data imagefolder FOLDER."
        )
    return folder_data(folder)


_LOADERS: dict[str, Callable[[PathLike | None], Data]] = {"digits": _digits, "cifar10": _cifar10, "imagefolder": _imagefolder}
_VAL = ("val", "validation", "valid")
"""What people call the images on which networks are compared."""
