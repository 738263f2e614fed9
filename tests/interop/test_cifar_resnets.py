"""Trained ResNets of CIFAR-10: read, they compute what their weights say, at every precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_resnets import State, weights

import hwsearch
from hwsearch.errors import CorruptFile, InvalidInput
from hwsearch.interop import cifar_resnet
from hwsearch.nn import Data, Supernet, deploy, make_data

torch.set_num_threads(1)


def logits(state: State, x: torch.Tensor) -> torch.Tensor:
    """What He et al. compute: shortcuts skip every other pixel and add channels of zeros."""
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}

    def convolved(y: torch.Tensor, prefix: str, number: int, stride: int = 1) -> torch.Tensor:
        norm = [tensors[f"{prefix}bn{number}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(F.conv2d(y, tensors[f"{prefix}conv{number}.weight"], None, stride, 1), *norm)

    y = F.relu(convolved(x, "", 1))
    blocks = sorted({name.rsplit(".", 2)[0] for name in state if name.startswith("layer")})
    for block in blocks:
        stride = 2 if block in ("layer2.0", "layer3.0") else 1
        inner = convolved(F.relu(convolved(y, f"{block}.", 1, stride)), f"{block}.", 2)
        more = (inner.shape[1] - y.shape[1]) // 2
        y = F.relu(inner + F.pad(y[:, :, ::stride, ::stride], (0, 0, 0, 0, more, more)))
    return F.linear(y.mean(dim=(2, 3)), tensors["linear.weight"], tensors["linear.bias"])


@pytest.fixture(scope="module")
def state() -> State:
    return weights(2)


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet14.npz"
    np.savez(path, **state)
    return path


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    split = (rng.integers(0, 256, size=(32, 3, 32, 32), dtype=np.uint8), np.arange(32) % 10)
    return make_data("noise", split, split, split)


def test_network_computes_what_its_weights_say(state: State, file: Path, tmp_path: Path) -> None:
    net = cifar_resnet(file)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(net.extract(net.largest)(x), logits(state, x), atol=1e-3)
        floats = [hwsearch.networks.Block.parse(block.key.replace("int8", "fp32")) for block in net.space.blocks(net.largest)]
        assert torch.allclose(deploy(net.extract(net.largest), floats, x)(x), logits(state, x), atol=1e-3)
    torch.save({"state_dict": {f"module.{name}": torch.from_numpy(array) for name, array in state.items()}}, tmp_path / "resnet14.th")
    assert cifar_resnet(tmp_path / "resnet14.th").digest == net.digest


def test_published_network_computes_what_its_weights_say(data_folder: Path) -> None:
    path = data_folder / "cifar_resnets" / "resnet20.npz"
    if not path.is_file():
        pytest.skip("the trained ResNets of CIFAR-10 are not at hand")
    net = cifar_resnet(path)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with np.load(path) as arrays, torch.inference_mode():
        assert torch.allclose(net.extract(net.largest)(x), logits(dict(arrays), x), atol=1e-3)


def test_first_and_last_layer_keep_eight_bits(file: Path, data: Data) -> None:
    net = cifar_resnet(file, data=data, precisions=("w2a8", "int4", "int8"))
    blocks = net.space.blocks(net.space.encode({choice.name: choice.values[0] for choice in net.space.choices}))
    assert [block.precision for block in blocks] == ["int8", "int8", *["w2a8"] * 6, "int8"]
    values = {choice.name: "int4" if "int4" in choice.values else choice.values[0] for choice in net.space.choices}
    kinds = [(block.kind, block.precision) for block in net.space.blocks(net.space.encode(values)) if block.boundary]
    assert kinds == [("quantize", "int8"), ("dequantize", "int8"), ("quantize", "int4"), ("dequantize", "int4"), ("quantize", "int8")]


def test_weights_and_maps_have_bits_of_their_own(file: Path, data: Data, state: State) -> None:
    x = cifar_resnet(file, data=data).calibration()
    errors = {}
    for precision in ("w2a8", "w4a2", "int4", "w4a8", "w8a4", "int8"):
        net = cifar_resnet(file, data=data, precisions=(precision,))
        network = deploy(net.extract(net.largest), net.space.blocks(net.largest), x)
        with torch.inference_mode():
            errors[precision] = float((network(x) - logits(state, x)).square().mean())
    assert errors["int8"] < min(errors["w4a8"], errors["w8a4"])
    assert max(errors["w4a8"], errors["w8a4"]) < errors["int4"]
    assert errors["int4"] < min(errors["w2a8"], errors["w4a2"])


def test_a_file_of_something_else_is_refused(state: State, file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    with pytest.raises(CorruptFile, match="no residual network for CIFAR-10"):
        cifar_resnet(tmp_path / "other.npz")
    np.savez(tmp_path / "narrow.npz", **{**state, "linear.bias": np.zeros(9, np.float32)})
    with pytest.raises(CorruptFile, match=r"'linear.bias' has the shape \(9,\), not \(10,\)"):
        cifar_resnet(tmp_path / "narrow.npz")
    (tmp_path / "cut.npz").write_bytes(file.read_bytes()[:100])
    with pytest.raises(CorruptFile, match="npz file of arrays"):
        cifar_resnet(tmp_path / "cut.npz")
    with pytest.raises(InvalidInput, match="one precision at least"):
        cifar_resnet(file, precisions=())


def test_network_survives_a_file(file: Path, data: Data, tmp_path: Path) -> None:
    net = cifar_resnet(file, data=data, precisions=("int4", "int8"))
    net.save(tmp_path / "net.safetensors")
    assert Supernet.load(tmp_path / "net.safetensors", net.space).digest == net.digest
    assert net.alone(net.largest).space.size == 1
