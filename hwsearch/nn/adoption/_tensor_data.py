"""Inputs of a network of the user's that are held in memory, with targets or without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...errors import InvalidInput
from ..data._images import Data, Normalize, Share, check_split
from ._examples import Examples, gathered, opened

_LEAST = 10
"""Fewer inputs cannot be divided into images to train, to choose and to judge on."""


@dataclass(frozen=True)
class _AsTheyAre(Normalize):
    """Leaves inputs as they are."""

    def __call__(self, images: Any) -> Any:
        """The same."""
        return images


@dataclass(frozen=True, eq=False)
class TensorData(Data):
    """Inputs as a network takes them, drawn into three splits: 80 % to train, 10 % to choose and 10 % to judge on.

    Attributes:
        inputs: one tensor for each input of the network, shapes ``(n, ...)``.
        targets: one for each image, first axis ``n``; ``None`` without.
    """

    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor | None = None
    name: str = "tensors"

    def __post_init__(self) -> None:
        count = len(self.inputs[0])
        if count < _LEAST:
            raise InvalidInput(f"The data holds {count} images; at least {_LEAST} are needed, to train, to choose and to judge on.")
        whole = self.targets is not None and self.targets.ndim == 1 and not self.targets.is_floating_point()
        classes = int(self.targets.max()) + 1 if whole and self.targets is not None else 0
        vars(self).update(mean=(), std=(), classes=classes)

    @property
    def normalize(self) -> Normalize:
        """Leaves inputs as they are."""
        return _AsTheyAre((), ())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all inputs and targets."""
        hashed = hashlib.sha256()
        for each in (*self.inputs, *([] if self.targets is None else [self.targets])):
            hashed.update(f"{each.dtype} {tuple(each.shape)}".encode())
            hashed.update(each.detach().cpu().contiguous().numpy().tobytes())
        return hashed.hexdigest()[:16]

    @cached_property
    def _index(self) -> dict[str, Any]:
        count = len(self.inputs[0])
        order, held = np.random.default_rng(0x7E45).permutation(count), count // 10
        return {"test": order[:held], "val": order[held : 2 * held], "train": order[2 * held :]}

    def _taken(self, index: Any) -> tuple[Any, torch.Tensor]:
        at = torch.from_numpy(np.ascontiguousarray(index))
        inputs = tuple(each[at] for each in self.inputs)
        return inputs, torch.zeros(len(at), dtype=torch.int64) if self.targets is None else self.targets[at]

    def count(self, split: str) -> int:
        """How many images a split holds."""
        check_split(split)
        return len(self._index[split])

    def batches(self, split: str, batch: int, most: int | None = None) -> Iterator[Any]:
        """The images of a split in their order: a tensor for each input, and targets."""
        check_split(split)
        index = self._index[split][:most]
        for start in range(0, len(index), batch):
            yield self._taken(index[start : start + batch])

    def training(self, shares: Iterable[Share], seed: int) -> Iterator[Any]:
        """Training images as they are, one batch a share."""
        for _, _, index in shares:
            yield self._taken(self._index["train"][index])

    def calibration_images(self, seed: int) -> Any:
        """Up to 512 training images drawn at random, a tensor for each input."""
        order = np.random.default_rng([seed, 0xCA11]).permutation(self.count("train"))
        return self._taken(self._index["train"][order[:512]])[0]


def as_data(data: Examples, sizes: Sequence[Sequence[int]]) -> Data:
    """Images with splits, of whatever a user has them in.

    Args:
        data: as :func:`hwsearch.finish` takes it.
        sizes: of the inputs of the network, without the axis of images; empty ones where they are not known.

    Raises:
        InvalidInput: there are too few images, or a batch holds other numbers of tensors.
    """
    found = opened(data, sizes)
    return found if isinstance(found, Data) else TensorData(*gathered(found, len(sizes), None))
