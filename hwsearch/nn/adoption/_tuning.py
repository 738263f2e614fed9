"""The last step of a repair: the scale and the shift of every channel, fitted together to what the whole network gives.

A layer that is fitted on its own cannot know which of its errors reach the outputs, and which ones others could make up for. Here the
outputs are taken as linear in a factor and a shift on every channel that a normalisation, or a layer without one, gives. These least
squares, with a ridge towards no change, are solved in closed form (one step of Gauss and Newton). A step is made only if it brings the
outputs of images that had no part in it nearer to those of the whole network. No labels are needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx

from ._run import execute
from ._state import get
from .rules.base import base_name, bound

_LAYERS = ("conv1d", "conv2d", "linear")
RIDGES = (0.1, 0.4, 1.6)
"""Strengths of the pull towards no change that are tried, relative to the mean square of the derivatives."""
_PROJECTIONS = 2
"""Random projections of the outputs of one image whose derivatives are taken."""
_MEMORY = 2**31
"""Bytes of values that may be left behind for derivatives."""
_SEEN = 100
"""Images that the deviations of channels are told from, at least, where there are as many; of networks of one batch size too."""
_ROUNDS = 1
"""How often the outputs are taken as linear anew."""


@dataclass(frozen=True)
class Examples:
    """Inputs of a network, and what it should make of them.

    Attributes:
        images: one tensor for each input.
        wanted: one tensor for each output, with a row for each image.
    """

    images: tuple[torch.Tensor, ...]
    wanted: tuple[torch.Tensor, ...]

    def part(self, start: int, stop: int) -> Examples:
        """Some of them."""
        return Examples(tuple(each[start:stop] for each in self.images), tuple(each[start:stop] for each in self.wanted))

    def batches(self, size: int) -> Iterator[Examples]:
        """All of them, at most ``size`` at once."""
        return (self.part(start, start + size) for start in range(0, len(self.images[0]), size))


@dataclass(frozen=True)
class Spot:
    """An operation whose result can be scaled and shifted by its own parameters, channel by channel.

    Attributes:
        name: of the operation.
        dim: the axis of the channels.
        scaled: the parameter that has a row for each channel.
        shifted: the parameter that is added; ``None`` where there is none.
        deviation: standard deviation of each channel: the unit of shifts, shape ``(channels,)``.
    """

    name: str
    dim: int
    scaled: str
    shifted: str | None
    deviation: torch.Tensor

    def unit(self, value: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """Numbers of shape ``(n, channels)`` as they lie on a result."""
        shape = [len(found), *([1] * (value.ndim - 1))]
        shape[self.dim] = found.shape[1]
        return found.reshape(shape)


def affordable(network: fx.GraphModule, images: tuple[torch.Tensor, ...], most: int) -> int:
    """How many images at once leave no more than two gibibytes of values behind, which derivatives need; at least 1, at most ``most``."""
    left = 0

    def count(_: fx.Node, value: Any) -> Any:
        nonlocal left
        left += value.nbytes if isinstance(value, torch.Tensor) else 0
        return value

    few = tuple(each[:2] for each in images)
    execute(network, few, after=count)
    return max(1, min(most, _MEMORY * len(few[0]) // max(left, 1)))


def tune(network: fx.GraphModule, examples: Examples, frozen: Collection[str], batch: int, piece: int) -> None:
    """Fit all scales and shifts of a network together; in place.

    Args:
        network: the network, repaired layer after layer.
        examples: inputs with the outputs of the whole network; a fifth of them judges the steps.
        frozen: names of tensors that stay as they are.
        batch: images at once.
        piece: images at once where derivatives are taken.
    """
    count = len(examples.images[0])
    held = max(1, count // 5 // batch) * batch
    if count < 2 * held:
        return
    fitted, judging = examples.part(held, count), examples.part(0, held)
    generator = torch.Generator().manual_seed(0)
    error = _error(network, judging, batch)
    for _ in range(_ROUNDS):
        spots = find_spots(network, [each.images for each in examples.part(0, max(batch, _SEEN)).batches(batch)], frozen)
        if not spots:
            return
        pairs = [pair for each in fitted.batches(piece) for pair in derivatives(network, spots, each, generator)]
        rows, left = (torch.cat(each) for each in zip(*pairs, strict=True))
        before = {name: get(network, name).detach().clone() for spot in spots for name in (spot.scaled, spot.shifted) if name}
        best = None
        for step in solutions(rows, left):
            move(network, spots, step, before)
            found = _error(network, judging, batch)
            if found < error:
                error, best = found, step
        move(network, spots, torch.zeros_like(rows[0]) if best is None else best, before)
        if best is None:
            return


def find_spots(network: fx.GraphModule, batches: Sequence[tuple[torch.Tensor, ...]], frozen: Collection[str]) -> list[Spot]:
    """All normalisations, and layers that no normalisation follows, whose parameters are their own and may change.

    Args:
        network: the network.
        batches: inputs, whose results tell the deviations of channels.
        frozen: names of tensors that stay as they are.
    """
    spots: dict[str, Spot] = {}
    sums: dict[str, torch.Tensor] = {}

    def own(value: Any) -> bool:
        return isinstance(value, fx.Node) and value.op == "get_attr" and len(value.users) == 1 and str(value.target) not in frozen

    def look(count: int, node: fx.Node, value: Any) -> Any:
        name = base_name(node.target) if isinstance(node.target, torch._ops.OpOverload) else ""
        if name not in (*_LAYERS, "batch_norm") or value.shape[0] != count:
            return value
        call = bound(node)
        if not own(call["weight"]) or not (call["bias"] is None or own(call["bias"])):
            return value
        users = [each.target for each in node.users]
        if name != "batch_norm" and any(isinstance(each, torch._ops.OpOverload) and base_name(each) == "batch_norm" for each in users):
            return value
        dim = value.ndim - 1 if name == "linear" else 1
        x = value.double().movedim(dim, 0).flatten(1)
        seen = torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)])
        sums[node.name] = seen + sums.get(node.name, 0.0)
        n, total, squares = sums[node.name]
        deviation = ((squares - total.square() / n).clamp_min(0.0) / (n - 1).clamp_min(1.0)).sqrt().to(value.dtype)
        shifted = None if call["bias"] is None else str(call["bias"].target)
        spots[node.name] = Spot(node.name, dim, str(call["weight"].target), shifted, deviation)
        return value

    for images in batches:
        execute(network, images, after=partial(look, len(images[0])))
    return list(spots.values())


def derivatives(
    network: fx.GraphModule, spots: Sequence[Spot], examples: Examples, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Random projections of the outputs of each image: their derivatives, shape ``(n, parameters)``, and what they lack, shape ``(n,)``."""
    count = len(examples.images[0])
    by = {spot.name: spot for spot in spots}
    knobs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def turn(node: fx.Node, value: Any) -> Any:
        if node.name not in by:
            return value
        spot = by[node.name]
        factor, shift = (torch.zeros(count, len(spot.deviation), dtype=value.dtype, requires_grad=True) for _ in range(2))
        knobs[node.name] = (factor, shift)
        return value * (1 + spot.unit(value, factor)) + spot.unit(value, shift * spot.deviation)

    outputs = execute(network, examples.images, after=turn, grad=True)
    turned = [each for spot in spots for each in knobs[spot.name][: 2 if spot.shifted else 1]]
    for number in range(_PROJECTIONS):
        lacking: Any = 0.0
        total: Any = 0.0
        for found, aim in zip(outputs, examples.wanted, strict=True):
            noise = torch.randn(found.shape, generator=generator, dtype=found.dtype)
            total = total + (found * noise).sum()
            lacking = lacking + ((aim - found.detach()) * noise).flatten(1).sum(1)
        slopes: Sequence[torch.Tensor | None] = torch.autograd.grad(
            total, turned, retain_graph=number + 1 < _PROJECTIONS, allow_unused=True
        )
        row = [torch.zeros_like(each) if slope is None else slope for each, slope in zip(turned, slopes, strict=True)]
        yield torch.cat(row, 1), lacking


