"""The kernels of users' networks: found in the graph, counted by genes, and told apart in files by the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hwsearch
from hwsearch.backends import load_backend
from hwsearch.networks import Block, Fused
from hwsearch.profiling import Effort


class Dense(nn.Module):
    """Each layer reads all before it, after a batch norm of its own; then a pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16 + 16 * number) for number in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(16 + 16 * number, 16, 3, padding=1) for number in range(3))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            seen.append(layer(torch.relu(norm(torch.cat(seen, 1)))))
        return self.head(torch.cat(seen, 1).mean((2, 3)))  # type: ignore[no-any-return]


class Mobile(nn.Module):
    """An inverted bottleneck with squeeze-and-excite as a branch, on an oblong map, behind a strided, one-sided stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, (1, 7), stride=2, padding=(0, 3)), nn.BatchNorm2d(16), nn.Hardswish())
        self.expand = nn.Sequential(nn.Conv2d(16, 48, 1), nn.BatchNorm2d(48), nn.Hardswish())
        self.depth = nn.Sequential(nn.Conv2d(48, 48, 5, padding=2, groups=48), nn.BatchNorm2d(48), nn.Hardswish())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 16, 1), nn.ReLU(), nn.Conv2d(16, 48, 1), nn.Hardsigmoid())
        self.project = nn.Sequential(nn.Conv2d(48, 16, 1), nn.BatchNorm2d(16))
        self.grouped = nn.Conv2d(16, 32, 3, groups=4)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.depth(self.expand(x))
        x = x + self.project(y * self.squeeze(y))
        return self.head(torch.relu(self.grouped(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Fast(nn.Module):
    """The same by torch's own attention, with the batch in front of the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, stride=4)
        self.qkv = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = (each(x).view(x.shape[0], -1, 4, 8).transpose(1, 2) for each in self.qkv)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(y.transpose(1, 2).flatten(2).mean(1))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Two heads over patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, stride=4)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).view(x.shape[0], -1, 3, 2, 16).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ v
        return self.head((x + self.out(y.transpose(1, 2).flatten(2))).mean(1))  # type: ignore[no-any-return]


NETWORKS = {"dense": (Dense, (16, 16)), "mobile": (Mobile, (12, 20)), "attention": (Attention, (16, 16)), "fast": (Fast, (16, 16))}


@pytest.fixture(scope="module", params=NETWORKS)
def adopted(request: pytest.FixtureRequest) -> hwsearch.nn.adoption.Adopted:
    torch.manual_seed(0)
    make, size = NETWORKS[request.param]
    return hwsearch.adopt(make(), torch.randn(1, 3, *size))


def test_the_kernels_of_a_network_do_all_that_it_multiplies(adopted: hwsearch.nn.adoption.Adopted) -> None:
    """Of random rows, the MACs of all kernels are those that the space counts, whose rules were proven in another way."""
    X = adopted.sample(30, np.random.default_rng(0))
    kernels = [adopted.blocks(row) for row in X]
    assert [sum(block.macs for block in network) for network in kernels] == pytest.approx(hwsearch.metric("macs", adopted)(X))
    assert {Block.parse(block.key) for network in kernels for block in network} == {block for network in kernels for block in network}


