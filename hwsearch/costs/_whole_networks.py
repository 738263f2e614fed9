"""Metrics fitted to whole networks: for devices on which blocks cannot be measured one by one.

Networks are measured as a whole, a few hundred of them, and what a block costs is inferred: a constant, its dense and its depthwise
multiply-accumulates, and the feature maps that each kind reads and writes, by kernel. The result is additive over blocks like
any other metric, or the larger of two such sums: small networks are bound by launches, large ones by arithmetic, and a GPU that is fed
many images passes from one to the other. Either limits and bounds searches like any other metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..devices._calibration import spearman
from ..errors import InvalidInput, check_seed
from ..networks._blocks import Block
from ..spaces import _tables
from ..spaces._space import SearchSpace
from ..spaces._tables import TableSum
from ._metrics import Metric

_FOLDS = 5
_SPLITS = (0.25, 0.5, 0.75)
"""Shares of the networks, the smallest ones, that the first of two sums is first fitted without."""
_TURNS = 30
_REWEIGHTED = 6
_FEWEST = 15
"""Networks that a sum is fitted to."""


@dataclass(frozen=True)
class FitReport:
    """How well a fitted metric does on networks that it was not fitted on.

    Example:
        >>> import hwsearch, numpy as np
        >>> space, rng = hwsearch.load_space("resnet_digits"), np.random.default_rng(0)
        >>> X = space.sample(200, rng)
        >>> measured = (0.1 + 1e-6 * hwsearch.metric("macs", space)(X)) * rng.normal(1, 0.02, 200)
        >>> latency, report = hwsearch.costs.fit_metric("latency_ms", space, X, measured)
        >>> least, most = report.interval(0.9)  # measured over predicted latency of nine networks in ten
        >>> least < 1 < most
        True

    Attributes:
        fitted, held_out: numbers of networks.
        mean_abs: mean absolute relative error.
        spearman: rank correlation.
        sums: 1 if the metric is additive, 2 if it is the larger of two additive ones.
        ratios: measured over predicted cost of the held-out networks, ascending.
        coverage: share of the held-out networks inside the 90 % interval, each half of them judged by the interval of the other half.
    """

    fitted: int
    held_out: int
    mean_abs: float
    spearman: float
    sums: int = 1
    ratios: tuple[float, ...] = field(default=(), repr=False)
    coverage: float | None = None

    def interval(self, confidence: float = 0.9) -> tuple[float, float]:
        """Between which multiples of what the metric predicts measured costs lie, of that share of networks.

        Raises:
            InvalidInput: a confidence outside (0, 1), or a report without ratios.
        """
        _check_share("confidence", confidence)
        return _between(self._ascending, confidence)

    def safe(self, metric: Metric, probability: float) -> Metric:
        """The metric raised so far that a network's measured cost is at most that with a probability: for limits that shall hold.

        Example:
            >>> import hwsearch, numpy as np
            >>> space, rng = hwsearch.load_space("resnet_digits"), np.random.default_rng(0)
            >>> X = space.sample(200, rng)
            >>> measured = (0.1 + 1e-6 * hwsearch.metric("macs", space)(X)) * rng.normal(1, 0.02, 200)
            >>> latency, report = hwsearch.costs.fit_metric("latency_ms", space, X, measured)
            >>> bool((report.safe(latency, 0.95)(X) > latency(X)).all())  # a limit on this holds for nineteen networks in twenty
            True

        Args:
            metric: the one that this is the report of.
            probability: such as 0.95. With fewer than ``1 / (1 - probability)`` held-out networks the greatest ratio is taken.

        Raises:
            InvalidInput: a probability outside (0, 1), or a report without ratios.
        """
        _check_share("probability", probability)
        factor = float(self._ascending[min(math.ceil(probability * (len(self.ratios) + 1)), len(self.ratios)) - 1])
        return replace(metric, tables=metric.tables * factor, others=tuple(total * factor for total in metric.others))

    @property
    def _ascending(self) -> Values:
        """The ratios, of which there is one at least.

        Raises:
            InvalidInput: there is none.
        """
        if not self.ratios:
            raise InvalidInput("This report holds no ratios of measured to predicted costs. Take the one that fit_metric() returns.")
        return np.array(self.ratios)

    def __str__(self) -> str:
        form = "the larger of two sums over blocks" if self.sums > 1 else "a sum over blocks"
        return (
            f"mean error {self.mean_abs:.1%}, Spearman {self.spearman:.4f} on {self.held_out} held-out networks (fitted on {self.fitted}, "
            f"as {form}); {self.coverage or 0.0:.0%} of them inside the 90 % interval"
        )


def fit_metric(
    name: str, space: SearchSpace, X: npt.ArrayLike, measured: npt.ArrayLike, *, unit: str = "ms", holdout: float = 0.2, seed: int = 0
) -> tuple[Metric, FitReport]:
    """Fit a metric to measurements of whole networks: a sum over blocks, or the larger of two if that predicts unseen networks better.

    Absolute relative errors are made small. Which of the two forms it is, folds of the networks decide, each predicted from the
    others. The quality is measured first on a random share of the networks, which play no part in that choice either, and the metric that
    is returned is fitted on all of them.

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
    works = _Works(space)
    A = works.of(rows)
    order = np.random.default_rng(check_seed(seed)).permutation(len(rows))
    cut = max(2, round(len(rows) * holdout))
    held, kept = order[:cut], order[cut:]
    trial = _largest(A[held], _fit(A[kept], costs[kept]))
    weights = _fit(A[order], costs[order])
    error = float(np.abs(trial / costs[held] - 1).mean())
    ratios = costs[held] / trial
    inside = _inside(ratios[::2], ratios[1::2])
    report = FitReport(len(kept), len(held), error, spearman(trial, costs[held]), len(weights), tuple(np.sort(ratios).tolist()), inside)
    return Metric.largest_of(name, [works.metric(name, unit, each) for each in weights]), report


