"""A backend that lives outside the package writes its own model files: export, finish and evaluation name no backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hwsearch
from hwsearch.backends import TrainedModel
from hwsearch.backends.onnxruntime import OnnxRuntime
from hwsearch.devices import Device
from hwsearch.errors import BuildFailed, CorruptFile, Unsupported
from hwsearch.nn import Data, Deployment, Quantization, Recipe, Supernet, evaluate, evaluate_file, export, finish
from hwsearch.testing import check_backend

torch.set_num_threads(1)
MAGIC = b"boxed\n"


class Boxed(OnnxRuntime):
    """A runtime with files of its own, whose quantised feature maps have no zero points by its own word."""

    name = "boxed"
    suffix = ".box"

    def _encode(self, model: TrainedModel) -> bytes:
        return MAGIC + json.dumps(dict(model.notes)).encode() + b"\n" + super()._encode(model)

    def notes(self, path):
        magic, notes, _ = Path(path).read_bytes().split(b"\n", 2)
        if magic + b"\n" != MAGIC:
            raise CorruptFile(f"{path} is no boxed model.")
        return json.loads(notes)

    def runner(self, model):
        data = Path(model).read_bytes() if isinstance(model, str) else model
        return super().runner(data.split(b"\n", 2)[2] if isinstance(data, bytes) and data.startswith(MAGIC) else data)

    def load(self, path):
        inner = Path(path).with_suffix(".onnx")
        data = Path(path).read_bytes()
        inner.write_bytes(data.split(b"\n", 2)[2] if data.startswith(MAGIC) else data)
        return super().load(inner)


@pytest.fixture(scope="module")
def int8(supernet: Supernet) -> hwsearch.Architecture:
    return supernet.space.architecture(supernet.smallest).at_precision("int8")


def test_a_third_party_backend_keeps_the_promises_of_exports() -> None:
    check_backend(Boxed())
    check_backend(OnnxRuntime())


def test_a_third_party_backend_is_exported_to_and_evaluated(
    supernet: Supernet, data: Data, int8: hwsearch.Architecture, tmp_path: Path
) -> None:
    backend = Boxed()
    path = export(int8, weights=supernet, out=tmp_path / "best.box", backend=backend, batch=3)
    assert path.read_bytes().startswith(MAGIC)
    assert [file.name for file in tmp_path.iterdir()] == ["best.box"]
    assert json.loads(backend.notes(path)["hwsearch.input"])["batch"] == 3
    simulated = evaluate(int8, weights=supernet, data=data, quantization=Quantization().on(backend))
    assert evaluate_file(path, data=data, backend=backend) == pytest.approx(simulated, abs=2.5 / data.count("test"))


def test_a_network_is_finished_for_a_third_party_backend(trained: Path, int8: hwsearch.Architecture, tmp_path: Path) -> None:
    how = {"recipe": Recipe(epochs=1, batch=64), "deployment": Deployment(backend=Boxed(), tuning=0), "progress": False}
    done = finish(int8, data="digits", out=tmp_path / "done", weights=trained, **how)
    assert done.model == "best.box"
    assert done.accuracy == pytest.approx(done.simulated_accuracy, abs=0.01)


def test_a_backend_that_computes_something_else_writes_nothing(
    supernet: Supernet, int8: hwsearch.Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Boxed.runner
    monkeypatch.setattr(Boxed, "runner", lambda self, model: lambda x: right(self, model)(x)[:, ::-1])
    with pytest.raises(BuildFailed, match="does not compute what was evaluated"):
        export(int8, weights=supernet, out=tmp_path / "best.box", backend=Boxed())
    assert not list(tmp_path.iterdir())


def test_a_backend_says_itself_whether_there_are_zero_points(supernet: Supernet) -> None:
    class Symmetric(Boxed):
        zero_points = False

        def describe(self) -> Device:
            found = super().describe()
            return Device(**{**vars(found), "facts": {**found.facts, "zero_points": "none"}})

    assert Quantization().on(Symmetric()).symmetric
    assert Quantization().on(Symmetric().describe()).symmetric
    assert not Quantization().on(Boxed()).symmetric


def test_backends_without_model_files_are_refused_before_anything_is_trained(int8: hwsearch.Architecture, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="'roofline' writes no model files"):
        finish(int8, data="digits", out=tmp_path / "done", deployment=Deployment(backend="roofline"), progress=False)
    assert not (tmp_path / "done").exists()
    with pytest.raises(Unsupported, match="'roofline' writes no trained networks"):
        hwsearch.backends.Roofline().encode(TrainedModel((), ()))
