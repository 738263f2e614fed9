"""ONNX Runtime on NVIDIA GPUs: its CUDA provider, and its TensorRT provider."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .._files._writing import PathLike
from ..devices._device import Device
from ..errors import BuildFailed, FileError, HwsearchError, InvalidInput, Unsupported, check_count, require
from ..networks._blocks import Block
from ._clock import input_shape, random_input, timed
from ._energy import gpu_meter, metered, words_of
from ._frames import framed
from ._nvidia import _nvml
from .base import Backend, Network, Session, Times

if TYPE_CHECKING:
    from onnx import ModelProto

ort = require("onnxruntime", feature="The backends 'onnxruntime-cuda' and 'onnxruntime-tensorrt'", extra="onnxruntime")

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}


class OnnxRuntimeCuda(Backend):
    """ONNX Runtime's CUDA provider: fp32 and fp16.

    Networks run whole on the GPU or not at all, with their inputs and outputs there, as CUDA graphs. fp32 may use TF32.

    Never run on a GPU by its authors: the tests run it on a stand-in for ONNX Runtime.

    Args:
        batch: images at once.
        gpu: number of the GPU, as CUDA counts them.

    Raises:
        InvalidInput: a batch below 1.
        MissingDependency: onnxruntime is not installed.
    """

    name = "onnxruntime-cuda"
    provider: ClassVar[str] = "CUDAExecutionProvider"
    settings: ClassVar[dict[str, str]] = {"enable_cuda_graph": "1", "use_tf32": "1", "cudnn_conv_algo_search": "EXHAUSTIVE"}

    def __init__(self, batch: int = 1, gpu: int = 0) -> None:
        self.batch, self.gpu = check_count("batch", batch, least=1), check_count("gpu", gpu, least=0)
        self._meter = None if self._handle is None else gpu_meter(self._handle)
        self.energy = "unavailable" if self._meter is None else "measured"

    @cached_property
    def _handle(self) -> Any:
        """NVML's handle of the GPU; ``None`` if NVML is not there."""
        try:
            return _nvml.handle(self.gpu)
        except HwsearchError:
            return None

    @cached_property
    def _facts(self) -> dict[str, str]:
        """Once: clocks change, and a description does not."""
        return {} if self._handle is None else _nvml.facts(self._handle)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those in which the provider has kernels of its own."""
        return ("fp32", "fp16")

    @property
    def options(self) -> dict[str, Any]:
        """Batch and GPU."""
        return {"batch": self.batch, "gpu": self.gpu}

    def describe(self) -> Device:
        """The GPU, as NVML tells it.

        Raises:
            Unsupported: the ONNX Runtime that is installed has no such provider.
        """
        self._check_provider()
        hardware = self._facts.get("gpu", f"GPU {self.gpu}")
        facts = {
            **self._facts,
            **self.settings,
            "energy": words_of(self._meter),
        }
        name = f"{hardware.lower().replace(' ', '-')}-{self.name}"
        return Device(name, "gpu", hardware, self.name, str(ort.__version__), 1, self.batch, facts)

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """The block between two cheap convolutions of its precision, so that it is fused as inside a network."""
        return framed(block)

    def _check_provider(self) -> None:
        """Models for a board with a GPU are made on machines without."""
        if self.provider not in ort.get_available_providers():
            raise Unsupported(
                f"This ONNX Runtime has no {self.provider}. Install the package onnxruntime-gpu in the place of onnxruntime (Linux or "
                "Windows, x86-64; it needs an NVIDIA GPU, its driver, CUDA and cuDNN)."
            )

    def _open(self, network: Network) -> Session:
        words = " + ".join(block.key for block in network) or "the empty network"
        return self._ready(self._model(network), words)

    def _model(self, network: Network) -> bytes:
        from ._onnx._flavours import TENSORRT
        from ._onnx._graph import build

        model: ModelProto = build(network, batch=self.batch, flavour=TENSORRT)
        return bytes(model.SerializeToString())

    def load(self, path: PathLike) -> Session:
        """Make an ONNX file ready to run on random inputs; open dimensions become the batch.

        Raises:
            FileError: there is no such file.
            BuildFailed: ONNX Runtime cannot run it on the GPU.
        """
        if not os.path.isfile(path):
            raise FileError(f"There is no model file {os.fspath(path)}.")
        return self._ready(os.fspath(path), os.fspath(path))

    def _ready(self, model: bytes | str, words: str) -> Session:
        self._check_provider()
        try:
            session = OrtGpuSession(self.session(model), self.batch, self.gpu, self._handle)
        except Exception as error:  # ONNX Runtime has many, and names none
            raise BuildFailed(f"ONNX Runtime cannot run {words} on the GPU: {str(error).strip()[:300]}") from error
        return metered(session, self._meter)

    def session(self, model: bytes | str) -> Any:
        """An ``onnxruntime.InferenceSession`` with the settings that are profiled.

        Args:
            model: an ONNX file, or the path of one.

        Raises:
            Unsupported: there is no such provider, it did not come up, or a part of the network would run on the CPU.
        """
        self._check_provider()
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.log_severity_level = 3
        settings = {"device_id": str(self.gpu), **self.settings}
        session = ort.InferenceSession(model, options, providers=[(self.provider, settings)])
        if session.get_providers()[0] != self.provider:
            raise Unsupported(f"{self.provider} did not come up (its log, above, says why), and the CPU is another device.")
        return session


class OnnxRuntimeTensorRT(OnnxRuntimeCuda):
    """ONNX Runtime's TensorRT provider: fp32, and int8 from quantisers in the graph.

    As its CUDA provider, but for the kernels; each engine is built when its network is opened. fp16 is not offered: if the provider may
    take it, it takes it for fp32 blocks too, and no table could tell them apart. The backend ``tensorrt`` can. Never run on a GPU by its
    authors.
    """

    name = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"
    settings: ClassVar[dict[str, str]] = {
        "trt_cuda_graph_enable": "1",
        "trt_timing_cache_enable": "1",
        "trt_int8_enable": "1",
        "trt_fp16_enable": "0",
    }

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that TensorRT takes from the graph."""
        return ("fp32", "int8")


