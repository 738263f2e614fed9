"""Inverted bottlenecks for 32-px images: MobileNetV2's blocks (Sandler et al., CVPR'18, table 1) made elastic."""

from __future__ import annotations

from dataclasses import replace

from .._chain import Chain, Stage
from .._space import SearchSpace

CHAIN = Chain(
    name="mobilenetv2_cifar",
    resolutions=(24, 28, 32),
    stem=(),
    stages=(
        Stage(1, 16, kind="conv", activation="relu6", name="stem"),
        Stage(1, 16, kind="separable", activation="relu6", name="first"),
        Stage((1, 2, 3), (16, 24), stride=2, kind="mbconv", kernel=(3, 5, 7), expands=(3, 4, 6), activation="relu6"),
        Stage((1, 2, 3), (24, 32, 40), stride=2, kind="mbconv", kernel=(3, 5, 7), expands=(3, 4, 6), activation="relu6"),
        Stage((1, 2, 3), (48, 64, 80), kind="mbconv", kernel=(3, 5, 7), expands=(3, 4, 6), activation="relu6"),
        Stage(1, (160, 240, 320), kind="conv", kernel=1, activation="relu6", name="final"),
    ),
    classes=10,
)


def build(precisions: tuple[str, ...] = CHAIN.precisions, classes: int = CHAIN.classes, channels: int = CHAIN.channels) -> SearchSpace:
    """The space ``mobilenetv2_cifar``.

    Args:
        precisions: to choose from for the stem and each block.
        classes: outputs of the classifier.
        channels: of the images.
    """
    return replace(CHAIN, precisions=tuple(precisions), classes=classes, channels=channels).space()
