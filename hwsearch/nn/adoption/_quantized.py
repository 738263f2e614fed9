"""A graph with integer kernels: which operations are on a grid, the grids fitted to images, and the graph that computes it.

The result is an ordinary graph in which feature maps and weights of the kernels in int8 are rounded, so what PyTorch computes for it is
what the ONNX file computes that is written of it. The rules are those of networks of blocks (``docs/quantization.md``): maps have 8 bits
with a zero point, one grid each; weights are symmetric with one step an output channel; biases have 32 bits; linear layers give floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch
from torch import fx, nn

from ...errors import InvalidInput, Unsupported
from ..quantization._quantize import STANDARD, Quantization, Quantizer, fit_quantizer, quantize_weight, weight_steps
from ._folding import folded, name_of, pads
from ._formats import CURVES, JOINS, MOVES, POOLS, PRECISIONS, RELUS, able, origins, tensors_of, weighted
from ._rounding import integers, rounded
from ._run import Before, execute
from ._state import get, put
from .rules.base import bound, shape_of

Moments = tuple[torch.Tensor, torch.Tensor]
"""Means and standard deviations of the results of a kernel, shapes ``(cout,)``."""
_MOST_VALUES = 2**27
"""The largest feature map of all calibration images has at most this many values."""


def quantize(
    network: fx.GraphModule,
    images: Sequence[torch.Tensor],
    precision: str | Mapping[str, str] | None = None,
    quantization: Quantization = STANDARD,
) -> fx.GraphModule:
    """A network with some kernels in int8, calibrated on images; it shares nothing with the whole one.

    Convolutions, and linear layers that read vectors, can be in int8. Poolings and activations behind such are as well, and sums, products
    and cats whose first operand is in integers; everything else computes in floats.

    Args:
        network: a graph, such as a cut network.
        images: inputs to calibrate on, one tensor for each input, shapes ``(n, ...)``; as many are used as fit into memory.
        precision: of all kernels, or of some by name or pattern of their weights (``"features.*"``); the last that fits counts. If omitted,
            what the network was extracted with, or int8 for all kernels of one that does not say.
        quantization: how ranges are chosen, what is corrected, and how many bits weights have.

    Raises:
        InvalidInput: a precision that is neither fp32 nor int8, or a name that stands for no kernel.
        Unsupported: grids without zero points, or weights with codebooks.

    Example:
        >>> import hwsearch
        >>> import torch
        >>> from hwsearch.nn.adoption import quantize
        >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> images = torch.randn(16, 3, 8, 8)
        >>> rounded = quantize(hwsearch.adopt(module, images[:1]).extract({}), [images], "int8")
        >>> rounded(images).shape
        torch.Size([16, 4, 4, 4])
    """
    return calibrated(network, images, precision, quantization).build()


def rounds(network: fx.GraphModule) -> bool:
    """Whether a graph is one that :func:`quantize` returned."""
    return any(node.target is rounded or node.target is integers for node in network.graph.nodes)


def begun(
    network: fx.GraphModule, images: Sequence[torch.Tensor], precision: str | Mapping[str, str] | None, quantization: Quantization
) -> Grids:
    """What will be rounded of a network, without grids yet; :func:`quantize` describes the arguments and errors."""
    if quantization.symmetric:
        raise Unsupported("Modules are quantised with zero points only, which engines do not take. Export for 'onnxruntime' or 'openvino'.")
    quantization.check_linear("Kernels of a module compute in int8 with")
    plain = folded(network, tuple(each[:2] for each in images))
    return Grids(plain, _chosen(plain, precision or planned(network) or "int8"), quantization)


def calibrated(
    network: fx.GraphModule, images: Sequence[torch.Tensor], precision: str | Mapping[str, str] | None, quantization: Quantization
) -> Grids:
    """The grids of a network, fitted to images; :func:`quantize` describes the arguments and errors."""
    grids = begun(network, images, precision, quantization)
    largest = max(prod(shape_of(node)[1:]) for node in grids.network.graph.nodes if node.op == "call_function")
    count = max(min(len(images[0]), _MOST_VALUES // max(largest, 1)), min(len(images[0]), 16))
    grids.fit(tuple(each[:count] for each in images))
    return grids


def planned(network: nn.Module) -> dict[str, str]:
    """The precisions that a network was extracted with, by the names of weights; empty where it does not say."""
    plan = network.meta.get("plan") if isinstance(network, fx.GraphModule) else None
    return dict((plan or {}).get("precisions", {}))


def _chosen(network: fx.GraphModule, precision: str | Mapping[str, str]) -> set[fx.Node]:
    """The kernels that are to be in int8."""
    asked = {"*": precision} if isinstance(precision, str) else dict(precision)
    for each in asked.values():
        if each not in PRECISIONS:
            raise InvalidInput(f"The precision of a kernel of a module is fp32 or int8, not {each!r}.")
    kernels, fitted = weighted(network), able(network)
    chosen: set[fx.Node] = set()
    met: set[str] = set()
    for node, name in kernels.items():
        names = (name, name.rpartition(".")[0], node.name)
        fitting = [pattern for pattern in asked if any(fnmatchcase(each, pattern) for each in names)]
        met.update(fitting)
        if fitting and asked[fitting[-1]] == "int8" and node in fitted:
            chosen.add(node)
    for pattern in asked:
        if pattern not in met and pattern != "*":
            raise InvalidInput(
                f"precision[{pattern!r}] stands for no kernel of the network. Examples of names: {list(kernels.values())[:3]}."
            )
    return chosen


@dataclass
class Layer:
    """The numbers of a kernel in int8.

    Attributes:
        values: integers, shape ``(cout, ...)``.
        steps: those of the integers, shape ``(cout,)``.
        bias: shape ``(cout,)``.
        factor: by which the weights were scaled to correct what rounding does, shape ``(cout,)``; by nothing if omitted.
    """

    values: torch.Tensor
    steps: torch.Tensor
    bias: torch.Tensor
    factor: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        return integers(self.values, self.steps)


@dataclass
class Grids:
    """Which results of a graph are rounded, and how.

    Attributes:
        network: the graph in floats, with its batch norms folded.
        kernels: those in int8.
        quantization: how it is quantised.
        after: operations whose result is rounded for all that read it, by a grid of its own.
        same: operations that keep the grid of what they read, with the operation that has it.
        before: results in floats, which are rounded for operations in integers alone.
        integral: operations in integers that read such.
        found: the quantisers, by node.
        layers: the numbers of the kernels.
    """

    network: fx.GraphModule
    kernels: set[fx.Node]
    quantization: Quantization
    after: set[fx.Node] = field(default_factory=set)
    same: dict[fx.Node, fx.Node] = field(default_factory=dict)
    before: set[fx.Node] = field(default_factory=set)
    integral: set[fx.Node] = field(default_factory=set)
    found: dict[fx.Node, Quantizer] = field(default_factory=dict)
    layers: dict[fx.Node, Layer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pending: set[fx.Node] = set()
        inside = origins(self.network, self.kernels)
        for node in self.network.graph.nodes:
            name, tensors = name_of(node), tensors_of(node)
            floating = [each for each in tensors if each not in self.after and each not in self.same]
            if node in self.kernels:
                self._convert(node, floating[:1])
                if name == "linear":
                    continue
            elif name in RELUS and tensors and tensors[0] in pending:
                self.after.add(node)
                continue
            elif node not in inside or len(floating) == len(tensors):
                continue
            elif name in (*POOLS, *MOVES) or pads(node):
                self.same[node] = self.same.get(tensors[0], tensors[0])
                continue
            elif name in JOINS:
                self._convert(node, floating)
            elif name not in (*RELUS, *CURVES):
                continue
            if name not in (*RELUS, *CURVES) and len(node.users) == 1 and _clips(next(iter(node.users))):
                pending.add(node)
            else:
                self.after.add(node)

    def _convert(self, node: fx.Node, floating: Sequence[fx.Node]) -> None:
        """Round values in floats for an operation in integers."""
        if floating:
            self.before.update(floating)
            self.integral.add(node)

    def fit(self, images: tuple[torch.Tensor, ...]) -> None:
        """Choose all grids, each on values that those before it have rounded already, and correct the kernels."""
        wanted: dict[fx.Node, Moments] = {}
        with torch.no_grad():
            if self.quantization.correction != "none":
                execute(self.network, images, after=lambda node, value: self._watch(node, value, wanted))
            compute: Before = lambda node, args, kwargs: self._compute(node, args, kwargs, wanted)  # noqa: E731
            execute(self.network, images, compute=compute, after=self._round)

    def _watch(self, node: fx.Node, value: Any, wanted: dict[fx.Node, Moments]) -> Any:
        if node in self.kernels:
            wanted[node] = _moments(value)
        return value

    def _compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: Mapping[fx.Node, Moments]) -> Any:
        """Run a kernel on rounded values with rounded weights, and make good what that shifts and scales."""
        if node not in self.kernels:
            if node not in self.integral:
                return NotImplemented
            target: Any = node.target
            return target(*self._read(node.args, args), **kwargs)
        given = bound(node)
        weight = get(self.network, str(given["weight"].target)).detach()
        bits = min(8, self.quantization.weight_bits)
        steps = weight_steps(weight, bits)
        values = torch.round(quantize_weight(weight, bits, steps) / steps.view(-1, *[1] * (weight.ndim - 1))).to(torch.int8)
        bias = weight.new_zeros(len(weight)) if given["bias"] is None else get(self.network, str(given["bias"].target)).detach().clone()
        layer = self.layers[node] = Layer(values, steps, bias)
        x = self._read(node.args[0], args[0])
        target = node.target
        y = target(x, layer.weight, layer.bias, *args[3:], **others(kwargs))
        if node not in wanted:
            return y
        (mean, std), (right, spread) = _moments(y), wanted[node]
        factor = torch.ones_like(std)
        if self.quantization.correction == "scale":
            factor = torch.where((std > 1e-6) & (spread > 1e-6), spread / std, factor)
        shift = right - factor * mean
        layer.steps, layer.factor = layer.steps * factor, factor
        layer.bias = layer.bias * factor + shift
        shape = (1, -1, *[1] * (y.ndim - 2))
        return y * factor.view(shape) + shift.view(shape)

    def _read(self, given: Any, value: Any) -> Any:
        """What an operation in integers reads, rounded."""
        if isinstance(given, list | tuple):
            return [self._read(each, part) for each, part in zip(given, value, strict=True)]
        if isinstance(given, fx.Node) and given in self.before:
            if given not in self.found:
                self.found[given] = self._fitted(value)
            return self.found[given](value)
        return value

    def _fitted(self, value: torch.Tensor) -> Quantizer:
        return fit_quantizer(value, 8, signed=True, ranges=self.quantization.ranges)

    def _round(self, node: fx.Node, value: Any) -> Any:
        if node in self.after:
            self.found[node] = self._fitted(value)
        elif node in self.same:
            self.found[node] = self.found[self.same[node]]
        return self.found[node](value) if node in self.after or node in self.same else value

    def build(self) -> fx.GraphModule:
        """The graph with all roundings as operations; activations that a rounding stands for are left out."""
        graph, network = self.network.graph, self.network
        for node, layer in self.layers.items():
            self._weights(node, layer)
        for node in list(graph.nodes):
            if node in self.after or node in self.before or (node in self.same and not pads(node)):
                quantizer = self.found[node]
                with graph.inserting_after(node):
                    fresh = graph.call_function(rounded, (node, quantizer.scale, quantizer.zero))
                readers = [user for user in node.users if user is not fresh]
                for user in readers if node not in self.before else [each for each in readers if each in self.integral]:
                    user.replace_input_with(node, fresh)
                if _clips(node) and _redundant(node, quantizer):
                    fresh.replace_input_with(node, node.args[0])
        graph.eliminate_dead_code()
        result = fx.GraphModule(network, graph, "Network").eval()
        result.meta = dict(network.meta)
        return result

    def _weights(self, node: fx.Node, layer: Layer) -> None:
        """Give a kernel its integers in place of its weights."""
        graph = self.network.graph
        source: Any = node.args[0]
        name = str(bound(node)["weight"].target)
        step = self.found[source].scale
        bias_steps = (layer.steps * step).to(torch.float32)
        bias = torch.round(layer.bias.double() / bias_steps.double()).clamp(-(2.0**31), 2.0**31 - 1).to(torch.int32)
        held = {"_values": layer.values, "_steps": layer.steps, "_bias_values": bias, "_bias_steps": bias_steps}
        for suffix, tensor in held.items():
            put(self.network, name + suffix, tensor)
        with graph.inserting_before(node):
            weight, steps, biases, their_steps = (graph.get_attr(name + suffix) for suffix in held)
            operands = graph.call_function(integers, (weight, steps)), graph.call_function(integers, (biases, their_steps))
        node.args, node.kwargs = (source, *operands, *node.args[3:]), others(node.kwargs)


def others(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a kernel besides its weights."""
    return {name: each for name, each in arguments.items() if name not in ("weight", "bias")}


def _moments(y: torch.Tensor) -> Moments:
    dims = [dim for dim in range(y.ndim) if dim != 1]
    return y.mean(dims), y.std(dims, correction=0)


def _clips(node: fx.Node) -> bool:
    """Whether an operation cuts off negative values, and perhaps large ones."""
    if name_of(node) not in RELUS:
        return False
    return bool(_bounds(node)[0] == 0)


def _bounds(node: fx.Node) -> tuple[Any, Any]:
    given = bound(node)
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    return {"relu": (0, None), "relu6": (0, 6.0)}.get(name_of(node), (low, high))


def _redundant(node: fx.Node, quantizer: Quantizer) -> bool:
    """Whether the ends of a grid cut off what an activation does."""
    high = _bounds(node)[1]
    return quantizer.zero == 0 and bool(high is None or quantizer.scale * 255 < high * 1.0002)