class OrtGpuSession(Session):
    """An inference session with its inputs and outputs in fixed places on the GPU, as CUDA graphs need it."""

    def __init__(self, session: Any, batch: int, gpu: int, handle: Any = None) -> None:
        self._watch = _nvml.Watch(handle)
        binding = session.io_binding()
        self._values = []
        for bind, arguments in ((binding.bind_ortvalue_input, session.get_inputs()), (binding.bind_ortvalue_output, session.get_outputs())):
            for argument in arguments:
                if argument.type not in _TYPES:
                    raise InvalidInput(f"Values of type {argument.type} cannot be made up; {', '.join(_TYPES)} can.")
                shape = input_shape(argument.shape, batch)
                value = ort.OrtValue.ortvalue_from_numpy(random_input(_TYPES[argument.type], shape), "cuda", gpu)
                bind(argument.name, value)
                self._values.append(value)
                self.batch = shape[0]
        self._session, self._binding = session, binding
        self.times(2)  # the first runs capture the graph

    def times(self, runs: int) -> Times:
        """Seconds of each run, from the call to the end on the GPU, shape ``(runs,)``."""
        run, binding = self._session.run_with_iobinding, self._binding

        def once() -> None:
            run(binding)
            binding.synchronize_outputs()

        with self._watch:
            return timed(once, runs)

    @property
    def throttled(self) -> bool:
        """Whether heat or power held the GPU back before or after the last runs."""
        return self._watch.held_back

    def close(self) -> None:
        """Release the inference session and its memory."""
        self._session = self._binding = None
        self._values = []
