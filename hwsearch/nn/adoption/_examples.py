"""Images for a network, from whatever a user has them in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...errors import InvalidInput
from ..data._images import Data
from ..data._load import is_dataset, load_data
from ..data._streamed import PictureData

if TYPE_CHECKING:
    from ._adopted import Adopted

_ITEMS = 100
"""Items of a dataset at once."""
Examples = str | os.PathLike[str] | tuple[str, Any] | Data | torch.Tensor | Iterable[Any]
"""Images: what :func:`hwsearch.nn.load_data` takes, a tensor, a tuple of tensors (inputs, and perhaps targets), or an iterable of batches
such as a PyTorch ``DataLoader``."""


def examples(space: Adopted, data: Examples, most: int, *, held_out: bool = False) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
    """Inputs of an adopted network, and targets where there are some.

    Args:
        space: the network.
        data: a tensor with all images, or a tuple of one tensor for each input, perhaps with the targets last; or an iterable of batches,
            each such a tensor, tuple or list; or images as :func:`hwsearch.nn.load_data` knows them, which are normalised by their own mean
            and deviation.
        most: how many images to take at most.
        held_out: whether to take validation images, if the data has splits; otherwise they are training images, drawn at random.

    Returns:
        A tensor for each input, and the targets, or ``None``.

    Raises:
        InvalidInput: there are no images, or they do not fit the network.
    """
    given: Any = opened(data, [each.shape[1:] for each in space.inputs])
    if isinstance(given, Data):
        normalize, batches = given.normalize, given.batches("val", most, most) if held_out else _drawn(given, most)
        given = ((normalize(x), y) for x, y in batches)
    together, targets = gathered(given, len(space.inputs), most)
    return space.checked(together), targets


def gathered(data: Any, n: int, most: int | None) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
    """What batches hold, put together.

    Args:
        data: an iterable of batches, each a tensor of inputs, or tensors in tuples, lists and dicts: one for each input, perhaps with the
            targets last. A tensor, or a tuple of tensors, is one batch. Of a torch ``Dataset`` the items are put together, in random order.
        n: how many inputs there are.
        most: how many images to take at most; all if ``None``.

    Returns:
        A tensor for each input, and the targets, or ``None``.

    Raises:
        InvalidInput: there are no images, or a batch holds another number of tensors, or tensors of different numbers of images.
    """
    batches: Iterable[Any] = [data] if _is_batch(data) else _collated(data) if _has_items(data) else data
    inputs: list[list[torch.Tensor]] = []
    targets: list[torch.Tensor] = []
    taken = 0
    for batch in batches:
        parts = [each for each in torch.utils._pytree.tree_leaves(batch) if isinstance(each, torch.Tensor)]
        if len(parts) not in (n, n + 1):
            raise InvalidInput(
                f"A batch of the data holds {len(parts)} tensors; {n} inputs were expected, perhaps with targets after them."
            )
        if len({each.shape[:1] for each in parts}) != 1:
            sizes = [tuple(each.shape) for each in parts]
            raise InvalidInput(f"The first axis of all tensors of a batch counts its images, but their shapes are {sizes}.")
        inputs.append(parts[:n])
        targets += parts[n:]
        taken += len(parts[0])
        if most is not None and taken >= most:
            break
    if not taken:
        raise InvalidInput("The data holds no images.")
    together = tuple(torch.cat(each)[:most].contiguous() for each in zip(*inputs, strict=True))
    return together, torch.cat(targets)[:most] if len(targets) == len(inputs) else None


def opened(data: Any, sizes: Sequence[Sequence[int]]) -> Any:
    """Images with splits for training and validation, if that is what the data is; all else as it is.

    Splits have all that :func:`hwsearch.nn.load_data` knows by a name, a folder or the names of splits, and datasets of pictures.

    Args:
        data: whatever a user has images in.
        sizes: of the inputs of the network. Pictures are brought to the size of the only one, where that is square.

    Returns:
        A :class:`Data`, or what was given.
    """
    named = isinstance(data, str | os.PathLike) or (isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], str))
    if isinstance(data, Data) or not (named or (isinstance(data, Mapping) and "train" in data) or _holds_pictures(data)):
        return data
    found = load_data(data)
    if isinstance(found, PictureData) and len(sizes) == 1 and len(sizes[0]) == 3 and sizes[0][1] == sizes[0][2]:
        return found.at(sizes[0][1])
    return found


def _holds_pictures(data: Any) -> bool:
    """Whether this is a dataset whose items hold pictures, which nothing has made tensors of."""
    held: Any = data.dataset if isinstance(data, DataLoader) else data
    if not is_dataset(held) or isinstance(held, IterableDataset) or not len(held):
        return False
    item = held[0]
    parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, tuple | list) else [item]
    return any(hasattr(each, "convert") for each in parts)


def _is_batch(data: Any) -> bool:
    """Whether this is one batch, and no iterable of batches."""
    return isinstance(data, torch.Tensor) or (isinstance(data, tuple) and all(isinstance(each, torch.Tensor) for each in data))


def _has_items(data: Any) -> bool:
    """Whether this is a dataset of single images."""
    return is_dataset(data) and not isinstance(data, DataLoader | IterableDataset)


def _collated(data: Dataset[Any]) -> Iterable[Any]:
    """The items of a dataset in batches, in a random order that is always the same: many list one class after the other."""
    return DataLoader(data, batch_size=_ITEMS, shuffle=True, generator=torch.Generator().manual_seed(0))


def _drawn(data: Data, most: int) -> Iterable[tuple[torch.Tensor, None]]:
    """Training images drawn at random, without their labels, until there are enough of them or all have been drawn about once."""
    enough = min(most, data.count("train"))
    taken = 0
    for seed in count():
        images = data.calibration_images(seed)
        yield images, None
        taken += len(images)
        if taken >= enough:
            return
