"""Layers that follow one another, fitted together to what the whole network computes after the last of them.

Least squares fit one layer to what is left of its inputs, and the layers before it, whose results nobody compares, stay as they were. Here
all weights between two places where several operations read one value (such as a branch of a residual block) descend together towards
what the whole network has at the end of them. No labels and no outputs of the network are looked at, one piece of the network is held at a
time, and a piece is kept only if it comes nearer on images that had no part in it. Reconstruction of blocks is known from rounding weights
(Li et al., BRECQ: Pushing the limit of post-training quantization by block reconstruction, 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ._normal import positions
from ._state import get
from .rules.base import base_name, bound

_RATE = 0.03
"""First step of each weight, relative to the root mean square of its tensor; it falls to nothing along half a cosine."""
_LAYERS = 3
"""Layers that are fitted together at most, where operations follow one another without end."""
_AT_ONCE = 50
"""Images of a step, where a network takes any number."""


@dataclass(frozen=True)
class Piece:
    """Operations that follow one another, each of which is all that reads the one before it.

    Attributes:
        nodes: the operations; the first and the last are layers.
    """

    nodes: tuple[fx.Node, ...]

    @property
    def entry(self) -> fx.Node:
        """What the first layer reads."""
        entry = bound(self.nodes[0])["input"]
        assert isinstance(entry, fx.Node)
        return entry

    def knobs(self, own: Callable[[Any], bool]) -> list[str]:
        """The names of the weights and the offsets that may change."""
        given = [bound(node).get(name) for node in self.nodes for name in ("weight", "bias")]
        return [str(each.target) for each in given if isinstance(each, fx.Node) and own(each)]

    def run(self, network: fx.GraphModule, x: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
        """The results of the operations, one after the other, with other tensors in the place of some."""
        before = self.entry
        for node in self.nodes:
            known = {each: tensors.get(str(each.target), None) for each in node.all_input_nodes if each is not before}
            values = {each: get(network, str(each.target)) if found is None else found for each, found in known.items()} | {before: x}
            target: Any = node.target
            x, before = target(*fx.map_arg(node.args, values.__getitem__), **fx.map_arg(node.kwargs, values.__getitem__)), node
            yield x


def pieces(network: fx.GraphModule, layers: Sequence[str]) -> dict[fx.Node, Piece]:
    """All pieces of two or more layers, by the last operation of each.

    Args:
        network: the network.
        layers: names of the operations that count as layers.
    """
    open_: dict[fx.Node, list[fx.Node]] = {}
    for node in network.graph.nodes:
        inputs = [each for each in node.all_input_nodes if each.op != "get_attr"]
        if not isinstance(node.target, torch._ops.OpOverload) or len(inputs) != 1:
            continue
        [before] = inputs
        open_[node] = [*(open_.pop(before, []) if len(before.users) == 1 else []), node]
    found = {}
    for chain in open_.values():
        places = [place for place, node in enumerate(chain) if base_name(node.target) in layers]
        for start in range(0, len(places), _LAYERS):
            taken = places[start : start + _LAYERS]
            if len(taken) > 1:
                found[chain[taken[-1]]] = Piece(tuple(chain[taken[0] : taken[-1] + 1]))
    return found


@dataclass
class Together:
    """One fit of a piece.

    Args:
        network: the network that the piece is part of.
        piece: the piece.
        knobs: names of the tensors that change.
        wanted: what the last layer should give, from what it gives, for some images: rows of positions.
        factor: what the errors of each channel count for.
        offset: what is added to the result of the last layer, channel by channel, before it is compared.
        shifted: whether that may change.
        dynamic: whether the network takes any number of images.
    """

    network: fx.GraphModule
    piece: Piece
    knobs: Sequence[str]
    wanted: Callable[[int, slice, torch.Tensor], torch.Tensor]
    factor: torch.Tensor
    offset: torch.Tensor
    shifted: bool
    dynamic: bool

    def fit(self, inputs: Sequence[torch.Tensor], epochs: int) -> tuple[dict[str, torch.Tensor], torch.Tensor] | None:
        """The tensors and the change of the offset that bring the piece nearest.

        Args:
            inputs: what the first layer reads, in batches.
            epochs: how often each of the images is looked at.

        Returns:
            Both, or ``None`` if the piece comes no nearer on the last fifth of the batches.
        """
        held = max(1, len(inputs) // 5)
        if len(inputs) < 2 * held or not self.knobs:
            return None
        start = {name: get(self.network, name).detach() for name in self.knobs}
        units = {name: _unit(tensor) for name, tensor in start.items()}
        steps = {name: torch.zeros_like(tensor, requires_grad=True) for name, tensor in start.items()}
        shift = torch.zeros_like(self.factor, requires_grad=self.shifted)
        fitted, judging = range(len(inputs) - held), range(len(inputs) - held, len(inputs))
        unit = self._size(fitted[:held], inputs)

        def tensors() -> dict[str, torch.Tensor]:
            return {name: start[name] + units[name] * step for name, step in steps.items()}

        def error(number: int, part: slice) -> torch.Tensor:
            rows = self._rows(inputs[number][part], tensors()) + self.offset + shift * unit
            return ((rows - self.wanted(number, part, rows.detach())) * self.factor).square().mean()

        def judged() -> float:
            with torch.no_grad():
                return sum(float(error(number, slice(None))) for number in judging)

        parts = [(number, part) for number in fitted for part in self._parts(len(inputs[number]))]
        optimiser = torch.optim.Adam([*steps.values(), *([shift] if self.shifted else [])], _RATE)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, epochs * len(parts)))
        generator, before = torch.Generator().manual_seed(0), judged()
        with torch.enable_grad():
            for _ in range(epochs):
                for place in torch.randperm(len(parts), generator=generator).tolist():
                    optimiser.zero_grad()
                    error(*parts[place]).backward()
                    optimiser.step()
                    falling.step()
        if not judged() < before:
            return None
        return {name: each.detach() for name, each in tensors().items()}, (shift * unit).detach()

    def _rows(self, x: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the last layer gives, with one row for each position."""
        *_, made = self.piece.run(self.network, x, tensors)
        return positions(base_name(self.piece.nodes[-1].target), made)

    def _parts(self, images: int) -> list[slice]:
        size = _AT_ONCE if self.dynamic else images
        return [slice(start, start + size) for start in range(0, images, size)]

    def _size(self, numbers: Sequence[int], inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The root mean square of what is wanted of each channel."""
        with torch.no_grad():
            squares = []
            for number in numbers:
                wanted = self.wanted(number, slice(None), self._rows(inputs[number], {}))
                squares.append(wanted.square().mean(0))
        return torch.stack(squares).mean(0).sqrt()


def _unit(tensor: torch.Tensor) -> float:
    """The size of a tensor's numbers; that of a weight of a usual layer where all of them are zero."""
    return float(tensor.square().mean().sqrt()) or 0.1
