"""Corrections: a score and a latency that know what some networks really have.

Both are models of what the predictions leave, so that predictors and tables stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ...algorithms._problem import Score
from ...costs._metrics import Metric
from ...devices._calibration import class_of
from ...devices._table import LatencyTable
from ...scores._models import GaussianProcess, fit_model
from ...spaces import _tables
from ...spaces._space import Rows, SearchSpace

Values = npt.NDArray[np.float64]

_CHUNK = 1024
"""Rows at a time, since each is compared with all that were measured."""
_SHARED, _OWN, _ONCE, _NOISE = 0.1, 0.1, 0.05, 0.01
"""How wrong a table is taken to be before anything is measured: the blocks of a class alike, each block, a network once (all as shares of
what they cost), and how repeatable measuring is."""


@dataclass(frozen=True, eq=False)
class Corrected:
    """A score, and a Gaussian process of what it leaves of the scores that were measured.

    Attributes:
        score: what is corrected.
        space: of its rows.
        process: of standardised differences.
        mean, scale: undo the standardisation.
    """

    score: Score
    space: SearchSpace = field(repr=False)
    process: GaussianProcess = field(repr=False)
    mean: float
    scale: float

    def __call__(self, X: Rows) -> Values:
        """Corrected scores, shape ``(n,)``."""
        corrected: Values = np.asarray(self.score(X), dtype=np.float64) + self.mean + self.scale * self._each(X)[0]
        return corrected

    def doubt(self, X: Rows) -> Values:
        """How unsure the correction is of each row, in units of the score, shape ``(n,)``."""
        unsure: Values = self.scale * self._each(X)[1]
        return unsure

    def _each(self, X: Rows) -> Values:
        """Mean and standard deviation of the process at each row, shape ``(2, n)``."""
        found = np.empty((2, len(X)))
        for start in range(0, len(X), _CHUNK):
            part = slice(start, start + _CHUNK)
            members = self.process.each(self.space.features(X[part]))
            found[:, part] = members.mean(axis=0), members.std(axis=0)
        return found

    def slopes(self, X: Rows) -> npt.NDArray[np.float32] | None:
        """Derivatives by the features, shape ``(n, features)``; ``None`` where those of the score are not known."""
        known = getattr(self.score, "slopes", None)
        own = None if known is None else known(X)
        if own is None:
            return None
        slopes: npt.NDArray[np.float32] = own + (self.scale * _slopes(self.process, self.space.features(X))).astype(np.float32)
        return slopes


def _slopes(process: GaussianProcess, features: npt.NDArray[np.float32]) -> Values:
    """The derivatives of what a process predicts by the features, shape ``(n, features)``."""
    inputs, rows = (features @ process.steps).astype(np.float64), process.rows.astype(np.float64)
    smooth, length, linear, _ = process.terms
    apart = (inputs**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1)[None] - 2 * inputs @ rows.T
    pull = smooth * np.exp(-0.5 * np.maximum(apart, 0.0) / length**2) * process.alpha / length**2
    slopes: Values = (pull @ rows - pull.sum(axis=1, keepdims=True) * inputs + linear * (process.alpha @ rows)) @ process.steps.T
    return slopes


def corrected_score(score: Score, space: SearchSpace, X: Rows, measured: Values, seed: int = 0) -> Corrected:
    """A score that knows what some networks really have: near them nearly that, far from them as before, but for what all had in common.

    Args:
        score: rows ``(n, genes)`` -> scores ``(n,)``.
        space: of the rows.
        X: the networks, shape ``(n, genes)``.
        measured: their scores, shape ``(n,)``.
        seed: of the fit.

    Raises:
        MissingDependency: scikit-learn is not installed.
    """
    left = measured - np.asarray(score(X), dtype=np.float64)
    mean, scale = float(left.mean()), float(left.std()) or 1.0
    process = fit_model("gp", space.sizes, space.features(X), (left - mean) / scale, seed)
    assert isinstance(process, GaussianProcess)
    return Corrected(score, space, process, mean, scale)


def corrected_latency(latency: Metric, table: LatencyTable, X: Rows, measured: Values) -> Metric:
    """A latency that knows what some networks really take, and is a sum over blocks as before.

    Every block is taken to be wrong by a share that has a part in common with its class (precision, head, boundary) and one of its own,
    both normally distributed; what is most likely after the measurements is added (Bayesian linear regression).

    Args:
        latency: by the table.
        table: of the device.
        X: the networks, shape ``(n, genes)``.
        measured: their milliseconds, shape ``(n,)``.
    """
    space = latency.space
    blocks, wanted = space.unique_blocks, space.reachable
    cost = np.zeros(len(blocks) + 1)
    cost[wanted] = table.costs([blocks[index] for index in wanted], space=space.name)
    place = {block: index for index, block in enumerate(blocks)}
    A = np.zeros((len(X), len(blocks)))
    for work, row in zip(A, X, strict=True):
        for block in space.blocks(row):
            work[place[block]] += cost[place[block]]
    names = [class_of(block) for block in blocks]
    of_class = np.array([[name == other for other in sorted(set(names))] for name in names], dtype=np.float64)
    spread = _OWN**2 * A.T + _SHARED**2 * of_class @ (of_class.T @ A.T)
    once = (_ONCE * float(np.median(measured))) ** 2
    weights = np.linalg.solve(A @ spread + once + np.diag((_NOISE * measured) ** 2), measured - latency(X))
    wrong = cost * np.append(np.clip(spread @ weights, -0.5, 1.0), 0.0)
    tables = [_tables.table(slot.genes, wrong[slot.blocks].sum(axis=-1)) for slot in space.slot_blocks]
    return replace(latency, tables=(*latency.tables, *tables, ((), np.asarray(once * weights.sum()))))
