"""OpenVINO on the CPU: fp32, and int8 from the same QDQ graphs, which its low-precision passes fuse."""

from __future__ import annotations

import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files._writing import PathLike
from ..errors import require
from ._clock import random_input, timed
from ._cpu import CpuBackend
from ._kernels import WARM
from ._profiled import ProfiledSession
from ._trained import Runner
from .base import Session, Times

if TYPE_CHECKING:
    from onnx import ModelProto

ov = require("openvino", feature="The backend 'openvino'", extra="openvino")


class OpenVino(CpuBackend):
    """OpenVINO's CPU plugin; see :class:`~hwsearch.backends._cpu.CpuBackend` for its arguments.

    One stream in the latency mode. What is fp32 runs in fp32: left to itself, the plugin takes bf16 or fp16 if the CPU has them.
    Threads are not pinned to cores, so that the system may say where they run.

    OpenVINO lets a 1x1 convolution skip pixels already in the layers before it, so the probe behind a framed block is a 3x3 convolution:
    behind a 1x1 one a bottleneck seemed to take a quarter of its time.
    """

    name = "openvino"
    title = "OpenVINO"
    version = str(ov.__version__).partition("-")[0]
    probe = 3
    tells_kernels = True

    def profiled(self, path: PathLike) -> Session:
        """A session whose runs also tell, by OpenVINO's own counters, what each kernel takes; see :meth:`Backend.profiled`.

        Raises:
            FileError: there is no such file, or OpenVINO cannot run it.
        """
        return ProfiledSession(self.load(path), partial(self._trace, os.fspath(path), _makers(os.fspath(path))))

    def _trace(self, path: str, makers: dict[str, str], runs: int) -> tuple[list[str], Times]:
        """What OpenVINO's counters, which tell the mean of all runs so far, say of each operation; see :data:`Trace`."""
        session = OvSession(self.compile(path, PERF_COUNT=True))
        session.times(WARM)
        _, before = session.counted()
        session.times(runs)
        names, mean = session.counted()
        session.close()
        return [makers.get(name, name) for name in names], ((WARM + runs) * mean - WARM * before) / runs

    def _run(self, model: ModelProto | str) -> Session:
        compiled = self.compile(model)
        return OvSession(compiled)

    def runner(self, model: ModelProto | str | bytes) -> Runner:
        """A function from input arrays to the output array, or to a list of them."""
        compiled = self._compile(self._read(model))

        def run(*inputs: Any) -> Any:
            found = compiled(list(inputs))
            outputs = [np.array(found[place]) for place in range(len(compiled.outputs))]
            return outputs[0] if len(outputs) == 1 else outputs

        return run

    def compile(self, model: ModelProto | str, **options: Any) -> Any:
        """An ``openvino.CompiledModel`` with the settings that are profiled; its runtime model shows what was fused.

        Args:
            model: the model, or the path of its file; open dimensions become the batch.
            options: of OpenVINO, beside or in the place of those settings.
        """
        network = self._read(model)
        if network.is_dynamic():
            network.reshape(
                {value: [size.get_length() if size.is_static else self.batch for size in value.partial_shape] for value in network.inputs}
            )
        return self._compile(network, **options)

    def _read(self, model: ModelProto | str | bytes) -> Any:
        return _core().read_model(model if isinstance(model, str | bytes) else model.SerializeToString())

    def _compile(self, network: Any, **options: Any) -> Any:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        return _core().compile_model(network, "CPU", {**settings, **options})


def _makers(path: str) -> dict[str, str]:
    """From the outputs of a model file to the operations that make them: OpenVINO calls these by the output."""
    onnx = require("onnx", feature="Naming what OpenVINO runs", extra="openvino")
    graph = onnx.load(path, load_external_data=False).graph
    makers = {output: node.name for node in graph.node for output in node.output}
    return {output.name: makers[output.name] for output in graph.output if output.name in makers}


@cache
def _core() -> Any:
    """The one instance of the runtime: it shares its threads between models."""
    return ov.Core()


class OvSession(Session):
    """An inference request with its inputs and outputs bound to fixed memory."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        for argument in compiled.inputs:
            shape = list(argument.shape)
            self._request.set_tensor(argument, ov.Tensor(random_input(argument.element_type.to_dtype(), shape)))
            self.batch = shape[0] if shape else self.batch

    def times(self, runs: int) -> Times:
        """Seconds of each run, shape ``(runs,)``."""
        return timed(partial(self._request.infer, share_outputs=True), runs)

    def counted(self) -> tuple[list[str], Times]:
        """The operations of a model with counters, in their order, and what each takes on average, ms; 0 if it does not run."""
        operations = self._request.profiling_info
        return [each.node_name for each in operations], np.array([1e3 * each.real_time.total_seconds() for each in operations])

    def close(self) -> None:
        """Release the inference request."""
        self._request = None
