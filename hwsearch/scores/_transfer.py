"""What carries over from one predictor to another, and what precisions are known to cost before any is tried."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._types import Features
from ..errors import InvalidInput
from ..networks._precision import Precision
from ..spaces._space import SearchSpace

_JUST = 1e-3
"""A unit that one more feature would wake is just awake, so that the gradient tells."""
_LEAST = 0.02
"""Noise below this share of the greatest hardly counts."""


def sources(base: SearchSpace, seen: npt.NDArray[np.bool_] | None, space: SearchSpace) -> list[int]:
    """For each feature of ``space`` the one that a predictor of ``base`` reads in its place, or -1 if it has no such gene.

    Args:
        base: a space whose genes are all among those of ``space``.
        seen: which of its features any network had that the predictor was fitted on, shape ``(features,)``. Where a gene had one value
            in all of them, it is read as having that value; so it takes no notice of that gene.
        space: whose rows it will read.

    Raises:
        InvalidInput: a gene or a value is missing.
    """
    lacking = sorted(set(base.position) - set(space.position))
    if lacking:
        raise InvalidInput(f"The base is of {base.name!r}, whose genes are not all genes of {space.name!r}: {', '.join(lacking[:3])}.")
    starts = np.cumsum([0, *base.sizes]).tolist()
    found: list[int] = []
    for choice in space.choices:
        gene = base.position.get(choice.name)
        if gene is None:
            found += [-1] * len(choice.values)
            continue
        shown = [] if seen is None else np.flatnonzero(seen[starts[gene] : starts[gene + 1]]).tolist()
        theirs = base.choices[gene]
        found += [starts[gene] + (shown[0] if len(shown) == 1 else theirs.index(value)) for value in choice.values]
    return found


def rounding(space: SearchSpace) -> Features | None:
    """The noise of rounding to each precision, weights and activations, shape ``(features, 2 x (genes of precisions + 1))``.

    Its variance falls with 4 to the power of the bits (Bennett, 1948), so these few columns predict most of what precisions cost: those
    of each gene, and their sums over the network. ``None`` if precisions are no choice.
    """
    starts = np.cumsum([0, *space.sizes]).tolist()
    bits: list[tuple[int, npt.NDArray[np.float64]]] = []
    for start, choice in zip(starts, space.choices, strict=False):
        if choice.is_precision and len(choice.values) > 1:
            parsed = [Precision.parse(str(value)) for value in choice.values]
            bits.append((start, np.array([[one.weight_bits, one.activation_bits] for one in parsed], dtype=np.float64)))
    if not bits:
        return None
    least = np.min([some.min(axis=0) for _, some in bits], axis=0)
    noise = np.zeros((starts[-1], len(bits) + 1, 2), dtype=np.float32)
    for column, (start, some) in enumerate(bits):
        noise[start : start + len(some), [column, -1]] = 4.0 ** (least - some)[:, None]
    return noise.reshape(len(noise), -1)


def interplay(space: SearchSpace) -> tuple[Features, Features, Features] | None:
    """How rounding and the widths of the same block act together: narrow layers average less of the noise away.

    A layer of ReLUs: each is the inverse of a neighbouring gene of the block where its precision has one level of noise, and 0 elsewhere.
    They are added up with the levels for weights; levels that hardly count are dropped.

    Returns:
        Weights ``(features, units)`` and biases ``(units,)`` of the layer, and what adds them up, shape ``(units, sums)``; ``None`` if
        no block has both a precision and another gene.
    """
    noise = rounding(space)
    if noise is None:
        return None
    starts = np.cumsum([0, *space.sizes]).tolist()
    weights: list[Features] = []
    levels: list[tuple[int, float]] = []
    sums = 0
    for gene, choice in enumerate(space.choices):
        prefix = choice.name.rpartition(".")[0] + "."
        if not choice.is_precision or prefix == ".":
            continue
        here = slice(starts[gene], starts[gene + 1])
        for other, neighbour in enumerate(space.choices):
            values = [float(value) for value in neighbour.values if not isinstance(value, str)]
            if other == gene or not neighbour.name.startswith(prefix) or len(values) < 2 or min(values) <= 0:
                continue
            for part in (-2, -1):
                for level in np.unique(noise[here, part])[::-1]:
                    if level > _LEAST:
                        weight = np.zeros(starts[-1], dtype=np.float32)
                        weight[here] = noise[here, part] == level
                        weight[starts[other] : starts[other + 1]] = min(values) / np.array(values)
                        weights.append(weight)
                        levels.append((sums, float(level)))
                sums += 1
    if not weights:
        return None
    adding = np.zeros((len(levels), sums), dtype=np.float32)
    for unit, (column, level) in enumerate(levels):
        adding[unit, column] = level
    return np.stack(weights, axis=1), np.full(len(weights), _JUST - 1.0, dtype=np.float32), adding
