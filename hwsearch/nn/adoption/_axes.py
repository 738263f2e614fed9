"""Which channels lie along which axes of a tensor, and which of them stand or fall together.

Every channel of every parameter is an *atom*, a number. An axis of a tensor carries one atom a position, so that ``cat``, ``split``,
``flip``, a stride or a repetition are numpy indexing on atoms, exact by construction. Atoms that can only be removed together are tied;
what is tied is a *unit*. An axis along which nothing can be removed carries no atoms.

Atoms may lie on several axes jointly: a view of ``heads * size`` channels as ``(heads, size)`` has one atom for each pair. Such a tensor
can be cut only along one of these axes, which :meth:`Factor.varies` finds out once everything is tied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]


class Atoms:
    """Channels, tied into units; a disjoint-set forest in one numpy array.

    Attributes:
        frozen: atoms that have to stay, each with the reason, in the order in which this was found.
    """

    def __init__(self) -> None:
        self._parent = np.empty(0, dtype=np.int64)
        self._count = 0
        self.frozen: list[tuple[Labels, str]] = []

    def __len__(self) -> int:
        return self._count

    def new(self, n: int) -> Labels:
        """Make ``n`` atoms that are tied to none."""
        first, self._count = self._count, self._count + n
        if self._count > len(self._parent):
            grown = np.arange(max(1024, 2 * self._count), dtype=np.int64)
            grown[:first] = self._parent[:first]
            self._parent = grown
        return np.arange(first, self._count, dtype=np.int64)

    def find(self, atoms: Labels) -> Labels:
        """The unit of each atom: the smallest atom that is tied to it."""
        found = self._parent[atoms]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                return found
            found = above

    def tie(self, a: Labels, b: Labels) -> None:
        """Tie atoms pairwise; the arrays broadcast."""
        a, b = (each.reshape(-1) for each in np.broadcast_arrays(a, b))
        while True:
            roots = self.find(a), self.find(b)
            low, high = np.minimum(*roots), np.maximum(*roots)
            apart = low != high
            if not apart.any():
                return
            np.minimum.at(self._parent, high[apart], low[apart])

    def freeze(self, atoms: Labels, reason: str) -> None:
        """Note that atoms have to stay."""
        if atoms.size:
            self.frozen.append((np.unique(atoms), reason))


@dataclass(frozen=True)
class Factor:
    """Atoms along one axis of a tensor, or jointly along several.

    Attributes:
        dims: the axes, ascending.
        labels: the atoms, of the tensor's sizes along these axes.
    """

    dims: tuple[int, ...]
    labels: Labels

    def varies(self, atoms: Atoms) -> tuple[int, ...]:
        """The axes along which the units are not all the same."""
        units = atoms.find(self.labels)
        return tuple(dim for place, dim in enumerate(self.dims) if (units != units.take([0], axis=place)).any())

    def moved(self, order: Sequence[int]) -> Factor:
        """The factor after a permutation: axis ``i`` of the result is axis ``order[i]`` of before."""
        places = sorted((order.index(dim), place) for place, dim in enumerate(self.dims))
        return Factor(tuple(dim for dim, _ in places), self.labels.transpose([place for _, place in places]))

    def over(self, dims: Sequence[int]) -> Labels:
        """The labels with one axis for each of ``dims``, of size 1 where the factor does not lie."""
        sizes = dict(zip(self.dims, self.labels.shape, strict=True))
        return self.labels.reshape([sizes.get(dim, 1) for dim in dims])


Axes = tuple[Factor, ...]
"""What lies on the axes of one tensor; no axis belongs to two factors."""


def on(axes: Axes, dim: int) -> Factor | None:
    """The factor that lies on an axis."""
    return next((factor for factor in axes if dim in factor.dims), None)


def without(axes: Axes, dims: Iterable[int]) -> Axes:
    """The factors that lie on none of these axes."""
    gone = set(dims)
    return tuple(factor for factor in axes if not gone & set(factor.dims))


def taken(axes: Axes, dim: int, places: Labels) -> Axes:
    """The factors when only some places of an axis are taken, in this order."""
    return tuple(
        Factor(factor.dims, factor.labels.take(places, axis=factor.dims.index(dim))) if dim in factor.dims else factor for factor in axes
    )


def one(labels: Labels, axis: int, place: int = 0) -> Labels:
    """The labels at one place of an axis, which is gone from the result."""
    return np.take(labels, [place], axis=axis).squeeze(axis)


def tie_along(atoms: Atoms, factor: Factor, dims: Iterable[int]) -> Factor | None:
    """Tie the atoms of a factor along some axes, so that it lies on its other axes only."""
    labels = factor.labels
    for place in sorted((factor.dims.index(dim) for dim in dims), reverse=True):
        atoms.tie(labels, labels.take([0], axis=place))
        labels = one(labels, place)
    left = tuple(dim for dim in factor.dims if dim not in set(dims))
    return Factor(left, labels) if left else None


def reshape(atoms: Atoms, axes: Axes, old: Sequence[int], new: Sequence[int]) -> tuple[Axes, Axes]:
    """Carry factors through a view.

    Args:
        atoms: the atoms of the network.
        axes: what lies on the axes before.
        old: the sizes before.
        new: the sizes after.

    Returns:
        What lies on the axes after, and the factors that were lost since two of them fall onto one axis.
    """
    blocks = _blocks(old, new)
    result: list[Factor] = []
    lost: list[Factor] = []
    for part in _joined(blocks, axes):
        before = [dim for block in part for dim in blocks[block][0]]
        after = [dim for block in part for dim in blocks[block][1]]
        inside = [factor for factor in axes if set(factor.dims) <= set(before)]
        if len(inside) == 1:
            full = np.broadcast_to(inside[0].over(before), [old[dim] for dim in before])
            labels = full.reshape([new[dim] for dim in after])
            units = atoms.find(labels)
            flat = [place for place in range(len(after)) if not (units != units.take([0], axis=place)).any()]
            if len(flat) == len(after):
                # All of it is one unit, which lies wherever there is something to lie on.
                flat = [place for place in flat if labels.shape[place] == 1]
            dims = tuple(dim for place, dim in enumerate(after) if place not in flat)
            for place in reversed(flat):
                labels = one(labels, place)
            result += [Factor(dims, labels)] if dims else []
        else:
            lost += inside
    return tuple(result), tuple(lost)


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut the axes before and after a view into the shortest stretches of equal size."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left: list[int] = []
        right: list[int] = []
        a = b = 1
        while True:
            if a <= b and i < len(old) and (a < b or not left):
                a, left, i = a * old[i], [*left, i], i + 1
            elif j < len(new) and (b < a or not right):
                b, right, j = b * new[j], [*right, j], j + 1
            else:
                break
        found.append((left, right))
    return found


def _joined(blocks: list[tuple[list[int], list[int]]], axes: Axes) -> list[list[int]]:
    """Put stretches together until no factor lies on two of them."""
    parts = [[number] for number in range(len(blocks))]
    for factor in axes:
        touched = [part for part in parts if any(set(blocks[number][0]) & set(factor.dims) for number in part)]
        if len(touched) > 1:
            parts = [part for part in parts if part not in touched] + [sorted(number for part in touched for number in part)]
    return parts
