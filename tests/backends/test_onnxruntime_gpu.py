"""ONNX Runtime's GPU providers, on a stand-in that runs them on the CPU: what they are asked for, and what is refused."""

import types

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")

from hwsearch.backends import (  # noqa: E402
    load_backend,
    onnxruntime_gpu,
)
from hwsearch.errors import BuildFailed, FileError, InvalidInput, Unsupported  # noqa: E402
from hwsearch.networks import Block  # noqa: E402
from hwsearch.profiling import Effort, emit  # noqa: E402
from hwsearch.spaces import Chain, Stage  # noqa: E402
from hwsearch.testing import check_backend  # noqa: E402

SPACE = Chain("tiny", (8,), (8,), (Stage((1,), (8, 12), (4, 8)),), 10, channels=1, precisions=("fp32", "fp16")).space()
NETWORK = (Block("conv", 3, 8, 8, (), 3), Block("basic", 8, 8, 8, (12,), 3), Block("head", 8, 10, 8))


class StandIn(types.SimpleNamespace):
    """An ONNX Runtime that says it has GPU providers."""

    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    __version__ = "1.99"

    def __init__(self):
        super().__init__(asked=[], entries={}, comes_up=True, placed=set())
        outer = self

        class Options:
            def add_session_config_entry(self, name, value):
                outer.entries[name] = value

        class Session:
            def __init__(self, model, options, providers):
                outer.asked.append(providers[0])
                self.inner = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

            def get_providers(self):
                return [outer.asked[-1][0] if outer.comes_up else "CPUExecutionProvider"]

            def __getattr__(self, name):
                return getattr(self.inner, name)

        class Value:
            @staticmethod
            def ortvalue_from_numpy(data, device, number):
                outer.placed.add((device, number))
                return onnxruntime.OrtValue.ortvalue_from_numpy(data)

        self.SessionOptions, self.InferenceSession, self.OrtValue = Options, Session, Value

    def get_available_providers(self):
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def gpu(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setattr(onnxruntime_gpu, "ort", stand_in)
    return stand_in


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_the_providers_keep_the_contract(gpu, name):
    backend = load_backend(name, batch=2)
    check_backend(backend, [NETWORK])
    assert load_backend(name, **backend.options).describe() == backend.describe()
    device = backend.describe()
    assert (device.kind, device.runtime, device.runtime_version, device.batch) == ("gpu", name, "1.99", 2)
    assert (backend.energy, device.facts["energy"]) == ("unavailable", "no meter")


def test_everything_is_on_the_gpu_and_nothing_falls_back(gpu):
    with load_backend("onnxruntime-cuda", gpu=1).open(NETWORK) as session:
        assert session.times(2).shape == (2,)
        assert session.batch == 1
    provider, settings = gpu.asked[-1]
    assert provider == "CUDAExecutionProvider"
    assert (settings["device_id"], settings["enable_cuda_graph"]) == ("1", "1")
    assert gpu.placed == {("cuda", 1)}
    assert gpu.entries["session.disable_cpu_ep_fallback"] == "1"
    gpu.comes_up = False
    with pytest.raises(BuildFailed, match="did not come up"):
        load_backend("onnxruntime-cuda").open(NETWORK)


def test_tensorrt_never_runs_fp32_blocks_in_fp16(gpu):
    backend = load_backend("onnxruntime-tensorrt")
    assert backend.precisions == ("fp32", "int8")
    with backend.open(NETWORK):
        pass
    assert gpu.asked[-1][1]["trt_fp16_enable"] == "0"


def test_files_run_too(gpu, tmp_path):
    backend = load_backend("onnxruntime-cuda")
    path = tmp_path / "model.onnx"
    path.write_bytes(backend.model(NETWORK))
    with backend.load(path) as session:
        assert np.isfinite(session.times(2)).all()
    path.write_bytes(b"no model")
    with pytest.raises(BuildFailed, match="cannot run"):
        backend.load(path)
    with pytest.raises(FileError, match="no model file"):
        backend.load(tmp_path / "other.onnx")


def test_without_the_provider_it_is_said_what_to_install(tmp_path):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(Unsupported, match="no CUDAExecutionProvider. Install the package onnxruntime-gpu"):
        load_backend("onnxruntime-cuda").describe()
    with pytest.raises(Unsupported, match="onnxruntime-gpu"):
        load_backend("onnxruntime-tensorrt").open(NETWORK)
    jobs = emit(SPACE, tmp_path / "jobs", backend="onnxruntime-cuda", effort=Effort(checks=12, fits=2), progress=False)
    assert (jobs / "plan.json").exists(), "jobs for a board with a GPU are written on machines without"
    for bad in ({"batch": 0}, {"batch": "8"}, {"gpu": -1}, {"gpu": 0.0}):
        with pytest.raises(InvalidInput, match=f"{next(iter(bad))} must be a whole number of at least"):
            load_backend("onnxruntime-tensorrt", **bad)
