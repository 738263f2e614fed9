"""Any block as ordinary torch modules: its graph, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..blocks import Block, Layer
from .plain import pooling

if TYPE_CHECKING:
    from ..backends.onnx_graph import BlockWeights

_ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "hswish": F.hardswish, "swish": F.silu}


class GraphLayer(nn.Module):
    """One layer with its batch norm and its activation.

    Args:
        layer: what it computes.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        self.norm: nn.Module | None = None
        if layer.op == "conv":
            pad = layer.kernel // 2
            self.op: nn.Module = nn.Conv2d(layer.cin, layer.cout, layer.kernel, layer.stride, pad, groups=layer.groups, bias=False)
            self.norm = nn.BatchNorm2d(layer.cout) if layer.bias else None
        elif layer.op == "linear":
            self.op = nn.Linear(layer.cin, layer.cout, bias=layer.bias)
        else:
            self.op = pooling(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape ``(n, cin, size, size)`` to ``(n, cout, out_size, out_size)``; to ``(n, cout)`` for a linear layer."""
        if self.layer.op == "linear" and x.ndim == 4:
            x = x.mean(dim=3).mean(dim=2)
        x = self.op(x)
        x = x if self.norm is None else self.norm(x)
        return _activate(x, self.layer.activation)


class GraphBlock(nn.Module):
    """One block of any kind.

    Args:
        block: what it computes.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        graph = block.graph
        self.residual, self.joined = graph.shortcut is not None, graph.joined
        self.body = nn.ModuleList(map(GraphLayer, graph.body))
        self.excite = nn.ModuleList(map(GraphLayer, graph.excite))
        self.shortcut = nn.ModuleList(map(GraphLayer, graph.shortcut or ()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape ``(n, cin, size, size)`` to ``(n, cout, out_size, out_size)``; to ``(n, cout)`` for a head."""
        y = x
        for number, layer in enumerate(self.body, start=1):
            if number == len(self.body) and len(self.excite):
                y = y * self._scale(y)
            y = layer(y)
        if not self.residual:
            return y
        for layer in self.shortcut:
            x = layer(x)
        return _activate(x + y, self.joined)

    def _scale(self, x: torch.Tensor) -> torch.Tensor:
        """What squeeze-and-excite multiplies each channel by, shape ``(n, c, 1, 1)``."""
        scale = x
        for layer in self.excite:
            scale = layer(scale)
        return F.hardsigmoid(scale)[:, :, None, None]


def _activate(x: torch.Tensor, name: str) -> torch.Tensor:
    return x if name == "none" else _ACTIVATIONS[name](x)


def block_weights(network: nn.Sequential) -> tuple[BlockWeights, ...]:
    """The numbers of a network of :class:`GraphBlock` as :func:`hwsearch.backends.onnx_graph.build` takes them, batch norms folded.

    Args:
        network: in evaluation mode, such as an extracted one.

    Raises:
        MissingDependency: onnx is not installed.
    """
    from ..backends.onnx_graph import BlockWeights, LayerWeights

    def folded(layer: GraphLayer) -> LayerWeights:
        if layer.layer.pooling:
            return LayerWeights(np.zeros(0, np.float32), np.zeros(0, np.float32))
        assert isinstance(layer.op, nn.Conv2d | nn.Linear)
        weight = layer.op.weight.detach().double()
        bias = torch.zeros(len(weight), dtype=torch.float64) if layer.op.bias is None else layer.op.bias.detach().double()
        if isinstance(layer.norm, nn.BatchNorm2d):
            norm = {name: tensor.double() for name, tensor in layer.norm.state_dict().items()}
            scale = norm["weight"] / torch.sqrt(norm["running_var"] + layer.norm.eps)
            weight = weight * scale[:, None, None, None]
            bias = norm["bias"] + (bias - norm["running_mean"]) * scale
        return LayerWeights(weight.float().numpy(), bias.float().numpy())

    def part(layers: nn.Module) -> tuple[LayerWeights, ...]:
        assert isinstance(layers, nn.ModuleList)
        return tuple(folded(layer) for layer in layers if isinstance(layer, GraphLayer))

    blocks = [module for module in network if isinstance(module, GraphBlock)]
    return tuple(BlockWeights(part(one.body), part(one.shortcut) if one.residual else None, excite=part(one.excite)) for one in blocks)