def test_what_is_done_value_by_value_belongs_to_the_kernel_before_and_what_is_done_for_one_to_that_one() -> None:
    """A mobile bottleneck is so many kernels as it has convolutions."""
    torch.manual_seed(0)
    space = hwsearch.adopt(Mobile(), torch.randn(1, 3, 12, 20))
    network = [block for block in space.blocks(np.array([size - 1 for size in space.sizes], dtype=np.uint8)) if isinstance(block, Fused)]
    assert [kernel.ops for kernel in network] == [
        ("conv2d", "hardswish"),
        ("conv2d", "hardswish"),
        ("conv2d", "hardswish"),
        ("adaptive_avg_pool2d", "conv2d", "relu"),
        ("conv2d", "hardsigmoid"),
        ("mul", "conv2d", "add"),
        ("conv2d", "relu"),
        ("mean", "linear"),
    ]
    assert network[0].taps == (1, 7)
    assert (network[0].into, network[0].onto) == ((12, 20), (6, 10))
    assert network[2].groups == 48
    assert network[6].groups == 4


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_tells_the_kernels_of_a_file_apart(adopted: hwsearch.nn.adoption.Adopted, tmp_path: Path, name: str) -> None:
    """The file computes what the network does, and each kernel that the runtime names is one of the row's slots."""
    pytest.importorskip(name)
    runtime = load_backend(name)
    row = adopted.sample(1, np.random.default_rng(1))[0]
    path = tmp_path / "network.onnx"
    path.write_bytes(adopted.model_file(row))
    with runtime.profiled(path) as session:
        assert (session.times(3) > 0).all()
        told = session.kernels_ms
    names = {slot.name for slot, _ in adopted.placed(row)}
    assert set(told) <= names
    multiplying = {slot.name for slot, blocks in adopted.placed(row) for block in blocks if block.macs}
    if name == "onnxruntime":  # OpenVINO does not tell of kernels that take less than a microsecond
        assert multiplying <= set(told)
    assert set(told) & multiplying
    assert min(told.values()) > 0
    images = torch.randn(1, *adopted.inputs[0].shape[1:])
    wanted = adopted.cut(*adopted.plan(row)).build()(images).detach().numpy()
    assert runtime.runner(str(path))(images.numpy()) == pytest.approx(wanted, abs=1e-4)


def test_openvino_tells_the_kernel_that_makes_the_output(tmp_path: Path) -> None:
    """OpenVINO calls the last operation by the output; what it takes is no part of the kernel before."""
    pytest.importorskip("openvino")
    runtime = load_backend("openvino")
    torch.manual_seed(0)
    layers = nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 4096)
    space = hwsearch.adopt(nn.Sequential(*layers), torch.randn(1, 512))
    path = tmp_path / "network.onnx"
    path.write_bytes(space.model_file(space.row()))
    with runtime.profiled(path) as session:
        session.times(20)
        told = session.kernels_ms
    first, last = [slot.name for slot, blocks in space.placed(space.row()) if blocks]
    assert told[last] > told[first]  # it has eight times the weights


def test_a_table_of_a_users_network_is_measured_and_searched(tmp_path: Path) -> None:
    """From a module to the row of a limit; held-out networks tell the table's error."""
    torch.manual_seed(0)
    space = hwsearch.adopt(Dense(), torch.randn(1, 3, 16, 16))
    few = Effort(max_rounds=3, checks=12, fits=6)
    table = hwsearch.profile(space, backend="onnxruntime", out=tmp_path / "table.json", effort=few, progress=False)
    assert 8 <= table.error()["networks"] <= 12  # of all networks that there are
    assert not table.missing(space.blocks(np.array([size - 1 for size in space.sizes], dtype=np.uint8)))
    metric = hwsearch.metric("latency_ms", space, table)
    limit = float(np.median(metric(space.sample(50, np.random.default_rng(0)))))
    found = hwsearch.search(space, device=table, predictor=hwsearch.metric("macs", space), limits={"latency_ms": limit}, seed=0)
    assert metric(found.best.genes[None])[0] <= limit
    verifier = hwsearch.nn.adoption.RepairVerifier(torch.randn(40, 3, 16, 16), hwsearch.nn.adoption.Probing(images=20, held_out=20))
    problem = hwsearch.Problem.of(space, device=table, predictor=hwsearch.metric("macs", space), limits={"latency_ms": limit})
    verified = verifier(problem, table)
    assert "sentinel" in verified.name  # it measures, as DeviceVerifier does
    assert 0 <= verified.score(found.best.genes[None])[0] <= 1


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)) * scale).mean((2, 3))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_inputs_that_are_single_numbers_are_written_and_run(tmp_path: Path, name: str) -> None:
    pytest.importorskip(name)
    space = hwsearch.adopt(Scaled(), (torch.randn(1, 3, 8, 8), torch.tensor(0.5)), step=4)
    path = tmp_path / "network.onnx"
    path.write_bytes(space.model_file(space.row()))
    with load_backend(name).profiled(path) as session:
        assert (session.times(3) > 0).all()
        assert session.batch == 1
