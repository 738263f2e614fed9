"""Genes: what a row of numbers means.

A candidate is a row of ``uint8`` gene indices and a population is an ``(n, genes)`` array; every function takes the batch.
A gene that is inactive in a row (the width of a block that the depth leaves out) is zero in the *canonical* row, so that
equal networks are equal rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .._types import Rows as Rows
from ..errors import InvalidInput, UnknownName

Value = int | float | str
"""What a gene may be: a number, or a word.

Example:
    >>> from hwsearch.spaces import Choice
    >>> Choice("precision", ("fp32", "int8")).values, Choice("stage1.out", (16, 32)).values
    (('fp32', 'int8'), (16, 32))
"""

ROLES = ("resolution", "depth", "width", "rank", "expand", "kernel", "precision", "branch", "operation")
"""What genes decide: the size of the input image, the number of blocks, a number of channels (or a multiplier of it), a ratio of inner to
outer channels, the size of a convolution, the name of a number format, whether a branch is there, and which operation is. A rank is the
number of channels between the factors of a layer that is written as a product.

Example:
    >>> import hwsearch
    >>> from hwsearch.spaces import ROLES
    >>> space = hwsearch.load_space("resnet_digits")
    >>> {role: len(space.with_role(role)) for role in ROLES if space.with_role(role)}
    {'resolution': 1, 'depth': 3, 'width': 10, 'precision': 7}
"""
_OF_NUMBERS = ("resolution", "depth", "width", "rank", "expand", "kernel")
_NAMED = re.compile(
    r"(?P<resolution>resolution)|(?P<width>out|mid\d*|width\d*)|(?P<expand>expand)\d*|(?P<kernel>kernel)\d*"
    r"|.*(?P<depth>depth)|.*(?P<precision>precision)"
)
_MOST_CELLS = 4096


def only(X: Rows) -> Rows:
    """The single row, shape ``(genes,)``, of a population of one."""
    (row,) = X
    return np.asarray(row, dtype=np.uint8)


@dataclass(frozen=True)
class Choice:
    """One gene: a name and the values it may take.

    Attributes:
        name: dotted, as users read it: ``"stage1.block1.mid"``.
        values: at most 255 different values. Numbers of a space with slots ascend: the last value of a gene makes the largest network.
            Precisions may come in any order.
        needs: ``None``, or ``(other, values)``: the gene counts only while the gene ``other`` has one of ``values``.
        role: what the gene decides, one of :data:`ROLES`; ``None`` if it is none of these. If omitted, it is inferred from the last part
            of the name: ``resolution``, ``out``, ``mid1``, ``width``, ``expand``, ``kernel`` (each perhaps with a number), or what ends
            with ``depth`` or ``precision``. It is no part of a space's fingerprint.
        ordered: whether what a value brings lies between what its neighbours bring, as of widths, so that predictors learn what going one
            value up brings. If omitted: no for an operation and for words that are no precisions, yes for all others. It is no part of a
            space's fingerprint.

    Raises:
        InvalidInput: no value, more than 255 or the same one twice; an unknown role, or words as the values of a role that has numbers.

    Example:
        >>> from hwsearch.spaces import Choice
        >>> Choice("stage1.block1.mid", (8, 16, 24)).role
        'width'
        >>> Choice("bits", (4, 8), role="precision").is_precision
        True
    """

    name: str
    values: tuple[Value, ...]
    needs: tuple[str, tuple[Value, ...]] | None = None
    role: str | None = None
    ordered: bool | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.values) <= 255:
            raise InvalidInput(f"Gene {self.name!r} has {len(self.values)} values; 1 to 255 are possible.")
        if len(set(self.values)) != len(self.values):
            raise InvalidInput(f"Gene {self.name!r} has the same value twice: {self.values}.")
        words = any(isinstance(value, str) for value in self.values)
        if self.role is None:
            role = _inferred_role(self.name)
            object.__setattr__(self, "role", None if words and role in _OF_NUMBERS else role)
        elif self.role not in ROLES:
            raise InvalidInput(f"Gene {self.name!r} has the role {self.role!r}; there are {', '.join(ROLES)}.")
        elif words and self.role in _OF_NUMBERS:
            raise InvalidInput(f"Gene {self.name!r} has the role {self.role!r}, so its values must be numbers, not {self.values}.")
        if self.ordered is None:
            object.__setattr__(self, "ordered", self.is_precision or not (words or self.role == "operation"))

    @property
    def is_precision(self) -> bool:
        """Whether it chooses the precision of a block, and so changes no shape."""
        return self.role == "precision"

    def index(self, value: Value) -> int:
        """The index of ``value``.

        Raises:
            InvalidInput: the gene cannot take it.
        """
        try:
            return self.values.index(value)
        except ValueError:
            raise InvalidInput(f"Gene {self.name!r} cannot be {value!r}; its values are {list(self.values)}.") from None


def _inferred_role(name: str) -> str | None:
    """The role that the last part of a name stands for, if it is one of the names that hwsearch's own spaces have."""
    match = _NAMED.fullmatch(name.rpartition(".")[2])
    return match.lastgroup if match else None


