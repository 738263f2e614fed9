"""How many units each layer loses, so that a given share of all units is zero."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

SPREADS = ("layer", "global", "lamp", "erdos-renyi")
"""``"layer"``: the same share of every layer. ``"global"``: the least of all layers together. ``"lamp"``: the same by the square of the
score of a unit over that of all units of its layer that are not below it (Lee et al., ICLR'21). ``"erdos-renyi"``: the share
that stays of a layer is proportional to the sum of the sides of its weights over their product (Evci et al., ICML'20). With each of them at
least one unit of every layer stays.

Example:
    >>> import torch
    >>> from hwsearch.nn.pruning import SPREADS, Sparsity, prune, sparsity_of
    >>> SPREADS
    ('layer', 'global', 'lamp', 'erdos-renyi')
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 64, 3))
    >>> masks = prune(network, Sparsity(0.8, spread="erdos-renyi"))
    >>> [round(sparsity_of(layer), 2) for layer in network]  # small layers keep more
    [0.2, 0.83]
"""


def counts(scores: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], share: float, spread: str) -> dict[str, int]:
    """How many units of each layer are zero; together ``round(share * units)``, or in each layer if the spread is by layer.

    At least one unit of every layer stays, so where layers have few units fewer may be zero.

    Args:
        scores: of the units of each layer, at least 0, shape ``(units,)``.
        shapes: of the weights of each layer.
        share: of the units that are zero.
        spread: one of :data:`SPREADS`.
    """
    sizes = {name: len(each) for name, each in scores.items()}
    if spread == "layer":
        return {name: min(round(share * size), size - 1) for name, size in sizes.items()}
    total = min(round(share * sum(sizes.values())), sum(sizes.values()) - len(sizes))
    if spread == "erdos-renyi":
        return _erdos_renyi(sizes, shapes, total)
    ranked = {name: _lamp(each) if spread == "lamp" else each.double().clone() for name, each in scores.items()}
    for each in ranked.values():
        each[torch.argsort(each, stable=True)[-1]] = torch.inf  # the one that stays
    every = torch.cat([*ranked.values()])
    owner = np.repeat(np.arange(len(sizes)), [*sizes.values()])
    gone = torch.argsort(every, stable=True)[:total].cpu().numpy()
    return dict(zip(sizes, np.bincount(owner[gone], minlength=len(sizes)).tolist(), strict=True))


def _lamp(scores: torch.Tensor) -> torch.Tensor:
    """The square of each score over the sum of the squares of those that are not below it."""
    squares = scores.double().square()
    order = torch.argsort(squares, stable=True)
    ahead = squares[order].flip(0).cumsum(0).flip(0)
    found = torch.empty_like(squares)
    found[order] = squares[order] / ahead.clamp_min(1e-300)
    return found


def _erdos_renyi(sizes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], total: int) -> dict[str, int]:
    """By the densities that are proportional to the sum over the product of the sides; layers that would be over-full stay dense."""
    raw = {name: sum(shapes[name]) / float(np.prod(shapes[name])) for name in sizes}
    left = float(sum(sizes.values()) - total)
    dense: set[str] = set()
    while True:
        others = [name for name in sizes if name not in dense]
        factor = (left - sum(sizes[name] for name in dense)) / max(1e-300, sum(raw[name] * sizes[name] for name in others))
        over = {name for name in others if factor * raw[name] >= 1}
        if not over:
            break
        dense |= over
    stay = {name: float(sizes[name]) if name in dense else factor * raw[name] * sizes[name] for name in sizes}
    gone = {name: sizes[name] - int(stay[name]) for name in sizes}
    rest = sorted(sizes, key=lambda name: int(stay[name]) - stay[name])  # the largest fractions are rounded up
    for name in rest[: sum(gone.values()) - total]:
        gone[name] -= 1
    for name in [name for name in sizes if gone[name] == sizes[name]]:
        gone[name] -= 1
        gone[max(sizes, key=lambda other: sizes[other] - gone[other])] += 1
    return gone
