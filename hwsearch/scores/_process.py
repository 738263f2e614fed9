"""A Gaussian process over the genes of networks: which genes matter is learned with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .._gaussian import Posterior, squared_distances
from .._types import Features, Values
from ..errors import CorruptFile
from ._perceptrons import Arrays, Examples

_MOST = 400
"""Relevances are learned from a random part of the networks if there are more; all of them make the prediction."""
_NOISE = (1e-5, 2.0)
"""Variances of the noise of a score that are possible, where the scores have the variance 1."""


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A Gaussian process whose prior is a linear function plus a smooth one (Rasmussen and Williams, 2006, chapter 2).

    Its members are the posterior mean plus and minus one posterior standard deviation, so that their mean is the prediction and
    half of their distance is the standard deviation.

    Attributes:
        rows: the steps of the networks it was fitted on, shape ``(m, steps)``.
        alpha: weights of their covariances, shape ``(m,)``.
        half: lower Cholesky factor of their covariance, shape ``(m, m)``.
        steps: turns one-hot features into steps, shape ``(features, steps)``.
        terms: variance and length scale of the smooth part, variance and offset of the linear part, shape ``(4,)``.
    """

    kind: ClassVar[str] = "gp"
    rows: Features = field(repr=False)
    alpha: Values = field(repr=False)
    half: Values = field(repr=False)
    steps: Features = field(repr=False)
    terms: Values

    def each(self, features: Features) -> Values:
        """As :meth:`Model.each`."""
        inputs = features @ self.steps
        covariance = self.covariance(inputs, self.rows)
        posterior = Posterior(self.half, self.alpha)
        mean = posterior.mean(covariance)
        deviation = np.sqrt(np.maximum(posterior.variance(covariance, self.prior(inputs)), 1e-12))
        return np.stack([mean - deviation, mean + deviation])

    def mean(self, features: Features) -> Values:
        """The prediction alone, which is much quicker, shape ``(n,)``."""
        return Posterior(self.half, self.alpha).mean(self.covariance(features @ self.steps, self.rows))

    def covariance(self, a: Features, b: Features) -> Values:
        """Prior covariances of two lots of networks, given by their steps, shape ``(len(a), len(b))``."""
        smooth, length, linear, offset = self.terms
        apart = squared_distances(a.astype(np.float64), b.astype(np.float64))
        result: Values = smooth * np.exp(-0.5 * apart / length**2) + linear * (offset + (a @ b.T).astype(np.float64))
        return result

    def prior(self, inputs: Features) -> Values:
        """Prior variances of networks, given by their steps, shape ``(n,)``."""
        smooth, _, linear, offset = self.terms
        result: Values = smooth + linear * (offset + (inputs.astype(np.float64) ** 2).sum(axis=1))
        return result

    @property
    def noise(self) -> float:
        """The variance of what genes do not explain."""
        return max(float(self.half[0, 0] ** 2 - self.prior(self.rows[:1])[0]), 1e-6)

    @property
    def left_out(self) -> tuple[Values, Values]:
        """By how much each network's standardised score exceeds what it would be expected to be without it, and how unsure that is."""
        posterior = Posterior(self.half, self.alpha)
        return posterior.left_out, np.sqrt(np.maximum(1.0 / posterior.precisions - self.noise, 0.0))

    def gradient(self, features: Features) -> Values:
        """The derivatives of the prediction by the features, shape ``(n, features)``."""
        inputs, rows = (features @ self.steps).astype(np.float64), self.rows.astype(np.float64)
        smooth, length, linear, _ = self.terms
        pull = smooth * np.exp(-0.5 * squared_distances(inputs, rows) / length**2) * self.alpha / length**2
        result: Values = (pull @ rows - pull.sum(axis=1, keepdims=True) * inputs + linear * (self.alpha @ rows)) @ self.steps.T
        return result

    def arrays(self) -> Arrays:
        """As :meth:`Model.arrays`."""
        return {name: getattr(self, name) for name in ("rows", "alpha", "half", "steps", "terms")}

    @classmethod
    def read(cls, arrays: Mapping[str, npt.NDArray[Any]], features: int) -> GaussianProcess:
        """The model of :meth:`arrays`, for that number of features.

        Raises:
            CorruptFile: the arrays do not fit together.
            KeyError: one is missing.
        """
        process = cls(*(arrays[name] for name in ("rows", "alpha", "half", "steps", "terms")))
        m, steps = len(process.rows), process.steps.shape[-1]
        shapes = (process.rows.shape, process.alpha.shape, process.half.shape, process.steps.shape, process.terms.shape)
        if shapes != ((m, steps), (m,), (m, m), (features, steps), (4,)):
            raise CorruptFile(f"its arrays have the shapes {shapes}, which do not fit {features} features")
        if (process.terms < 0).any() or process.terms[1] == 0:
            raise CorruptFile(f"its variances and its length scale are {process.terms.tolist()}, which must be positive")
        return process

    @classmethod
    def fit(cls, examples: Examples) -> GaussianProcess:
        """Find variances and the relevance of each gene that make the scores likely.

        Each gene has its own length scale (automatic relevance determination, Rasmussen and Williams, 2006, section 5.1), and so have sums
        over genes that mean the same; all of them are drawn towards a common one, so that few networks do not mislead.
        """
        inputs = (examples.features @ examples.steps).astype(np.float64)
        some = np.random.default_rng(examples.seed).permutation(len(inputs))[:_MOST]
        likely = _Likelihood(inputs[some], examples.y[some], examples.blocks)
        smooth, linear, noise, scale = likely.maximum()
        steps = examples.steps * scale
        rows = examples.features @ steps
        terms = np.array([smooth, 1.0, linear, 1.0])
        process = cls(rows.astype(np.float32), np.empty(0), np.empty((0, 0)), steps.astype(np.float32), terms)
        covariance = process.covariance(process.rows, process.rows)
        covariance[np.diag_indices(len(rows))] += noise
        posterior = Posterior.of(covariance, examples.y)
        return replace(process, alpha=posterior.weights, half=posterior.half)


