"""Graphs in TensorRT's flavour: what is in them, and that ONNX Runtime computes with them what it should."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch.errors import InvalidInput, Unsupported
from hwsearch.networks import Block

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnxruntime as ort  # noqa: E402

from hwsearch.backends._onnx._flavours import BFLOAT16, FLOAT, FLOAT8, FLOAT16, INT4, INT8, ONNXRUNTIME, TENSORRT, UINT8  # noqa: E402
from hwsearch.backends._onnx._graph import BlockWeights, LayerWeights, build, random_weights  # noqa: E402

INT32 = 6
KEYS = [
    "conv-in3-out16-px8-k3-s1-g1-{}",
    "conv-in8-out16-px8-k3-s2-g1-{}-hswish",
    "resconv-in8-out8-px8-k3-s1-g1-{}",
    "basic-in16-mid24-out16-px8-k3-s1-g1-{}",
    "basic-in12-mid20-out24-px9-k3-s2-g1-{}",
    "bottleneck-in16-mid8x8-out32-px8-k3-s2-g4-{}",
    "bottleneckd-in16-mid8x8-out32-px8-k3-s2-g1-{}",
    "mbconv-in8-mid24-out8-px8-k5-s1-g1-{}-relu6",
    "mbconv-in8-mid24x8-out16-px8-k3-s2-g1-{}-hswish",
    "separable-in8-mid8-out8-px8-k3-s1-g1-{}-swish",
    "maxpool-in8-out8-px8-k3-s2-g1-{}",
    "avgpool-in8-out8-px8-k3-s2-g1-{}",
    "head-in16-out10-px8-k1-s1-g1-{}",
    "head-in16-mid24-out10-px8-k1-s1-g1-{}-hswish",
]
RANGE = 6.0
TOLERANCE = {"fp16": 1e-3, "int8": 0.04, "fp8": 0.1, "w4a16": 0.2}
"""What the formats themselves lose over one block: the norm of the error relative to that of the outputs."""


def run(model, x):
    """As the graph says, node by node: with its optimisers ONNX Runtime takes fp8 for int8."""
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def between_boundaries(block):
    """The block with floats at both ends."""
    before = Block("quantize", block.cin, block.cin, block.size, precision=block.precision)
    after = Block("dequantize", block.cout, block.cout, block.out_size, precision=block.precision)
    return (before, block) if block.kind == "head" else (before, block, after)


def on_a_grid(numbers, step, last):
    """The same numbers, with one quantiser for all feature maps inside the block, and one for its output."""

    def layers(some, *steps):
        return tuple(LayerWeights(one.weight, one.bias, scale) for one, scale in zip(some, steps, strict=True))

    inside = len(numbers.body) - 1
    shortcut = None if numbers.shortcut is None else layers(numbers.shortcut, *[step] * len(numbers.shortcut))
    return BlockWeights(layers(numbers.body, *[step] * inside, last), shortcut, last, 0, numbers.excite)


def kinds(model):
    """The types of all weights on file."""
    return {tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("precision", TOLERANCE)
def test_blocks_compute_what_they_do_in_fp32(key, precision):
    block, plain = Block.parse(key.format(precision)), Block.parse(key.format("fp32"))
    (numbers,) = random_weights([plain], seed=1)
    x = np.abs(np.random.default_rng(0).standard_normal((2, block.cin, block.size, block.size))).astype(np.float32)
    expected = run(build([plain], weights=[numbers], batch=2), x)
    step, last = np.array([RANGE, np.abs(expected).max()]) / (448 if precision == "fp8" else 127)
    network = between_boundaries(block)
    weights = (BlockWeights(out_scale=step), on_a_grid(numbers, step, last), BlockWeights())[: len(network)]
    found = run(build(network, weights=weights, batch=2, flavour=TENSORRT), x)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    # What squeeze-and-excite scales down keeps its grid, so little of that is used.
    tolerance = TOLERANCE[precision] * (3 if block.graph.excite else 1)
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("key", KEYS)
def test_float_graphs_are_the_same_in_both_flavours(key):
    block = Block.parse(key.format("fp32"))
    ours, theirs = (build([block], flavour=flavour) for flavour in (TENSORRT, ONNXRUNTIME))
    assert [node.op_type for node in ours.graph.node] == [node.op_type for node in theirs.graph.node]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("precision", "kind"), [("int8", INT8), ("fp8", FLOAT8)])
def test_quantisers_are_symmetric_and_biases_floats(key, precision, kind):
    block = Block.parse(key.format(precision))
    model = build([block], flavour=TENSORRT)
    assert {UINT8, INT32}.isdisjoint(kinds(model))
    zeros = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".zero")]
    assert zeros
    for zero in zeros:
        assert zero.data_type == kind
        assert not np.any(onnx.numpy_helper.to_array(zero).astype(np.float32))
    assert model.graph.input[0].type.tensor_type.elem_type == kind
    scales = {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith((".scale", ".bias"))}
    assert scales == {FLOAT}


def test_the_body_of_a_sum_comes_straight_from_its_convolution():
    for key in ("basic-in16-mid24-out16-px8-k3-s1-g1-int8", "bottleneck-in16-mid8x8-out32-px8-k3-s2-g1-int8"):
        model = build([Block.parse(key)], flavour=TENSORRT)
        made = {node.output[0]: node for node in model.graph.node}
        (total,) = (node for node in model.graph.node if node.op_type == "Add")
        assert [made[name].op_type for name in total.input] == ["Conv", "DequantizeLinear"]
        (relu,) = (node for node in model.graph.node if total.output[0] in node.input)
        (after,) = (node for node in model.graph.node if relu.output[0] in node.input)
        assert (relu.op_type, after.op_type) == ("Relu", "QuantizeLinear")


def test_half_precisions_compute_in_half_precision_and_cast_at_their_edges():
    for precision, kind in (("fp16", FLOAT16), ("bf16", BFLOAT16)):
        block = Block("basic", 8, 16, 8, (12,), 3, 2, precision=precision)
        model = build([block], flavour=TENSORRT)
        onnx.checker.check_model(model, full_check=True)
        assert kinds(model) == {kind}
        assert [node.op_type for node in model.graph.node].count("Cast") == 2
        inside = build([block, Block("conv", 16, 8, 4, (), 3, precision=precision)], flavour=TENSORRT)
        assert [node.op_type for node in inside.graph.node].count("Cast") == 2


def test_a_hard_swish_in_bf16_is_put_together():
    """TensorRT's parser has none in this type; nothing here runs bf16, so the same graph is run with wider floats."""
    block = Block("mbconv", 8, 8, 8, (24, 8), 3, precision="bf16", activation="hswish")
    plain = Block("mbconv", 8, 8, 8, (24, 8), 3, activation="hswish")
    (numbers,) = random_weights([plain], seed=1)
    model = build([block], weights=[numbers], flavour=TENSORRT)
    onnx.checker.check_model(model, full_check=True)
    assert {"HardSwish", "HardSigmoid"}.isdisjoint(node.op_type for node in model.graph.node)
    for tensor in model.graph.initializer:
        if tensor.data_type == BFLOAT16:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        if node.op_type == "Cast":
            node.attribute[0].i = FLOAT
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)
    expected = run(build([plain], weights=[numbers]), x)
    assert np.linalg.norm(run(model, x) - expected) <= 0.01 * np.linalg.norm(expected)


