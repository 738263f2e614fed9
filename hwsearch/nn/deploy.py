"""Deployed networks: batch norms folded and feature maps quantised, exactly as the exported graph computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from ..blocks import Block, Layer
from ..errors import InvalidInput, Unsupported
from .plain import Residual, Resize, pooling, resize
from .quantize import Quantizer, fit_quantizer, quantize_weight
from .sparse import mask

Round = Callable[[torch.Tensor], torch.Tensor]
Place = tuple[int, str]
"""Where a feature map is quantised: the number of the block, and ``"body0"``, ``"shortcut0"`` or ``"out"``."""


@dataclass(frozen=True)
class FoldedLayer:
    """One layer as it is deployed.

    Attributes:
        layer: what it is.
        weight: the batch norm folded in; rounded where the block is quantised. Shape ``(cout, cin / groups, k, k)`` or ``(cout, cin)``;
            empty for a pooling.
        bias: shape ``(cout,)``; empty for a pooling.
    """

    layer: Layer
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, x: torch.Tensor, grid: Round | None = None) -> torch.Tensor:
        """Run the layer, its ReLU included; averages are rounded as their input was, where it was."""
        layer = self.layer
        if layer.pooling:
            x = pooling(layer)(x)
            return grid(x) if grid else x
        if layer.op == "linear":
            x = x.mean(dim=(2, 3))
            return F.linear(grid(x) if grid else x, self.weight, self.bias)
        x = F.conv2d(x, self.weight, self.bias, layer.stride, layer.kernel // 2, 1, layer.groups)
        return F.relu_(x) if layer.relu else x


@dataclass(frozen=True)
class _Map:
    """A feature map, how it was rounded, if at all, and whether it has negative values."""

    values: torch.Tensor
    grid: Round | None = None
    signed: bool = True


@dataclass(frozen=True)
class FoldedBlock:
    """One block as it is deployed; the layers of body and shortcut are those of :attr:`Block.graph`."""

    block: Block
    body: tuple[FoldedLayer, ...]
    shortcut: tuple[FoldedLayer, ...] | None

    def run(self, x: _Map, at: Callable[[str, torch.Tensor, bool], Round | None]) -> _Map:
        """Run the block; ``at`` says how to round at a place, from its name, the map there, and whether that has negative values."""
        if self.block.kind == "dequantize":
            return _Map(x.values, None, x.signed)
        if self.block.kind == "quantize":
            return _rounded(x.values, at("out", x.values, x.signed), x.signed)
        y = self._path("body", self.body, x, at)
        if self.shortcut is None:
            return y
        total = F.relu(y.values + self._path("shortcut", self.shortcut, x, at).values)
        return _rounded(total, at("out", total, False), False)

    @staticmethod
    def _path(name: str, layers: Sequence[FoldedLayer], x: _Map, at: Callable[[str, torch.Tensor, bool], Round | None]) -> _Map:
        for index, layer in enumerate(layers):
            values, signed = layer(x.values, x.grid), not layer.layer.relu
            if layer.layer.op == "conv":
                x = _rounded(values, at(f"{name}{index}", values, signed), signed)
            else:  # averages and maxima stay on the grid of their input, and the classifier's outputs are floats
                x = _Map(values, x.grid if layer.layer.pooling else None, x.signed)
        return x


def _rounded(values: torch.Tensor, grid: Round | None, signed: bool) -> _Map:
    return _Map(grid(values) if grid else values, grid, signed)


@dataclass(frozen=True)
class Deployed:
    """A network as it is shipped.

    In quantised blocks the output of every convolution (after its ReLU) and of the residual sum (after its ReLU) is quantised, weights are
    symmetric with one scale an output channel, and the input is what the block or the boundary before has produced. In blocks of 16-bit
    floats weights and the same outputs are rounded to these.

    Attributes:
        blocks: in the order of execution, precision boundaries included.
        quantizers: by place.
        symmetric: whether quantisers have no zero points and the last layer before a sum has none at all; see
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
        return self.run(x, lambda place, y, bits, signed: None if self._summed(place) else self.quantizers[place])

    def fit(self, images: torch.Tensor) -> None:
        """Choose all quantisers on real images, each on feature maps that the ones before it have already rounded.

        Args:
            images: normalised training images, shape ``(n, channels, h, w)``.
        """

        def at(place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
            if self._summed(place):
                return None
            self.quantizers[place] = fit_quantizer(y, bits, signed, self.symmetric)
            return self.quantizers[place]

        self.run(images, at)

    def _summed(self, place: Place) -> bool:
        """Whether the map there goes into a sum as it is."""
        block = self.blocks[place[0]]
        return self.symmetric and block.shortcut is not None and place[1] == f"body{len(block.body) - 1}"

    def run(self, x: torch.Tensor, at: Callable[[Place, torch.Tensor, int, bool], Round | None]) -> torch.Tensor:
        """Run the network with quantisers of one's own.

        Args:
            x: normalised images, shape ``(n, channels, h, w)``.
            at: the quantiser of a place, if any, from the place, the feature map there, its bits, and whether it has negative values.

        Returns:
            Logits, shape ``(n, classes)``.
        """
        value = _Map(resize(x, self.resolution))
        for number, folded in enumerate(self.blocks):
            value = folded.run(value, partial(_rounding, at, number, folded.block))
        return value.values


def _rounding(
    at: Callable[[Place, torch.Tensor, int, bool], Round | None], number: int, block: Block, place: str, y: torch.Tensor, signed: bool
) -> Round | None:
    if block.bits.quantized:
        return at((number, place), y, block.bits.activation_bits, signed)
    return _HALVES.get(block.bits.dense, _HALVES["fp16"]) if block.bits.activation_bits == 16 else None


def _to_fp16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float16).to(x.dtype)


