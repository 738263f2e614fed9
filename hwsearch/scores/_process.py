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
from ._inputs import Reading
from ._perceptrons import Arrays, Examples

_MOST = 400
"""Relevances are learned from a random part of the networks if there are more; all of them make the prediction."""
_NOISE = (1e-5, 2.0)
"""Variances of the noise of a score that are possible, where the scores have the variance 1."""
_CHUNK = 256
"""Networks whose covariances are computed at once: what is in between stays in the processor's cache."""
_JITTER = 1e-9
"""Added to variances, as a share of them, since a computer rounds."""
_NONE = (-20.0, -20.0)
"""Between which logarithms of variances one is that is none."""
_ALONE = (0.0, -20.0, -20.0)
"""Logarithms of variances that are expected where nothing describes the network as a whole."""
_ARRAYS = ("rows", "alpha", "half", "steps", "terms", "genes")


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A Gaussian process whose prior is a linear function plus smooth ones (Rasmussen and Williams, 2006, chapter 2).

    One smooth function reads each gene by itself, one reads what describes the network as a whole (sums over genes, metrics), and one
    reads both: what a network is on the whole is learned from few networks, what single genes change about it from more of them.

    Its members are the posterior mean plus and minus one posterior standard deviation, so that their mean is the prediction and
    half of their distance is the standard deviation.

    Attributes:
        rows: the steps of the networks it was fitted on, shape ``(m, steps)``.
        alpha: weights of their covariances, shape ``(m,)``.
        half: lower Cholesky factor of their covariance, shape ``(m, m)``.
        steps: turns features into steps, shape ``(features, steps)``.
        terms: variance and offset of the linear part, variances of the smooth functions of genes, of the whole and of both, shape ``(5,)``.
        genes: steps of single genes; those behind them describe the whole. Shape ``()``.
    """

    kind: ClassVar[str] = "gp"
    rows: Features = field(repr=False)
    alpha: Values = field(repr=False)
    half: Values = field(repr=False)
    steps: Features = field(repr=False)
    terms: Values
    genes: npt.NDArray[np.intp] = field(repr=False)

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
        linear, offset, *smooth = self.terms
        result: Values = linear * (offset + (a @ b.T).astype(np.float64))
        for start in range(0, len(a), _CHUNK):
            part = slice(start, start + _CHUNK)
            result[part] += sum(_smooth(smooth, *_near(a[part], b, int(self.genes))))
        return result

    def prior(self, inputs: Features) -> Values:
        """Prior variances of networks, given by their steps, shape ``(n,)``."""
        linear, offset, *smooth = self.terms
        result: Values = sum(smooth) + linear * (offset + (inputs.astype(np.float64) ** 2).sum(axis=1))
        return result

    @property
    def noise(self) -> float:
        """The variance of what genes do not explain."""
        return max(float(self.half[0, 0] ** 2 - self.prior(self.rows[:1])[0]), 1e-6)

    @property
    def left_out(self) -> Values:
        """By how much each network's standardised score exceeds what it would be expected to be without it, shape ``(m,)``."""
        return Posterior(self.half, self.alpha).left_out

    def gradient(self, features: Features) -> Values:
        """The derivatives of the prediction by the features, shape ``(n, features)``."""
        inputs, rows = (features @ self.steps).astype(np.float64), self.rows.astype(np.float64)
        linear, _, *smooth = self.terms
        genes, whole, both = _smooth(smooth, *_near(inputs, rows, int(self.genes)))
        slope = np.tile(linear * (self.alpha @ rows), (len(inputs), 1))
        for part, pull in zip(_parts(int(self.genes)), ((genes + both) * self.alpha, (whole + both) * self.alpha), strict=True):
            slope[:, part] += pull @ rows[:, part] - pull.sum(axis=1, keepdims=True) * inputs[:, part]
        result: Values = slope @ self.steps.T
        return result

    def arrays(self) -> Arrays:
        """As :meth:`Model.arrays`."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def read(cls, arrays: Mapping[str, npt.NDArray[Any]], features: int) -> GaussianProcess:
        """The model of :meth:`arrays`, for that number of features.

        Raises:
            CorruptFile: the arrays do not fit together.
            KeyError: one is missing.
        """
        process = cls(*(arrays[name] for name in _ARRAYS)) if "genes" in arrays else cls._of_one_part(arrays)
        m, steps = len(process.rows), process.steps.shape[-1]
        shapes = tuple(getattr(process, name).shape for name in _ARRAYS)
        if shapes != ((m, steps), (m,), (m, m), (features, steps), (5,), ()):
            raise CorruptFile(f"its arrays have the shapes {shapes}, which do not fit {features} features")
        if process.genes.dtype.kind not in "iu" or not 0 <= process.genes <= steps:
            raise CorruptFile(f"it has {process.genes} steps of genes, and {steps} steps in all")
        if (process.terms < 0).any():
            raise CorruptFile(f"its variances are {process.terms.tolist()}, which must be at least 0")
        return process

    @classmethod
    def _of_one_part(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> GaussianProcess:
        """The model of a file of version 2 or before, which holds a single smooth function, and its length scale.

        Raises:
            CorruptFile: its length scale is not positive.
        """
        smooth, length, linear, offset = arrays["terms"]
        if not length > 0:
            raise CorruptFile(f"its length scale is {length}, which must be positive")
        rows, steps = (np.asarray(arrays[name] / length, dtype=np.float32) for name in ("rows", "steps"))
        terms = np.array([linear * length**2, offset / length**2, smooth, 0.0, 0.0])
        return cls(rows, arrays["alpha"], arrays["half"], steps, terms, np.array(rows.shape[-1]))

    @classmethod
    def fit(cls, examples: Examples) -> GaussianProcess:
        """Find variances and the relevance of each gene that make the scores likely.

        Each gene has its own length scale (automatic relevance determination, Rasmussen and Williams, 2006, section 5.1), and so have sums
        over genes that mean the same, and each value of such genes, whichever of them has it; all of them are drawn towards a common one,
        so that few networks do not mislead.
        """
        reading = examples.reading
        inputs = (examples.features @ reading.steps).astype(np.float64)
        some = np.random.default_rng(examples.seed).permutation(len(inputs))[:_MOST]
        terms, noise, scale = _Likelihood(inputs[some], examples.y[some], reading).maximum()
        steps = reading.steps * scale
        rows = (examples.features @ steps).astype(np.float32)
        process = cls(rows, np.empty(0), np.empty((0, 0)), steps.astype(np.float32), terms, np.array(reading.genes))
        covariance = _noisy(process.covariance(rows, rows), noise)
        posterior = Posterior.of(covariance, examples.y)
        return replace(process, alpha=posterior.weights, half=posterior.half)


class _Likelihood:
    """How likely scores are, by the logarithms of the variances of a process and the relevances of its inputs.

    Args:
        inputs: shape ``(n, k)``.
        y: standardised scores, shape ``(n,)``.
        reading: of which gene and which value each input is.
    """

    def __init__(self, inputs: Values, y: Values, reading: Reading) -> None:
        self.inputs, self.y, self.reading = inputs, y, reading
        spread = np.bincount(reading.block, 2 * inputs.var(axis=0))  # the mean squared distance of two networks
        usual = float(np.median(spread[spread > 1e-9])) if (spread > 1e-9).any() else 1.0
        self.unit = 1.0 / np.maximum(spread, 0.25 * usual)  # a gene that never varied may still matter
        blocks, values = len(self.unit), int(reading.value.max(initial=-1)) + 1
        self.alone = reading.genes == inputs.shape[1]
        self.middle = np.concatenate([[-1.5, -4.0, 1.0 - np.log(blocks)], _ALONE if self.alone else [-0.5] * 3, np.zeros(blocks + values)])
        self.width = np.concatenate([[2.0, 1.5, 2.0, 1.5, 1.5, 1.5], np.ones(blocks + values)])

    def maximum(self) -> tuple[Values, float, Values]:
        """Terms of a process, the variance of the noise and a factor for each input that are most likely."""
        from scipy.optimize import minimize

        first = self.middle.copy()
        first[:4] = np.log([0.2, 0.05, 2.0 / len(self.unit), 0.7 if self.alone else 0.25])
        first[4:6] = _NONE[0] if self.alone else np.log(0.25)
        smooth = [(-9, 4), *[_NONE if self.alone else (-9, 4)] * 2]
        bounds = [(-9, 3), tuple(np.log(_NOISE)), (-12, 6), *smooth, *[(-8, 8)] * (len(first) - 6)]
        found = minimize(self, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x
        linear, noise, _, *variances = np.exp(found[:6])
        return np.array([linear, 1.0, *variances]), float(noise), self._scale(found)

    def _scale(self, at: Values) -> Values:
        """The factor of each input, shape ``(k,)``."""
        of_block, of_value = np.split(at[6:], [len(self.unit)])
        logs = (of_block + np.log(self.unit))[self.reading.block] + np.append(of_value, 0.0)[self.reading.value]
        result: Values = np.exp(0.5 * (at[2] + logs))
        return result

    def __call__(self, at: Values) -> tuple[float, Values]:
        """Minus the logarithm of the likelihood, with what is thought of the variables before (normal), and its gradient."""
        from scipy.linalg.lapack import dpotri, dpotrs

        inputs = self.inputs * self._scale(at)
        smooth = _smooth(np.exp(at[3:6]).tolist(), *_near(inputs, inputs, self.reading.genes))
        linear = np.exp(at[0]) * (1.0 + inputs @ inputs.T)
        half = np.linalg.cholesky(_noisy(sum(smooth) + linear, np.exp(at[1])))
        weights = dpotrs(half, self.y, lower=1)[0].ravel()
        value = 0.5 * float(self.y @ weights) + float(np.log(np.diag(half)).sum())
        inverse = np.tril(dpotri(half, lower=1)[0])  # of which it computes the lower half
        inverse += np.tril(inverse, -1).T
        slope = 0.5 * (inverse - np.outer(weights, weights))
        each = np.exp(at[0]) * (inputs * (slope @ inputs)).sum(axis=0)
        for part, own in zip(_parts(self.reading.genes), smooth, strict=False):
            pull, some = slope * (own + smooth[2]), inputs[:, part]
            each[part] += (some * (pull @ some)).sum(axis=0) - (some**2 * pull.sum(axis=1)[:, None]).sum(axis=0)
        of_block = np.bincount(self.reading.block, each, minlength=len(self.unit))
        of_value = np.bincount(self.reading.value + 1, each, minlength=len(at) - 5 - len(self.unit))[1:]
        terms = [(slope * linear).sum(), np.exp(at[1]) * np.trace(slope), of_block.sum(), *((slope * part).sum() for part in smooth)]
        off = (at - self.middle) / self.width
        return value + 0.5 * float(off @ off), np.concatenate([terms, of_block, of_value]) + off / self.width


def _parts(genes: int) -> tuple[slice, slice]:
    """The steps of single genes, and those of the whole."""
    return slice(genes), slice(genes, None)


def _near(a: Features | Values, b: Features | Values, genes: int) -> list[Values]:
    """How near networks are in single genes and on the whole, from 0 to 1, each of shape ``(len(a), len(b))``."""
    apart = (squared_distances(a[:, part].astype(np.float64), b[:, part].astype(np.float64)) for part in _parts(genes))
    return [np.exp(-0.5 * distance) for distance in apart]


def _smooth(variances: list[float], genes: Values, whole: Values) -> list[Values]:
    """Covariances of the smooth functions of genes, of the whole and of both."""
    of_genes, of_whole, of_both = variances
    return [of_genes * genes, of_whole * whole, of_both * genes * whole]


def _noisy(covariance: Values, noise: float) -> Values:
    """The covariance with noise on its diagonal, and a little more, shape as given."""
    every = np.diag_indices(len(covariance))
    covariance[every] += noise + _JITTER * (1.0 + float(covariance[every].mean()))
    return covariance