@dataclass(frozen=True)
class Genes:
    """Genes with their values, and populations of rows over them.

    Attributes:
        name: of the space, for messages.
        choices: the genes, each after the one it needs.
        allowed: for each gene the indices that searches may use; all of them if omitted.

    Raises:
        InvalidInput: two genes share a name, or a gene needs one that does not exist or comes later.
    """

    name: str
    choices: tuple[Choice, ...]
    allowed: tuple[tuple[int, ...], ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        before: dict[str, Choice] = {}
        for choice in self.choices:
            if choice.name in before:
                raise InvalidInput(f"Space {self.name!r} has two genes called {choice.name!r}.")
            if choice.needs is not None:
                parent, values = choice.needs
                if parent not in before:
                    raise InvalidInput(f"Gene {choice.name!r} needs {parent!r}, which is not a gene before it.")
                for value in values:
                    before[parent].index(value)
            before[choice.name] = choice
        if not self.allowed:
            object.__setattr__(self, "allowed", tuple(tuple(range(len(choice.values))) for choice in self.choices))

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

    def with_role(self, role: str) -> tuple[int, ...]:
        """The columns of the genes of a role, ascending."""
        return tuple(gene for gene, choice in enumerate(self.choices) if choice.role == role)

    # -- rows --------------------------------------------------------------------------------------------------------------

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

    @cached_property
    def redraws(self) -> tuple[npt.NDArray[np.intp], Rows, npt.NDArray[np.intp]]:
        """For each gene the number of its allowed indices, those indices, and the place of each index among them (0 if it has none)."""
        counts = np.array([len(allowed) for allowed in self.allowed], dtype=np.intp)
        values = np.zeros((len(counts), max(counts, default=1)), dtype=np.uint8)
        ranks = np.zeros((len(counts), 256), dtype=np.intp)
        for gene, allowed in enumerate(self.allowed):
            values[gene, : len(allowed)] = allowed
            ranks[gene, list(allowed)] = np.arange(len(allowed))
        return counts, values, ranks

    def with_needs(self, genes: Iterable[int]) -> tuple[int, ...]:
        """Some genes and all that they need, directly or not, ascending."""
        found = set(genes)
        waiting = list(found)
        while waiting:
            need = self.needs[waiting.pop()]
            if need is not None and need[0] not in found:
                found.add(need[0])
                waiting.append(need[0])
        return tuple(sorted(found))

    def cells(self, genes: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """All combinations of some genes, those that are inactive in a combination at zero, shape ``(cells, len(genes))``."""
        shape = tuple(self.sizes[gene] for gene in genes)
        full = np.zeros((math.prod(shape), len(self.choices)), dtype=np.uint8)
        full[:, list(genes)] = np.indices(shape).reshape(len(shape), len(full)).T
        return self.canonical(full)[:, list(genes)]

    def row_of(self, chosen: Mapping[int, int]) -> Rows:
        """The canonical row, shape ``(genes,)``, of some genes' places among their allowed indices; other genes have their first one."""
        row = np.array([[allowed[chosen.get(gene, 0)] for gene, allowed in enumerate(self.allowed)]], dtype=np.uint8)
        return only(self.canonical(row))

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
        """Every gene with every index that it may have: the genes and the indices, each of shape ``(changes,)``."""
        pairs = [(gene, index) for gene, allowed in enumerate(self.allowed) for index in allowed]
        return np.array([gene for gene, _ in pairs], dtype=np.intp), np.array([index for _, index in pairs], dtype=np.uint8)

    @cached_property
    def needed(self) -> npt.NDArray[np.bool_]:
        """Which genes others need, shape ``(genes,)``."""
        return np.isin(np.arange(len(self.choices)), [need[0] for need in self.needs if need is not None])
