"""What the runtimes of a CPU share: the machine's facts, how a block is framed, which files they read."""

from __future__ import annotations

import base64
import os
import platform
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .._files._writing import PathLike
from ..devices._device import Device
from ..errors import FileError, InvalidInput, MissingDependency, SaturationWarning, check_count
from ..networks._blocks import Block
from ._energy import cpu_meter, metered, words_of
from ._frames import framed
from ._process import huge_pages, pin, without_huge_pages
from ._trained import Runner, TrainedModel
from .base import Backend, Network, Session

if TYPE_CHECKING:
    from onnx import ModelProto

_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_bf16", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
PROBE = (
    "eNrtms9q20AQxrWSkiyTtFkriRvUQ4WPezA5ljZQo+QQRC+ml9JLkeMlFjWSo5Xyj0JdCiHXnNOGXPoOfZ9c8xBdW44jyQo5uoX5iQHtp2V2djTHj1KL9o6l"
    "8OP93pvbD/ARFoJwkCZQ62w1O1H3dKsZhE257/cFsLx0JuLIWs4pdn7RYLviMPXDJDgT74NQpYdzAvXpjmMRHPSS5pHfT4WEjbKenbdelsdnrpZUuyzMns2X"
    "wfRPArmp3RAdvuYSdwJf3lexVlSzGqyiOK7gWUGzi8unTr8kkG8UlKuHYjqL3i/t6VvD3InCI74CCwdxlA42icrLN2Dli4hD0f8se/5AtIyWcUOWeA3Mgd+V"
    "LZI9I4nBkkzioCvkRIE2THPnfvLhpAWrOWV8/8UoTdSI2PDwofG8Xbjzw1Dxl4y4s8Pkmd+Hw7f8BdPdmbHyiMZ/71FHPQY1mOE+MjfecO8bgiAIgiAIgiAI"
    "giAIgiAIgiAIgiAIgiAIgiD/LfyaUIcRt9pB5g2JqZPteQbfVvUZbqWVzXO0J+C/RtdbdCsNa+p22pzhP7P2V1nnVHkXP8jreQa/ytpXYeL7F5pnq87N2O08"
    "86795x2vM90tG+88on16NfFnWnVYp7rFQKdEhaOCjqLjwMSe99gO1wSN1f4C+tglYg=="
)
"""An ONNX model, compressed and in base64, so that boards without onnx can run it: a convolution whose inputs are to be 255 and whose int8
weights are all 127, with 32 channels and 3x3 kernels."""
CPU = Path("/sys/devices/system/cpu/cpu0")


