"""A predicted score and a predicted latency, corrected by what was measured of some networks.

The errors of the predictions are modelled, so predictors and tables stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..._types import Rows, Score, Values
from ...costs._metrics import Metric
from ...devices._table import LatencyTable
from ...scores._models import fit_model
from ...scores._process import GaussianProcess
from ...spaces import _tables
from ...spaces._space import SearchSpace

_CHUNK = 1024
"""Rows at a time, since each is compared with all that were measured."""
_SHARED, _OWN, _ONCE, _NOISE = 0.1, 0.1, 0.05, 0.01
"""Prior standard deviations of the errors of a table, as shares of what a block costs: common to the blocks of a class, of each block, of a
network measured once; and the noise of a measurement."""


@dataclass(frozen=True, eq=False)
class Corrected:
    """A score plus a Gaussian process that models its errors, fitted to measured scores.

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

    def std(self, X: Rows) -> Values:
        """Standard deviation of the correction of each row, in units of the score, shape ``(n,)``."""
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

    def gradient(self, X: Rows) -> npt.NDArray[np.float32] | None:
        """Derivatives by the features, shape ``(n, features)``; ``None`` if those of the score are not known."""
        known = getattr(self.score, "gradient", None)
        own = None if known is None else known(X)
        if own is None:
            return None
        total: npt.NDArray[np.float32] = own + (self.scale * self.process.gradient(self.space.features(X))).astype(np.float32)
        return total


def corrected_score(score: Score, space: SearchSpace, X: Rows, measured: Values, seed: int = 0) -> Corrected:
    """Correct a score by the measured scores of some networks.

    Near these networks the result is close to what was measured; far from them it is the old score plus the errors' common part.

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
    process = fit_model("gp", space, space.features(X), (left - mean) / scale, seed, sums=False)
    assert isinstance(process, GaussianProcess)
    return Corrected(score, space, process, mean, scale)


def corrected_latency(latency: Metric, table: LatencyTable, X: Rows, measured: Values) -> Metric:
    """Correct a latency by measured latencies of some networks; it remains a sum over blocks.

    The relative error of a block has a part that its class shares (precision, head, boundary) and a part of its own, both normally
    distributed; their most likely values given the measurements are added (Bayesian linear regression).

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
    names = [block.calibrated_with for block in blocks]
    of_class = np.array([[name == other for other in sorted(set(names))] for name in names], dtype=np.float64)
    spread = _OWN**2 * A.T + _SHARED**2 * of_class @ (of_class.T @ A.T)
    once = (_ONCE * float(np.median(measured))) ** 2
    weights = np.linalg.solve(A @ spread + once + np.diag((_NOISE * measured) ** 2), measured - latency(X))
    wrong = cost * np.append(np.clip(spread @ weights, -0.5, 1.0), 0.0)
    tables = [_tables.table(slot.genes, wrong[slot.blocks].sum(axis=-1)) for slot in space.slot_blocks]
    return latency.plus(_tables.TableSum((*tables, ((), np.asarray(once * weights.sum())))))
