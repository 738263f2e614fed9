"""ONNX Runtime on the CPU: fp32, and int8 as QDQ graphs that it fuses."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._store import PathLike
from ..blocks import Block
from ..device import Device
from ..errors import FileError, InvalidInput, require
from . import onnx_graph
from .base import Backend, Network, Session, Times

if TYPE_CHECKING:
    from onnx import ModelProto

ort = require("onnxruntime", feature="The backend 'onnxruntime'", extra="onnxruntime")

_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_IMAGE = 4
"""Feature maps this narrow are images: they come from outside, in the plain layout."""


class OnnxRuntime(Backend):
    """ONNX Runtime's CPU provider.

    fp32 and int8 (``uint8`` activations, ``int8`` weights) only: other precisions gain nothing there. Without VNNI
    instructions ``int8`` products may saturate in 16 bits; :meth:`describe` lists what the CPU has.

    Args:
        threads: that work on one operator.
        batch: images at once.

    Raises:
        InvalidInput: threads or batch below 1.
        MissingDependency: onnx or onnxruntime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        if threads < 1 or batch < 1:
            raise InvalidInput(f"threads and batch must be at least 1, not {threads} and {batch}.")
        self.threads, self.batch = threads, batch

    @property
    def precisions(self) -> tuple[str, ...]:
        """fp32 and int8."""
        return ("fp32", "int8")

    def describe(self) -> Device:
        """This machine's CPU."""
        hardware, flags = _cpu()
        facts = {
            "os": f"{platform.system()} {platform.release().partition('-')[0]}",
            "machine": platform.machine(),
            "cores": str(os.cpu_count() or 1),
            "flags": " ".join(flag for flag in _FLAGS if flag in flags),
            "python": platform.python_version(),
        }
        name = f"{hardware.lower().replace(' ', '-')}-onnxruntime"
        return Device(name, "cpu", hardware, self.name, str(ort.__version__), self.threads, self.batch, facts)

    def supports(self, block: Block) -> bool:
        """Whether the precision is fp32 or int8, and graphs of such blocks can be built."""
        return super().supports(block) and onnx_graph.can_build(block)

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """The block between two cheap convolutions of its precision.

        Alone it would be charged for changing memory layouts at its edges and lose the fusion of its sum, neither of which happens
        inside a network. The convolution before it reads one channel, the one after it one pixel.
        """
        before = block.precision if block.bits.quantized and block.kind != "quantize" else "fp32"
        after = block.precision if block.bits.quantized and block.kind != "dequantize" else "fp32"
        image = block.cin <= _IMAGE
        lead = () if image else (Block("conv", 1, block.cin, block.size, precision=before),)
        frame = (*lead, _probe(block.cin, block.size, before))
        if block.kind == "head":
            return (*lead, block), frame
        return (*lead, block, _probe(block.cout, block.out_size, after)), frame

    def _open(self, network: Network) -> Session:
        return OrtSession(self.session(onnx_graph.build(network, batch=self.batch)))

    def load(self, path: PathLike) -> Session:
        """Make an ONNX file ready to run on random inputs; open dimensions become the batch.

        Raises:
            FileError: there is no such file, or ONNX Runtime cannot run it.
        """
        if not Path(path).is_file():
            raise FileError(f"There is no model file {os.fspath(path)}.")
        try:
            return OrtSession(self.session(os.fspath(path)), self.batch)
        except Exception as error:
            raise FileError(f"ONNX Runtime cannot run {os.fspath(path)}: {error}") from error

    def session(self, model: ModelProto | str, optimized: PathLike | None = None) -> Any:
        """An ``onnxruntime.InferenceSession`` with the settings that are profiled.

        Args:
            model: the model, or the path of its file.
            optimized: where to write the graph that ONNX Runtime made of it, to see what was fused.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if optimized is not None:
            options.optimized_model_filepath = os.fspath(optimized)
        source = model if isinstance(model, str) else model.SerializeToString()
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _probe(channels: int, size: int, precision: str) -> Block:
    """A convolution of one pixel of a feature map to 16 channels."""
    return Block("conv", channels, 16, size, stride=size, precision=precision)


class OrtSession(Session):
    """An inference session with its inputs and outputs bound to fixed memory."""

    def __init__(self, session: Any, batch: int = 1) -> None:
        rng = np.random.default_rng(0)
        binding = session.io_binding()
        for argument in session.get_inputs():
            shape = [size if isinstance(size, int) and size > 0 else batch for size in argument.shape]
            binding.bind_ortvalue_input(argument.name, ort.OrtValue.ortvalue_from_numpy(_random(argument.type, shape, rng)))
        for argument in session.get_outputs():
            binding.bind_output(argument.name, "cpu")
        self._session, self._binding = session, binding

    def times(self, runs: int) -> Times:
        """Seconds of each run, shape ``(runs,)``."""
        run, binding, clock = self._session.run_with_iobinding, self._binding, time.perf_counter_ns
        marks = np.empty((runs, 2), dtype=np.int64)
        for i in range(runs):
            start = clock()
            run(binding)
            marks[i] = start, clock()
        return np.asarray((marks[:, 1] - marks[:, 0]) * 1e-9, dtype=np.float64)

    def close(self) -> None:
        """Release the inference session."""
        self._session = self._binding = None


def _random(kind: str, shape: list[int], rng: np.random.Generator) -> Any:
    if kind == "tensor(uint8)":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "tensor(float)":
        return rng.standard_normal(shape).astype(np.float32)
    raise InvalidInput(f"Inputs of type {kind} cannot be made up; float and uint8 can.")


def _cpu() -> tuple[str, frozenset[str]]:
    """The processor's name and instruction sets."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return name, flags
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    words = facts.get("flags", facts.get("Features", ""))
    return facts.get("model name", name), frozenset(words.split())
