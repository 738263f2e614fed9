"""APQ's joint space (Wang et al., CVPR'20): ProxylessNAS's backbone with elastic depth, kernels, channels and bit-widths.

Every convolution is a block of its own, since pointwise and depthwise convolutions have bit-widths of their own. BitFusion, the simulator
that APQ's table comes from, cannot run kernels of 7 with activations of 4 bits, so a kernel of 7 has another gene for those bits.
"""

from __future__ import annotations

from functools import cache, partial

from ...errors import check_count
from ...networks._blocks import Block
from .._builder import Knob, Needs, SpaceBuilder
from .._space import SearchSpace

STAGES = ((24, 2, 4), (40, 2, 4), (80, 2, 4), (96, 1, 4), (192, 2, 4), (320, 1, 1))
"""Output width, stride of the first block and most blocks of each stage (ProxylessNAS, ICLR'19)."""
BITS = (4, 6, 8)
_FIXED = "w8a8"


def build(classes: int = 1000) -> SearchSpace:
    """The space ``apq``.

    Args:
        classes: of the images; APQ's table is of 1,000.

    Raises:
        InvalidInput: no whole number of at least 1.
    """
    classes = check_count("classes", classes, least=1)
    builder = SpaceBuilder()
    stem = Block("conv", 3, 32, 224, (), 3, 2, precision=_FIXED)
    builder.fixed("stem", stem, Block("separable", 32, 16, 112, (), 3, precision=_FIXED))
    cin, size = 16, 112
    for number, (cout, stride, most) in enumerate(STAGES, start=1):
        depth = builder.knob(f"stage{number}.depth", (2, 3, 4), role="depth") if most > 1 else Knob(None, 1, (1,))
        for block in range(1, most + 1):
            deep = tuple(value for value in depth.values if int(value) >= block)
            needs = (depth.gene, deep) if depth.gene and len(deep) < len(depth.values) else None
            _block(builder, f"stage{number}.block{block}", cin, cout, size, stride if block == 1 else 1, needs)
            cin, size = cout, -(-size // stride) if block == 1 else size
    builder.fixed("final", Block("conv", 320, 1280, 7, precision=_FIXED), Block("head", 1280, classes, 7, precision=_FIXED))
    return builder.space("apq")


def _block(builder: SpaceBuilder, name: str, cin: int, cout: int, size: int, stride: int, needs: Needs | None) -> None:
    """Genes and slots of one inverted bottleneck."""
    mid = builder.knob(f"{name}.mid", tuple(range(4 * cin, 6 * cin + 1, 8)), needs, role="width")
    kernel = builder.knob(f"{name}.kernel", (3, 5, 7), needs, role="kernel")
    pointwise = {
        "weight_bits": builder.knob(f"{name}.pointwise.weight_bits", BITS, needs),
        "activation_bits": builder.knob(f"{name}.pointwise.activation_bits", BITS, needs),
    }
    depthwise = {
        "weight_bits": builder.knob(f"{name}.depthwise.weight_bits", BITS, needs),
        "activation_bits": builder.knob(f"{name}.depthwise.activation_bits", BITS, (f"{name}.kernel", (3, 5))),
        "activation_bits_7": builder.knob(f"{name}.depthwise.activation_bits_7", BITS[1:], (f"{name}.kernel", (7,))),
    }
    after = -(-size // stride)
    builder.slot(f"{name}.expand", {"cout": mid, **pointwise}, partial(_pointwise, size=size, cin=cin), needs)
    builder.slot(f"{name}.depthwise", {"mid": mid, "kernel": kernel, **depthwise}, partial(_depthwise, size, stride), needs)
    builder.slot(f"{name}.project", {"cin": mid, **pointwise}, partial(_pointwise, size=after, cout=cout), needs)


def _pointwise(*, cin: int, cout: int, size: int, weight_bits: int, activation_bits: int) -> tuple[Block, ...]:
    return _conv(cin, cout, size, 1, 1, 1, weight_bits, activation_bits)


def _depthwise(
    size: int, stride: int, *, mid: int, kernel: int, weight_bits: int, activation_bits: int, activation_bits_7: int
) -> tuple[Block, ...]:
    return _conv(mid, mid, size, kernel, stride, mid, weight_bits, activation_bits_7 if kernel == 7 else activation_bits)


@cache
def _conv(
    cin: int, cout: int, size: int, kernel: int, stride: int, groups: int, weight_bits: int, activation_bits: int
) -> tuple[Block, ...]:
    """One convolution; kept, because the same one stands in very many cells of the slots."""
    return (Block("conv", cin, cout, size, (), kernel, stride, groups, f"w{weight_bits}a{activation_bits}"),)
