"""The devices that hwsearch can measure: one file a runtime; ``base`` is the interface and the analytic device."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from .._registry import make
from ..errors import InvalidInput
from .base import Backend, Roofline, Session

__all__ = ["Backend", "Roofline", "Session", "load_backend", "runtime_here"]

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


def runtime_here(name: str) -> bool | None:
    """Whether the runtime of a backend is installed, found out without importing it; ``None`` of backends that do not ship."""
    runtimes = _RUNTIMES.get(name)
    return None if runtimes is None else not runtimes or any(find_spec(runtime) is not None for runtime in runtimes)
