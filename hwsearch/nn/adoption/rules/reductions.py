"""Sums, means, extremes and distributions along axes."""

from __future__ import annotations

from .._axes import Axes, Factor, on, tie_along
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


@rule("mean", "amax", "amin", "var", "std", "any", "all", "logsumexp", "argmax", "argmin", "prod")
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
    dims = _dims(call)
    axes: list[Factor] = []
    for factor in call.axes("self"):
        gone = set(factor.dims) & set(dims)
        if call.name != "sum" and call.args.get("ord", call.args.get("p", 2)) in (0, float("inf"), float("-inf")):
            call.freeze((factor,), _ALONG)
        kept = factor if not gone else tie_along(call.atoms, factor, gone) if len(factor.dims) > len(gone) else None
        axes += [kept] if kept else []
    return _dropped(call, tuple(axes), dims)


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
