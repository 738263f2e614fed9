"""ResNet-50 (He et al., CVPR'16, table 1; stride in the 3x3, as torchvision has it since v1.5) to be compressed for one device.

Everything that costs time is a gene: the resolution, the width of the stem, per stage its depth and output width, per block both inner
widths and the precision, and the precision of the classifier. The largest row in fp32 is the network that everybody knows:
4.089 GMACs, 25.557 million parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import InvalidInput
from .._chain import Chain, Stage
from .._genes import Value
from .._space import SearchSpace

STAGES = (((2, 3), 64, 1), ((2, 3, 4), 128, 2), ((3, 4, 5, 6), 256, 2), ((2, 3), 512, 2))
"""Depths, inner width and stride of the first block of each stage; four times the inner width comes out."""
LEAST = 0.25
"""The narrowest width, relative to that of the dense network."""


def build(
    resolutions: tuple[int, ...] = (128, 160, 192, 224),
    precisions: tuple[str, ...] = ("fp32", "int8"),
    step: int = 8,
    mids: int = 13,
    outs: int = 7,
    classes: int = 1000,
    channels: int = 3,
    freeze: Mapping[str, Sequence[Value]] | None = None,
) -> SearchSpace:
    """The space ``resnet50``.

    A block is priced over its four widths together, so the blocks of the space number about ``4 outs^2 mids^2`` for each resolution and
    precision: more choices of widths go well with fewer of these.

    Args:
        resolutions: of the input image, px.
        precisions: of each block and of the classifier.
        step: all widths are multiples of it; 4 if the device runs these as well as multiples of 8.
        mids: how many inner widths a block has to choose from, at most.
        outs: how many widths a stage, and the stem, has to choose from, at most.
        classes: outputs of the classifier.
        channels: of the images.
        freeze: what stays as it is: gene name or pattern -> values, as :meth:`SearchSpace.restrict` takes them.

    Raises:
        InvalidInput: fewer than two widths to choose from, or a step that is not positive.
        UnknownName: ``freeze`` names no gene.
    """
    if step < 1 or mids < 2 or outs < 2:
        raise InvalidInput(f"step must be at least 1, and mids and outs at least 2, not {step}, {mids} and {outs}.")
    bottlenecks = tuple(
        Stage(depths, widths(4 * inner, step, outs), widths(inner, step, mids), stride, "bottleneck") for depths, inner, stride in STAGES
    )
    stem = Stage(1, widths(64, step, outs), (), 2, "conv", 7, name="stem")
    stages = (stem, Stage(1, None, (), 2, "maxpool", name="pool"), *bottlenecks)
    chain = Chain("resnet50", resolutions, (), stages, classes, precisions, head_precisions=precisions, channels=channels)
    space = chain.space()
    return space.restrict(freeze) if freeze else space


def widths(dense: int, step: int = 8, most: int = 13) -> tuple[int, ...]:
    """Multiples of ``step`` up to ``dense``, at most ``most`` of them, evenly from a quarter of it; ``dense`` itself is the last.

    Raises:
        InvalidInput: ``dense`` is no multiple of ``step``.
    """
    if dense % step:
        raise InvalidInput(f"step must divide the widths of ResNet-50, and {dense} is no multiple of {step}.")
    least = max(1, round(LEAST * dense / step))
    count = min(most, dense // step - least + 1)
    return tuple(step * round(least + (dense // step - least) * index / (count - 1)) for index in range(count))
