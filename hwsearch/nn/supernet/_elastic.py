"""Elastic layers and blocks: one set of weights from which narrower ones take their first channels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from ...backends._torch_blocks import Step, activate, convolve, flat, flow, pooling
from ...errors import InvalidInput
from ...networks._blocks import Block, Layer
from ..quantization._sparse import best_order, thin
from ..training._norms import normalised
from ..training._processes import ALONE, Processes

PARTS = ("body", "excite", "shortcut")
"""The parts of a block's graph that hold layers."""
_UNITS = 32
"""Hidden units of the networks that make weights, as in the code of MetaPruning."""


class ElasticNorm(nn.BatchNorm2d):
    """A batch norm that serves any number of channels up to its own.

    In training mode it normalises by the batch and, unless ``momentum`` is set (:func:`hwsearch.nn.calibrate_bn` does), keeps no
    running statistics: those of one sub-network are wrong for another (Slimmable Networks, ICLR'19, section 3.3).

    Attributes:
        team: the processes whose images are the batch.
    """

    team: Processes = ALONE

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` of shape ``(n, c, h, w)``, ``c`` at most the number of channels."""
        c = x.shape[1]
        if self.training and not self.momentum:
            return normalised(x, self.weight[:c], self.bias[:c], self.eps, self.team)
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.running_mean[:c], self.running_var[:c]
        return F.batch_norm(x, mean, var, self.weight[:c], self.bias[:c], self.training, self.momentum or 0.0, self.eps)


class ElasticLayer(nn.Module):
    """A convolution with batch norm, a linear layer, or a pooling, as large as the largest of the layers that may stand here.

    Of a kernel a smaller one takes the middle. Where a depthwise convolution has kernels of several sizes, each step to the next smaller
    one goes through a matrix of its own, which is learned, shared by all channels, and the identity at first (Once-for-All, ICLR'20,
    section 3.3); these are the ``matrices``, called ``"7to5"`` and so on.

    Its weights may also be made by a small network from the scales of the layer that it runs as: its input and output channels and its
    kernel, as shares of the largest ones (MetaPruning, Liu et al., ICCV'19, section 3.1). Then no two widths share the values of weights.

    Args:
        layers: every layer that may stand here.
        generated: whether the weights are made so.
    """

    def __init__(self, layers: Sequence[Layer], generated: bool = False) -> None:
        super().__init__()
        self.op = layers[0].op
        cout = max(layer.cout for layer in layers)
        cin = max(layer.cin // layer.groups for layer in layers)
        kernels = [layer.kernel for layer in layers]
        self.kernel = max(kernels)
        self.norm: ElasticNorm | None = None
        self.maker: nn.Sequential | None = None
        self.matrices = nn.ParameterDict()
        self.bias: nn.Parameter | None = None
        if layers[0].pooling:
            self.register_parameter("weight", None)
        elif self.op == "conv":
            self.weight = nn.Parameter(torch.empty(cout, cin, self.kernel, self.kernel))
            self.norm = ElasticNorm(cout)
            nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
            if layers[0].groups > 1 and not generated:
                steps = range(self.kernel, min(kernels), -2)
                self.matrices.update({f"{size}to{size - 2}": nn.Parameter(torch.eye((size - 2) ** 2)) for size in steps})
        else:
            self.weight = nn.Parameter(torch.empty(cout, cin))
            if layers[0].activation == "none":
                nn.init.normal_(self.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
            if layers[0].bias:
                self.bias = nn.Parameter(torch.zeros(cout))
        self.shape: tuple[int, ...] = () if layers[0].pooling else tuple(self.weight.shape)
        if self.shape and generated:
            self.maker = _maker(self.weight)
            self.register_parameter("weight", None)

    def inherit(self, other: ElasticLayer) -> None:
        """Take over what a layer that is at least as large has for the largest layer that may stand here."""
        if self.op not in ("conv", "linear"):
            return
        with torch.no_grad():
            cout, cin, *kernel = self.shape
            self.weight.copy_(other._view(cout, cin, *kernel[:1]))
            for step, matrix in self.matrices.items():
                if step in other.matrices:
                    matrix.copy_(other.matrices[step])
            if self.bias is not None and other.bias is not None:
                self.bias.copy_(other.bias[:cout])
            if self.norm is not None and other.norm is not None:
                self.norm.weight.copy_(other.norm.weight[:cout])
                self.norm.bias.copy_(other.norm.bias[:cout])

    def sliced(self, layer: Layer) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias of ``layer``: the first channels, and the kernel of its size."""
        return self._view(layer.cout, layer.cin // layer.groups, layer.kernel), None if self.bias is None else self.bias[: layer.cout]

    def whole(self) -> torch.Tensor:
        """The weight of the largest layer that may stand here, whether it is kept or made."""
        cout, cin, *kernel = self.shape
        return self._view(cout, cin, *kernel[:1])

    def _view(self, cout: int, cin: int, kernel: int = 1) -> torch.Tensor:
        weight = (self.weight if self.maker is None else self._made(cout, cin, kernel))[:cout, :cin]
        if kernel == self.kernel:
            return weight
        for step in range(self.kernel, kernel, -2) if self.matrices else ():
            weight = weight[:, :, 1:-1, 1:-1]
            weight = F.linear(weight.flatten(2), self.matrices[f"{step}to{step - 2}"]).view_as(weight)
        edge = (weight.shape[-1] - kernel) // 2
        return weight[:, :, edge : edge + kernel, edge : edge + kernel]

    def _made(self, cout: int, cin: int, kernel: int) -> torch.Tensor:
        """The weights of the largest layer as they are made for a layer of these channels and this kernel."""
        assert self.maker is not None
        scales = [cin / self.shape[1], cout / self.shape[0], kernel / self.kernel]
        made: torch.Tensor = self.maker(torch.tensor(scales, device=next(self.maker.parameters()).device))
        return made.view(self.shape)

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
            Shape ``(n, layer.cout, out_size, out_size)``; ``(n, layer.cout)`` for a linear layer, which averages over a map first.
        """
        if layer.pooling:
            return pooling(layer)(x)  # type: ignore[no-any-return]
        weight, bias = self.sliced(layer)
        weight = thin(weight) if sparse and layer.sparsable else weight
        x = F.linear(flat(x), weight, bias) if self.norm is None else self.norm(convolve(x, weight, None, layer))
        return activate(x, layer.activation, inplace=True)


class ElasticBlock(nn.Module):
    """One place of the supernet: the layers of a block and, wherever any block that may stand here has one, a shortcut convolution.

    Args:
        blocks: every block that may stand here.
        generated: whether the weights of its layers are made from their widths.

    Raises:
        InvalidInput: they do not share one structure.
    """

    def __init__(self, blocks: Sequence[Block], generated: bool = False) -> None:
        super().__init__()
        if len({block.kind for block in blocks}) != 1:
            raise InvalidInput(f"One slot of a supernet holds one kind of block, not {sorted({block.kind for block in blocks})}.")
        self.body, self.excite, self.shortcut = (_modules([block.graph.parts[part] for block in blocks], generated) for part in PARTS)
        last = self.body[-1]
        if all(block.graph.shortcut is not None for block in blocks) and isinstance(last.norm, ElasticNorm):
            nn.init.zeros_(last.norm.weight)

    def forward(self, x: torch.Tensor, block: Block) -> torch.Tensor:
        """Run as ``block``, one of those that this was built for; ``x`` has the shape ``(n, block.cin, block.size, block.size)``."""
        graph, sparse = block.graph, block.bits.sparse

        def part(elastic: nn.ModuleList, layers: Sequence[Layer]) -> list[Step]:
            return [partial(one, layer=layer, sparse=sparse) for one, layer in zip(elastic, layers, strict=False)] if layers else []

        joined = None if graph.shortcut is None else partial(activate, name=graph.joined)
        return flow(x, part(self.body, graph.body), part(self.excite, graph.excite), part(self.shortcut, graph.shortcut or ()), joined)

    def layers(self, block: Block) -> Iterator[tuple[str, int, ElasticLayer, Layer]]:
        """The layers of ``block``: part (one of :data:`PARTS`), number in it, elastic layer, and what it runs as."""
        for part, layers in block.graph.parts.items():
            for number, (elastic, layer) in enumerate(zip(getattr(self, part), layers, strict=False)):
                yield part, number, elastic, layer

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


def _modules(stacks: Sequence[Sequence[Layer]], generated: bool) -> nn.ModuleList:
    return nn.ModuleList(ElasticLayer(layers, generated) for layers in zip(*filter(None, stacks), strict=True))


def _maker(weight: torch.Tensor) -> nn.Sequential:
    """Two linear layers from three scales to weights.

    The last bias is the given weights, so that all scales begin near them; how they differ between scales, by about a fifth of the spread
    of the given ones at first, comes from the weights of the last layer.
    """
    last = nn.Linear(_UNITS, weight.numel())
    with torch.no_grad():
        last.weight.normal_(0.0, float(weight.std()) / _UNITS**0.5)
        last.bias.copy_(weight.flatten())
    return nn.Sequential(nn.Linear(3, _UNITS), nn.ReLU(), last)
