"""Deployed networks: batch norms folded and feature maps quantised, exactly as the exported graph computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..blocks import Block, Layer
from ..errors import InvalidInput, Unsupported
from .plain import Residual, Resize, resize
from .quantize import Quantizer, fit_quantizer, quantize_weight

Place = tuple[int, str]
"""Where a feature map is quantised: the number of the block, and ``"body0"``, ``"shortcut0"`` or ``"out"``."""


@dataclass(frozen=True)
class FoldedLayer:
    """One layer as it is deployed.

    Attributes:
        layer: what it is.
        weight: the batch norm folded in; rounded where the block is quantised. Shape ``(cout, cin / groups, k, k)`` or ``(cout, cin)``.
        bias: shape ``(cout,)``.
    """

    layer: Layer
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the layer, its ReLU included."""
        layer = self.layer
        if layer.op == "linear":
            return F.linear(x.mean(dim=(2, 3)), self.weight, self.bias)
        x = F.conv2d(x, self.weight, self.bias, layer.stride, layer.kernel // 2, 1, layer.groups)
        return F.relu_(x) if layer.relu else x


@dataclass(frozen=True)
class FoldedBlock:
    """One block as it is deployed; the layers of body and shortcut are those of :attr:`Block.graph`."""

    block: Block
    body: tuple[FoldedLayer, ...]
    shortcut: tuple[FoldedLayer, ...] | None


@dataclass(frozen=True)
class Deployed:
    """A network as it is shipped.

    In quantised blocks the output of every convolution (after its ReLU) and of the residual sum (after its ReLU) is quantised, weights are
    symmetric with one scale an output channel, and the input is what the block or the boundary before has produced.

    Attributes:
        blocks: in the order of execution, precision boundaries included.
        quantizers: by place.
    """

    blocks: tuple[FoldedBlock, ...]
    quantizers: dict[Place, Quantizer]

    @property
    def resolution(self) -> int:
        """Height and width of the input, px."""
        return self.blocks[0].block.size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(layer.weight.device for block in self.blocks for layer in block.body)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape ``(n, classes)``, of normalised images of any size, shape ``(n, channels, h, w)``."""
        return self._run(x, lambda place, y, bits, signed: self.quantizers[place](y))

    def fit(self, images: torch.Tensor) -> None:
        """Choose all quantisers on real images, each on feature maps that the ones before it have already rounded.

        Args:
            images: normalised training images, shape ``(n, channels, h, w)``.
        """

        def at(place: Place, y: torch.Tensor, bits: int, signed: bool) -> torch.Tensor:
            self.quantizers[place] = fit_quantizer(y, bits, signed)
            return self.quantizers[place](y)

        self._run(images, at)

    def _run(self, x: torch.Tensor, at: Callable[[Place, torch.Tensor, int, bool], torch.Tensor]) -> torch.Tensor:
        x = resize(x, self.resolution)
        positive = False
        for number, folded in enumerate(self.blocks):
            block = folded.block
            bits = block.bits.activation_bits
            if block.kind == "dequantize":
                continue
            if block.kind == "quantize":
                x = at((number, "out"), x, bits, not positive)
                continue
            y = x
            for path, layers in (("body", folded.body), ("shortcut", folded.shortcut or ())):
                part = x
                for index, layer in enumerate(layers):
                    part = layer(part)
                    if block.bits.quantized:
                        part = at((number, f"{path}{index}"), part, bits, not layer.layer.relu)
                if path == "body":
                    y = part
                elif folded.shortcut is not None:
                    y = F.relu(y + part)
            if folded.shortcut is not None and block.bits.quantized:
                y = at((number, "out"), y, bits, False)
            positive = folded.shortcut is not None or folded.body[-1].layer.relu
            x = y
        return x


def deploy(network: nn.Sequential, blocks: Sequence[Block], images: torch.Tensor) -> Deployed:
    """Fold and quantise a plain network.

    Args:
        network: from :meth:`hwsearch.nn.Supernet.extract`, its batch norms calibrated; it is left as it was.
        blocks: what it is, as ``space.blocks(row)`` tells.
        images: normalised training images to choose the quantisers on, shape ``(n, channels, h, w)``.

    Raises:
        InvalidInput: the network does not have these blocks.
        Unsupported: a precision that is neither fp32 nor quantised, or a quantised linear layer.
    """
    modules = [module for module in network if not isinstance(module, Resize)]
    if len(modules) != len(blocks):
        raise InvalidInput(f"The network has {len(modules)} blocks, and {len(blocks)} were expected.")
    with torch.inference_mode():
        folded = tuple(_fold(module, block) for module, block in zip(modules, blocks, strict=True))
        deployed = Deployed(folded, {})
        if any(block.bits.quantized for block in blocks):
            deployed.fit(images)
    return deployed


def _fold(module: nn.Module, block: Block) -> FoldedBlock:
    bits = block.bits
    graph = block.graph
    if block.precision != "fp32" and not bits.quantized:
        raise Unsupported(f"Block {block.key}: evaluation knows fp32 and quantised precisions, not {block.precision}.")
    if bits.quantized and any(layer.op == "linear" for layer in graph.layers):
        raise Unsupported(f"Block {block.key}: linear layers stay in fp32.")
    if block.boundary:
        return FoldedBlock(block, (), None)
    if not isinstance(module, Residual):
        return FoldedBlock(block, _fold_layers(module, graph.body, block), None)
    shortcut = _fold_layers(module.shortcut, graph.shortcut or (), block)
    return FoldedBlock(block, _fold_layers(module.body, graph.body, block), shortcut)


def _fold_layers(module: nn.Module, layers: Sequence[Layer], block: Block) -> tuple[FoldedLayer, ...]:
    """Weights and biases with the batch norms folded in: ``w g / s`` and ``b - m g / s``, ``s = sqrt(var + eps)``."""
    weighty = [one for one in module.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    norms = iter([one for one in module.modules() if isinstance(one, nn.BatchNorm2d)])
    folded = []
    for one, layer in zip(weighty, layers, strict=True):
        if isinstance(one, nn.Linear):
            folded.append(FoldedLayer(layer, one.weight.clone(), one.bias.clone()))
            continue
        norm = next(norms)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = one.weight * factor.view(-1, 1, 1, 1)
        bias = norm.bias - norm.running_mean * factor
        if block.bits.quantized:
            weight = quantize_weight(weight, block.bits.weight_bits)
        folded.append(FoldedLayer(layer, weight.contiguous(memory_format=torch.channels_last), bias))
    return tuple(folded)
