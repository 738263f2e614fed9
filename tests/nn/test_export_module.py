"""Export of torch modules: ONNX Runtime computes what the module computes, for cut networks and for any other module."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from masking import enliven
from torch import nn

import hwsearch
from hwsearch.backends import load_backend
from hwsearch.backends.onnxruntime import OnnxRuntime
from hwsearch.errors import BuildFailed, InvalidInput, Unsupported
from hwsearch.nn import Data, Quantization, evaluate_file, export
from hwsearch.nn.adoption import load_network, quantize, save_network
from hwsearch.nn.adoption._capture import as_graph

torch.set_num_threads(1)


class Residual(nn.Module):
    """A small network with a residual branch and batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 16, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((x + self.inner(x)).mean((2, 3)))


class Two(nn.Module):
    """Two inputs of different kinds and two outputs; the batch is read from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.words, self.head = nn.Conv2d(3, 8, 3), nn.Embedding(7, 8), nn.Linear(8, 5)

    def forward(self, image: torch.Tensor, word: torch.Tensor) -> dict[str, torch.Tensor]:
        both = self.conv(image).mean((2, 3)) + self.words(word).reshape(image.shape[0], 8)
        return {"class": self.head(both), "norm": both.norm(dim=1)}


@pytest.fixture(scope="module")
def cut() -> torch.fx.GraphModule:
    adopted = hwsearch.adopt(enliven(Residual()), torch.randn(1, 1, 8, 8))
    return adopted.extract({group.id: group.width // 2 for group in adopted.groups if group.searchable})


def _run(path: Path, *inputs: torch.Tensor) -> list[npt.NDArray[np.float32]]:
    found = load_backend("onnxruntime").runner(str(path))(*(each.numpy() for each in inputs))
    return found if isinstance(found, list) else [found]


def test_a_cut_network_is_one_file_that_computes_the_same(cut: torch.fx.GraphModule, tmp_path: Path) -> None:
    """Also for other batches than it was written with, and after it was kept in a file itself."""
    save_network(cut, tmp_path / "cut.safetensors")
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        wanted = cut(images).numpy()
    for number, network in enumerate((cut, load_network(tmp_path / "cut.safetensors"))):
        path = export(network, out=tmp_path / f"files{number}" / "cut.onnx", batch="open")
        assert [each.name for each in path.parent.iterdir()] == ["cut.onnx"]
        assert np.allclose(_run(path, images)[0], wanted, atol=1e-5)
    model = onnx.load(path)
    assert "head.weight" in {each.name for each in model.graph.initializer}
    facts = {entry.key: msgspec.json.decode(entry.value) for entry in model.metadata_props}
    assert facts["hwsearch.plan"] == cut.meta["plan"]
    assert facts["hwsearch.input"]["batch"] is None
    one = export(cut, out=tmp_path / "one.onnx", data=torch.randn(2, 1, 12, 16))
    assert _run(one, torch.randn(1, 1, 12, 16))[0].shape == (1, 10)


def test_files_of_cut_networks_are_measured_and_evaluated(cut: torch.fx.GraphModule, data: Data, tmp_path: Path) -> None:
    """Images are prepared as the data say that the file was exported with, or else as those say that it is evaluated on."""
    for backend in ("onnxruntime", "openvino"):
        path = export(cut, out=tmp_path / f"{backend}.onnx", data=data, backend=backend)
        with torch.no_grad():
            right = float((cut(data.normalize(data.split("test")[0])).argmax(1) == data.split("test")[1]).float().mean())  # type: ignore[attr-defined]
        assert evaluate_file(path, data=data, backend=backend) == pytest.approx(right, abs=0.01)
        assert hwsearch.measure(path, backend=backend, rounds=1).latency_ms > 0
    plain = export(cut, out=tmp_path / "plain.onnx")
    assert evaluate_file(plain, data=data) == evaluate_file(path, data=data)


def test_a_module_with_several_inputs_and_outputs(tmp_path: Path) -> None:
    module = enliven(Two())
    for batch in (3, "open"):
        path = export(module, out=tmp_path / "two.onnx", data=[torch.randn(4, 3, 8, 8), torch.arange(4) % 7], batch=batch)  # type: ignore[arg-type]
        inputs = torch.randn(3, 3, 8, 8), torch.tensor([1, 6, 0])
        with torch.no_grad():
            wanted = module(*inputs)
        found = _run(path, *inputs)
        assert [each.shape for each in found] == [(3, 5), (3,)]
        assert all(np.allclose(x, y.numpy(), atol=1e-5) for x, y in zip(found, wanted.values(), strict=True))
    assert hwsearch.measure(path, rounds=1).latency_ms > 0
    with pytest.raises(InvalidInput, match="2 inputs"):
        evaluate_file(path, data="digits")


class Fixed(nn.Module):
    """Takes three images at once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(3, 4) * torch.arange(3).reshape(3, 1)


