"""Networks of a supernet as engines: the graph computes what was evaluated, and the engine is built from it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch

import hwsearch
from hwsearch.backends._nvidia import _trt
from hwsearch.backends._onnx._flavours import TOLERANCES
from hwsearch.errors import BuildFailed, InvalidInput, MissingDependency, Unsupported
from hwsearch.nn import Deployed, Quantization, Recipe, Supernet, deploy, export, load_data, resize, train
from hwsearch.nn.quantization._quantize import fit_quantizer
from hwsearch.spaces import Chain, Stage

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from hwsearch.backends.onnxruntime import OnnxRuntime  # noqa: E402

torch.set_num_threads(1)
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    stages = (Stage((1, 2), (8, 16), (4, 8)), Stage((1, 2), (16,), (8, 12), stride=2, kind="bottleneck"))
    space = Chain("nvidia", (8,), (8,), stages, 10, PRECISIONS, head_precisions=PRECISIONS, channels=1).space()
    out = tmp_path_factory.mktemp("supernet") / "nvidia.safetensors"
    train(space, data="digits", out=out, recipe=Recipe(epochs=2, batch=64, learning_rate=0.2, random_networks=1), progress=False)
    return Supernet.load(out, space)


def rows(space: hwsearch.SearchSpace) -> list[npt.NDArray[np.uint8]]:
    return [space.restrict({"*precision": some}).sample(1, np.random.default_rng(1))[0] for some in ([p] for p in PRECISIONS)] + list(
        space.sample(4, np.random.default_rng(2))
    )


def accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


@pytest.fixture
def answer(cuda, tmp_path: Path) -> dict[str, float]:
    """The stand-in for a GPU answers as ONNX Runtime does, times a factor."""
    chosen = {"factor": 1.0}

    def run(written: dict[int, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        newest = max((tmp_path / "engines").glob("*.engine"), key=lambda path: path.stat().st_mtime_ns)
        graph = OnnxRuntime().as_written(newest.read_bytes().removeprefix(b"plan of "))
        return np.asarray(graph(list(written.values())[-1]) * chosen["factor"], dtype=np.float32)

    cuda.answer = run
    return chosen


def test_graphs_compute_what_was_evaluated_and_stay_accurate(backend, answer, supernet: Supernet, tmp_path: Path) -> None:
    data = load_data("digits")
    runtime = backend(batch=32)
    for row in rows(supernet.space):
        architecture = supernet.space.architecture(row)
        path = export(architecture, weights=supernet, out=tmp_path / "best.engine", backend=runtime)
        assert path.read_bytes().startswith(b"plan of ")
        model = onnx.load(path.with_suffix(".onnx"))
        facts = {entry.key: msgspec.json.decode(entry.value) for entry in model.metadata_props}
        run = OnnxRuntime().as_written(model)
        images = resize(data.normalize(data.test_x), facts["hwsearch.input"]["resolution"])[:320].contiguous()
        found = np.concatenate([run(some.numpy()) for some in images.split(32)])
        with torch.inference_mode():
            network = supernet.extract(row, supernet.calibration())
            how = Quantization(symmetric=True)
            plain = network(images).numpy()
            expected = deploy(network, architecture.blocks(), supernet.calibration(), how)(images).numpy()
        precisions = {block.precision for block in architecture.blocks()}
        tolerance = max(TOLERANCES[precision] for precision in precisions)
        assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected), precisions
        labels = data.test_y.numpy()[:320]
        assert accuracy(found, labels) >= accuracy(plain, labels) - 0.03
        note = json.loads(Path(f"{path}.json").read_text())
        assert note["facts"]["tolerance"] == tolerance
        assert note["facts"]["differences"]["onnxruntime"] <= tolerance


def test_the_graph_is_checked_without_the_integer_products_of_this_cpu(
    backend, answer, supernet: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These saturate on some CPUs, and on no GPU: here they are far wrong on any CPU."""
    session, asked = OnnxRuntime.session, []

    class Saturating:
        def __init__(self, given: object, optimize: bool) -> None:
            self.given, self.optimize = given, optimize

        def get_inputs(self):
            return self.given.get_inputs()

        def run(self, names, feed):
            asked.append(self.optimize)
            return [out.clip(-0.1, 0.1) if self.optimize else out for out in self.given.run(names, feed)]

    def opened(self: OnnxRuntime, model, optimized=None, *, optimize: bool = True):
        return Saturating(session(self, model, optimized, optimize=optimize), optimize)

    monkeypatch.setattr(OnnxRuntime, "session", opened)
    architecture = supernet.space.architecture(supernet.largest).at_precision("int8")
    path = export(architecture, weights=supernet, out=tmp_path / "best.engine", backend=backend())
    assert json.loads(Path(f"{path}.json").read_text())["facts"]["differences"]["onnxruntime"] < 0.01
    assert set(asked) == {False}


