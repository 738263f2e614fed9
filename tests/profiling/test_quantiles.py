"""Quantiles of short lists are those of numpy."""

from __future__ import annotations

import numpy as np

from hwsearch.profiling._quantiles import quantiles


def test_quantiles_are_those_of_numpy_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    shares = (0.0, 0.05, 0.25, 0.3, 0.5, 0.75, 1.0)
    for n in range(1, 30):
        values = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 4)
        assert quantiles(values, *shares) == tuple(np.quantile(values, shares))
