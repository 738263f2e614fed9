"""Every width and precision that was decided is found again in the graph."""

from dataclasses import replace

import numpy as np
import pytest

import hwsearch
from hwsearch.errors import CorruptFile, FileError
from hwsearch.networks import Block

pytest.importorskip("onnx")

from hwsearch.backends._onnx._check import differences, placed
from hwsearch.backends._onnx._graph import build

MOBILE = (Block("conv", 3, 8, 8, (), 3, 2), Block("mbconv", 8, 8, 4, (16, 8), 5), Block("head", 8, 10, 4, (12,)))


def networks(n):
    """Random networks of mixed precisions, and inverted bottlenecks with their excitation."""
    spaces = [hwsearch.load_space(name) for name in ("resnet_digits", "resnet50")]
    rng = np.random.default_rng(0)
    small = spaces[1].restrict({"stage?.out": [64, 128, 256, 512], "*.mid?": [16, 24, 32, 64, 128], "resolution": [128]})
    return [MOBILE, *(space.blocks(row) for space in (spaces[0], small) for row in space.sample(n, rng))]


@pytest.mark.parametrize("network", networks(4), ids=lambda network: f"{len(network)} blocks")
def test_every_decision_is_in_the_graph(network, tmp_path):
    model = build(network)
    assert differences(model, network) == ()
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert differences(path, network) == ()
    layers = [layer for block in network for layer in block.graph.layers if not layer.pooling]
    assert len(placed(path)) == len(layers)


def test_a_width_or_a_precision_that_was_lost_is_told():
    network = [Block("conv", 3, 16, 8, (), 3), Block("basic", 16, 16, 8, (24,), 3), Block("head", 16, 10, 8)]
    model = build(network)
    wider = [network[0], replace(network[1], mids=(32,)), network[2]]
    assert "conv 16 -> 24" in differences(model, wider)[0]
    assert "conv 16 -> 32" in differences(model, wider)[0]
    quantised = [network[0], Block("quantize", 16, 16, 8, precision="int8"), replace(network[1], precision="int8")]
    quantised += [Block("dequantize", 16, 16, 8, precision="int8"), network[2]]
    found = differences(model, quantised)
    assert len(found) == 2
    assert all("fp32 weights" in line and "int8 weights, int8 activations decided" in line for line in found)
    assert differences(build(quantised), quantised) == ()
    assert "3 layers in the file, and 4 decided" in differences(build(network[:2]), network)
    assert "images of shape [3, 8, 8]" in differences(model, [replace(network[0], size=10)])[-1]


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileError, match="no model file"):
        placed(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(CorruptFile, match="no ONNX model"):
        placed(tmp_path / "text.onnx")
