"""Repair of a cut network without training: each layer is fitted by least squares to what the whole network computes there.

The whole and the cut network run side by side, operation after operation, on the same images. Where the cut network has a convolution or a
linear layer, its weights are replaced by those that bring its result closest to the whole network's (He, Zhang and Sun, Channel pruning for
accelerating very deep neural networks, 2017), given the inputs that the layers repaired before it produce. A batch norm after a layer that
was fitted keeps its statistics, since what it is given is as near as can be to what it was given before; new statistics would blow up what
least squares have shrunk. Other batch norms take the statistics of what they see. Where a rectifier follows, values that it does not pass
count as right as long as they stay below zero; the layer is then fitted again to what is left (Zhang, Zou, He and Sun, Accelerating very
deep convolutional networks, 2016). At last the scales and shifts of all channels are fitted together (``_tuning``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ._cut import Cut
from ._normal import Normal, patches, positions
from ._state import get
from ._together import Together, pieces
from ._tuning import Examples, affordable, tune
from .rules.base import base_name, bound, shape_of

_FITTED = ("conv1d", "conv2d", "linear")
_MEMORY = 2**29
"""Bytes of a layer's inputs that are kept from one round to the next; more are gathered anew."""


@dataclass(frozen=True)
class Aim:
    """What a layer should compute for some images, with one row for each position.

    Attributes:
        wanted: its result.
        idle: the result at which a rectifier that follows begins to pass; ``None`` where none follows.
        sign: on which side of that it passes, for each channel; 0 where it makes no difference.
    """

    wanted: torch.Tensor
    idle: torch.Tensor | None = None
    sign: torch.Tensor | None = None

    def at(self, rows: torch.Tensor, groups: int) -> Aim:
        """The same at some positions, shape ``(positions, groups, channels of a group)``."""
        wanted, idle = (None if each is None else each[rows].reshape(len(rows), groups, -1) for each in (self.wanted, self.idle))
        assert wanted is not None
        return Aim(wanted, idle, None if self.sign is None else self.sign.reshape(groups, -1))

    def part(self, start: int, stop: int) -> Aim:
        """The same at positions that follow one another."""
        return Aim(self.wanted[start:stop], None if self.idle is None else self.idle[start:stop], self.sign)

    def beside(self, made: torch.Tensor) -> torch.Tensor:
        """What to want of a layer that gives ``made``: where a rectifier passes nothing, how far below is all the same."""
        if self.idle is None or self.sign is None:
            return self.wanted
        silent = torch.where((made - self.idle) * self.sign < 0, made, self.idle)
        return torch.where((self.wanted - self.idle) * self.sign < 0, silent, self.wanted)


