"""Which networks of a space are evaluated to fit a predictor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..errors import check_count, check_seed
from ..spaces._genes import Rows
from ..spaces._space import SearchSpace
from .training._phases import ordered

_DRAWN = 64
"""Random networks are drawn this many at a time, so that a larger sample begins with the same networks."""


def precisions(space: SearchSpace) -> npt.NDArray[np.bool_]:
    """Which genes choose precisions, shape ``(genes,)``."""
    return np.array([choice.is_precision for choice in space.choices])


def floats(space: SearchSpace, X: Rows) -> Rows:
    """The rows with every precision at its finest value: equal rows for networks that are equal in floating point.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.nn import floats
        >>> space = hwsearch.load_space("resnet_digits")
        >>> X = space.sample(100, np.random.default_rng(0))
        >>> {block.precision for row in floats(space, X) for block in space.blocks(row)}
        {'fp32'}
    """
    finest = np.array([values[-1] for values in ordered(replace(space, allowed=()))], dtype=np.uint8)
    return space.canonical(np.where(precisions(space), finest, X))


def sample_networks(space: SearchSpace, networks: int, seed: int = 0, floating: bool = False) -> Rows:
    """Draw different networks: the smallest and the largest at both ends of their precisions, then random ones.

    A larger sample begins with the same networks.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn import sample_networks
        >>> X = sample_networks(hwsearch.load_space("resnet_digits"), 50, seed=1)
        >>> X.shape, X[:20].tolist() == sample_networks(hwsearch.load_space("resnet_digits"), 20, seed=1).tolist()
        ((50, 21), True)

    Args:
        space: the space.
        networks: how many.
        seed: of the random networks.
        floating: whether they are to differ in floating point; then all have their finest precisions (:func:`floats`).

    Returns:
        Canonical rows, shape ``(n, genes)``; ``n`` is below ``networks`` if the space is smaller.

    Raises:
        InvalidInput: fewer than one network, or a negative seed.
    """
    samples, rng = check_count("networks", networks, least=1), np.random.default_rng(check_seed(seed))
    ends = np.array([[values[end] for values in ordered(space)] for end in (0, -1)], dtype=np.uint8)
    corners = [np.where(precisions(space), ends[b], ends[a]).astype(np.uint8) for a in (0, 1) for b in (1, 0)]
    X = space.canonical(np.array(corners))
    for _ in range(-(-4 * samples // _DRAWN) + 1):
        X = np.concatenate([X, space.sample(_DRAWN, rng)])
        _, first = np.unique(floats(space, X) if floating else X, axis=0, return_index=True)
        if len(first) >= samples:
            break
    X = X[np.sort(first)][:samples]
    return floats(space, X) if floating else X
