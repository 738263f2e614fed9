"""Chain: the one lowering from stages of residual blocks to a search space.

A chain is a stem convolution, stages of residual blocks, and a classifier. Its genes are the input resolution, the stem's
width, and per stage the depth and the output width (one gene, since the residual sums tie the outputs of a stage), and per
block its inner widths and its precision. Where two neighbours differ in precision, the feature map between them is
quantised or dequantised; these boundaries are slots of their own, because they cost time of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .blocks import Block
from .errors import InvalidInput
from .space import Choice, SearchSpace, Slot

_MIDS = {"basic": ("mid",), "bottleneck": ("mid1", "mid2")}


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one output width.

    Attributes:
        depths: how many blocks; the first ones are kept (Once-for-All, ICLR'20, section 3.2).
        outs: output widths, shared by the blocks of the stage.
        mids: widths inside each block, chosen per block and layer.
        stride: of the first block.
        kind: ``"basic"`` or ``"bottleneck"``.
        kernel: of the spatial convolutions.
    """

    depths: tuple[int, ...]
    outs: tuple[int, ...]
    mids: tuple[int, ...]
    stride: int = 1
    kind: str = "basic"
    kernel: int = 3


@dataclass(frozen=True)
class Chain:
    """A family of residual networks as plain data.

    Attributes:
        name: of the space.
        resolutions: heights and widths of the input image, px.
        stem: widths of the stem convolution.
        stages: the stages in order.
        classes: outputs of the classifier.
        precisions: of the stem and of each block; the classifier stays in fp32.
        channels: of the input image.
        stem_kernel, stem_stride: of the stem convolution.
    """

    name: str
    resolutions: tuple[int, ...]
    stem: tuple[int, ...]
    stages: tuple[Stage, ...]
    classes: int
    precisions: tuple[str, ...] = ("fp32", "int8")
    channels: int = 3
    stem_kernel: int = 3
    stem_stride: int = 1

    def space(self) -> SearchSpace:
        """The search space of this family.

        Raises:
            InvalidInput: a stage is not of a residual kind, or has a depth below 1.
        """
        return _Lowering(self).space()


