"""How well a predictor did on networks that it was not fitted on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .._types import Values


@dataclass(frozen=True)
class Report:
    """How well a predictor did on networks that it was not fitted on.

    Example:
        >>> import hwsearch, numpy as np
        >>> space = hwsearch.load_space("resnet_digits")
        >>> X = space.sample(60, np.random.default_rng(0))
        >>> report = hwsearch.Predictor.fit(space, X, X.mean(axis=1), kind="linear").report
        >>> report.kendall_tau > 0.9, report.held_out, report.fitted
        (True, 12, 48)

    Attributes:
        held_out: number of those networks.
        fitted: number of networks it was fitted on for this report.
        kendall_tau: rank correlation, 1 is perfect; not a number where all networks score the same, or are predicted to.
        pairwise_accuracy: share of pairs of networks that it orders correctly; not a number where all score the same.
        rmse: root mean square error, in units of the score (accuracy: 0.01 is one point).
        base: number of networks that its base was fitted on; 0 without one.
        choice: how its kind was chosen; empty if it was named.
        coverage: share of the held-out networks inside the 90 % interval of each (:meth:`Predictor.interval`); ``None`` if not known.
    """

    held_out: int
    fitted: int
    kendall_tau: float
    pairwise_accuracy: float
    rmse: float
    base: int = 0
    choice: str = ""
    coverage: float | None = None

    def __str__(self) -> str:
        base = f", upon a base of {self.base}" if self.base else ""
        inside = "" if self.coverage is None else f"; {self.coverage:.0%} of them inside the 90 % interval"
        choice = f"; {self.choice}" if self.choice else ""
        ranked = f"Kendall tau {self.kendall_tau:.3f}, pairwise accuracy {self.pairwise_accuracy:.1%}"
        order = "No order to be told (scores or predictions are all equal)" if math.isnan(self.kendall_tau) else ranked
        return f"{order}, RMSE {self.rmse:.4f} on {self.held_out} held-out networks (fitted on {self.fitted}{base}){inside}{choice}"


def pairwise_accuracy(truth: Values, guess: Values) -> float:
    """The share of pairs with different true scores that are ordered correctly; NaN without such a pair."""
    first, second = np.triu_indices(len(truth), 1)
    real = np.sign(truth[first] - truth[second])
    right = real == np.sign(guess[first] - guess[second])
    told = real != 0
    return float(right[told].mean()) if told.any() else float("nan")
