"""Masks: which units of a layer are zero, from how much each weight matters."""

from __future__ import annotations

import re
from functools import cache

import torch

from ...errors import InvalidInput, UnknownName

UNITS = ("weight", "row", "column", "kernel", "filter", "2:4")
"""What is zero together: single weights; a row or a column of a kernel; a kernel, which is what one output channel has for one input
channel; a filter, which is what makes an output channel. ``"N:M"``, such as ``"2:4"`` or ``"1:8"``, leaves N weights of every M neighbours
along the input channels.

Example:
    >>> import torch
    >>> from hwsearch.nn.pruning import UNITS, Sparsity, prune
    >>> UNITS
    ('weight', 'row', 'column', 'kernel', 'filter', '2:4')
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 8, 3))
    >>> masks = prune(network, Sparsity(0.5, unit="filter"))
    >>> [int((layer.weight.flatten(1) == 0).all(dim=1).sum()) for layer in network]  # the last one makes the outputs
    [4, 0]
"""
_ALONG: dict[str, tuple[int, ...]] = {"weight": (), "row": (3,), "column": (2,), "kernel": (2, 3), "filter": (1, 2, 3)}
"""The axes of a convolution's weights that a unit covers."""


@cache
def pattern(unit: str) -> tuple[int, int] | None:
    """N and M of a unit that is called so; ``None`` for the others.

    Raises:
        UnknownName: there is no such unit.
        InvalidInput: N is not below M, or 0.
    """
    if unit in _ALONG:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", unit)
    if match is None:
        raise UnknownName("unit of sparsity", unit, UNITS)
    n, m = int(match[1]), int(match[2])
    if not 0 < n < m:
        raise InvalidInput(f"Of every {m} weights {n} are to stay, which is no sparsity: N:M needs 0 < N < M, as in '2:4'.")
    return n, m


def fits(weight: torch.Tensor, unit: str) -> bool:
    """Whether a layer's weights, shape ``(cout, cin)`` or ``(cout, cin, ...)``, consist of several such units.

    Linear layers are convolutions with kernels of one position. Rows, columns and kernels of one position are single weights, which are
    no larger units, so layers of such kernels stay dense then.
    """
    if weight.ndim < 2 or weight.ndim > 4:
        return False
    found = pattern(unit)
    if found is not None:
        return weight.shape[1] % found[1] == 0
    sizes = as_four(weight).shape
    covered = [sizes[axis] for axis in _ALONG[unit]]
    return unit in ("weight", "filter") or max(covered) > 1


def as_four(weight: torch.Tensor) -> torch.Tensor:
    """Weights as ``(cout, cin, height, width)``."""
    shape = (*weight.shape[:2], *(1,) * (4 - weight.ndim), *weight.shape[2:])
    return weight.reshape(shape)


def units_of(scores: torch.Tensor, unit: str) -> torch.Tensor:
    """The mean score of each unit, shape ``(units,)``; for N:M of each group and place, shape ``(groups, M)``."""
    found = pattern(unit)
    if found is not None:
        return scores.movedim(1, -1).reshape(-1, found[1])
    axes = _ALONG[unit]
    four = as_four(scores)
    return (four.mean(dim=axes) if axes else four).flatten()


def spread_out(kept: torch.Tensor, weight: torch.Tensor, unit: str) -> torch.Tensor:
    """Which weights stay, shaped like the weights, from which units stay."""
    found = pattern(unit)
    if found is not None:
        moved = weight.movedim(1, -1)
        return kept.reshape(moved.shape).movedim(-1, 1)
    four = as_four(weight)
    shape = [1 if axis in _ALONG[unit] else size for axis, size in enumerate(four.shape)]
    return kept.reshape(shape).expand(four.shape).reshape(weight.shape)


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Booleans, false for exactly ``count`` units of lowest score; of equal ones the first go; shape ``(units,)``."""
    kept = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    kept[torch.argsort(scores, stable=True)[:count]] = False
    return kept


def lowest_of_each(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The same in every group by itself, shape ``(groups, M)``."""
    ranks = scores.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return ranks >= count
