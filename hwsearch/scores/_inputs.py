"""What models of scores read: one-hot features turned into what is easier to learn from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._types import Features
from ..spaces._space import SearchSpace
from ._transfer import rounding


def steps_of(space: SearchSpace, kind: str, *, sums: bool = True) -> tuple[Features, npt.NDArray[np.intp]]:
    """A matrix that one-hot features of a space are multiplied with for a kind of model, and what each of its columns belongs to.

    A gene whose values are ordered (wider, deeper) becomes *steps*, features that are 1 at each value up to the chosen one: what going one
    value up brings is learned from far fewer networks than what each value brings. A gene without order stays one-hot. Precisions become
    the noise of their rounding, but for trees, which split at steps. A Gaussian process also reads sums over genes that have the same role
    and the same values, such as how many edges of a cell are convolutions, unless ``sums`` is false.

    Returns:
        Shape ``(features, columns)``; and for each column the number of its gene or of its sum, shape ``(columns,)``.
    """
    starts = np.cumsum([0, *space.sizes]).tolist()
    noise = None if kind == "trees" else rounding(space)
    parts: list[Features] = []
    alike: dict[object, list[Features]] = {}
    for start, choice in zip(starts, space.choices, strict=False):
        size = len(choice.values)
        part = np.zeros((starts[-1], size), dtype=np.float32)
        part[start : start + size] = np.tri(size) if choice.ordered else np.eye(size)
        if noise is not None and noise[start : start + size].any():
            part[:] = 0.0
        elif kind == "gp" and sums and not choice.is_precision:
            alike.setdefault((choice.role, choice.values), []).append(part)
        parts.append(part)
    parts += [np.sum(some, axis=0, dtype=np.float32) for some in alike.values() if len(some) > 1]
    if noise is not None:
        parts += [noise[:, column : column + 2] for column in range(0, noise.shape[1], 2)]
    return np.hstack(parts), np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
