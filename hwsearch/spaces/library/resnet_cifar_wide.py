"""Residual networks for 32-px images that halve the image before their first block, and are wide in return: quick to train on a CPU."""

from __future__ import annotations

from dataclasses import replace

from .._chain import Chain, Stage
from .._space import SearchSpace

CHAIN = Chain(
    name="resnet_cifar_wide",
    resolutions=(16, 20, 24, 28, 32),
    stem=(16,),
    stages=(
        Stage(depths=(1, 2), outs=(24, 32), mids=(16, 24, 32), stride=2),
        Stage(depths=(1, 2), outs=(48, 64), mids=(32, 48, 64), stride=2),
        Stage(depths=(1, 2), outs=(96, 128), mids=(64, 96, 128), stride=2),
    ),
    classes=10,
)


def build(precisions: tuple[str, ...] = CHAIN.precisions, classes: int = CHAIN.classes, channels: int = CHAIN.channels) -> SearchSpace:
    """The space ``resnet_cifar_wide``.

    Args:
        precisions: to choose from for the stem and each block.
        classes: outputs of the classifier.
        channels: of the images.
    """
    return replace(CHAIN, precisions=tuple(precisions), classes=classes, channels=channels).space()
