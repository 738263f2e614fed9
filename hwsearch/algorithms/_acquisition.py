"""What a costly score is believed to be, and which networks are worth evaluating next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .._gaussian import Posterior
from .._types import Features, Rows, Values
from ..costs._metrics import Metric, values_of
from ..scores._inputs import reading
from ..scores._perceptrons import Examples
from ..scores._process import GaussianProcess
from ..scores._warp import Warp
from ..spaces._space import SearchSpace

_GRID = 64
"""Known scores between which a score is taken to be a straight line of what is normally distributed."""
_LEAST = 1e-9
"""Variances are at least this, where scores have the variance 1."""
_HOPEFUL = 1000
"""A batch is chosen from the networks of most worth, these many: assuming scores of some lowers what the others are worth."""


@dataclass(frozen=True, eq=False)
class Goal:
    """What is wanted: the best score; or, where metrics are traded against it, the volume that the front dominates.

    That volume is an integral over all levels of the metrics, of the best score within each. For one metric it is exact: between two
    networks of the front the best score is the same. For several it is a sum over random levels.

    Attributes:
        metrics: what is traded against the score.
        most: the largest level of each, shape ``(metrics,)``.
        levels: random ones of several metrics, shape ``(levels, metrics)``; none for a single metric.
        values: of the metrics of known networks, shape ``(n, metrics)``.
        scores: of these networks, shape ``(n,)``.
        worst: the score that counts within a level where none is known.
    """

    metrics: tuple[Metric, ...]
    most: Values
    levels: Values
    values: Values
    scores: Values
    worst: float

    @classmethod
    def of(cls, metrics: Sequence[Metric], most: Values, levels: Values, X: Rows, y: Values) -> Goal:
        """The goal after some scores, shape ``(n,)``, are known."""
        return cls(tuple(metrics), most, levels, _values(metrics, X), y, float(y.min()))

    def having(self, values: Values, score: float) -> Goal:
        """The goal after one more score is known, of a network with these metrics, shape ``(metrics,)``."""
        return replace(self, values=np.vstack([self.values, values]), scores=np.append(self.scores, score))

    def shares(self, values: Values) -> tuple[Values, Values]:
        """How much of the volume lies where the best score is the same, and what networks can raise of it.

        Args:
            values: of the metrics of some networks, shape ``(m, metrics)``.

        Returns:
            For each network how much of each part it is within, shape ``(m, parts)``; and the best score of each part, shape ``(parts,)``.
        """
        if not self.metrics:
            return np.ones((len(values), 1)), np.array([self.scores.max()])
        if len(self.metrics) > 1:
            known = (self.values[:, None] <= self.levels).all(axis=2)
            best = np.where(known, self.scores[:, None], self.worst).max(axis=0)
            return np.asarray((values[:, None] <= self.levels).all(axis=2), dtype=np.float64), np.asarray(best)
        order = np.lexsort((-self.scores, self.values[:, 0]))
        reached = np.maximum.accumulate(self.scores[order])
        front = order[np.flatnonzero(np.diff(reached, prepend=-np.inf) > 0)]
        starts = np.minimum(np.concatenate([[-np.inf], self.values[front, 0]]), self.most)
        ends = np.append(starts[1:], self.most)
        share: Values = np.maximum(ends - np.maximum(starts, values), 0.0)
        return share, np.concatenate([[self.worst], self.scores[front]])


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
        values = _values(metrics, X)
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

    def normal(self, scores: Values) -> Values:
        """What the process says of scores, the inverse of :meth:`scores`, shape as given."""
        return self.warp.forth(scores) / self.deviation


class Candidates:
    """Networks that may be evaluated, and what is believed of them, also under the assumption that some have been.

    Args:
        belief: about their scores.
        goal: what is wanted.
        X: rows, shape ``(n, genes)``.
    """

    def __init__(self, belief: Belief, goal: Goal, X: Rows) -> None:
        process = belief.process
        self.belief, self.goal, self.values = belief, goal, _values(goal.metrics, X)
        self.inputs = belief.inputs(X) @ process.steps
        covariance = process.covariance(self.inputs, process.rows)
        posterior = Posterior(process.half, process.alpha)
        self.mean, self.known = posterior.mean(covariance), posterior.whitened(covariance)
        self.variance = np.maximum(process.prior(self.inputs) - (self.known**2).sum(axis=0), _LEAST)
        self.noise = process.noise
        self.assumed: list[Values] = []
        self.free = np.ones(len(X), dtype=np.bool_)

    def worth(self) -> Values:
        """By how much evaluating each row is expected to raise what is wanted, shape ``(n,)``.

        What the process takes for noise counts as well: it belongs to a network, whose score would be the same another time. If nothing
        is expected to raise it, rows of better predictions are worth more.
        """
        spread = np.sqrt(self.variance + self.noise)[:, None]
        shares, best = self.goal.shares(self.values)
        order = np.argsort(best, kind="stable")
        grid = np.union1d(best, self._between(float(best[order[0]])))
        at = self.belief.normal(grid)
        climbs = np.append(np.diff(grid), self.belief.scores(at[-1:] + 1.0) - grid[-1])
        climbs /= np.maximum(np.append(np.diff(at), 1.0), _LEAST)  # scores rise in a straight line from one of the grid to the next
        exceed = _exceeds((at - self.mean[:, None]) / spread)
        exceed[:, :-1] -= exceed[:, 1:]
        exceed *= np.cumsum(shares[:, order], axis=1)[:, np.searchsorted(best[order], grid, side="right") - 1]
        found: Values = spread[:, 0] * (exceed @ climbs)
        return found if found.any() else self.mean - self.mean.min()

    def _between(self, worst: float) -> Values:
        """Some of the known scores above the worst one that counts, between which the map from normal values is taken for straight."""
        known = self.goal.scores
        known = np.unique(known[(known > worst) & (known < known.max())])
        return known[np.unique(np.linspace(0, len(known) - 1, min(_GRID, len(known))).astype(np.intp))]

    def assume(self, index: int) -> None:
        """Take a row for evaluated, with the score that it is believed to have (Ginsbourger et al., 2010, "kriging believer")."""
        process = self.belief.process
        shared = process.covariance(self.inputs[index : index + 1], self.inputs)[0] - self.known[:, index] @ self.known
        shared -= sum((part[index] * part for part in self.assumed), np.zeros(len(shared)))
        self.assumed.append(shared / np.sqrt(float(self.variance[index]) + self.noise))
        self.variance = np.maximum(self.variance - self.assumed[-1] ** 2, _LEAST)
        score = float(self.belief.scores(self.mean[index : index + 1])[0])
        self.goal = self.goal.having(self.values[index], score)
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
        self.values, self.inputs, self.free = self.values[rows], self.inputs[rows], self.free[rows]
        self.mean, self.variance, self.known = self.mean[rows], self.variance[rows], self.known[:, rows]
        self.assumed = [part[rows] for part in self.assumed]


def _exceeds(z: Values) -> Values:
    """By how much a standard normal number is expected to exceed numbers, shape as given."""
    from scipy.special import ndtr

    found: Values = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi) - z * ndtr(-z)
    return np.maximum(found, 0.0, out=found)


def _values(metrics: Sequence[Metric], X: Rows) -> Values:
    """Of metrics, perhaps none, shape ``(n, metrics)``."""
    return values_of(metrics, X) if metrics else np.empty((len(X), 0))


def _usual(values: Values) -> float:
    """The median of the values of a metric that are not 0, of which there are some, shape ``(n,)``."""
    return float(np.median(np.abs(values[values != 0]))) + 1e-12


def _logs(values: Values, middle: Values) -> Values:
    """Logarithms of metrics, which are at least 0 but for rounding, of zero as well."""
    result: Values = np.log(0.01 + np.maximum(values, 0.0) / middle)
    return result
