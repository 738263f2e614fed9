"""Codebooks: weights that share a few values, found by k-means (Deep Compression, Han et al., ICLR'16, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from . import huffman

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

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
    therefore changes no code. Lloyd's iterations begin with values that are spread evenly over the range of the weights, which keeps the
    rare large ones (section 3.2). Weights that are zero stay zero and cost one of the values, so sparsity survives.

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
    values = _lloyd(some.astype(np.float64), 2**bits - zeros) if len(some) else np.empty(0)
    values = np.sort(np.append(values, 0.0) if zeros else values)
    codes = _nearest(values, even)
    if zeros:
        codes[even == 0] = np.searchsorted(values, 0.0)
    used, codes = np.unique(codes, return_inverse=True)
    return Shared(values[used].astype(np.float32), codes.reshape(given.shape).astype(np.uint8), scale)


def check_bits(bits: object) -> None:
    """Refuse bits that no codebook has.

    Raises:
        InvalidInput: neither of 2 to 8.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not BITS[0] <= bits <= BITS[1]:
        raise InvalidInput(f"bits of a codebook must be {BITS[0]} to {BITS[1]}, not {bits!r}.")


def _lloyd(ordered: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64]:
    """Lloyd's iterations on ascending numbers, where every cluster is a run and its sum the difference of two cumulative ones."""
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    values = np.linspace(ordered[0], ordered[-1], most)
    for _ in range(_ROUNDS):
        ends = np.searchsorted(ordered, (values[1:] + values[:-1]) / 2)
        bounds = np.concatenate([[0], ends, [len(ordered)]])
        counts = np.diff(bounds)
        moved = np.where(counts > 0, np.diff(sums[bounds]) / np.maximum(counts, 1), values)
        if np.array_equal(moved, values):
            break
        values = np.maximum.accumulate(moved)  # rounding must not put equal values out of order
    return values


def _nearest(values: npt.NDArray[np.float64], x: Floats) -> npt.NDArray[np.intp]:
    """The index of the nearest of ascending values."""
    return np.searchsorted((values[1:] + values[:-1]) / 2, x)
