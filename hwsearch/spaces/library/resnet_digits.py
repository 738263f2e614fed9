"""Small residual networks for grey scanned digits: the space of the demonstration, quick to profile and to train."""

from __future__ import annotations

from dataclasses import replace

from .._chain import Chain, Stage
from .._space import SearchSpace

CHAIN = Chain(
    name="resnet_digits",
    resolutions=(8, 12, 16),
    stem=(8, 16),
    stages=(
        Stage(depths=(1, 2), outs=(8, 12, 16), mids=(4, 8, 12, 16)),
        Stage(depths=(1, 2), outs=(16, 24, 32), mids=(8, 16, 24, 32), stride=2),
        Stage(depths=(1, 2), outs=(24, 32, 48), mids=(16, 24, 32, 48), stride=2),
    ),
    classes=10,
    channels=1,
)


def build(precisions: tuple[str, ...] = CHAIN.precisions, classes: int = CHAIN.classes, channels: int = CHAIN.channels) -> SearchSpace:
    """The space ``resnet_digits``.

    Args:
        precisions: to choose from for the stem and each block.
        classes: outputs of the classifier.
        channels: of the images.
    """
    return replace(CHAIN, precisions=tuple(precisions), classes=classes, channels=channels).space()
