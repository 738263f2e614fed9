"""Once-for-All's MobileNetV3 space (Cai et al., ICLR'20, section 3.2; MobileNetV3-Large: Howard et al., ICCV'19, table 1)."""

from __future__ import annotations

from .._chain import Chain, Stage, divisible
from .._space import SearchSpace

RESOLUTIONS = (160, 176, 192, 208, 224)


def build(width: float = 1.2, resolutions: tuple[int, ...] = RESOLUTIONS, classes: int = 1000, channels: int = 3) -> SearchSpace:
    """The space ``ofa_mobilenetv3``.

    Args:
        width: multiplies all widths; Once-for-All was trained at 1.0 and 1.2, and its Note10 table was measured at 1.2.
        resolutions: of the input image, px.
        classes: outputs of the classifier.
        channels: of the images.
    """

    def stage(out: int, stride: int, activation: str, excited: bool) -> Stage:
        return Stage(
            depths=(2, 3, 4),
            outs=divisible(out * width),
            stride=stride,
            kind="mbconv",
            kernel=(3, 5, 7),
            expands=(3, 4, 6),
            excited=excited,
            activation=activation,
        )

    def fixed(name: str, out: int, kind: str, stride: int, kernel: int, activation: str) -> Stage:
        return Stage(1, divisible(out * width), stride=stride, kind=kind, kernel=kernel, activation=activation, name=name)

    chain = Chain(
        name="ofa_mobilenetv3" if width == 1.2 else f"ofa_mobilenetv3_w{width:.1f}",
        resolutions=resolutions,
        stem=(),
        stages=(
            fixed("stem", 16, "conv", 2, 3, "hswish"),
            fixed("first", 16, "separable", 1, 3, "relu"),
            stage(24, 2, "relu", excited=False),
            stage(40, 2, "relu", excited=True),
            stage(80, 2, "hswish", excited=False),
            stage(112, 1, "hswish", excited=True),
            stage(160, 2, "hswish", excited=True),
            fixed("final", 960, "conv", 1, 1, "hswish"),
        ),
        classes=classes,
        channels=channels,
        precisions=(),
        mix=divisible(1280 * width),
        mix_activation="hswish",
        by_resolution=True,
    )
    return chain.space()


def build_narrow(resolutions: tuple[int, ...] = RESOLUTIONS, classes: int = 1000, channels: int = 3) -> SearchSpace:
    """The space ``ofa_mobilenetv3_w1.0``: the same at width 1.0 (arguments as of :func:`build`)."""
    return build(1.0, resolutions, classes, channels)