class CpuBackend(Backend):
    """A runtime that runs ONNX graphs on the CPU.

    fp32 and int8 (``uint8`` activations, ``int8`` weights) only: other precisions gain nothing there. Without VNNI
    instructions runtimes add pairs of ``int8`` products in 16 bits, which saturate. Whether this machine does is found out by running a
    small graph (:attr:`weight_bits`), and said in :meth:`describe`. Energies are measured if the CPU shows its counters (RAPL).

    Example:
        >>> from hwsearch.backends import CpuBackend, load_backend
        >>> backend = load_backend("onnxruntime", threads=2)
        >>> isinstance(backend, CpuBackend), backend.precisions, backend.describe().threads
        (True, ('fp32', 'int8'), 2)

    Args:
        threads: that work on one operator.
        batch: images at once.
        weight_bits: how many bits the weights of ``int8`` blocks have, to write files for another machine than this; if omitted, the
            number that this machine carries.
        core: keeps this process on one core, by its number, which is noted among the facts of the device; if omitted, the system chooses.
        huge_pages: ``False`` has this process get no transparent huge pages from now on, wherever the system's policy gives them; memory
            that it has already stays as it is. What holds is noted among the facts, and measurements under different policies are not
            put together.

    Attributes:
        title: what people call the runtime.
        version: of the runtime.
        probe: kernel of the convolution that stands behind a framed block.

    Raises:
        InvalidInput: threads or batch below 1, a core that this process may not use, or a system that cannot do without huge pages.
        MissingDependency: onnx or the runtime is not installed.
    """

    title: ClassVar[str]
    version: ClassVar[str]
    probe: ClassVar[int] = 1
    runs_files = True
    suffix = ".onnx"
    takes_graphs = True

    def __init__(
        self, threads: int = 1, batch: int = 1, weight_bits: int | None = None, core: int | None = None, huge_pages: bool = True
    ) -> None:
        threads, batch = check_count("threads", threads, least=1, most=4096), check_count("batch", batch, least=1)
        if weight_bits not in (None, 7, 8):
            raise InvalidInput(f"weight_bits must be 7 or 8, not {weight_bits}.")
        self.threads, self.batch, self._weight_bits = threads, batch, weight_bits
        if not isinstance(huge_pages, bool):
            raise InvalidInput(f"huge_pages must be true or false, not {huge_pages!r}.")
        self.core = None if core is None else pin(core, threads)
        self.huge_pages = huge_pages
        if not huge_pages:
            without_huge_pages()
        self._meter = cpu_meter()
        self.energy = "unavailable" if self._meter is None else "measured"

    @property
    def precisions(self) -> tuple[str, ...]:
        """fp32 and int8."""
        return ("fp32", "int8")

    @property
    def weight_bits(self) -> int:  # type: ignore[override]
        """How many bits of ``int8`` weights the integer products of this machine carry without saturating: 8, or 7."""
        return self._weight_bits or _carried(type(self))

    def describe(self) -> Device:
        """This machine's CPU."""
        hardware, _, facts = cpu_facts()
        carried = _carried(type(self))
        facts["int8"] = "exact" if carried == 8 else f"saturates in 16 bits: weights of {carried} bits"
        facts["energy"] = words_of(self._meter)
        if self.core is not None:
            facts["pinned to core"] = str(self.core)
        name = f"{hardware.lower().replace(' ', '-')}-{self.name}"
        return Device(name, "cpu", hardware, self.name, self.version, self.threads, self.batch, facts)

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """The block between two cheap convolutions of its precision; see :func:`hwsearch.backends._frames.framed`."""
        return framed(block, self.probe)

    def _open(self, network: Network) -> Session:
        return metered(self._run(self._build(network)), self._meter)

    @property
    def options(self) -> dict[str, Any]:
        """Threads and batch, the core if one is chosen, and that there are to be no huge pages."""
        chosen: dict[str, Any] = {} if self.core is None else {"core": self.core}
        return {"threads": self.threads, "batch": self.batch, **chosen, **({} if self.huge_pages else {"huge_pages": False})}

    def _model(self, network: Network) -> bytes:
        return bytes(self._build(network).SerializeToString())

    def _encode(self, model: TrainedModel) -> bytes:
        from ._onnx._file import encode
        from ._onnx._flavours import ONNXRUNTIME

        return encode(model, ONNXRUNTIME.carried(self.weight_bits))

    def notes(self, path: PathLike) -> dict[str, str]:
        """The metadata of an ONNX file, by key.

        Raises:
            FileError: there is no such file; CorruptFile if it is no ONNX file.
        """
        from ._onnx._check import metadata

        return metadata(path)

    def _build(self, network: Network) -> ModelProto:
        # Boards that are given model files have no onnx.
        from ._onnx._flavours import ONNXRUNTIME
        from ._onnx._graph import build

        return build(network, batch=self.batch, flavour=ONNXRUNTIME.carried(self.weight_bits))

    def load(self, path: PathLike) -> Session:
        """Make an ONNX file ready to run on random inputs; open dimensions become the batch.

        A :class:`~hwsearch.errors.SaturationWarning` tells if the file holds weights that this machine cannot carry.

        Raises:
            FileError: there is no such file, or the runtime cannot run it.
            InvalidInput: the file was written for another batch.
        """
        if not os.path.isfile(path):
            raise FileError(f"There is no model file {os.fspath(path)}.")
        try:
            session = self._run(os.fspath(path))
        except Exception as error:
            raise FileError(f"{self.title} cannot run {os.fspath(path)}: {error}") from error
        if session.batch != self.batch:
            session.close()
            raise InvalidInput(
                f"{os.fspath(path)} takes {session.batch} images at once, and the backend measures {self.batch}. Export it with "
                f"batch={self.batch}, or measure with load_backend({self.name!r}, batch={session.batch})."
            )
        self._warn(path)
        return metered(session, self._meter)

    def _warn(self, path: PathLike) -> None:
        """Warn if a file holds weights that this machine cannot carry."""
        try:
            bits, carried = _bits_of(path), _carried(type(self))
        except MissingDependency:  # on a board, which has no onnx to read metadata with
            return
        if bits is not None and bits > carried:
            warnings.warn(
                f"{os.fspath(path)} holds int8 weights of {bits} bits, and the integer products of this machine carry {carried}: it is "
                "less accurate here than where it was exported. Export it again on this machine.",
                SaturationWarning,
                stacklevel=3,
            )

    @abstractmethod
    def _run(self, model: ModelProto | str) -> Session:
        """Open a model, or the file of one."""

    @abstractmethod
    def runner(self, model: ModelProto | str | bytes) -> Runner:
        """A function that computes the output of a model, of the bytes of one, or of the file of one."""