def _to_bf16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


_HALVES: dict[str, Round] = {"fp16": _to_fp16, "bf16": _to_bf16}


def deploy(network: nn.Sequential, blocks: Sequence[Block], images: torch.Tensor, symmetric: bool = False) -> Deployed:
    """Fold and quantise a plain network.

    Args:
        network: from :meth:`hwsearch.nn.Supernet.extract`, its batch norms calibrated; it is left as it was.
        blocks: what it is, as ``space.blocks(row)`` tells.
        images: normalised training images to choose the quantisers on, shape ``(n, channels, h, w)``.
        symmetric: as of :class:`Deployed`.

    Raises:
        InvalidInput: the network does not have these blocks.
        Unsupported: 8-bit floats.
    """
    with torch.inference_mode():
        deployed = Deployed(fold(network, blocks), {}, symmetric)
        if any(block.bits.quantized for block in blocks):
            deployed.fit(images)
    return deployed


def fold(network: nn.Sequential, blocks: Sequence[Block], *, straight: bool = False) -> tuple[FoldedBlock, ...]:
    """The blocks of a plain network with their batch norms folded in and their weights rounded.

    Args:
        network: its batch norms calibrated.
        blocks: what it is.
        straight: let gradients pass rounded weights as if they were not (straight-through estimation, Bengio et al., 2013).

    Raises:
        InvalidInput, Unsupported: as :func:`deploy` does.
    """
    modules = [module for module in network if not isinstance(module, Resize)]
    if len(modules) != len(blocks):
        raise InvalidInput(f"The network has {len(modules)} blocks, and {len(blocks)} were expected.")
    return tuple(_fold(module, block, straight) for module, block in zip(modules, blocks, strict=True))


def _fold(module: nn.Module, block: Block, straight: bool) -> FoldedBlock:
    graph = block.graph
    if block.bits.name.startswith("fp8"):
        raise Unsupported(f"Block {block.key}: evaluation knows integers and floats of 16 and 32 bits, not {block.precision}.")
    if block.boundary:
        return FoldedBlock(block, (), None)
    if not isinstance(module, Residual):
        return FoldedBlock(block, _fold_layers(module, graph.body, block, straight), None)
    shortcut = _fold_layers(module.shortcut, graph.shortcut or (), block, straight)
    return FoldedBlock(block, _fold_layers(module.body, graph.body, block, straight), shortcut)


def _fold_layers(module: nn.Module, layers: Sequence[Layer], block: Block, straight: bool) -> tuple[FoldedLayer, ...]:
    """Weights and biases with the batch norms folded in: ``w g / s`` and ``b - m g / s``, ``s = sqrt(var + eps)``."""
    weighty = iter([one for one in module.modules() if isinstance(one, nn.Conv2d | nn.Linear)])
    norms = iter([one for one in module.modules() if isinstance(one, nn.BatchNorm2d)])
    folded = []
    for layer in layers:
        if layer.pooling:
            folded.append(FoldedLayer(layer, torch.empty(0), torch.empty(0)))
            continue
        one = next(weighty)
        weight, bias = one.weight, one.bias
        if isinstance(one, nn.Conv2d):
            norm = next(norms)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weight = weight * factor.view(-1, 1, 1, 1)
            bias = norm.bias - norm.running_mean * factor
        assert bias is not None
        rounded = weight.detach() * mask(weight) if block.bits.sparse and layer.sparsable else weight.detach()
        rounded = _round_weight(rounded, block)
        weight = weight + (rounded - weight).detach() if straight else rounded
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        folded.append(FoldedLayer(layer, weight, bias if straight else bias.detach().clone()))
    return tuple(folded)


def _round_weight(weight: torch.Tensor, block: Block) -> torch.Tensor:
    """A weight, detached, as its block stores it."""
    bits = block.bits
    if bits.weight_bits <= 8:
        return quantize_weight(weight, bits.weight_bits)
    return _HALVES[bits.dense](weight) if bits.weight_bits == 16 else weight.clone()
