"""What each unit adds to the results of the layers that read it: second moments over sampled points of feature maps.

A layer's result is a sum over its input channels. ``G[u, v]`` is the mean product, over points and output channels, of what unit ``u`` and
unit ``v`` add; so ``b' G b`` is the mean square of the result when unit ``u`` counts ``b[u]`` times. What is constant is left out, since a
bias or a batch norm behind the layer makes up for it. A group that several layers read has the sum of theirs, each in units of its own
result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from ...errors import InvalidInput
from ._evidence import Evidence
from ._folding import name_of
from ._normal import patches
from ._run import execute
from ._state import get
from .rules.base import bound, shape_of

POINTS = 10
"""Points of each feature map of each image (He, Zhang and Sun, ICCV'17, section 4)."""
_LAYERS = ("conv1d", "conv2d", "linear")


def responses(evidence: Evidence) -> dict[str, Any]:
    """The second moments ``G`` of what units add, by group, each of shape ``(width, width)``.

    Raises:
        InvalidInput: there are no images; it is a cut network that is to be looked at; or no layer that is a sum over the channels of a
            group reads them, such as a linear layer or a convolution in one group.
    """
    if evidence.images is None:
        raise InvalidInput("This importance looks at feature maps: give images.")
    if evidence.cut is not None:
        raise InvalidInput("This importance looks at the whole network only; leave out cut.")
    network = evidence.adopted.network
    layers = {node: _Layer(node, network) for node in network.graph.nodes if _sums(node)}
    generator = torch.Generator().manual_seed(0)

    def see(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node in layers:
            layers[node].add(args[0], generator)
        return NotImplemented

    for start in range(0, len(evidence.images[0]), evidence.batch):
        execute(network, tuple(each[start : start + evidence.batch] for each in evidence.images), compute=see)
    found = {group.id: np.zeros((group.width, group.width)) for group in evidence.groups}
    places = {unit: (group.id, place) for group in evidence.groups for place, unit in enumerate(group.units.tolist())}
    seen: set[str] = set()
    for node, layer in layers.items():
        for dim, units in evidence.units(bound(node)["input"]):
            if layer.n and dim == (1 if name_of(node) != "linear" else len(shape_of(node)) - 1):
                seen |= _spread(found, places, units, layer.products(len(units)))
    if unseen := [group.id for group in evidence.groups if group.id not in seen]:
        raise InvalidInput(
            f"No linear layer and no convolution of one or two dimensions in one group reads the channels of {', '.join(unseen)}, and this "
            "importance looks at what such layers are given. Choose another importance, such as 'taylor' or 'l1'."
        )
    return found


def _spread(found: dict[str, Any], places: dict[int, tuple[str, int]], units: Any, products: Any) -> set[str]:
    """Add the moments of one layer's channels to those of the groups that they belong to, and tell which groups these are."""
    total = float(products.sum())
    owners = [places.get(int(unit)) for unit in units]
    groups = {owner[0] for owner in owners if owner is not None}
    for group in groups:
        mine = [channel for channel, owner in enumerate(owners) if owner is not None and owner[0] == group]
        rows = [owner[1] for owner in owners if owner is not None and owner[0] == group]
        np.add.at(found[group], np.ix_(rows, rows), products[np.ix_(mine, mine)] / max(total, 1e-30))
    return groups


def _sums(node: fx.Node) -> bool:
    """Whether a node is a layer in one group whose weights belong to the network."""
    if node.op != "call_function" or name_of(node) not in _LAYERS:
        return False
    call = bound(node)
    own = isinstance(call["weight"], fx.Node) and call["weight"].op == "get_attr"
    return own and call.get("groups", 1) == 1 and not isinstance(call.get("padding"), str)


class _Layer:
    """Second moments of what one layer multiplies by its weights, at sampled points.

    Args:
        node: the layer.
        network: that it is in.
    """

    def __init__(self, node: fx.Node, network: fx.GraphModule) -> None:
        self.name, self.call = name_of(node), bound(node)
        weight = get(network, str(self.call["weight"].target)).detach()
        self.call["size"] = weight.shape
        self.weight = weight.reshape(len(weight), -1).double()
        self.positions = int(np.prod(shape_of(node)[2:])) if self.name != "linear" else int(np.prod(shape_of(node)[1:-1]))
        self.xx: Any = 0.0
        self.x: Any = 0.0
        self.n = 0

    def add(self, x: torch.Tensor, generator: torch.Generator) -> None:
        """Add points of some images, drawn at random."""
        points = min(POINTS, self.positions)
        drawn = torch.rand(len(x), self.positions, generator=generator).argsort(dim=1)[:, :points]
        at = (drawn + self.positions * torch.arange(len(x))[:, None]).flatten()
        rows = patches({"groups": 1, **self.call}, str(self.name), x.detach(), at)[:, 0].double()
        self.xx, self.x, self.n = self.xx + rows.T @ rows, self.x + rows.sum(0), self.n + len(rows)

    def products(self, channels: int) -> Any:
        """The mean products of what its input channels add, shape ``(channels, channels)``."""
        mean = self.x / self.n
        both = (self.xx / self.n - torch.outer(mean, mean)) * (self.weight.T @ self.weight)
        taps = len(both) // channels
        return both.reshape(channels, taps, channels, taps).sum(dim=(1, 3)).numpy()
