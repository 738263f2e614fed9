"""Any block as ordinary torch modules: its graph, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import require
from ..networks._blocks import Block, Layer

require("torch", feature="Running blocks in PyTorch", extra="torch")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

if TYPE_CHECKING:
    from ._onnx._graph import BlockWeights

Step = Callable[[torch.Tensor], torch.Tensor]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "swish": nn.SiLU,
    "none": nn.Identity,
}
"""The module of each activation."""
_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {"relu": F.relu, "relu6": F.relu6, "hswish": F.hardswish, "swish": F.silu}


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: Layer) -> torch.Tensor:
    """A convolution.

    Args:
        x: shape ``(n, cin, size, size)``.
        weight: shape ``(cout, cin / groups, kernel, kernel)``.
        bias: shape ``(cout,)``, or none.
        layer: its stride, kernel and groups.
    """
    return F.conv2d(x, weight, bias, stride=layer.stride, padding=layer.kernel // 2, groups=layer.groups)


class GraphLayer(nn.Module):
    """One layer with its batch norm and its activation.

    Args:
        layer: what it computes.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm: nn.Module | None = None
        if layer.op == "conv":
            pad = layer.kernel // 2
            self.op: nn.Module = nn.Conv2d(layer.cin, layer.cout, layer.kernel, layer.stride, pad, groups=layer.groups, bias=False)
            self.norm = nn.BatchNorm2d(layer.cout) if layer.bias else None
        elif layer.op == "linear":
            self.op = nn.Linear(layer.cin, layer.cout, bias=layer.bias)
        else:
            self.op = pooling(layer)
        self.activation = ACTIVATIONS[layer.activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape ``(n, cin, size, size)`` to ``(n, cout, out_size, out_size)``; to ``(n, cout)`` for a linear layer."""
        x = self.op(flat(x) if isinstance(self.op, nn.Linear) else x)
        x = x if self.norm is None else self.norm(x)
        out: torch.Tensor = self.activation(x)
        return out


class GraphBlock(nn.Module):
    """One block of any kind.

    Example:
        >>> import torch
        >>> from hwsearch.backends import GraphBlock
        >>> from hwsearch.networks import Block
        >>> module = GraphBlock(Block("basic", 16, 32, 28, mids=(24,), kernel=3, stride=2))
        >>> module(torch.randn(2, 16, 28, 28)).shape
        torch.Size([2, 32, 14, 14])

    Args:
        block: what it computes.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        graph = block.graph
        self.residual = graph.shortcut is not None
        self.body = nn.ModuleList(map(GraphLayer, graph.body))
        self.excite = nn.ModuleList(map(GraphLayer, graph.excite))
        self.shortcut = nn.ModuleList(map(GraphLayer, graph.shortcut or ()))
        self.joined = ACTIVATIONS[graph.joined]() if self.residual else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape ``(n, cin, size, size)`` to ``(n, cout, out_size, out_size)``; to ``(n, cout)`` for a head."""
        return flow(x, list(self.body), list(self.excite), self.shortcut, self.joined)


def flow(x: torch.Tensor, body: Sequence[Step], excite: Sequence[Step], shortcut: Iterable[Step], joined: Step | None) -> torch.Tensor:
    """Run the layers of a block.

    Args:
        x: shape ``(n, cin, size, size)``.
        body: layers in order.
        excite: what squeeze-and-excite scales the channels between the last two of them by, before its hard sigmoid; empty for nothing.
        shortcut: the layers beside the body, none for the identity.
        joined: what the sum of body and shortcut goes through; ``None`` if there is no sum.

    Returns:
        Shape ``(n, cout, out_size, out_size)``; ``(n, cout)`` for a head.
    """
    y = x
    for number, layer in enumerate(body, start=1):
        if excite and number == len(body):
            y = excited(y, excite)
        y = layer(y)
    if joined is None:
        return y
    for layer in shortcut:
        x = layer(x)
    return joined(x + y)


def excited(x: torch.Tensor, layers: Sequence[Step]) -> torch.Tensor:
    """A feature map of shape ``(n, c, h, w)``, its channels scaled by a hard sigmoid (squeeze-and-excite, Hu et al., CVPR'18)."""
    scale = x
    for layer in layers:
        scale = layer(scale)
    return x * F.hardsigmoid(scale)[:, :, None, None]


def flat(x: torch.Tensor) -> torch.Tensor:
    """What a linear layer reads, shape ``(n, c)``: the mean of a feature map of shape ``(n, c, h, w)``, or ``x`` as it is."""
    return x.mean(dim=3).mean(dim=2) if x.ndim == 4 else x


def activate(x: torch.Tensor, name: str, inplace: bool = False) -> torch.Tensor:
    """What follows a layer or a sum, by its name in :data:`hwsearch.networks.ACTIVATIONS`."""
    return x if name == "none" else _FUNCTIONS[name](x, inplace=inplace)


def pooling(layer: Layer) -> nn.MaxPool2d | nn.AvgPool2d:
    """The module of a pooling layer; averages count what is inside the feature map only."""
    if layer.op == "maxpool":
        return nn.MaxPool2d(layer.kernel, layer.stride, layer.kernel // 2)
    if layer.kernel == layer.stride:
        return nn.AvgPool2d(layer.kernel, layer.stride, ceil_mode=True)
    return nn.AvgPool2d(layer.kernel, layer.stride, layer.kernel // 2, count_include_pad=False)


def block_weights(network: nn.Sequential) -> tuple[BlockWeights, ...]:
    """The numbers of a network of :class:`GraphBlock` as :func:`hwsearch.backends._onnx._graph.build` takes them, batch norms folded.

    Args:
        network: in evaluation mode, such as an extracted one.

    Raises:
        MissingDependency: onnx is not installed.
    """
    from ._onnx._graph import BlockWeights, LayerWeights

    def folded(layer: GraphLayer) -> LayerWeights:
        if not isinstance(layer.op, nn.Conv2d | nn.Linear):
            return LayerWeights(np.zeros(0, np.float32), np.zeros(0, np.float32))
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
