"""Types of arrays, by what they hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint8]
"""Populations: gene indices, shape ``(n, genes)``; or one row, shape ``(genes,)``.

Example:
    >>> import hwsearch, numpy as np
    >>> space = hwsearch.load_space("resnet_digits")
    >>> X = space.sample(100, np.random.default_rng(0))
    >>> X.shape, X.dtype  # a hundred networks, each the indices of 21 genes' values
    ((100, 21), dtype('uint8'))
"""
Values = npt.NDArray[np.float64]
"""Numbers, such as scores or costs, shape ``(n,)``."""
Flags = npt.NDArray[np.bool_]
Features = npt.NDArray[np.float32]
"""One-hot rows, shape ``(n, features)``, or what is multiplied with them."""
Score = Callable[[Rows], npt.ArrayLike]
"""Canonical rows, shape ``(n, genes)`` -> scores, higher is better, shape ``(n,)``.

Example:
    >>> import hwsearch, numpy as np
    >>> def score(X):  # any function of rows will do
    ...     return -np.abs(X.mean(axis=1) - 1.0)
    >>> hwsearch.search("resnet_digits", predictor=score, limits={"macs": 1e6}, run=hwsearch.Run(steps=3)).best_score <= 0
    True
"""