@dataclass
class Repair:
    """One repair of one cut network.

    Args:
        cut: what is removed; :meth:`run` builds the network.
        images: example inputs, one tensor for each input of the network, of any number of images.
        frozen: names of tensors that stay as they are.
        batch: images at once.
        dynamic: whether the network takes fewer at once too.
        ridge: strength of the pull towards the weights as they were, relative to the mean square of a layer's inputs.
        samples: positions to fit each layer on: at least this many, and at least this many for each input of a unit.
        statistics: whether batch norms that follow no fitted layer take the statistics of what they see.
        correct: whether a layer also makes up for what is lacking on the other side of a sum that its result goes into.
        sequential: whether a layer is fitted to the inputs that the layers repaired before it produce; if not, to those of the whole
            network, as if all layers were fitted at once. It is there to be compared with.
        rounds: how often a layer before a rectifier is fitted again, where what the rectifier does not pass is left out.
        tuned: whether the scales and shifts of all channels are fitted together in the end.
        epochs: how often the images are looked at where layers that follow one another descend together (``_together``); 0 leaves it at
            least squares in closed form.
    """

    cut: Cut
    images: tuple[torch.Tensor, ...]
    frozen: Collection[str] = ()
    batch: int = 100
    dynamic: bool = True
    ridge: float = 1e-4
    samples: tuple[int, int] = (40_000, 60)
    statistics: bool = True
    correct: bool = True
    sequential: bool = True
    rounds: int = 3
    tuned: bool = True
    epochs: int = 0

    def run(self) -> fx.GraphModule:
        """The repaired network."""
        network = self.cut.build()
        places = self.cut.places
        self.generator = torch.Generator().manual_seed(0)
        chunks = list(zip(*(_batches(each, self.batch) for each in self.images), strict=True))
        self.network, self.places = network, places
        self.old, self.new = Side(self.cut.network, chunks), Side(network, chunks)
        for end in self.cut.ends:
            self.old.keep({self.cut.source(end): end})
        self.pieces = pieces(network, _FITTED) if self.epochs else {}
        self.new.keep({piece.entry: last for last, piece in self.pieces.items()})
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
        ends = [each for each in torch.utils._pytree.tree_leaves(self.cut.network.graph.output_node().args) if isinstance(each, fx.Node)]
        wanted = [self.old.values[each] for each in ends if isinstance(self.old.values[each][0], torch.Tensor)]
        if self.tuned and all(_rows(y) == len(chunk[0]) for each in wanted for y, chunk in zip(each, chunks, strict=True)):
            examples = Examples(self.images, tuple(torch.cat(each) for each in wanted))
            piece = affordable(network, self.images, self.batch) if self.dynamic else self.batch
            tune(network, examples, self.frozen, self.batch, piece)
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
        if all(torch.equal(x[:, index], y) or torch.allclose(x[:, index], y, rtol=1e-4, atol=1e-6) for x, y in pairs):
            return
        mean, variance = moments(self.new.values[call["input"]])
        get(self.network, str(call["running_mean"].target)).copy_(mean)
        get(self.network, str(call["running_var"].target)).copy_(variance)

    def _fit(self, node: fx.Node, fresh: fx.Node) -> None:
        """Fit a layer to what the whole network computes there."""
        name, call, before = base_name(node.target), bound(fresh), self.cut.source(node)
        if not self._own(call["weight"]) or self._same(before, call["input"]) or isinstance(call.get("padding"), str):
            return
        weight, norm = get(self.network, str(call["weight"].target)), self._norm(fresh)
        if name != "linear" and len(shape_of(node)) != weight.ndim:
            return
        groups = call.get("groups", 1)
        intercept = self._own(call["bias"]) or norm is not None
        index = self.cut.index(node, 1 if name != "linear" else len(shape_of(node)) - 1)
        call["size"] = weight.shape
        aims = self._aims(node, fresh, index)
        inputs = self.new.values[call["input"]] if self.sequential else self._picked(before, 1 if name != "linear" else -1)
        share = max(self.samples[0], self.samples[1] * weight[0].numel()) / sum(len(aim.wanted) for aim in aims)
        at = [(torch.rand(len(aim.wanted), generator=self.generator) < share).nonzero()[:, 0] for aim in aims]

        def gathered() -> Iterator[tuple[torch.Tensor, Aim]]:
            for x, aim, here in zip(inputs, aims, at, strict=True):
                yield patches(call, name, x, here), aim.at(here, groups)

        rounds = self.rounds if aims[0].idle is not None else 0
        size = sum(len(here) for here in at) * groups * weight[0].numel() * weight.element_size()
        kept = list(gathered()) if rounds and size <= _MEMORY else None

        def rows() -> Iterable[tuple[torch.Tensor, Aim]]:
            return gathered() if kept is None else kept

        normal = Normal()
        for x, aim in rows():
            normal.add(x, aim.wanted)
        if normal.n < 2:
            return
        start = weight.reshape(groups, weight.shape[0] // groups, -1)
        found, left = normal.solve(start, self.ridge, intercept)
        for _ in range(rounds):
            normal.forget_wanted()
            for x, aim in rows():
                made = torch.einsum("ngd,god->ngo", x, found.to(x.dtype)) + left.to(x.dtype)
                normal.add_wanted(x, aim.beside(made))
            found, left = normal.solve(start, self.ridge, intercept)
        weight.copy_(found.reshape(weight.shape))
        if self._own(call["bias"]):
            get(self.network, str(call["bias"].target)).copy_(left.reshape(-1))
        elif norm is not None:
            get(self.network, str(norm["running_mean"].target)).sub_(left.reshape(-1))
        if fresh in self.pieces:
            self._join(fresh, aims, norm, torch.zeros_like(left) if self._own(call["bias"]) else left)
        if norm is not None:
            self.settled.add(next(iter(fresh.users)))

    def _join(self, fresh: fx.Node, aims: Sequence[Aim], norm: dict[str, Any] | None, left: torch.Tensor) -> None:
        """Fit all layers of a piece to what the last one should compute, without a bias that may not change; its norm adds what is left."""
        piece = self.pieces[fresh]
        inputs = self.new.values[piece.entry]
        rows = [len(aim.wanted) // len(x) for aim, x in zip(aims, inputs, strict=True)]

        def wanted(number: int, part: slice, made: torch.Tensor) -> torch.Tensor:
            start, stop, _ = part.indices(len(inputs[number]))
            return aims[number].part(start * rows[number], stop * rows[number]).beside(made)

        factor = torch.ones_like(aims[0].wanted[0]) if norm is None else self._affine(norm)[0]
        bias = bound(fresh)["bias"]
        offset = left.reshape(-1).to(factor.dtype)
        if bias is not None and not self._own(bias):
            offset = offset - self.new.values[bias][0]
        shifted = norm is not None and not self._own(bias)
        together = Together(self.network, piece, piece.knobs(self._own), wanted, factor, offset, shifted, self.dynamic)
        found = together.fit(inputs, self.epochs)
        if found is None:
            return
        for name, tensor in found[0].items():
            get(self.network, name).copy_(tensor)
        if norm is not None and shifted:
            get(self.network, str(norm["running_mean"].target)).sub_(found[1])
        self.new.values[bound(fresh)["input"]] = [list(piece.run(self.network, x, {}))[-2] for x in inputs]

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
        known = all(call[each] is None or (isinstance(call[each], fx.Node) and call[each].op == "get_attr") for each in ("weight", "bias"))
        return call if known and self._own(call["running_mean"]) and not call["training"] else None

    def _aims(self, node: fx.Node, fresh: fx.Node, kept: Any) -> list[Aim]:
        """What a layer should compute, for each batch.

        Where its result, after a batch norm, is added to something that is there already, what the other side lacks is wanted on top.
        A bias that may not change is there as well.
        """
        name, bias, index = base_name(node.target), bound(fresh)["bias"], slice(None) if kept is None else torch.from_numpy(kept)
        wanted = [positions(name, y)[:, index] for y in self.old.values[node]]
        scale, shift = torch.ones_like(wanted[0][0]), torch.zeros_like(wanted[0][0])
        norm = self._norm(fresh)
        if norm is not None:
            node, fresh = next(iter(node.users)), next(iter(fresh.users))
            scale, shift = self._affine(norm)
        if bias is not None and not self._own(bias):
            fixed = self.new.values[bias][0]
            wanted, shift = [y - fixed for y in wanted], shift + scale * fixed
        small = scale.abs() < 1e-3 * scale.abs().max()
        divisor = torch.where(small, 1.0, scale)
        start = [shift] * len(wanted)
        other = self._other(node, fresh) if self.correct and name == "conv2d" else None
        if other is not None:
            node, fresh = next(iter(node.users)), next(iter(fresh.users))
            there = [(positions(name, x), positions(name, y)) for x, y in other]
            wanted = [each + torch.where(small, 0.0, (x - y) / divisor) for each, (x, y) in zip(wanted, there, strict=True)]
            start = [shift + y for _, y in there]
        if not self.rounds or not _rectified(node, fresh):
            return [Aim(each) for each in wanted]
        sign = torch.where(small, 0.0, scale.sign())
        return [Aim(y, (-each / divisor).expand_as(y), sign) for y, each in zip(wanted, start, strict=True)]

    def _affine(self, norm: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """The factor and the shift of a batch norm."""
        mean, variance = (get(self.network, str(norm[each].target)) for each in ("running_mean", "running_var"))
        weight, bias = (None if norm[each] is None else get(self.network, str(norm[each].target)) for each in ("weight", "bias"))
        scale = torch.rsqrt(variance + norm["eps"]) * (1.0 if weight is None else weight)
        return scale, (0.0 if bias is None else bias) - mean * scale

    def _other(self, node: fx.Node, fresh: fx.Node) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """The other side of a sum that a result goes into, in the whole and in the cut network; ``None`` if there is none."""
        if len(node.users) != 1 or len(fresh.users) != 1:
            return None
        end, new_end = next(iter(node.users)), next(iter(fresh.users))
        if self.places.get(end) is not new_end or end.target is not torch.ops.aten.add.Tensor or end.kwargs:
            return None
        sides = [[each for each in user.all_input_nodes if each is not mine] for user, mine in ((end, node), (new_end, fresh))]
        if [len(side) for side in sides] != [1, 1] or shape_of(sides[0][0]) != shape_of(node):
            return None
        [[other], [new_other]] = sides
        if other not in self.old.values or new_other not in self.new.values:
            return None
        index = self.cut.index(end, 1)
        found = []
        for x, y in zip(self.old.values[other], self.new.values[new_other], strict=True):
            x = x if index is None else x[:, torch.from_numpy(index)]
            if x.shape != y.shape:
                return None
            found.append((x, y))
        return found


def _rectified(node: fx.Node, fresh: fx.Node) -> bool:
    """Whether all that reads a result in either network are rectifiers, which pass what is above zero only."""
    calls = [user for each in (node, fresh) for user in each.users]
    if not all(isinstance(each.target, torch._ops.OpOverload) for each in calls):
        return False
    names = [base_name(each.target) for each in calls]
    return all(
        name in ("relu", "relu6") or (name == "hardtanh" and bound(each)["min_val"] == 0) for name, each in zip(names, calls, strict=True)
    )


def _batches(x: torch.Tensor, n: int) -> list[torch.Tensor]:
    return [x[start : start + n] for start in range(0, x.shape[0], n)]


def _rows(y: torch.Tensor) -> int:
    """How many rows an output has that least squares can be made of."""
    return len(y) if y.ndim and y.is_floating_point() else -1


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
        self._order = {node: place for place, node in enumerate(network.graph.nodes)}
        self._last = {node: max(node.users, key=self._order.__getitem__, default=node) for node in network.graph.nodes}

    def keep(self, until: Mapping[fx.Node, fx.Node]) -> None:
        """Keep the values of some operations until another one is computed."""
        for node, last in until.items():
            self._last[node] = max(self._last[node], last, key=self._order.__getitem__)

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
