"""CostToGo: the least that a cost can still become when only the first genes of a network are chosen, gene by gene.

Genes are eliminated from the last to the first. What is left of each elimination is a table over earlier genes, so that a decision looks
the least total cost of each of its values up (a dynamic program over the order of decisions; Bellman, 1957).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..spaces._arrays import Table, combine, table
from ..spaces._elimination import TooWideError
from ..spaces._sums import Axis, Sum, genes_of, lengths
from ..spaces._tables import TableSum

MOST_CELLS = 2_000_000
"""Cells of the table of one decision; a cost that needs larger ones is too entangled."""


class CostToGo:
    """The least that a sum (or maximum) of tables can become, after each decision.

    Args:
        tables: over genes, counted by their places among their allowed values.
        sizes: the number of allowed values of each gene.

    Raises:
        TooWideError: the tables are too entangled in the order of the genes.

    Attributes:
        lowest: the least value over all rows.
    """

    def __init__(self, tables: TableSum, sizes: tuple[int, ...]) -> None:
        self._peak = tables.peak
        waiting: list[list[Table]] = [[] for _ in sizes]
        total = 0.0
        steps: list[Table] = []
        left = [(axes, array) for axes, array in tables]
        for gene in reversed(range(len(sizes) + 1)):
            for axes, array in left:
                last = max((each for axis in axes for each in genes_of(axis)), default=-1)
                if last < 0:
                    total = float(tables.op(total, array))
                else:
                    waiting[last].append((axes, array))
            if not gene:
                break
            step = _joined(waiting[gene - 1], gene - 1, sizes, tables.op)
            steps.append(step)
            axes, array = step
            left = [(axes[:-1], array.min(axis=-1))]
        self._steps = steps[::-1]
        self.lowest = total

    def after(self, gene: int, places: Rows, now: Values) -> Values:
        """The least value that rows can become with each value of their next gene.

        Args:
            gene: the next gene.
            places: rows whose genes before it are chosen, shape ``(n, genes)``.
            now: the least value that each can become, shape ``(n,)``.

        Returns:
            Shape ``(n, values of the gene)``.
        """
        axes, array = self._steps[gene]
        where = tuple(_places(axis, places) for axis in axes[:-1])
        ways = np.broadcast_to(array[where], (len(places), array.shape[-1]))
        if self._peak:
            return np.asarray(np.maximum(now[:, None], ways))
        return np.asarray(now[:, None] + (ways - ways.min(axis=1, keepdims=True)))


def _joined(tables: list[Table], gene: int, sizes: tuple[int, ...], op: np.ufunc) -> Table:
    """Tables whose last gene is ``gene`` as one whose last axis it is.

    Raises:
        TooWideError: it would have too many cells.
    """
    parts = [_apart(entry, gene, sizes) for entry in tables]
    parts.append(((gene,), np.zeros(sizes[gene])))
    known: dict[Axis, int] = {axis: length for axes, array in parts for axis, length in zip(axes, array.shape, strict=True)}
    if math.prod(known.values()) > MOST_CELLS:
        raise TooWideError
    axes, array = combine(parts, op)
    place = axes.index(gene)
    return (*axes[:place], *axes[place + 1 :], gene), np.moveaxis(array, place, -1)


def _apart(entry: Table, gene: int, sizes: tuple[int, ...]) -> Table:
    """A table in which no sum contains a gene: what the gene adds, perhaps with others, becomes axes of its own beside a shorter sum.

    Raises:
        TooWideError: it would have too many cells.
    """
    axes, array = entry
    for place, axis in enumerate(axes):
        if isinstance(axis, int) or gene not in genes_of(axis):
            continue
        terms = tuple(term for term in axis.terms if gene in term.genes)
        shorter = Sum(tuple(term for term in axis.terms if gene not in term.genes), axis.base)
        own = tuple(sorted({each for term in terms for each in term.genes}))
        if math.prod(array.shape) // array.shape[place] * len(shorter) * math.prod(lengths(own, sizes)) > MOST_CELLS:
            raise TooWideError
        index = axis.places(_added(terms, own, sizes)[..., None] + shorter.values)
        new: tuple[Axis, ...] = (*own, shorter) if shorter.terms else own
        if not shorter.terms:
            index = index[..., 0]
        taken = array.take(index, axis=place)
        return _apart(table((*axes[:place], *new, *axes[place + 1 :]), taken), gene, sizes)
    return entry


def _added(terms: tuple[object, ...], genes: tuple[int, ...], sizes: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """What terms of a sum add together, with one axis for each of their genes."""
    rows = np.indices(lengths(genes, sizes)).reshape(len(genes), -1)
    full = np.zeros((rows.shape[1], len(sizes)), dtype=np.uint8)
    full[:, genes] = rows.T
    return _value(Sum(terms), full).reshape(lengths(genes, sizes))  # type: ignore[arg-type]


def _value(total: Sum[int], places: Rows) -> npt.NDArray[np.int64]:
    """The value of a sum in each row."""
    found = np.full(len(places), total.base, dtype=np.int64)
    for term in total.terms:
        found += term.array[tuple(places[:, gene] for gene in term.genes)]
    return found


def _places(axis: Axis, places: Rows) -> npt.NDArray[np.intp]:
    """Where each row stands on an axis of a table."""
    if isinstance(axis, Sum):
        return axis.places(_value(axis, places))
    return places[:, axis].astype(np.intp)
