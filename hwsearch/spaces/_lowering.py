"""Lowering: slots as dense arrays of blocks, and tables of costs that users bring, checked."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput, UnknownName
from ..networks._blocks import Block
from . import _tables
from ._genes import Genes
from ._sums import Axis, Sum, Term, lengths

A = TypeVar("A", bound=np.generic)


@dataclass(frozen=True)
class Slot:
    """One place in the network whose blocks depend on a few genes only.

    Example:
        >>> from hwsearch.networks import Block
        >>> from hwsearch.spaces import Choice, SearchSpace, Slot
        >>> width = Choice("conv.out", (8, 16))
        >>> conv = Slot("conv", ("conv.out",), lambda cout: (Block("conv", 3, cout, 32, kernel=3),))
        >>> head = Slot("head", ("conv.out",), lambda cin: (Block("head", cin, 10, 32),))
        >>> space = SearchSpace("tiny", (width,), (conv, head))
        >>> [block.key for block in space.architecture([1]).blocks()]
        ['conv-in3-out16-px32-k3-s1-g1-fp32', 'head-in16-out10-px32-k1-s1-g1-fp32']

    Attributes:
        name: the place, such as ``"stage1.block1"``; a supernet's weights carry the same name.
        genes: names of the genes it depends on, among them the gene that each of them needs; and sums over genes, where only what these
            add up to matters, such as the channels of a concatenation.
        lower: the values of those genes and sums, in that order -> the blocks that the device runs there (none if it is absent).
    """

    name: str
    genes: tuple[str | Sum[str], ...]
    lower: Callable[..., tuple[Block, ...]] = field(repr=False)

    @property
    def depends_on(self) -> frozenset[str]:
        """Names of all genes that its blocks depend on, those within sums among them."""
        within = (gene for axis in self.genes if isinstance(axis, Sum) for term in axis.terms for gene in term.genes)
        return frozenset([*(axis for axis in self.genes if isinstance(axis, str)), *within])


@dataclass(frozen=True)
class SlotBlocks:
    """A slot lowered for every combination of its genes.

    Attributes:
        genes: gene indices and sums over them, k of them.
        blocks: indices into :attr:`SearchSpace.unique_blocks`, shape ``(*lengths of these axes, most blocks)``, padded with -1.
    """

    genes: tuple[Axis, ...]
    blocks: npt.NDArray[np.int32]

    def within(self, allowed: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
        """The blocks where each gene has some of its indices only."""
        chosen = [
            allowed[axis] if isinstance(axis, int) else np.searchsorted(axis.values, axis.within(allowed).values) for axis in self.genes
        ]
        return self.blocks[np.ix_(*chosen)]


def check_slots(genes: Genes, slots: Sequence[Slot]) -> None:
    """Check that the genes of slots exist, and come with those that they need.

    Raises:
        UnknownName: a slot names a gene that does not exist.
        InvalidInput: a slot lacks a gene that one of its genes needs, or the numbers that a gene may take do not ascend.
    """
    for choice in genes.choices if slots else ():
        sizes = [value for value in choice.values if not isinstance(value, str)]
        if len(sizes) == len(choice.values) and sizes != sorted(sizes):
            raise InvalidInput(
                f"Gene {choice.name!r} must list its values from small to large, not as {choice.values}: the largest network of a "
                "space has the last value of every gene."
            )
    for slot in slots:
        _check_needs(genes, [gene for gene in slot.genes if isinstance(gene, str)], f"slot {slot.name!r}", f"Slot {slot.name!r}")


def _check_needs(genes: Genes, names: Sequence[str], of: str, subject: str) -> None:
    for name in names:
        if name not in genes.position:
            raise UnknownName(f"gene of {of}", name, genes.position)
        needs = genes.choices[genes.position[name]].needs
        if needs is not None and needs[0] not in names:
            raise InvalidInput(f"{subject} uses {name!r} and must also name {needs[0]!r}, which that gene needs.")


def lowered(genes: Genes, slots: Sequence[Slot]) -> tuple[tuple[Block, ...], tuple[SlotBlocks, ...]]:
    """Every block that slots have for any values of their genes, without repeats, and the slots as arrays of indices into them."""
    ids: dict[Block, int] = {}
    arrays = []
    collecting = gc.isenabled()
    gc.disable()  # hundreds of thousands of blocks are made here, and all are kept: looking for garbage among them takes longer
    try:
        for slot in slots:
            arrays.append(_lower(genes, slot, ids))
    finally:
        if collecting:
            gc.enable()
    return tuple(ids), tuple(arrays)


def _lower(genes: Genes, slot: Slot, ids: dict[Block, int]) -> SlotBlocks:
    """One slot as an array; ``ids`` numbers the blocks."""
    axes = tuple(genes.position[axis] if isinstance(axis, str) else _placed(genes, f"slot {slot.name!r}", axis) for axis in slot.genes)
    columns = tuple(axis for axis in axes if isinstance(axis, int))
    sums = [axis.values.tolist() for axis in axes if isinstance(axis, Sum)]
    places = sorted(range(len(axes)), key=lambda place: not isinstance(axes[place], int))  # genes first, then sums
    back = np.argsort(places).tolist()
    values = [genes.choices[gene].values for gene in columns]
    cells = []
    for index in genes.cells(columns).tolist():
        row = [value[i] for value, i in zip(values, index, strict=True)]
        for more in itertools.product(*sums):
            given = [*row, *more]
            cells.append([ids.setdefault(block, len(ids)) for block in slot.lower(*(given[place] for place in back))])
    most = max(map(len, cells), default=0)
    table = np.array([cell + [-1] * (most - len(cell)) for cell in cells], dtype=np.int32)
    shape = lengths([axes[place] for place in places], genes.sizes)
    return SlotBlocks(axes, table.reshape((*shape, most)).transpose((*back, len(axes))))


def values_at(genes: Genes, slot: Slot, row: Sequence[int]) -> list[Any]:
    """The values of a slot's genes and sums where a canonical row has these indices."""
    found: list[Any] = []
    for axis in slot.genes:
        if isinstance(axis, str):
            gene = genes.position[axis]
            found.append(genes.choices[gene].values[row[gene]])
        else:
            adds = (int(term.array[tuple(row[genes.position[name]] for name in term.genes)]) for term in axis.terms)
            found.append(axis.base + sum(adds))
    return found