def solutions(rows: torch.Tensor, left: torch.Tensor) -> Iterator[torch.Tensor]:
    """The least squares for each strength of the ridge; of two equal systems the smaller one is solved."""
    wide = rows.shape[1] > rows.shape[0]
    system = (rows @ rows.T if wide else rows.T @ rows).double()
    aim = (left if wide else rows.T @ left).double()[:, None]
    mean = rows.square().sum(0).mean().clamp_min(1e-30)
    for ridge in RIDGES:
        factor = torch.linalg.cholesky(system + ridge * mean * torch.eye(len(system), dtype=system.dtype))
        solved = torch.cholesky_solve(aim, factor)[:, 0].to(rows.dtype)
        yield rows.T @ solved if wide else solved


def move(network: fx.GraphModule, spots: Sequence[Spot], step: torch.Tensor, before: dict[str, torch.Tensor]) -> None:
    """Scale and shift the parameters as they were before."""
    place = 0
    with torch.no_grad():
        for spot in spots:
            channels = len(spot.deviation)
            factor = 1 + step[place : place + channels]
            place += channels
            weight = before[spot.scaled]
            get(network, spot.scaled).copy_(weight * factor.reshape(-1, *([1] * (weight.ndim - 1))))
            if spot.shifted:
                get(network, spot.shifted).copy_(before[spot.shifted] * factor + step[place : place + channels] * spot.deviation)
                place += channels


def _error(network: fx.GraphModule, examples: Examples, batch: int) -> float:
    """How far the outputs are from those wanted: their mean squared error relative to their mean square, summed over the outputs."""
    error = total = torch.zeros(len(examples.wanted), dtype=torch.float64)
    for part in examples.batches(batch):
        found = execute(network, part.images)
        error = error + torch.stack([(x - y).double().square().sum() for x, y in zip(found, part.wanted, strict=True)])
        total = total + torch.stack([y.double().square().sum() for y in part.wanted])
    return float((error / total.clamp_min(1e-30)).sum())
