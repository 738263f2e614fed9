"""Stand-ins for what a machine without an NVIDIA GPU lacks: the GPU, the runtime that runs engines, and the process that builds them."""

from __future__ import annotations

import enum
import time
from types import SimpleNamespace

import onnx

from hwsearch.backends._nvidia import _cuda
from hwsearch.errors import Unsupported

BUILDER = """
import json, os, resource, signal, sys, time
for line in sys.stdin:
    request = json.loads(line)
    model = open(request["model"], "rb").read()
    open(os.path.join(os.path.dirname(__file__), "asked"), "a").write("x")
    print("[TRT] building", len(model), "bytes", file=sys.stderr, flush=True)
    if {when}: {trouble}
    open(request["out"], "wb").write(b"plan of " + model)
    print(json.dumps({{"why": ""}}), flush=True)
"""


class FakeCuda(_cuda.Cuda):
    """Counts what it is asked for; work takes as long as it takes to queue it."""

    package = "a stand-in"
    stream = 7

    def __init__(self, room=2**40, graphs=True):
        super().__init__()
        self.room, self.graphs, self.answer = room, graphs, None
        self.memory, self.written, self.cleared, self.captured, self.launched = {}, {}, [], 0, 0

    def bus(self):
        return "0000:01:00.0"

    def sm(self):
        return "89"

    def l2_bytes(self):
        return 1000

    def allocate(self, size):
        if sum(self.memory.values()) + size > self.room:
            raise Unsupported("cudaMalloc says cudaErrorMemoryAllocation")
        address = 4096 * (len(self.written) + len(self.memory) + 1) + 256 * id(size) % 97
        while address in self.memory:
            address += 1
        self.memory[address] = size
        return address

    def free(self, address):
        del self.memory[address]

    def write(self, address, data):
        assert data.nbytes <= self.memory[address]
        self.written[address] = data

    def read(self, address, out):
        out[:] = self.answer(self.written) if self.answer else 0

    def clear(self, address, size):
        assert size <= self.memory[address]
        self.cleared.append(size)

    def event(self):
        return SimpleNamespace(at=None)

    def record(self, event):
        event.at = time.perf_counter()

    def elapsed_s(self, start, end):
        return max(end.at - start.at, 1e-9)

    def capture(self, work):
        if not self.graphs:
            return None
        work()
        self.captured += 1

        def launch():
            self.launched += 1

        return _cuda.Graph(launch, lambda: None)

    def wait(self):
        pass


class DataType(enum.Enum):
    """TensorRT's, as far as it matters."""

    FLOAT, HALF, BF16, INT8, FP8, INT4 = 4, 2, 2.0, 1, 1.0, 0.5

    @property
    def itemsize(self):
        return self.value


class Context:
    def __init__(self):
        self.addresses, self.runs = {}, 0

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == FakeCuda.stream
        assert set(self.addresses) == {"input", "output"}
        self.runs += 1
        return True


class Engine:
    """Its plan is the model itself, behind a few words."""

    num_io_tensors = 2

    def __init__(self, plan):
        self.shapes = {"input": (2, 3, 4, 4), "output": (2, 10)}
        if plan.startswith(b"plan of \x08"):
            graph = onnx.load_from_string(plan.removeprefix(b"plan of ")).graph
            for value in (*graph.input, *graph.output):
                self.shapes[value.name] = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)

    def create_execution_context(self):
        return Context()

    def get_tensor_name(self, index):
        return ("input", "output")[index]

    def get_tensor_dtype(self, name):
        return DataType.FLOAT

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def get_tensor_mode(self, name):
        return name


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        return Engine(plan) if plan.startswith(b"plan of ") else None


class Logger:
    WARNING = 2

    def __init__(self, level):
        pass


def fake_tensorrt(name="tensorrt", version="10.99.1", **more):
    """A package that runs engines and builds none."""
    return SimpleNamespace(
        __name__=name,
        __version__=version,
        DataType=DataType,
        Runtime=Runtime,
        Logger=Logger,
        TensorIOMode=SimpleNamespace(INPUT="input"),
        **more,
    )
