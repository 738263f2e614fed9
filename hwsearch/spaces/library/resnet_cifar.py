"""Residual networks for 32-px images: the ResNet-20 family (He et al., CVPR'16, section 4.2) made elastic."""

from __future__ import annotations

from dataclasses import replace

from .._chain import Chain, Stage
from .._space import SearchSpace

CHAIN = Chain(
    name="resnet_cifar",
    resolutions=(24, 28, 32),
    stem=(8, 16),
    stages=(
        Stage(depths=(1, 2, 3), outs=(8, 12, 16), mids=(8, 12, 16, 24)),
        Stage(depths=(1, 2, 3), outs=(16, 24, 32), mids=(16, 24, 32, 48), stride=2),
        Stage(depths=(1, 2, 3), outs=(32, 48, 64), mids=(32, 48, 64, 96), stride=2),
    ),
    classes=10,
)


def build(precisions: tuple[str, ...] = CHAIN.precisions, classes: int = CHAIN.classes, channels: int = CHAIN.channels) -> SearchSpace:
    """The space ``resnet_cifar``.

    Args:
        precisions: to choose from for the stem and each block.
        classes: outputs of the classifier.
        channels: of the images.
    """
    return replace(CHAIN, precisions=tuple(precisions), classes=classes, channels=channels).space()
