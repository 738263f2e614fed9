"""Additive scores: those that are a sum of tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidInput
from ..spaces._space import SearchSpace
from ..spaces._sums import lengths
from ..spaces._tables import TableSum


def additive(score: Any, space: SearchSpace) -> TableSum | None:
    """The tables whose sum a score is, or ``None``.

    Raises:
        InvalidInput: the tables do not fit the space, or hold what is no score.
    """
    tables = getattr(score, "tables", None)
    if tables is None:
        return None
    total = tables if isinstance(tables, TableSum) else TableSum(tuple(tables))
    if total.peak or getattr(score, "others", None):  # the largest of several sums is none
        return None
    for genes, array in total:
        if array.shape != lengths(genes, space.sizes):
            raise InvalidInput(f"A table of the score has the shape {array.shape}, which does not fit the genes {genes} of {space.name!r}.")
        if np.isnan(array).any() or np.isposinf(array).any():
            raise InvalidInput(
                f"A table of the score over the genes {genes} holds NaN or infinity; only -inf (impossible) may stand there."
            )
    return total
