"""Phases: a training may begin with the largest network and free smaller ones little by little (Once-for-All, ICLR'20, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ...errors import InvalidInput
from ...networks._blocks import Block
from ...networks._precision import Precision
from ...spaces._genes import Choice, Rows, only
from ...spaces._space import SearchSpace

KINDS = ("resolution", "kernel", "depth", "width")
"""What genes may change of a network, in the order in which progressive shrinking frees it."""


@dataclass(frozen=True)
class Phase:
    """A part of a training, and how small networks may be in it; by default all networks are trained.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn import Phase, Recipe
        >>> space = hwsearch.load_space("resnet_digits")
        >>> Phase(width=0, depth=0).restrict(space).size < space.size  # the networks of full width and depth
        True
        >>> recipe = Recipe(epochs=20, phases=(Phase(0.4, width=0, depth=0), Phase(0.6)))  # these first, then all of them

    Attributes:
        share: of the training, relative to the other phases.
        resolution, kernel, depth, width: how far down genes of this kind go: 0 for the largest value alone, 1 for all values, a number
            between them for that part of the smaller values, rounded up.
        rate: the highest learning rate, relative to the recipe's.
        random_networks: how many random networks a step; if omitted, as the recipe says.

    Raises:
        InvalidInput: a number that makes no sense.
    """

    share: float = 1.0
    resolution: float = 1.0
    kernel: float = 1.0
    depth: float = 1.0
    width: float = 1.0
    rate: float = 1.0
    random_networks: int | None = None

    def __post_init__(self) -> None:
        for name in ("share", "rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidInput(f"{name} of a phase must be a positive number, not {getattr(self, name)}.")
        for name in KINDS:
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} of a phase must be between 0 and 1, not {getattr(self, name)}.")
        if self.random_networks is not None and self.random_networks < 0:
            raise InvalidInput(f"random_networks of a phase must be at least 0, not {self.random_networks}.")

    def restrict(self, space: SearchSpace) -> SearchSpace:
        """The space of the networks that may be trained in this phase.

        Genes that change no shape are held as long as others are held: precisions at the finest one, others at their last value.
        """
        down = [getattr(self, kind) for kind in KINDS]
        if min(down) == 1:
            return space
        reach = dict(zip(KINDS, down, strict=True))
        kept = [
            allowed[len(allowed) - 1 - math.ceil(reach.get(kind, 0.0) * (len(allowed) - 1)) :]
            for kind, allowed in zip(kinds(space), ordered(space), strict=True)
        ]
        return replace(space, allowed=tuple(kept))


PHASES = {
    "sandwich": (Phase(),),
    "progressive": (
        Phase(share=0.3, kernel=0, depth=0, width=0, random_networks=0),
        Phase(share=0.2, depth=0, width=0, rate=0.4, random_networks=1),
        Phase(share=0.1, depth=0.5, width=0, rate=0.2, random_networks=1),
        Phase(share=0.15, width=0, rate=0.3, random_networks=1),
        Phase(share=0.1, width=0.5, rate=0.2, random_networks=2),
        Phase(share=0.15, rate=0.3, random_networks=2),
    ),
}
"""Sequences of phases by name: everything at once, or resolution, kernel, depth and width one after the other.

Example:
    >>> from hwsearch.nn import PHASES
    >>> {name: len(phases) for name, phases in PHASES.items()}
    {'sandwich': 1, 'progressive': 6}
    >>> [phase.share for phase in PHASES["progressive"]]
    [0.3, 0.2, 0.1, 0.15, 0.1, 0.15]
"""


def phases_for(phases: tuple[Phase, ...], space: SearchSpace) -> tuple[Phase, ...]:
    """The phases without those that would train the same networks as the one before, such as the kernel phase if kernels are fixed."""
    shaping = [gene for gene, kind in enumerate(kinds(space)) if kind]

    def networks(phase: Phase) -> list[tuple[int, ...]]:
        allowed = phase.restrict(space).allowed
        return [allowed[gene] for gene in shaping]

    left = phases[:1]
    for phase in phases[1:]:
        if networks(phase) != networks(left[-1]):
            left += (phase,)
    return left


def corner(space: SearchSpace, end: int) -> Rows:
    """The row with the first (0) or the last (-1) allowed value of every gene and the finest allowed precisions, shape ``(genes,)``.

    Weights are trained in floating point, so what rounds least, and leaves no weight out, stands for them.
    """
    ends = [-1 if choice.is_precision else end for choice in space.choices]
    return only(space.canonical(np.array([[allowed[at] for allowed, at in zip(ordered(space), ends, strict=True)]], dtype=np.uint8)))


def ordered(space: SearchSpace) -> list[tuple[int, ...]]:
    """The allowed values of each gene from the smallest to the largest, precisions from the coarsest to the finest whatever their order."""

    def fineness(choice: Choice, index: int) -> tuple[bool, int, int, bool, str]:
        return Precision.parse(str(choice.values[index])).fineness

    return [
        tuple(sorted(allowed, key=partial(fineness, choice))) if choice.is_precision else allowed
        for choice, allowed in zip(space.choices, space.allowed, strict=True)
    ]


def kinds(space: SearchSpace) -> tuple[str, ...]:
    """What each gene changes of the largest network: one of :data:`KINDS`, or ``""`` if it changes no shape."""
    largest = corner(space, -1)
    whole = _shapes(space, largest)
    found = []
    for gene, allowed in enumerate(space.allowed):
        row = largest.copy()
        row[gene] = allowed[0]
        found.append(_kind(whole, _shapes(space, row)))
    return tuple(found)


def _shapes(space: SearchSpace, row: Rows) -> list[Block]:
    return [block for block in space.blocks(row) if not block.boundary]


def _kind(one: list[Block], other: list[Block]) -> str:
    """The first way in which two networks differ."""
    if len(one) != len(other):
        return "depth"
    pairs = list(zip(one, other, strict=True))
    if any((a.kind, a.cin, a.mids, a.cout) != (b.kind, b.cin, b.mids, b.cout) for a, b in pairs):
        return "width"
    if any(a.kernel != b.kernel for a, b in pairs):
        return "kernel"
    return "resolution" if any(a.size != b.size for a, b in pairs) else ""
