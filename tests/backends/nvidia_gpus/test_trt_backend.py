"""The backend on stand-ins for the GPU and the builder: everything but the running itself."""

import subprocess
import sys

import numpy as np
import pytest

from hwsearch.backends import _energy, load_backend
from hwsearch.backends._nvidia import _cuda, _nvml, _trt
from hwsearch.backends.tensorrt import TensorRT
from hwsearch.errors import BuildFailed, InvalidInput, MissingDependency, Unsupported, WrongDevice
from hwsearch.networks import Block
from hwsearch.profiling import Effort, LeftOutWarning, measure, profile
from hwsearch.spaces import Chain, Stage, load_space
from hwsearch.testing import check_backend

from .stand_ins import FakeCuda, fake_tensorrt

CONV = Block("conv", 3, 8, 8, (), 3)
STAGES = (Stage((1, 2), (8, 16), (8,)), Stage((1,), (16,), (8, 12), stride=2))
MIXED = Chain("mixed", (16,), (8,), STAGES, 10, ("fp32", "fp16", "int8", "fp8")).space()
SMALL = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8)), Stage((1,), (16,), (8, 12), stride=2)), 10, channels=1).space()


def some_networks(space=MIXED, n=4):
    return [space.blocks(row) for row in space.sample(n, np.random.default_rng(0))]


def test_the_backend_keeps_the_contract(backend, cuda):
    device = backend()
    check_backend(device, some_networks())
    assert device.precisions == ("fp32", "fp16", "bf16", "int8", "fp8", "w4a16")
    assert cuda.memory == {}


def test_the_device_says_what_explains_a_measurement(backend):
    device = backend(batch=8, flush_l2=True).describe()
    assert (device.kind, device.hardware, device.runtime, device.runtime_version, device.batch) == (
        "gpu",
        "NVIDIA Stand-In 1",
        "tensorrt",
        "10.99.1",
        8,
    )
    assert {"driver", "power_limit_w", "sm", "tensorrt", "cuda"} <= set(device.facts)
    assert device.facts["l2"] == "flushed before every run"
    assert not device.same_as(backend(batch=1).describe())
    again = load_backend(backend(batch=8, timeout_s=5.0))
    assert again.options == {"batch": 8, "gpu": 0, "flush_l2": False, "timeout_s": 5.0}


def test_runs_are_replayed_as_a_graph_where_that_works(backend, cuda):
    with backend().open((CONV,)) as session:
        assert session.times(5).shape == (5,)
        assert (cuda.captured, cuda.launched) == (1, 5)
    cuda.graphs = False
    with backend().open((CONV,)) as session:
        context = session._context
        session.times(5)
        assert (cuda.launched, context.runs) == (5, 6)


def test_the_cache_is_flushed_before_every_run_where_that_is_asked_for(backend, cuda):
    with backend(flush_l2=True).open((CONV,)) as session:
        session.times(4)
    assert cuda.cleared == [2000] * 4
    assert cuda.memory == {}


def test_an_engine_knows_how_many_images_it_takes(backend):
    for batch in (1, 16):
        with backend(batch=batch).open((CONV,)) as session:
            assert session.batch == batch


def test_throttling_is_seen(backend, monkeypatch):
    with backend().open((CONV,)) as session:
        session.times(1)
        assert not session.throttled
        monkeypatch.setattr(_nvml, "held_back", lambda handle: ("heat (software)",))
        session.times(1)
        assert session.throttled


def test_a_gpu_without_room_is_a_failure_of_this_network(backend, cuda):
    device = backend()
    cuda.room = 100
    with pytest.raises(BuildFailed, match="no room on the GPU for conv-in3.*cudaErrorMemoryAllocation"):
        device.open((CONV,))
    assert cuda.memory == {}


def test_an_engine_that_cannot_be_made_ready_is_a_failure_of_this_network(backend, monkeypatch):
    device = backend()
    monkeypatch.setattr(device.engines, "build", lambda model, what: b"nonsense")
    with pytest.raises(BuildFailed, match="cannot make it ready to run"):
        device.open((CONV,))


def test_each_block_is_measured_between_neighbours_of_its_precision(backend):
    device = backend()
    for precision in device.precisions:
        for kind in ("basic", "quantize", "dequantize"):
            block = Block(kind, 16, 16, 8, (8,) if kind == "basic" else (), precision=precision, kernel=3 if kind == "basic" else 1)
            if kind != "basic" and precision == "fp32":
                continue
            whole, frame = device.framed(block)
            lead, middle, probe = whole
            assert middle == block
            far = lead.precision if kind == "basic" else "fp32" if kind == "quantize" else precision
            assert (lead.precision, far) == (far, lead.precision)
            assert probe.precision == (precision if kind != "dequantize" else "fp32")
            assert [one.precision for one in frame] == [lead.precision] * 2
    head = Block("head", 16, 10, 4)
    assert device.framed(head)[0][-1] == head
    assert len(device.framed(Block("conv", 3, 8, 8, (), 3))[0]) == 2


class Named(TensorRT):
    """Its models are the names of their blocks, so that the builder can be told over which to fail."""

    def _model(self, network):
        return " ".join(block.key for block in network).encode()


