"""Chain: the one lowering from stages of blocks to a search space.

A chain is a sequence of stages and a classifier. Its genes are the input resolution, per stage the depth and the output width (one
gene, since the residual sums tie the outputs of a stage), and per block its inner widths (or its expand ratio), its kernel and its
precision. What is given as one value and not as a tuple of values is fixed, and is no gene. Where two neighbours differ in
precision, the feature map between them is quantised or dequantised; these boundaries are slots of their own, because they cost time of
their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from ..errors import InvalidInput, check_count
from ..networks._blocks import Block
from ..networks._precision import Precision
from ._builder import Knob, Needs, SpaceBuilder
from ._space import SearchSpace

_MIDS = {
    "basic": ("mid",),
    "bottleneck": ("mid1", "mid2"),
    "bottleneckd": ("mid1", "mid2"),
    "mbconv": ("mid",),
    "separable": (),
    "conv": (),
    "resconv": (),
    "maxpool": (),
}
_FP32 = Knob(None, "fp32", ("fp32",))
_End = tuple[Needs | None, Knob]
"""Where a stage may end: while a gene has a certain value (or always), with a feature map of a certain precision."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one output width.

    Example:
        >>> from hwsearch.spaces import Chain, Stage
        >>> wide = Stage(depths=(1, 2), outs=32, mids=(16, 32), stride=2)
        >>> chain = Chain("own", (32,), (16,), (wide,), classes=10, precisions=())
        >>> {choice.name: choice.values for choice in chain.space().choices}
        {'resolution': (32,), 'stem.out': (16,), 'stage1.depth': (1, 2), 'stage1.block1.mid': (16, 32), 'stage1.block2.mid': (16, 32)}

    Attributes:
        depths: how many blocks; the first ones are kept (Once-for-All, ICLR'20, section 3.2).
        outs: output widths, shared by the blocks of the stage; ``None`` keeps the width of what comes before.
        mids: widths inside each block, chosen per block and layer; one number if it is fixed.
        stride: of the first block.
        kind: of the blocks.
        kernel: of the spatial convolutions; several are chosen per block.
        scales: width multipliers of the one width ``outs``, chosen in its place (gene ``width``).
        expands: in the place of ``mids``, one ratio per block: the inner width relative to the block's input (``mbconv``) or to its
            output (residual kinds).
        excited: whether ``mbconv`` and ``separable`` blocks have a squeeze-and-excite, of a quarter of their inner width.
        activation: as of a block.
        precisions: of its blocks, if they are not those of the chain: first and last layers often keep 8 bits.
        name: of its genes and slots; ``"stage1"`` and so on if empty. A named stage of one block is one slot of that name.
    """

    depths: tuple[int, ...] | int
    outs: tuple[int, ...] | int | None
    mids: tuple[int, ...] | int = ()
    stride: int = 1
    kind: str = "basic"
    kernel: tuple[int, ...] | int = 3
    scales: tuple[float, ...] = ()
    expands: tuple[float, ...] = ()
    excited: bool = False
    activation: str = "relu"
    precisions: tuple[str, ...] | str = ()
    name: str = ""

    @property
    def most(self) -> int:
        """The greatest depth."""
        return self.depths if isinstance(self.depths, int) else max(self.depths)

    @property
    def least(self) -> int:
        """The smallest depth."""
        return self.depths if isinstance(self.depths, int) else min(self.depths)


@dataclass(frozen=True)
class Chain:
    """A family of networks as plain data.

    Example:
        >>> from hwsearch.spaces import Chain, Stage
        >>> stages = (Stage((1, 2), (16, 32), (8, 16)), Stage(1, 32, expands=(1.0, 2.0), stride=2))
        >>> [choice.name for choice in Chain("own", (24, 32), (), stages, classes=10, precisions=()).space().choices][:4]
        ['resolution', 'stage1.depth', 'stage1.out', 'stage1.block1.mid']

    Attributes:
        name: of the space.
        resolutions: heights and widths of the input image, px.
        stem: widths of the stem convolution; if empty, the first stage reads the image.
        stages: the stages in order.
        classes: outputs of the classifier.
        precisions: of the stem and of each block. If empty, all of them are fp32.
        channels: of the input image.
        stem_kernel, stem_stride: of the stem convolution.
        mix: width of a hidden linear layer of the classifier; 0 for none.
        mix_activation: what follows that layer.
        head_precisions: of the classifier; its outputs are floats in any case.
        by_resolution: whether blocks carry the resolution as their context, for tables that measure each resolution on its own.
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
    mix: int = 0
    mix_activation: str = "relu"
    head_precisions: tuple[str, ...] | str = "fp32"
    by_resolution: bool = False

    def space(self) -> SearchSpace:
        """The search space of this family.

        Raises:
            InvalidInput: a stage of an unknown kind, of a depth below 1, or with widths that its kind does not have; no class.
        """
        return _Lowering(self).space()


@dataclass(frozen=True)
class _Place:
    """Where a block stands: in which stage, after which strides, and its own stride."""

    stage: Stage
    strides: int
    stride: int


class _Lowering:
    """Walks down a chain, collecting choices and slots."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.builder = SpaceBuilder()
        self.resolution = self.builder.knob("resolution", chain.resolutions, role="resolution")

    def space(self) -> SearchSpace:
        chain = self.chain
        check_count("classes", chain.classes, least=1)
        stem = Stage(1, chain.stem, (), chain.stem_stride, "conv", chain.stem_kernel, name="stem")
        stages = ((stem,) if chain.stem else ()) + chain.stages
        ends: list[_End] = [(None, _FP32)]
        width, strides = Knob(None, chain.channels), 1
        number = 0
        for index, stage in enumerate(stages):
            number += not stage.name
            ends, width, strides = self._stage(stage, stage.name or f"stage{number}", ends, width, strides, first=index == 0)
        precision = self.builder.knob("head.precision", chain.head_precisions, role="precision")
        self._joins("head.input", ends, width, strides, precision)
        self.builder.slot("head", {"resolution": self.resolution, "cin": width, "precision": precision}, partial(self._head, strides))
        return self.builder.space(chain.name)

    def _stage(self, stage: Stage, name: str, ends: list[_End], cin: Knob, strides: int, *, first: bool) -> tuple[list[_End], Knob, int]:
        """Add a stage; returns the places where it may end, its width, and the stride after it."""
        self._check(stage, name)
        builder = self.builder
        depth = builder.knob(f"{name}.depth", stage.depths, role="depth")
        cout = self._width(stage, name, cin)
        precisions = [ends[0][1]]
        for number in range(1, stage.most + 1):
            block = name if stage.name and stage.most == 1 else f"{name}.block{number}"
            deep = tuple(value for value in depth.values if int(value) >= number)
            needs = (depth.gene, deep) if depth.gene and len(deep) < len(depth.values) else None
            genes = {mid: builder.knob(f"{block}.{mid}", stage.mids, needs, role="width") for mid in _MIDS[stage.kind] if stage.mids}
            if stage.expands:
                genes["expand"] = builder.knob(f"{block}.expand", stage.expands, needs, role="expand")
            genes["kernel"] = builder.knob(f"{block}.kernel", stage.kernel, needs, role="kernel")
            before = precisions[-1]
            if stage.kind == "maxpool":  # takes what it is given, if that is one thing
                precision = before if number > 1 or len(ends) == 1 else _FP32
            else:
                offered = stage.precisions or self.chain.precisions
                precision = builder.knob(f"{block}.precision", offered, needs, role="precision") if offered else _FP32
            if number == 1:
                self._joins("input" if first else f"{block}.input", ends, cin, strides, precision)
            else:
                self._boundary(f"{block}.input", cout, strides, before, precision, needs)
            knobs = {"resolution": self.resolution, "cout": cout, **genes, "precision": precision, "cin": cin if number == 1 else cout}
            stride = stage.stride if number == 1 else 1
            builder.slot(block, knobs, partial(self._block, _Place(stage, strides, stride)), needs)
            strides *= stride
            precisions.append(precision)
        after: list[_End] = [((depth.gene, (value,)) if depth.gene else None, precisions[int(value)]) for value in depth.values]
        return after, cout, strides

    def _check(self, stage: Stage, name: str) -> None:
        if stage.kind not in _MIDS:
            raise InvalidInput(f"{name}: a stage holds {', '.join(_MIDS)} blocks, not {stage.kind!r}.")
        if stage.least < 1 and not (stage.kind == "resconv" and stage.outs is None and len(self.chain.precisions) < 2):
            raise InvalidInput(f"{name}: a stage has at least one block, and depth {stage.least} is offered.")
        wanted = 1 if _MIDS[stage.kind] else 0
        if bool(stage.mids) + bool(stage.expands) != wanted:
            what = "either mids or expands" if wanted else "neither mids nor expands"
            raise InvalidInput(f"{name}: a stage holds {stage.kind} blocks with {what}.")

    def _width(self, stage: Stage, name: str, cin: Knob) -> Knob:
        if stage.outs is None:
            return cin
        if not stage.scales:
            return self.builder.knob(f"{name}.out", stage.outs, role="width")
        if not isinstance(stage.outs, int):
            raise InvalidInput(f"{name}: scales multiply one width, and outs is {stage.outs}.")
        widths = {scale: divisible(stage.outs * scale) for scale in stage.scales}
        return self.builder.knob(f"{name}.width", stage.scales, means=widths, role="width")

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _block(
        self,
        place: _Place,
        *,
        resolution: int,
        cin: int,
        cout: int,
        kernel: int,
        precision: str,
        expand: float = 0.0,
        **mids: int,
    ) -> tuple[Block, ...]:
        stage, inner = place.stage, tuple(mids.values())
        if expand:
            base = cin if stage.kind == "mbconv" else cout
            inner = (divisible(round(base * expand)),) * len(_MIDS[stage.kind])
        if stage.excited:
            inner += (divisible((inner[0] if inner else cin) // 4),)
        size, context = self._size(resolution, place.strides)
        return (_made(stage.kind, cin, cout, size, inner, kernel, place.stride, 1, precision, stage.activation, context),)

    def _head(self, strides: int, *, resolution: int, cin: int, precision: str) -> tuple[Block, ...]:
        mids = (self.chain.mix,) if self.chain.mix else ()
        size, context = self._size(resolution, strides)
        activation = self.chain.mix_activation
        return (Block("head", cin, self.chain.classes, size, mids, precision=precision, activation=activation, context=context),)

    def _size(self, resolution: int, strides: int) -> tuple[int, str]:
        """Size of the feature map, px, and context."""
        return -(-resolution // strides), str(resolution) if self.chain.by_resolution else ""

    # -- boundaries ----------------------------------------------------------------------------------------------------

    def _joins(self, name: str, ends: list[_End], width: Knob, strides: int, precision: Knob) -> None:
        """The boundaries between each place where the former stage may end and what follows."""
        for needs, before in ends:
            suffix = f".depth{needs[1][0]}" if needs else ""
            self._boundary(name + suffix, width, strides, before, precision, needs)

    def _boundary(self, name: str, width: Knob, strides: int, before: Knob, after: Knob, needs: Needs | None) -> None:
        """A change of precision."""
        if before == after or not any(boundary(str(left), str(right), 1, 1) for left in before.values for right in after.values):
            return
        knobs = {"resolution": self.resolution, "width": width, "left": before, "right": after}
        self.builder.slot(name, knobs, partial(_between, strides), needs)


def _between(strides: int, *, resolution: int, width: int, left: str, right: str) -> tuple[Block, ...]:
    """A boundary on a feature map that is ``strides`` times smaller than the image."""
    return boundary(left, right, width, -(-resolution // strides))


_made: Callable[..., Block] = cache(Block)
"""A block; kept, because the same one stands in very many cells of the slots."""


def divisible(width: float, by: int = 8) -> int:
    """The multiple of ``by`` nearest to ``width``, or the next one if that would lose more than a tenth (MobileNetV2's rule)."""
    near = max(by, int(width + by / 2) // by * by)
    return near + by if near < 0.9 * width else near


def boundary(left: str, right: str, width: int, size: int) -> tuple[Block, ...]:
    """The blocks that turn a feature map of one precision into another: dequantise, quantise, both or none.

    Only activations matter: between ``int8`` and ``w4a8`` there is nothing to do.
    """
    before, after = Precision.parse(left), Precision.parse(right)
    left, right = before.dense, after.dense  # sparse weights have dense feature maps
    integers = all(bits.quantized and bits.dense != "fp8" for bits in (before, after))
    if left == right or (integers and before.activation_bits == after.activation_bits):
        return ()
    blocks = []
    if left != "fp32":
        blocks.append(Block("dequantize", width, width, size, precision=left))
    if right != "fp32":
        blocks.append(Block("quantize", width, width, size, precision=right))
    return tuple(blocks)
