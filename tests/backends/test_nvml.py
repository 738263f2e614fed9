"""What NVML tells about a GPU, from a stand-in for its package: no GPU is needed."""

import sys
from types import SimpleNamespace

import pytest

from hwsearch.backends._nvidia import _nvml
from hwsearch.errors import MissingDependency, Unsupported


class NVMLError(Exception):
    pass


def fake(reasons=0, told=True):
    def limit(gpu):
        if not told:
            raise NVMLError("Not Supported")
        return 450_000

    def handle(index):
        if index > 0:
            raise NVMLError("Invalid Argument")
        return "gpu0"

    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetHandleByPciBusId=lambda bus: f"gpu at {bus}",
        nvmlDeviceGetName=lambda gpu: b"NVIDIA GeForce RTX 4090",
        nvmlDeviceGetCudaComputeCapability=lambda gpu: (8, 9),
        nvmlSystemGetDriverVersion=lambda: "580.95",
        nvmlDeviceGetClockInfo=lambda gpu, which: {1: 2520, 2: 10501}[which],
        nvmlDeviceGetMaxClockInfo=lambda gpu, which: {1: 3105, 2: 10501}[which],
        nvmlDeviceGetEnforcedPowerLimit=limit,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: reasons,
        nvmlClocksThrottleReasonGpuIdle=1,
        nvmlClocksThrottleReasonSwPowerCap=4,
        nvmlClocksThrottleReasonHwThermalSlowdown=64,
    )


def test_facts_name_the_gpu_its_driver_clocks_and_power_limit(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake())
    assert _nvml.facts(_nvml.handle()) == {
        "gpu": "NVIDIA GeForce RTX 4090",
        "sm": "89",
        "driver": "580.95",
        "sm_clock_mhz": "2520",
        "sm_clock_max_mhz": "3105",
        "memory_clock_mhz": "10501",
        "memory_clock_max_mhz": "10501",
        "power_limit_w": "450",
    }
    assert _nvml.handle(bus="0000:01:00.0") == "gpu at 0000:01:00.0"
    monkeypatch.setitem(sys.modules, "pynvml", fake(told=False))
    assert "power_limit_w" not in _nvml.facts("gpu0")
    assert "driver" in _nvml.facts("gpu0")


@pytest.mark.parametrize(("reasons", "words"), [(0, ()), (1, ()), (4, ()), (69, ("heat (hardware)",))])
def test_a_gpu_that_is_held_back_says_why_and_an_idle_one_is_not(monkeypatch, reasons, words):
    monkeypatch.setitem(sys.modules, "pynvml", fake(reasons))
    assert _nvml.held_back("gpu0") == words


def test_without_the_package_or_a_gpu_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake())
    with pytest.raises(Unsupported, match=r"no GPU number 3 \(Invalid Argument\)"):
        _nvml.handle(3)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingDependency, match=r"'pynvml'.*hwsearch\[tensorrt\]"):
        _nvml.handle()
