"""Flavours of ONNX graphs: each runtime fuses a quantised network only if it is written down in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

FLOAT, UINT8, INT8, FLOAT16, BFLOAT16, FLOAT8, INT4 = 1, 2, 3, 10, 16, 17, 22
"""ONNX's numbers for types of tensors; ``FLOAT8`` is E4M3 without infinities."""
LARGEST = {INT8: 127.0, FLOAT8: 448.0, INT4: 7.0}
"""The largest value on a symmetric grid."""


@dataclass(frozen=True)
class Format:
    """The types that a precision is made of, as ONNX numbers them.

    Attributes:
        floats: of float tensors, biases among them.
        grid: of quantised feature maps; ``None`` if they are floats.
        weights: of the weights on file, which are then dequantised with one scale an output channel; ``None`` if they are floats.
        opset: the first version of ONNX's operators that takes these types.
    """

    floats: int = FLOAT
    grid: int | None = None
    weights: int | None = None
    opset: int = 17


@dataclass(frozen=True)
class Flavour:
    """How the graphs of one runtime are written.

    Attributes:
        name: of the runtime.
        formats: the precisions that it knows; sparse weights are zeros in the graphs of dense ones.
        symmetric: whether quantised feature maps have no zero point. Then activations are nodes of their own, biases are floats, and of a
            residual sum the side of the body comes straight from its convolution and only the shortcut is quantised, so that convolution,
            sum, activation and quantiser become one kernel. Otherwise a zero point of 0 is the ReLU, other activations of a convolution
            have a quantiser before them too, biases are ``int32``, and both sides of a sum are quantised.
        weight_bits: how many of the 8 bits the weights of ``int8`` blocks use. On x86 without VNNI, runtimes add two products of a uint8
            and an int8 in 16 bits, which saturate; weights of 7 bits never do.
    """

    name: str
    formats: Mapping[str, Format]
    symmetric: bool
    weight_bits: int = 8

    def carried(self, bits: int) -> Flavour:
        """The same flavour with ``int8`` weights of this many bits."""
        return replace(self, weight_bits=bits)

    def largest(self, kind: int) -> float:
        """The largest weight on a symmetric grid of a type of tensors, as ONNX numbers them."""
        return float(2 ** (self.weight_bits - 1) - 1) if kind == INT8 else LARGEST[kind]


ONNXRUNTIME = Flavour("ONNX Runtime", {"fp32": Format(), "int8": Format(grid=UINT8, weights=INT8)}, symmetric=False)
"""``uint8`` feature maps, ``int8`` weights. ONNX Runtime turns them into QLinearConv and QLinearAdd, and OpenVINO takes them as well."""

TOLERANCES = {"fp32": 0.01, "fp16": 0.01, "w4a16": 0.01, "int8": 0.05, "bf16": 0.05, "fp8": 0.1}
"""How far two runtimes may differ over one network: the norm of the difference relative to that of the outputs. fp32 counts TF32 in, and
on grids a value between two steps may fall to either."""

TENSORRT = Flavour(
    "TensorRT",
    {
        "fp32": Format(),
        "fp16": Format(FLOAT16),
        "bf16": Format(BFLOAT16, opset=22),
        "int8": Format(grid=INT8, weights=INT8),
        "fp8": Format(grid=FLOAT8, weights=FLOAT8, opset=21),
        "w4a16": Format(FLOAT16, weights=INT4, opset=21),
    },
    symmetric=True,
)
"""Strongly typed: every tensor has the type that the graph says. Explicit quantisers only, as TensorRT 11 and TensorRT-RTX want it."""
