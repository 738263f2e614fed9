"""Whether an exported graph holds what was decided: every width and every precision of a network, found again in the file."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..._files._writing import PathLike
from ...errors import CorruptFile, FileError, require
from ...networks._blocks import Block

if TYPE_CHECKING:
    from onnx import ModelProto

onnx = require("onnx", feature="Checking ONNX graphs", extra="onnxruntime")

_FORMATS = {1: "fp32", 10: "fp16", 16: "bf16", 2: "int8", 3: "int8", 17: "fp8", 21: "int4", 22: "int4"}
"""ONNX's types of weights, as the bits of a precision."""

BITS = "hwsearch.int8"
"""The key of a model file's metadata that tells how many bits its int8 weights have."""


@dataclass(frozen=True)
class Placed:
    """A convolution or linear layer of a graph.

    Attributes:
        op: ``"conv"`` or ``"linear"``.
        cin, cout: channels in and out.
        kernel, stride, groups: of a convolution; 1 for a linear layer.
        weights: the format of the weights in the file: ``"fp32"``, ``"int8"`` and so on.
        activations: that of the feature map that it reads.
    """

    op: str
    cin: int
    cout: int
    kernel: int
    stride: int
    groups: int
    weights: str
    activations: str

    def __str__(self) -> str:
        shape = f"{self.op} {self.cin} -> {self.cout}, kernel {self.kernel}, stride {self.stride}, groups {self.groups}"
        return f"{shape}, {self.weights} weights, {self.activations} activations"


def placed(model: PathLike | ModelProto) -> tuple[Placed, ...]:
    """The convolutions and linear layers of a model, in the order of its nodes.

    Raises:
        FileError: there is no such file.
        CorruptFile: it is no ONNX model.
    """
    return tuple(_layers(load(model)))


def wanted(network: Sequence[Block]) -> tuple[Placed, ...]:
    """The layers that a network should have as a graph, in the same order."""
    found = []
    for block in network:
        graph = block.graph
        bits = block.bits
        weights = f"int{bits.weight_bits}" if bits.quantized else block.precision
        activations = f"int{bits.activation_bits}" if bits.quantized else block.precision
        for layer in (*graph.body[:-1], *graph.excite, *graph.body[-1:], *(graph.shortcut or ())):
            if not layer.pooling:
                found.append(Placed(layer.op, layer.cin, layer.cout, layer.kernel, layer.stride, layer.groups, weights, activations))
    return tuple(found)


def differences(model: PathLike | ModelProto, network: Sequence[Block]) -> tuple[str, ...]:
    """What is not in a model as a network was to have it.

    Example:
        >>> from hwsearch.backends import differences, onnx_graph
        >>> from hwsearch.networks import Block
        >>> graph = onnx_graph([Block("conv", 3, 8, 8, kernel=3)])
        >>> differences(graph, [Block("conv", 3, 8, 8, kernel=3)])
        ()
        >>> differences(graph, [Block("conv", 3, 16, 8, kernel=3)])
        ('layer 0: conv 3 -> 8, kernel 3, ... in the file, and conv 3 -> 16, kernel 3, ... decided',)

    Args:
        model: an ONNX model or its file.
        network: blocks in the order of execution.

    Returns:
        A line for each layer that differs, and for a resolution that does; nothing where every width and every precision is found again.

    Raises:
        FileError, CorruptFile: as :func:`placed`.
    """
    loaded = load(model)
    found, expected = tuple(_layers(loaded)), wanted(network)
    lines = [
        f"layer {number}: {there} in the file, and {here} decided"
        for number, (there, here) in enumerate(zip(found, expected, strict=False))
        if there != here
    ]
    if len(found) != len(expected):
        lines.append(f"{len(found)} layers in the file, and {len(expected)} decided")
    shape = [size.dim_value for size in loaded.graph.input[0].type.tensor_type.shape.dim]
    if network and shape[1:] != [network[0].cin, network[0].size, network[0].size]:
        lines.append(f"images of shape {shape[1:]} in the file, and {[network[0].cin, network[0].size, network[0].size]} decided")
    return tuple(lines)


