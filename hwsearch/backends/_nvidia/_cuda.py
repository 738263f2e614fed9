"""The little of CUDA that measuring needs, through pycuda if that is installed, and else through cuda-python.

Never run on a GPU by its authors: the tests run it on a stand-in for each of the two packages, and check that cuda-python has every
function that is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import MissingDependency, Unsupported


class Cuda(ABC):
    """One GPU and one stream on it; all work is queued there, in order.

    Attributes:
        package: through which it is reached.
        stream: its handle as TensorRT takes it.
    """

    package: str
    stream: int

    def __init__(self) -> None:
        self._marks: list[tuple[Any, Any]] = []

    def times(self, work: Callable[[], None], runs: int, before: Callable[[], None]) -> npt.NDArray[np.float64]:
        """Seconds that queued work takes on the GPU, shape ``(runs,)``.

        Args:
            work: queues what is timed.
            runs: how often.
            before: queues what is done before each run and not timed.
        """
        while len(self._marks) < runs:
            self._marks.append((self.event(), self.event()))
        marks = self._marks[:runs]
        for start, end in marks:
            before()
            self.record(start)
            work()
            self.record(end)
        return np.array([self.elapsed_s(start, end) for start, end in marks], dtype=np.float64)

    @abstractmethod
    def bus(self) -> str:
        """The PCI bus id of the GPU, by which NVML knows it."""

    @abstractmethod
    def sm(self) -> str:
        """The compute capability, such as ``"89"``."""

    @abstractmethod
    def l2_bytes(self) -> int:
        """The size of the L2 cache."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes on the GPU."""

    @abstractmethod
    def free(self, address: int) -> None:
        """Give memory back."""

    @abstractmethod
    def write(self, address: int, data: npt.NDArray[Any]) -> None:
        """Copy an array to the GPU."""

    @abstractmethod
    def read(self, address: int, out: npt.NDArray[Any]) -> None:
        """Wait for queued work, and copy from the GPU into an array."""

    @abstractmethod
    def clear(self, address: int, size: int) -> None:
        """Queue writing zeros."""

    @abstractmethod
    def event(self) -> Any:
        """A mark to be put between works."""

    @abstractmethod
    def record(self, event: Any) -> None:
        """Queue a mark."""

    @abstractmethod
    def elapsed_s(self, start: Any, end: Any) -> float:
        """Wait for two marks, and tell the seconds between them."""

    @abstractmethod
    def capture(self, work: Callable[[], None]) -> Graph | None:
        """Turn what ``work`` queues into one CUDA graph; ``None`` if the package has no graphs or the work cannot be captured."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until all queued work is done."""


class Graph:
    """Captured work.

    Args:
        launch: queues it.
        close: lets go of it.
    """

    def __init__(self, launch: Callable[[], object], close: Callable[[], object]) -> None:
        self._launch, self.close = launch, close

    def __call__(self) -> None:
        """Queue the work."""
        self._launch()


def load(index: int = 0) -> Cuda:
    """A GPU, through the first package that is installed.

    Raises:
        MissingDependency: neither pycuda nor cuda-python is.
        Unsupported: there is no such GPU, or no driver.
    """
    for make, package in ((PyCuda, "pycuda"), (CudaPython, "cuda")):
        try:
            return make(index)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != package:
                raise
    raise MissingDependency("Running engines on an NVIDIA GPU", "cuda-python", "tensorrt")


def _no_gpu(index: int, why: object) -> Unsupported:
    return Unsupported(f"CUDA finds no GPU number {index} ({why}). Running engines needs an NVIDIA GPU and its driver.")


