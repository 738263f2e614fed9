"""Operations that work value by value, and those that move over positions of a map: channels stay where they are."""

from __future__ import annotations

from torch import fx

from .._axes import Axes, Factor
from ._broadcasting import FIXED, merge
from .base import Call, rule


@rule(
    "pointwise",
    # Value by value too, though torch does not tag them so.
    *("hardswish", "hardsigmoid", "hardtanh", "relu6", "leaky_relu", "elu", "selu", "celu", "mish", "softplus", "logsigmoid", "threshold"),
    *("softshrink", "hardshrink", "rrelu", "clamp", "clip", "where", "masked_fill", "fill", "lerp", "copy"),
    *("dropout", "feature_dropout", "alpha_dropout", "__and__", "__or__", "__xor__"),
)
def value_by_value(call: Call) -> Axes:
    """Channels at the same place are tied."""
    return merge(call.flow, call.node, [each for each in call.args.values() if isinstance(each, fx.Node) and "shape" in each.meta])


@rule(
    *("contiguous", "clone", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh_copy", "zero", "float", "half"),
    *("positive", "requires_grad", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "_assert_tensor_metadata"),
)
def unchanged(call: Call) -> Axes:
    """The result has the channels of the first argument."""
    return call.axes(next(name for name, value in call.args.items() if isinstance(value, fx.Node)))


@rule("prelu")
def prelu(call: Call) -> Axes:
    """One slope for all channels, or one for each."""
    if call.shape_of("weight")[0] > 1:
        call.match(call.along("self", 1), call.along("weight", 0), FIXED)
    return call.axes("self")


@rule("glu")
def glu(call: Call) -> Axes:
    """Two halves of an axis, one of which gates the other: a channel and its gate go together."""
    dim = call.dim("self", call.args["dim"])
    labels = call.along("self", dim)
    rest = tuple(factor for factor in call.axes("self") if dim not in factor.dims)
    if labels is None:
        return rest
    half = len(labels) // 2
    call.atoms.tie(labels[:half], labels[half:])
    return (*rest, Factor((dim,), labels[:half]))


@rule(
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool2d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_nearest1d"),
    *("upsample_trilinear3d", "upsample_nearest3d", "_upsample_nearest_exact2d"),
)
def over_positions(call: Call) -> Axes:
    """Works on the positions of each channel alone; the result has as many axes as the input."""
    name = "self" if "self" in call.args else "input"
    spatial = {"1d": 1, "3d": 3}.get(call.name[-2:], 2)
    rank = len(call.shape_of(name))
    return call.lose(call.axes(name), range(rank - spatial, rank), "positions that are pooled or resampled")


@rule("max_pool2d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d_with_indices")
def with_indices(call: Call) -> list[Axes]:
    """As the pooling, with the places of the largest values as second result."""
    axes = over_positions(call)
    return [axes, axes]
