"""Search algorithms behind one protocol: what to try next, and what to make of the answers."""

from __future__ import annotations

from .._registry import make
from .base import Algorithm


def load_algorithm(algorithm: str | Algorithm) -> Algorithm:
    """The algorithm of that name with its defaults; an algorithm object is handed back as it is.

    Raises:
        UnknownName: no such algorithm is registered.
    """
    if isinstance(algorithm, str):
        made: Algorithm = make("algorithm", algorithm)
        return made
    return algorithm