@cache
def _carried(kind: type[CpuBackend]) -> int:
    """The most bits that ``int8`` weights may have under a runtime on this machine, found by running :data:`PROBE`."""
    return 8 if exact(kind().runner(zlib.decompress(base64.b64decode(PROBE)))) else 7


def exact(run: Runner) -> bool:
    """Whether a runtime computes the model :data:`PROBE` exactly: inside the borders, every value of its output has to be 200."""
    found = run(np.full((1, 32, 8, 8), 255, dtype=np.uint8))[..., 1:-1, 1:-1]
    return bool((np.abs(found.astype(np.float64) - 200) <= 1).all())


def _bits_of(path: PathLike) -> int | None:
    """How many bits the int8 weights of a model file have; ``None`` if it does not say.

    Raises:
        MissingDependency: onnx is not installed.
    """
    from ._onnx._check import BITS, metadata

    found = metadata(path).get(BITS, "")
    return int(found) if found.isdigit() else None


def cpu_facts() -> tuple[str, frozenset[str], dict[str, str]]:
    """This machine's processor: its name, its instruction sets, and what else explains a measurement.

    Example:
        >>> import os
        >>> from hwsearch.backends import cpu_facts
        >>> from hwsearch.devices import Device
        >>> name, flags, facts = cpu_facts()
        >>> device = Device("this-cpu", "cpu", name, runtime="my-runtime", runtime_version="1.0", facts=facts)
        >>> device.facts["cores"] == str(os.cpu_count())
        True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    said = dict(told)
    name = said.get("model name", platform.processor() or platform.machine())
    flags = frozenset(said.get("flags", said.get("Features", "")).split())
    facts = {
        "os": f"{platform.system()} {platform.release().partition('-')[0]}",
        "machine": platform.machine(),
        "cores": str(os.cpu_count() or 1),
        "cpu": _generation(told),
        "caches": _caches(CPU),
        "flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "huge pages": huge_pages(),
        "python": platform.python_version(),
    }
    return name, flags, {key: value for key, value in facts.items() if value}


def _generation(told: Sequence[tuple[str, str]]) -> str:
    """Vendor, family and model of the processor, or of each kind of core on Arm; empty where ``/proc/cpuinfo`` says nothing of it.

    Args:
        told: the lines of ``/proc/cpuinfo``, one after the other.
    """
    said = dict(told)
    if {"vendor_id", "cpu family", "model"} <= set(said):
        return f"{said['vendor_id']} family {said['cpu family']} model {said['model']}"
    kinds = [[value for key, value in told if key == name] for name in ("CPU implementer", "CPU variant", "CPU part")]
    return ", ".join(sorted({" ".join(kind) for kind in zip(*kinds, strict=False)}))


def _caches(folder: Path) -> str:
    """Level, type and size of the caches that one core sees, such as ``"L1d 32K, L1i 32K, L2 512K"``; empty if they are not shown.

    Args:
        folder: what Linux shows of that core.
    """
    found = set()
    for place in folder.glob("cache/index*"):
        try:
            level, kind, size = ((place / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found.add(f"L{level}{'' if kind == 'Unified' else kind[:1].lower()} {size}")
    return ", ".join(sorted(found))
