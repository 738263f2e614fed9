"""MobileNetV3's blocks for 32-px images (Howard et al., ICCV'19, section 5), made elastic.

Later stages have squeeze-and-excite and hard swish, and a hidden layer follows the average, as in the original.
"""

from __future__ import annotations

from dataclasses import replace

from .._chain import Chain, Stage
from .._space import SearchSpace

CHAIN = Chain(
    name="mobilenetv3_cifar",
    resolutions=(24, 28, 32),
    stem=(),
    stages=(
        Stage(1, 16, kind="conv", activation="hswish", name="stem"),
        Stage(1, 16, kind="separable", name="first"),
        Stage((1, 2, 3), (16, 24), stride=2, kind="mbconv", kernel=(3, 5, 7), expands=(3, 4, 6)),
        Stage((1, 2, 3), (24, 32, 40), stride=2, kind="mbconv", kernel=(3, 5, 7), expands=(3, 4, 6), excited=True),
        Stage((1, 2, 3), (48, 64, 80), kind="mbconv", kernel=(3, 5, 7), expands=(3, 4, 6), excited=True, activation="hswish"),
        Stage(1, (160, 240, 320), kind="conv", kernel=1, activation="hswish", name="final"),
    ),
    classes=10,
    mix=256,
    mix_activation="hswish",
)


def build(precisions: tuple[str, ...] = CHAIN.precisions, classes: int = CHAIN.classes, channels: int = CHAIN.channels) -> SearchSpace:
    """The space ``mobilenetv3_cifar``.

    Args:
        precisions: to choose from for the stem and each block.
        classes: outputs of the classifier.
        channels: of the images.
    """
    return replace(CHAIN, precisions=tuple(precisions), classes=classes, channels=channels).space()
