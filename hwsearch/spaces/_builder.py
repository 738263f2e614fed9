"""SpaceBuilder: a search space while it is being written down, for plug-ins whose networks are no chain of stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..networks._blocks import Block
from ._genes import Choice, Value
from ._lowering import Slot
from ._space import SearchSpace

Needs = tuple[str, tuple[Value, ...]]
"""A gene, and those of its values for which something is present.

Example:
    >>> from hwsearch.spaces import Choice, Needs
    >>> second: Needs = ("depth", (2,))
    >>> Choice("block2.mid", (8, 16), second).needs  # counts only while the depth is 2
    ('depth', (2,))
"""


@dataclass(frozen=True)
class Knob:
    """A quantity of a network: chosen by a gene, or fixed.

    Example:
        >>> from hwsearch.spaces import SpaceBuilder
        >>> builder = SpaceBuilder()
        >>> builder.knob("conv.out", (8, 16))
        Knob(gene='conv.out', fixed=0, values=(8, 16), means={})
        >>> builder.knob("head.out", 10).gene is None  # one value is no choice
        True

    Attributes:
        gene: the gene's name; ``None`` if the quantity is fixed.
        fixed: the value if it is.
        values: of the gene, or the fixed one alone.
        means: what the gene's values stand for, such as widths for width multipliers; empty if they stand for themselves.
    """

    gene: str | None
    fixed: Value = 0
    values: tuple[Value, ...] = ()
    means: Mapping[Value, Value] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Lower:
    """Lowers a slot; an object and not a function, so that spaces travel to the workers of an executor.

    Attributes:
        lower: as of :meth:`SpaceBuilder.slot`.
        fixed: arguments that are not chosen.
        chosen: the others: name, place among the values, and what the values stand for.
        present: the place of the gene that the slot needs, and the values of it for which there is anything.
    """

    lower: Callable[..., tuple[Block, ...]]
    fixed: Mapping[str, Any]
    chosen: tuple[tuple[str, int, Mapping[Value, Value]], ...]
    present: tuple[int, tuple[Value, ...]] | None

    def __call__(self, *values: Value) -> tuple[Block, ...]:
        if self.present and values[self.present[0]] not in self.present[1]:
            return ()
        given = {argument: means[values[place]] if means else values[place] for argument, place, means in self.chosen}
        return self.lower(**self.fixed, **given)


class SpaceBuilder:
    """Collects choices and slots.

    Attributes:
        choices, slots: of the space, so far.

    Example:
        >>> from hwsearch.networks import Block
        >>> from hwsearch.spaces import SpaceBuilder
        >>> builder = SpaceBuilder()
        >>> width = builder.knob("conv.out", (8, 16), role="width")
        >>> builder.slot("conv", {"cout": width}, lambda cout: (Block("conv", 3, cout, 32, kernel=3),))
        >>> builder.slot("head", {"cin": width}, lambda cin: (Block("head", cin, 10, 32),))
        >>> builder.space("tiny").size
        2
    """

    def __init__(self) -> None:
        self.choices: list[Choice] = []
        self.slots: list[Slot] = []

    def knob(
        self,
        name: str,
        values: tuple[Value, ...] | Value,
        needs: Needs | None = None,
        *,
        means: Mapping[Any, Value] | None = None,
        role: str | None = None,
    ) -> Knob:
        """Add a gene if there is a tuple of values to choose from; a single value is fixed.

        Args:
            name: of the gene.
            values: to choose from.
            needs: another gene and those of its values for which this gene counts.
            means: what the values stand for, such as widths for multipliers; themselves if omitted.
            role: of the gene, as of :class:`Choice`.
        """
        if not isinstance(values, tuple):
            return Knob(None, values, (values,))
        self.choices.append(Choice(name, values, needs, role))
        return Knob(name, values=values, means=means or {})

    def slot(self, name: str, knobs: Mapping[str, Knob], lower: Callable[..., tuple[Block, ...]], needs: Needs | None = None) -> None:
        """Add a slot.

        Args:
            name: of the slot.
            knobs: the arguments of ``lower``.
            lower: takes a value for each of ``knobs``, by name, and returns the blocks.
            needs: a gene and those of its values for which the slot has any blocks.
        """
        genes = tuple(dict.fromkeys(knob.gene for knob in knobs.values() if knob.gene is not None))
        if needs and needs[0] not in genes:
            genes += (needs[0],)
        fixed = {argument: knob.fixed for argument, knob in knobs.items() if knob.gene is None}
        chosen = [(argument, genes.index(knob.gene), knob.means) for argument, knob in knobs.items() if knob.gene is not None]
        present = (genes.index(needs[0]), needs[1]) if needs else None

        self.slots.append(Slot(name, genes, _Lower(lower, fixed, tuple(chosen), present)))

    def fixed(self, name: str, *blocks: Block) -> None:
        """Add a slot that always has the same blocks."""
        self.slot(name, {}, partial(_same, blocks))

    def space(self, name: str) -> SearchSpace:
        """The finished space."""
        return SearchSpace(name, tuple(self.choices), tuple(self.slots))


def _same(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    return blocks
