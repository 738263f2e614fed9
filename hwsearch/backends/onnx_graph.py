"""ONNX graphs of networks, in the flavour that ONNX Runtime fuses.

Float blocks of every kind become Conv + Relu (+ Add) nodes, and whatever else is in their graphs, with the batch norms folded.
Quantised blocks become QDQ graphs: ``uint8`` activations (asymmetric; a zero point of 0 is the ReLU, so no Relu node is left), ``int8``
weights (symmetric, one scale a channel), ``int32`` biases with the scale ``input scale x weight scale``; ONNX Runtime turns them into
QLinearConv and QLinearAdd. The same function builds what is profiled and what is exported, so what is profiled is what is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..blocks import Block, Layer
from ..errors import InvalidInput, Unsupported, require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

onnx = require("onnx", feature="Building ONNX graphs", extra="onnxruntime")

OPSET = 17
IR_VERSION = 8
PRECISIONS = ("fp32", "int8")
_QUANTIZED = (
    *("conv", "resconv", "basic", "bottleneck", "bottleneckd", "maxpool", "avgpool", "head"),
    *("quantize", "dequantize"),
)
_ACTIVATIONS = {"relu": "Relu", "relu6": "Clip", "hswish": "HardSwish"}
_FLOAT32, _UINT8 = 1, 2
_PERIOD = 1021
"""After so many values random weights repeat; a prime, so that no two filters are the same."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerWeights:
    """The numbers of one layer; a pooling has empty ones.

    Attributes:
        weight: float32 with the batch norm folded in, shape ``(cout, cin / groups, k, k)``, or ``(cout, cin)`` for a linear layer.
        bias: float32, shape ``(cout,)``.
        out_scale, out_zero: the ``uint8`` quantiser of the layer's output, after its ReLU; ``None`` and 0 in float blocks. Poolings and
            linear layers need none: the former keep that of their input, the latter give floats.
    """

    weight: Floats
    bias: Floats
    out_scale: float | None = None
    out_zero: int = 0


@dataclass(frozen=True)
class BlockWeights:
    """The numbers of one block.

    Attributes:
        body, shortcut, excite: of the layers of :attr:`Block.graph`, in the same order.
        out_scale, out_zero: the quantiser of the block's output, after the sum and its ReLU; ``None`` and 0 in float blocks. Of a
            ``quantize`` block these are all there is; a plain convolution has the same quantiser in its only layer.
    """

    body: tuple[LayerWeights, ...] = ()
    shortcut: tuple[LayerWeights, ...] | None = None
    out_scale: float | None = None
    out_zero: int = 0
    excite: tuple[LayerWeights, ...] = ()


def can_build(block: Block) -> bool:
    """Whether :func:`build` knows such blocks: all in fp32; in int8 all but inverted bottlenecks, with ReLU, and one linear layer."""
    if block.precision == "fp32":
        return True
    single = block.kind != "head" or not block.mids
    return block.precision == "int8" and block.kind in _QUANTIZED and block.activation == "relu" and single


