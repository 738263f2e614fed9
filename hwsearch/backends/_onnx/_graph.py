"""ONNX graphs of networks, in the flavour that a runtime fuses.

Float blocks of every kind become Conv + Relu (+ Add) nodes, and whatever else is in their graphs, with the batch norms folded.
Quantised blocks become QDQ graphs: feature maps and weights on a grid, the latter symmetric with one scale a channel, and what else
:class:`~hwsearch.backends._onnx._flavours.Flavour` says. Where the number format of floats changes there is a cast, which a network has
as a boundary block, or which the next block begins with.
The same function builds what is profiled and what is exported, so what is profiled is what is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import InvalidInput, Unsupported, require
from ...networks._blocks import Block, Layer
from ...networks._layers import POSITIVE
from ._flavours import BFLOAT16, FLOAT, ONNXRUNTIME, Flavour
from ._weights import BlockWeights, Floats, LayerWeights, quantize_weight, random_weights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

onnx = require("onnx", feature="Building ONNX graphs", extra="onnxruntime")

__all__ = ["BlockWeights", "LayerWeights", "build", "quantize_weight", "random_weights"]
_INT32, _INT64 = 6, 7
_ACTIVATIONS = {"relu": "Relu", "relu6": "Clip", "hswish": "HardSwish"}


def build(
    network: Sequence[Block],
    *,
    weights: Sequence[BlockWeights] | None = None,
    batch: int | None = 1,
    flavour: Flavour = ONNXRUNTIME,
    input_scale: float = 0.03,
    input_zero: int = 0,
) -> ModelProto:
    """Build the ONNX model of a network, its weights inside.

    The input is called ``"input"``, shape ``(batch, cin, size, size)``: float32, or on the grid (uint8, int8 or fp8) if the first block
    is quantised or dequantises. The output is called ``"output"``: float32 or on the grid.

    Args:
        network: blocks in the order of execution; an empty network hands its input on, which costs what a call costs.
        weights: one entry a block; random where ``None``.
        batch: images at once; ``None`` leaves it open.
        flavour: whose way of writing it down.
        input_scale, input_zero: what an input on the grid means.

    Raises:
        Unsupported: a precision that the flavour does not have.
        InvalidInput: ``weights`` do not fit the network.
    """
    for block in network:
        if block.bits.dense not in flavour.formats:
            raise Unsupported(f"Block {block.key}: graphs for {flavour.name} hold {', '.join(flavour.formats)}, not {block.precision}.")
    if weights is None:
        weights = random_weights(network, symmetric=flavour.symmetric)
    if len(weights) != len(network):
        raise InvalidInput(f"weights must have one entry a block: {len(network)} blocks, {len(weights)} entries.")
    opset = max((flavour.formats[block.bits.dense].opset for block in network), default=17)
    builder = _Builder(batch, flavour, opset)
    value = builder.begin(network, input_scale, input_zero)
    for index, (block, numbers) in enumerate(zip(network, weights, strict=True)):
        builder.scope = f"b{index}"
        value = builder.block(block, numbers, value)
    return builder.finish(value)


@dataclass(frozen=True)
class _Value:
    """A tensor of the graph: its name, its ONNX type and, if it is on a grid, what its numbers mean."""

    name: str
    shape: tuple[int | None, ...]
    kind: int
    scale: float | None = None
    zero: int = 0


class _Builder:
    """Collects nodes and weights while walking down a network."""

    def __init__(self, batch: int | None, flavour: Flavour, opset: int) -> None:
        self.batch, self.flavour, self.opset = batch, flavour, opset
        self.format = flavour.formats["fp32"]
        self.nodes: list[NodeProto] = []
        self.initializers: list[Any] = []
        self.input: Any = None
        self.scope = ""

    def begin(self, network: Sequence[Block], scale: float, zero: int) -> _Value:
        channels, size = (network[0].cin, network[0].size) if network else (1, 1)
        format = self.flavour.formats[network[0].bits.dense] if network else self.format
        grid = format.grid if network and network[0].kind != "quantize" else None
        shape = (self.batch, channels, size, size)
        self.input = onnx.helper.make_tensor_value_info("input", grid or FLOAT, shape)
        return _Value("input", shape, FLOAT) if grid is None else _Value("input", shape, grid, scale, zero)

    def finish(self, value: _Value) -> ModelProto:
        if value.scale is None:
            value = self._cast("cast", value, FLOAT)
        if self.nodes:
            self.nodes[-1].output[0] = "output"
        else:
            self.nodes.append(onnx.helper.make_node("Identity", [value.name], ["output"], name="identity"))
        output = onnx.helper.make_tensor_value_info("output", value.kind, value.shape)
        graph = onnx.helper.make_graph(self.nodes, "hwsearch", [self.input], [output], self.initializers)
        opset = [onnx.helper.make_opsetid("", self.opset)]
        version = 8 if self.opset < 19 else 9 if self.opset < 21 else 10
        model: ModelProto = onnx.helper.make_model(graph, opset_imports=opset, ir_version=version, producer_name="hwsearch")
        return model

    # -- blocks --------------------------------------------------------------------------------------------------------

    def block(self, block: Block, numbers: BlockWeights, value: _Value) -> _Value:
        self.format = self.flavour.formats[block.bits.dense]
        if block.kind == "quantize" and self.format.grid is not None:
            scale, zero = self._quantizer_of(numbers.out_scale, numbers.out_zero, block.key)
            if self.nodes and self.nodes[-1].op_type == "MaxPool" and zero == 0 and not self.flavour.symmetric:
                # It changes nothing, but ONNX Runtime pulls a bare quantiser through the pooling, which takes 10 times as long on integers
                # that come from floats.
                value = self._node("Relu", "relu", [value.name], value.shape)
            return self._quantize("q", self._cast("float", value, FLOAT), scale, zero, self.format.grid)
        if block.kind == "dequantize":
            return self._cast("dq", value, FLOAT) if value.scale is None else self._dequantize("dq", value)
        if value.scale is None:
            value = self._cast("in", value, self.format.floats)
        if block.kind == "quantize":
            return value
        body, shortcut = block.graph.body, block.graph.shortcut
        _same_layers(block, body, numbers.body)
        result = value
        for index, (layer, one) in enumerate(zip(body, numbers.body, strict=True)):
            if block.graph.excite and index == len(body) - 1:
                result = self._excited(block, numbers, result)
            summed = shortcut is not None and self.flavour.symmetric and index == len(body) - 1
            result = self._layer(f"body{index}", layer, one, result, summed)
        if shortcut is None:
            return result
        side = value
        _same_layers(block, shortcut, numbers.shortcut or ())
        for index, (layer, one) in enumerate(zip(shortcut, numbers.shortcut or (), strict=True)):
            side = self._layer(f"shortcut{index}", layer, one, side)
        return self._sum(block, numbers, result, side)

    def _excited(self, block: Block, numbers: BlockWeights, value: _Value) -> _Value:
        """Squeeze-and-excite: the channels scaled by a hard sigmoid."""
        _same_layers(block, block.graph.excite, numbers.excite)
        plain = self._plain("excite.in", value)
        scale = plain
        for index, (layer, one) in enumerate(zip(block.graph.excite, numbers.excite, strict=True)):
            scale = self._layer(f"excite{index}", layer, one, scale)
        scale = self._hard_sigmoid("excite.sigmoid", scale)
        axes = self._constant("excite.axes", [2, 3], _INT64)
        scale = self._node("Unsqueeze", "excite.scale", [scale.name, axes], (*scale.shape, 1, 1))
        product = self._node("Mul", "excite.out", [plain.name, scale.name], value.shape)
        # The factors are at most 1, so the product is within the range of the feature map.
        return product if value.scale is None else self._quantize("excite.q", product, value.scale, value.zero, value.kind)

    def _sum(self, block: Block, numbers: BlockWeights, left: _Value, right: _Value) -> _Value:
        """The residual sum and what follows it."""
        sides = [self._plain("left", left).name, self._plain("right", right).name]
        total = self._node("Add", "sum", sides, left.shape)
        return self._activate("out", total, block.graph.joined, numbers, right)

    def _layer(self, name: str, layer: Layer, numbers: LayerWeights, value: _Value, summed: bool = False) -> _Value:
        """A layer and what follows it; of a ``summed`` one the output stays a float."""
        shape = (self.batch, layer.cout, layer.out_size, layer.out_size)
        if layer.op == "linear":
            return self._follow(name, self._linear(name, layer, numbers, value), layer.activation)
        if layer.pooling:
            return self._pool(name, layer, value)
        self._check_shape(name, numbers, (layer.cout, layer.cin // layer.groups, layer.kernel, layer.kernel))
        pad = layer.kernel // 2
        options = {
            "kernel_shape": [layer.kernel] * 2,
            "strides": [layer.stride] * 2,
            "pads": [pad] * 4,
            "group": layer.groups,
        }
        result = self._node("Conv", name, self._operands(name, numbers, value), shape, **options)
        if value.scale is not None and not self.flavour.symmetric and layer.activation not in (*POSITIVE, "none"):
            # On the grid and back, so that ONNX Runtime computes the convolution in integers.
            scale, zero = self._quantizer_of(numbers.pre_scale, numbers.pre_zero, f"{name}, before its {layer.activation}")
            result = self._dequantize(f"{name}.pre", self._quantize(f"{name}.pre.q", result, scale, zero, value.kind))
        return result if summed and layer.activation == "none" else self._activate(name, result, layer.activation, numbers, value)

    def _linear(self, name: str, layer: Layer, numbers: LayerWeights, value: _Value) -> _Value:
        """The mean over the feature map, and its products in the number format of the map; the outputs are floats."""
        self._check_shape(name, numbers, (layer.cout, layer.cin))
        flat, pooled = (self.batch, layer.cin), (self.batch, layer.cin, 1, 1)
        if len(value.shape) > 2 and self.flavour.symmetric:
            mean = self._node("GlobalAveragePool", f"{name}.pool", [self._plain(f"{name}.pool.in", value).name], pooled)
            mean = self._node("Flatten", f"{name}.flat", [mean.name], flat)
            value = mean if value.scale is None else self._quantize(f"{name}.pool.q", mean, value.scale, value.zero, value.kind)
        elif len(value.shape) > 2:
            mean = self._on_grid(f"{name}.pool", value, "GlobalAveragePool", pooled)
            value = replace(mean, name=self._node("Flatten", f"{name}.flat", [mean.name], flat).name, shape=flat)
        return self._node("Gemm", name, self._operands(name, numbers, value), (self.batch, layer.cout), transB=1)

    def _pool(self, name: str, layer: Layer, value: _Value) -> _Value:
        """Maxima or averages; averages count what is inside the feature map only, and without overlap need no padding."""
        shape = (self.batch, layer.cout, layer.out_size, layer.out_size)
        options: dict[str, Any] = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
        if layer.op == "avgpool" and layer.kernel == layer.stride:
            return self._on_grid(name, value, "AveragePool", shape, ceil_mode=1, **options)
        options["pads"] = [layer.kernel // 2] * 4
        return self._on_grid(name, value, "MaxPool" if layer.op == "maxpool" else "AveragePool", shape, **options)

    def _on_grid(self, name: str, value: _Value, op: str, shape: tuple[int | None, ...], **options: Any) -> _Value:
        """A pooling, whose results are within the range of its inputs and so need no quantiser of their own."""
        if value.scale is None:
            return self._node(op, name, [value.name], shape, **options)
        result = self._node(op, name, [self._dequantize(f"{name}.in", value).name], shape, **options)
        return self._quantize(f"{name}.q", result, value.scale, value.zero, value.kind)

    def _follow(self, name: str, value: _Value, activation: str) -> _Value:
        """What follows a layer or a sum."""
        if activation == "none":
            return value
        if activation == "swish":
            gate = self._node("Sigmoid", f"{name}.sigmoid", [value.name], value.shape)
            return self._node("Mul", f"{name}.swish", [value.name, gate.name], value.shape)
        if activation == "hswish" and self.format.floats == BFLOAT16:
            gate = self._hard_sigmoid(f"{name}.sigmoid", value)
            return self._node("Mul", f"{name}.hswish", [value.name, gate.name], value.shape)
        bounds = [0.0, 6.0] if activation == "relu6" else []
        inputs = [value.name, *(self._constant(f"{name}.bound{index}", bound, self.format.floats) for index, bound in enumerate(bounds))]
        return self._node(_ACTIVATIONS[activation], f"{name}.{activation}", inputs, value.shape)

    def _hard_sigmoid(self, name: str, value: _Value) -> _Value:
        """``min(max(x / 6 + 1 / 2, 0), 1)``; step by step in bf16, in which TensorRT has neither this nor the hard swish."""
        if self.format.floats != BFLOAT16:
            return self._node("HardSigmoid", name, [value.name], value.shape, alpha=1 / 6, beta=0.5)
        for step, op, numbers in (("sixth", "Mul", [1 / 6]), ("half", "Add", [0.5]), ("clip", "Clip", [0.0, 1.0])):
            constants = [self._constant(f"{name}.{step}{index}", number, BFLOAT16) for index, number in enumerate(numbers)]
            value = self._node(op, f"{name}.{step}", [value.name, *constants], value.shape)
        return value

    # -- quantisation --------------------------------------------------------------------------------------------------

    def _operands(self, name: str, numbers: LayerWeights, value: _Value) -> list[str]:
        """The three inputs of a convolution or a linear layer: feature map, weights and bias."""
        first = self._plain(f"{name}.in", value).name
        if self.format.weights is None or (value.scale is None and self.format.grid is not None):
            weight, scale = self._constant(f"{name}.weight", numbers.weight, self.format.floats), None
        else:
            values, scale = quantize_weight(numbers.weight, self.flavour.largest(self.format.weights), numbers.steps)
            weight = self._on_file(f"{name}.weight", values, self.format.weights, scale)
        if scale is None or value.scale is None or self.flavour.symmetric:
            return [first, weight, self._constant(f"{name}.bias", numbers.bias, self.format.floats)]
        bias_scale = (scale * np.float32(value.scale)).astype(np.float32)
        limit = np.iinfo(np.int32)
        bias = np.clip(np.rint(numbers.bias / bias_scale.astype(np.float64)), limit.min, limit.max)
        return [first, weight, self._on_file(f"{name}.bias", bias, _INT32, bias_scale)]

    def _on_file(self, name: str, values: npt.ArrayLike, kind: int, scale: Floats) -> str:
        """Weights on a grid, dequantised with one scale an output channel."""
        inputs = [
            self._constant(f"{name}.values", values, kind),
            self._constant(f"{name}.scale", scale, self.format.floats),
            self._constant(f"{name}.zero", np.zeros(scale.shape), kind),
        ]
        return self._node("DequantizeLinear", name, inputs, np.shape(values), axis=0).name

    def _activate(self, name: str, value: _Value, activation: str, numbers: LayerWeights | BlockWeights, source: _Value) -> _Value:
        """What follows a layer or a sum, and the quantiser where its source was quantised, whose ends may stand for the ReLU."""
        if source.scale is None:
            return self._follow(name, value, activation)
        assert self.format.grid is not None
        scale, zero = self._quantizer_of(numbers.out_scale, numbers.out_zero, name)
        clips = activation == "relu" or (activation == "relu6" and scale * 255 < 6.001)
        if not clips or zero != 0 or self.flavour.symmetric:
            value = self._follow(name, value, activation)
        return self._quantize(f"{name}.q", value, scale, zero, self.format.grid)

    def _quantize(self, name: str, value: _Value, scale: float, zero: int, kind: int) -> _Value:
        inputs = [value.name, *self._quantizer(name, scale, zero, kind)]
        return replace(self._node("QuantizeLinear", name, inputs, value.shape), kind=kind, scale=scale, zero=zero)

    def _dequantize(self, name: str, value: _Value) -> _Value:
        if value.scale is None:
            raise InvalidInput(f"{self.scope}: a float feature map cannot be dequantised.")
        inputs = [value.name, *self._quantizer(name, value.scale, value.zero, value.kind)]
        return self._node("DequantizeLinear", name, inputs, value.shape)

    def _plain(self, name: str, value: _Value) -> _Value:
        """Floats, whether the feature map is on a grid or not."""
        return value if value.scale is None else self._dequantize(name, value)

    def _quantizer(self, name: str, scale: float, zero: int, kind: int) -> list[str]:
        return [self._constant(f"{name}.scale", scale), self._constant(f"{name}.zero", zero, kind)]

    def _quantizer_of(self, scale: float | None, zero: int, what: str) -> tuple[float, int]:
        """A quantiser, checked."""
        most = 0 if self.flavour.symmetric else 255
        if scale is None or not np.isfinite(scale) or scale <= 0 or not 0 <= zero <= most:
            raise InvalidInput(f"{what}: a quantised output needs a positive scale and a zero point in 0..{most}, not {scale} and {zero}.")
        return float(scale), int(zero)

    def _cast(self, name: str, value: _Value, kind: int) -> _Value:
        """Floats of another type; nothing if they have it."""
        return value if value.kind == kind else replace(self._node("Cast", name, [value.name], value.shape, to=kind), kind=kind)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _node(self, op: str, name: str, inputs: list[str], shape: tuple[int | None, ...], **options: Any) -> _Value:
        full = f"{self.scope}.{name}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [full], name=full, **options))
        return _Value(full, shape, self.format.floats)

    def _constant(self, name: str, data: npt.ArrayLike, kind: int = FLOAT) -> str:
        full = f"{self.scope}.{name}"
        values = np.asarray(data).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        self.initializers.append(onnx.numpy_helper.from_array(values, name=full))
        return full

    def _check_shape(self, name: str, numbers: LayerWeights, shape: tuple[int, ...]) -> None:
        if numbers.weight.shape != shape or numbers.bias.shape != shape[:1]:
            found = f"{numbers.weight.shape} and {numbers.bias.shape}"
            raise InvalidInput(f"{self.scope}.{name}: weight and bias must have the shapes {shape} and {shape[:1]}, not {found}.")


def _same_layers(block: Block, layers: tuple[Layer, ...], numbers: tuple[LayerWeights, ...]) -> None:
    if len(layers) != len(numbers):
        raise InvalidInput(f"Block {block.key} has {len(layers)} layers in this path, and weights for {len(numbers)} were given.")
