"""ResNet-50 (He et al., CVPR'16, table 1) with elastic depth, widths and expand ratios, as Intel's MLPerf v2.0 networks have them."""

from __future__ import annotations

from .._chain import Chain, Stage
from .._space import SearchSpace
from .ofa_resnet50 import EXPANDS, SCALES


def build(resolutions: tuple[int, ...] = (128, 144, 160, 176, 192, 208, 224), classes: int = 1000, channels: int = 3) -> SearchSpace:
    """The space ``bootstrapnas_resnet50``.

    Widths and expand ratios are those of Once-for-All's ResNet-50 space; stem and shortcuts are the plain ones of ResNet-50.

    Args:
        resolutions: of the input image, px.
        classes: outputs of the classifier.
        channels: of the images.
    """

    def stage(depths: tuple[int, ...], out: int, stride: int) -> Stage:
        return Stage(depths, out, stride=stride, kind="bottleneck", scales=SCALES, expands=EXPANDS)

    chain = Chain(
        name="bootstrapnas_resnet50",
        resolutions=resolutions,
        stem=(),
        stages=(
            Stage(1, 64, stride=2, kind="conv", kernel=7, scales=SCALES, name="stem"),
            Stage(1, None, stride=2, kind="maxpool", name="pool"),
            stage((2, 3), 256, 1),
            stage((2, 3, 4), 512, 2),
            stage((4, 5, 6), 1024, 2),
            stage((2, 3), 2048, 2),
        ),
        classes=classes,
        channels=channels,
        precisions=(),
    )
    return chain.space()
