"""Types of arrays, by what they hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint8]
"""Populations: gene indices, shape ``(n, genes)``; or one row, shape ``(genes,)``."""
Values = npt.NDArray[np.float64]
"""Numbers, such as scores or costs, shape ``(n,)``."""
Flags = npt.NDArray[np.bool_]
Features = npt.NDArray[np.float32]
"""One-hot rows, shape ``(n, features)``, or what is multiplied with them."""
Score = Callable[[Rows], npt.ArrayLike]
"""Canonical rows, shape ``(n, genes)`` -> scores, higher is better, shape ``(n,)``."""
