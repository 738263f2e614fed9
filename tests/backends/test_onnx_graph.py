"""The graphs compute what they should, and ONNX Runtime fuses them."""

import numpy as np
import pytest

from hwsearch.errors import InvalidInput, Unsupported
from hwsearch.networks import Block
from hwsearch.spaces import load_space

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from hwsearch.backends import load_backend  # noqa: E402
from hwsearch.backends._onnx import _graph as onnx_graph  # noqa: E402
from hwsearch.backends._onnx._flavours import INT8, ONNXRUNTIME  # noqa: E402
from hwsearch.backends._onnx._graph import BlockWeights, LayerWeights, quantize_weight, random_weights  # noqa: E402

BACKEND = load_backend("onnxruntime")
FLAVOUR = ONNXRUNTIME.carried(BACKEND.weight_bits)
BLOCKS = [
    "conv-in3-out16-px8-k3-s1-g1-{}",
    "basic-in16-mid24-out16-px8-k3-s1-g1-{}",
    "basic-in12-mid20-out24-px9-k3-s2-g1-{}",
    "bottleneck-in16-mid8x8-out32-px8-k3-s2-g4-{}",
]
MORE_BLOCKS = [
    "conv-in3-out16-px16-k7-s2-g1-{}",
    "maxpool-in16-out16-px9-k3-s2-g1-{}",
    "avgpool-in16-out16-px8-k2-s2-g1-{}",
    "avgpool-in16-out16-px8-k3-s1-g1-{}",
    "bottleneckd-in16-mid8x12-out32-px8-k3-s2-g1-{}",
    "resconv-in16-out16-px8-k3-s1-g1-{}",
]


def build(network, **options):
    """The graph as it is exported on this machine: its weights have as many bits as integer products carry here."""
    return onnx_graph.build(network, **{"flavour": FLAVOUR, **options})


def fused_ops(network, tmp_path):
    path = tmp_path / "fused.onnx"
    BACKEND.session(build(network), optimized=path)
    return [node.op_type for node in onnx.load(path).graph.node]


def run(model, x):
    return BACKEND.session(model).run(None, {"input": x})[0]


def conv(x, weight, bias, layer):
    """A convolution, plainly: x (n, cin, h, w)."""
    pad = layer.kernel // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    patches = np.lib.stride_tricks.sliding_window_view(x, (layer.kernel, layer.kernel), axis=(2, 3))[:, :, :: layer.stride, :: layer.stride]
    size, per_group = layer.cin // layer.groups, layer.cout // layer.groups
    parts = [
        np.einsum("nchwij,ocij->nohw", patches[:, g * size : (g + 1) * size], weight[g * per_group : (g + 1) * per_group])
        for g in range(layer.groups)
    ]
    return np.concatenate(parts, axis=1) + bias[:, None, None]


def pool(x, layer):
    """The maxima or means of what is inside the feature map."""
    pad = layer.kernel // 2 if layer.kernel != layer.stride else 0
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=np.nan)
    patches = np.lib.stride_tricks.sliding_window_view(x, (layer.kernel, layer.kernel), axis=(2, 3))[:, :, :: layer.stride, :: layer.stride]
    return (np.nanmax if layer.op == "maxpool" else np.nanmean)(patches, axis=(4, 5))


def quantize(x, scale, zero):
    return np.clip(np.rint(x / scale) + zero, 0, 255)


def reference(block, numbers, x, scale=None, zero=0):
    """What the block should compute: float (scale None), or on the grid of its quantisers."""

    def layers(specs, weights, value, value_scale, value_zero=zero):
        for layer, one in zip(specs, weights, strict=True):
            if layer.pooling:
                value = pool(value, layer)
                if value_scale is not None:
                    value = (quantize(value, value_scale, value_zero) - value_zero) * value_scale
                continue
            weight, bias = one.weight.astype(np.float64), one.bias.astype(np.float64)
            if value_scale is not None:
                values, weight_scale = quantize_weight(one.weight, FLAVOUR.largest(INT8))
                weight = values * weight_scale.astype(np.float64)[:, None, None, None]
                bias = np.rint(bias / (weight_scale * value_scale)) * weight_scale * value_scale
            value = conv(value, weight, bias, layer)
            if layer.relu:
                value = np.maximum(value, 0)
            if value_scale is not None:
                value = (quantize(value, one.out_scale, one.out_zero) - one.out_zero) * one.out_scale
                value_scale, value_zero = one.out_scale, one.out_zero
        return value

    x = x.astype(np.float64) if scale is None else (x.astype(np.float64) - zero) * scale
    body = layers(block.graph.body, numbers.body, x, scale)
    if block.graph.shortcut is None:
        last = (scale, zero) if block.graph.body[-1].pooling else (numbers.body[-1].out_scale, numbers.body[-1].out_zero)
        return body if scale is None else quantize(body, *last)
    total = body + layers(block.graph.shortcut, numbers.shortcut, x, scale)
    if block.graph.joined == "relu":
        total = np.maximum(total, 0)
    return total if scale is None else quantize(total, numbers.out_scale, numbers.out_zero)


