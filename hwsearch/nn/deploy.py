"""Deployed networks: batch norms folded and feature maps quantised, exactly as the exported graph computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from ..blocks import Block, Layer
from ..errors import InvalidInput, Unsupported
from ..layers import POSITIVE
from .graph import GraphBlock, activate, excited, flat, pooling
from .learned import OUT, PRE, WEIGHT, grid, grids
from .plain import Resize, resize
from .quantize import Quantization, Quantizer, fit_quantizer, quantize_weight, weight_steps
from .sparse import mask

Round = Callable[[torch.Tensor], torch.Tensor]
Place = tuple[int, str]
"""Where a feature map is quantised: the number of the block, and ``"body0"``, ``"body0.pre"`` (before the activation), ``"shortcut0"`` or
``"out"``."""


@dataclass(frozen=True)
class FoldedLayer:
    """One layer as it is deployed.

    Attributes:
        layer: what it is.
        weight: the batch norm folded in; rounded where the block is quantised. Shape ``(cout, cin / groups, k, k)`` or ``(cout, cin)``;
            empty for a pooling.
        bias: shape ``(cout,)``; empty for a pooling.
        steps: of the grid that the weight is on, shape ``(cout,)``; ``None`` where it is not rounded to integers.
    """

    layer: Layer
    weight: torch.Tensor
    bias: torch.Tensor
    steps: torch.Tensor | None = None

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
        return F.conv2d(x, self.weight, self.bias, layer.stride, layer.kernel // 2, 1, layer.groups)


class Visit(ABC):
    """What is done on the way through a network, besides running its layers."""

    def sums(self, place: Place, layer: FoldedLayer, y: torch.Tensor) -> torch.Tensor:
        """What becomes of the outputs of a convolution or a linear layer before the activation."""
        return y

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
class _Map:
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

    def run(self, x: _Map, number: int, visit: Visit) -> _Map:
        """Run the block, which is the network's ``number``-th."""
        if self.block.kind == "dequantize":
            return _Map(x.values, None, x.signed)
        if self.block.kind == "quantize":
            return self._rounded((number, "out"), x.values, x.signed, visit)
        y = x
        for index, layer in enumerate(self.body):
            if self.excite and index == len(self.body) - 1:
                scaled = excited(y.values, self.excite)
                y = _Map(y.grid(scaled) if y.grid else scaled, y.grid, y.signed)
            y = self._step((number, f"body{index}"), layer, y, visit)
        if self.shortcut is None:
            return y
        for index, layer in enumerate(self.shortcut):
            x = self._step((number, f"shortcut{index}"), layer, x, visit)
        joined = self.block.graph.joined
        total = activate(y.values + x.values, joined, inplace=True)
        return self._rounded((number, "out"), total, joined not in POSITIVE, visit)

    def _step(self, place: Place, layer: FoldedLayer, x: _Map, visit: Visit) -> _Map:
        values, activation = layer.sums(x.values, x.grid), layer.layer.activation
        if layer.layer.pooling:  # averages and maxima stay on the grid of their input
            return _Map(values, x.grid, x.signed)
        values = visit.sums(place, layer, values)
        if layer.layer.op == "linear":  # its outputs are floats
            return _Map(activate(values, activation, inplace=True), None, x.signed)
        if activation not in (*POSITIVE, "none"):
            values = self._rounded((place[0], f"{place[1]}.pre"), values, True, visit).values
        return self._rounded(place, activate(values, activation, inplace=True), not layer.layer.positive, visit)

    def _rounded(self, place: Place, values: torch.Tensor, signed: bool, visit: Visit) -> _Map:
        bits = self.block.bits
        grid = _HALVES.get(bits.dense, _HALVES["fp16"]) if bits.activation_bits == 16 else None
        if bits.quantized:
            grid = visit.grid(place, values, bits.activation_bits, signed)
        return _Map(grid(values) if grid else values, grid, signed)


def _to_fp16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float16).to(x.dtype)


def _to_bf16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


_HALVES: dict[str, Round] = {"fp16": _to_fp16, "bf16": _to_bf16}


