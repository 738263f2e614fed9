"""Layers as products of smaller ones: which factors of a layer stay apart, and which become one layer again.

:func:`hwsearch.nn.adoption.low_rank` writes a layer as two or three without anything in between. The channels between them, the ranks of
the layer, are a group like any other: it is cut, proven, repaired and priced as widths are. Where it keeps all of its units the two factors
beside it are one layer again, so that the largest value of the gene stands for the layer as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

import torch
from torch import fx

from .rules.base import bound

MARK = ".factors."
"""Stands in the names of the weights of factors: ``"layer.factors.0.weight"``."""


@dataclass(frozen=True)
class Factors:
    """A layer that is a product of others.

    Attributes:
        name: of the layer; empty for the network itself.
        nodes: the operations, in order.
        weights: the names of their weights.
        ranks: the groups between them.
        full: how many units each of these has.
        taps: the sizes of the kernels; empty for linear layers.
    """

    name: str
    nodes: tuple[str, ...]
    weights: tuple[str, ...]
    ranks: tuple[str, ...]
    full: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]

    def first(self, last: int, off: Collection[str]) -> int | None:
        """The first factor of the layer that ends with the one of number ``last``; ``None`` if the layer goes on after it.

        Args:
            last: the number.
            off: the ranks that are off, so that the factors beside them are one layer.
        """
        if last < len(self.ranks) and self.ranks[last] in off:
            return None
        while last and self.ranks[last - 1] in off:
            last -= 1
        return last

    def joint(self, first: int, last: int) -> tuple[int, ...]:
        """The size of the kernel of the layer that some factors make."""
        return tuple(prod(sizes) for sizes in zip(*self.taps[first : last + 1], strict=True))

    def named(self, first: int, last: int) -> str:
        """What the layer that some factors make is called."""
        whole = first == 0 and last == len(self.ranks)
        return self.name if whole else self.weights[last].removesuffix(".weight")

    def states(self) -> Iterator[frozenset[str]]:
        """All sets of ranks that may be off."""
        for number in range(len(self.ranks) + 1):
            yield from map(frozenset, combinations(self.ranks, number))


def composed(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """The weight of the layer that does what several do one after the other, the first one first.

    Of two convolutions only one has a kernel larger than 1 along any axis.
    """
    found = weights[0].double()
    for each in weights[1:]:
        after = each.double()
        if found.ndim == 2:
            found = after @ found
        else:
            found = torch.einsum("orab,ricd->oiacbd", after, found)
            found = found.reshape(*found.shape[:2], found.shape[2] * found.shape[3], found.shape[4] * found.shape[5])
    return found.to(weights[0].dtype).contiguous()


def arguments(nodes: Sequence[fx.Node]) -> dict[str, list[int]]:
    """Stride, padding and dilation of the convolution that does what several do one after the other; nothing for linear layers."""
    given = [bound(node) for node in nodes]
    if "stride" not in given[0]:
        return {}
    pairs = {key: [list(each[key]) for each in given] for key in ("stride", "padding", "dilation")}
    return {
        "stride": [prod(sizes) for sizes in zip(*pairs["stride"], strict=True)],
        "padding": [sum(sizes) for sizes in zip(*pairs["padding"], strict=True)],
        "dilation": [max(sizes) for sizes in zip(*pairs["dilation"], strict=True)],
    }
