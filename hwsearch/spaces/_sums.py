"""Sums: whole numbers that several genes add up to, as axes of tables.

What reads a concatenation costs what its channels add up to, and these may depend on sixty genes: far too many for an axis each. A sum is
one axis. It is computed link by link, each of which adds one more gene to a shorter sum (or what a few genes add together); so a sum is one
more column behind the genes, looked up in a small table over columns before it. Sums that begin alike share their links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput

Integers = npt.NDArray[np.int64]
G = TypeVar("G", int, str)
H = TypeVar("H", int, str)

MOST_VALUES = 65_536
"""Different values that a sum may have: their indices fit into two bytes."""


@dataclass(frozen=True, order=True)
class Term(Generic[G]):
    """What one gene, or a few together, add to a sum.

    Attributes:
        genes: their names or columns.
        shape: the number of their values.
        adds: what is added at each combination of their indices, the last gene's index running fastest.
    """

    genes: tuple[G, ...]
    shape: tuple[int, ...]
    adds: tuple[int, ...] = field(repr=False)

    def __hash__(self) -> int:
        return hash(self.genes)

    @property
    def array(self) -> Integers:
        """What is added, with one axis a gene."""
        return np.array(self.adds, dtype=np.int64).reshape(self.shape)

    @classmethod
    def over(cls, genes: Sequence[G], array: Integers) -> Term[G]:
        """A term of an array with one axis a gene."""
        return cls(tuple(genes), array.shape, tuple(array.ravel().tolist()))


@dataclass(frozen=True)
class Sum(Generic[G]):
    """A whole number that several genes add up to: an axis of a table, with one entry for each value of the sum, ascending.

    :meth:`of` makes one, over the names of genes. Inside a table over columns it is over columns.

    Example:
        >>> from hwsearch.spaces import Sum
        >>> Sum.of({"left": (8, 16), "right": (16, 32)})  # the channels of a concatenation of two layers
        <Sum of 2 terms, 24 to 48>
        >>> Sum.of({"left": (8, 16), "right": (16, 32)}).values.tolist()
        [24, 32, 40, 48]

    Attributes:
        terms: what genes add, by their genes.
        base: what is there whatever the genes are.
    """

    terms: tuple[Term[G], ...]
    base: int = 0

    def __hash__(self) -> int:
        return hash((self.base, *(term.genes for term in self.terms)))

    def __repr__(self) -> str:
        return f"<Sum of {len(self.terms)} terms, {self.values[0]} to {self.values[-1]}>"

    @classmethod
    def of(cls, parts: Mapping[str | tuple[str, ...], npt.ArrayLike], base: int = 0) -> Sum[str]:
        """A sum over genes by their names.

        Args:
            parts: the name of a gene -> what it adds at each of its values, whole numbers, such as its channels. Genes that matter
                together, such as a branch that may be absent and its width, are a tuple of names, with an array of one axis a gene.
            base: what is added in any case.

        Raises:
            InvalidInput: no gene, a gene twice in a tuple, numbers that are not whole, an array without an axis for each gene, or more
                than 65,536 different sums.

        Example:
            >>> from hwsearch import SearchSpace, metric
            >>> from hwsearch.spaces import Sum
            >>> channels = Sum.of({"left": (8, 16), "right": (16, 32)}, base=3)
            >>> channels.values.tolist()
            [27, 35, 43, 51]
            >>> space = SearchSpace.from_tables({"left": (8, 16), "right": (16, 32)}, {"macs": [([channels], 100 * channels.values)]})
            >>> metric("macs", space)(space.encode({"left": 8, "right": 32})[None]).tolist()
            [4300.0]
        """
        found = []
        for key, values in parts.items():
            genes = (key,) if isinstance(key, str) else tuple(key)
            array = np.asarray(values)
            if not genes or len(set(genes)) != len(genes) or array.ndim != len(genes):
                raise InvalidInput(f"What {key!r} adds to a sum needs one axis for each of different genes, not the shape {array.shape}.")
            if array.dtype.kind not in "iuf" or not array.size or not np.array_equal(array, np.rint(array)):
                raise InvalidInput(f"What {key!r} adds to a sum must be whole numbers, not {values!r}.")
            found.append(Term.over(genes, array.astype(np.int64)))
        if not found:
            raise InvalidInput("A sum needs at least one gene.")
        total: Sum[str] = Sum(tuple(sorted(found)), int(base))
        total.values  # noqa: B018 - too many are refused here, where they are made
        return total

    @cached_property
    def values(self) -> Integers:
        """The different values of the sum, ascending.

        Raises:
            InvalidInput: there are more than 65,536.
        """
        found = np.array([self.base], dtype=np.int64)
        for term in self.terms:
            found = np.unique(np.add.outer(found, np.unique(term.array)))
            if len(found) > MOST_VALUES:
                raise InvalidInput(
                    f"A sum over {len(self.terms)} terms has more than {MOST_VALUES:,} different values. Count in a coarser unit, such as "
                    "in groups of 8 channels."
                )
        return found

    def __len__(self) -> int:
        return len(self.values)

    def places(self, values: Integers) -> npt.NDArray[np.intp]:
        """Where values of the sum stand among all of its values."""
        step, known = self._places
        found: npt.NDArray[np.intp] = known[(values - self.values[0]) // step] if len(known) else np.searchsorted(self.values, values)
        return found

    @cached_property
    def _places(self) -> tuple[int, npt.NDArray[np.intp]]:
        """A step that all values are apart, and the place of the value at each number of steps; empty if they are too far apart."""
        beyond = self.values - self.values[0]
        step = max(1, int(np.gcd.reduce(beyond)))
        if beyond[-1] // step > 64 * MOST_VALUES:
            return step, np.empty(0, dtype=np.intp)
        return step, np.searchsorted(beyond, step * np.arange(beyond[-1] // step + 1))

    def mapped(self, change: Callable[[Term[G]], Term[H]]) -> Sum[H]:
        """The sum with each term changed."""
        return Sum(tuple(sorted(map(change, self.terms))), self.base)

    def within(self: Sum[int], allowed: Sequence[Sequence[int]]) -> Sum[int]:
        """A sum over columns where each has some of its indices only, which are counted from 0 again.

        Args:
            allowed: for each gene the indices that are kept.
        """

        def fewer(term: Term[int]) -> Term[int]:
            return Term.over(term.genes, term.array[np.ix_(*(allowed[gene] for gene in term.genes))])

        return Sum(tuple(map(fewer, self.terms)), self.base)

    @property
    def plain(self) -> list[Any]:
        """The sum as JSON data."""
        return [[[term.genes, term.shape, term.adds] for term in self.terms], self.base]


Axis = int | Sum[int]
"""What an axis of a table stands for: a gene, by its column, or a sum over genes."""


def order(axis: Axis) -> tuple[Any, ...]:
    """Where an axis stands among others: genes ascending, then sums, the shorter ones first."""
    return (0, axis) if isinstance(axis, int) else (1, len(axis.terms), axis.terms, axis.base)


def lengths(axes: Sequence[Axis], sizes: Sequence[int] | Mapping[int, int]) -> tuple[int, ...]:
    """The length of each axis, given the number of values of each gene."""
    return tuple(sizes[axis] if isinstance(axis, int) else len(axis) for axis in axes)


def genes_of(axis: Axis) -> tuple[int, ...]:
    """The genes that an axis depends on."""
    return (axis,) if isinstance(axis, int) else tuple(gene for term in axis.terms for gene in term.genes)


@dataclass(frozen=True, eq=False)
class Link:
    """How the index of a sum follows from columns before it.

    Attributes:
        total: the sum.
        column: its own column.
        sources: the columns that it is looked up by, ascending: some genes, and perhaps one of a shorter sum.
        index: the index of the sum, with one axis a source.
    """

    total: Sum[int]
    column: int
    sources: tuple[int, ...]
    index: npt.NDArray[np.intp]


@lru_cache(maxsize=64)
def links(sums: frozenset[Sum[int]], first: int) -> tuple[Link, ...]:
    """How to compute sums, each from columns before it.

    Args:
        sums: over columns of genes.
        first: the column of the first link; the others follow, in the order in which they can be computed.
    """
    made: dict[Sum[int], Link] = {}
    terms: dict[Sum[int], frozenset[Term[int]]] = {}
    for total in sorted(sums, key=order):
        own = frozenset(total.terms)
        shorter: Sum[int] | None = max((known for known in made if terms[known] <= own), key=lambda known: len(known.terms), default=None)
        missing: Sequence[Term[int] | None] = [term for term in total.terms if shorter is None or term not in terms[shorter]]
        for term in missing or (None,):
            terms_of = (() if shorter is None else shorter.terms) + (() if term is None else (term,))
            longer = Sum(tuple(sorted(terms_of)), total.base)
            if longer not in made:
                made[longer] = _link(longer, shorter, term, first + len(made), made)
                terms[longer] = frozenset(longer.terms)
            shorter = longer
    return tuple(made.values())


def _link(total: Sum[int], shorter: Sum[int] | None, term: Term[int] | None, column: int, made: Mapping[Sum[int], Link]) -> Link:
    """The link of a sum, which adds a term (or nothing but another base) to a shorter sum (or to nothing)."""
    genes, adds = ((), np.array(0, dtype=np.int64)) if term is None else (term.genes, term.array)
    if shorter is None:
        return Link(total, column, genes, np.searchsorted(total.values, adds + total.base))
    sums = np.add.outer(adds, shorter.values - shorter.base + total.base)
    return Link(total, column, (*genes, made[shorter].column), np.searchsorted(total.values, sums))
