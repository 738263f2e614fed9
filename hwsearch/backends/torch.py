"""PyTorch on the CPU or on a GPU, for those without another runtime: eagerly, as a CUDA graph, or compiled by ``torch.compile``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..devices._device import Device
from ..errors import BuildFailed, HwsearchError, InvalidInput, Unsupported, check_count, require
from ..networks._blocks import Block
from ._clock import timed
from ._cpu import cpu_facts
from ._energy import cpu_meter, gpu_meter, metered, words_of
from ._nvidia import _nvml
from .base import Backend, Network, Session, Times

if TYPE_CHECKING:
    import torch
else:
    torch = require("torch", feature="The backend 'torch'", extra="torch")

MODES = ("eager", "graph", "compile")
_SETTLE = 3
"""Runs before a network counts as ready: what compiles at the first run and tunes itself at the next has done so by then."""


class Torch(Backend):
    """PyTorch. Batch norms are folded, feature maps lie in memory as channels-last.

    fp32, and fp16 and bf16 if the device computes faster in them; on GPUs fp32 is without TF32, as PyTorch has it. Quantised precisions
    gain nothing here.

    Graphs and GPUs were never tried by the authors of this class; the CPU was.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; if omitted, a GPU if there is one.
        mode: ``"eager"``, ``"graph"`` (a CUDA graph of eager mode, which takes the cost of launching away) or ``"compile"``. Tables of
            different modes are of different devices.
        threads: that work on one operator, on the CPU.
        batch: images at once.

    Raises:
        InvalidInput: an unknown mode, or threads or batch below 1.
        Unsupported: there is no such device, or the mode is ``"graph"`` on a CPU.
        MissingDependency: torch is not installed.
    """

    name = "torch"

    def __init__(self, device: str | None = None, mode: str = "eager", threads: int = 1, batch: int = 1) -> None:
        threads, batch = check_count("threads", threads, least=1, most=4096), check_count("batch", batch, least=1)
        if mode not in MODES:
            raise InvalidInput(f"mode must be one of {', '.join(MODES)}, not {mode!r}.")
        found = torch.cuda.is_available()
        try:
            self.device = torch.device(device or ("cuda" if found else "cpu"))
        except (RuntimeError, TypeError) as error:
            raise Unsupported(f"PyTorch knows no device {device!r}: {str(error).strip()}") from error
        if self.device.type not in ("cpu", "cuda") or (self.device.type == "cuda" and not found):
            raise Unsupported(f"PyTorch finds no device {str(self.device)!r} here. A GPU needs its driver and a build of PyTorch for it.")
        if mode == "graph" and not self._gpu:
            raise Unsupported("CUDA graphs need a GPU. Take mode='eager' or mode='compile' on a CPU.")
        self.mode, self.threads, self.batch = mode, threads, batch
        self._meter = gpu_meter(self._handle) if self._gpu and self._handle is not None else None if self._gpu else cpu_meter()
        self.energy = "unavailable" if self._meter is None else "measured"

    @property
    def _gpu(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def _handle(self) -> Any:
        """NVML's handle of the GPU; ``None`` if NVML is not there."""
        try:
            shown = torch.cuda.get_device_properties(self.device)
            place = [getattr(shown, f"pci_{part}_id", -1) for part in ("domain", "bus", "device")]
            bus = "{:08x}:{:02x}:{:02x}.0".format(*place)
            return _nvml.handle(self.device.index or 0, None if -1 in place else bus)
        except HwsearchError:
            return None

    @property
    def precisions(self) -> tuple[str, ...]:
        """fp32, and the 16-bit formats that the device has instructions for."""
        if self._gpu:
            return ("fp32", "fp16", "bf16") if torch.cuda.get_device_capability(self.device) >= (8, 0) else ("fp32", "fp16")
        flags = cpu_facts()[1]
        return ("fp32", "bf16") if flags & {"avx512_bf16", "amx_bf16"} else ("fp32",)

    @property
    def options(self) -> dict[str, Any]:
        """Device, mode, threads and batch."""
        return {"device": str(self.device), "mode": self.mode, "threads": self.threads, "batch": self.batch}

    def describe(self) -> Device:
        """The CPU or the GPU; the mode is part of the runtime's version."""
        hardware, facts = self._hardware
        energy = words_of(self._meter)
        name = f"{hardware.lower().replace(' ', '-')}-torch-{self.mode}"
        threads = 1 if self._gpu else self.threads
        version = f"{torch.__version__} {self.mode}"
        return Device(name, "gpu" if self._gpu else "cpu", hardware, self.name, version, threads, self.batch, {**facts, "energy": energy})

    @cached_property
    def _hardware(self) -> tuple[str, dict[str, str]]:
        """Name and facts, read once: clocks change, and a description does not."""
        if not self._gpu:
            hardware, _, facts = cpu_facts()
            return hardware, facts
        facts = {} if self._handle is None else _nvml.facts(self._handle)
        cudnn = torch.backends.cudnn.version()
        return torch.cuda.get_device_name(self.device), {**facts, "cuda": str(torch.version.cuda), "cudnn": str(cudnn)}

    def _open(self, network: Network) -> Session:
        try:
            session = TorchSession(self, network)
        except Unsupported:
            raise
        except Exception as error:  # out of memory, or whatever a compiler says
            words = " + ".join(block.key for block in network) or "the empty network"
            raise BuildFailed(f"PyTorch cannot make {words} ready: {type(error).__name__}: {str(error).strip()[:300]}") from error
        return metered(session, self._meter)


