"""Fixtures of machines that have an NVIDIA GPU, and of machines that have none; see ``stand_ins.py``."""

from __future__ import annotations

import sys

import pytest

from hwsearch.backends import _energy
from hwsearch.backends._nvidia import _cuda, _nvml, _trt
from hwsearch.backends.tensorrt import TensorRT
from hwsearch.errors import Unsupported

from .stand_ins import BUILDER, FakeCuda, fake_tensorrt


@pytest.fixture
def cuda(monkeypatch):
    """The stand-in for a GPU."""
    gpu = FakeCuda()
    monkeypatch.setattr(_cuda, "load", lambda index=0: gpu)
    monkeypatch.setattr(_nvml, "handle", lambda index=0, bus=None: f"handle of {bus}")
    monkeypatch.setattr(_nvml, "facts", lambda handle: {"gpu": "NVIDIA Stand-In 1", "sm": "89", "driver": "1", "power_limit_w": "450"})
    monkeypatch.setattr(_nvml, "held_back", lambda handle: ())
    monkeypatch.setattr(_energy, "gpu_meter", lambda handle: None)
    return gpu


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine without one."""

    def load(index=0):
        raise Unsupported("CUDA finds no GPU number 0 (none). Running engines needs an NVIDIA GPU and its driver.")

    monkeypatch.setattr(_cuda, "load", load)


@pytest.fixture
def tensorrt(monkeypatch):
    """The stand-in for the package."""
    module = fake_tensorrt()
    monkeypatch.setattr(_trt, "find", lambda: module)
    return module


@pytest.fixture
def builder(tmp_path):
    """Makes the command of a process that stands in for the builder."""

    def make(trouble="pass", when="model == b'wrong'"):
        path = tmp_path / "builder.py"
        path.write_text(BUILDER.format(trouble=trouble, when=when))
        return (sys.executable, str(path))

    return make


@pytest.fixture
def backend(cuda, tensorrt, builder, tmp_path):
    """Makes a backend on all stand-ins."""
    made = []

    def make(kind=TensorRT, **options):
        made.append(kind(cache=tmp_path / "engines", **options))
        made[-1].engines.worker = builder()
        return made[-1]

    yield make
    for one in made:
        one.engines.close()
