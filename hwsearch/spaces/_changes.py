"""Changes: what sums of tables come to after changes of one gene, by differences.

A changed gene moves a row to other cells of the few tables that depend on it; all other tables stay as they are. So every neighbour of a
row costs two lookups in each of these tables, and a sum over genes moves by what the gene adds to it, however many genes it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ._arrays import Table
from ._sums import Sum, genes_of

Index = npt.NDArray[np.intp]


def moved(tables: Sequence[Table], now: Values, X: Rows, genes: Index, indices: Rows) -> Values:
    """The sums of rows after changes of one gene each.

    Args:
        tables: whose sum is exact in any order (see :func:`hwsearch.spaces._arrays.exact`).
        now: the sums of the rows, finite, shape ``(n,)``.
        X: the rows, shape ``(n, genes)``.
        genes: the gene that each change is of, shape ``(changes,)``.
        indices: the index that it takes, shape ``(changes,)``.

    Returns:
        Shape ``(n, changes)``.
    """
    columns = np.ascontiguousarray(X.T).astype(np.intp)
    steps = _Steps(columns, genes, indices)
    found = np.repeat(now[None], len(genes), axis=0)  # a change a row, which lie together in memory
    for axes, array in tables:
        which = steps.touching(tuple(sorted({gene for axis in axes for gene in genes_of(axis)})))
        if not len(which):
            continue
        cell = np.zeros(len(X), dtype=np.intp)
        moves = np.zeros((len(which), len(X)), dtype=np.intp)
        stride = 1
        for axis, length in zip(axes[::-1], array.shape[::-1], strict=True):
            if isinstance(axis, Sum):
                place, touched, moving = steps.along(axis)
                cell += stride * place
                moves[np.searchsorted(which, touched)] += stride * moving
            else:
                cell += stride * columns[axis]
                own = np.flatnonzero(genes[which] == axis)
                moves[own] += stride * steps.by[which[own]]
            stride *= length
        flat = array.ravel()
        moves += cell
        entries = flat.take(moves)
        entries -= flat.take(cell)
        found[which] += entries
    return found.T


class _Steps:
    """How far changes move rows along the axes of tables.

    Args:
        columns: the rows' genes, shape ``(genes, n)``.
        genes, indices: of the changes.
    """

    def __init__(self, columns: Index, genes: Index, indices: Rows) -> None:
        self._columns, self._genes = columns, genes
        self.by = indices.astype(np.intp)[:, None] - columns[genes]
        self._touching: dict[tuple[int, ...], Index] = {}
        self._along: dict[Sum[int], tuple[Index, Index, Index]] = {}

    def touching(self, genes: tuple[int, ...]) -> Index:
        """The changes that are of some genes, ascending."""
        if genes not in self._touching:
            own = np.zeros(len(self._columns), dtype=np.bool_)
            own[list(genes)] = True
            self._touching[genes] = np.flatnonzero(own[self._genes])
        return self._touching[genes]

    def along(self, total: Sum[int]) -> tuple[Index, Index, Index]:
        """Where rows are on the axis of a sum, shape ``(n,)``; the changes that move them there, and how far, ``(touched, n)``."""
        if total not in self._along:
            which = self.touching(tuple(sorted(set(genes_of(total)))))
            value = np.full(self._columns.shape[1], total.base, dtype=np.int64)
            more = np.zeros((len(which), len(value)), dtype=np.int64)
            for term in total.terms:
                adds = np.array(term.adds, dtype=np.int64)
                cell = np.zeros(len(value), dtype=np.intp)
                strides = np.cumprod([1, *term.shape[:0:-1]])[::-1]
                for gene, stride in zip(term.genes, strides, strict=True):
                    cell += stride * self._columns[gene]
                value += adds[cell]
                for gene, stride in zip(term.genes, strides, strict=True):
                    own = np.flatnonzero(self._genes[which] == gene)
                    more[own] += adds[cell + stride * self.by[which[own]]] - adds[cell]
            place = total.places(value)
            self._along[total] = place, which, total.places(value + more) - place
        return self._along[total]
