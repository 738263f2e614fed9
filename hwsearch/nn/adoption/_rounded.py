"""A network of the user's in training at the precisions of its kernels: rounded as its file will be, with steps that are learned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from ..quantization._learned import Grid
from ..quantization._quantize import Quantization
from ..training._maps import Inputs, Stages, noting
from ._folding import folded, pads
from ._quantized import Grids, Layer, calibrated, others
from ._run import execute
from ._state import get
from ._student import Student
from .rules.base import bound


class _Kernel(nn.Module):
    """A kernel in int8: its weights and bias in floats, and the grid of its weights."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, grid: Grid, learns: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.grid = nn.Parameter(weight, learns), nn.Parameter(bias, learns), grid
        self.grid.step.requires_grad_(learns)

    def layer(self) -> Layer:
        """The integers that it stands for now."""
        steps, (least, most) = self.grid.steps, self.grid.range
        values = torch.round(self.weight.detach() / steps.view(-1, *[1] * (self.weight.ndim - 1))).clamp_(least, most)
        return Layer(values.to(torch.int8).cpu(), steps.cpu(), self.bias.detach().cpu().clone())


class _Parts(nn.Module):
    """Everything that is learned: the graph's own tensors, the kernels, and the grids of feature maps."""

    def __init__(self, graph: fx.GraphModule, kernels: list[_Kernel], maps: list[Grid]) -> None:
        super().__init__()
        self.graph, self.kernels, self.maps = graph, nn.ModuleList(kernels), nn.ModuleList(maps)


class Rounded(Student):
    """A graph with kernels in int8, as :func:`hwsearch.nn.adoption.quantize` makes it, whose weights and steps are learned.

    Feature maps, weights and biases are rounded by the rules of the export. Gradients pass the rounding as if it were not there, but not
    the clipping, and steps are learned with the weights (Esser et al., ICLR'20). Training begins with the calibrated network, its
    corrections included. Batch norms have become part of the kernels; those that cannot keep their statistics.

    Args:
        network: a trained network in floats; left as it is.
        images: inputs to calibrate on.
        precision: of all kernels, or of some by name or pattern of their weights.
        quantization: how the quantisers are chosen that it begins with.
        frozen: names of tensors that are not trained.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        images: Inputs,
        precision: str | Mapping[str, str],
        quantization: Quantization,
        frozen: Collection[str] = (),
    ) -> None:
        self._grids = grids = calibrated(network, images, precision, quantization)
        self._few = tuple(each[:2] for each in images)
        graph, bits = grids.network, min(8, quantization.weight_bits)
        still = {name for name, each in network.named_parameters() if not each.requires_grad} | set(frozen)
        for name, parameter in graph.named_parameters():
            parameter.requires_grad_(name not in still)
        self._kernels: dict[fx.Node, _Kernel] = {}
        for node, layer in grids.layers.items():
            name = str(bound(node)["weight"].target)
            get(graph, name).requires_grad_(False)
            factor = torch.ones_like(layer.steps) if layer.factor is None else layer.factor
            weight = get(graph, name).detach() * factor.view(-1, *[1] * (layer.values.ndim - 1))
            grid = Grid(layer.steps, 0, bits)
            self._kernels[node] = _Kernel(weight, layer.bias, grid, name not in still)
        # Operations that keep the grid of what they read share it.
        own = {node: quantizer for node, quantizer in grids.found.items() if node not in grids.same}
        self._maps = {node: Grid(torch.tensor(each.scale), each.zero, each.bits) for node, each in own.items()}
        self.network = _Parts(graph, list(self._kernels.values()), list(self._maps.values()))

    def __call__(self, inputs: Inputs, stages: Stages | None = None) -> list[torch.Tensor]:
        """The outputs, everything rounded."""
        network, note = self._grids.network, noting(self._grids.network, stages)

        def after(node: fx.Node, value: Any) -> Any:
            return note(node, self._after(node, value))

        return execute(network, inputs, compute=self._compute, after=after, grad=torch.is_grad_enabled())

    def _map(self, node: fx.Node) -> Grid:
        return self._maps[self._grids.same.get(node, node)]

    def _compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target: Any = node.target
        if node not in self._kernels:
            return target(*self._read(node.args, args), **kwargs) if node in self._grids.integral else NotImplemented
        kernel = self._kernels[node]
        x = self._read(node.args[0], args[0])
        return target(x, kernel.grid(kernel.weight), kernel.bias, *args[3:], **others(kwargs))

    def _read(self, given: Any, value: Any) -> Any:
        """What an operation in integers reads, rounded."""
        if isinstance(given, list | tuple):
            return [self._read(each, part) for each, part in zip(given, value, strict=True)]
        return self._map(given)(value) if isinstance(given, fx.Node) and given in self._grids.before else value

    def _after(self, node: fx.Node, value: Any) -> Any:
        rounds = node in self._grids.after or (node in self._grids.same and not pads(node))
        return self._map(node)(value) if rounds else value

    def settle(self, batches: Iterable[Inputs]) -> None:
        """Nothing: all that is rounded by is learned."""

    def result(self) -> fx.GraphModule:
        """The graph that rounds, as it is exported."""
        grids = self._grids
        copy = folded(grids.network, tuple(each.to(next(self.network.parameters()).device) for each in self._few)).cpu()
        by: dict[str, fx.Node] = {node.name: node for node in copy.graph.nodes}

        def there(node: fx.Node) -> fx.Node:
            return by[node.name]

        fresh = Grids(copy, {there(node) for node in grids.kernels}, grids.quantization)
        fresh.layers = {there(node): kernel.layer() for node, kernel in self._kernels.items()}
        fresh.found = {there(node): self._map(node).quantizer for node in grids.found}
        return fresh.build()
