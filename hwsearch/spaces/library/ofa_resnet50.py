"""Once-for-All's ResNet-50 space (Cai et al., ICLR'20): ResNet-50-D (He et al., CVPR'19) with elastic depth, widths and expand ratios."""

from __future__ import annotations

from .._chain import Chain, Stage
from .._space import SearchSpace

RESOLUTIONS = (128, 144, 160, 176, 192, 224, 240, 256)
SCALES = (0.65, 0.8, 1.0)
EXPANDS = (0.2, 0.25, 0.35)


def build(
    resolutions: tuple[int, ...] = RESOLUTIONS, precisions: tuple[str, ...] = (), classes: int = 1000, channels: int = 3
) -> SearchSpace:
    """The space ``ofa_resnet50``.

    The stem is three convolutions, the second of them residual and optional, and a max pooling. Up to two blocks are added to each of the
    stages of ResNet-50.

    Args:
        resolutions: of the input image, px.
        precisions: of each block and of the classifier; fp32 if empty. Once-for-All's predictors know nothing of them.
        classes: outputs of the classifier.
        channels: of the images.
    """

    def stage(blocks: int, out: int, stride: int) -> Stage:
        depths = (blocks, blocks + 1, blocks + 2)
        return Stage(depths, out, stride=stride, kind="bottleneckd", scales=SCALES, expands=EXPANDS)

    chain = Chain(
        name="ofa_resnet50",
        resolutions=resolutions,
        stem=(),
        stages=(
            Stage(1, 32, stride=2, kind="conv", scales=SCALES, name="stem1"),
            Stage((0, 1), None, kind="resconv", name="stem2"),
            Stage(1, 64, kind="conv", scales=SCALES, name="stem3"),
            Stage(1, None, stride=2, kind="maxpool", name="pool"),
            stage(2, 256, 1),
            stage(2, 512, 2),
            stage(4, 1024, 2),
            stage(2, 2048, 2),
        ),
        classes=classes,
        channels=channels,
        precisions=precisions,
        head_precisions=precisions or "fp32",
    )
    return chain.space()
