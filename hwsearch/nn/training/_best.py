"""The best result of a training so far, as it was judged after each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...errors import CorruptFile

_PREFIX = "best."
Tensors = dict[str, torch.Tensor]


@dataclass
class Best:
    """What was judged, and the best of it.

    Attributes:
        curve: how good the result was after how many steps; larger is better.
        tensors: the result where it was best, of equals the later one; empty where nothing was judged.
    """

    curve: dict[int, float] = field(default_factory=dict)
    tensors: Tensors = field(default_factory=dict)

    def look(self, step: int, value: float, tensors: Mapping[str, torch.Tensor]) -> None:
        """Note how good a result is, and copy it if none before was better."""
        if value >= max((each for each in self.curve.values() if not math.isnan(each)), default=-math.inf):
            self.tensors = {name: each.detach().clone() for name, each in tensors.items()}
        self.curve[step] = value

    def put(self, into: Mapping[str, torch.Tensor]) -> None:
        """Copy the best result into these tensors, if there is one."""
        for name, each in self.tensors.items():
            into[name].copy_(each)

    @property
    def named(self) -> Tensors:
        """The best result under the names that it has in a file."""
        return {f"{_PREFIX}{name}": each for name, each in self.tensors.items()}

    @property
    def document(self) -> list[list[float]]:
        """The curve as JSON data."""
        return [[step, value] for step, value in self.curve.items() if math.isfinite(value)]

    @classmethod
    def read(cls, tensors: Mapping[str, torch.Tensor], curve: Sequence[Any], like: Mapping[str, torch.Tensor]) -> Best:
        """From the tensors and the curve of a file.

        Args:
            tensors: all of the file.
            curve: as :attr:`document`.
            like: the result whose names and shapes the best one must have.

        Raises:
            CorruptFile: it has others.
        """
        found = {name.removeprefix(_PREFIX): each for name, each in tensors.items() if name.startswith(_PREFIX)}
        if found and {name: each.shape for name, each in found.items()} != {name: each.shape for name, each in like.items()}:
            raise CorruptFile("its best weights are not those of the network.")
        found = {name: each.to(like[name].device) for name, each in found.items()}
        return cls({int(step): float(value) for step, value in curve}, found)
