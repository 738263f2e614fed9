"""Export: ONNX Runtime computes what was evaluated."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

import hwsearch
from hwsearch.errors import UnknownName, Unsupported, WrongSpace
from hwsearch.nn import Data, Supernet, evaluate, export, resize
from hwsearch.nn._evaluate import deployed
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)


def test_float_export_computes_what_torch_does(supernet: Supernet, data: Data, tmp_path: Path) -> None:
    for end in (supernet.largest, supernet.smallest):
        row = _with_precision(supernet.space, end, "fp32")
        path = export(supernet.space.architecture(row), weights=supernet, out=tmp_path / "float.onnx")
        with torch.no_grad():
            expected = supernet.extract(row)(data.normalize(data.test_x)).numpy()
        assert np.allclose(_run(path, data), expected, atol=1e-4)


def test_quantised_export_predicts_what_was_evaluated(supernet: Supernet, data: Data, tmp_path: Path, rng: np.random.Generator) -> None:
    space = supernet.space
    for row in (_with_precision(space, supernet.largest, "int8"), *space.sample(5, rng)):
        architecture = space.architecture(row)
        path = export(architecture, weights=supernet, out=tmp_path / "mixed.onnx")
        logits = _run(path, data)
        with torch.inference_mode():
            expected = deployed(supernet, row)(data.normalize(data.test_x)).numpy()
        assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
        right = float((logits.argmax(axis=1) == data.test_y.numpy()).mean())
        assert right == pytest.approx(evaluate(architecture, weights=supernet, data=data), abs=0.01)


def test_file_stands_alone_and_says_what_it_is(trained: Path, supernet: Supernet, tmp_path: Path) -> None:
    architecture = supernet.space.architecture(_with_precision(supernet.space, supernet.smallest, "int8"))
    path = export(architecture, weights=trained, out=tmp_path / "new" / "small.onnx")
    assert [file.name for file in path.parent.iterdir()] == ["small.onnx"]
    model = onnx.load(path)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert {onnx.TensorProto.INT8, onnx.TensorProto.INT32} <= {tensor.data_type for tensor in model.graph.initializer}
    facts = {entry.key: msgspec.json.decode(entry.value) for entry in model.metadata_props}
    assert hwsearch.Architecture.from_document(facts["hwsearch.architecture"], supernet.space, path) == architecture
    assert supernet.normalize is not None
    assert tuple(facts["hwsearch.input"]["mean"]) == supernet.normalize.mean
    assert facts["hwsearch.input"]["resolution"] == 8


def test_calibration_on_other_images_changes_the_file_and_little_else(supernet: Supernet, data: Data, tmp_path: Path) -> None:
    architecture = supernet.space.architecture(_with_precision(supernet.space, supernet.largest, "int8"))
    own = export(architecture, weights=supernet, out=tmp_path / "own.onnx")
    other = export(architecture, weights=supernet, out=tmp_path / "other.onnx", data="digits")
    again = export(architecture, weights=supernet, out=tmp_path / "again.onnx")
    assert own.read_bytes() == again.read_bytes()
    accuracies = [float((_run(path, data).argmax(axis=1) == data.test_y.numpy()).mean()) for path in (own, other)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.02)


def test_what_cannot_be_exported_is_refused(supernet: Supernet, digits: hwsearch.SearchSpace, tmp_path: Path) -> None:
    architecture = supernet.space.architecture(supernet.smallest)
    with pytest.raises(UnknownName, match="Did you mean 'onnxruntime'"):
        export(architecture, weights=supernet, out=tmp_path / "a.onnx", backend="onnxruntim")
    with pytest.raises(Unsupported, match="roofline"):
        export(architecture, weights=supernet, out=tmp_path / "a.onnx", backend="roofline")
    path = supernet.save(tmp_path / "toy.safetensors")
    with pytest.raises(WrongSpace):
        export(digits.architecture(np.zeros(len(digits.choices), dtype=np.uint8)), weights=path, out=tmp_path / "a.onnx")
    four = Chain("four", (8,), (8,), (Stage((1,), (8,), (8,)),), 10, ("int4",), channels=1).space()
    untrained = Supernet(four)
    with pytest.raises(Unsupported, match="int4"):
        export(four.architecture(untrained.largest), weights=untrained, out=tmp_path / "a.onnx", data="digits")
    assert not (tmp_path / "a.onnx").exists()


def _with_precision(space: hwsearch.SearchSpace, row: hwsearch.spaces.Rows, precision: str) -> hwsearch.spaces.Rows:
    return space.architecture(row).at_precision(precision).genes


def _run(path: Path, data: Data) -> npt.NDArray[np.float32]:
    """Logits of the test images from ONNX Runtime, prepared as the file's metadata says."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = msgspec.json.decode(session.get_modelmeta().custom_metadata_map["hwsearch.input"])
    images = resize(data.normalize(data.test_x), facts["resolution"]).contiguous().numpy()
    return np.concatenate([session.run(["output"], {"input": image[None]})[0] for image in images])