def test_weights_of_four_bits_are_on_file_as_such():
    block = Block("bottleneck", 16, 32, 8, (8, 8), 3, precision="w4a16")
    model = build([block], flavour=TENSORRT)
    values = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".values")]
    assert len(values) == len(block.graph.layers)
    assert {tensor.data_type for tensor in values} == {INT4}
    assert {FLOAT16} == kinds(model) - {INT4}
    assert sum(len(tensor.raw_data) for tensor in values) == sum(layer.weights for layer in block.graph.layers) // 2


def test_whole_networks_of_mixed_precisions_are_valid():
    from hwsearch.spaces import Chain, Stage

    names = ("fp32", "fp16", "bf16", "int8", "fp8")
    stages = (Stage((1, 2), (8, 16), (8,)), Stage((1,), (16,), (8, 12), stride=2, kind="bottleneck"))
    space = Chain("mixed", (16,), (8,), stages, 10, names, head_precisions=names).space()
    seen = set()
    for row in space.sample(12, np.random.default_rng(0)):
        network = space.blocks(row)
        model = build(network, batch=2, flavour=TENSORRT)
        onnx.checker.check_model(model, full_check=True)
        assert model.graph.output[0].type.tensor_type.elem_type == FLOAT
        seen |= {block.precision for block in network if block.boundary}
    assert seen == set(names[1:])


def test_what_the_flavour_lacks_is_refused():
    with pytest.raises(Unsupported, match="TensorRT hold fp32, fp16, bf16, int8, fp8, w4a16, not int4"):
        build([Block("conv", 8, 8, 8, (), 3, precision="int4")], flavour=TENSORRT)
    block = Block("conv", 8, 8, 8, (), 3, precision="int8")
    layer = random_weights([block])[0].body[0]
    shifted = BlockWeights((LayerWeights(layer.weight, layer.bias, 0.1, 3),))
    with pytest.raises(InvalidInput, match=r"zero point in 0\.\.0, not 0.1 and 3"):
        build([block], weights=[shifted], flavour=TENSORRT)
