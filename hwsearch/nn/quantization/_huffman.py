"""Prefix codes: small whole numbers in fewer bits where some are common (Huffman, 1952).

The code is canonical: numbers of equal length count up in order, so that a decoder needs to know the lengths only.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from ...errors import CorruptFile

Symbols = npt.NDArray[np.uint8]

LONGEST = 16
"""Bits of the longest code; 256 symbols need at least 8."""


def lengths(counts: npt.NDArray[np.integer]) -> Symbols:
    """The code lengths of least total for symbols with these counts, shape ``(symbols,)``; 0 for symbols that never occur.

    If a code would be longer than :data:`LONGEST` bits, counts are halved until it is not.
    """
    found = np.zeros(len(counts), dtype=np.uint8)
    weight = {symbol: int(count) for symbol, count in enumerate(counts) if count > 0}
    if len(weight) < 2:
        found[list(weight)] = 1
        return found
    while True:
        heap: list[tuple[int, int, tuple[int, ...]]] = [(count, symbol, (symbol,)) for symbol, count in weight.items()]
        heapq.heapify(heap)
        found[:] = 0
        while len(heap) > 1:
            first, second = heapq.heappop(heap), heapq.heappop(heap)
            below = first[2] + second[2]
            found[list(below)] += 1
            heapq.heappush(heap, (first[0] + second[0], first[1], below))
        if found.max() <= LONGEST:
            return found
        weight = {symbol: (count + 1) // 2 for symbol, count in weight.items()}


def encode(symbols: Symbols, length: Symbols) -> bytes:
    """The bits of symbols one after the other, filled up to whole bytes.

    Args:
        symbols: shape ``(n,)``, each with a code.
        length: of each symbol's code, as :func:`lengths` tells.
    """
    codes, wide = _codes(length)[symbols], length[symbols].astype(np.int64)
    ends = np.cumsum(wide)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    for place in range(int(wide.max(initial=0))):
        some = wide > place
        bits[ends[some] - 1 - place] = (codes[some] >> place) & 1
    return np.packbits(bits).tobytes()


def decode(data: bytes, length: Symbols, count: int) -> Symbols:
    """The first ``count`` symbols of what :func:`encode` wrote.

    Every place in the stream is looked up at once, as if a code began there; then the codes that do begin are walked along.

    Raises:
        CorruptFile: the lengths are no prefix code, or the data end early.
    """
    if length.dtype.kind not in "iu":
        raise CorruptFile("its code lengths are no whole numbers")
    used = length[length > 0].astype(np.int64)
    if len(used) == 0 or used.max() > LONGEST or (2.0**-used).sum() > 1:
        raise CorruptFile("its code lengths are those of no prefix code")
    symbol_at, length_at = _lookup(length)
    padded = np.frombuffer(data + bytes(3), dtype=np.uint8).astype(np.uint32)
    words = (padded[:-2] << 16) | (padded[1:-1] << 8) | padded[2:]
    windows = ((words[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)) & 0xFFFF).ravel()
    steps = length_at[windows].tolist()
    starts, place, end = [], 0, 8 * len(data)
    for _ in range(count):
        if place >= end or not steps[place]:
            raise CorruptFile("its codes end early, or are none")
        starts.append(place)
        place += steps[place]
    if place > end:
        raise CorruptFile("its codes end early, or are none")
    return np.asarray(symbol_at[windows[np.array(starts, dtype=np.int64)]])


def _codes(length: Symbols) -> npt.NDArray[np.uint32]:
    """The canonical code of each symbol."""
    codes = np.zeros(len(length), dtype=np.uint32)
    code = before = 0
    for symbol in np.lexsort((np.arange(len(length)), length)):
        if length[symbol]:
            code <<= int(length[symbol]) - before
            codes[symbol], before = code, int(length[symbol])
            code += 1
    return codes


def _lookup(length: Symbols) -> tuple[Symbols, npt.NDArray[np.int64]]:
    """The symbol that the next 16 bits begin with, and its length, 0 where they begin with none."""
    symbol_at, length_at = np.zeros(2**LONGEST, dtype=np.uint8), np.zeros(2**LONGEST, dtype=np.int64)
    for symbol, code in enumerate(_codes(length)):
        if wide := int(length[symbol]):
            some = slice(int(code) << (LONGEST - wide), (int(code) + 1) << (LONGEST - wide))
            symbol_at[some], length_at[some] = symbol, wide
    return symbol_at, length_at
