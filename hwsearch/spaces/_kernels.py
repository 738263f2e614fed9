"""How a place in a user's network becomes a kernel: its channels follow from a few genes, or from what several add up to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ..networks._blocks import Block
from ..networks._fused import Fused


@dataclass(frozen=True)
class Size:
    """A number of channels: ``fixed``, and ``each`` for every unit that the value at a place stands for.

    Attributes:
        fixed: channels that are always there.
        each: channels a unit.
        place: which of the values given to a slot tells the units; none where channels are fixed.
    """

    fixed: int
    each: int = 0
    place: int = 0

    def __call__(self, values: tuple[int, ...]) -> int:
        """The number of channels."""
        return self.fixed + (self.each * values[self.place] if self.each else 0)


@dataclass(frozen=True)
class KernelHere:
    """Lowers a slot to a kernel.

    Attributes:
        kernel: with all channels.
        cin, cout: sizes whose product is the number of channels in and out.
        present: places of the values that are 1 where the kernel is there.
        keeps_groups: whether a grouped convolution loses channels inside each group, and not whole groups.
    """

    kernel: Fused
    cin: tuple[Size, ...]
    cout: tuple[Size, ...]
    present: tuple[int, ...] = ()
    keeps_groups: bool = True

    def __call__(self, *values: int) -> tuple[Block, ...]:
        """The kernel where the genes of the slot have these values; none where its branch is gone."""
        if not all(values[place] for place in self.present):
            return ()
        cin, cout = (prod(size(values) for size in sizes) for sizes in (self.cin, self.cout))
        groups = self.kernel.groups if self.keeps_groups else cin * self.kernel.groups // self.kernel.cin
        return (replace(self.kernel, cin=cin, cout=cout, groups=groups),)