@pytest.mark.parametrize("trouble", ["os.kill(os.getpid(), signal.SIGSEGV)", "time.sleep(60)", "sys.exit(1)"])
def test_a_run_completes_without_the_block_that_the_builder_dies_of(backend, builder, tmp_path, trouble):
    device = backend(Named, timeout_s=2.0)
    broken = max((block for block in SMALL.unique_blocks if block.precision == "int8"), key=lambda block: block.macs)
    device.engines.worker = builder(trouble, when=f"{broken.key!r} in model.decode()")
    with pytest.warns(LeftOutWarning, match=broken.key):
        table = profile(SMALL, backend=device, out=tmp_path / "t.json", progress=False, effort=Effort(max_rounds=2, checks=12, fits=0))
    assert table.missing(SMALL.unique_blocks) == (broken,)
    assert table.device.kind == "gpu"
    assert (tmp_path / "asked").stat().st_size > len(SMALL.unique_blocks)


def test_models_and_engines_are_measured_from_their_files(backend, tmp_path):
    device = backend()
    model = device.model((CONV,))
    (tmp_path / "conv.onnx").write_bytes(model)
    engine = device.save(model, tmp_path / "conv.engine", {"made": "by a test"})
    for path in (tmp_path / "conv.onnx", engine):
        assert measure(path, backend=device, rounds=1).latency_ms > 0
    other = backend()
    other.target = _trt_target(other, gpu="NVIDIA Stand-In 2")
    with pytest.raises(WrongDevice, match="Stand-In 1, and here is NVIDIA Stand-In 2"):
        other.load(engine)


def _trt_target(device, **changes):
    from dataclasses import replace

    return replace(device.target, **changes)


def test_precisions_that_gpu_or_version_lack_are_refused_before_anything_is_built(backend, cuda, monkeypatch, tensorrt):
    cuda.sm = lambda: "75"
    old = backend()
    assert old.precisions == ("fp32", "fp16", "int8")
    monkeypatch.setattr(old.engines, "build", lambda *a: pytest.fail("an engine was built"))
    for precision in ("bf16", "fp8", "int4"):
        with pytest.raises(Unsupported, match=f"{precision}: its precisions are fp32, fp16, int8"):
            old.open((Block("conv", 3, 8, 8, (), 3, precision=precision),))
    cuda.sm = lambda: "89"
    from types import SimpleNamespace

    tensorrt.DataType = SimpleNamespace(FLOAT=1, HALF=2, INT8=3)
    assert backend().precisions == ("fp32", "fp16", "int8")


def test_tensorrt_builds_for_the_gpu_of_this_machine_only(backend, no_gpu):
    with pytest.raises(Unsupported, match=r"GPU of this machine only, and there is none, not SM 80.*hwsearch\[tensorrt-rtx\]"):
        TensorRT()


def test_tensorrt_rtx_builds_without_a_gpu_and_runs_with_one_only(no_gpu, monkeypatch, tmp_path):
    from types import SimpleNamespace

    members = dict.fromkeys(("NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120"))
    module = fake_tensorrt("tensorrt_rtx_bindings", "1.7", ComputeCapability=SimpleNamespace(__members__=members))
    monkeypatch.setattr(_trt, "find", lambda: module)
    device = TensorRT(cache=tmp_path)
    assert device.target.sm == ("80", "86", "89", "120")
    assert device.target.gpu == ""
    assert device.precisions == ("fp32", "fp16", "bf16", "int8", "w4a16")
    assert TensorRT(sm=("89", "120"), cache=tmp_path).precisions[-2:] == ("fp8", "w4a16")
    with pytest.raises(Unsupported, match="needs an NVIDIA GPU and its driver"):
        device.describe()
    with pytest.raises(Unsupported, match="builds for SM 75, 80, 86, 89, 120, not for 90"):
        TensorRT(sm="90")
    for bad in ("sm_89", (), 89, [89]):
        with pytest.raises(InvalidInput, match="compute capabilities such as '89'"):
            TensorRT(sm=bad)


@pytest.mark.parametrize("bad", [{"batch": 0}, {"batch": "8"}, {"gpu": -1}, {"timeout_s": 0}, {"timeout_s": "1"}, {"workspace_mib": 0.5}])
def test_impossible_numbers_are_refused(cuda, tensorrt, bad):
    with pytest.raises(InvalidInput, match=f"{next(iter(bad))} must be a (positive number|whole number of at least)"):
        TensorRT(**bad)


def test_without_the_package_it_says_what_to_install_and_where():
    code = (
        "import sys\n"
        "for name in ('tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings', 'pycuda', 'cuda', 'pynvml'): sys.modules[name] = None\n"
        "import hwsearch, hwsearch.backends\n"
        "try: hwsearch.backends.load_backend('tensorrt')\n"
        "except hwsearch.HwsearchError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert "Missing" in done.stdout
    for words in ("pip install 'hwsearch[tensorrt]'", "pip install 'hwsearch[tensorrt-rtx]'", "Linux", "driver", "x86-64"):
        assert words in done.stdout
    assert load_space("resnet_digits").name == "resnet_digits"


def test_without_a_way_to_the_gpu_it_says_what_to_install(monkeypatch):
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r"cuda-python.*hwsearch\[tensorrt\]"):
        _cuda.load()
    assert FakeCuda().package


def test_files_are_metered_as_networks_are(backend, monkeypatch, tmp_path):
    class Clockwork(_energy.Meter):
        step_s, words = 1e-3, "a counter that moves whenever it is read"
        total = 0.0

        def joules(self):
            self.total += 1.0
            return self.total

    monkeypatch.setattr(_energy, "gpu_meter", lambda handle: Clockwork())
    device = backend()
    assert device.energy == "measured"
    (tmp_path / "model.onnx").write_bytes(device.model((CONV,)))
    with device.open((CONV,)) as opened, device.load(tmp_path / "model.onnx") as loaded:
        assert opened.energy_mj > 0
        assert loaded.energy_mj > 0
    check_backend(device)
