"""ONNX Runtime on the CPU: fp32, and int8 as QDQ graphs that it fuses."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files._reading import read_json
from .._files._writing import PathLike
from ..errors import InvalidInput, Unsupported, require
from ._clock import clock_of, input_shape, random_input, timed
from ._cpu import CpuBackend
from ._kernels import WARM, resolved_us
from ._profiled import ProfiledSession
from ._trained import Runner
from .base import Session, Times

if TYPE_CHECKING:
    from onnx import ModelProto

ort = require("onnxruntime", feature="The backend 'onnxruntime'", extra="onnxruntime")

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


class OnnxRuntime(CpuBackend):
    """ONNX Runtime's CPU provider; see :class:`~hwsearch.backends._cpu.CpuBackend` for its arguments."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    tells_kernels = True
    version = str(ort.__version__)

    def _run(self, model: ModelProto | str) -> Session:
        return OrtSession(self.session(model), self.batch, self.threads)

    def profiled(self, path: PathLike) -> Session:
        """A session whose runs also tell, by ONNX Runtime's own profiler, what each kernel takes; see :meth:`Backend.profiled`.

        Raises:
            FileError: there is no such file, or ONNX Runtime cannot run it.
        """
        return ProfiledSession(self.load(path), partial(self._trace, os.fspath(path)))

    def _trace(self, path: str, runs: int) -> tuple[list[str], Times]:
        """What ONNX Runtime's profiler, which tells when its session ends, says of each operation; see :data:`Trace`."""
        with tempfile.TemporaryDirectory() as folder:
            inside = self.session(path, trace=os.path.join(folder, "trace"))
            session = OrtSession(inside, self.batch, self.threads)
            session.times(WARM + runs)
            events = read_json(inside.end_profiling(), "trace of ONNX Runtime")
            session.close()
        nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
        begin, took = (np.array([event[key] for event in nodes], dtype=np.float64).reshape(WARM + runs, -1)[WARM:] for key in ("ts", "dur"))
        names = [event["name"].removesuffix("_kernel_time") for event in nodes[: took.shape[1]]]
        return names, 1e-3 * resolved_us(begin, took)

    def runner(self, model: ModelProto | str | bytes) -> Runner:
        """A function from input arrays to the output array, or to a list of them."""
        return _runner(self.session(model))

    def as_written(self, model: ModelProto | str | bytes) -> Runner:
        """The same as :meth:`runner`, computed node by node as the graph says.

        Integers are products of floats between quantisers then, which are exact on every machine. It is how graphs for another runtime
        are checked, whose arithmetic is not that of this CPU.
        """
        return _runner(self.session(model, optimize=False))

    def session(
        self, model: ModelProto | str | bytes, optimized: PathLike | None = None, *, optimize: bool = True, trace: PathLike | None = None
    ) -> Any:
        """An ``onnxruntime.InferenceSession`` with the settings that are profiled.

        Args:
            model: the model, its bytes, or the path of its file.
            optimized: where to write the graph that ONNX Runtime made of it, to see what was fused.
            optimize: whether ONNX Runtime may change the graph, as it does for what is profiled.
            trace: how the name of the file begins into which ONNX Runtime writes what each operation took, when its profiling ends.

        Raises:
            Unsupported: it has no kernel for an operation of the model.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if trace is not None:
            options.enable_profiling, options.profile_file_prefix = True, os.fspath(trace)
        if optimized is not None:
            options.optimized_model_filepath = os.fspath(optimized)
        source = model if isinstance(model, str | bytes) else model.SerializeToString()
        try:
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except ort.capi.onnxruntime_pybind11_state.NotImplemented as error:
            raise Unsupported(
                f"ONNX Runtime has no kernel for an operation of this network ({str(error).strip()[:300]}). It has few for double "
                "precision: a network in float64 runs once it is converted, by module.float()."
            ) from error


def _runner(session: Any) -> Runner:
    """A function that computes the outputs of a session."""

    def run(*inputs: Any) -> Any:
        outputs = session.run(None, {argument.name: x for argument, x in zip(session.get_inputs(), inputs, strict=True)})
        return outputs[0] if len(outputs) == 1 else outputs

    return run


class OrtSession(Session):
    """An inference session with its inputs and outputs bound to fixed memory."""

    def __init__(self, session: Any, batch: int = 1, threads: int = 1) -> None:
        binding = session.io_binding()
        self.batch = batch
        for argument in session.get_inputs():
            shape = input_shape(argument.shape, batch)
            if argument.type not in _TYPES:
                raise InvalidInput(f"Inputs of type {argument.type} cannot be made up; floats, whole numbers and bool can.")
            value = random_input(_TYPES[argument.type], shape)
            binding.bind_ortvalue_input(argument.name, ort.OrtValue.ortvalue_from_numpy(value))
            self.batch = shape[0] if shape else self.batch
        for argument in session.get_outputs():
            binding.bind_output(argument.name, "cpu")
        self._session, self._binding, self._clock = session, binding, clock_of(threads)

    def times(self, runs: int) -> Times:
        """Seconds of each run, shape ``(runs,)``."""
        return timed(partial(self._session.run_with_iobinding, self._binding), runs, self._clock)

    def close(self) -> None:
        """Release the inference session."""
        self._session = self._binding = None