def metadata(model: PathLike | ModelProto) -> dict[str, str]:
    """What the file of a model says of itself, by key.

    Raises:
        FileError, CorruptFile: as :func:`placed`.
    """
    return {entry.key: entry.value for entry in load(model).metadata_props}


def input_shape(model: PathLike | ModelProto) -> tuple[int | None, ...]:
    """The shape of a model's first input; ``None`` if a dimension is open.

    Raises:
        FileError, CorruptFile: as :func:`placed`.
    """
    return tuple(size.dim_value or None for size in load(model).graph.input[0].type.tensor_type.shape.dim)


def facts(path: PathLike) -> dict[str, str]:
    """What there is to say of a model file: its inputs and outputs, its nodes, its weights by their types, and its metadata.

    Raises:
        FileError, CorruptFile: as :func:`placed`.
    """
    model = load(path)
    graph, kinds = model.graph, onnx.TensorProto.DataType
    weights: Counter[str] = Counter()
    for constant in graph.initializer:
        weights[kinds.Name(constant.data_type).lower()] += math.prod(constant.dims)
    nodes = Counter(node.op_type for node in graph.node)
    return {
        "written by": f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        "opset": ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import),
        **{f"input {entry.name}": _sizes(entry) for entry in graph.input},
        **{f"output {entry.name}": _sizes(entry) for entry in graph.output},
        "nodes": ", ".join(f"{count} {name}" for name, count in nodes.most_common()),
        "constants": ", ".join(f"{count:,} {name}" for name, count in weights.most_common()) or "none",
        **{entry.key: entry.value for entry in model.metadata_props},
    }


def _sizes(entry: Any) -> str:
    """The sizes and the type of an input or an output."""
    tensor = entry.type.tensor_type
    sizes = " x ".join(str(size.dim_value or size.dim_param or "?") for size in tensor.shape.dim)
    return f"{sizes}, {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}"


def load(model: PathLike | ModelProto) -> ModelProto:
    """A model, read from its file if that is what is given.

    Raises:
        FileError, CorruptFile: as :func:`placed`.
    """
    if not isinstance(model, str | os.PathLike):
        return model
    if not os.path.isfile(model):
        raise FileError(f"There is no model file {os.fspath(model)}.")
    try:
        loaded: ModelProto = onnx.load(os.fspath(model))
    except Exception as error:
        raise CorruptFile(f"{os.fspath(model)} is no ONNX model: {error}") from error
    return loaded


def _layers(model: ModelProto) -> Iterator[Placed]:
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}

    def format_of(name: str) -> str:
        """The format of what a layer reads, before it was dequantised."""
        maker = makers.get(name)
        while maker is not None and maker.op_type in ("Flatten", "Reshape"):
            name = maker.input[0]
            maker = makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            zero = maker.input[2] if len(maker.input) > 2 else ""
            return _FORMATS.get(constants[zero].data_type, "unknown") if zero in constants else "int8"
        if name in constants:
            return _FORMATS.get(constants[name].data_type, "unknown")
        return "fp32"

    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = node.input[1]
        weights = format_of(weight)
        # With float weights the product is one of floats, also if the feature map was dequantised just before.
        activations = format_of(node.input[0]) if weights.startswith("int") else weights
        shape = _shape(weight, constants, makers)
        options = {option.name: onnx.helper.get_attribute_value(option) for option in node.attribute}
        if node.op_type == "Gemm":
            cout, cin = shape if options.get("transB") else shape[::-1]
            yield Placed("linear", cin, cout, 1, 1, 1, weights, activations)
        else:
            groups = int(options.get("group", 1))
            stride = int(options.get("strides", [1])[0])
            yield Placed("conv", shape[1] * groups, shape[0], shape[2], stride, groups, weights, activations)


def _shape(name: str, constants: dict[str, Any], makers: dict[str, Any]) -> list[int]:
    """The shape of weights, however many (de)quantisers are between."""
    while name not in constants:
        if name not in makers:
            raise CorruptFile(f"The weights {name!r} of a layer are not in the file.")
        name = makers[name].input[0]
    return list(constants[name].dims)
