"""MobileNetV2 for ImageNet (Sandler et al., CVPR'18, table 2), made elastic: its largest network is the one that everybody knows.

Depths, widths and expand ratios are genes, and the precision of each block; the largest network in fp32 has 3.505 million parameters and is
torchvision's.
"""

from __future__ import annotations

from .._chain import Chain, Stage
from .._space import SearchSpace

STAGES = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""Output width, blocks, and stride of the first block."""
_SHARES = (0.5, 0.75, 1.0)


def build(
    resolutions: tuple[int, ...] = (128, 160, 192, 224),
    precisions: tuple[str, ...] = ("fp32", "int8"),
    classes: int = 1000,
    channels: int = 3,
) -> SearchSpace:
    """The space ``mobilenetv2``.

    Args:
        resolutions: of the input image, px.
        precisions: to choose from for the stem and each block.
        classes: outputs of the classifier.
        channels: of the images.
    """

    def stage(width: int, blocks: int, stride: int) -> Stage:
        outs = tuple(sorted({8 * round(share * width / 8) for share in _SHARES}))
        depths = tuple(range(max(1, blocks - 2), blocks + 1))
        return Stage(depths, outs, stride=stride, kind="mbconv", kernel=3, expands=(3, 4, 6), activation="relu6")

    chain = Chain(
        name="mobilenetv2",
        resolutions=resolutions,
        stem=(),
        stages=(
            Stage(1, 32, stride=2, kind="conv", activation="relu6", name="stem"),
            Stage(1, 16, kind="separable", activation="relu6", name="first"),
            *(stage(*each) for each in STAGES),
            Stage(1, 1280, kind="conv", kernel=1, activation="relu6", name="final"),
        ),
        classes=classes,
        precisions=precisions,
        channels=channels,
    )
    return chain.space()
