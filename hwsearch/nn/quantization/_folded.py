"""Folded networks: weights with their batch norms folded in and rounded, and the way of a feature map through them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ...backends._torch_blocks import GraphBlock, GraphLayer, activate, convolve, excited, flat, pooling
from ...errors import InvalidInput, Unsupported
from ...networks._blocks import Block, Layer
from ...networks._layers import POSITIVE
from ..supernet._plain import Resize
from ._codebook import share
from ._learned import OUT, PRE, WEIGHT, Grid, grid
from ._quantize import STANDARD, Quantization, quantize_weight, weight_steps
from ._sparse import mask

Round = Callable[[torch.Tensor], torch.Tensor]
Place = tuple[int, str]
"""Where a feature map is quantised: the number of the block, and ``"body0"``, ``"body0.pre"`` (before the activation), ``"shortcut0"`` or
``"out"``."""


@dataclass(frozen=True)
class FoldedLayer:
    """One layer as it is deployed.

    Attributes:
        layer: its shape and activation.
        weight: the batch norm folded in; rounded where the block is quantised. Shape ``(cout, cin / groups, k, k)`` or ``(cout, cin)``;
            empty for a pooling.
        bias: shape ``(cout,)``; empty for a pooling.
        steps: of the grid that the weight is on, shape ``(cout,)``; ``None`` where it is not rounded to integers.
        norm: the batch norm in training, where it is not folded in yet.
    """

    layer: Layer
    weight: torch.Tensor
    bias: torch.Tensor
    steps: torch.Tensor | None = None
    norm: nn.Module | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the layer and its activation."""
        return activate(self.sums(x), self.layer.activation, inplace=True)

    def sums(self, x: torch.Tensor, grid: Round | None = None) -> torch.Tensor:
        """Run the layer without its activation; averages are rounded as their input was, where it was."""
        layer = self.layer
        if layer.pooling:
            x = pooling(layer)(x)
            return grid(x) if grid else x
        if layer.op == "linear":
            x = flat(x)
            return F.linear(grid(x) if grid else x, self.weight, self.bias)
        y = convolve(x, self.weight, self.bias, layer)
        return y if self.norm is None else self.norm(y)


class Visit(ABC):
    """What to do with the feature maps of a network while its layers run."""

    def sums(self, place: Place, layer: FoldedLayer, y: torch.Tensor) -> torch.Tensor:
        """What becomes of the outputs of a convolution or a linear layer before the activation."""
        return y

    def leave(self, number: int, y: torch.Tensor) -> None:  # noqa: B027
        """Look at what the block of a number gives."""

    @abstractmethod
    def grid(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        """How to round the feature map at a place, if at all.

        Args:
            place: of a quantised block.
            y: the map.
            bits: 2 to 8.
            signed: whether it has negative values.
        """


@dataclass(frozen=True)
class Map:
    """A feature map, how it was rounded, if at all, and whether it has negative values."""

    values: torch.Tensor
    grid: Round | None = None
    signed: bool = True


@dataclass(frozen=True)
class FoldedBlock:
    """One block as it is deployed; the layers are those of :attr:`Block.graph`."""

    block: Block
    body: tuple[FoldedLayer, ...] = ()
    shortcut: tuple[FoldedLayer, ...] | None = None
    excite: tuple[FoldedLayer, ...] = ()

    def run(self, x: Map, number: int, visit: Visit) -> Map:
        """Run the block, which is the network's ``number``-th."""
        if self.block.kind == "dequantize":
            return Map(x.values, None, x.signed)
        if self.block.kind == "quantize":
            return self._rounded((number, "out"), x.values, x.signed, visit)
        y = x
        for index, layer in enumerate(self.body):
            if self.excite and index == len(self.body) - 1:
                scaled = excited(y.values, self.excite)
                y = Map(y.grid(scaled) if y.grid else scaled, y.grid, y.signed)
            y = self._step((number, f"body{index}"), layer, y, visit)
        if self.shortcut is None:
            return y
        for index, layer in enumerate(self.shortcut):
            x = self._step((number, f"shortcut{index}"), layer, x, visit)
        joined = self.block.graph.joined
        total = activate(y.values + x.values, joined, inplace=True)
        return self._rounded((number, "out"), total, joined not in POSITIVE, visit)

    def _step(self, place: Place, layer: FoldedLayer, x: Map, visit: Visit) -> Map:
        values, activation = layer.sums(x.values, x.grid), layer.layer.activation
        if layer.layer.pooling:  # averages and maxima stay on the grid of their input
            return Map(values, x.grid, x.signed)
        values = visit.sums(place, layer, values)
        if layer.layer.op == "linear":  # its outputs are floats
            return Map(activate(values, activation, inplace=True), None, x.signed)
        if activation not in (*POSITIVE, "none"):
            values = self._rounded((place[0], f"{place[1]}.pre"), values, True, visit).values
        return self._rounded(place, activate(values, activation, inplace=True), not layer.layer.positive, visit)

    def _rounded(self, place: Place, values: torch.Tensor, signed: bool, visit: Visit) -> Map:
        bits = self.block.bits
        grid = _HALVES.get(bits.dense, _HALVES["fp16"]) if bits.activation_bits == 16 else None
        if bits.quantized:
            grid = visit.grid(place, values, bits.activation_bits, signed)
        return Map(grid(values) if grid else values, grid, signed)


def _to_fp16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float16).to(x.dtype)