def test_the_engine_has_to_compute_the_same_where_a_gpu_is_at_hand(backend, answer, supernet: Supernet, tmp_path: Path) -> None:
    architecture = supernet.space.architecture(rows(supernet.space)[2])
    path = export(architecture, weights=supernet, out=tmp_path / "best.engine", backend=backend(batch=4))
    differences = json.loads(Path(f"{path}.json").read_text())["facts"]["differences"]
    assert set(differences) == {"onnxruntime", "engine"}
    assert differences["engine"] == pytest.approx(differences["onnxruntime"], abs=1e-3)
    answer["factor"] = 1.2
    with pytest.raises(BuildFailed, match="The engine does not compute what was evaluated: its logits differ by"):
        export(architecture, weights=supernet, out=tmp_path / "wrong.engine", backend=backend(batch=4))
    assert list(tmp_path.glob("wrong*")) == []


def test_a_graph_that_computes_something_else_is_not_shipped(backend, supernet: Supernet, tmp_path: Path, monkeypatch) -> None:
    evaluate = Deployed.__call__
    monkeypatch.setattr(Deployed, "__call__", lambda self, x: evaluate(self, x) + 10.0)
    with pytest.raises(BuildFailed, match="The graph does not compute what was evaluated"):
        export(supernet.space.architecture(supernet.largest), weights=supernet, out=tmp_path / "best.engine", backend=backend())
    assert list(tmp_path.glob("best*")) == []


def test_tensorrt_rtx_makes_engines_of_trained_networks(supernet: Supernet, tmp_path: Path, no_gpu) -> None:
    try:
        rtx = _trt.is_rtx(_trt.find())
    except MissingDependency:
        rtx = False
    if not rtx:
        pytest.skip("TensorRT-RTX is not installed (pip install 'hwsearch[tensorrt-rtx]')")
    runtime = hwsearch.backends.load_backend("tensorrt", sm=("80", "89"), cache=tmp_path / "cache")
    for row in rows(supernet.space)[:4]:
        path = export(supernet.space.architecture(row), weights=supernet, out=tmp_path / "best.engine", backend=runtime)
        assert path.stat().st_size > 10_000
        note = json.loads(Path(f"{path}.json").read_text())
        assert note["target"]["sm"] == ["80", "89"]
        assert set(note["facts"]["differences"]) == {"onnxruntime"}
    runtime.engines.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_one_precision_can_be_asked_for_whatever_was_searched(
    backend, answer, cuda, supernet: Supernet, tmp_path: Path, precision: str
) -> None:
    architecture = supernet.space.architecture(rows(supernet.space)[4])
    runtime = backend(batch=4)
    if precision == "bf16":  # which nothing here runs
        runtime._here = None
    path = export(architecture, weights=supernet, out=tmp_path / "best.engine", backend=runtime, precision=precision)
    model = onnx.load(path.with_suffix(".onnx"))
    kinds = {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith((".weight", ".values"))}
    wanted = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16", "int8": "INT8"}[precision]
    assert kinds == {onnx.TensorProto.DataType.Value(wanted)}
    facts = {entry.key: msgspec.json.decode(entry.value) for entry in model.metadata_props}
    assert facts["hwsearch.precision"] == precision
    differences = json.loads(Path(f"{path}.json").read_text())["facts"]["differences"]
    assert set(differences) == (set() if precision == "bf16" else {"onnxruntime", "engine"})


def test_what_the_gpu_lacks_is_refused_before_anything_is_calibrated(backend, cuda, supernet: Supernet, tmp_path: Path) -> None:
    cuda.sm = lambda: "75"
    space = Chain("half", (8,), (8,), (Stage((1,), (8,), (8,)),), 10, ("bf16",), channels=1).space()
    with pytest.raises(Unsupported, match="bf16: its precisions are fp32, fp16, int8"):
        export(
            space.architecture(Supernet(space).largest),
            weights=Supernet(space),
            out=tmp_path / "a.engine",
            backend=backend(),
            data="digits",
        )


def test_an_engine_does_not_take_the_place_of_its_graph(backend, supernet: Supernet, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"model files of 'tensorrt' end in .engine. Call it .*best.engine"):
        export(supernet.space.architecture(supernet.largest), weights=supernet, out=tmp_path / "best.onnx", backend=backend())


def test_symmetric_quantisers_use_half_of_the_integers_after_a_relu() -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    for values, signed in ((x, True), (x.clamp(min=0), False)):
        quantizer = fit_quantizer(values, 8, signed, symmetric=True)
        assert quantizer.zero == 0
        steps = torch.unique(torch.round(quantizer(values) / quantizer.scale))
        assert steps.max() <= 127
        assert (steps.min() >= -128) if signed else (steps.min() == 0)
        assert (quantizer(values) - values).abs().mean() < 0.02
    assert quantizer(torch.tensor([1e9])) == 127 * quantizer.scale
