"""NVML: what an NVIDIA GPU is, how fast it is clocked, and what holds it back (through ``pynvml`` of the package nvidia-ml-py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import Unsupported, require

_REASONS = {
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "heat (hardware)",
    "HwPowerBrakeSlowdown": "power brake",
    "SwThermalSlowdown": "heat (software)",
}
"""NVML's name -> ours, of what makes a GPU slower for a while. Not an idle GPU is meant, nor clocks that the user has set, nor the power
limit: that is always there, and :func:`facts` tells it."""


def handle(index: int = 0, bus: str | None = None) -> Any:
    """NVML's handle of a GPU.

    Args:
        index: NVML counts GPUs by their place on the bus, and CUDA may count in another order;
        bus: the PCI bus id, as CUDA tells it, leaves no doubt.

    Raises:
        MissingDependency: nvidia-ml-py is not installed.
        Unsupported: this machine has no NVIDIA driver, or no such GPU.
    """
    nvml = require("pynvml", feature="Asking an NVIDIA GPU about itself", extra="tensorrt")
    try:
        nvml.nvmlInit()
        return nvml.nvmlDeviceGetHandleByIndex(index) if bus is None else nvml.nvmlDeviceGetHandleByPciBusId(bus)
    except nvml.NVMLError as error:
        which = f"number {index}" if bus is None else f"at {bus}"
        raise Unsupported(
            f"NVML finds no GPU {which} ({error}). It needs an NVIDIA GPU and its driver; nvidia-smi lists what it sees."
        ) from error


def facts(gpu: Any) -> dict[str, str]:
    """What explains a measurement on a GPU: ``gpu``, ``sm``, ``driver``, clocks in MHz, ``power_limit_w``; without what it does not tell.

    Args:
        gpu: from :func:`handle`.
    """
    nvml = require("pynvml", feature="Asking an NVIDIA GPU about itself", extra="tensorrt")
    questions: dict[str, Callable[[], str]] = {
        "gpu": lambda: _text(nvml.nvmlDeviceGetName(gpu)),
        "sm": lambda: "".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(gpu))),
        "driver": lambda: _text(nvml.nvmlSystemGetDriverVersion()),
        "sm_clock_mhz": lambda: str(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
        "sm_clock_max_mhz": lambda: str(nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)),
        "memory_clock_mhz": lambda: str(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)),
        "memory_clock_max_mhz": lambda: str(nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_MEM)),
        "power_limit_w": lambda: f"{nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000:g}",
    }
    found = {}
    for name, ask in questions.items():
        try:
            found[name] = ask()
        except nvml.NVMLError:  # boards differ in what they tell, a Jetson or a slice of a shared GPU most of all
            continue
    return found


def held_back(gpu: Any) -> tuple[str, ...]:
    """Why a GPU is slower than its settings say at this moment, in words; empty if it is not, or does not say.

    Args:
        gpu: from :func:`handle`.
    """
    nvml = require("pynvml", feature="Asking an NVIDIA GPU about itself", extra="tensorrt")
    # Packages before 2023 call the reasons that of throttling; later ones have both names.
    ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
    try:
        bits = int(ask(gpu))
    except nvml.NVMLError:
        return ()
    both = [{name: getattr(nvml, f"nvmlClocks{word}Reason{name}", 0) for name in _REASONS} for word in ("Event", "Throttle")]
    return tuple(words for name, words in _REASONS.items() if any(bits & masks[name] for masks in both))


class Watch:
    """Whether a GPU is held back while something runs: ``with watch: ...``, and then ``watch.held_back``.

    Args:
        gpu: from :func:`handle`; ``None`` if NVML is not there, and then nothing is ever known to be held back.

    Attributes:
        held_back: whether heat or power held the GPU back before or after what ran last.
    """

    def __init__(self, gpu: Any | None) -> None:
        self._gpu, self.held_back = gpu, False

    def __enter__(self) -> None:
        self.held_back = self._is()

    def __exit__(self, *error: object) -> None:
        self.held_back = self._is() or self.held_back

    def _is(self) -> bool:
        return self._gpu is not None and bool(held_back(self._gpu))


def _text(value: str | bytes) -> str:
    """Old packages return bytes."""
    return value.decode() if isinstance(value, bytes) else value
