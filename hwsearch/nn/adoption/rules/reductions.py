"""Sums, means, extremes and distributions along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._axes import Axes, Factor, on, tie_along
from ._broadcasting import merge
from .base import Call, rule
from .pointwise import value_by_value

_ALONG = "it takes all channels together"


def _dims(call: Call) -> tuple[int, ...]:
    given = call.args.get("dim")
    rank = len(call.shape_of("self"))
    if given is None or given == []:
        return tuple(range(rank))
    return tuple(dim % max(rank, 1) for dim in ([given] if isinstance(given, int) else given))


def _dropped(call: Call, axes: Axes, dims: tuple[int, ...]) -> Axes:
    """Move the factors to where their axes are once ``dims`` are gone, or of size 1."""
    if call.args.get("keepdim"):
        return axes
    return tuple(Factor(tuple(dim - sum(gone < dim for gone in dims) for dim in factor.dims), factor.labels) for factor in axes)


def _of_kept(call: Call, values: dict[str, Any], mask: Callable[..., Any]) -> Any:
    """A mean or an extreme of the channels that are kept."""
    x, dims = values["self"], _dims(call)
    kept = mask(tuple(factor for factor in call.axes("self") if set(factor.dims) & set(dims)), x.ndim)
    if kept is None:
        return call.run(x, *(values[name] for name in ("dim", "keepdim") if name in values))
    keep = bool(values.get("keepdim"))
    if call.name == "mean":
        kept = kept.expand([x.shape[dim] if dim in dims else kept.shape[dim] for dim in range(x.ndim)])
        return (x * kept).sum(dims, keepdim=keep) / kept.sum(dims, keepdim=keep)
    least = torch.full((), float("-inf" if call.name == "amax" else "inf"), dtype=x.dtype)
    return call.run(torch.where(kept, x, least), list(dims), keep)


@rule("mean", "amax", "amin", masked=_of_kept)
def of_kept(call: Call) -> Axes:
    """What is left of channels is taken together; of channels on several axes, all along the reduced ones go together."""
    dims = _dims(call)
    return _dropped(call, _reduced(call, call.axes("self"), dims), dims)


def _reduced(call: Call, axes: Axes, dims: tuple[int, ...]) -> Axes:
    """What is left of factors when axes are reduced to what they hold of kept channels."""
    left = []
    for factor in axes:
        gone = set(factor.dims) & set(dims)
        kept = factor if not gone else tie_along(call.atoms, factor, gone) if len(factor.dims) > len(gone) else None
        left += [kept] if kept else []
    return tuple(left)


@rule("var", "std", "any", "all", "logsumexp", "argmax", "argmin", "prod")
def reduced(call: Call) -> Axes:
    """A removed channel would change the result, so axes that are reduced keep theirs."""
    dims = _dims(call)
    return _dropped(call, call.lose(call.axes("self"), dims, _ALONG), dims)


@rule("max", "min", "median")
def extreme(call: Call) -> Axes | list[Axes]:
    """The extreme along one axis with its place, of everything, or of two tensors value by value."""
    if "other" in call.args:
        return value_by_value(call)
    axes = reduced(call)
    return [axes, axes] if "dim" in call.args else axes


@rule("sum", "linalg_vector_norm", "norm", reads=("self",))
def summed(call: Call) -> Axes:
    """A removed channel adds nothing."""
    if call.name != "sum" and call.args.get("ord", call.args.get("p", 2)) in (0, float("inf"), float("-inf")):
        call.freeze(call.axes("self"), _ALONG)
    dims = _dims(call)
    return _dropped(call, _reduced(call, call.axes("self"), dims), dims)


@rule("cosine_similarity", reads=("x1", "x2"))
def cosine_similarity(call: Call) -> Axes:
    """Sums over one axis of two tensors that are broadcast against each other."""
    inputs = [call.args["x1"], call.args["x2"]]
    rank = max(len(call.shape_of(name)) for name in ("x1", "x2"))
    dims = (call.args["dim"] % rank,)
    return _dropped(call, _reduced(call, merge(call.flow, call.node, inputs), dims), dims)


@rule(*(f"fft_{name}" for name in ("fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn")))
def fourier(call: Call) -> Axes:
    """Values along the axes that are transformed depend on each other."""
    return call.lose(call.axes("self"), _dims(call), _ALONG)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "topk", "argsort")
def along_one(call: Call) -> Axes:
    """Values along one axis depend on each other, so that axis keeps all of its channels."""
    dim = call.dim("self", call.args["dim"])
    factor = on(call.axes("self"), dim)
    if factor is not None and len(factor.dims) > 1:
        return call.lose(call.axes("self"), [dim], _ALONG)
    if factor is not None:
        call.freeze((factor,), _ALONG)
    return call.axes("self")
