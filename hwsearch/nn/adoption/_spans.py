"""Where the images of a batch lie in the values of a network: on the first axis of most, but not of all.

Attention of PyTorch, for example, puts tokens first and images second, and joins images with heads or tokens with images on one axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from ._run import execute
from .rules.base import shape_of

if TYPE_CHECKING:
    from ._adopted import Adopted


@dataclass(frozen=True)
class Span:
    """The images of a batch in one value.

    Attributes:
        axis: along which they lie.
        per: how many places of this axis an image has.
        outer: whether those of an image stand together; otherwise the images take turns.
    """

    axis: int = 0
    per: int = 1
    outer: bool = True

    @property
    def usual(self) -> bool:
        """Whether each image is one place of the first axis."""
        return self == Span()

    def first(self, value: torch.Tensor, images: int) -> torch.Tensor:
        """The same values with the images on a new first axis, before all others."""
        apart: torch.Tensor = value.unflatten(self.axis, (images, -1) if self.outer else (-1, images))
        return apart.movedim(self.axis + (not self.outer), 0)

    def of_one(self, along: Any, images: int) -> Any:
        """What lies along the axis for one image, where it is known for all."""
        return along[: len(along) // images] if self.outer else along[::images]

    def of_all(self, along: torch.Tensor, images: int) -> torch.Tensor:
        """What lies along the axis for all images, where it is known for one."""
        return along.repeat(images) if self.outer else along.repeat_interleave(images)


def find_spans(adopted: Adopted) -> dict[fx.Node, Span]:
    """The place of the images in each value; what does not grow with their number has none.

    Axes are told by running one image more than the network was captured with; whose places are whose, by running the first image beside
    others than before. For networks that take batches of one size the first axis is taken for that of the images.
    """
    network, given = adopted.network, adopted.inputs
    if not adopted.dynamic:
        return {node: Span() for node in network.graph.nodes}
    n = len(given[0])
    found: dict[fx.Node, Span] = {}
    joint: dict[fx.Node, torch.Tensor] = {}

    def grow(node: fx.Node, value: Any) -> Any:
        for axis, size in enumerate(shape_of(node) if isinstance(value, torch.Tensor) else ()):
            if size and value.shape[axis] * n == size * (n + 1):
                found[node] = Span(axis, size // n)
                break
        return value

    def keep(node: fx.Node, value: Any) -> Any:
        if node in found and found[node].per > 1:
            joint[node] = value
        return value

    def compare(node: fx.Node, value: Any) -> Any:
        if node in joint:
            axis, per = found[node].axis, found[node].per
            apart = (joint.pop(node).double() - value.double()).abs().movedim(axis, 0).flatten(1).amax(1)
            found[node] = Span(axis, per, bool(apart[:per].amax() <= apart[::n].amax()))
        return value

    execute(network, tuple(torch.cat([each, each[:1]]) for each in given), after=grow)
    if any(span.per > 1 for span in found.values()):
        execute(network, given, after=keep)
        execute(network, tuple(torch.cat([each[:1], each[1:].flip(-1)]) for each in given), after=compare)
    return found
