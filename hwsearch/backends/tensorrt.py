"""TensorRT and TensorRT-RTX on NVIDIA GPUs: fp32, fp16, bf16, int8, fp8, and weights of 4 bits, where version and GPU have them."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files._reading import PathLike, read_bytes
from .._files._writing import write_atomic
from ..devices._device import Device
from ..errors import BuildFailed, InvalidInput, Unsupported, check_count, check_positive
from ..networks._blocks import Block
from . import _energy
from ._frames import framed
from ._nvidia import _cuda, _nvml, _trt
from ._nvidia._build import Engines, Target, load_engine, save_engine
from ._onnx._flavours import TENSORRT
from ._trained import Check, TrainedModel
from .base import Backend, Network, Session, Times


class TensorRT(Backend):
    """TensorRT 10 or 11, or TensorRT-RTX, whichever is installed.

    Networks are strongly typed, and quantised by what is in the graph only. Engines are built in a process of their own and kept, with
    TensorRT's timing cache. fp32 may use TF32, as TensorRT has it. Running needs an NVIDIA GPU with its driver, and pycuda or cuda-python;
    TensorRT-RTX builds engines without.

    Running was never tried on a GPU by the authors of this class; building was, with TensorRT-RTX.

    Args:
        batch: images at once.
        sm: compute capabilities to build for, such as ``"89"`` or ``("86", "89")``. If omitted, that of this machine's GPU; without
            a GPU, TensorRT-RTX builds for 80, 86, 89 and 120 at once.
        gpu: number of the GPU, as CUDA counts them.
        workspace_mib: memory that layers may use while they run, MiB; if omitted, all there is.
        timeout_s: seconds that building one engine may take.
        flush_l2: whether to clear the GPU's L2 cache before every run, so that weights come from memory.
        cache: folder of the engines; ``hwsearch/tensorrt`` in the user's cache folder if omitted.

    Raises:
        InvalidInput: a number that is out of range.
        MissingDependency: neither TensorRT nor TensorRT-RTX is installed, or onnx is not.
        Unsupported: this TensorRT cannot build for ``sm`` on this machine.
    """

    name = "tensorrt"
    suffix = ".engine"
    zero_points = False

    def __init__(
        self,
        batch: int = 1,
        sm: str | tuple[str, ...] | None = None,
        gpu: int = 0,
        workspace_mib: int | None = None,
        timeout_s: float = 600.0,
        flush_l2: bool = False,
        cache: PathLike | None = None,
    ) -> None:
        self.batch, self.gpu, self.flush_l2 = check_count("batch", batch, least=1), check_count("gpu", gpu, least=0), flush_l2
        self._timeout_s = check_positive("timeout_s", timeout_s)
        workspace_mib = None if workspace_mib is None else check_count("workspace_mib", workspace_mib, least=1)
        self._given = {"sm": sm, "workspace_mib": workspace_mib}
        self.cache = _cache_folder() if cache is None else Path(cache)
        self._module = _trt.find()
        try:
            here: str | None = self._device.sm()
        except (Unsupported, ImportError):  # no GPU, or nothing to reach it by
            here = None
        wanted = ((here,) if here else _trt.PORTABLE) if sm is None else tuple(sm) if isinstance(sm, list | tuple) else (sm,)
        targets = _trt.check_targets(self._module, wanted, here)
        # TensorRT tunes its engines on one GPU; TensorRT-RTX finishes them on the GPU that they run on.
        tuned = "" if _trt.is_rtx(self._module) else self._facts["gpu"]
        self.target = Target(_trt.version(self._module), targets, tuned, workspace_mib)
        self.engines = Engines(self.cache, self.target, here, self.gpu, self._timeout_s)
        self._here = here
        self._meter = None if here is None or self._watched is None else _energy.gpu_meter(self._watched)
        self.energy = "unavailable" if self._meter is None else "measured"

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that the version has data types for and all targets have instructions for."""
        return _trt.precisions(self._module, self.target.sm)

    @property
    def options(self) -> dict[str, Any]:
        """Batch, GPU, and what was given of the rest."""
        given = {name: value for name, value in self._given.items() if value is not None}
        return {"batch": self.batch, "gpu": self.gpu, "flush_l2": self.flush_l2, "timeout_s": self._timeout_s, **given}

    def describe(self) -> Device:
        """This machine's GPU, its clocks and its power limit.

        Raises:
            Unsupported: there is no GPU here.
        """
        facts = {
            **self._facts,
            "tensorrt": self.target.runtime,
            "cuda": self._device.package,
            "tf32": "allowed in fp32",
            "l2": "flushed before every run" if self.flush_l2 else "as the run before left it",
            "zero_points": "none",
            "energy": _energy.words_of(self._meter),
        }
        name = facts.get("gpu", f"SM {self._here}")
        return Device(f"{name.lower().replace(' ', '-')}-tensorrt", "gpu", name, self.name, self.target.runtime, 1, self.batch, facts)

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """The block between two cheap convolutions of its precision, so that it is fused and laid out as inside a network."""
        return framed(block)

    def engine(self, network: Network) -> bytes:
        """The engine of a network of blocks, its weights random.

        Raises:
            Unsupported: the device cannot run one of the blocks.
            InvalidInput: a block does not fit the one before it.
            BuildFailed: the builder crashed, hung, ran out of memory or refused the network.
        """
        return self.engines.build(self.model(network), _words(network))

    def save(self, model: bytes, out: PathLike, facts: dict[str, Any] | None = None) -> Path:
        """Build the engine of an ONNX model and write it, and beside it (``<out>.json``) what it runs on.

        Args:
            model: the ONNX file.
            out: the engine's.
            facts: JSON data to keep beside it.

        Raises:
            BuildFailed: the builder crashed, hung, ran out of memory or refused the model.
        """
        save_engine(out, self.engines.build(model, os.fspath(out)), self.target, facts)
        return Path(out)

    def write(self, model: TrainedModel, out: PathLike, check: Check) -> Path:
        """Build the engine of a trained network and write it, and the ONNX file of the same name that it is built from.

        The graph is run in ONNX Runtime, unless it holds bf16, which that does not run on CPUs, and the engine if there is a GPU. Neither
        file is written if one of them does not compute what the network does; the note beside the engine says what was compared.

        Raises:
            BuildFailed: the builder failed, or the graph or the engine computes something else.
            InvalidInput: an engine that is to be called ``.onnx``, or of another batch than this backend's.
            MissingDependency: onnxruntime is not installed.
        """
        source, differences = Path(out).with_suffix(".onnx"), {}
        if source == Path(out):
            raise InvalidInput(
                f"{out} is where the graph goes, beside the engine. Name the engine, such as {source.with_suffix('.engine')}."
            )
        graph = self.encode(model)
        if all(block.bits.dense != "bf16" for block in model.network):
            from .onnxruntime import OnnxRuntime

            differences["onnxruntime"] = check("graph", OnnxRuntime().as_written(graph))
        write_atomic(source, graph)
        try:
            if self.here:
                session = self.session(source)
                with session:
                    differences["engine"] = check("engine", session.run)
            return self.save(graph, out, {"differences": differences, "tolerance": check.tolerance})
        except BuildFailed:
            source.unlink()
            raise

    @property
    def here(self) -> bool:
        """Whether this machine has a GPU, and a package to reach it by."""
        return self._here is not None

    def load(self, path: PathLike) -> Session:
        """Make an engine, or the engine of an ONNX file with fixed dimensions, ready to be measured on random inputs.

        Raises:
            HwsearchError: as :meth:`session`.
        """
        return _energy.metered(self.session(path), self._meter)

    def session(self, path: PathLike) -> TrtSession:
        """Make an engine, or the engine of an ONNX file with fixed dimensions, ready to run on your own inputs.

        Raises:
            FileError: there is no such file; CorruptFile or WrongDevice where it is no engine or none for this GPU and version.
            Unsupported: there is no GPU here.
            BuildFailed: the builder crashed, hung, ran out of memory or refused the model.
        """
        if Path(path).suffix == ".onnx":
            return self._run(self.engines.build(read_bytes(path, "model"), os.fspath(path)), os.fspath(path))
        return self._run(load_engine(path, self.target), os.fspath(path))

    def _open(self, network: Network) -> Session:
        return _energy.metered(self._run(self.engine(network), _words(network)), self._meter)

    def _model(self, network: Network) -> bytes:
        from ._onnx._graph import build

        return bytes(build(network, batch=self.batch, flavour=TENSORRT).SerializeToString())

    def _encode(self, model: TrainedModel) -> bytes:
        from ._onnx._file import encode

        if model.batch != self.batch:
            asked = "any number of" if model.batch is None else model.batch
            raise InvalidInput(
                f"An engine takes {self.batch} images at once, the batch of its backend, and not {asked}; choose another backend: "
                f"load_backend('tensorrt', batch={model.batch or 'N'})."
            )
        return encode(model, TENSORRT)

    def _run(self, plan: bytes, what: str) -> TrtSession:
        return TrtSession(self._module, self._device, plan, what, self.flush_l2, self._watched)

    @cached_property
    def _watched(self) -> Any:
        """NVML's handle; ``None`` without NVML, and then nothing is known of what holds the GPU back or what it uses."""
        try:
            return self._handle
        except ImportError:
            return None

    @cached_property
    def _device(self) -> _cuda.Cuda:
        return _cuda.load(self.gpu)

    @cached_property
    def _handle(self) -> Any:
        return _nvml.handle(bus=self._device.bus())

    @cached_property
    def _facts(self) -> dict[str, str]:
        """Once: clocks change, and a description does not."""
        return _nvml.facts(self._handle)


