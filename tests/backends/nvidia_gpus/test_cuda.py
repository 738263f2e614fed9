"""The two packages that reach a GPU, played by stand-ins; and whether the real cuda-python has what is asked of it."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from hwsearch.backends._nvidia import _cuda
from hwsearch.errors import Unsupported


class Gpu:
    """Remembers its memory and what was queued; every work takes a millisecond."""

    def __init__(self):
        self.memory, self.now, self.log, self.addresses = {}, 0.0, [], itertools.count(4096, 4096)

    def allocate(self, size):
        address = next(self.addresses)
        self.memory[address] = np.zeros(size, np.uint8)
        return address

    def work(self, name):
        self.now += 1.0
        self.log.append(name)


def pretend(monkeypatch, name, **content):
    parents = name.split(".")
    for end in range(1, len(parents)):
        monkeypatch.setitem(sys.modules, ".".join(parents[:end]), ModuleType(parents[end - 1]))
    module = ModuleType(name)
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def with_pycuda(monkeypatch):
    gpu = Gpu()

    class Error(Exception):
        pass

    class Device:
        def __init__(self, index):
            if index:
                raise Error("cuDeviceGet failed: invalid device ordinal")

        def retain_primary_context(self):
            return SimpleNamespace(push=lambda: gpu.log.append("push"))

        def pci_bus_id(self):
            return "0000:01:00.0"

        def compute_capability(self):
            return (8, 9)

        def get_attribute(self, attribute):
            return {"l2": 1000}[attribute]

    class Event:
        def record(self, stream):
            self.at = gpu.now

        def synchronize(self):
            pass

        def time_till(self, end):
            return end.at - self.at

    class Allocation:
        def __init__(self, size):
            self.address = gpu.allocate(size)

        def __int__(self):
            return self.address

        def free(self):
            del gpu.memory[self.address]

    def htod(address, data):
        gpu.memory[address][: data.nbytes] = data.view(np.uint8).ravel()

    def dtoh(out, address):
        out[:] = gpu.memory[address].view(out.dtype).reshape(out.shape)

    pretend(
        monkeypatch,
        "pycuda.driver",
        Error=Error,
        init=lambda: None,
        Device=Device,
        Event=Event,
        Stream=lambda: SimpleNamespace(handle=7, synchronize=lambda: None),
        device_attribute=SimpleNamespace(L2_CACHE_SIZE="l2"),
        mem_alloc=Allocation,
        memcpy_htod=htod,
        memcpy_dtoh=dtoh,
        memset_d8_async=lambda address, value, size, stream: gpu.memory[address].fill(value),
    )
    return gpu


@pytest.fixture
def with_cuda_python(monkeypatch):
    gpu = Gpu()
    gpu.room, gpu.capturing, gpu.can_capture = 2**20, False, True

    class Status(int):
        @property
        def name(self):
            return "cudaSuccess" if self == 0 else f"cudaError{int(self)}"

    def malloc(size):
        if size > gpu.room:
            return Status(2), 0
        return Status(0), gpu.allocate(size)

    def copy(target, source, size, kind):
        host, device = (source, target) if kind == 1 else (target, source)
        import ctypes

        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
        if kind == 1:
            gpu.memory[device][:size] = array
        else:
            array[:] = gpu.memory[device][:size]
        return (Status(0),)

    def clear(address, value, size, stream):
        gpu.memory[address][:size] = value
        return (Status(0),)

    def begin(stream, mode):
        gpu.capturing = gpu.can_capture
        return (Status(0 if gpu.can_capture else 900),)

    def end(stream):
        gpu.capturing = False
        return Status(0), list(gpu.log)

    def launch(graph, stream):
        gpu.work("graph")
        return (Status(0),)

    ok = lambda *arguments: (Status(0),)  # noqa: E731

    def record(event, stream):
        event.at = gpu.now
        return (Status(0),)

    pretend(
        monkeypatch,
        "cuda.bindings.runtime",
        cudaSetDevice=lambda index: (Status(101 if index else 0),),
        cudaStreamCreate=lambda: (Status(0), 7),
        cudaDeviceGetPCIBusId=lambda size, index: (Status(0), b"0000:01:00.0\0\0\0"),
        cudaDeviceAttr=SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=9, cudaDevAttrL2CacheSize=1000
        ),
        cudaDeviceGetAttribute=lambda attribute, index: (Status(0), attribute),
        cudaMalloc=malloc,
        cudaFree=lambda address: (Status(0 if gpu.memory.pop(address, None) is not None else 1),),
        cudaMemcpy=copy,
        cudaMemcpyKind=SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2),
        cudaMemsetAsync=clear,
        cudaEventCreate=lambda: (Status(0), SimpleNamespace()),
        cudaEventRecord=record,
        cudaEventSynchronize=ok,
        cudaEventElapsedTime=lambda start, end: (Status(0), end.at - start.at),
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal=1),
        cudaStreamBeginCapture=begin,
        cudaStreamEndCapture=end,
        cudaGraphInstantiate=lambda graph, flags: (Status(0), graph),
        cudaGraphDestroy=ok,
        cudaGraphExecDestroy=ok,
        cudaGraphLaunch=launch,
        cudaStreamSynchronize=ok,
    )
    monkeypatch.setitem(sys.modules, "pycuda", None)
    return gpu


@pytest.fixture(params=["with_pycuda", "with_cuda_python"])
def gpu(request):
    return request.getfixturevalue(request.param)


def test_a_gpu_is_the_same_through_either_package(gpu):
    cuda = _cuda.load()
    assert (cuda.bus(), cuda.sm(), cuda.l2_bytes(), cuda.stream) == ("0000:01:00.0", "89", 1000, 7)
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    address = cuda.allocate(data.nbytes)
    cuda.write(address, data.T.copy().T)
    found = np.empty_like(data)
    cuda.read(address, found)
    np.testing.assert_array_equal(found, data)
    cuda.clear(address, data.nbytes)
    cuda.read(address, found)
    assert not found.any()
    cuda.free(address)
    assert gpu.memory == {}
    cuda.wait()


def test_only_the_work_itself_is_timed(gpu):
    cuda = _cuda.load()
    for runs in (3, 5, 2):
        times = cuda.times(lambda: gpu.work("network"), runs, lambda: gpu.work("flush"))
        np.testing.assert_allclose(times, [1e-3] * runs)
    assert gpu.log.count("flush") == gpu.log.count("network") == 10


def test_pycuda_comes_first_and_has_no_graphs(with_pycuda, monkeypatch):
    cuda = _cuda.load()
    assert cuda.package == "pycuda"
    assert cuda.capture(lambda: with_pycuda.work("network")) is None
    assert "push" in with_pycuda.log


def test_cuda_python_replays_graphs_where_they_can_be_captured(with_cuda_python):
    cuda = _cuda.load()
    assert cuda.package == "cuda-python"
    graph = cuda.capture(lambda: with_cuda_python.work("network"))
    graph()
    graph()
    assert with_cuda_python.log == ["network", "graph", "graph"]
    graph.close()
    with_cuda_python.can_capture = False
    assert cuda.capture(lambda: with_cuda_python.work("network")) is None


def test_what_cuda_refuses_is_told_in_its_words(with_cuda_python):
    cuda = _cuda.load()
    with pytest.raises(Unsupported, match="cudaMalloc says cudaError2"):
        cuda.allocate(2**21)


def test_a_gpu_that_is_not_there_is_told(gpu):
    with pytest.raises(Unsupported, match=r"CUDA finds no GPU number 3 .*needs an NVIDIA GPU and its driver"):
        _cuda.load(3)


def test_the_real_cuda_python_has_every_function_that_is_asked_for():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    source = Path(importlib.import_module("hwsearch.backends._nvidia._cuda").__file__).read_text()
    asked = set(re.findall(r'_call\("(cuda\w+)"', source))
    assert len(asked) >= 15
    assert all(callable(getattr(runtime, name)) for name in asked)
    attributes = {f"cudaDevAttr{name}" for name in re.findall(r'_attribute\([\'"](\w+)[\'"]\)', source)}
    assert attributes
    assert all(hasattr(runtime.cudaDeviceAttr, name) for name in attributes)
    for name in ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"):
        assert hasattr(runtime.cudaMemcpyKind, name)
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
