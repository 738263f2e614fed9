"""How far predictions are off, learned from networks that they were made without: intervals that hold as often as they say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._types import Values


@dataclass(frozen=True, eq=False)
class Calibration:
    """Errors of predictions of networks that were left out, in units of how unsure these were (Lei et al., JASA 2018, section 5.2).

    Attributes:
        floor: standard deviation of what a prediction does not know of itself, standardised.
        errors: absolute errors divided by how unsure each prediction was, ascending, shape ``(k,)``.
    """

    floor: float
    errors: Values

    @classmethod
    def of(cls, errors: Values, std: Values) -> Calibration:
        """From standardised errors and standard deviations of predictions, each of shape ``(k,)``."""
        floor = max(float(np.sqrt(np.mean(errors**2))), 1e-9)
        return cls(floor, np.sort(np.abs(errors) / np.hypot(std, floor)))

    def reach(self, std: Values, confidence: float) -> Values:
        """How far the truth is from a prediction at most, with a confidence, by its standard deviation, shape ``(n,)``."""
        return np.hypot(std, self.floor) * quantile(self.errors, confidence)


def quantile(errors: Values, confidence: float) -> float:
    """What another error exceeds with a chance of ``1 - confidence`` at most; the greatest if there are too few to tell.

    Args:
        errors: ascending, shape ``(k,)``.
        confidence: between 0 and 1.
    """
    return float(errors[min(math.ceil(confidence * (len(errors) + 1)), len(errors)) - 1])


def inside(errors: Values, std: Values, calibration: Calibration, confidence: float = 0.9) -> float:
    """The share of networks that are inside their intervals, by their standardised errors and standard deviations."""
    return float(np.mean(np.abs(errors) <= calibration.reach(std, confidence)))


def coverage(errors: Values, std: Values, fold: npt.NDArray[np.intp], confidence: float = 0.9) -> float:
    """The share of networks inside their intervals, each interval calibrated without the fold that its network is in.

    Args:
        errors: standardised, of predictions of networks that were left out, shape ``(k,)``.
        std: standard deviations of these predictions, shape ``(k,)``.
        fold: the fold that each network was left out with, shape ``(k,)``.
        confidence: of the intervals.
    """
    parts = [fold == number for number in np.unique(fold)]
    shares = [inside(errors[out], std[out], Calibration.of(errors[~out], std[~out]), confidence) for out in parts]
    return float(np.average(shares, weights=[int(out.sum()) for out in parts]))