def _words(network: Network) -> str:
    return " + ".join(block.key for block in network) or "the empty network"


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwsearch" / "tensorrt"


class TrtSession(Session):
    """An engine with its inputs and outputs on the GPU, replayed as a CUDA graph if that can be captured.

    Raises:
        BuildFailed: TensorRT cannot make it ready, because memory ran out for instance.
    """

    def __init__(self, module: Any, cuda: _cuda.Cuda, plan: bytes, what: str, flush_l2: bool = False, handle: Any = None) -> None:
        self._cuda, self._watch = cuda, _nvml.Watch(handle)
        self._buffers: list[int] = []
        self._addresses: dict[str, int] = {}
        self._graph: _cuda.Graph | None = None
        self._runtime = runtime = module.Runtime(module.Logger(module.Logger.WARNING))
        engine = runtime.deserialize_cuda_engine(plan)
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            raise BuildFailed(f"TensorRT built {what} and cannot make it ready to run; its log, above, says why.")
        self._context: Any = context
        self._engine: Any = engine
        try:
            self._bind(module)
            self._scratch_bytes = 2 * cuda.l2_bytes() if flush_l2 else 0
            self._scratch = self._allocate(self._scratch_bytes) if flush_l2 else 0
        except Unsupported as error:
            self.close()
            raise BuildFailed(f"There is no room on the GPU for {what}: {error}.") from error
        self._launch()  # what is set up at the first run must not be captured
        cuda.wait()
        self._graph = cuda.capture(self._launch)

    def _bind(self, module: Any) -> None:
        rng = np.random.default_rng(0)
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            kind, count = self._engine.get_tensor_dtype(name), int(np.prod(self._engine.get_tensor_shape(name)))
            address = self._addresses[name] = self._allocate(int(count * kind.itemsize))
            self._context.set_tensor_address(name, address)
            if self._engine.get_tensor_mode(name) != module.TensorIOMode.INPUT:
                continue
            self.batch = int(self._engine.get_tensor_shape(name)[0])
            if kind == module.DataType.FLOAT:
                self._cuda.write(address, rng.standard_normal(count).astype(np.float32))
            else:  # positive numbers, in int8 and in fp8
                self._cuda.write(address, rng.integers(0, 120, count, dtype=np.uint8))

    def _allocate(self, size: int) -> int:
        self._buffers.append(self._cuda.allocate(max(size, 1)))
        return self._buffers[-1]

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise Unsupported("TensorRT could not queue the network; its log, above, says why.")

    def times(self, runs: int) -> Times:
        """Seconds of each run on the GPU, between CUDA events, shape ``(runs,)``."""
        with self._watch:
            return self._cuda.times(self._graph or self._launch, runs, self._flush)

    def _flush(self) -> None:
        if self._scratch_bytes:
            self._cuda.clear(self._scratch, self._scratch_bytes)

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the network makes of images.

        Args:
            images: in the shape of its input, ``(batch, channels, size, size)``; its input and its output must be floats.
        """
        shape, where = tuple(self._engine.get_tensor_shape("output")), self._addresses
        logits = np.empty(shape, dtype=np.float32)
        self._cuda.write(where["input"], images.astype(np.float32))
        self._launch()
        self._cuda.read(where["output"], logits)
        return logits

    @property
    def throttled(self) -> bool:
        """Whether heat or power held the GPU back before or after the last runs; ``False`` if NVML does not tell."""
        return self._watch.held_back

    def close(self) -> None:
        """Give the memory on the GPU back."""
        if self._graph is not None:
            self._graph.close()
        self._graph = self._context = self._engine = self._runtime = None
        for address in self._buffers:
            self._cuda.free(address)
        self._buffers = []