@dataclass(frozen=True)
class Deployed:
    """A network as it is shipped.

    In quantised blocks the output of every convolution and of the residual sum is quantised: after a ReLU, and both before and after any
    other activation of a convolution. Weights are symmetric with one scale an output channel, and the input is what the block or the
    boundary before has produced. The layers of a squeeze-and-excite, and a second linear layer, compute in floats. In blocks of 16-bit
    floats weights and the same outputs are rounded to these.

    Attributes:
        blocks: in the order of execution, precision boundaries included.
        quantizers: by place.
        symmetric: whether quantisers have no zero points, and none stands before a sum or an activation; see
            :class:`hwsearch.backends.onnx_flavours.Flavour`.
    """

    blocks: tuple[FoldedBlock, ...]
    quantizers: dict[Place, Quantizer]
    symmetric: bool = False

    @property
    def resolution(self) -> int:
        """Height and width of the input, px."""
        return self.blocks[0].block.size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.blocks[-1].body[-1].weight.device

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape ``(n, classes)``, of normalised images of any size, shape ``(n, channels, h, w)``."""
        return self.run(x, _Shipped(self))

    def skipped(self, place: Place) -> bool:
        """Whether the map there goes into a sum or an activation as it is."""
        block = self.blocks[place[0]]
        last = len(block.body) - 1
        summed = block.shortcut is not None and place[1] == f"body{last}" and block.body[last].layer.activation == "none"
        return self.symmetric and (summed or place[1].endswith(".pre"))

    def run(self, x: torch.Tensor, visit: Visit) -> torch.Tensor:
        """Run the network with quantisers of one's own.

        Args:
            x: normalised images, shape ``(n, channels, h, w)``.
            visit: what is done on the way.

        Returns:
            Logits, shape ``(n, classes)``.
        """
        value = _Map(resize(x, self.resolution))
        for number, folded in enumerate(self.blocks):
            value = folded.run(value, number, visit)
        return value.values


@dataclass
class _Shipped(Visit):
    """Maps are rounded as they are in the network that is shipped."""

    network: Deployed

    def grid(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        return None if self.network.skipped(place) else self.network.quantizers[place]


Moments = dict[Place, tuple[torch.Tensor, torch.Tensor]]
"""Means and standard deviations of the outputs of layers, shapes ``(cout,)``."""


def _moments(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    over = [dim for dim in range(y.ndim) if dim != 1]
    std, mean = torch.std_mean(y, dim=over)
    return mean, std


@dataclass
class _Watching(Visit):
    """The moments of a network in floating point are noted."""

    moments: Moments = field(default_factory=dict)

    def sums(self, place: Place, layer: FoldedLayer, y: torch.Tensor) -> torch.Tensor:
        self.moments[place] = _moments(y)
        return y

    def grid(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        return None


@dataclass
class _Fitting(Visit):
    """All quantisers are chosen, each on a map that the ones before it have rounded already, and layers corrected."""

    network: Deployed
    how: Quantization
    wanted: Moments

    def sums(self, place: Place, layer: FoldedLayer, y: torch.Tensor) -> torch.Tensor:
        if layer.steps is None or place not in self.wanted:
            return y
        (mean, std), (wanted, spread) = _moments(y), self.wanted[place]
        factor = torch.ones_like(std)
        if self.how.correction == "scale":
            factor = torch.where((std > 1e-6) & (spread > 1e-6), spread / std, factor)
            layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.ndim - 1)))
            layer.steps.mul_(factor)
        shift = wanted - factor * mean
        layer.bias.mul_(factor).add_(shift)
        shape = (1, -1, *[1] * (y.ndim - 2))
        return y * factor.view(shape) + shift.view(shape)

    def grid(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        if self.network.skipped(place):
            return None
        self.network.quantizers[place] = fit_quantizer(y, bits, signed, self.how.symmetric, self.how.ranges)
        return self.network.quantizers[place]


def deploy(network: nn.Sequential, blocks: Sequence[Block], images: torch.Tensor, how: Quantization | None = None) -> Deployed:
    """Fold and quantise a plain network.

    Quantisers that have been learned are taken as they are (:func:`hwsearch.nn.tune`); of a network that has some, nothing is corrected.

    Args:
        network: from :meth:`hwsearch.nn.Supernet.extract`, its batch norms calibrated; it is left as it was.
        blocks: what it is, as ``space.blocks(row)`` tells.
        images: normalised training images to choose the quantisers on, shape ``(n, channels, h, w)``.
        how: as :class:`Quantization` has it by itself where left out.

    Raises:
        InvalidInput: the network does not have these blocks.
        Unsupported: 8-bit floats.
    """
    how = how or Quantization()
    with torch.inference_mode():
        deployed = Deployed(fold(network, blocks), _learned(network, blocks), how.symmetric)
        if any(block.bits.quantized for block in blocks) and not deployed.quantizers:
            watching = _Watching()
            if how.correction != "none":
                Deployed(fold(network, [replace(block, precision="fp32") for block in blocks]), {}).run(images, watching)
            deployed.run(images, _Fitting(deployed, how, watching.moments))
    return deployed


def fold(network: nn.Sequential, blocks: Sequence[Block], *, straight: bool = False) -> tuple[FoldedBlock, ...]:
    """The blocks of a plain network with their batch norms folded in and their weights rounded.

    Args:
        network: its batch norms calibrated.
        blocks: what it is.
        straight: let gradients pass rounded weights: by their grids where those are learned, else as if they were not rounded
            (straight-through estimation, Bengio et al., 2013).

    Raises:
        InvalidInput, Unsupported: as :func:`deploy` does.
    """
    return tuple(_fold(module, block, straight) for module, block in _paired(network, blocks))


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


def _learned(network: nn.Sequential, blocks: Sequence[Block]) -> dict[Place, Quantizer]:
    """The quantisers of feature maps that a network has learned; none where it has learned some for other blocks."""
    found = {place: grid(*owner, blocks[place[0]].bits.activation_bits) for place, owner in owners(network, blocks).items()}
    ours = {place: one.quantizer for place, one in found.items() if one is not None}
    return ours if len(ours) == sum(not one.step.ndim for one in grids(network)) else {}


def _fold(module: nn.Module, block: Block, straight: bool) -> FoldedBlock:
    if block.bits.name.startswith("fp8"):
        raise Unsupported(f"Block {block.key}: evaluation knows integers and floats of 16 and 32 bits, not {block.precision}.")
    if not isinstance(module, GraphBlock):
        return FoldedBlock(block)
    body, excite, shortcut = (_fold_layers(getattr(module, part), layers, block, straight) for part, layers in block.graph.parts.items())
    return FoldedBlock(block, body, shortcut if module.residual else None, excite)


def _fold_layers(modules: nn.ModuleList, layers: Sequence[Layer], block: Block, straight: bool) -> tuple[FoldedLayer, ...]:
    """Weights and biases with the batch norms folded in: ``w g / s`` and ``b - m g / s``, ``s = sqrt(var + eps)``."""
    folded = []
    for module, layer in zip(modules, layers, strict=True):
        one, norm = module.op, module.norm
        if layer.pooling:
            folded.append(FoldedLayer(layer, torch.empty(0), torch.empty(0)))
            continue
        weight, bias = one.weight, one.weight.new_zeros(layer.cout) if one.bias is None else one.bias
        if norm is not None:
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weight = weight * factor.view(-1, 1, 1, 1)
            bias = norm.bias - norm.running_mean * factor
        weight, steps = _round_weight(weight, module, layer, block, straight)
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        folded.append(FoldedLayer(layer, weight, bias if straight else bias.detach().clone(), steps))
    return tuple(folded)


def _round_weight(
    weight: torch.Tensor, module: nn.Module, layer: Layer, block: Block, straight: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A weight as its block stores it, and its steps; linear layers that read floats inside a quantised block stay in floats."""
    bits = block.bits
    shown = weight * mask(weight) if bits.sparse and layer.sparsable else weight
    if bits.quantized and layer.op == "linear" and layer != block.graph.body[0]:
        return (weight if straight else weight.detach().clone()), None
    learned = grid(module, WEIGHT, bits.weight_bits) if bits.weight_bits <= 8 else None
    if learned is not None and straight:
        return learned(shown), None
    rounded, steps = shown.detach(), None
    if bits.weight_bits <= 8:
        steps = weight_steps(rounded, bits.weight_bits) if learned is None else learned.steps
        rounded = quantize_weight(rounded, bits.weight_bits, steps)
    else:
        rounded = _HALVES[bits.dense](rounded) if bits.weight_bits == 16 else rounded.clone()
    return (weight + (rounded - weight).detach() if straight else rounded), steps
