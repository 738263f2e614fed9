"""Gaussian processes: what is known of a function after some of its values were measured.

Covariances are the caller's; this holds what follows from them (Rasmussen and Williams, 2006, algorithm 2.1 and section 5.4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Posterior:
    """A process with mean zero, conditioned on values at n places.

    Attributes:
        half: lower Cholesky factor of the covariance of these values, their noise included, shape ``(n, n)``.
        weights: the inverse of that covariance times the values, shape ``(n,)``.
    """

    half: Floats
    weights: Floats

    @classmethod
    def of(cls, covariance: Floats, values: Floats) -> Posterior:
        """Condition on values.

        Args:
            covariance: of the values, their noise included, positive definite, shape ``(n, n)``.
            values: shape ``(n,)``.
        """
        from scipy.linalg import cho_solve

        half = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        return cls(half, cho_solve((half, True), values))

    def mean(self, near: Floats) -> Floats:
        """Expected values at m other places.

        Args:
            near: covariances of these places with the measured ones, shape ``(m, n)``.

        Returns:
            Shape ``(m,)``.
        """
        result: Floats = near @ self.weights
        return result

    def whitened(self, near: Floats) -> Floats:
        """What the measurements tell about other places: the product of two columns is by how much their covariance falls.

        Args:
            near: as of :meth:`mean`.

        Returns:
            Shape ``(n, m)``.
        """
        from scipy.linalg import solve_triangular

        result: Floats = solve_triangular(self.half, near.T, lower=True, check_finite=False)
        return result

    def variance(self, near: Floats, prior: Floats | float) -> Floats:
        """Variances at other places, without noise.

        Args:
            near: as of :meth:`mean`.
            prior: variances of these places before anything was measured, shape ``(m,)``.

        Returns:
            At least zero, shape ``(m,)``.
        """
        result: Floats = np.maximum(prior - (self.whitened(near) ** 2).sum(axis=0), 0.0)
        return result

    @cached_property
    def precisions(self) -> Floats:
        """One over the variance that each value would be expected to have if it had not been measured, shape ``(n,)``."""
        result: Floats = (self.whitened(np.eye(len(self.half))) ** 2).sum(axis=0)
        return result

    @property
    def left_out(self) -> Floats:
        """By how much each value exceeds what it would be expected to be if it had not been measured, shape ``(n,)``."""
        result: Floats = self.weights / self.precisions
        return result


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Between the rows of two arrays, shape ``(len(a), len(b))``."""
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T
    result: Floats = np.maximum(squared, 0.0)
    return result
