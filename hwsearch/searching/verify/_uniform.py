"""Uniform bits beside mixed ones: a choice of bits is worth its name only if it beats one precision throughout at the same limits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..._types import Rows
from ...algorithms._problem import Problem
from ._records import Checked


def uniform_rows(problem: Problem, row: Rows) -> tuple[Rows, tuple[str, ...]]:
    """The network of a row at one precision throughout, for each precision at which it is within the limits.

    Genes that do not offer a precision, such as those of a stem that stays at 8 bits, keep the value that they have; a precision that most
    of the genes do not offer makes no uniform network.

    Args:
        problem: whose limits hold.
        row: a canonical row, shape ``(genes,)``.

    Returns:
        Canonical rows that differ from ``row``, shape ``(n, genes)``, and the precision of each. None if the row is uniform itself, or has
        fewer than two precisions to choose.
    """
    space = problem.space
    genes = [gene for gene, choice in enumerate(space.choices) if choice.is_precision and space.active(row[None])[0, gene]]
    offered = {gene: {str(space.choices[gene].values[index]): index for index in space.allowed[gene]} for gene in genes}
    rows, names = [], []
    for name in dict.fromkeys(name for values in offered.values() for name in values):
        able = [gene for gene in genes if name in offered[gene]]
        if 2 * len(able) <= len(genes):
            continue
        changed = row.copy()
        changed[able] = [offered[gene][name] for gene in able]
        rows.append(changed)
        names.append(name)
    if len(genes) < 2 or not rows:
        return row[None][:0], ()
    X = space.canonical(np.stack(rows))
    if (X == row).all(axis=1).any():
        return row[None][:0], ()
    met = np.flatnonzero((problem.costs(X) <= 1.0).all(axis=1))
    return X[met], tuple(names[place] for place in met)


def rival(problem: Problem, row: Rows) -> dict[bytes, str]:
    """The uniform network that a mixed one is verified beside: the best predicted within the limits, and its precision; none if uniform."""
    X, names = uniform_rows(problem, row)
    if not len(X):
        return {}
    best = int(np.argmax(np.asarray(problem.score(X), dtype=np.float64)))
    return {bytes(X[best]): names[best]}


def caution(best: Checked, mixed: Iterable[Checked], names: dict[bytes, str]) -> tuple[str, ...]:
    """What is said where uniform bits were measured to be better than the mixed ones that were found; nothing otherwise.

    Args:
        best: the answer.
        mixed: the networks that searches found.
        names: the precisions of the uniform networks that were verified beside them, by their rows.
    """
    name = names.get(bytes(best.genes))
    found = max((one.value("score") for one in mixed), default=None)
    if name is None or found is None:
        return ()
    return (
        f"Mixed bits were not worth their name: the best that were measured score {found:.4f}, and the same network in {name} throughout, "
        f"within the same limits, {best.value('score'):.4f}. That is the answer.",
    )
