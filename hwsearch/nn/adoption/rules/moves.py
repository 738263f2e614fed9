"""Operations that move, join or part channels: views, permutations, cats, splits; and what makes tensors of one value."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from .._axes import Axes, Factor, Labels, on, one, reshape, taken, without
from ._broadcasting import broadcast
from .base import Call, Rewriting, rule, shape_of

aten = torch.ops.aten
_LOST = "channels of two axes fall onto one"


def _source(call: Call) -> str:
    return next(name for name, value in call.args.items() if isinstance(value, fx.Node))


def _sizes(call: Call, cut: Rewriting) -> fx.Node:
    """The same operation with the sizes that are left."""
    name = next(name for name in ("size", "shape", "sizes") if name in call.args)
    given = list(call.args[name])
    if name == "sizes" and "dim" in call.args:  # unflatten
        first = call.dim("self", call.args["dim"])
        return cut.copy(call, sizes=[cut.sized(given[place], call.node, first + place) for place in range(len(given))])
    return cut.copy(call, **{name: [cut.sized(value, call.node, dim) for dim, value in enumerate(given)]})


@rule("flatten", "squeeze", "unsqueeze", "ravel", "view_as", "reshape_as")
@rule("view", "reshape", "_unsafe_view", "unflatten", rewrite=_sizes)
def view(call: Call) -> Axes:
    """Channels keep their order; axes are cut or joined."""
    axes, lost = reshape(call.atoms, call.axes("self"), call.shape_of("self"), call.shape)
    call.freeze(lost, _LOST)
    return axes


@rule("permute", "transpose", "t", "movedim", "swapaxes", "swapdims", "numpy_T", "mT", "adjoint")
def permute(call: Call) -> Axes:
    """Axes change places; found out by moving an empty tensor of another size along every axis."""
    source = _source(call)
    rank = len(call.shape_of(source))
    probe = torch.empty(tuple(range(2, rank + 2)), device="meta")
    arguments = [probe if name == source else value for name, value in call.args.items()]
    order = [size - 2 for size in call.run(*arguments).shape]
    return tuple(factor.moved(order) for factor in call.axes(source))


@rule("expand", "expand_as", rewrite=lambda call, cut: _sizes(call, cut) if "size" in call.args else cut.copy(call))
def expand(call: Call) -> Axes:
    """New axes in front, and axes of size 1 that are repeated, carry no channels."""
    shift = len(call.shape) - len(call.shape_of("self"))
    mine = tuple(Factor(tuple(dim + shift for dim in factor.dims), factor.labels) for factor in call.axes("self"))
    if "other" not in call.args:
        return mine
    # The repeated axes lose what the other's axes lose.
    taken = {dim for factor in mine for dim in factor.dims}
    grown = {dim for dim in range(len(call.shape)) if ([1] * shift + list(call.shape_of("self")))[dim] == 1}
    return mine + tuple(factor for factor in call.axes("other") if set(factor.dims) <= grown - taken)


@rule("cat", "concat", "concatenate", "hstack")
def cat(call: Call) -> Axes:
    """Channels of one tensor after those of another; all other axes are tied."""
    nodes = [node for node in call.args["tensors"] if len(shape_of(node)) == len(call.shape)]
    dim = call.args.get("dim", 1) % len(call.shape)
    parts: list[Labels | None] = []
    rest: list[Axes] = []
    for node in nodes:
        axes = call.flow.factors(node)
        parts.append(call.single(axes, dim))
        rest.append(without(axes, [dim]))
    result = _same(call, rest, [list(shape_of(node)) for node in nodes], dim)
    if all(part is None for part in parts):
        return result
    filled = [part if part is not None else _fixed(call, shape_of(node)[dim]) for part, node in zip(parts, nodes, strict=True)]
    return (*result, Factor((dim,), np.concatenate(filled)))


def _fixed(call: Call, n: int) -> Labels:
    labels = call.atoms.new(n)
    call.freeze_labels(labels, "joined with channels of fixed number")
    return labels


def _same(call: Call, parts: list[Axes], shapes: list[list[int]], dim: int) -> Axes:
    """Tie the axes of tensors that are joined along another axis."""
    for shape in shapes:
        shape[dim] = 1
    result = parts[0]
    for axes, shape in zip(parts[1:], shapes[1:], strict=True):
        result = broadcast(call.flow, call.node, (result, shape), (axes, shape))
    return result


@rule("stack")
def stack(call: Call) -> Axes:
    """A new axis; all others are tied."""
    nodes = call.args["tensors"]
    dim = call.args["dim"] % len(call.shape)
    result = call.flow.factors(nodes[0])
    shape = list(shape_of(nodes[0]))
    for node in nodes[1:]:
        result = broadcast(call.flow, call.node, (result, shape), (call.flow.factors(node), shape))
    return tuple(Factor(tuple(each + (each >= dim) for each in factor.dims), factor.labels) for factor in result)


def _split_sizes(call: Call, cut: Rewriting) -> fx.Node:
    """A split into the sizes that are left."""
    dim = call.dim("self", call.args["dim"])
    source = cut.new(call.args["self"])
    if on(call.axes("self"), dim) is None:
        return cut.copy(call)
    return cut.call(
        aten.split_with_sizes.default, source, [cut.size((call.node, place), dim) for place in range(len(call.node.meta["shape"]))], dim
    )


@rule("split", "split_with_sizes", "chunk", "tensor_split", rewrite=_split_sizes)
def split(call: Call) -> list[Axes]:
    """Stretches of an axis."""
    dim = call.dim("self", call.args["dim"])
    found, start = [], 0
    for shape in call.node.meta["shape"]:
        found.append(taken(call.axes("self"), dim, np.arange(start, start + shape[dim])))
        start += shape[dim]
    return found


@rule("unbind")
def unbind(call: Call) -> list[Axes]:
    """An axis taken apart."""
    dim = call.dim("self", call.args["dim"])
    return [_single(call, call.axes("self"), dim, place) for place in range(call.shape_of("self")[dim])]


def _single(call: Call, axes: Axes, dim: int, place: int) -> Axes:
    """The factors at one place of an axis, which is gone."""
    found = []
    for factor in axes:
        labels = factor.labels
        if dim in factor.dims:
            labels = one(labels, factor.dims.index(dim), place)
            if len(factor.dims) == 1:
                call.freeze_labels(labels.reshape(-1), "a channel that is used by itself")
                continue
        left = tuple(each for each in factor.dims if each != dim)
        found.append(Factor(tuple(each - (each > dim) for each in left), labels))
    return tuple(found)


@rule("python.getitem")
def getitem(call: Call) -> Axes:
    """One of several results."""
    source, place = call.node.args
    return call.flow.part(source, place) if isinstance(source, fx.Node) and isinstance(place, int) else ()


def _one_place(call: Call, cut: Rewriting) -> fx.Node:
    dim = call.dim("self", call.args["dim"])
    kept = cut.index(call.args["self"], dim)
    place = call.args["index"]
    return cut.copy(call) if kept is None else cut.copy(call, index=int(np.searchsorted(kept, place % call.shape_of("self")[dim])))


@rule("select", rewrite=_one_place)
def select(call: Call) -> Axes:
    """One place of an axis."""
    dim = call.dim("self", call.args["dim"])
    return _single(call, call.axes("self"), dim, call.args["index"] % call.shape_of("self")[dim])


def _created(call: Call, cut: Rewriting) -> fx.Node:
    name = "size" if "size" in call.args else "shape"
    return cut.copy(call, **{name: [cut.sized(value, call.node, dim) for dim, value in enumerate(call.args[name])]})


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", rewrite=_created)
def created(call: Call) -> Axes:
    """A tensor of one value has whatever channels it meets."""
    sizes = call.args["size"]
    return tuple(Factor((dim,), call.atoms.new(n)) for dim, n in enumerate(call.shape) if n > 1 and isinstance(sizes[dim], int))


@rule(
    *("sym_size", "sym_numel", "arange", "scalar_tensor"),
    *("python.mul", "python.add", "python.sub", "python.floordiv", "python.eq", "python.ge", "python.le"),
)
def number(call: Call) -> Axes:
    """A size, and what is computed from it: carries no channels."""
    return ()
