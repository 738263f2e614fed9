"""Search algorithms behind one protocol: what to try next, and what to make of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._registry import make
from .base import Algorithm

if TYPE_CHECKING:
    from ._problem import Problem


def load_algorithm(algorithm: str | Algorithm | None, problem: Problem | None = None, *, costly: bool = False) -> Algorithm:
    """The algorithm of that name with its defaults; an algorithm object is returned as it is.

    Example:
        >>> from hwsearch.algorithms import load_algorithm
        >>> load_algorithm("random")
        RandomSearch(population=256, steps=100)

    Args:
        algorithm: ``None`` means what is best for the problem: ``"memetic"`` if its score knows its gradient, else ``"evolution"``.
        problem: what it is for.
        costly: the score is computed only a few hundred times, which asks for ``"surrogate"`` where no algorithm is named.

    Raises:
        UnknownName: no such algorithm is registered.
    """
    if algorithm is None and costly:
        algorithm = "surrogate"
    if algorithm is None:
        algorithm = "memetic" if problem is not None and problem.has_gradient else "evolution"
    if isinstance(algorithm, str):
        made: Algorithm = make("algorithm", algorithm)
        return made
    return algorithm
