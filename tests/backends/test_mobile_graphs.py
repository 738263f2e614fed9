"""Mobile blocks compute the same in torch and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
onnx = pytest.importorskip("onnx", reason="needs the onnxruntime extra")
pytest.importorskip("onnxruntime", reason="needs the onnxruntime extra")

from hwsearch import load_space  # noqa: E402
from hwsearch.backends import load_backend  # noqa: E402
from hwsearch.backends._onnx._graph import build  # noqa: E402
from hwsearch.backends._torch_blocks import GraphBlock, block_weights  # noqa: E402
from hwsearch.networks import Block  # noqa: E402
from hwsearch.nn.published._ofa import OfaSupernet  # noqa: E402

BACKEND = load_backend("onnxruntime")
BLOCKS = [
    "conv-in3-out16-px15-k3-s2-g1-fp32-hswish",
    "conv-in16-out8-px9-k1-s1-g1-fp32-none",
    "mbconv-in8-mid24-out8-px9-k5-s1-g1-fp32-relu6",
    "mbconv-in8-mid24x8-out16-px9-k7-s2-g1-fp32-swish",
    "mbconv-in16-mid64x16-out16-px8-k3-s1-g1-fp32-hswish-at224",
    "separable-in16-out16-px8-k3-s1-g1-fp32",
    "separable-in16-mid8-out24-px8-k3-s1-g1-fp32",
    "resconv-in16-out16-px8-k3-s1-g1-fp32",
    "bottleneckd-in16-mid8x8-out32-px9-k3-s2-g1-fp32",
    "bottleneckd-in16-mid8x8-out32-px8-k3-s1-g1-fp32",
    "maxpool-in16-out16-px15-k3-s2-g1-fp32",
    "avgpool-in16-out16-px8-k3-s1-g1-fp32",
    "head-in24-mid32-out10-px5-k1-s1-g1-fp32-hswish",
]


def randomise(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif not name.endswith("num_batches_tracked"):
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))


def outputs(network: torch.nn.Sequential, blocks: list[Block]) -> tuple[np.ndarray, np.ndarray]:
    """What torch and what ONNX Runtime compute, batch 2."""
    x = np.random.default_rng(0).standard_normal((2, blocks[0].cin, blocks[0].size, blocks[0].size)).astype(np.float32)
    model = build(blocks, weights=block_weights(network), batch=2)
    onnx.checker.check_model(model, full_check=True)
    with torch.no_grad():
        return network(torch.from_numpy(x)).numpy(), BACKEND.session(model).run(None, {"input": x})[0]


@pytest.mark.parametrize("key", BLOCKS)
def test_blocks_compute_the_same(key: str) -> None:
    block = Block.parse(key)
    network = torch.nn.Sequential(GraphBlock(block)).eval()
    randomise(network, seed=1)
    ours, theirs = outputs(network, [block])
    assert ours.std() > 1e-3
    assert ours.shape[1:] == ((block.cout,) if block.kind == "head" else (block.cout, block.out_size, block.out_size))
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ofa_mobilenetv3", "ofa_resnet50"])
def test_extracted_networks_compute_the_same(name: str, rng: np.random.Generator) -> None:
    space = load_space(name, resolutions=(96,))
    row = space.sample(1, rng)[0]
    blocks = list(space.blocks(row))
    ours, theirs = outputs(OfaSupernet(space).extract(row), blocks)
    assert ours.shape == (2, 1000)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4 * np.abs(ours).max())


def test_parameters_of_torch_modules_are_those_of_the_block() -> None:
    for key in BLOCKS:
        block = Block.parse(key)
        assert sum(parameter.numel() for parameter in GraphBlock(block).parameters()) == block.params


@pytest.mark.parametrize("activation", ["relu", "relu6", "hswish"])
def test_mobile_blocks_compute_in_integers_at_int8(activation: str, tmp_path: Path) -> None:
    """ONNX Runtime finds every convolution between quantisers; a ReLU or a ReLU6 costs nothing beside it."""
    block = Block("mbconv", 8, 8, 8, (24, 8), 3, precision="int8", activation=activation)
    assert BACKEND.supports(block)
    BACKEND.session(build([block]), optimized=tmp_path / "optimised.onnx")
    nodes = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert nodes.count("QLinearConv") == 3
    assert nodes.count("QLinearAdd") == 1
    assert not {"Conv", "FusedConv", "Clip"} & set(nodes)