def _to_bf16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


_HALVES: dict[str, Round] = {"fp16": _to_fp16, "bf16": _to_bf16}


def fold(
    network: nn.Sequential, blocks: Sequence[Block], quantization: Quantization = STANDARD, *, straight: bool = False
) -> tuple[FoldedBlock, ...]:
    """The blocks of a plain network with their batch norms folded in and their weights rounded.

    Args:
        network: its batch norms calibrated.
        blocks: what it is.
        quantization: the most bits that quantised weights have, and what they are rounded to.
        straight: for training: let gradients pass rounded weights, by their grids where those are learned, else as if they were not
            rounded (straight-through estimation, Bengio et al., 2013). Grids are then those of weights without their batch norm, and a
            norm in training mode is not folded in: it normalises what the rounded weights give.

    Raises:
        InvalidInput, Unsupported: as :func:`deploy` does.
    """
    return tuple(_fold(module, block, quantization, straight) for module, block in _paired(network, blocks))


def _paired(network: nn.Sequential, blocks: Sequence[Block]) -> list[tuple[nn.Module, Block]]:
    modules = [module for module in network if not isinstance(module, Resize)]
    if len(modules) != len(blocks):
        raise InvalidInput(f"The network has {len(modules)} blocks, and {len(blocks)} were expected.")
    return list(zip(modules, blocks, strict=True))


Owners = dict[Place, tuple[nn.Module, str]]
"""The block or layer that makes a feature map, and the name under which it holds a grid of it, if it has learned one."""


def owners(network: nn.Sequential, blocks: Sequence[Block]) -> Owners:
    """Who owns the feature maps at the places of quantised blocks."""
    found: Owners = {}
    for number, (module, block) in enumerate(_paired(network, blocks)):
        if not block.bits.quantized:
            continue
        found[number, "out"] = module, OUT
        for part in ("body", "shortcut") if isinstance(module, GraphBlock) else ():
            for index, layer in enumerate(getattr(module, part)):
                found |= {(number, f"{part}{index}"): (layer, OUT), (number, f"{part}{index}.pre"): (layer, PRE)}
    return found