class TorchSession(Session):
    """A network as torch modules, and its input on the device."""

    def __init__(self, backend: Torch, network: Network) -> None:
        self._backend, self.batch = backend, backend.batch
        self._watch = _nvml.Watch(backend._handle if backend._gpu else None)
        first = network[0] if network else Block("quantize", 1, 1, 1, precision="fp16")
        kind = _dtype(first) if network and not first.boundary else torch.float32
        shape = (self.batch, first.cin, first.size, first.size)
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(backend.device, kind)
        self._input: Any = image.contiguous(memory_format=torch.channels_last)
        self._run: Any = _module(network, backend.device)
        if backend.mode == "compile":
            self._run = _compiled(self._run)
        with warnings.catch_warnings():  # PyTorch's compiler uses what PyTorch deprecates
            warnings.simplefilter("ignore")
            self.times(_SETTLE)
        if backend.mode == "graph":
            module, graph = self._run, torch.cuda.CUDAGraph()
            with torch.no_grad(), torch.cuda.graph(graph):
                self._output = module(self._input)
            self._module, self._run = module, lambda image: graph.replay()

    def times(self, runs: int) -> Times:
        """Seconds of each run, shape ``(runs,)``: of the clock on a CPU, between events on a GPU."""
        with torch.no_grad():
            return self._times_gpu(runs) if self._backend._gpu else self._times_cpu(runs)

    def _times_cpu(self, runs: int) -> Times:
        usual = torch.get_num_threads()
        torch.set_num_threads(self._backend.threads)
        try:
            return timed(partial(self._run, self._input), runs)
        finally:
            torch.set_num_threads(usual)

    def _times_gpu(self, runs: int) -> Times:
        run, image = self._run, self._input
        with self._watch, torch.cuda.device(self._backend.device):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
            events[0].record()
            for event in events[1:]:
                run(image)
                event.record()
            torch.cuda.synchronize()
        return np.array([1e-3 * start.elapsed_time(end) for start, end in pairwise(events)], dtype=np.float64)

    @property
    def throttled(self) -> bool:
        """Whether heat or power held the GPU back before or after the last runs."""
        return self._watch.held_back

    def close(self) -> None:
        """Release the modules and their memory."""
        self._run = self._input = self._output = self._module = None


def _compiled(module: torch.nn.Module) -> Any:
    """A function that calls a module, with code of its own: the compiler keeps what it has compiled by the code, and a few a piece only."""
    scope: dict[str, Any] = {"module": module}
    exec("def run(image): return module(image)", scope)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(scope["run"], dynamic=False)


class _Identity(torch.nn.Module):
    """An empty network: one call, and nothing to compute."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def _module(network: Sequence[Block], device: torch.device) -> torch.nn.Module:
    """A network as it is deployed: batch norms folded, every block in its number format, evaluation mode."""
    from ._torch_blocks import GraphBlock, GraphLayer

    modules: list[torch.nn.Module] = []
    for block in network:
        module = GraphBlock(block).eval()
        for layer in module.modules():
            if isinstance(layer, GraphLayer) and layer.norm is not None:
                layer.op = torch.nn.utils.fusion.fuse_conv_bn_eval(layer.op, layer.norm)  # type: ignore[type-var, arg-type]
                layer.norm = None
        modules.append(_Typed(module, _dtype(block)))
    whole = torch.nn.Sequential(*modules) if modules else _Identity()
    return whole.to(device=device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload, no-any-return]


class _Typed(torch.nn.Module):
    """A block in its number format.

    Args:
        block: the modules of a block.
        kind: what it computes in.
    """

    def __init__(self, block: torch.nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.block, self.kind = block.to(kind), kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x.to(self.kind))  # type: ignore[no-any-return]


def _dtype(block: Block) -> torch.dtype:
    """What a block gives."""
    if block.kind == "dequantize":
        return torch.float32
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return kinds[block.precision]