def checked_table(space: Genes, cost: str, names: Sequence[str | Sum[str]], values: npt.ArrayLike) -> _tables.Table:
    """A table of a cost that a user brings, its cells of inactive genes repeating those at index zero.

    Args:
        space: whose genes it is over.
        cost: its name, for messages.
        names: of its genes, and sums over genes.
        values: an array with one axis for each of them.

    Raises:
        UnknownName: it names a gene that does not exist.
        InvalidInput: the array has the wrong shape or holds NaN, a gene stands there twice, or one that another needs is missing; or what a
            sum adds has another shape than its genes have values.
    """
    _check_needs(space, [name for name in names if isinstance(name, str)], f"a table of {cost!r}", f"A table of {cost!r}")
    if len(set(names)) != len(names):
        raise InvalidInput(f"A table of {cost!r} names a gene twice: {list(names)}.")
    axes = tuple(space.position[name] if isinstance(name, str) else _placed(space, cost, name) for name in names)
    shape = lengths(axes, space.sizes)
    array = np.array(values, dtype=np.float64)
    if array.shape != shape:
        raise InvalidInput(f"The table of {cost!r} over {list(names)} must have the shape {shape}, not {array.shape}.")
    if np.isnan(array).any():
        raise InvalidInput(f"The table of {cost!r} over {list(names)} holds NaN; infinity marks what is impossible.")
    own, ordered = canonical_table(space, _tables.table(axes, array))
    ordered.flags.writeable = False
    return own, ordered


def _placed(space: Genes, cost: str, total: Sum[str]) -> Sum[int]:
    """A sum over names of genes as one over their columns.

    Raises:
        UnknownName, InvalidInput: as :func:`checked_table`.
    """
    for term in total.terms:
        _check_needs(space, term.genes, f"a sum of {cost!r}", f"A sum of {cost!r}")
        shape = tuple(space.sizes[space.position[gene]] for gene in term.genes)
        if term.shape != shape:
            raise InvalidInput(f"What {' and '.join(term.genes)} add to a sum of {cost!r} must have the shape {shape}, not {term.shape}.")
    return total.mapped(lambda term: Term(tuple(space.position[gene] for gene in term.genes), term.shape, term.adds))


def canonical_table(space: Genes, entry: _tables.Table) -> _tables.Table:
    """The table, with cells of inactive genes that repeat those at index zero, over its genes and those that they need.

    An inactive gene adds to a sum what it adds at index zero.
    """
    genes = [axis for axis in entry[0] if isinstance(axis, int)]
    sums = [axis for axis in entry[0] if isinstance(axis, Sum)]
    own, array = _canonical(space, genes, entry[1])
    return _tables.table([*own, *(total.mapped(lambda term: _canonical_term(space, term)) for total in sums)], array, [*own, *sums])


def _canonical_term(space: Genes, term: Term[int]) -> Term[int]:
    places = sorted(range(len(term.genes)), key=lambda place: term.genes[place])
    genes = [term.genes[place] for place in places]
    return Term.over(*_canonical(space, genes, term.array.transpose(places)))


def _canonical(space: Genes, genes: Sequence[int], array: npt.NDArray[A]) -> tuple[tuple[int, ...], npt.NDArray[A]]:
    """An array whose first axes are ``genes`` (ascending), over these and the ones that they need; other axes stay behind them."""
    if all(space.needs[gene] is None for gene in genes):
        return tuple(genes), array
    own = space.with_needs(genes)
    shape = tuple(space.sizes[gene] for gene in own)
    rest = array.shape[len(genes) :]
    wide = np.broadcast_to(array.reshape(tuple(space.sizes[gene] if gene in genes else 1 for gene in own) + rest), shape + rest)
    return own, wide[tuple(space.cells(own).T)].reshape(shape + rest)
