"""How good a network of the user's is: by labels, by what the whole network says, or by a metric of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..data._images import Data
from ..training._loop import moved
from ..training._teacher import classifies

_BATCH = 100
Metric = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Judge:
    """Judges networks on images that they were not trained on; larger is better.

    Attributes:
        data: the images.
        teacher: the whole network, which says what is right where labels do not.
        labelled: whether the labels of the data are classes of the network.
        metric: judges in place of all that.
    """

    data: Data
    teacher: nn.Module | None = None
    labelled: bool = True
    metric: Metric | None = None

    @property
    def name(self) -> str | None:
        """What is told of a network; ``None`` for the share of images whose labels it gets right."""
        if self.metric is not None:
            return str(getattr(self.metric, "__qualname__", type(self.metric).__name__))
        return None if self.labelled else "agreement with the whole network"

    def __call__(self, network: nn.Module, split: str) -> float:
        """The metric; or the share of the images of a split that are right.

        By the whole network, a network that is no classifier is as good as one less the squared error of its outputs, relative to their
        squares, and not below 0.
        """
        if self.metric is not None:
            with torch.no_grad():
                return float(self.metric(network))
        device = device_of(network)
        right = total = 0.0
        with torch.inference_mode():
            for x, y in self.data.batches(split, _BATCH):
                inputs = as_inputs(self.data.normalize(moved(x, device)))
                found = tensors(network(*inputs))
                if self.labelled:
                    right += float((found[0].argmax(1).cpu() == y.cpu()).sum())
                    total += len(y)
                    continue
                assert self.teacher is not None
                wanted = tensors(self.teacher(*moved(inputs, device_of(self.teacher))))
                if classifies(wanted):
                    right += float((found[0].argmax(1).cpu() == wanted[0].argmax(1).cpu()).sum())
                    total += len(wanted[0])
                else:
                    pairs = [(a.double().cpu(), b.double().cpu()) for a, b in zip(found, wanted, strict=True)]
                    scale = float(sum(b.square().sum() for _, b in pairs))
                    total += scale
                    right += scale - float(sum((a - b).square().sum() for a, b in pairs))
        return max(0.0, right / max(total, 1e-30))


def tensors(outputs: Any) -> list[torch.Tensor]:
    """The tensors among what a module returns."""
    return [each for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)]


def as_inputs(images: Any) -> tuple[torch.Tensor, ...]:
    """One tensor for each input."""
    return images if isinstance(images, tuple) else (images,)


def device_of(network: nn.Module) -> torch.device:
    """Where the weights of a network are."""
    return next((each.device for each in (*network.parameters(), *network.buffers())), torch.device("cpu"))
