"""Operations that pick, repeat or reorder places of an axis: slices, rolls, flips, lookups, paddings, shuffles."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from .._axes import Axes, Factor, Labels, on, taken, without
from .base import Call, Rewriting, rows, rule

aten = torch.ops.aten


def pick(call: Call, cut: Rewriting, dim: int, places: Labels) -> fx.Node:
    """Take places of an axis, of those that are left: as a slice where they are evenly spaced, by index where not."""
    kept, out = cut.index(call.args["self"], dim), cut.index(call.node, dim)
    if kept is None and out is None:
        return cut.copy(call)
    wanted = places if out is None else places[out]
    if kept is not None:
        wanted = np.searchsorted(kept, wanted)
    source: fx.Node = cut.new(call.args["self"])
    n = len(kept) if kept is not None else call.shape_of("self")[dim]
    steps = np.unique(np.diff(wanted))
    if len(wanted) == n and (steps == 1).all():
        return source
    if len(steps) <= 1 and (not len(steps) or steps[0] > 0):
        step = int(steps[0]) if len(steps) else 1
        return cut.call(aten.slice.Tensor, source, dim, int(wanted[0]), int(wanted[-1]) + 1, step)
    for groups in range(2, n // 2 + 1):
        if n % groups == 0 and len(wanted) == n and np.array_equal(wanted, np.arange(n).reshape(groups, -1).T.reshape(-1)):
            apart = cut.call(aten.unflatten.int, source, dim, [groups, n // groups])
            return cut.call(aten.flatten.using_ints, cut.call(aten.transpose.int, apart, dim, dim + 1), dim, dim + 1)
    return cut.call(aten.index_select.default, source, dim, cut.constant(torch.from_numpy(wanted.copy())))


def _places(call: Call) -> tuple[int, Labels]:
    """The axis that an operation picks from, and the places that it picks."""
    dim = call.dim("self", call.args["dims"][0] if "dims" in call.args else call.args["dim"])
    places = np.arange(call.shape_of("self")[dim])
    if call.name == "slice":
        end = call.args["end"]
        return dim, places[call.args["start"] : end if isinstance(end, int) else None : call.args["step"]]
    if call.name == "narrow":
        return dim, places[call.args["start"] :][: call.args["length"]]
    if call.name == "roll":
        return dim, np.roll(places, call.args["shifts"][0])
    if call.name == "index_select":
        return dim, call.args["index"].meta["constant"].numpy()
    return dim, places.repeat(call.args["repeats"])


def _pick(call: Call, cut: Rewriting) -> fx.Node:
    if not _applies(call):
        return cut.copy(call)
    dim, places = _places(call)
    return pick(call, cut, dim, places) if on(call.axes("self"), dim) else cut.copy(call)


def _applies(call: Call) -> bool:
    if call.name == "roll":
        return len(call.args["dims"]) == 1
    if call.name == "slice":
        return all(isinstance(call.args[each], int | None) for each in ("start", "end", "step"))
    if call.name == "index_select":
        return "constant" in call.args["index"].meta
    return call.args.get("dim") is not None and isinstance(call.args.get("repeats", 1), int)


@rule("slice", "narrow", "roll", "index_select", "repeat_interleave", rewrite=_pick)
def picked(call: Call) -> Axes:
    """Places of an axis that are known beforehand."""
    axes = call.axes("self")
    if not _applies(call):
        dims = call.args.get("dims") or [call.args.get("dim") or 0]
        return call.lose(axes, [call.dim("self", dim) for dim in dims], "places that are not known beforehand")
    dim, places = _places(call)
    return taken(axes, dim, places) if on(axes, dim) else axes


@rule("flip")
def flip(call: Call) -> Axes:
    """Axes backwards."""
    axes = call.axes("self")
    for dim in call.args["dims"]:
        dim = call.dim("self", dim)
        axes = taken(axes, dim, np.arange(call.shape_of("self")[dim])[::-1])
    return axes


def _paddings(call: Call) -> dict[int, tuple[int, int]]:
    pad = call.args["pad"] if "pad" in call.args else call.args["padding"]
    rank = len(call.shape)
    return {rank - 1 - place: (pad[2 * place], pad[2 * place + 1]) for place in range(len(pad) // 2) if any(pad[2 * place : 2 * place + 2])}


def _pad_left(call: Call, cut: Rewriting) -> fx.Node:
    name = "pad" if "pad" in call.args else "padding"
    pad = list(call.args[name])
    for dim, (before, _) in _paddings(call).items():
        kept = cut.index(call.node, dim)
        if kept is not None:
            inside = before + call.shape_of("self")[dim]
            place = len(call.shape) - 1 - dim
            pad[2 * place : 2 * place + 2] = [int((kept < before).sum()), int((kept >= inside).sum())]
    return cut.copy(call, **{name: pad})


@rule("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "zero_pad2d", rewrite=_pad_left)
def pad(call: Call) -> Axes:
    """Channels of a constant before and after others are channels of their own."""
    axes = call.axes("self")
    for dim, (before, after) in _paddings(call).items():
        if on(axes, dim) is None:
            continue
        labels = call.single(axes, dim)
        assert labels is not None
        constant = call.args.get("mode", "constant") == "constant" and min(before, after) >= 0
        if not constant:
            axes = call.lose(axes, [dim], "padded with other channels")
            continue
        axes = (*without(axes, [dim]), Factor((dim,), np.concatenate([call.atoms.new(before), labels, call.atoms.new(after)])))
    return axes


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Axes:
    """Stretches of channels become positions: a stretch goes as a whole."""
    channel = len(call.shape) - 3
    labels = call.along("self", channel)
    rest = without(call.axes("self"), [channel])
    if labels is None:
        return rest
    part = rows(labels, call.shape[channel])
    call.atoms.tie(part, part[:, :1])
    return (*rest, Factor((channel,), part[:, 0]))


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Axes:
    """Positions become channels: each channel a stretch of them."""
    channel = len(call.shape) - 3
    labels = call.along("self", channel)
    rest = without(call.axes("self"), [channel])
    return rest if labels is None else (*rest, Factor((channel,), labels.repeat(call.args["downscale_factor"] ** 2)))


@rule("channel_shuffle")
def channel_shuffle(call: Call) -> Axes:
    """Channels of groups take turns: the same places of all groups go together."""
    labels = call.along("self", 1)
    rest = without(call.axes("self"), [1])
    if labels is None:
        return rest
    part = rows(labels, call.args["groups"])
    call.atoms.tie(part, part[:1])
    return (*rest, Factor((1,), part.T.reshape(-1)))


@rule("repeat", "tile")
def repeat(call: Call) -> Axes:
    """An axis several times over."""
    shift = len(call.shape) - len(call.shape_of("self"))
    times = [after // before for before, after in zip(call.shape_of("self"), call.shape[shift:], strict=True)]
    return tuple(
        Factor(tuple(dim + shift for dim in factor.dims), np.tile(factor.labels, [times[dim] for dim in factor.dims]))
        for factor in call.axes("self")
    )


@rule("im2col")
def unfold(call: Call) -> Axes:
    """Positions around each other become channels: each channel a stretch of them."""
    channel = len(call.shape) - 2
    axes = call.lose(call.axes("self"), range(channel + 1, channel + 3), "positions that become channels")
    labels = call.single(axes, channel)
    size = call.shape[channel] // call.shape_of("self")[channel]
    return axes if labels is None else (*without(axes, [channel]), Factor((channel,), labels.repeat(size)))


@rule("col2im")
def fold(call: Call) -> Axes:
    """Stretches of channels become positions: a stretch goes as a whole."""
    channel = len(call.shape) - 3
    axes = call.lose(call.axes("self"), [channel + 1], "places that become positions")
    labels = call.single(axes, channel)
    if labels is None:
        return axes
    part = rows(labels, call.shape[channel])
    call.atoms.tie(part, part[:, :1])
    return (*without(axes, [channel]), Factor((channel,), part[:, 0]))


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sampled(call: Call) -> Axes:
    """Every channel is read at the same places."""
    call.freeze(call.axes("grid"), "places to sample at")
    return call.lose(call.axes("input"), range(2, len(call.shape)), "positions that are sampled")


def _listed(call: Call) -> tuple[int, Labels] | None:
    """The axis and the places, where an operation looks up known places of a single axis."""
    given = [(dim, each) for dim, each in enumerate(call.args["indices"]) if isinstance(each, fx.Node)]
    if len(given) != 1 or "constant" not in given[0][1].meta:
        return None
    [(dim, node)] = given
    places = node.meta["constant"].numpy()
    if places.ndim != 1:
        return None
    return dim, np.flatnonzero(places) if places.dtype == bool else places % call.shape_of("self")[dim]


def _look_up(call: Call, cut: Rewriting) -> fx.Node:
    found = _listed(call)
    return cut.copy(call) if found is None or on(call.axes("self"), found[0]) is None else pick(call, cut, *found)


@rule("index", rewrite=_look_up)
def index(call: Call) -> Axes:
    """Known places of one axis; or lookups along the first axes, where the others keep their channels if the lookups stand side by side."""
    if found := _listed(call):
        return taken(call.axes("self"), *found)
    given = [isinstance(each, fx.Node) for each in call.args["indices"]]
    dims = [dim for dim, there in enumerate(given) if there]
    for node in call.args["indices"]:
        if isinstance(node, fx.Node):
            call.freeze(call.flow.factors(node), "an index")
    axes = call.lose(call.axes("self"), dims, "looked up by index")
    if dims != list(range(dims[0], dims[-1] + 1)):
        call.freeze(axes, "looked up by index")
        return ()
    grown = len(call.shape) - len(call.shape_of("self"))
    return tuple(Factor(tuple(dim + grown * (dim > dims[-1]) for dim in factor.dims), factor.labels) for factor in axes)