class PyCuda(Cuda):
    """Through pycuda, in the GPU's primary context, which is TensorRT's as well. pycuda has no CUDA graphs."""

    package = "pycuda"

    def __init__(self, index: int) -> None:
        super().__init__()
        self._driver = driver = import_module("pycuda.driver")
        try:
            driver.init()
            self._device = driver.Device(index)
        except driver.Error as error:
            raise _no_gpu(index, error) from error
        self._context = self._device.retain_primary_context()
        self._context.push()
        self._stream = driver.Stream()
        self._allocations: dict[int, Any] = {}
        self.stream = int(self._stream.handle)

    def bus(self) -> str:
        return str(self._device.pci_bus_id())

    def sm(self) -> str:
        return "".join(map(str, self._device.compute_capability()))

    def l2_bytes(self) -> int:
        return int(self._device.get_attribute(self._driver.device_attribute.L2_CACHE_SIZE))

    def allocate(self, size: int) -> int:
        allocation = self._driver.mem_alloc(size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._allocations.pop(address).free()

    def write(self, address: int, data: npt.NDArray[Any]) -> None:
        self._driver.memcpy_htod(address, np.ascontiguousarray(data))

    def read(self, address: int, out: npt.NDArray[Any]) -> None:
        self.wait()
        self._driver.memcpy_dtoh(out, address)

    def clear(self, address: int, size: int) -> None:
        self._driver.memset_d8_async(address, 0, size, self._stream)

    def event(self) -> Any:
        return self._driver.Event()

    def record(self, event: Any) -> None:
        event.record(self._stream)

    def elapsed_s(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(start.time_till(end)) * 1e-3

    def capture(self, work: Callable[[], None]) -> Graph | None:
        return None

    def wait(self) -> None:
        self._stream.synchronize()


class CudaPython(Cuda):
    """Through the runtime bindings of cuda-python."""

    package = "cuda-python"

    def __init__(self, index: int) -> None:
        super().__init__()
        self._runtime = import_module("cuda.bindings.runtime")
        self._index = index
        try:
            self._call("cudaSetDevice", index)
        except Unsupported as error:
            raise _no_gpu(index, error) from error
        self._stream = self._call("cudaStreamCreate")
        self.stream = int(self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of CUDA's runtime.

        Raises:
            Unsupported: it fails, because memory ran out for instance; with CUDA's word for it.
        """
        status, *result = getattr(self._runtime, name)(*arguments)
        if int(status) != 0:
            raise Unsupported(f"{name} says {getattr(status, 'name', status)}")
        return result[0] if result else None

    def _attribute(self, name: str) -> int:
        return int(self._call("cudaDeviceGetAttribute", getattr(self._runtime.cudaDeviceAttr, f"cudaDevAttr{name}"), self._index))

    def bus(self) -> str:
        found: bytes = self._call("cudaDeviceGetPCIBusId", 16, self._index)
        return found.decode().rstrip("\0")

    def sm(self) -> str:
        return f"{self._attribute('ComputeCapabilityMajor')}{self._attribute('ComputeCapabilityMinor')}"

    def l2_bytes(self) -> int:
        return self._attribute("L2CacheSize")

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def write(self, address: int, data: npt.NDArray[Any]) -> None:
        array = np.ascontiguousarray(data)
        self._call("cudaMemcpy", address, array.ctypes.data, array.nbytes, self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def read(self, address: int, out: npt.NDArray[Any]) -> None:
        self.wait()
        self._call("cudaMemcpy", out.ctypes.data, address, out.nbytes, self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def clear(self, address: int, size: int) -> None:
        self._call("cudaMemsetAsync", address, 0, size, self._stream)

    def event(self) -> Any:
        return self._call("cudaEventCreate")

    def record(self, event: Any) -> None:
        self._call("cudaEventRecord", event, self._stream)

    def elapsed_s(self, start: Any, end: Any) -> float:
        self._call("cudaEventSynchronize", end)
        return float(self._call("cudaEventElapsedTime", start, end)) * 1e-3

    def capture(self, work: Callable[[], None]) -> Graph | None:
        try:
            self._call("cudaStreamBeginCapture", self._stream, self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
            try:
                work()
            finally:
                graph = self._call("cudaStreamEndCapture", self._stream)
            ready = self._call("cudaGraphInstantiate", graph, 0)
            self._call("cudaGraphDestroy", graph)
        except Unsupported:
            return None
        return Graph(lambda: self._call("cudaGraphLaunch", ready, self._stream), lambda: self._call("cudaGraphExecDestroy", ready))

    def wait(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)
