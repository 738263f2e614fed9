"""Conversions between integers and floats, told by name to which kernel of a user's network they belong."""

from __future__ import annotations

from collections.abc import Collection

from ...errors import require
from ...networks._fused import kernel_of, labelled

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def name_conversions(model: bytes, integral: Collection[str]) -> bytes:
    """A model whose quantisers and dequantisers bear the names of kernels, as its other operations do.

    A kernel in integers quantises its result; what comes from elsewhere is converted by the kernel that reads it.

    Args:
        model: an ONNX model, whose operations are named after their kernels (:func:`hwsearch.networks.labelled`).
        integral: names of the kernels in integers.
    """
    onnx = require("onnx", feature="Writing models of kernels in int8", extra="torch")
    found = onnx.load_model_from_string(model)
    makers = {output: node.name for node in found.graph.node for output in node.output}
    reader: dict[str, str] = {}
    for node in reversed(found.graph.node):
        kernel = kernel_of(node.name) or next((reader[output] for output in node.output if output in reader), None)
        if kernel is not None:
            reader |= dict.fromkeys(node.input, kernel)
    for node in found.graph.node:
        if node.op_type in (_QUANTIZE, _DEQUANTIZE):
            maker = kernel_of(makers.get(node.input[0], ""))
            kernel = maker if node.op_type == _QUANTIZE and maker in integral else reader.get(node.output[0], maker)
            node.name = f"/{labelled('convert', kernel)}{node.name}" if kernel is not None else node.name
    data: bytes = found.SerializeToString()
    return data
