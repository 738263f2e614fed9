"""Keys of rows: hashes to look rows up by, and rows as text."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from .._types import Rows
from ..errors import InvalidInput
from ._genes import Genes


def row_keys(X: Rows) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every row, shape ``(n,)``; two of a million rows share one with a chance below 1e-7.

    Eight genes at a time are read as one number, multiplied, and mixed so that every gene reaches every bit.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.spaces import row_keys
        >>> space = hwsearch.load_space("resnet_digits")
        >>> X = space.sample(1000, np.random.default_rng(0))
        >>> len(np.unique(row_keys(np.concatenate([X, X]))))  # counts different networks
        1000
    """
    words = -(-X.shape[1] // 8)
    packed = np.zeros((len(X), 8 * words), dtype=np.uint8)
    packed[:, : X.shape[1]] = X
    factors = _factors(words)
    mixed = packed.view(np.uint64) + np.uint64(1)
    mixed *= factors[0]
    mixed ^= mixed >> np.uint64(29)
    mixed *= factors[1]
    mixed ^= mixed >> np.uint64(32)
    result: npt.NDArray[np.uint64] = mixed.sum(axis=1, dtype=np.uint64)
    return result


@cache
def _factors(words: int) -> npt.NDArray[np.uint64]:
    """Random odd numbers, always the same, shape ``(2, words)``."""
    return np.random.default_rng(20200210).integers(0, 2**64, size=(2, words), dtype=np.uint64, endpoint=False) | np.uint64(1)


def contains(ordered: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which keys are among ``ordered`` (ascending), shape of ``keys``."""
    if not len(ordered):
        return np.zeros(len(keys), dtype=np.bool_)
    position = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    result: npt.NDArray[np.bool_] = ordered[position] == keys
    return result


def row_of_hex(text: str, space: Genes) -> bytes:
    """The bytes of a row that a journal holds in hexadecimal.

    Raises:
        InvalidInput: it is not a canonical row of the space.
        ValueError, TypeError: it is not hexadecimal.
    """
    row = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)[None]
    if not np.array_equal(space.canonical(space.check(row, "a row")), row):
        raise InvalidInput(f"the row {text} of space {space.name!r} holds values of genes that are not active.")
    return row.tobytes()