@pytest.mark.parametrize("key", BLOCKS + MORE_BLOCKS)
def test_float_blocks_compute_the_reference(key):
    block = Block.parse(key.format("fp32"))
    (numbers,) = random_weights([block], seed=1)
    x = np.random.default_rng(0).standard_normal((2, block.cin, block.size, block.size)).astype(np.float32)
    found = run(build([block], weights=[numbers], batch=2), x)
    np.testing.assert_allclose(found, reference(block, numbers, x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("key", BLOCKS + MORE_BLOCKS)
@pytest.mark.parametrize("zero", [0, 100])
def test_int8_blocks_compute_the_reference_on_the_grid(key, zero):
    block = Block.parse(key.format("int8"))
    (numbers,) = random_weights([block], seed=1)
    x = np.random.default_rng(0).integers(0, 256, (2, block.cin, block.size, block.size)).astype(np.uint8)
    found = run(build([block], weights=[numbers], batch=2, input_scale=0.02, input_zero=zero), x)
    assert found.dtype == np.uint8
    assert found.std() > 5
    expected = reference(block, numbers, x, 0.02, zero)
    difference = np.abs(found.astype(np.float64) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_a_relu_survives_a_zero_point_that_is_not_zero():
    block = Block.parse("conv-in3-out16-px8-k3-s1-g1-int8")
    (numbers,) = random_weights([block])
    layer = numbers.body[0]
    shifted = BlockWeights((LayerWeights(layer.weight, layer.bias, layer.out_scale, 40),))
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)
    found = run(build([block], weights=[shifted]), x)
    assert found.min() == 40
    np.testing.assert_allclose(found, reference(block, shifted, x, 0.03), atol=2)


def test_the_classifier_averages_and_multiplies():
    block = Block("head", 24, 10, 6)
    (numbers,) = random_weights([block])
    x = np.random.default_rng(0).standard_normal((2, 24, 6, 6)).astype(np.float32)
    expected = x.mean(axis=(2, 3)) @ numbers.body[0].weight.T + numbers.body[0].bias
    np.testing.assert_allclose(run(build([block], weights=[numbers], batch=2), x), expected, atol=1e-5)


def test_an_int8_classifier_gives_floats_near_those_of_the_float_one():
    block = Block("head", 24, 10, 6, precision="int8")
    (numbers,) = random_weights([block])
    x = np.random.default_rng(0).integers(0, 256, (2, 24, 6, 6)).astype(np.uint8)
    found = run(build([block], weights=[numbers], batch=2, input_scale=0.02, input_zero=100), x)
    assert found.dtype == np.float32
    mean = ((x.astype(np.float64) - 100) * 0.02).mean(axis=(2, 3))
    np.testing.assert_allclose(found, mean @ numbers.body[0].weight.T + numbers.body[0].bias, atol=0.15)


def test_boundaries_quantise_and_dequantise():
    there, back = Block("quantize", 8, 8, 4, precision="int8"), Block("dequantize", 8, 8, 4, precision="int8")
    weights = [BlockWeights(out_scale=0.02, out_zero=128), BlockWeights()]
    x = np.random.default_rng(0).standard_normal((1, 8, 4, 4)).astype(np.float32)
    expected = (quantize(x, 0.02, 128) - 128) * 0.02
    np.testing.assert_allclose(run(build([there, back], weights=weights), x), expected, atol=0.0201)


def test_mixed_networks_are_valid_onnx_with_fixed_names():
    space = load_space("resnet_digits")
    for row in space.sample(4, np.random.default_rng(0)):
        network = space.blocks(row)
        model = build(network, batch=2)
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.input] == ["input"]
        assert [value.name for value in model.graph.output] == ["output"]
        x = np.random.default_rng(1).standard_normal((2, 1, network[0].size, network[0].size)).astype(np.float32)
        out = run(model, x)
        assert out.shape == (2, 10)
        assert out.dtype == np.float32
        assert np.isfinite(out).all()


@pytest.mark.parametrize("key", BLOCKS)
def test_int8_blocks_become_integer_kernels_without_relu(key, tmp_path):
    block = Block.parse(key.format("int8"))
    ops = fused_ops([block], tmp_path)
    assert ops.count("QLinearConv") == len(block.graph.layers)
    assert ops.count("QLinearAdd") == (block.graph.shortcut is not None)
    assert set(ops) <= {"QLinearConv", "QLinearAdd", "Transpose"}


@pytest.mark.parametrize("key", BLOCKS)
def test_float_blocks_fuse_between_neighbours(key, tmp_path):
    block = Block.parse(key.format("fp32"))
    whole, _ = BACKEND.framed(block)
    ops = fused_ops(whole, tmp_path)
    assert ops.count("Conv") + ops.count("FusedConv") == len(block.graph.layers) + len(whole) - 1
    assert set(ops) <= {"Conv", "FusedConv", "ReorderInput", "ReorderOutput"}


def test_whole_int8_networks_have_no_stray_quantisers(tmp_path):
    space = load_space("resnet_cifar")
    network = space.blocks(space.restrict({"*.precision": ["int8"]}).sample(1, np.random.default_rng(0))[0])
    ops = fused_ops(network, tmp_path)
    assert ops.count("QuantizeLinear") == 1
    assert ops.count("DequantizeLinear") == 1
    assert "Relu" not in ops
    assert ops.count("QLinearConv") == sum(len(block.graph.layers) for block in network if block.kind != "head")


def test_int8_poolings_and_classifiers_stay_integers_between_neighbours(tmp_path):
    network = [
        Block("conv", 16, 32, 8, (), 3, precision="int8"),
        Block("maxpool", 32, 32, 8, (), 3, 2, precision="int8"),
        Block("bottleneckd", 32, 64, 4, (16, 16), 3, 2, precision="int8"),
        Block("head", 64, 10, 2, precision="int8"),
    ]
    ops = set(fused_ops(network, tmp_path))
    integer = {"QLinearConv", "NhwcMaxPool", "QLinearAveragePool", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm"}
    assert ops == {*integer, "Transpose", "Flatten"}


def test_a_float_pooling_is_quantised_after_it_and_not_before(tmp_path):
    """ONNX Runtime would pull the quantiser through, and pools such integers many times as slowly."""
    network = [
        Block("conv", 16, 32, 8, (), 3),
        Block("maxpool", 32, 32, 8, (), 3, 2),
        Block("quantize", 32, 32, 4, precision="int8"),
        Block("conv", 32, 16, 4, precision="int8"),
    ]
    ops = fused_ops(network, tmp_path)
    assert "Relu" not in ops
    assert ops.index("MaxPool") < ops.index("QuantizeLinear")
    weights = list(random_weights(network))
    x = np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)
    halves = run(build(network[:2], weights=weights[:2]), x), build(network[2:], weights=weights[2:])
    assert np.abs(run(build(network, weights=weights), x).astype(int) - run(halves[1], halves[0])).max() <= 1


def test_int8_weights_use_the_whole_range_of_every_channel():
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) * np.array([1e-3, 1, 10, 0])[:, None, None, None]
    values, scale = quantize_weight(weight.astype(np.float32))
    assert np.abs(values[:3]).reshape(3, -1).max(axis=1).tolist() == [127, 127, 127]
    np.testing.assert_allclose(values * scale[:, None, None, None], weight, atol=scale.max() * 0.51)
    assert (scale > 0).all()


def test_what_cannot_be_built_is_refused():
    block = Block.parse("conv-in3-out16-px8-k3-s1-g1-int8")
    (numbers,) = random_weights([block])
    layer = numbers.body[0]
    with pytest.raises(Unsupported, match="ONNX Runtime hold fp32, int8, not int4"):
        build([Block.parse("conv-in3-out16-px8-k3-s1-g1-int4")])
    with pytest.raises(InvalidInput, match="one entry a block: 1 blocks, 2 entries"):
        build([block], weights=[numbers, numbers])
    with pytest.raises(InvalidInput, match=r"must have the shapes \(16, 3, 3, 3\)"):
        build([block], weights=[BlockWeights((LayerWeights(layer.weight[:8], layer.bias, 0.1),))])
    with pytest.raises(InvalidInput, match="positive scale"):
        build([block], weights=[BlockWeights((LayerWeights(layer.weight, layer.bias),))])
    with pytest.raises(InvalidInput, match="1 layers in this path"):
        build([block], weights=[BlockWeights()])
