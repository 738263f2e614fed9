"""What a search state that comes from a file must be, whatever the algorithm."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..algorithms._problem import Problem
from ..errors import InvalidInput
from ..spaces._space import row_keys

if TYPE_CHECKING:
    from ._loop import SearchState

_TOGETHER = (
    ("X", "scores", "tightness", "island", "excess", "searched"),
    ("climbing", "climbed"),
    ("asked", "asked_by", "asked_island"),
    ("samples", "sample_scores"),
)
"""Arrays of algorithms' own states that are as long as each other."""


def check_state(found: SearchState, first: SearchState, problem: Problem) -> None:
    """Check that a state could have come of the first one.

    Raises:
        InvalidInput: it holds other rows than it says, or arrays of another length or type.
    """
    own: Any
    usual: Any
    rows = len(problem.space.check(found.X))
    wanted = {"scores": (rows,), "costs": (rows, len(problem.limits)), "history": (found.step, 3)}
    for name, shape in wanted.items():
        array = getattr(found, name)
        if array.shape != shape or array.dtype != np.float64:
            raise InvalidInput(f"its {name} are {array.dtype} of the shape {array.shape}, where {shape} was expected.")
    if not np.array_equal(found.seen, np.sort(row_keys(found.X))) or found.seen.dtype != np.uint64:
        raise InvalidInput("it has not seen the rows that it holds.")
    for name in ("step", "finishing", "bound", "surrogate_bound", "slack"):
        own, usual = getattr(found, name), getattr(first, name)
        if type(own) is not type(usual) or own != own or (name == "step" and own < 0):
            raise InvalidInput(f"its {name} is {own}.")
    told = found.history[:, :2]
    if (
        not np.isfinite(told).all()
        or (np.diff(told, axis=0, prepend=0) < 0).any()
        or told.max(initial=0) > rows
        or np.isinf(found.history).any()
    ):
        raise InvalidInput("its history is impossible.")
    for entry in fields(found.algorithm):
        own, usual = np.asarray(getattr(found.algorithm, entry.name)), np.asarray(getattr(first.algorithm, entry.name))
        texts = own.dtype.kind == usual.dtype.kind == "U"  # of which each length is a type of its own
        if own.ndim != usual.ndim or (own.dtype != usual.dtype and not texts):
            raise InvalidInput(f"its algorithm's {entry.name} has {own.ndim} dimensions of {own.dtype}.")
        if own.dtype == np.uint8 and own.ndim == 2 and own.size:
            problem.space.check(own, entry.name)
        if own.dtype.kind == "i" and own.ndim == 0 and own < 0:
            raise InvalidInput(f"its algorithm's {entry.name} is {own}.")
    held = {entry.name: np.asarray(getattr(found.algorithm, entry.name)) for entry in fields(found.algorithm)}
    for names in _TOGETHER:
        if len({len(held[name]) for name in names if name in held}) > 1:
            raise InvalidInput(f"its algorithm's {', '.join(names)} have different lengths.")
    islands = held.get("islands", np.array(1))
    island = held.get("island", np.empty(0))
    if islands < 1 or island.min(initial=0) < 0 or island.max(initial=0) >= islands:
        raise InvalidInput("its algorithm's rows live on islands that there are not.")
