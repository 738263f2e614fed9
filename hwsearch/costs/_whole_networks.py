"""Metrics fitted to whole networks: for devices on which blocks cannot be measured one by one.

Networks are measured as a whole, a few hundred of them, and what a block costs is inferred: a constant, its dense and its depthwise
multiply-accumulates, and the feature maps that each kind reads and writes, by kernel. The result is additive over blocks like
any other metric, so it limits and bounds searches like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._types import Values
from ..devices._calibration import spearman
from ..errors import InvalidInput, check_seed
from ..networks._blocks import Block
from ..spaces import _tables
from ..spaces._space import SearchSpace
from ..spaces._tables import TableSum
from ._metrics import Metric, values_of


@dataclass(frozen=True)
class FitReport:
    """How well a fitted metric does on networks that it was not fitted on.

    Attributes:
        fitted, held_out: numbers of networks.
        mean_abs: mean absolute relative error.
        spearman: rank correlation.
    """

    fitted: int
    held_out: int
    mean_abs: float
    spearman: float

    def __str__(self) -> str:
        return (
            f"mean error {self.mean_abs:.1%}, Spearman {self.spearman:.4f} on {self.held_out} held-out networks (fitted on {self.fitted})"
        )


def fit_metric(
    name: str, space: SearchSpace, X: npt.ArrayLike, measured: npt.ArrayLike, *, unit: str = "ms", holdout: float = 0.2, seed: int = 0
) -> tuple[Metric, FitReport]:
    """Fit an additive metric to measurements of whole networks.

    Relative errors are made small by ridge regression; the quality is measured first on a random share of the networks, and the
    metric that is returned is fitted on all of them.

    Args:
        name: of the metric, such as ``"latency_ms"``.
        space: whose rows ``X`` holds; its slots have blocks.
        X: networks, shape ``(n, genes)``, at least 30.
        measured: what they cost, positive, shape ``(n,)``.
        unit: of ``measured``.
        holdout: share of the networks that the report is made on.
        seed: of the split.

    Raises:
        InvalidInput: too few networks, another shape, or costs that are not positive and finite.

    Example:
        >>> import hwsearch, numpy as np
        >>> space = hwsearch.load_space("resnet_digits")
        >>> X = space.sample(100, np.random.default_rng(0))
        >>> measured = 0.1 + 1e-6 * hwsearch.metric("macs", space)(X)
        >>> latency, report = hwsearch.costs.fit_metric("latency_ms", space, X, measured)
        >>> latency(X).shape, report.mean_abs < 0.1
        ((100,), True)
    """
    rows, costs = space.check(X), np.asarray(measured, dtype=np.float64)
    if len(rows) < 30:
        raise InvalidInput(f"A fitted metric needs at least 30 networks, and {len(rows)} were given.")
    if costs.shape != (len(rows),):
        raise InvalidInput(f"measured must have the shape ({len(rows)},), one cost a row of X, not {costs.shape}.")
    if not (np.isfinite(costs) & (costs > 0)).all():
        raise InvalidInput("measured must be positive and finite.")
    if not 0 < holdout < 1:
        raise InvalidInput(f"holdout must be between 0 and 1, not {holdout}.")
    described = np.array([_described(block) for block in space.unique_blocks])
    order = np.random.default_rng(check_seed(seed)).permutation(len(rows))
    cut = max(2, round(len(rows) * holdout))
    held, kept = order[:cut], order[cut:]
    trial = _fit(name, space, described, rows[kept], costs[kept], unit)(rows[held])
    report = FitReport(len(kept), len(held), float(np.abs(trial / costs[held] - 1).mean()), spearman(trial, costs[held]))
    return _fit(name, space, described, rows, costs, unit), report


def _described(block: Block) -> list[float]:
    """What a block's cost may depend on; the units only keep the numbers near one."""
    layers = block.graph.layers
    dense = [layer for layer in layers if layer.groups == 1]
    deep = [layer for layer in layers if layer.groups > 1]
    found = [
        1.0,
        sum(layer.macs for layer in dense) / 1e6,
        sum(layer.inputs + layer.outputs for layer in dense) / 1e5,
        sum(layer.inputs + layer.outputs for layer in deep) / 1e5,
    ]
    for kernel in (3, 5, 7):
        some = [layer for layer in deep if layer.kernel == kernel]
        found += [sum(layer.macs for layer in some) / 1e6, float(len(some))]
    return found


def _fit(name: str, space: SearchSpace, described: Values, rows: npt.NDArray[np.uint8], costs: Values, unit: str) -> Metric:
    padded = np.vstack([described, np.zeros(described.shape[1])])
    parts = [padded[slot.blocks].sum(axis=-2) for slot in space.slot_blocks]
    columns = []
    for feature in range(described.shape[1]):
        tables = tuple(_tables.table(slot.genes, part[..., feature]) for slot, part in zip(space.slot_blocks, parts, strict=True))
        columns.append(Metric("feature", "", space, TableSum(tables)))
    A = values_of(columns, rows)
    unit_of = A.std(axis=0)
    varies = unit_of > 1e-9 * (np.abs(A).max(axis=0) + 1e-30)
    scaled = A[:, varies] / unit_of[varies]
    weighted = np.column_stack([np.ones(len(rows)), scaled]) / costs[:, None]
    ridge = np.diag([0.0, *[np.sqrt(0.1) / costs.mean()] * scaled.shape[1]])
    target = np.concatenate([np.ones(len(rows)), np.zeros(len(ridge))])
    solution = np.linalg.lstsq(np.vstack([weighted, ridge]), target, rcond=None)[0]
    theta = np.zeros(described.shape[1])
    theta[varies] = solution[1:] / unit_of[varies]
    fitted = [_tables.table(slot.genes, part @ theta) for slot, part in zip(space.slot_blocks, parts, strict=True)]
    return Metric(name, unit, space, TableSum((*fitted, ((), np.asarray(solution[0])))))