def test_what_cannot_be_written_is_refused(cut: torch.fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="data is missing"):
        export(Residual(), out=tmp_path / "a.onnx")
    dense = hwsearch.searching.dense(hwsearch.load_space("resnet_digits"))
    with pytest.raises(InvalidInput, match="needs weights"):
        export(dense, out=tmp_path / "a.onnx")
    with pytest.raises(Unsupported, match="roofline"):
        export(cut, out=tmp_path / "a.onnx", backend="roofline")
    with pytest.raises(Unsupported, match="cannot be written as an ONNX model"):
        export(_Op(torch.linalg.eigvals), out=tmp_path / "a.onnx", data=torch.randn(2, 4, 4))
    with pytest.raises((BuildFailed, InvalidInput), match="batch"):
        export(Fixed(), out=tmp_path / "a.onnx", data=torch.randn(3, 4), batch="open")
    assert not (tmp_path / "a.onnx").exists()
    path = export(Fixed(), out=tmp_path / "b.onnx", data=torch.randn(3, 4), batch=3)
    assert _run(path, torch.ones(3, 4))[0].tolist() == [[0.0] * 4, [1.0] * 4, [2.0] * 4]


class _Op(nn.Module):
    def __init__(self, op: object) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x).real  # type: ignore[operator]


class Padded(nn.Module):
    """What integer kernels have to fuse with: zeros at one side only, depthwise layers, both kinds of activations, a sum."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(1, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
        layers += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, 2, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 1)]
        self.body, self.inner, self.head = nn.Sequential(*layers), nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head(torch.relu(x + self.inner(x)).mean((2, 3)))


def test_int8_files_are_fused_and_compute_what_is_simulated(tmp_path: Path) -> None:
    """Every kernel runs in integers, the simulation agrees with the file, and both are near the network in floats."""
    module, images = enliven(Padded()), torch.randn(64, 1, 8, 8)
    graph = as_graph(module, [images[:2]])
    path = export(graph, out=tmp_path / "int8.onnx", data=images, precision="int8", batch="open")
    backend = load_backend("onnxruntime")
    assert isinstance(backend, OnnxRuntime)
    backend.session(str(path), optimized=tmp_path / "fused.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert kinds.count("QLinearConv") == 4
    assert {"QLinearAdd", "QGemm"} <= set(kinds)
    assert not {"Conv", "Gemm", "Add", "Relu", "Clip"} & set(kinds)
    assert {onnx.TensorProto.INT8, onnx.TensorProto.INT32} <= {each.data_type for each in onnx.load(path).graph.initializer}
    simulated = quantize(graph, [images], quantization=Quantization().on(backend))
    with torch.no_grad():
        found, wanted, whole = torch.from_numpy(_run(path, images)[0]), simulated(images), module(images)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
    assert 1e-4 < float((wanted - whole).norm() / whole.norm()) < 0.1


def test_precisions_of_kernels_are_named(tmp_path: Path) -> None:
    """Kernels are named by their weights or patterns of these; the last name that fits counts."""
    module, images = enliven(Padded()), torch.randn(32, 1, 8, 8)
    path = export(module, out=tmp_path / "some.onnx", data=images, precision={"*": "int8", "body.*": "fp32", "body.1": "int8"})
    kept = {each.name for each in onnx.load(path).graph.initializer if each.data_type == onnx.TensorProto.INT8 and each.dims}
    assert {name.partition("_values")[0] for name in kept if "_values" in name} == {"body.1.weight", "inner.weight", "head.weight"}
    facts = {entry.key: msgspec.json.decode(entry.value) for entry in onnx.load(path).metadata_props}
    assert facts["hwsearch.precision"] == {"*": "int8", "body.*": "fp32", "body.1": "int8"}
    assert facts["hwsearch.int8"] == load_backend("onnxruntime").weight_bits
    for wrong, words in (({"nothing": "int8"}, "stands for no kernel"), ("int4", "fp32 or int8")):
        with pytest.raises(InvalidInput, match=words):
            export(module, out=tmp_path / "a.onnx", data=images, precision=wrong)
    with pytest.raises(InvalidInput, match="images to calibrate on"):
        export(hwsearch.adopt(module, images[:1]).extract({}), out=tmp_path / "a.onnx", precision="int8")
