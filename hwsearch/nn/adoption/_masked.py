"""The whole network with some channels ignored: every operation that sums over channels sees zeros in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ._axes import Axes, Factor
from ._cut import Cut
from ._run import execute
from .rules import Call, find_rule
from .rules.base import bound, shape_of


def run_masked(cut: Cut, inputs: tuple[torch.Tensor, ...], tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """What the whole network computes when nothing reads the channels that a cut removes, and removed branches add nothing.

    Args:
        cut: what is removed.
        inputs: for the placeholders of the network.
        tensors: parameters and statistics to use in place of the network's.
    """

    def mask(axes: Axes, rank: int) -> torch.Tensor | None:
        product = None
        for factor in axes:
            kept = cut.keeps(factor.labels)
            if kept.all():
                continue
            shaped = torch.from_numpy(Factor(factor.dims, kept).over(range(rank)).copy())
            product = shaped if product is None else product & shaped
        return product

    def ignore(node: Any, value: Any) -> Any:
        if isinstance(node, list | tuple):
            return [ignore(each, part) for each, part in zip(node, value, strict=True)]
        if not isinstance(node, fx.Node) or not isinstance(value, torch.Tensor):
            return value
        hidden = mask(cut.factors(node), value.ndim)
        if hidden is None:
            return value
        for dim, size in enumerate(value.shape):
            if hidden.shape[dim] not in (
                1,
                size,
            ):  # an axis of all heads of all images, of which there are fewer or more than were captured
                hidden = hidden.index_select(dim, torch.arange(size) % hidden.shape[dim])
        return torch.where(hidden, value, torch.zeros((), dtype=value.dtype))

    def compute(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = find_rule(node.target)
        if rule is None or not (rule.reads or rule.masked):
            return NotImplemented
        named = bound(node)
        names = [each.name for each in node.target._schema.arguments]  # type: ignore[union-attr]
        values = dict.fromkeys(names) | {name: named[name] for name in names}
        values |= dict(zip(names, args, strict=False)) | kwargs
        if rule.masked is not None:
            own = len(shape_of(node))
            return rule.masked(Call(cut.flow, node, named), values, lambda axes, rank=own: mask(axes, rank))
        return node.target(**{name: ignore(named[name], value) if name in rule.reads else value for name, value in values.items()})  # type: ignore[operator]

    return execute(cut.network, inputs, compute=compute, tensors=tensors, instead=cut.branches)
