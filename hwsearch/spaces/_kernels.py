"""How a place in a user's network becomes a kernel: its channels follow from a few genes, or from what several add up to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

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
class Format:
    """The precision of a kernel or of what it reads: that of a gene, or fp32.

    Attributes:
        place: which of the values given to a slot tells it; ``None`` where it is fp32.
    """

    place: int | None = None

    def __call__(self, values: tuple[Any, ...]) -> str:
        """The name of the precision."""
        return "fp32" if self.place is None else str(values[self.place])


_FLOATS = Format()


@dataclass(frozen=True)
class KernelHere:
    """Lowers a slot to a kernel.

    Attributes:
        kernel: with all channels.
        cin, cout: sizes whose product is the number of channels in and out.
        present: places of the values that are 1 where the kernel is there.
        keeps_groups: whether a grouped convolution loses channels inside each group, and not whole groups.
        format: its precision.
        reads: the precisions of the tensors that it reads; those in another one than its own it converts first.
        readers: the precisions of what reads it, if that matters: where it is in floats and all of them are not, the conversion is its own.
    """

    kernel: Fused
    cin: tuple[Size, ...]
    cout: tuple[Size, ...]
    present: tuple[int, ...] = ()
    keeps_groups: bool = True
    format: Format = _FLOATS
    reads: tuple[Format, ...] = ()
    readers: tuple[Format, ...] = ()

    def __call__(self, *values: Any) -> tuple[Block, ...]:
        """The kernel where the genes of the slot have these values; none where its branch is gone."""
        if not all(values[place] for place in self.present):
            return ()
        cin, cout = (prod(size(values) for size in sizes) for sizes in (self.cin, self.cout))
        groups = self.kernel.groups if self.keeps_groups else cin * self.kernel.groups // self.kernel.cin
        own = self.format(values)
        converted = ("dequantize" if own == "fp32" else "quantize",) * sum(each(values) != own for each in self.reads)
        given = ("quantize",) if own == "fp32" and self.readers and all(each(values) != own for each in self.readers) else ()
        ops = (*converted, *self.kernel.ops, *given)
        return (replace(self.kernel, cin=cin, cout=cout, groups=groups, precision=own, ops=ops),)


@dataclass(frozen=True)
class PartHere:
    """Lowers a slot to a part of a kernel whose parts have genes of their own for precisions.

    A runtime computes the parts at once where they are in one precision.

    Attributes:
        alone: the part.
        whole: the whole kernel, if it stands at this slot where it is computed at once; otherwise nothing stands there then.
        formats: of all parts.
    """

    alone: KernelHere
    whole: KernelHere | None
    formats: tuple[Format, ...]

    def __call__(self, *values: Any) -> tuple[Block, ...]:
        """The part, the whole, or nothing."""
        if len({each(values) for each in self.formats}) > 1:
            return self.alone(*values)
        return () if self.whole is None else self.whole(*values)


@dataclass(frozen=True)
class FactorHere:
    """Lowers a slot to a factor of a layer, which may be one kernel with the factors before it, or part of the one after it.

    Attributes:
        gates: the places of the values that tell ranks, and the number at which the factors beside each are one layer.
        ways: what stands at the slot, by which ranks are at that number; ``None`` for nothing.
    """

    gates: tuple[tuple[int, int], ...]
    ways: tuple[tuple[tuple[bool, ...], KernelHere | None], ...]

    def __call__(self, *values: Any) -> tuple[Block, ...]:
        """The factor, the layer, or nothing."""
        way = dict(self.ways)[tuple(values[place] == full for place, full in self.gates)]
        return () if way is None else way(*values)
