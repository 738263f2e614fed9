"""Search spaces: what may vary, and what network each variation is."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt

from .._files._reading import check_header, read_json
from .._files._writing import PathLike, write_atomic
from .._types import Rows
from ..errors import CorruptFile, InvalidInput, UnknownName, Unsupported, WrongSpace
from ..networks._blocks import Block
from . import _variation
from ._genes import ROLES, Choice, Genes, Value, only
from ._lowering import Slot, SlotBlocks, check_slots, checked_table, lowered, values_at
from ._sums import Sum
from ._tables import Table

ARCHITECTURE_FORMAT = "hwsearch-architecture"
ARCHITECTURE_VERSION = 1
_OF_GENES = ("position", "sizes", "needs", "fingerprint", "weights_fingerprint", "_activity", "_columns", "_lowered")
"""What is computed of a space once and does not depend on where it is searched."""


class HasEdges(Protocol):
    """What knows which values of a space's genes are worth having, such as a latency table."""

    def edges(self, space: SearchSpace, /) -> Mapping[str, Sequence[Value]]:
        """Gene name -> the values worth having."""


@dataclass(frozen=True)
class SearchSpace(Genes):
    """Choices, and the slots that turn a row of choices into a network.

    A candidate is a row of ``uint8`` gene indices and a population is an ``(n, genes)`` array; every method takes the batch.

    Example:
        >>> import hwsearch, numpy as np
        >>> space = hwsearch.load_space("resnet_digits")
        >>> space
        <SearchSpace 'resnet_digits': 21 genes, 1.21e+08 architectures>
        >>> X = space.sample(3, np.random.default_rng(0))
        >>> [space.decode(row)["resolution"] for row in X]
        [16, 12, 12]

    Attributes:
        name: the name under which it is registered, and the options with which :func:`hwsearch.load_space` makes it again after a colon.
        choices: the genes, each after the one it needs.
        slots: the places of the network, in the order in which a device runs them.
        allowed: for each gene the indices that searches may use; all of them unless :meth:`restrict` was called. It is no part of
            the :attr:`fingerprint`: rows mean the same in a restricted space.
        costs: metrics that the space brings along as sums of tables, by name; see :meth:`from_tables`.
        learned: arrays that were learned of its networks and travel in files of predictors, such as which channels matter.
        edges: of a cell, gene -> the nodes that its edge leads from and to; see :func:`hwsearch.costs.path_metrics`.

    Raises:
        InvalidInput: two genes share a name, a gene or slot refers to one that is missing (or comes later), or numbers do not ascend.
    """

    slots: tuple[Slot, ...]
    costs: Mapping[str, tuple[Table, ...]] = field(default_factory=dict, repr=False, compare=False, kw_only=True)
    learned: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    edges: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    learns_alone: ClassVar[bool] = False
    """Whether its networks bring weights along, so that a predictor is fitted without a supernet."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_slots(self, self.slots)

    @classmethod
    def from_tables(
        cls,
        choices: Mapping[str, Sequence[Value]] | Sequence[Choice],
        tables: Mapping[str, Sequence[tuple[Sequence[str | Sum[str]], npt.ArrayLike]]],
        *,
        name: str = "tables",
    ) -> SearchSpace:
        """Any lookup-table problem as a space: genes and costs as plain data, without blocks.

        ``hwsearch.metric(cost, space)`` finds the costs by their names; each may be limited, or be the score of a search.

        Args:
            choices: gene name -> its values; or :class:`Choice` objects, if some genes count only while another one has certain values.
            tables: cost name -> its tables ``(gene names, array with one axis a gene)``. The cost of a row is the sum of one entry a
                table (the maximum, for ``"peak_memory_mb"``); infinity marks what is impossible. A table that uses a gene that needs
                another must name both; what it holds for inactive genes is ignored, but at index zero. A :class:`~hwsearch.spaces.Sum`
                stands in the place of a name where only what genes add up to matters.
            name: of the space.

        Returns:
            A space without slots. Its fingerprint covers the arrays.

        Raises:
            UnknownName: a table names a gene that does not exist.
            InvalidInput: an array has the wrong shape or holds NaN, or a gene's need is missing.

        Example:
            >>> import hwsearch
            >>> space = hwsearch.SearchSpace.from_tables({"bits": (2, 4, 8)}, {"size": [(["bits"], [1.0, 2.0, 4.0])]})
            >>> hwsearch.metric("size", space)(space.encode({"bits": 4})[None]).tolist()
            [2.0]
        """
        genes = [Choice(gene, tuple(values)) for gene, values in choices.items()] if isinstance(choices, Mapping) else choices
        bare = cls(name, tuple(genes), ())
        return replace(
            bare, costs={cost: tuple(checked_table(bare, cost, *entry) for entry in entries) for cost, entries in tables.items()}
        )

    def __repr__(self) -> str:
        return f"<SearchSpace {self.name!r}: {len(self.choices)} genes, {self.rounded_size} architectures>"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what rows mean: the genes, the networks of the smallest and the largest indices, and the space's own costs."""
        genes = [[choice.name, choice.values, choice.needs] for choice in self.choices]
        corners = [
            [block.key for block in self.blocks(np.array(row, dtype=np.uint8))]
            for row in ([0] * len(self.choices), [size - 1 for size in self.sizes])
        ]
        digest = hashlib.sha256(msgspec.json.encode([self.name.partition(":")[0], genes, corners]))
        for cost, tables in sorted(self.costs.items()):
            for own, array in tables:
                axes = [axis if isinstance(axis, int) else axis.plain for axis in own]
                digest.update(msgspec.json.encode([cost, axes]) + array.tobytes())
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

    def sample(self, n: int, rng: np.random.Generator) -> Rows:
        """Random canonical rows, each gene drawn uniformly from its allowed values.

        Args:
            n: how many.
            rng: the source of randomness.

        Returns:
            Shape ``(n, genes)``.
        """
        return _variation.sample(self, n, rng)

    def mutate(self, X: Rows, rng: np.random.Generator, rate: float | npt.NDArray[np.float64]) -> Rows:
        """Redraw genes at random.

        Args:
            X: canonical rows, shape ``(n, genes)``.
            rng: the source of randomness.
            rate: the chance of a gene to be redrawn: one number, or one a row, shape ``(n,)``. At least one active gene of each
                row is redrawn.

        Returns:
            Canonical rows, shape ``(n, genes)``.
        """
        return _variation.mutate(self, X, rng, rate)

    def cross(self, A: Rows, B: Rows, rng: np.random.Generator) -> Rows:
        """Uniform crossover: each gene from one parent or the other, or from the one where it is active; shape ``(n, genes)``."""
        return _variation.cross(self, A, B, rng)

    def neighbours(self, row: Rows) -> Rows:
        """All different canonical rows that change one active gene of ``row`` (shape ``(genes,)``), shape ``(m, genes)``."""
        return _variation.neighbours(self, row)

    def enumerate(self) -> Iterator[Rows]:
        """All canonical rows, in batches of at most 65,536; for spaces that are small enough to wait for."""
        return _variation.every_row(self)

    def restrict(self, values: Mapping[str, Sequence[Value]] | HasEdges) -> Self:
        """The same space, searched only where the named genes have one of the given values.

        Args:
            values: gene name, role of genes (such as ``"precision"``, for all of them) or pattern (such as ``"stage1.*.kernel"``) -> the
                values to keep (those that the gene has). A latency table stands for the widths at the right-hand edges of its device's
                stairs.

        Raises:
            UnknownName: no gene has such a name or role.
            InvalidInput: a gene would have no value left.

        Example:
            >>> import hwsearch
            >>> space = hwsearch.load_space("resnet_digits").restrict({"precision": ["int8"], "stage1.*.mid": [8, 16]})
            >>> space.size < hwsearch.load_space("resnet_digits").size
            True
        """
        allowed = list(self.allowed)
        for name, keep in (values if isinstance(values, Mapping) else values.edges(self)).items():
            genes = self._called(name)
            if not genes:
                raise UnknownName("gene", name, [*self.position, *ROLES])
            for gene in genes:
                choice = self.choices[gene]
                left = tuple(index for index in allowed[gene] if choice.values[index] in keep)
                if not left:
                    may = [choice.values[index] for index in allowed[gene]]
                    raise InvalidInput(f"No value of {choice.name!r} is left: it may be one of {may} here, not of {list(keep)}.")
                allowed[gene] = left
        return self._but(allowed=tuple(allowed))

    def _called(self, name: str) -> Sequence[int]:
        """The genes of that name, or else of that role, or else whose names match that pattern."""
        if name in self.position:
            return [self.position[name]]
        return self.with_role(name) or [gene for gene, choice in enumerate(self.choices) if fnmatchcase(choice.name, name)]

    def _but(self, **changes: Any) -> Self:
        """The same genes, searched elsewhere or better known; what was computed of them is kept, since it may have taken seconds."""
        space = replace(self, **changes)
        space.__dict__.update({name: self.__dict__[name] for name in _OF_GENES if name in self.__dict__})
        return space

    def knowing(self, learned: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The same space, with other arrays :attr:`learned`."""
        return self._but(learned=dict(learned))

    def alone(self, row: npt.ArrayLike) -> Self:
        """The same space with one network left: that of a row of shape ``(genes,)``."""
        (checked,) = self.canonical(self.check(np.asarray(row)[None], "row"))
        return self._but(allowed=tuple((int(index),) for index in checked))

    def architecture(self, row: npt.ArrayLike) -> Architecture:
        """The architecture of a row of shape ``(genes,)``."""
        return Architecture(self, np.asarray(row))

    @property
    def kernels_only(self) -> bool:
        """Whether its blocks are kernels of a user's network, which run only inside files of it: see :meth:`model_file`."""
        return False

    def model_file(self, row: Rows) -> bytes:
        """The ONNX file of the network of ``row`` (shape ``(genes,)``), whose operations are named after their slots.

        Raises:
            Unsupported: its networks are built from blocks.
        """
        raise Unsupported(f"Networks of {self.name!r} are built from blocks; a backend's model() writes a file of them.")

    def placed(self, row: Rows) -> list[tuple[Slot, tuple[Block, ...]]]:
        """Each slot with the blocks that the network of ``row`` (shape ``(genes,)``) has there, in the order of execution."""
        canonical = only(self.canonical(row[None]))
        return [(slot, slot.lower(*values_at(self, slot, canonical.tolist()))) for slot in self.slots]

    def blocks(self, row: Rows) -> tuple[Block, ...]:
        """The network of ``row`` (shape ``(genes,)``) as a device runs it."""
        return tuple(block for _, blocks in self.placed(row) for block in blocks)

    @cached_property
    def _lowered(self) -> tuple[tuple[Block, ...], tuple[SlotBlocks, ...]]:
        return lowered(self, self.slots)

    @property
    def unique_blocks(self) -> tuple[Block, ...]:
        """Every block that any architecture of the full space uses, without repeats."""
        return self._lowered[0]

    @cached_property
    def reachable(self) -> npt.NDArray[np.intp]:
        """Indices into :attr:`unique_blocks`, ascending, of the blocks that a search of the (perhaps restricted) space can meet."""
        used = [np.unique(slot.within(self.allowed)) for slot in self.slot_blocks]
        found = np.unique(np.concatenate([*used, np.zeros(0, dtype=np.intp)])).astype(np.intp)
        return found[found >= 0]

    @property
    def slot_blocks(self) -> tuple[SlotBlocks, ...]:
        """The slots as arrays over their genes, for compiling costs."""
        return self._lowered[1]


@dataclass(frozen=True, eq=False)
class Architecture:
    """One network of a space.

    Example:
        >>> import hwsearch
        >>> space = hwsearch.load_space("resnet_digits")
        >>> largest = space.architecture([size - 1 for size in space.sizes]).at_precision("int8")
        >>> largest.values()["resolution"], {block.precision for block in largest.blocks()[1:-2]}
        (16, {'int8'})

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
        told = [f"{name}={value}" for name, value in self.values().items()]
        return f"<Architecture of {self.space.name!r}: {', '.join(told[:6])}{f' and {more} more' if (more := len(told) - 6) > 0 else ''}>"

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
            genes: names of the genes that choose the precision of these blocks; all of them if omitted.

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
