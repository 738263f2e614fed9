"""Scores made normal by their ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._types import Values


@dataclass(frozen=True, eq=False)
class Warp:
    """A monotone map that makes scores normally distributed, so that a few that are far off do not spoil a model of the others.

    Attributes:
        normal: quantiles of the normal distribution, ascending, shape ``(k,)``.
        scores: the scores that have these ranks, ascending, shape ``(k,)``.
    """

    normal: Values
    scores: Values

    @classmethod
    def of(cls, y: Values) -> tuple[Warp, Values]:
        """The map for some scores, and what it makes of them, shape ``(n,)``."""
        from scipy.special import ndtri

        scores, place, count = np.unique(y, return_inverse=True, return_counts=True)
        normal = np.asarray(ndtri((np.cumsum(count) - 0.5 * count) / len(y)))
        return cls(normal, scores), normal[place]

    def back(self, values: Values) -> Values:
        """The scores of normal values; beyond those that are known the map goes on as steep as it is there, shape as given."""
        found = np.interp(values, self.normal, self.scores)
        for end, step in ((0, 1), (-1, -1)):
            other = end + step * max(1, len(self.normal) // 8)
            if len(self.normal) > 1:
                slope = (self.scores[end] - self.scores[other]) / (self.normal[end] - self.normal[other])
                beyond = (values - self.normal[end]) * step < 0
                found = np.where(beyond, self.scores[end] + slope * (values - self.normal[end]), found)
        return found

    def forth(self, scores: Values) -> Values:
        """The normal values of scores, the inverse of :meth:`back`, shape as given."""
        return Warp(self.scores, self.normal).back(scores)

    def slope(self, values: Values) -> Values:
        """How fast the scores grow there, averaged over a tenth of a standard deviation, shape as given."""
        return (self.back(values + 0.05) - self.back(values - 0.05)) / 0.1