class _Likelihood:
    """How likely scores are, by the logarithms of the variances of a process and the relevances of its inputs.

    Args:
        inputs: shape ``(n, k)``.
        y: standardised scores, shape ``(n,)``.
        blocks: for each input the number of its block, which has one relevance, shape ``(k,)``.
    """

    def __init__(self, inputs: Values, y: Values, blocks: npt.NDArray[np.intp]) -> None:
        self.inputs, self.y, self.blocks = inputs, y, blocks
        spread = np.bincount(blocks, 2 * inputs.var(axis=0))  # the mean squared distance of two networks
        usual = float(np.median(spread[spread > 1e-9])) if (spread > 1e-9).any() else 1.0
        self.unit = 1.0 / np.maximum(spread, 0.25 * usual)  # a gene that never varied may still matter

    def maximum(self) -> tuple[float, float, float, Values]:
        """The variances of the smooth and of the linear part and of the noise, and a factor for each input, that are most likely."""
        from scipy.optimize import minimize

        count = len(self.unit)
        first = np.concatenate([np.log([0.7, 0.2, 0.05, 2.0 / count]), np.zeros(count)])
        bounds = [(-6, 4), (-9, 3), tuple(np.log(_NOISE)), (-12, 6), *[(-8, 8)] * count]
        found = minimize(self, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x
        smooth, linear, noise = np.exp(found[:3])
        return float(smooth), float(linear), float(noise), self._scale(found)

    def _scale(self, at: Values) -> Values:
        """The factor of each input, shape ``(k,)``."""
        result: Values = np.sqrt(np.exp(at[3] + at[4:]) * self.unit)[self.blocks]
        return result

    def __call__(self, at: Values) -> tuple[float, Values]:
        """Minus the logarithm of the likelihood, with what is thought of the variables before (normal), and its gradient."""
        from scipy.linalg import cho_solve

        inputs = self.inputs * self._scale(at)
        smooth = np.exp(at[0] - 0.5 * squared_distances(inputs, inputs))
        linear = np.exp(at[1]) * (1.0 + inputs @ inputs.T)
        covariance = smooth + linear
        covariance[np.diag_indices(len(inputs))] += np.exp(at[2]) + 1e-8
        half = np.linalg.cholesky(covariance)
        weights = cho_solve((half, True), self.y)
        value = 0.5 * float(self.y @ weights) + float(np.log(np.diag(half)).sum())
        slope = 0.5 * (cho_solve((half, True), np.eye(len(inputs))) - np.outer(weights, weights))
        pull = slope * smooth
        each = (inputs * (pull @ inputs)).sum(axis=0) - (inputs**2 * pull.sum(axis=1)[:, None]).sum(axis=0)
        each += np.exp(at[1]) * (inputs * (slope @ inputs)).sum(axis=0)
        of_block = np.bincount(self.blocks, each, minlength=len(self.unit))
        gradient = np.concatenate([[pull.sum(), (slope * linear).sum(), np.exp(at[2]) * np.trace(slope), of_block.sum()], of_block])
        middle = np.concatenate([[0.0, -1.5, -4.0, 1.0 - np.log(len(self.unit))], np.zeros(len(self.unit))])
        width = np.concatenate([[1.5, 2.0, 1.5, 2.0], np.ones(len(self.unit))])
        off = (at - middle) / width
        return value + 0.5 * float(off @ off), gradient + off / width
