"""What a costly score is believed to be, and which networks are worth evaluating next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._gaussian import Posterior
from .._types import Features, Flags, Rows, Values
from ..costs._metrics import Metric, values_of
from ..scores._inputs import reading
from ..scores._perceptrons import Examples
from ..scores._process import GaussianProcess
from ..scores._warp import Warp
from ..spaces._space import SearchSpace

_NODES, _WEIGHTS = (np.asarray(part, dtype=np.float64) for part in np.polynomial.hermite_e.hermegauss(8))
"""Where a function is evaluated for its mean under a normal distribution, and with which weights (Gauss-Hermite)."""
_LEAST = 1e-9
"""Variances are at least this, where scores have the variance 1."""
_HOPEFUL = 1000
"""A batch is chosen from the networks of most worth, these many: assuming scores of some lowers what the others are worth."""


@dataclass(frozen=True, eq=False)
class Goal:
    """What is wanted: the best score within every level of the metrics that are traded against it.

    The sum over levels of the best score within each is the volume that a front dominates, up to a constant; with a single level without
    bounds it is the best score.

    Attributes:
        metrics: what is traded against the score.
        levels: the most that each may be, shape ``(levels, metrics)``.
        best: the best score known within each, shape ``(levels,)``.
    """

    metrics: tuple[Metric, ...]
    levels: Values
    best: Values

    @classmethod
    def of(cls, metrics: Sequence[Metric], levels: Values, X: Rows, y: Values) -> Goal:
        """The goal after some scores, shape ``(n,)``, are known; where none is known within a level, the worst is taken."""
        goal = cls(tuple(metrics), levels, np.empty(0))
        return cls(goal.metrics, levels, np.where(goal.within(X), y[:, None], y.min()).max(axis=0))

    def within(self, X: Rows) -> Flags:
        """Which rows are within which levels, shape ``(n, levels)``."""
        if not self.metrics:
            return np.ones((len(X), len(self.levels)), dtype=np.bool_)
        return np.asarray((values_of(self.metrics, X)[:, None] <= self.levels).all(axis=2))


@dataclass(frozen=True, eq=False)
class Belief:
    """A Gaussian process of a warped score over genes and metrics.

    Attributes:
        space: of the networks.
        metrics: costs that are known of every network, which are inputs of the process as well.
        middle: of their values that are not 0, shape ``(metrics,)``.
        shift, unit: make the logarithms of the metrics standard, shape ``(metrics,)``.
        process: from these to warped scores.
        warp: see :class:`Warp`.
        deviation: of the warped scores.
    """

    space: SearchSpace
    metrics: tuple[Metric, ...]
    middle: Values
    shift: Values
    unit: Values
    process: GaussianProcess
    warp: Warp
    deviation: float

    @classmethod
    def of(cls, space: SearchSpace, metrics: Sequence[Metric], X: Rows, y: Values, seed: int) -> Belief:
        """Fit the process to known scores, shape ``(n,)``."""
        values = values_of(metrics, X) if metrics else np.empty((len(X), 0))
        told = np.isfinite(values).all(axis=0) & (np.ptp(values, axis=0) > 0)
        metrics = tuple(metric for metric, tells in zip(metrics, told, strict=True) if tells)
        middle = np.array([_usual(column) for column in values[:, told].T])
        logs = _logs(values[:, told], middle)
        shift, unit = logs.mean(axis=0), logs.std(axis=0) + 1e-9
        warp, target = Warp.of(y)
        deviation = float(target.std()) or 1.0
        inputs = np.hstack([space.features(X), ((logs - shift) / unit).astype(np.float32)])
        process = GaussianProcess.fit(Examples(inputs, target / deviation, reading(space, "gp").beside(len(metrics)), seed))
        return cls(space, metrics, middle, shift, unit, process, warp, deviation)

    def inputs(self, X: Rows) -> Features:
        """What the process reads of rows, shape ``(n, features + metrics)``."""
        features = self.space.features(X)
        if not self.metrics:
            return features
        logs = (_logs(values_of(self.metrics, X), self.middle) - self.shift) / self.unit
        return np.hstack([features, np.clip(logs, -9, 9).astype(np.float32)])

    def scores(self, values: Values) -> Values:
        """Scores of what the process says, shape as given."""
        return self.warp.back(values * self.deviation)


class Candidates:
    """Networks that may be evaluated, and what is believed of them, also under the assumption that some have been.

    Args:
        belief: about their scores.
        goal: what is wanted.
        X: rows, shape ``(n, genes)``.
    """

    def __init__(self, belief: Belief, goal: Goal, X: Rows) -> None:
        process = belief.process
        self.belief, self.within, self.best = belief, goal.within(X), goal.best.copy()
        self.inputs = belief.inputs(X) @ process.steps
        covariance = process.covariance(self.inputs, process.rows)
        posterior = Posterior(process.half, process.alpha)
        self.mean, self.known = posterior.mean(covariance), posterior.whitened(covariance)
        self.variance = np.maximum(process.prior(self.inputs) - (self.known**2).sum(axis=0), _LEAST)
        self.noise = process.noise
        self.assumed: list[Values] = []
        self.free = np.ones(len(X), dtype=np.bool_)

    def worth(self) -> Values:
        """By how much evaluating each row is expected to raise the best scores within the levels, shape ``(n,)``.

        What the process takes for noise counts as well: it belongs to a network, whose score would be the same another time.
        """
        spread = np.sqrt(self.variance + self.noise)[:, None]
        nodes = self.belief.scores(self.mean[:, None] + spread * _NODES)
        found = np.zeros(len(self.mean))
        for best in np.unique(self.best):
            count = self.within[:, self.best == best].sum(axis=1)
            found += count * (np.maximum(nodes - best, 0.0) @ _WEIGHTS)
        return found

    def assume(self, index: int) -> None:
        """Take a row for evaluated, with the score that it is believed to have (Ginsbourger et al., 2010, "kriging believer")."""
        process = self.belief.process
        shared = process.covariance(self.inputs[index : index + 1], self.inputs)[0] - self.known[:, index] @ self.known
        shared -= sum((part[index] * part for part in self.assumed), np.zeros(len(shared)))
        self.assumed.append(shared / np.sqrt(float(self.variance[index]) + self.noise))
        self.variance = np.maximum(self.variance - self.assumed[-1] ** 2, _LEAST)
        score = float(self.belief.scores(self.mean[index : index + 1])[0])
        self.best = np.where(self.within[index], np.maximum(self.best, score), self.best)
        self.free[index] = False

    def take(self, count: int) -> npt.NDArray[np.intp]:
        """The rows to evaluate, one after the other the one of most worth, those before it taken for evaluated."""
        hopeful = np.argsort(-np.where(self.free, self.worth(), -np.inf), kind="stable")[: max(_HOPEFUL, count)]
        self._keep(hopeful)
        chosen = []
        for _ in range(min(count, int(self.free.sum()))):
            chosen.append(int(np.where(self.free, self.worth(), -np.inf).argmax()))
            self.assume(chosen[-1])
        return hopeful[np.array(chosen, dtype=np.intp)]

    def _keep(self, rows: npt.NDArray[np.intp]) -> None:
        """Forget all other rows."""
        self.within, self.inputs, self.free = self.within[rows], self.inputs[rows], self.free[rows]
        self.mean, self.variance, self.known = self.mean[rows], self.variance[rows], self.known[:, rows]
        self.assumed = [part[rows] for part in self.assumed]


def _usual(values: Values) -> float:
    """The median of the values of a metric that are not 0, of which there are some, shape ``(n,)``."""
    return float(np.median(np.abs(values[values != 0]))) + 1e-12


def _logs(values: Values, middle: Values) -> Values:
    """Logarithms of metrics, which are at least 0 but for rounding, of zero as well."""
    result: Values = np.log(0.01 + np.maximum(values, 0.0) / middle)
    return result
