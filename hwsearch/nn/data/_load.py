"""Images by their names: scikit-learn's digits, CIFAR-10 through torchvision, or a folder of image files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..._files._writing import PathLike
from ...errors import FileError, InvalidInput, UnknownName, require
from ._arrays import make_data
from ._folder import folder_data
from ._images import Data, DataLike
from ._vision import import_torchvision


def load_data(data: DataLike, folder: PathLike | None = None) -> Data:
    """The images of that name; a :class:`Data` is returned as it is.

    Args:
        data: ``"digits"`` (1,797 scanned digits of 8x8 px that come with scikit-learn), ``"cifar10"``, ``"imagefolder"``, or a name with
            its folder as one tuple; or a folder, which is what it looks like. Your own images become a :class:`Data` by
            :func:`make_data`.
        folder: where the files are: for ``"cifar10"`` the folder that holds ``cifar-10-batches-py``, for ``"imagefolder"`` the one that
            holds ``train`` and ``val`` (see :func:`folder_data`).

    Raises:
        UnknownName: there are no images of that name.
        InvalidInput: neither of these, such as arrays or a torch ``DataLoader``.
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
    given: Any = data if isinstance(data, tuple) else (data, folder)
    match given:
        case (str() | os.PathLike() as place, str() | os.PathLike() | None as folder):
            name = os.fspath(place)
        case _:
            raise InvalidInput(
                f"data must be a name such as 'digits', a folder, a name with its folder, or a hwsearch.nn.Data, not "
                f"{type(data).__name__}. Give your own arrays or tensors a name: "
                "hwsearch.nn.make_data('mine', (images, labels), (images, labels), (images, labels)), for training, validation and test. "
                "Images of other kinds, as in a DataLoader, need a class of Data of their own."
            )
    if name not in _LOADERS and folder is None and os.path.isdir(name):
        name, folder = ("cifar10" if os.path.isdir(Path(name) / "cifar-10-batches-py") else "imagefolder"), name
    if name not in _LOADERS and isinstance(data, os.PathLike):
        raise FileError(f"There is no folder {name}.")
    if name not in _LOADERS:
        raise UnknownName("data", name, _LOADERS)
    return _LOADERS[name](None if folder is None else Path(folder).expanduser())


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
    if folder is None:
        raise InvalidInput("imagefolder needs the folder that holds 'train' and 'val': load_data('imagefolder', folder).")
    return folder_data(folder)


_LOADERS: dict[str, Callable[[PathLike | None], Data]] = {"digits": _digits, "cifar10": _cifar10, "imagefolder": _imagefolder}
