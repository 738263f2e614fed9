"""Repair of a cut network without training: each layer is fitted by least squares to what the whole network computes there.

The whole and the cut network run side by side, operation after operation, on the same images. Where the cut network has a convolution or a
linear layer, its weights are replaced by those that bring its result closest to the whole network's (He, Zhang and Sun, Channel pruning for
accelerating very deep neural networks, 2017), given the inputs that the layers repaired before it produce. A batch norm after a layer that
was fitted keeps its statistics, since what it is given is as near as can be to what it was given before; new statistics would blow up what
least squares have shrunk. Other batch norms take the statistics of what they see.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from ._cut import Cut
from ._state import get
from .rules.base import base_name, bound, shape_of

_FITTED = ("conv1d", "conv2d", "linear")


@dataclass
class Normal:
    """The normal equations of a layer of some groups: sums over positions, in double precision.

    Attributes:
        xx: products of inputs, shape ``(groups, d, d)``.
        xy: products of inputs with wanted outputs, shape ``(groups, d, outputs)``.
        x: inputs, shape ``(groups, d)``.
        y: wanted outputs, shape ``(groups, outputs)``.
        n: how many positions.
    """

    xx: Any = 0.0
    xy: Any = 0.0
    x: Any = 0.0
    y: Any = 0.0
    n: int = 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add positions: inputs of shape ``(n, groups, d)`` and wanted outputs of shape ``(n, groups, outputs)``."""
        x, y = x.double().transpose(0, 1), y.double().transpose(0, 1)
        self.xx = self.xx + x.transpose(1, 2) @ x
        self.xy = self.xy + x.transpose(1, 2) @ y
        self.x, self.y, self.n = self.x + x.sum(1), self.y + y.sum(1), self.n + x.shape[1]

    def solve(self, weight: torch.Tensor, ridge: float, intercept: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights, shape ``(groups, outputs, d)``, and the intercept, shape ``(groups, outputs)``.

        Args:
            weight: where the ridge pulls to, of the same shape.
            ridge: its strength, relative to the mean square of the inputs.
            intercept: whether there may be one.
        """
        xx, xy = self.xx / self.n, self.xy / self.n
        x, y = self.x / self.n, self.y / self.n
        if intercept:
            xx = xx - x[:, :, None] * x[:, None, :]
            xy = xy - x[:, :, None] * y[:, None, :]
        before = weight.double().transpose(1, 2)
        scale = xx.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        system = xx + ridge * scale[:, None, None] * torch.eye(xx.shape[1], dtype=xx.dtype)
        found = before + torch.linalg.solve(system, xy - xx @ before)
        left = y - (x[:, None, :] @ found)[:, 0] if intercept else torch.zeros_like(y)
        return found.transpose(1, 2), left


def patches(call: dict[str, Any], name: str, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """What a layer multiplies by its weights at some positions: shape ``(positions, groups, d)``.

    Args:
        call: the layer's arguments by name, with the sizes of its weights.
        name: ``"conv1d"``, ``"conv2d"`` or ``"linear"``.
        x: its input.
        at: numbers of positions, those of one image after those of another.
    """
    if name == "linear":
        return x.reshape(-1, 1, x.shape[-1])[at]
    one = name == "conv1d"
    stride, padding, dilation = ((first, call[key][0]) if one else (call[key][0], call[key][-1]) for key, first in _SETTINGS)
    size = (1, *call["size"][2:]) if one else tuple(call["size"][2:])
    padded = F.pad(x.unsqueeze(2) if one else x, (padding[1], padding[1], padding[0], padding[0]))
    high, wide = ((padded.shape[2 + k] - dilation[k] * (size[k] - 1) - 1) // stride[k] + 1 for k in range(2))
    image, row, column = at // (high * wide), at // wide % high, at % wide
    rows = (row * stride[0])[:, None] + dilation[0] * torch.arange(size[0])
    columns = (column * stride[1])[:, None] + dilation[1] * torch.arange(size[1])
    taken = padded.permute(0, 2, 3, 1)[image[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2).reshape(len(at), call["groups"], -1)


_SETTINGS = (("stride", 1), ("padding", 0), ("dilation", 1))


def positions(name: str, y: torch.Tensor) -> torch.Tensor:
    """The result of a layer with one row for each position: shape ``(positions, channels)``."""
    return y.reshape(-1, y.shape[-1]) if name == "linear" else y.flatten(2).transpose(1, 2).reshape(-1, y.shape[1])


@dataclass
class Repair:
    """One repair of one cut network.

    Args:
        cut: what is removed; :meth:`run` builds the network.
        images: example inputs, one tensor for each input of the network, of any number of images.
        frozen: names of tensors that stay as they are.
        batch: images at once.
        ridge: strength of the pull towards the weights as they were, relative to the mean square of a layer's inputs.
        samples: positions to fit each layer on: at least so many, and at least so many for each input of a unit.
        statistics: whether batch norms that follow no fitted layer take the statistics of what they see.
        correct: whether a layer also makes up for what is lacking on the other side of a sum that its result goes into.
        sequential: whether a layer is fitted to the inputs that the layers repaired before it produce; if not, to those of the whole
            network, as if all layers were fitted at once. It is there to be compared with.
    """

    cut: Cut
    images: tuple[torch.Tensor, ...]
    frozen: Collection[str] = ()
    batch: int = 100
    ridge: float = 1e-4
    samples: tuple[int, int] = (40_000, 60)
    statistics: bool = True
    correct: bool = True
    sequential: bool = True

    def run(self) -> fx.GraphModule:
        """The repaired network."""
        network = self.cut.build()
        places = self.cut.places
        self.generator = torch.Generator().manual_seed(0)
        chunks = list(zip(*(_batches(each, self.batch) for each in self.images), strict=True))
        self.network, self.places = network, places
        self.old, self.new = Side(self.cut.network, chunks), Side(network, chunks)
        source = {fresh: node for node, fresh in reversed(places.items())}
        waiting = [node for node in network.graph.nodes if node.op != "output"]
        self.settled: set[fx.Node] = set()
        done: set[fx.Node] = set()
        with torch.no_grad():
            for node in self.cut.network.graph.nodes:
                if node.op == "output":
                    break
                self.old.step(node)
                done.add(node)
                while places.get(node) in waiting:
                    fresh = waiting.pop(0)
                    if fresh.op == "call_function" and fresh in source:
                        self._mend(source[fresh], fresh)
                    self.new.step(fresh)
                    done.add(fresh)
                self.old.forget(done)
                self.new.forget(done)
        return network

    def _mend(self, node: fx.Node, fresh: fx.Node) -> None:
        if not isinstance(node.target, torch._ops.OpOverload) or node.target is not fresh.target:
            return
        if base_name(node.target) in _FITTED:
            self._fit(node, fresh)
        elif base_name(node.target) == "batch_norm" and self.statistics and fresh not in self.settled:
            self._refresh(node, fresh)

    def _own(self, value: Any) -> bool:
        """Whether a node is a tensor of the network that one operation uses and that may change."""
        return isinstance(value, fx.Node) and value.op == "get_attr" and len(value.users) == 1 and str(value.target) not in self.frozen

    def _same(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether both networks have the same values there."""
        return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(self.old.values[a], self.new.values[b], strict=True))

    def _refresh(self, node: fx.Node, fresh: fx.Node) -> None:
        """Give a batch norm the statistics of its input, unless that is what the whole network has there."""
        call = bound(fresh)
        if not (self._own(call["running_mean"]) and self._own(call["running_var"])) or call["training"]:
            return
        kept = self.cut.index(node, 1)
        index = slice(None) if kept is None else torch.from_numpy(kept)
        pairs = zip(self.old.values[bound(node)["input"]], self.new.values[call["input"]], strict=True)
        if all(torch.allclose(x[:, index], y, rtol=1e-4, atol=1e-6) for x, y in pairs):
            return
        mean, variance = moments(self.new.values[call["input"]])
        get(self.network, str(call["running_mean"].target)).copy_(mean)
        get(self.network, str(call["running_var"].target)).copy_(variance)

    def _fit(self, node: fx.Node, fresh: fx.Node) -> None:
        """Fit a layer to what the whole network computes there."""
        name, call, before = base_name(node.target), bound(fresh), bound(node)
        if not self._own(call["weight"]) or self._same(before["input"], call["input"]) or isinstance(call.get("padding"), str):
            return
        weight, norm = get(self.network, str(call["weight"].target)), self._norm(fresh)
        if name != "linear" and len(shape_of(node)) != weight.ndim:
            return
        groups = call.get("groups", 1)
        intercept = self._own(call["bias"]) or norm is not None
        kept = self.cut.index(node, 1 if name != "linear" else len(shape_of(node)) - 1)
        call["size"] = weight.shape
        normal = Normal()
        wanted = self._wanted(node, fresh, kept, name)
        inputs = self.new.values[call["input"]] if self.sequential else self._picked(before["input"], 1 if name != "linear" else -1)
        total = sum(y.shape[0] for y in wanted)
        share = max(self.samples[0], self.samples[1] * weight[0].numel()) / total
        for x, y in zip(inputs, wanted, strict=True):
            at = (torch.rand(y.shape[0], generator=self.generator) < share).nonzero()[:, 0]
            normal.add(patches(call, name, x, at), y[at].reshape(len(at), groups, -1))
        if normal.n < 2:
            return
        found, left = normal.solve(weight.reshape(groups, weight.shape[0] // groups, -1), self.ridge, intercept)
        weight.copy_(found.reshape(weight.shape))
        if self._own(call["bias"]):
            get(self.network, str(call["bias"].target)).copy_(left.reshape(-1))
        elif norm is not None:
            get(self.network, str(norm["running_mean"].target)).sub_(left.reshape(-1))
        if norm is not None:
            self.settled.add(next(iter(fresh.users)))

    def _picked(self, node: fx.Node, dim: int) -> list[torch.Tensor]:
        """What the whole network has at a node, of the channels that are kept."""
        kept = self.cut.index(node, dim % len(shape_of(node)))
        return [x if kept is None else x.index_select(dim, torch.from_numpy(kept)) for x in self.old.values[node]]

    def _norm(self, fresh: fx.Node) -> dict[str, Any] | None:
        """The arguments of the batch norm that is all that reads a layer, where its statistics may change."""
        users = list(fresh.users)
        if len(users) != 1 or not isinstance(users[0].target, torch._ops.OpOverload) or base_name(users[0].target) != "batch_norm":
            return None
        call = bound(users[0])
        return call if self._own(call["running_mean"]) and not call["training"] else None

    def _wanted(self, node: fx.Node, fresh: fx.Node, kept: Any, name: str) -> list[torch.Tensor]:
        """What a layer should compute, with one row for each position.

        Where its result, after a batch norm, is added to something that is there already, what the other side lacks is wanted on top.
        """
        index = slice(None) if kept is None else torch.from_numpy(kept)
        wanted = [positions(name, y)[:, index] for y in self.old.values[node]]
        lacking = self._lacking(node, fresh) if self.correct and name == "conv2d" else None
        return wanted if lacking is None else [y + positions(name, more) for y, more in zip(wanted, lacking, strict=True)]

    def _lacking(self, node: fx.Node, fresh: fx.Node) -> list[torch.Tensor] | None:
        """How much the cut network lacks on the other side of a sum that a layer's result goes into; ``None`` if there is none."""
        scale, made = torch.ones(()), self.old.values[node]
        norm = self._norm(fresh)
        if norm is not None:
            node, fresh = next(iter(node.users)), next(iter(fresh.users))
            variance, epsilon = get(self.network, str(norm["running_var"].target)), norm["eps"]
            weight = get(self.network, str(norm["weight"].target)) if norm["weight"] is not None else torch.ones_like(variance)
            scale = (weight / torch.sqrt(variance + epsilon)).reshape(1, -1, 1, 1)
        if len(node.users) != 1 or len(fresh.users) != 1:
            return None
        end, new_end = next(iter(node.users)), next(iter(fresh.users))
        if self.places.get(end) is not new_end or end.target is not torch.ops.aten.add.Tensor or end.kwargs:
            return None
        sides = [[each for each in user.all_input_nodes if each is not mine] for user, mine in ((end, node), (new_end, fresh))]
        if [len(side) for side in sides] != [1, 1]:
            return None
        [[other], [new_other]] = sides
        if other not in self.old.values or new_other not in self.new.values:
            return None
        index = self.cut.index(end, 1)
        found = []
        for whole, x, y in zip(made, self.old.values[other], self.new.values[new_other], strict=True):
            if x.shape != whole.shape:
                return None
            x = x if index is None else x[:, torch.from_numpy(index)]
            if x.shape != y.shape:
                return None
            small = scale.abs() < 1e-3 * scale.abs().max()
            found.append(torch.where(small, 0.0, (x - y) / torch.where(small, 1.0, scale)))
        return found


def _batches(x: torch.Tensor, n: int) -> list[torch.Tensor]:
    return [x[start : start + n] for start in range(0, x.shape[0], n)]


def moments(chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel, in double precision."""
    total = sum(x.numel() // x.shape[1] for x in chunks)
    dims = [dim for dim in range(chunks[0].ndim) if dim != 1]
    mean = sum((x.double().sum(dims) for x in chunks), torch.zeros(())) / total
    square = sum((x.double().square().sum(dims) for x in chunks), torch.zeros(())) / total
    return mean, (square - mean.square()).clamp_min(0) * total / max(total - 1, 1)


class Side:
    """One of the two networks, with the values of all operations that are still needed.

    Args:
        network: the network.
        chunks: inputs, in several batches.
    """

    def __init__(self, network: fx.GraphModule, chunks: Sequence[tuple[torch.Tensor, ...]]) -> None:
        self.network, self.chunks = network, chunks
        self.values: dict[fx.Node, list[Any]] = {}
        self._inputs = 0
        order = {node: place for place, node in enumerate(network.graph.nodes)}
        self._last = {node: max(node.users, key=order.__getitem__, default=node) for node in network.graph.nodes}

    def step(self, node: fx.Node) -> None:
        """Compute one operation for all batches."""
        if node.op == "placeholder":
            self.values[node] = [chunk[self._inputs] if node.meta["given"] else None for chunk in self.chunks]
            self._inputs += node.meta["given"]
        elif node.op == "get_attr":
            self.values[node] = [get(self.network, str(node.target))] * len(self.chunks)
        else:
            target: Any = node.target
            self.values[node] = []
            for number in range(len(self.chunks)):
                known = {each: self.values[each][number] for each in node.all_input_nodes}
                args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
                self.values[node].append(target(*args, **kwargs))

    def forget(self, done: Collection[fx.Node]) -> None:
        """Drop the values of operations all of whose readers are done."""
        for node in [node for node in self.values if self._last[node] in done and self._last[node] is not node]:
            del self.values[node]
