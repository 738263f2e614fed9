"""The devices that hwsearch can measure: one file a runtime; ``base`` is the interface and the analytic device."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._registry import make
from ..errors import InvalidInput
from .base import Backend, Session

__all__ = ["Backend", "Session", "load_backend", "runtime_here"]

_RUNTIMES: dict[str, tuple[str, ...]] = {
    "roofline": (),
    "replay": (),
    "onnxruntime": ("onnxruntime",),
    "onnxruntime-cuda": ("onnxruntime",),
    "onnxruntime-tensorrt": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
    "torch": ("torch",),
}
"""The backends that ship -> their runtimes, any of which will do; none where nothing is needed."""
_NVIDIA = ("onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt")
"""Backends that run on NVIDIA's GPUs alone."""
_DRIVER = Path("/proc/driver/nvidia/version")
"""There while the driver of NVIDIA's GPUs is loaded; elsewhere than on Linux it is never there."""
_GPU_BUILD = dict.fromkeys(_NVIDIA[:2], ("onnxruntime-gpu",))
"""Backends of which the usual package of their runtime is a build without GPUs -> the packages that are not."""


def load_backend(name: str | Backend, **options: Any) -> Backend:
    """The backend of that name; a backend is handed back as it is.

    Example:
        >>> from hwsearch.backends import load_backend
        >>> load_backend("roofline", batch=8).describe().batch
        8

    Args:
        name: such as ``"onnxruntime"`` or ``"roofline"``; ``hwsearch list backends`` lists them.
        **options: what the backend takes, such as ``threads``.

    Raises:
        UnknownName: no such backend is registered.
        MissingDependency: its runtime is not installed.
    """
    if isinstance(name, Backend):
        return name
    backend = make("backend", name, **options)
    if not isinstance(backend, Backend):
        raise InvalidInput(f"The maker of backend {name!r} returned {type(backend).__name__}, not a Backend.")
    return backend


def runtime_here(name: str) -> str | None:
    """Whether the runtime of a backend is here, in words, found out without importing it; ``None`` of backends that do not ship."""
    runtimes = _RUNTIMES.get(name)
    if runtimes is None:
        return None
    if runtimes and all(find_spec(runtime) is None for runtime in runtimes):
        return "is not installed"
    if name in _NVIDIA and not _DRIVER.exists():
        return "is installed, but there is no NVIDIA GPU"
    if name in _GPU_BUILD and not any(_installed(package) for package in _GPU_BUILD[name]):
        return f"needs the package {_GPU_BUILD[name][0]}"
    return "is here"


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False