def _check_share(name: str, value: float) -> None:
    """Check a share between 0 and 1.

    Raises:
        InvalidInput: it is not between them.
    """
    if not 0 < value < 1:
        raise InvalidInput(f"{name} must be between 0 and 1, not {value}.")


def _between(ratios: Values, confidence: float) -> tuple[float, float]:
    """Between which values another one lies with a confidence: order statistics, shape ``(n,)``."""
    ascending = np.sort(ratios)
    rank = (1 - confidence) / 2 * (len(ascending) + 1)
    return float(ascending[max(math.floor(rank), 1) - 1]), float(ascending[-max(math.floor(rank), 1)])


def _inside(first: Values, second: Values, confidence: float = 0.9) -> float:
    """The share of values inside the interval that the other half of them gives."""
    found = []
    for judged, known in ((first, second), (second, first)):
        low, high = _between(known, confidence)
        found += ((low <= judged) & (judged <= high)).tolist()
    return float(np.mean(found))


class _Works:
    """What the blocks of a space do, as a few numbers that add up over a network.

    Args:
        space: whose slots have blocks.
    """

    def __init__(self, space: SearchSpace) -> None:
        described = np.array([_described(block) for block in space.unique_blocks])
        padded = np.vstack([described, np.zeros(described.shape[1])])
        self.space = space
        self._parts = [(slot.genes, padded[slot.blocks].sum(axis=-2)) for slot in space.slot_blocks]

    def of(self, rows: Rows) -> Values:
        """The numbers of networks, the constant 1 first, shape ``(n, 1 + numbers)``."""
        numbers = range(self._parts[0][1].shape[-1])
        columns = [TableSum(tuple(_tables.table(genes, part[..., number]) for genes, part in self._parts)) for number in numbers]
        return np.column_stack([np.ones(len(rows)), _tables.evaluate(columns, rows)])

    def metric(self, name: str, unit: str, weights: Values) -> Metric:
        """The metric that weighs them, shape ``(1 + numbers,)``."""
        fitted = [_tables.table(genes, part @ weights[1:]) for genes, part in self._parts]
        return Metric(name, unit, self.space, TableSum((*fitted, ((), np.asarray(weights[0])))))


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


