"""What the runtimes of a CPU share: the machine's facts, how a block is framed, which files they read."""

from __future__ import annotations

import os
import platform
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .._store import PathLike
from ..blocks import Block
from ..device import Device
from ..errors import FileError, InvalidInput
from ._energy import cpu_meter, metered
from .base import Backend, Network, Session

if TYPE_CHECKING:
    from onnx import ModelProto

_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_bf16", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_IMAGE = 4
"""Feature maps this narrow are images: they come from outside, in the plain layout."""


class CpuBackend(Backend):
    """A runtime that runs ONNX graphs on the CPU.

    fp32 and int8 (``uint8`` activations, ``int8`` weights) only: other precisions gain nothing there. Without VNNI
    instructions ``int8`` products may saturate in 16 bits; :meth:`describe` lists what the CPU has. Energies are measured where the CPU
    shows its counters (RAPL).

    Args:
        threads: that work on one operator.
        batch: images at once.

    Attributes:
        title: what people call the runtime.
        version: of the runtime.
        probe: kernel of the convolution that stands behind a framed block.

    Raises:
        InvalidInput: threads or batch below 1.
        MissingDependency: onnx or the runtime is not installed.
    """

    title: ClassVar[str]
    version: ClassVar[str]
    probe: ClassVar[int] = 1

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        if threads < 1 or batch < 1:
            raise InvalidInput(f"threads and batch must be at least 1, not {threads} and {batch}.")
        self.threads, self.batch = threads, batch
        self._meter = cpu_meter()
        self.energy = "unavailable" if self._meter is None else "measured"

    @property
    def precisions(self) -> tuple[str, ...]:
        """fp32 and int8."""
        return ("fp32", "int8")

    def describe(self) -> Device:
        """This machine's CPU."""
        hardware, _, facts = cpu_facts()
        facts["energy"] = "no meter" if self._meter is None else self._meter.words
        name = f"{hardware.lower().replace(' ', '-')}-{self.name}"
        return Device(name, "cpu", hardware, self.name, self.version, self.threads, self.batch, facts)

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """The block between two cheap convolutions of its precision.

        Alone it would be charged for changing memory layouts at its edges and lose the fusion of its sum, neither of which happens
        inside a network. The convolution before it reads one channel, the one after it one pixel.
        """
        before = block.precision if block.bits.quantized and block.kind != "quantize" else "fp32"
        after = block.precision if block.bits.quantized and block.kind != "dequantize" else "fp32"
        image = block.cin <= _IMAGE
        lead = () if image else (Block("conv", 1, block.cin, block.size, precision=before),)
        frame = (*lead, self._probe(block.cin, block.size, before))
        if block.kind == "head":
            return (*lead, block), frame
        return (*lead, block, self._probe(block.cout, block.out_size, after)), frame

    def _probe(self, channels: int, size: int, precision: str) -> Block:
        """A convolution around one pixel of a feature map, to 16 channels."""
        return Block("conv", channels, 16, size, (), self.probe, stride=size, precision=precision)

    def _open(self, network: Network) -> Session:
        return metered(self._run(self._build(network)), self._meter)

    @property
    def options(self) -> dict[str, Any]:
        """Threads and batch."""
        return {"threads": self.threads, "batch": self.batch}

    def _model(self, network: Network) -> bytes:
        return bytes(self._build(network).SerializeToString())

    def _build(self, network: Network) -> ModelProto:
        # Boards that are given model files have no onnx.
        from .onnx_graph import build

        return build(network, batch=self.batch)

    def load(self, path: PathLike) -> Session:
        """Make an ONNX file ready to run on random inputs; open dimensions become the batch.

        Raises:
            FileError: there is no such file, or the runtime cannot run it.
        """
        if not Path(path).is_file():
            raise FileError(f"There is no model file {os.fspath(path)}.")
        try:
            return metered(self._run(os.fspath(path)), self._meter)
        except Exception as error:
            raise FileError(f"{self.title} cannot run {os.fspath(path)}: {error}") from error

    @abstractmethod
    def _run(self, model: ModelProto | str) -> Session:
        """Open a model, or the file of one."""


def random_input(kind: np.dtype[Any], shape: list[int]) -> Any:
    """Made-up pixels.

    Raises:
        InvalidInput: of a type other than float32 and uint8.
    """
    rng = np.random.default_rng(0)
    if kind == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == np.float32:
        return rng.standard_normal(shape).astype(np.float32)
    raise InvalidInput(f"Inputs of type {kind} cannot be made up; float32 and uint8 can.")


def cpu_facts() -> tuple[str, frozenset[str], dict[str, str]]:
    """This machine's processor: its name, its instruction sets, and what else explains a measurement."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = said.get("model name", platform.processor() or platform.machine())
    flags = frozenset(said.get("flags", said.get("Features", "")).split())
    facts = {
        "os": f"{platform.system()} {platform.release().partition('-')[0]}",
        "machine": platform.machine(),
        "cores": str(os.cpu_count() or 1),
        "flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "python": platform.python_version(),
    }
    return name, flags, facts
