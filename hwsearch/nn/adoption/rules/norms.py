"""Normalisations. Where statistics run over channels, they are taken from the channels that are kept, in the proof too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from .._axes import Axes, Factor, on, tie_along
from .base import Call, Rewriting, rows, rule

_FIXED = "the normalised axis is of fixed size"
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def _follow(call: Call, dim: int, names: tuple[str, ...] = ("weight", "bias")) -> None:
    """Tie parameters of one value a channel to an axis of the input."""
    for name in names:
        if isinstance(call.args.get(name), fx.Node):
            call.match(call.along("input", dim), call.along(name, 0), _FIXED)


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training")
def batch_norm(call: Call) -> Axes:
    """Every channel by itself; its parameters and statistics follow it."""
    _follow(call, 1, _STATISTICS)
    training = call.args.get("use_input_stats", call.args.get("training", False))
    axes = call.axes("input")
    return call.lose(axes, range(2, len(call.shape)), "positions that statistics run over") if training else axes


def _group_count(call: Call, cut: Rewriting) -> fx.Node:
    groups, channels = call.args["num_groups"], call.shape[1]
    return cut.copy(call, num_groups=groups if groups == 1 else cut.size(call.args["input"], 1) // (channels // groups))


def _masked_group_norm(call: Call, values: dict[str, Any], mask: Callable[[Axes], Any]) -> Any:
    x, groups = values["input"], values["num_groups"]
    kept = mask(call.axes("input"))
    if kept is None or groups > 1:
        return call.run(*values.values())
    dims = tuple(range(1, x.ndim))
    return _affine(_standardise(x, kept, dims, values["eps"]), values, (1, -1) + (1,) * (x.ndim - 2))


@rule("group_norm", rewrite=_group_count, masked=_masked_group_norm)
def group_norm(call: Call) -> Axes:
    """Whole groups are removed, which leaves the others' statistics as they are; a single group loses channels."""
    _follow(call, 1)
    labels, groups = call.along("input", 1), call.args["num_groups"]
    if labels is not None and groups > 1:
        call.atoms.tie(rows(labels, groups), rows(labels, groups)[:, :1])
    return call.lose(call.axes("input"), range(2, len(call.shape)), "positions that statistics run over")


def _normalised(call: Call, cut: Rewriting) -> fx.Node:
    shape = call.args["normalized_shape"]
    first = len(call.shape) - len(shape)
    return cut.copy(call, normalized_shape=[cut.size(call.args["input"], first + place) for place in range(len(shape))])


def _masked_layer_norm(call: Call, values: dict[str, Any], mask: Callable[[Axes], Any]) -> Any:
    x = values["input"]
    kept = mask(tuple(factor for factor in call.axes("input") if max(factor.dims) >= x.ndim - len(values["normalized_shape"])))
    if kept is None:
        return call.run(*values.values())
    dims = tuple(range(x.ndim - len(values["normalized_shape"]), x.ndim))
    shape = (1,) * (x.ndim - len(dims)) + tuple(x.shape[dim] for dim in dims)
    centred = call.name == "layer_norm"
    eps = values["eps"] if values["eps"] is not None else torch.finfo(x.dtype).eps
    return _affine(_standardise(x, kept, dims, eps, centred), values, shape)


@rule("layer_norm", "rms_norm", rewrite=_normalised, masked=_masked_layer_norm)
def layer_norm(call: Call) -> Axes:
    """Channels may be removed from the normalised axes; what is left gives the statistics."""
    rank = len(call.args["normalized_shape"])
    first = len(call.shape) - rank
    for place in range(rank):
        factor = on(call.axes("input"), first + place)
        labels = call.along("input", first + place) if factor else None
        for name in ("weight", "bias"):
            if isinstance(call.args.get(name), fx.Node):
                call.match(labels, call.along(name, place), _FIXED)
    return tuple(factor for factor in (_alone(call, each, first) for each in call.axes("input")) if factor)


def _alone(call: Call, factor: Factor, first: int) -> Factor | None:
    """A factor on a normalised axis, tied over its other axes: statistics are taken from the same channels everywhere."""
    if len(factor.dims) == 1 or max(factor.dims) < first:
        return factor
    return tie_along(call.atoms, factor, factor.dims[:-1])


def _standardise(x: torch.Tensor, kept: torch.Tensor, dims: tuple[int, ...], eps: float, centred: bool = True) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation of what is kept."""
    kept = kept.expand([x.shape[dim] if dim in dims else 1 for dim in range(x.ndim)])
    count = kept.sum(dims, keepdim=True)
    mean = (x * kept).sum(dims, keepdim=True) / count if centred else torch.zeros((), dtype=x.dtype)
    variance = ((x - mean).square() * kept).sum(dims, keepdim=True) / count
    return (x - mean) / torch.sqrt(variance + eps)


def _affine(x: torch.Tensor, values: dict[str, Any], shape: tuple[int, ...]) -> torch.Tensor:
    """Scale and shift by the parameters, where there are any."""
    weight, bias = values.get("weight"), values.get("bias")
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)