def _fit(A: Values, costs: Values) -> list[Values]:
    """Weights of one sum, or of two of which the larger counts if that predicts each fold of the networks better from the others.

    Args:
        A: what the networks do, in random order, shape ``(n, numbers)``.
        costs: shape ``(n,)``.

    Returns:
        One or two arrays of the shape ``(numbers,)``.
    """
    errors = np.zeros((len(costs), 2))
    for fold in range(_FOLDS):
        held = np.arange(len(costs)) % _FOLDS == fold
        one = _one(A[~held], costs[~held])
        for column, weights in enumerate(([one], _two(A[~held], costs[~held], one))):
            errors[held, column] = np.abs(_largest(A[held], weights) / costs[held] - 1)
    one = _one(A, costs)
    gain = errors[:, 0] - errors[:, 1]
    return _two(A, costs, one) if gain.mean() > gain.std() / np.sqrt(len(gain)) else [one]


def _one(A: Values, costs: Values, scale: Values | None = None) -> Values:
    """Weights of one sum whose absolute relative errors are small: ridge regression, reweighted in turns.

    Latencies have outliers, all on one side, which squared errors would run after.

    Args:
        A: what the networks do, the constant first, shape ``(n, numbers)``.
        costs: shape ``(n,)``.
        scale: how far each number varies, shape ``(numbers,)``; over these networks if omitted.
    """
    unit = A.std(axis=0) if scale is None else scale
    varies = unit > 1e-9 * (np.abs(A).max(axis=0) + 1e-30)
    shares = np.column_stack([np.ones(len(A)), A[:, varies] / unit[varies]]) / costs[:, None]
    ridge = np.diag([0.0, *[np.sqrt(0.03) / costs.mean()] * int(varies.sum())])
    trust = np.ones(len(A))
    for _ in range(_REWEIGHTED):
        target = np.concatenate([trust, np.zeros(len(ridge))])
        solution = np.linalg.lstsq(np.vstack([shares * trust[:, None], ridge]), target, rcond=None)[0]
        errors = np.abs(shares @ solution - 1)
        trust = 1 / np.sqrt(np.maximum(errors, 0.3 * np.median(errors) + 1e-9))
        trust /= np.sqrt(np.square(trust).mean())
    weights = np.zeros(A.shape[1])
    weights[varies] = solution[1:] / unit[varies]
    weights[0] = solution[0]
    return weights


def _two(A: Values, costs: Values, one: Values) -> list[Values]:
    """Weights of two sums of which the larger is to be the cost.

    Each is fitted to the networks that it is the larger of, in turns (Magnani and Boyd, 2009), from several splits by size; a step is
    halved while it does harm.

    Args:
        A, costs: as of :func:`_one`.
        one: the weights of a single sum.
    """
    scale, size = A.std(axis=0), A @ one
    best, least = [one], _loss(A, costs, [one])
    for share in _SPLITS:
        upper = size > np.quantile(size, share)
        now = [one, one]
        loss = np.inf
        for _ in range(_TURNS):
            if min(upper.sum(), (~upper).sum()) < _FEWEST:
                break
            aim = [_one(A[some], costs[some], scale) for some in (upper, ~upper)]
            steps = ([a + step * (b - a) for a, b in zip(now, aim, strict=True)] for step in (1.0, 0.5, 0.25, 0.125))
            moved = next((each for each in steps if _loss(A, costs, each) < loss * (1 - 1e-6)), None)
            if moved is None:
                break
            now, loss = moved, _loss(A, costs, moved)
            upper = A @ now[0] > A @ now[1]
        if loss < least:
            best, least = now, loss
    return best


def _largest(A: Values, weights: Sequence[Values]) -> Values:
    """The largest of some sums, shape ``(n,)``."""
    found: Values = np.max([A @ each for each in weights], axis=0)
    return found


def _loss(A: Values, costs: Values, weights: Sequence[Values]) -> float:
    return float(np.abs(_largest(A, weights) / costs - 1).mean())