class _Lowering:
    """Collects choices and slots while walking down a chain."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.choices: list[Choice] = []
        self.slots: list[Slot] = []

    def space(self) -> SearchSpace:
        chain = self.chain
        self.choices += [
            Choice("resolution", chain.resolutions),
            Choice("stem.out", chain.stem),
            Choice("stem.precision", chain.precisions),
        ]
        scale = _Scale(1)
        self._boundary("input", ("resolution",), lambda: chain.channels, scale, None, "stem.precision")

        def stem(resolution: int, out: int, precision: str) -> tuple[Block, ...]:
            return (Block("conv", chain.channels, out, resolution, (), chain.stem_kernel, chain.stem_stride, 1, precision),)

        self.slots.append(Slot("stem", ("resolution", "stem.out", "stem.precision"), stem))
        scale = scale.then(chain.stem_stride)
        ends: list[tuple[tuple[str, int] | None, str]] = [(None, "stem.precision")]
        width = "stem.out"
        for number, stage in enumerate(chain.stages, start=1):
            ends, width, scale = self._stage(f"stage{number}", stage, ends, width, scale)
        self._joins("head", ends, width, scale, None)

        def head(resolution: int, width: int, scale: _Scale = scale) -> tuple[Block, ...]:
            return (Block("head", width, chain.classes, scale(resolution)),)

        self.slots.append(Slot("head", ("resolution", width), head))
        return SearchSpace(chain.name, tuple(self.choices), tuple(self.slots))

    def _stage(
        self, name: str, stage: Stage, ends: list[tuple[tuple[str, int] | None, str]], width: str, scale: _Scale
    ) -> tuple[list[tuple[tuple[str, int] | None, str]], str, _Scale]:
        """Add a stage; returns the places where it may end, the gene of its width, and the scale after it."""
        if stage.kind not in _MIDS:
            raise InvalidInput(f"{name}: a stage holds {' or '.join(_MIDS)} blocks, not {stage.kind!r}.")
        if min(stage.depths) < 1:
            raise InvalidInput(f"{name}: a stage has at least one block, and depth {min(stage.depths)} is offered.")
        depth, out = f"{name}.depth", f"{name}.out"
        self.choices += [Choice(depth, stage.depths), Choice(out, stage.outs)]
        last: list[tuple[tuple[str, int] | None, str]] = []
        for number in range(1, max(stage.depths) + 1):
            block = f"{name}.block{number}"
            deep = tuple(value for value in stage.depths if value >= number)
            optional = len(deep) < len(stage.depths)
            needs = (depth, deep) if optional else None
            mids = tuple(f"{block}.{mid}" for mid in _MIDS[stage.kind])
            precision = f"{block}.precision"
            self.choices += [Choice(mid, stage.mids, needs) for mid in mids]
            self.choices.append(Choice(precision, self.chain.precisions, needs))
            if number == 1:
                self._joins(block, ends, width, scale, precision)
                stride, source, after = stage.stride, width, scale.then(stage.stride)
            else:
                at_least = (depth, number)
                self._boundary(
                    f"{block}.input", ("resolution", out), None, scale, f"{name}.block{number - 1}.precision", precision, at_least
                )
                stride, source, after = 1, out, scale
            self._residual(block, stage, source, out, mids, precision, scale, stride, (depth, number) if optional else None)
            scale = after
            if number in stage.depths:
                last.append(((depth, number) if len(stage.depths) > 1 else None, precision))
        return last, out, scale

    def _residual(
        self,
        name: str,
        stage: Stage,
        source: str,
        out: str,
        mids: tuple[str, ...],
        precision: str,
        scale: _Scale,
        stride: int,
        at_least: tuple[str, int] | None,
    ) -> None:
        genes = ("resolution", out, *mids, precision)
        first = source != out
        genes += (source,) if first else ()
        genes += (at_least[0],) if at_least else ()
        count = len(mids)

        def lower(resolution: int, width: int, *rest: int | str) -> tuple[Block, ...]:
            if at_least and int(rest[-1]) < at_least[1]:
                return ()
            inner = tuple(int(mid) for mid in rest[:count])
            cin = int(rest[count + 1]) if first else width
            return (Block(stage.kind, cin, width, scale(resolution), inner, stage.kernel, stride, 1, str(rest[count])),)

        self.slots.append(Slot(name, genes, lower))

    def _joins(self, name: str, ends: list[tuple[tuple[str, int] | None, str]], width: str, scale: _Scale, precision: str | None) -> None:
        """The boundaries between each place where the former stage may end and what follows."""
        for end, before in ends:
            suffix = f".input.depth{end[1]}" if end else ".input"
            self._boundary(name + suffix, ("resolution", width), None, scale, before, precision, None, end)

    def _boundary(
        self,
        name: str,
        genes: tuple[str, ...],
        channels: Callable[[], int] | None,
        scale: _Scale,
        before: str | None,
        after: str | None,
        at_least: tuple[str, int] | None = None,
        exactly: tuple[str, int] | None = None,
    ) -> None:
        """A change of precision between two genes (``None``: fp32), present only while the depth is as given."""
        if len(self.chain.precisions) == 1 and before is not None and after is not None:
            return
        depth = at_least or exactly
        sides = [gene for gene in (before, after) if gene is not None]
        all_genes = (*genes, *sides, *([depth[0]] if depth else []))

        def lower(resolution: int, *rest: int | str) -> tuple[Block, ...]:
            if at_least and int(rest[-1]) < at_least[1]:
                return ()
            if exactly and int(rest[-1]) != exactly[1]:
                return ()
            values = list(rest)
            width = channels() if channels else int(values.pop(0))
            left = str(values.pop(0)) if before is not None else "fp32"
            right = str(values.pop(0)) if after is not None else "fp32"
            return boundary(left, right, width, scale(resolution))

        self.slots.append(Slot(name, all_genes, lower))


@dataclass(frozen=True)
class _Scale:
    """How much smaller than the input a feature map is."""

    strides: int

    def then(self, stride: int) -> _Scale:
        return _Scale(self.strides * stride)

    def __call__(self, resolution: int) -> int:
        return -(-int(resolution) // self.strides)


def boundary(left: str, right: str, width: int, size: int) -> tuple[Block, ...]:
    """The blocks that turn a feature map of one precision into another: dequantise, quantise, both or none."""
    if left == right:
        return ()
    blocks = []
    if left != "fp32":
        blocks.append(Block("dequantize", width, width, size, precision=left))
    if right != "fp32":
        blocks.append(Block("quantize", width, width, size, precision=right))
    return tuple(blocks)