def _fold(module: nn.Module, block: Block, quantization: Quantization, straight: bool) -> FoldedBlock:
    if block.bits.name.startswith("fp8"):
        raise Unsupported(f"Block {block.key}: evaluation knows integers and floats of 16 and 32 bits, not {block.precision}.")
    if not isinstance(module, GraphBlock):
        return FoldedBlock(block)
    body, excite, shortcut = (
        _fold_layers(getattr(module, part), layers, block, quantization, straight) for part, layers in block.graph.parts.items()
    )
    return FoldedBlock(block, body, shortcut if module.residual else None, excite)


def _fold_layers(
    modules: nn.ModuleList, layers: Sequence[Layer], block: Block, quantization: Quantization, straight: bool
) -> tuple[FoldedLayer, ...]:
    """Weights and biases with the batch norms folded in: ``w g / s`` and ``b - m g / s``, ``s = sqrt(var + eps)``."""
    folded = []
    for module, layer in zip(modules, layers, strict=True):
        assert isinstance(module, GraphLayer)
        one, norm = module.op, module.norm
        if not isinstance(one, nn.Conv2d | nn.Linear):
            folded.append(FoldedLayer(layer, torch.empty(0), torch.empty(0)))
            continue
        weight, bias = one.weight, one.weight.new_zeros(layer.cout) if one.bias is None else one.bias
        live = norm if straight and norm is not None and norm.training else None
        factor = None
        if isinstance(norm, nn.BatchNorm2d) and live is None:
            assert norm.running_mean is not None
            factor = slope(norm)
            weight = weight * factor.view(-1, 1, 1, 1)
            bias = norm.bias - norm.running_mean * factor
        weight, steps = _round_weight(weight, factor, module, layer, block, quantization, straight)
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        folded.append(FoldedLayer(layer, weight, bias if straight else bias.detach().clone(), steps, live))
    return tuple(folded)


def slope(norm: nn.BatchNorm2d) -> torch.Tensor:
    """What a batch norm multiplies channels by, with the statistics that it keeps, shape ``(c,)``."""
    assert norm.running_var is not None
    return norm.weight / torch.sqrt(norm.running_var + norm.eps)


def _round_weight(
    weight: torch.Tensor,
    factor: torch.Tensor | None,
    module: nn.Module,
    layer: Layer,
    block: Block,
    quantization: Quantization,
    straight: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A weight as its block stores it, and its steps, or the scales of its codebook; ``factor`` is that of the norm folded into it.

    Linear layers that read floats inside a quantised block stay in floats.
    """
    bits, count = block.bits, min(block.bits.weight_bits, quantization.weight_bits)
    shown = weight * mask(weight) if bits.sparse and layer.sparsable else weight
    if bits.quantized and layer.op == "linear" and layer != block.graph.body[0]:
        return (weight if straight else weight.detach().clone()), None
    if quantization.weights == "k-means" and bits.weight_bits <= 8:
        shared = share(shown.detach().cpu().numpy(), count)
        return torch.from_numpy(shared.weights).to(weight.device), torch.from_numpy(shared.scale).to(weight.device)
    learned = _learned_grid(module, bits.weight_bits)
    if learned is not None and straight:
        return learned(shown, factor), None
    rounded, steps = shown.detach(), None
    if bits.weight_bits <= 8:
        if learned is not None:
            steps, rounded = learned.steps, quantize_weight(rounded, learned.bits, learned.steps)
        if learned is None or learned.bits > count:
            steps = weight_steps(rounded, count)
            rounded = quantize_weight(rounded, count, steps)
    else:
        rounded = _HALVES[bits.dense](rounded) if bits.weight_bits == 16 else rounded.clone()
    return (rounded + (weight - weight.detach()) if straight else rounded), steps


def _learned_grid(module: nn.Module, bits: int) -> Grid | None:
    """The grid of weights that a layer has learned for a precision; 8 bits may have been learned as 7 (Quantization.weight_bits)."""
    counts = (8, 7) if bits == 8 else (bits,)
    return next((found for count in counts if (found := grid(module, WEIGHT, count)) is not None), None)
