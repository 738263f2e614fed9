"""Convolutions, transposed convolutions, linear layers and tables: what opens channels and what reads them."""

from __future__ import annotations

from torch import fx

from .._axes import Axes, Factor, Labels, without
from .base import Call, Rewriting, elements, rows, rule, shape_of

_FIXED = "the input there is of fixed size"
_INSIDE = "inside a group of a grouped convolution"


def _regroup(call: Call, cut: Rewriting) -> fx.Node:
    """The same convolution with as many groups as are left."""
    groups = call.args["groups"]
    if groups == 1 or str(call.node.name) in call.flow.columns:
        return cut.copy(call)
    each = call.shape_of("input")[_channels(call)] // groups
    return cut.copy(call, groups=cut.size(call.args["input"], _channels(call)) // each)


def _channels(call: Call) -> int:
    """The axis of channels; images may come without an axis for the batch."""
    return len(call.shape_of("input")) - len(call.shape_of("weight")) + 1


def _tie_groups(call: Call, into: Labels | None, out: Labels | None, groups: int) -> None:
    """Tie what a group reads to what it makes, so that whole groups are removed."""
    parts = [rows(labels, groups) for labels in (into, out) if labels is not None]
    for part in parts:
        call.atoms.tie(part, part[:, :1])
    if len(parts) == 2:
        call.atoms.tie(parts[0][:, 0], parts[1][:, 0])
    else:
        for part in parts:
            call.freeze_labels(part, _FIXED)


def _tie_columns(call: Call, into: Labels | None, out: Labels | None, inner: Labels | None, groups: int) -> None:
    """Tie the channels at the same place of all groups, so that each group gets smaller."""
    for labels in (into, out):
        if labels is not None:
            part = rows(labels, groups)
            call.atoms.tie(part, part[:1])
    call.match(None if into is None else rows(into, groups)[0], inner, _FIXED)


@rule("conv1d", "conv2d", "conv3d", reads=("input",), rewrite=_regroup)
def convolution(call: Call) -> Axes:
    """Reads the channels of its input and opens its own; of a grouped one, whole groups are removed unless the flow says otherwise."""
    channel, groups = _channels(call), call.args["groups"]
    into, out, inner = call.along("input", channel), call.along("weight", 0), call.along("weight", 1)
    if groups == 1:
        call.match(into, inner, _FIXED)
        call.role("weight", 1, "in")
    elif call.node.name in call.flow.columns:
        _tie_columns(call, into, out, inner, groups)
        call.role("weight", 1, "in")
    else:
        call.freeze_labels(inner, _INSIDE)
        _tie_groups(call, into, out, groups)
    call.role("weight", 0, "out")
    return _opened(call, channel, out, elements(call.shape) / call.shape[channel])


def _opened(call: Call, channel: int, out: Labels | None, positions: float) -> Axes:
    """What lies on the axes of a convolution's result."""
    if call.args["bias"] is not None:
        call.match(out, call.along("bias", 0), _FIXED)
    for dim in range(2, len(call.shape_of("weight"))):
        call.freeze_labels(call.along("weight", dim), "positions of a kernel")
    call.multiplies("weight", positions)
    spatial = range(channel + 1, len(call.shape))
    kept = call.lose(without(call.axes("input"), [channel]), spatial, "positions that a convolution moves over")
    return kept if out is None else (*kept, Factor((channel,), out))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", reads=("input",), rewrite=_regroup)
def transposed_convolution(call: Call) -> Axes:
    """As a convolution, with the axes of its weights exchanged; of a grouped one, whole groups are removed."""
    channel, groups = _channels(call), call.args["groups"]
    into, first, out = call.along("input", channel), call.along("weight", 0), call.along("weight", 1)
    call.match(into, first, _FIXED)
    if groups == 1:
        call.role("weight", 0, "in")
        call.role("weight", 1, "out")
    else:
        call.role("weight", 0, "out")
        call.freeze_labels(out, _INSIDE)
        out = None
        if into is not None:
            call.atoms.tie(rows(into, groups), rows(into, groups)[:, :1])
            out = rows(into, groups)[:, 0].repeat(call.shape[channel] // groups)
    size = call.shape_of("input")
    return _opened(call, channel, out, elements(size) / size[channel])


@rule("linear", reads=("input",))
def linear(call: Call) -> Axes:
    """Reads the last axis of its input and opens its own."""
    last = len(call.shape) - 1
    call.match(call.along("input", -1), call.along("weight", 1), _FIXED)
    call.role("weight", 0, "out")
    call.role("weight", 1, "in")
    out = call.along("weight", 0)
    if call.args["bias"] is not None:
        call.match(out, call.along("bias", 0), _FIXED)
    call.multiplies("weight", elements(call.shape) / call.shape[-1])
    kept = without(call.axes("input"), [last])
    return kept if out is None else (*kept, Factor((last,), out))


@rule("embedding")
def embedding(call: Call) -> Axes:
    """Rows of a table: the channels of the table lie on the last axis."""
    call.freeze_labels(call.along("weight", 0), "entries of a table")
    call.role("weight", 1, "out")
    out = call.along("weight", 1)
    return () if out is None else (Factor((len(shape_of(call.node)) - 1,), out),)
