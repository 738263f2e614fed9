"""Codebooks: weights that share a few values, found by k-means (Deep Compression, Han et al., ICLR'16, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...errors import InvalidInput
from . import _huffman as huffman

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]

_ROUNDS = 100
BITS = (2, 8)
"""The fewest and the most bits of an index into a codebook."""


@dataclass(frozen=True, eq=False)
class Shared:
    """Weights of one layer as codes: a weight is ``values[code] * scale`` of its output channel.

    Attributes:
        values: the codebook, ascending, shape ``(k,)``.
        codes: indices into it, shaped like the weights, ``(cout, ...)``.
        scale: shape ``(cout,)``.
    """

    values: Floats
    codes: Codes
    scale: Floats

    @property
    def weights(self) -> Floats:
        """The weights that the codes stand for, shape ``(cout, ...)``."""
        scale = self.scale.reshape(-1, *(1,) * (self.codes.ndim - 1))
        return np.asarray(self.values[self.codes] * scale, dtype=np.float32)

    @cached_property
    def lengths(self) -> Codes:
        """Bits of the prefix code of each value, shape ``(k,)``."""
        return huffman.lengths(np.bincount(self.codes.ravel(), minlength=len(self.values)))

    @property
    def bits(self) -> float:
        """Bits of a weight on average."""
        return float(self.lengths[self.codes].mean())


def share(weights: npt.ArrayLike, bits: int) -> Shared:
    """Give the weights of a layer at most ``2**bits`` values to share, with the least square error that k-means finds.

    Channels are brought to one scale first (their root mean square), so that one codebook suits all; a batch norm that is folded in
    therefore changes no code. Lloyd's iterations begin with the best runs of ascending weights, to within some hundreds of places, and
    every value is used. Weights that are zero stay zero and take one of the values, so sparsity survives.

    Args:
        weights: finite, shape ``(cout, ...)``.
        bits: 2 to 8.

    Raises:
        InvalidInput: other bits.
    """
    check_bits(bits)
    given = np.asarray(weights, dtype=np.float32)
    flat = given.reshape(len(given), -1)
    scale = np.sqrt(np.square(flat, dtype=np.float64).mean(axis=1)).astype(np.float32)
    scale[scale == 0] = 1.0
    even = (flat / scale[:, None]).ravel()
    some = np.sort(even[even != 0])
    zeros = len(some) < len(even)
    values = _k_means(some.astype(np.float64), 2**bits - zeros) if len(some) else np.empty(0)
    values = np.sort(np.append(values, 0.0) if zeros else values)
    codes = _nearest(values, even)
    if zeros:
        codes[even == 0] = np.searchsorted(values, 0.0)
    used, codes = np.unique(codes, return_inverse=True)
    return Shared(values[used].astype(np.float32), codes.reshape(given.shape).astype(np.uint8), scale)


def check_bits(bits: object) -> None:
    """Refuse bits that no codebook has.

    Raises:
        InvalidInput: they are not 2 to 8.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not BITS[0] <= bits <= BITS[1]:
        raise InvalidInput(f"bits of a codebook must be {BITS[0]} to {BITS[1]}, not {bits!r}.")


def _k_means(ordered: Numbers, most: int) -> Numbers:
    """At most ``most`` values that ascending numbers lie nearest to: the means of runs, after Lloyd's iterations.

    A cluster that runs empty takes the far end of the widest and fullest one, so all values are used if there are enough numbers.
    """
    distinct = np.unique(ordered)
    if len(distinct) <= most:
        return distinct
    sums = np.append(0.0, np.cumsum(ordered))
    values = _means(sums, _runs(ordered, most))
    for _ in range(_ROUNDS):
        bounds = np.concatenate([[0], np.searchsorted(ordered, (values[1:] + values[:-1]) / 2), [len(ordered)]])
        kept = np.unique(bounds)
        moved = _means(sums, kept)
        if len(moved) < most:
            starts, ends = kept[:-1], kept[1:]
            worth = np.square(ordered[ends - 1] - ordered[starts]) * (ends - starts)
            far = ordered[ends[np.argsort(worth)[len(moved) - most :]] - 1]
            moved = np.sort(np.append(moved, far))
        moved = np.maximum.accumulate(moved)  # rounding must not put equal values out of order
        if np.array_equal(moved, values):
            break
        values = moved
    return values


def _means(sums: Numbers, bounds: npt.NDArray[np.intp]) -> Numbers:
    """The means of runs, from cumulative sums and where the runs begin and end, shape ``(runs + 1,)``."""
    return np.diff(sums[bounds]) / np.diff(bounds)


def _runs(ordered: Numbers, most: int) -> npt.NDArray[np.intp]:
    """Where the best ``most`` runs of ascending numbers begin and end, shape ``(most + 1,)``.

    Dynamic programming (Wang and Song, 2011) over some hundreds of places where a run may end. Half of these are evenly many numbers apart;
    the others are as dense as the cube root of the density of the numbers, as the values of a good codebook are (Panter and Dite, 1951),
    which serves the rare large ones.
    """
    places = max(512, 4 * most) // 2
    dense = np.cumsum(np.diff(ordered) ** (2 / 3))
    ends = np.searchsorted(dense, np.linspace(0, dense[-1], places, endpoint=False)) + 1
    ends = np.union1d(ends, np.linspace(0, len(ordered), min(places, len(ordered) + 1)).astype(np.intp))
    centred = ordered - ordered.mean()
    sums, squares = (np.append(0.0, np.cumsum(power))[ends] for power in (centred, centred**2))
    count, sum_, square = (np.subtract.outer(one, one) for one in (ends.astype(np.float64), sums, squares))
    with np.errstate(divide="ignore", invalid="ignore"):  # [end, begin]
        error = np.where(count > 0, square - sum_**2 / count, np.inf).astype(np.float32)
    best, before, total = error[:, 0].copy(), [], np.empty_like(error)
    for _ in range(most - 1):
        np.add(error, best, out=total)
        before.append(total.argmin(axis=1))
        best = total[np.arange(len(ends)), before[-1]]
    chosen = [len(ends) - 1]
    for begins in reversed(before):
        chosen.append(int(begins[chosen[-1]]))
    bounds: npt.NDArray[np.intp] = ends[np.array([0, *reversed(chosen)])]
    return bounds


def _nearest(values: Numbers, x: Floats) -> npt.NDArray[np.intp]:
    """The index of the nearest of ascending values."""
    return np.searchsorted((values[1:] + values[:-1]) / 2, x)
