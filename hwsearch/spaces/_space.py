"""Search spaces: what may vary, and what network each variation is.

A candidate is a row of ``uint8`` gene indices and a population is an ``(n, genes)`` array; every function takes the batch.
A gene that is inactive in a row (the width of a block that the depth leaves out) is zero in the *canonical* row, so that
equal networks are equal rows.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from .._files._reading import check_header, read_json
from .._files._writing import PathLike, write_atomic
from ..errors import CorruptFile, InvalidInput, UnknownName, WrongSpace
from ..networks._blocks import Block
from . import _tables

Value = int | float | str
Rows = npt.NDArray[np.uint8]

ARCHITECTURE_FORMAT = "hwsearch-architecture"
ARCHITECTURE_VERSION = 1
_OF_GENES = ("position", "sizes", "needs", "fingerprint", "weights_fingerprint", "_activity", "_columns", "_lowered")
"""What is computed of a space once and does not depend on where it is searched."""
_MOST_CELLS = 4096


def only(X: Rows) -> Rows:
    """The single row, shape ``(genes,)``, of a population of one."""
    (row,) = X
    return np.asarray(row, dtype=np.uint8)


def row_of_hex(text: str, space: SearchSpace) -> bytes:
    """The bytes of a row that a journal holds in hexadecimal.

    Raises:
        InvalidInput: it is not a canonical row of the space.
        ValueError, TypeError: it is not hexadecimal.
    """
    row = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)[None]
    if not np.array_equal(space.canonical(space.check(row, "a row")), row):
        raise InvalidInput(f"the row {text} of space {space.name!r} holds values of genes that are not active.")
    return row.tobytes()


def row_keys(X: Rows) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every row, shape ``(n,)``; two of a million rows share one with a chance below 1e-7.

    Eight genes at a time are read as one number, multiplied, and mixed so that every gene reaches every bit.
    """
    words = -(-X.shape[1] // 8)
    packed = np.zeros((len(X), 8 * words), dtype=np.uint8)
    packed[:, : X.shape[1]] = X
    factors = _factors(words)
    mixed = packed.view(np.uint64) + np.uint64(1)
    mixed *= factors[0]
    mixed ^= mixed >> np.uint64(29)
    mixed *= factors[1]
    mixed ^= mixed >> np.uint64(32)
    result: npt.NDArray[np.uint64] = mixed.sum(axis=1, dtype=np.uint64)
    return result


@cache
def _factors(words: int) -> npt.NDArray[np.uint64]:
    """Random odd numbers, always the same, shape ``(2, words)``."""
    return np.random.default_rng(20200210).integers(0, 2**64, size=(2, words), dtype=np.uint64, endpoint=False) | np.uint64(1)


def contains(ordered: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which keys are among ``ordered`` (ascending), shape of ``keys``."""
    if not len(ordered):
        return np.zeros(len(keys), dtype=np.bool_)
    position = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    result: npt.NDArray[np.bool_] = ordered[position] == keys
    return result


@dataclass(frozen=True)
class Choice:
    """One gene: a name and the values it may take.

    Attributes:
        name: dotted, as users read it: ``"stage1.block1.mid"``.
        values: at most 255 different values. Where a gene of a space with slots has numbers, they ascend: its last value makes the largest
            network. Precisions may come in any order.
        needs: ``None``, or ``(other, values)``: the gene counts only while the gene ``other`` has one of ``values``.
    """

    name: str
    values: tuple[Value, ...]
    needs: tuple[str, tuple[Value, ...]] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.values) <= 255:
            raise InvalidInput(f"Gene {self.name!r} has {len(self.values)} values; 1 to 255 are possible.")
        if len(set(self.values)) != len(self.values):
            raise InvalidInput(f"Gene {self.name!r} has the same value twice: {self.values}.")

    @property
    def is_precision(self) -> bool:
        """Whether it chooses the precision of a block, and so changes no shape."""
        return self.name.endswith("precision")

    def index(self, value: Value) -> int:
        """The index of ``value``.

        Raises:
            InvalidInput: the gene cannot take it.
        """
        try:
            return self.values.index(value)
        except ValueError:
            raise InvalidInput(f"Gene {self.name!r} cannot be {value!r}; its values are {list(self.values)}.") from None


class HasEdges(Protocol):
    """What knows which values of a space's genes are worth having, such as a latency table."""

    def edges(self, space: SearchSpace, /) -> Mapping[str, Sequence[Value]]:
        """Gene name -> the values worth having."""


@dataclass(frozen=True)
class Slot:
    """One place in the network whose blocks depend on a few genes only.

    Attributes:
        name: the place, such as ``"stage1.block1"``; a supernet's weights carry the same name.
        genes: names of the genes it depends on, among them the gene that each of them needs.
        lower: the values of those genes, in that order -> the blocks that the device runs there (none where it is left out).
    """

    name: str
    genes: tuple[str, ...]
    lower: Callable[..., tuple[Block, ...]] = field(repr=False)


@dataclass(frozen=True)
class SlotBlocks:
    """A slot lowered for every combination of its genes.

    Attributes:
        genes: gene indices, shape ``(k,)``.
        blocks: indices into :attr:`SearchSpace.unique_blocks`, shape ``(*gene sizes, most blocks)``, padded with -1.
    """

    genes: tuple[int, ...]
    blocks: npt.NDArray[np.int32]


@dataclass(frozen=True)
class SearchSpace:
    """Choices, and the slots that turn a row of choices into a network.

    Attributes:
        name: the name under which it is registered.
        choices: the genes, each after the one it needs.
        slots: the places of the network, in the order in which a device runs them.
        allowed: for each gene the indices that searches may use; all of them unless :meth:`restrict` was called. It is no part of
            the :attr:`fingerprint`: rows mean the same in a restricted space.
        costs: metrics that the space brings along as sums of tables, by name; see :meth:`from_tables`.

    Raises:
        InvalidInput: two genes share a name, a gene or slot refers to one that does not exist (or comes later), or the numbers that a gene
            of a network may take do not ascend.
    """

    name: str
    choices: tuple[Choice, ...]
    slots: tuple[Slot, ...]
    allowed: tuple[tuple[int, ...], ...] = ()
    costs: Mapping[str, tuple[_tables.Table, ...]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        position: dict[str, int] = {}
        for index, choice in enumerate(self.choices):
            if choice.name in position:
                raise InvalidInput(f"Space {self.name!r} has two genes called {choice.name!r}.")
            if choice.needs is not None:
                parent, values = choice.needs
                if parent not in position:
                    raise InvalidInput(f"Gene {choice.name!r} needs {parent!r}, which is not a gene before it.")
                for value in values:
                    self.choices[position[parent]].index(value)
            position[choice.name] = index
            sizes = [value for value in choice.values if not isinstance(value, str)]
            if self.slots and len(sizes) == len(choice.values) and sizes != sorted(sizes):
                raise InvalidInput(
                    f"Gene {choice.name!r} must list its values from small to large, not as {choice.values}: the largest network of a "
                    "space has the last value of every gene."
                )
        for slot in self.slots:
            for gene in slot.genes:
                if gene not in position:
                    raise UnknownName(f"gene of slot {slot.name!r}", gene, position)
                needs = self.choices[position[gene]].needs
                if needs is not None and needs[0] not in slot.genes:
                    raise InvalidInput(f"Slot {slot.name!r} uses {gene!r} and must also name {needs[0]!r}, which that gene needs.")
        if not self.allowed:
            object.__setattr__(self, "allowed", tuple(tuple(range(len(choice.values))) for choice in self.choices))

    @classmethod
    def from_tables(
        cls,
        choices: Mapping[str, Sequence[Value]] | Sequence[Choice],
        tables: Mapping[str, Sequence[tuple[Sequence[str], npt.ArrayLike]]],
        *,
        name: str = "tables",
    ) -> SearchSpace:
        """Any lookup-table problem as a space: genes and costs as plain data, without blocks.

        ``hwsearch.metric(cost, space)`` finds the costs by their names; each may be limited, or be the score of a search.

        Args:
            choices: gene name -> its values; or :class:`Choice` objects, where some genes count only while another one has certain values.
            tables: cost name -> its tables ``(gene names, array with one axis a gene)``. The cost of a row is the sum of one entry a
                table (the maximum, for ``"peak_memory_mb"``); infinity marks what is impossible. A table that uses a gene that needs
                another must name both; what it holds for inactive genes is ignored, but at index zero.
            name: of the space.

        Returns:
            A space without slots. Its fingerprint covers the arrays.

        Raises:
            UnknownName: a table names a gene that does not exist.
            InvalidInput: an array has the wrong shape or holds NaN, or a gene's need is missing.
        """
        genes = [Choice(gene, tuple(values)) for gene, values in choices.items()] if isinstance(choices, Mapping) else choices
        bare = cls(name, tuple(genes), ())
        return replace(bare, costs={cost: tuple(bare._table(cost, *entry) for entry in entries) for cost, entries in tables.items()})

    def _table(self, cost: str, genes: Sequence[str], values: npt.ArrayLike) -> _tables.Table:
        """Check a cost table, and let its cells of inactive genes repeat those at index zero."""
        for gene in genes:
            if gene not in self.position:
                raise UnknownName(f"gene of a table of {cost!r}", gene, self.position)
            needs = self.choices[self.position[gene]].needs
            if needs is not None and needs[0] not in genes:
                raise InvalidInput(f"A table of {cost!r} uses {gene!r} and must also name {needs[0]!r}, which that gene needs.")
        if len(set(genes)) != len(genes):
            raise InvalidInput(f"A table of {cost!r} names a gene twice: {list(genes)}.")
        columns = tuple(self.position[gene] for gene in genes)
        shape = tuple(self.sizes[gene] for gene in columns)
        array = np.array(values, dtype=np.float64)
        if array.shape != shape:
            raise InvalidInput(f"The table of {cost!r} over {list(genes)} must have the shape {shape}, not {array.shape}.")
        if np.isnan(array).any():
            raise InvalidInput(f"The table of {cost!r} over {list(genes)} holds NaN; infinity marks what is impossible.")
        own, ordered = self.canonical_table(_tables.table(columns, array))
        ordered.flags.writeable = False
        return own, ordered

    def canonical_table(self, entry: _tables.Table) -> _tables.Table:
        """The table, with cells of inactive genes that repeat those at index zero, over its genes and those that they need."""
        genes = entry[0]
        if all(self.needs[gene] is None for gene in genes):
            return entry
        scope = set(genes)
        for gene in genes:
            need = self.needs[gene]
            while need is not None:
                scope.add(need[0])
                need = self.needs[need[0]]
        own = tuple(sorted(scope))
        shape = tuple(self.sizes[gene] for gene in own)
        wide = np.broadcast_to(_tables.expand(entry, own), shape)
        return own, wide[tuple(np.array(self._canonical_cells(own, shape)).T)].reshape(shape)

    def __repr__(self) -> str:
        return f"<SearchSpace {self.name!r}: {len(self.choices)} genes, {self.rounded_size} architectures>"

    # -- genes ---------------------------------------------------------------------------------------------------------

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Gene name -> column."""
        return {choice.name: index for index, choice in enumerate(self.choices)}

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each gene."""
        return tuple(len(choice.values) for choice in self.choices)

    @cached_property
    def needs(self) -> tuple[tuple[int, npt.NDArray[np.bool_]] | None, ...]:
        """For each gene ``None``, or the column of the gene it needs and, for each value of that one, whether it is active."""
        found: list[tuple[int, npt.NDArray[np.bool_]] | None] = []
        for choice in self.choices:
            if choice.needs is None:
                found.append(None)
            else:
                parent = self.position[choice.needs[0]]
                wanted = set(choice.needs[1])
                found.append((parent, np.array([value in wanted for value in self.choices[parent].values])))
        return tuple(found)

    @cached_property
    def size(self) -> int:
        """The number of different architectures (canonical rows) that searches may use; exact."""
        children: dict[int, list[int]] = {}
        for index, need in enumerate(self.needs):
            if need is not None:
                children.setdefault(need[0], []).append(index)

        def count(gene: int) -> int:
            total = 0
            for value in self.allowed[gene]:
                ways = 1
                for child in children.get(gene, ()):
                    need = self.needs[child]
                    assert need is not None  # children are the genes that need one
                    if need[1][value]:
                        ways *= count(child)
                total += ways
            return total

        total = 1
        for gene, need in enumerate(self.needs):
            if need is None:
                total *= count(gene)
        return total

    @property
    def rounded_size(self) -> str:
        """The number of different architectures in words of three digits, such as ``"1.2e+21"``; it may be beyond any float."""
        return f"{self.size:.3g}" if self.size < 10**300 else f"{Decimal(self.size):.2e}"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what rows mean: the genes, the networks of the smallest and the largest indices, and the space's own costs."""
        genes = [[choice.name, choice.values, choice.needs] for choice in self.choices]
        corners = [
            [block.key for block in self.blocks(np.array(row, dtype=np.uint8))]
            for row in ([0] * len(self.choices), [size - 1 for size in self.sizes])
        ]
        digest = hashlib.sha256(msgspec.json.encode([self.name, genes, corners]))
        for cost, tables in sorted(self.costs.items()):
            for own, array in tables:
                digest.update(msgspec.json.encode([cost, own]) + array.tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def weights_fingerprint(self) -> str:
        """A hash of the networks but for their name and their precisions: spaces that share it can share trained weights."""
        genes = [[choice.name, choice.values, choice.needs] for choice in self.choices if not choice.is_precision]
        corners = [
            [replace(block, precision="fp32").key for block in self.blocks(np.array(row, dtype=np.uint8)) if not block.boundary]
            for row in ([0] * len(self.choices), [size - 1 for size in self.sizes])
        ]
        return hashlib.sha256(msgspec.json.encode([genes, corners])).hexdigest()[:16]

    def check(self, X: npt.ArrayLike, name: str = "X") -> Rows:
        """Check a population.

        Args:
            X: gene indices, shape ``(n, genes)``.
            name: what the caller calls it, for the message.

        Returns:
            The same as a ``uint8`` array.

        Raises:
            InvalidInput: wrong shape, not whole numbers, or an index that a gene does not have.
        """
        array = np.asarray(X)
        if array.ndim != 2 or array.shape[1] != len(self.choices):
            raise InvalidInput(f"{name} must have the shape (n, {len(self.choices)}) for space {self.name!r}, not {array.shape}.")
        if array.dtype != np.uint8:
            if array.size and not np.issubdtype(array.dtype, np.integer):
                raise InvalidInput(f"{name} must hold whole numbers (gene indices), not {array.dtype}.")
            if array.size and array.min() < 0:
                raise InvalidInput(f"{name} holds a negative gene index.")
        if array.size:
            over = array.max(axis=0) >= np.array(self.sizes)
            if over.any():
                gene = int(np.argmax(over))
                raise InvalidInput(
                    f"{name} holds index {array[:, gene].max()} for gene {self.choices[gene].name!r}, which has {self.sizes[gene]} values."
                )
        return array.astype(np.uint8, copy=False)

    def active(self, X: Rows) -> npt.NDArray[np.bool_]:
        """Which genes count, shape ``(n, genes)``."""
        mask = np.ones(X.shape, dtype=np.bool_)
        for parents, active in self._activity:
            cell = np.zeros(len(X), dtype=np.intp)
            for parent in parents:
                cell *= self.sizes[parent]
                cell += X[:, parent]
            mask &= active.take(cell, axis=0)
        return mask

    @cached_property
    def _activity(self) -> tuple[tuple[tuple[int, ...], npt.NDArray[np.bool_]], ...]:
        """Genes that others need, a few together, and which genes each combination of their values leaves active."""
        groups: list[tuple[int, ...]] = []
        for parent in sorted({need[0] for need in self.needs if need is not None}):
            if groups and math.prod(self.sizes[gene] for gene in groups[-1]) * self.sizes[parent] <= _MOST_CELLS:
                groups[-1] = (*groups[-1], parent)
            else:
                groups.append((parent,))
        found = []
        for parents in groups:
            cells = np.indices([self.sizes[parent] for parent in parents]).reshape(len(parents), -1)
            active = np.ones((cells.shape[1], len(self.choices)), dtype=np.bool_)
            for gene in range(len(self.choices)):
                inner, need = gene, self.needs[gene]
                while need is not None:  # up to the outermost gene, since what needs an inactive gene is inactive
                    inner, wanted = need
                    if inner in parents:
                        active[:, gene] &= wanted[cells[parents.index(inner)]]
                    need = self.needs[inner]
            found.append((parents, active))
        return tuple(found)

    def canonical(self, X: Rows) -> Rows:
        """The rows with every inactive gene at zero, shape ``(n, genes)``; equal networks become equal rows."""
        result: Rows = X * self.active(X).view(np.uint8)
        return result

    def awake(self, X: Rows) -> Rows:
        """The rows with every inactive gene at its first allowed value, ready to be woken up, shape ``(n, genes)``."""
        first = np.array([allowed[0] for allowed in self.allowed], dtype=np.uint8)
        result: Rows = np.where(self.active(X), X, first).astype(np.uint8)
        return result

    # -- variation -----------------------------------------------------------------------------------------------------

    def sample(self, n: int, rng: np.random.Generator) -> Rows:
        """Random canonical rows, each gene drawn uniformly from its allowed values.

        Args:
            n: how many.
            rng: where the randomness comes from.

        Returns:
            Shape ``(n, genes)``.
        """
        X = np.empty((n, len(self.choices)), dtype=np.uint8)
        for gene, allowed in enumerate(self.allowed):
            X[:, gene] = np.array(allowed, dtype=np.uint8)[rng.integers(len(allowed), size=n)]
        return self.canonical(X)

    def mutate(self, X: Rows, rng: np.random.Generator, rate: float | npt.NDArray[np.float64]) -> Rows:
        """Redraw genes at random.

        Args:
            X: canonical rows, shape ``(n, genes)``.
            rng: where the randomness comes from.
            rate: the chance of a gene to be redrawn: one number, or one a row, shape ``(n,)``. At least one active gene of each
                row is redrawn.

        Returns:
            Canonical rows, shape ``(n, genes)``.
        """
        before = self.active(X)
        change = rng.random(X.shape, dtype=np.float32) < np.reshape(rate, (-1, 1)).astype(np.float32)
        change[np.arange(len(X)), self._some_gene(before, rng)] = True
        counts, values, ranks = self._redraws
        result = X.copy()
        flat = result.reshape(-1)
        places = np.flatnonzero(change)
        gene = places % X.shape[1]
        step = 1 + (rng.random(len(gene)) * (counts[gene] - 1)).astype(np.intp)
        flat[places] = values[gene, (ranks[gene, flat[places]] + step) % counts[gene]]
        places = np.flatnonzero(self.active(result) > before)  # what a mutation wakes up starts at random, not at its first value
        gene = places % X.shape[1]
        flat[places] = values[gene, (rng.random(len(gene)) * counts[gene]).astype(np.intp)]
        return self.canonical(result)

    def _some_gene(self, active: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.intp]:
        """A random gene of each row that is active and has a choice (any gene, where there is none), shape ``(n,)``."""
        free = active & (self._redraws[0] > 1)
        gene = rng.integers(free.shape[1], size=len(free))
        for _ in range(4):
            wrong = np.flatnonzero(~free[np.arange(len(free)), gene])
            gene[wrong] = rng.integers(free.shape[1], size=len(wrong))
        wrong = np.flatnonzero(~free[np.arange(len(free)), gene])
        gene[wrong] = np.where(free[wrong], rng.random((len(wrong), free.shape[1])), -1.0).argmax(axis=1)
        return gene

    @cached_property
    def _redraws(self) -> tuple[npt.NDArray[np.intp], Rows, npt.NDArray[np.intp]]:
        """For each gene the number of its allowed indices, those indices, and the place of each index among them (0 if it has none)."""
        counts = np.array([len(allowed) for allowed in self.allowed], dtype=np.intp)
        values = np.zeros((len(counts), max(counts, default=1)), dtype=np.uint8)
        ranks = np.zeros((len(counts), 256), dtype=np.intp)
        for gene, allowed in enumerate(self.allowed):
            values[gene, : len(allowed)] = allowed
            ranks[gene, list(allowed)] = np.arange(len(allowed))
        return counts, values, ranks

    def cross(self, A: Rows, B: Rows, rng: np.random.Generator) -> Rows:
        """Uniform crossover: each gene from one parent or the other, or from the one where it is active; shape ``(n, genes)``."""
        coin = np.frombuffer(rng.bytes(A.size), dtype=np.uint8).reshape(A.shape) < 128
        from_first = ((coin & self.active(A)) | ~self.active(B)).view(np.uint8)
        return self.canonical(B + (A - B) * from_first)  # modulo 256, and much faster than a choice of bytes

    def neighbours(self, row: Rows) -> Rows:
        """All different canonical rows that change one active gene of ``row`` (shape ``(genes,)``), shape ``(m, genes)``."""
        active, awake = self.active(row[None])[0], self.awake(row[None])
        changed = []
        for gene, allowed in enumerate(self.allowed):
            others = [value for value in allowed if value != row[gene]]
            if active[gene] and others:
                block = np.repeat(awake, len(others), axis=0)
                block[:, gene] = others
                changed.append(block)
        if not changed:
            return np.empty((0, len(self.choices)), dtype=np.uint8)
        return np.unique(self.canonical(np.concatenate(changed)), axis=0)

    def enumerate(self) -> Iterator[Rows]:
        """All canonical rows, in batches of at most 65,536; for spaces that are small enough to wait for."""
        products = itertools.product(*self.allowed)
        while batch := list(itertools.islice(products, 65536)):
            X = np.array(batch, dtype=np.uint8)
            yield self.canonical(X[(X == self.awake(X)).all(axis=1)])

    def restrict(self, values: Mapping[str, Sequence[Value]] | HasEdges) -> SearchSpace:
        """The same space, searched only where the named genes have one of the given values.

        Args:
            values: gene name, or a pattern such as ``"*.precision"``, -> the values to keep (those that the gene has). A latency table
                stands for the widths at the right-hand edges of its device's stairs.

        Raises:
            UnknownName: no gene has such a name.
            InvalidInput: a gene would have no value left.
        """
        allowed = list(self.allowed)
        for pattern, keep in (values if isinstance(values, Mapping) else values.edges(self)).items():
            genes = [gene for gene, choice in enumerate(self.choices) if fnmatchcase(choice.name, pattern)]
            if not genes:
                raise UnknownName("gene", pattern, self.position)
            for gene in genes:
                choice = self.choices[gene]
                left = tuple(index for index in allowed[gene] if choice.values[index] in keep)
                if not left:
                    may = [choice.values[index] for index in allowed[gene]]
                    raise InvalidInput(f"No value of {choice.name!r} is left: it may be one of {may} here, not of {list(keep)}.")
                allowed[gene] = left
        return self._allowing(allowed)

    def _allowing(self, allowed: Iterable[tuple[int, ...]]) -> SearchSpace:
        """The same space, searched elsewhere; what was computed and does not depend on where is kept, since it may have taken seconds."""
        space = replace(self, allowed=tuple(allowed))
        space.__dict__.update({name: self.__dict__[name] for name in _OF_GENES if name in self.__dict__})
        return space

    def alone(self, row: npt.ArrayLike) -> SearchSpace:
        """The same space with one network left: that of a row of shape ``(genes,)``."""
        (checked,) = self.canonical(self.check(np.asarray(row)[None], "row"))
        return self._allowing((int(index),) for index in checked)

    # -- values and features -------------------------------------------------------------------------------------------

    def encode(self, values: Mapping[str, Value]) -> Rows:
        """The canonical row, shape ``(genes,)``, of named values; inactive genes may be left out.

        Raises:
            UnknownName: a name that is no gene.
            InvalidInput: an active gene is missing, or cannot take its value.
        """
        for name in values:
            if name not in self.position:
                raise UnknownName("gene", name, self.position)
        row = np.zeros(len(self.choices), dtype=np.uint8)
        for gene, choice in enumerate(self.choices):
            if choice.name in values:
                row[gene] = choice.index(values[choice.name])
        active = self.active(row[None])[0]
        missing = [choice.name for gene, choice in enumerate(self.choices) if active[gene] and choice.name not in values]
        if missing:
            raise InvalidInput(f"No value given for {', '.join(missing)}.")
        return only(self.canonical(row[None]))

    def decode(self, row: Rows) -> dict[str, Value]:
        """The values of the active genes of a row of shape ``(genes,)``."""
        active = self.active(row[None])[0]
        return {choice.name: choice.values[row[gene]] for gene, choice in enumerate(self.choices) if active[gene]}

    def features(self, X: Rows) -> npt.NDArray[np.float32]:
        """One-hot encoding for predictors, zeros for inactive genes, shape ``(n, sum of gene sizes)``."""
        gene, value = self._columns
        shown = np.where(self.active(X), X, np.uint8(255))  # no gene has a value of index 255
        result: npt.NDArray[np.float32] = (shown.take(gene, axis=1) == value).astype(np.float32)
        return result

    @cached_property
    def _columns(self) -> tuple[npt.NDArray[np.intp], Rows]:
        """The gene and the index that each feature stands for."""
        values = [np.arange(size, dtype=np.uint8) for size in self.sizes]
        return np.repeat(np.arange(len(self.sizes)), self.sizes), np.concatenate(values)

    @cached_property
    def changes(self) -> tuple[npt.NDArray[np.intp], Rows]:
        """Every gene that no other needs with every index that it may have: the genes and the indices, each of shape ``(changes,)``."""
        needed = {need[0] for need in self.needs if need is not None}
        pairs = [(gene, index) for gene, allowed in enumerate(self.allowed) if gene not in needed for index in allowed]
        return np.array([gene for gene, _ in pairs], dtype=np.intp), np.array([index for _, index in pairs], dtype=np.uint8)

    def architecture(self, row: npt.ArrayLike) -> Architecture:
        """The architecture of a row of shape ``(genes,)``."""
        return Architecture(self, np.asarray(row))

    # -- lowering ------------------------------------------------------------------------------------------------------

    def placed(self, row: Rows) -> list[tuple[Slot, tuple[Block, ...]]]:
        """Each slot with the blocks that the network of ``row`` (shape ``(genes,)``) has there, in the order of execution."""
        canonical = only(self.canonical(row[None]))
        values = [choice.values[index] for choice, index in zip(self.choices, canonical, strict=True)]
        return [(slot, slot.lower(*(values[self.position[gene]] for gene in slot.genes))) for slot in self.slots]

    def blocks(self, row: Rows) -> tuple[Block, ...]:
        """The network of ``row`` (shape ``(genes,)``) as a device runs it."""
        return tuple(block for _, blocks in self.placed(row) for block in blocks)

    @cached_property
    def _lowered(self) -> tuple[tuple[Block, ...], tuple[SlotBlocks, ...]]:
        ids: dict[Block, int] = {}
        lowered = []
        collecting = gc.isenabled()
        gc.disable()  # hundreds of thousands of blocks are made here, and all are kept: looking for garbage among them takes longer
        try:
            for slot in self.slots:
                lowered.append(self._lower(slot, ids))
        finally:
            if collecting:
                gc.enable()
        return tuple(ids), tuple(lowered)

    def _lower(self, slot: Slot, ids: dict[Block, int]) -> SlotBlocks:
        """One slot as an array; ``ids`` numbers the blocks."""
        genes = tuple(self.position[gene] for gene in slot.genes)
        shape = tuple(self.sizes[gene] for gene in genes)
        values = [self.choices[gene].values for gene in genes]
        cells = [
            [ids.setdefault(block, len(ids)) for block in slot.lower(*(v[i] for v, i in zip(values, index, strict=True)))]
            for index in self._canonical_cells(genes, shape)
        ]
        most = max(map(len, cells), default=0)
        table = np.array([cell + [-1] * (most - len(cell)) for cell in cells], dtype=np.int32)
        return SlotBlocks(genes, table.reshape((*shape, most)))

    def _canonical_cells(self, genes: tuple[int, ...], shape: tuple[int, ...]) -> list[list[int]]:
        """All combinations of some genes, inactive ones at zero, shape ``(cells, genes)``."""
        index = np.indices(shape).reshape(len(shape), int(np.prod(shape))).T
        full = np.zeros((len(index), len(self.choices)), dtype=np.uint8)
        full[:, list(genes)] = index
        cells: list[list[int]] = self.canonical(full)[:, list(genes)].tolist()
        return cells

    @property
    def unique_blocks(self) -> tuple[Block, ...]:
        """Every block that any architecture of the full space uses, without repeats."""
        return self._lowered[0]

    @cached_property
    def reachable(self) -> npt.NDArray[np.intp]:
        """Indices into :attr:`unique_blocks`, ascending, of the blocks that a search of the (perhaps restricted) space can meet."""
        used = [np.unique(slot.blocks[np.ix_(*(self.allowed[gene] for gene in slot.genes))]) for slot in self.slot_blocks]
        found = np.unique(np.concatenate([*used, np.zeros(0, dtype=np.intp)])).astype(np.intp)
        return found[found >= 0]

    @property
    def slot_blocks(self) -> tuple[SlotBlocks, ...]:
        """The slots as arrays over their genes, for compiling costs."""
        return self._lowered[1]


@dataclass(frozen=True, eq=False)
class Architecture:
    """One network of a space.

    Attributes:
        space: the space it is from.
        genes: its canonical row, read-only, shape ``(genes,)``.

    Raises:
        InvalidInput: the row does not fit the space.
    """

    space: SearchSpace
    genes: Rows

    def __post_init__(self) -> None:
        genes = only(self.space.canonical(self.space.check(np.asarray(self.genes)[None], "genes")))
        genes.flags.writeable = False
        object.__setattr__(self, "genes", genes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Architecture):
            return NotImplemented
        return self.space.fingerprint == other.space.fingerprint and np.array_equal(self.genes, other.genes)

    def __hash__(self) -> int:
        return hash((self.space.fingerprint, self.genes.tobytes()))

    def __repr__(self) -> str:
        return f"<Architecture of {self.space.name!r}: {bytes(self.genes).hex()}>"

    def __str__(self) -> str:
        """A line a stage."""
        stages: dict[str, list[str]] = {}
        for name, value in self.values().items():
            stage, _, rest = name.partition(".")
            stages.setdefault(stage, []).append(f"{rest}={value}" if rest else str(value))
        width = max(map(len, stages))
        return "\n".join(f"{stage:<{width}}  {'  '.join(parts)}" for stage, parts in stages.items())

    def values(self) -> dict[str, Value]:
        """The value of each active gene, by name."""
        return self.space.decode(self.genes)

    def blocks(self) -> tuple[Block, ...]:
        """The network as a device runs it."""
        return self.space.blocks(self.genes)

    def at_precision(self, precision: str, genes: Collection[str] | None = None) -> Architecture:
        """The same network with its blocks at another precision.

        Args:
            precision: of the blocks.
            genes: names of the genes that choose the precision of these blocks; all of them where left out.

        Raises:
            InvalidInput: one of the genes cannot take it.
        """
        row = self.genes.copy()
        for gene, choice in enumerate(self.space.choices):
            if choice.is_precision and (genes is None or choice.name in genes):
                row[gene] = choice.index(precision)
        return Architecture(self.space, row)

    def document(self) -> dict[str, Any]:
        """The architecture as JSON data: format, version, space, fingerprint and values."""
        return {
            "format": ARCHITECTURE_FORMAT,
            "version": ARCHITECTURE_VERSION,
            "space": self.space.name,
            "fingerprint": self.space.fingerprint,
            "values": self.values(),
        }

    def to_json(self, path: PathLike) -> Path:
        """Write the architecture to a file, whole or not at all."""
        write_atomic(path, msgspec.json.format(msgspec.json.encode(self.document())) + b"\n")
        return Path(path)

    @classmethod
    def from_document(cls, document: object, space: SearchSpace, path: PathLike) -> Architecture:
        """Read the architecture from JSON data that came from ``path``.

        Raises:
            CorruptFile, NewerVersion: it is not an architecture that this hwsearch can read.
            WrongSpace: it is of another space.
        """
        header = check_header(document, format=ARCHITECTURE_FORMAT, version=ARCHITECTURE_VERSION, path=path)
        if header.get("fingerprint") != space.fingerprint:
            raise WrongSpace(
                f"{path} is of space {header.get('space')!r} ({header.get('fingerprint')}), not of {space.name!r} ({space.fingerprint})."
            )
        values = header.get("values")
        if not isinstance(values, dict):
            raise CorruptFile(f"{path}: 'values' must map gene names to values.")
        try:
            return cls(space, space.encode(values))
        except InvalidInput as error:
            raise CorruptFile(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, path: PathLike, space: SearchSpace) -> Architecture:
        """Read an architecture of ``space`` from a file (errors as in :meth:`from_document`)."""
        return cls.from_document(read_json(path, "architecture"), space, path)
