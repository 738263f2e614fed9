"""The devices that hwsearch can measure: one file a runtime; ``base`` is the interface and the analytic device."""

from __future__ import annotations

from typing import Any

from .._registry import make
from ..errors import InvalidInput
from .base import Backend, Roofline, Session

__all__ = ["Backend", "Roofline", "Session", "load_backend"]


def load_backend(name: str | Backend, **options: Any) -> Backend:
    """The backend of that name; a backend is handed back as it is.

    Example:
        >>> from hwsearch.backends import load_backend
        >>> load_backend("roofline", batch=8).describe().batch
        8

    Args:
        name: such as ``"onnxruntime"`` or ``"roofline"``; ``hwsearch devices`` lists them.
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
