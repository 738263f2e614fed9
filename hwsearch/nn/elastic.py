"""Elastic layers and blocks: one set of weights from which narrower ones take their first channels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..blocks import Block, Layer
from ..errors import InvalidInput, Unsupported
from .plain import pooling
from .sparse import best_order, thin


class ElasticNorm(nn.BatchNorm2d):
    """A batch norm that serves any number of channels up to its own.

    In training mode it normalises by the batch and, unless ``momentum`` is set (:func:`hwsearch.nn.calibrate_bn` does), keeps no
    running statistics: those of one sub-network are wrong for another (Slimmable Networks, ICLR'19, section 3.3).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` of shape ``(n, c, h, w)``, ``c`` at most the number of channels."""
        c = x.shape[1]
        assert self.running_mean is not None
        assert self.running_var is not None
        keep = not self.training or bool(self.momentum)
        mean, var = (self.running_mean[:c], self.running_var[:c]) if keep else (None, None)
        return F.batch_norm(x, mean, var, self.weight[:c], self.bias[:c], self.training, self.momentum or 0.0, self.eps)


class ElasticLayer(nn.Module):
    """A convolution with batch norm, a linear layer, or a pooling, as large as the largest of the layers that may stand here.

    Args:
        layers: every layer that may stand here.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.op = layers[0].op
        cout = max(layer.cout for layer in layers)
        cin = max(layer.cin // layer.groups for layer in layers)
        kernel = max(layer.kernel for layer in layers)
        self.norm: ElasticNorm | None = None
        if layers[0].pooling:
            self.register_parameter("weight", None)
        elif self.op == "conv":
            self.weight = nn.Parameter(torch.empty(cout, cin, kernel, kernel))
            self.register_parameter("bias", None)
            self.norm = ElasticNorm(cout)
            nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        else:
            self.weight = nn.Parameter(torch.empty(cout, cin))
            self.bias = nn.Parameter(torch.zeros(cout))
            nn.init.normal_(self.weight, std=0.01)

    def inherit(self, other: ElasticLayer) -> None:
        """Take over the first channels, and the middle of the kernel, of a layer that is at least as large."""
        with torch.no_grad():
            if self.op == "conv":
                edge = (other.weight.shape[-1] - self.weight.shape[-1]) // 2
                middle = slice(edge, edge + self.weight.shape[-1])
                self.weight.copy_(other.weight[: self.weight.shape[0], : self.weight.shape[1], middle, middle])
            elif self.op == "linear":
                self.weight.copy_(other.weight[: self.weight.shape[0], : self.weight.shape[1]])
                self.bias.copy_(other.bias[: self.bias.shape[0]])
            if self.norm is not None and other.norm is not None:
                self.norm.weight.copy_(other.norm.weight[: self.norm.weight.shape[0]])
                self.norm.bias.copy_(other.norm.bias[: self.norm.bias.shape[0]])

    def sliced(self, layer: Layer) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias of ``layer``: the first channels and the middle of the kernel."""
        weight = self.weight[: layer.cout, : layer.cin // layer.groups]
        if self.op == "linear":
            return weight, self.bias[: layer.cout]
        edge = (self.weight.shape[-1] - layer.kernel) // 2
        return weight[:, :, edge : edge + layer.kernel, edge : edge + layer.kernel], None

    def reorder(self, before: ElasticLayer) -> None:
        """Put the input channels, and the output channels of the layer before, into the order that 2:4 sparsity costs least."""
        order = best_order(self.weight)
        with torch.no_grad():
            self.weight.copy_(self.weight[:, order])
            before.weight.copy_(before.weight[order])
            if before.norm is not None:
                for tensor in (before.norm.weight, before.norm.bias):
                    tensor.copy_(tensor[order])

    def forward(self, x: torch.Tensor, layer: Layer, sparse: bool = False) -> torch.Tensor:
        """Run as ``layer``.

        Args:
            x: shape ``(n, layer.cin, layer.size, layer.size)``.
            layer: one of those that this was built for.
            sparse: whether with 2:4 sparse weights, where the layer is eligible.

        Returns:
            Shape ``(n, layer.cout, out_size, out_size)``; ``(n, layer.cout)`` for a linear layer, which averages over the map first.
        """
        if layer.pooling:
            return pooling(layer)(x)  # type: ignore[no-any-return]
        weight, bias = self.sliced(layer)
        weight = thin(weight) if sparse and layer.sparsable else weight
        if self.norm is None:
            return F.linear(x.mean(dim=(2, 3)), weight, bias)
        x = F.conv2d(x, weight, None, layer.stride, layer.kernel // 2, 1, layer.groups)
        x = self.norm(x)
        return F.relu(x, inplace=True) if layer.relu else x


class ElasticBlock(nn.Module):
    """One slot of the supernet: body and, wherever any block of the slot has one, a shortcut convolution.

    Args:
        blocks: every block that may stand here.

    Raises:
        InvalidInput: they do not share one structure.
        Unsupported: they are made of something else than convolutions with ReLUs, poolings, residual sums with a ReLU, and one linear
            layer.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        for block in blocks:
            _check_supported(block)
        if len({block.kind for block in blocks}) != 1:
            raise InvalidInput(f"One slot of a supernet holds one kind of block, not {sorted({block.kind for block in blocks})}.")
        bodies = [block.graph.body for block in blocks]
        shortcuts = [block.graph.shortcut for block in blocks if block.graph.shortcut]
        self.body = nn.ModuleList(ElasticLayer(layers) for layers in zip(*bodies, strict=True))
        self.shortcut = nn.ModuleList(ElasticLayer(layers) for layers in zip(*shortcuts, strict=True))
        last = self.body[-1]
        if blocks[0].graph.shortcut is not None and isinstance(last.norm, ElasticNorm):
            nn.init.zeros_(last.norm.weight)

    def forward(self, x: torch.Tensor, block: Block) -> torch.Tensor:
        """Run as ``block``, one of those that this was built for; ``x`` has the shape ``(n, block.cin, block.size, block.size)``."""
        graph, sparse = block.graph, block.bits.sparse
        y = x
        for elastic, layer in zip(self.body, graph.body, strict=True):
            y = elastic(y, layer, sparse)
        if graph.shortcut is None:
            return y
        for elastic, layer in zip(self.shortcut, graph.shortcut, strict=False):
            x = elastic(x, layer, sparse)
        return F.relu(y + x)

    def reorder(self, block: Block) -> None:
        """Put inner channels into the order that 2:4 sparsity costs least; ``block`` is the only one that stands here.

        The network computes what it did. Channels that a residual sum ties to other blocks stay where they are.
        """
        layers = zip(self.body, block.graph.body, strict=True)
        for (before, giving), (elastic, layer) in itertools.pairwise(layers):
            assert isinstance(elastic, ElasticLayer)
            assert isinstance(before, ElasticLayer)
            if layer.sparsable and giving.groups == 1 and not giving.pooling:
                elastic.reorder(before)


def _check_supported(block: Block) -> None:
    graph = block.graph
    plain = all(layer.pooling or (layer.op == "conv" and layer.activation in ("relu", "none")) for layer in graph.layers)
    classifier = len(graph.layers) == 1 and graph.body[0].op == "linear"
    if graph.excite or not (plain or classifier) or (graph.shortcut is not None and graph.joined != "relu"):
        raise Unsupported(
            f"Block {block.key}: a supernet trains convolutions, poolings, residual blocks with ReLUs, and one linear layer as head."
        )
