"""ONNX Runtime on the CPU: fp32, and int8 as QDQ graphs that it fuses."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files._writing import PathLike
from ..errors import InvalidInput, require
from ._clock import input_shape, random_input, timed
from ._cpu import CpuBackend
from ._trained import Runner
from .base import Session, Times

if TYPE_CHECKING:
    from onnx import ModelProto

ort = require("onnxruntime", feature="The backend 'onnxruntime'", extra="onnxruntime")

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class OnnxRuntime(CpuBackend):
    """ONNX Runtime's CPU provider; see :class:`~hwsearch.backends._cpu.CpuBackend` for its arguments."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    version = str(ort.__version__)

    def _run(self, model: ModelProto | str) -> Session:
        return OrtSession(self.session(model), self.batch)

    def runner(self, model: ModelProto | str | bytes) -> Runner:
        """A function from an input array to the output array."""
        session = self.session(model)
        return lambda x: np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])

    def as_written(self, model: ModelProto | str | bytes) -> Runner:
        """A function from an input array to the output array, computed node by node as the graph says.

        Integers are products of floats between quantisers then, which are exact on every machine. It is how graphs for another runtime
        are checked, whose arithmetic is not that of this CPU.
        """
        session = self.session(model, optimize=False)
        return lambda x: np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])

    def session(self, model: ModelProto | str | bytes, optimized: PathLike | None = None, *, optimize: bool = True) -> Any:
        """An ``onnxruntime.InferenceSession`` with the settings that are profiled.

        Args:
            model: the model, its bytes, or the path of its file.
            optimized: where to write the graph that ONNX Runtime made of it, to see what was fused.
            optimize: whether ONNX Runtime may change the graph, as it does for what is profiled.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if optimized is not None:
            options.optimized_model_filepath = os.fspath(optimized)
        source = model if isinstance(model, str | bytes) else model.SerializeToString()
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class OrtSession(Session):
    """An inference session with its inputs and outputs bound to fixed memory."""

    def __init__(self, session: Any, batch: int = 1) -> None:
        binding = session.io_binding()
        for argument in session.get_inputs():
            shape = input_shape(argument.shape, batch)
            if argument.type not in _TYPES:
                raise InvalidInput(f"Inputs of type {argument.type} cannot be made up; float and uint8 can.")
            value = random_input(_TYPES[argument.type], shape)
            binding.bind_ortvalue_input(argument.name, ort.OrtValue.ortvalue_from_numpy(value))
            self.batch = shape[0]
        for argument in session.get_outputs():
            binding.bind_output(argument.name, "cpu")
        self._session, self._binding = session, binding

    def times(self, runs: int) -> Times:
        """Seconds of each run, shape ``(runs,)``."""
        return timed(partial(self._session.run_with_iobinding, self._binding), runs)

    def close(self) -> None:
        """Release the inference session."""
        self._session = self._binding = None