def random_weights(network: Sequence[Block], seed: int = 0) -> tuple[BlockWeights, ...]:
    """Sensible random numbers for profiling, one entry a block; the time of a block does not depend on them.

    They repeat after a while, and few are the largest, so that model files can be packed small, in int8 too.
    """
    rng = np.random.default_rng(seed)
    numbers = np.clip(rng.standard_normal(_PERIOD), -2, 2).astype(np.float32)

    def layer(layer: Layer, block: Block) -> LayerWeights:
        if layer.pooling:
            return LayerWeights(np.zeros(0, np.float32), np.zeros(0, np.float32))
        fan_in = layer.cin // layer.groups * layer.kernel**2
        shape = (layer.cout, fan_in) if layer.op == "linear" else (layer.cout, layer.cin // layer.groups, layer.kernel, layer.kernel)
        weight = np.resize(numbers, shape) * np.float32(np.sqrt(2 / fan_in))
        bias = (0.1 * rng.standard_normal(layer.cout)).astype(np.float32)
        if not block.bits.quantized:
            return LayerWeights(weight, bias)
        return LayerWeights(weight, bias, 0.03, 0 if layer.relu else 128)

    weights = []
    for block in network:
        body = tuple(layer(one, block) for one in block.graph.body)
        shortcut = None if block.graph.shortcut is None else tuple(layer(one, block) for one in block.graph.shortcut)
        quantized = block.bits.quantized and block.kind != "dequantize"
        excite = tuple(layer(one, block) for one in block.graph.excite)
        weights.append(BlockWeights(body, shortcut, 0.03 if quantized else None, 0, excite))
    return tuple(weights)


def quantize_weight(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Symmetric ``int8`` weights, one scale an output channel: ``weight ~ values * scale`` with values in -127..127.

    Returns:
        The values, shaped like ``weight``, and the scales, shape ``(cout,)``.
    """
    scale = np.abs(weight.reshape(len(weight), -1)).max(axis=1) / 127
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    values = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    return np.clip(values, -127, 127).astype(np.int8), scale


def build(
    network: Sequence[Block],
    *,
    weights: Sequence[BlockWeights] | None = None,
    batch: int = 1,
    input_scale: float = 0.03,
    input_zero: int = 0,
) -> ModelProto:
    """Build the ONNX model of a network, its weights inside.

    The input is called ``"input"``, shape ``(batch, cin, size, size)``: float32, or uint8 where the first block is quantised or
    dequantises. The output is called ``"output"``.

    Args:
        network: blocks in the order of execution; an empty network hands its input on, which costs what a call costs.
        weights: one entry a block; random where ``None``.
        batch: images at once.
        input_scale, input_zero: what a uint8 input means.

    Raises:
        Unsupported: a precision other than fp32 and int8, or a block for which no graph is known.
        InvalidInput: ``weights`` do not fit the network.
    """
    for block in network:
        if block.precision not in PRECISIONS:
            raise Unsupported(f"Block {block.key}: ONNX graphs hold fp32 and int8, not {block.precision}.")
        if not can_build(block):
            raise Unsupported(f"Block {block.key}: no ONNX graph is known for such {block.kind} blocks.")
    if weights is None:
        weights = random_weights(network)
    if len(weights) != len(network):
        raise InvalidInput(f"weights must have one entry a block: {len(network)} blocks, {len(weights)} entries.")
    builder = _Builder(batch)
    value = builder.begin(network, input_scale, input_zero)
    for index, (block, numbers) in enumerate(zip(network, weights, strict=True)):
        builder.scope = f"b{index}"
        value = builder.block(block, numbers, value)
    return builder.finish(value)


@dataclass(frozen=True)
class _Value:
    """A tensor of the graph: its name and, where it is uint8, what its numbers mean."""

    name: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero: int = 0


class _Builder:
    """Collects nodes and weights while walking down a network."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.nodes: list[NodeProto] = []
        self.initializers: list[Any] = []
        self.input: Any = None
        self.scope = ""

    def begin(self, network: Sequence[Block], scale: float, zero: int) -> _Value:
        channels, size = (network[0].cin, network[0].size) if network else (1, 1)
        quantized = bool(network) and network[0].bits.quantized and network[0].kind != "quantize"
        shape = (self.batch, channels, size, size)
        self.input = onnx.helper.make_tensor_value_info("input", _UINT8 if quantized else _FLOAT32, shape)
        return _Value("input", shape, scale if quantized else None, zero if quantized else 0)

    def finish(self, value: _Value) -> ModelProto:
        if self.nodes:
            self.nodes[-1].output[0] = "output"
        else:
            self.nodes.append(onnx.helper.make_node("Identity", [value.name], ["output"], name="identity"))
        kind = _FLOAT32 if value.scale is None else _UINT8
        output = onnx.helper.make_tensor_value_info("output", kind, value.shape)
        graph = onnx.helper.make_graph(self.nodes, "hwsearch", [self.input], [output], self.initializers)
        opset = [onnx.helper.make_opsetid("", OPSET)]
        model: ModelProto = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="hwsearch")
        return model

    # -- blocks --------------------------------------------------------------------------------------------------------

    def block(self, block: Block, numbers: BlockWeights, value: _Value) -> _Value:
        if block.kind == "quantize":
            return self._quantize("q", value, *_quantizer(numbers, block))
        if block.kind == "dequantize":
            return self._dequantize("dq", value)
        body, shortcut = block.graph.body, block.graph.shortcut
        _same_layers(block, body, numbers.body)
        result = value
        for index, (layer, one) in enumerate(zip(body, numbers.body, strict=True)):
            if block.graph.excite and index == len(body) - 1:
                result = self._excited(block, numbers, result)
            result = self._layer(f"body{index}", layer, one, result)
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
        scale = value
        for index, (layer, one) in enumerate(zip(block.graph.excite, numbers.excite, strict=True)):
            scale = self._layer(f"excite{index}", layer, one, scale)
        scale = self._node("HardSigmoid", "excite.sigmoid", [scale.name], scale.shape, alpha=1 / 6, beta=0.5)
        axes = self._constant("excite.axes", np.array([2, 3], dtype=np.int64))
        scale = self._node("Unsqueeze", "excite.scale", [scale.name, axes], (*scale.shape, 1, 1))
        return self._node("Mul", "excite.out", [value.name, scale.name], value.shape)

    def _sum(self, block: Block, numbers: BlockWeights, left: _Value, right: _Value) -> _Value:
        """The residual sum and what follows it."""
        if left.scale is None:
            return self._follow("out", self._node("Add", "sum", [left.name, right.name], left.shape), block.graph.joined)
        sides = [self._dequantize("left", left).name, self._dequantize("right", right).name]
        total = self._node("Add", "sum", sides, left.shape)
        return self._activate("out", total, block.graph.joined == "relu", *_quantizer(numbers, block))

    def _layer(self, name: str, layer: Layer, numbers: LayerWeights, value: _Value) -> _Value:
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
        if value.scale is None:
            inputs = [value.name, self._constant(f"{name}.weight", numbers.weight), self._constant(f"{name}.bias", numbers.bias)]
            return self._follow(name, self._node("Conv", name, inputs, shape, **options), layer.activation)
        inputs = [self._dequantize(f"{name}.in", value).name, *self._quantized_weights(name, numbers, value.scale)]
        result = self._node("Conv", name, inputs, shape, **options)
        return self._activate(name, result, layer.relu, *_quantizer(numbers, name))

    def _linear(self, name: str, layer: Layer, numbers: LayerWeights, value: _Value) -> _Value:
        """The mean over the feature map, and its products in the number format of the map; the outputs are floats."""
        self._check_shape(name, numbers, (layer.cout, layer.cin))
        flat = value
        if len(value.shape) > 2:
            pooled = self._on_grid(f"{name}.pool", value, "GlobalAveragePool", (self.batch, layer.cin, 1, 1))
            flat = replace(
                self._node("Flatten", f"{name}.flat", [pooled.name], (self.batch, layer.cin)), scale=value.scale, zero=value.zero
            )
        if flat.scale is None:
            inputs = [flat.name, self._constant(f"{name}.weight", numbers.weight), self._constant(f"{name}.bias", numbers.bias)]
        else:
            inputs = [self._dequantize(f"{name}.in", flat).name, *self._quantized_weights(name, numbers, flat.scale)]
        return self._node("Gemm", name, inputs, (self.batch, layer.cout), transB=1)

    def _pool(self, name: str, layer: Layer, value: _Value) -> _Value:
        """Maxima or averages; averages count what is inside the feature map only, and without overlap need no padding."""
        shape = (self.batch, layer.cout, layer.out_size, layer.out_size)
        options: dict[str, Any] = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
        if layer.op == "avgpool" and layer.kernel == layer.stride:
            return self._on_grid(name, value, "AveragePool", shape, ceil_mode=1, **options)
        options["pads"] = [layer.kernel // 2] * 4
        return self._on_grid(name, value, "MaxPool" if layer.op == "maxpool" else "AveragePool", shape, **options)

    def _on_grid(self, name: str, value: _Value, op: str, shape: tuple[int, ...], **options: Any) -> _Value:
        """A pooling, whose results are within the range of its inputs and so need no quantiser of their own."""
        if value.scale is None:
            return self._node(op, name, [value.name], shape, **options)
        result = self._node(op, name, [self._dequantize(f"{name}.in", value).name], shape, **options)
        return self._quantize(f"{name}.q", result, value.scale, value.zero)

    def _follow(self, name: str, value: _Value, activation: str) -> _Value:
        """What follows a layer or a sum."""
        if activation == "none":
            return value
        if activation == "swish":
            gate = self._node("Sigmoid", f"{name}.sigmoid", [value.name], value.shape)
            return self._node("Mul", f"{name}.swish", [value.name, gate.name], value.shape)
        bounds = [np.float32(0), np.float32(6)] if activation == "relu6" else []
        inputs = [value.name, *(self._constant(f"{name}.bound{index}", bound) for index, bound in enumerate(bounds))]
        return self._node(_ACTIVATIONS[activation], f"{name}.{activation}", inputs, value.shape)

    # -- quantisation --------------------------------------------------------------------------------------------------

    def _quantized_weights(self, name: str, numbers: LayerWeights, input_scale: float) -> list[str]:
        """Dequantised int8 weights and int32 bias, as the two last inputs of a convolution."""
        values, scale = quantize_weight(numbers.weight)
        bias_scale = (scale * np.float32(input_scale)).astype(np.float32)
        limit = np.iinfo(np.int32)
        bias = np.clip(np.rint(numbers.bias / bias_scale.astype(np.float64)), limit.min, limit.max).astype(np.int32)
        names = []
        for part, data, scales in (("weight", values, scale), ("bias", bias, bias_scale)):
            inputs = [
                self._constant(f"{name}.{part}.values", data),
                self._constant(f"{name}.{part}.scale", scales),
                self._constant(f"{name}.{part}.zero", np.zeros(scales.shape, dtype=data.dtype)),
            ]
            names.append(self._node("DequantizeLinear", f"{name}.{part}", inputs, data.shape, axis=0).name)
        return names

    def _activate(self, name: str, value: _Value, relu: bool, scale: float, zero: int) -> _Value:
        """Quantise after the ReLU, which a zero point of 0 already is."""
        if relu and zero != 0:
            value = self._node("Relu", f"{name}.relu", [value.name], value.shape)
        return self._quantize(f"{name}.q", value, scale, zero)

    def _quantize(self, name: str, value: _Value, scale: float, zero: int) -> _Value:
        inputs = [value.name, *self._quantizer(name, scale, zero)]
        result = self._node("QuantizeLinear", name, inputs, value.shape)
        return _Value(result.name, result.shape, scale, zero)

    def _dequantize(self, name: str, value: _Value) -> _Value:
        if value.scale is None:
            raise InvalidInput(f"{self.scope}: a float feature map cannot be dequantised.")
        return self._node("DequantizeLinear", name, [value.name, *self._quantizer(name, value.scale, value.zero)], value.shape)

    def _quantizer(self, name: str, scale: float, zero: int) -> list[str]:
        return [self._constant(f"{name}.scale", np.float32(scale)), self._constant(f"{name}.zero", np.uint8(zero))]

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _node(self, op: str, name: str, inputs: list[str], shape: tuple[int, ...], **options: Any) -> _Value:
        full = f"{self.scope}.{name}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [full], name=full, **options))
        return _Value(full, shape)

    def _constant(self, name: str, data: npt.ArrayLike) -> str:
        full = f"{self.scope}.{name}"
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(data), name=full))
        return full

    def _check_shape(self, name: str, numbers: LayerWeights, shape: tuple[int, ...]) -> None:
        if numbers.weight.shape != shape or numbers.bias.shape != shape[:1]:
            found = f"{numbers.weight.shape} and {numbers.bias.shape}"
            raise InvalidInput(f"{self.scope}.{name}: weight and bias must have the shapes {shape} and {shape[:1]}, not {found}.")


def _quantizer(numbers: LayerWeights | BlockWeights, what: Block | str) -> tuple[float, int]:
    """The output quantiser, checked."""
    scale, zero = numbers.out_scale, numbers.out_zero
    if scale is None or not np.isfinite(scale) or scale <= 0 or not 0 <= zero <= 255:
        name = what if isinstance(what, str) else what.key
        raise InvalidInput(f"{name}: a quantised output needs a positive scale and a zero point in 0..255, not {scale} and {zero}.")
    return float(scale), int(zero)


def _same_layers(block: Block, layers: tuple[Layer, ...], numbers: tuple[LayerWeights, ...]) -> None:
    if len(layers) != len(numbers):
        raise InvalidInput(f"Block {block.key} has {len(layers)} layers in this path, and weights for {len(numbers)} were given.")
