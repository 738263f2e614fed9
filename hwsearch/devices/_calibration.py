"""From blocks measured alone to blocks inside a network, additively.

A block in a network does not cost what it costs alone: its neighbours leave their results in the cache and in another memory
layout, and pieces fuse across its edges. The calibration keeps costs additive: a class of blocks has a scale, a constant a block,
one an edge value and one a weight, and a network has a constant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
import numpy.typing as npt

from ..networks._blocks import Block
from ._device import Check

Costs = npt.NDArray[np.float64]
_FLOOR = 0.05
"""A calibrated cost is at least this share of what was measured: no block is free."""
_SCALES = (0.5, 2.0)
"""The scale of a class stays within these."""
_BAND, _FEWEST_IN_BAND = 1.25, 5
"""A narrow band holds latencies up to this ratio; correlations need this many."""
_NOISE = 0.01
"""A sum over blocks is not truer than this, relatively, however well a network was measured."""
_RIDGE = {"scale": 0.1, "block": 0.01, "value": 0.02, "weight": 0.02}
"""How far, relative to a typical network, a term strays from its prior without much evidence."""
_CORRECTED, _LEAST_MS = 0.1, 1e-3
"""By how much, relatively, the cost of a block that was measured inside a network strays from that; faster ones count as this slow."""


@dataclass(frozen=True)
class Terms:
    """How the blocks of one class are corrected.

    cost = scale x measured + block_ms + 1e-6 x (value_ns x edge values + weight_ns x weights)

    Attributes:
        scale: factor on the measured latency.
        block_ms: constant a block.
        value_ns: nanoseconds a value of the block's input and output feature maps (batch 1).
        weight_ns: nanoseconds a weight: a block that runs alone finds its weights in the cache, and inside a large network it does not.
    """

    scale: float = 1.0
    block_ms: float = 0.0
    value_ns: float = 0.0
    weight_ns: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """The terms of each class of blocks, and what a network costs once.

    Attributes:
        call_ms: what running an empty network takes: where the fit of ``network_ms`` starts.
        network_ms: once a network.
        classes: class name (:attr:`Block.calibrated_with`) -> terms; classes that are left out are used as measured.
    """

    call_ms: float = 0.0
    network_ms: float = 0.0
    classes: Mapping[str, Terms] = field(default_factory=dict)

    def costs_ms(self, blocks: Sequence[Block], latency_ms: Costs) -> Costs:
        """The costs inside a network of blocks that were measured at ``latency_ms``, shape ``(len(blocks),)``."""
        known = {name: np.array(astuple(terms)) for name, terms in self.classes.items()}
        if not known:
            return latency_ms
        plain = np.array([1.0, 0.0, 0.0, 0.0])
        terms = np.array([known.get(block.calibrated_with, plain) for block in blocks]).reshape(-1, 4)
        cost = (terms * _works(blocks, latency_ms)).sum(axis=1)
        result: Costs = np.maximum(cost, _FLOOR * latency_ms)
        return result

    def fit(self, networks: Sequence[tuple[Sequence[Block], float, float]], rows: Mapping[Block, float]) -> Calibration:
        """Fit on measured networks: least squares on relative errors, drawn towards scale 1 and constants 0.

        What was measured inside a network is drawn towards that, so that no term makes many kernels cost nothing to make up for a few.
        A network counts the less the noisier its measurement is, so that those of a busy hour do not bend what the calm ones tell.

        Args:
            networks: blocks, measured milliseconds and the relative standard error of these.
            rows: block -> milliseconds.
        """
        if not networks:
            return self
        from scipy.optimize import lsq_linear

        names = sorted({block.calibrated_with for network, *_ in networks for block in network})
        A = np.zeros((len(networks), 1 + 4 * len(names)))
        inside: dict[Block, tuple[int, Costs]] = {}
        A[:, 0] = 1.0
        for i, (network, *_) in enumerate(networks):
            works = _works(network, np.array([rows[block] for block in network]))
            for block, work in zip(network, works, strict=True):
                j = 1 + 4 * names.index(block.calibrated_with)
                A[i, j : j + 4] += work
                if not block.alone:
                    inside[block] = j, work
        measured = np.array([ms for _, ms, _ in networks])
        prior = np.array([self.call_ms] + [1.0, 0.0, 0.0, 0.0] * len(names))
        typical = float(np.median(measured))
        values, weights = (max(float(A[:, column::4].sum(axis=1).mean()), 1e-9) for column in (3, 4))
        each = [
            _RIDGE["scale"],
            _RIDGE["block"] * typical / 4,
            _RIDGE["value"] * typical / values,
            _RIDGE["weight"] * typical / weights,
        ]
        loose = [_RIDGE["block"] * typical] + each * len(names)
        noise = np.hypot(_NOISE, [error for *_, error in networks])
        W = A / (measured * noise)[:, None]
        residual = (measured - A @ prior) / measured / noise
        ridge = np.diag(1 / np.array(loose))
        apart = np.zeros((len(inside), len(prior)))
        counts = Counter(j for j, _ in inside.values())
        for row, (block, (j, work)) in enumerate(inside.items()):
            apart[row, j : j + 4] = work / (_CORRECTED * max(rows[block], _LEAST_MS) * np.sqrt(counts[j]))
        lowest = np.array([-self.call_ms] + [_SCALES[0] - 1, -np.inf, -np.inf, -np.inf] * len(names))
        highest = np.array([np.inf] + [_SCALES[1] - 1, np.inf, np.inf, np.inf] * len(names))
        target = np.concatenate([residual, np.zeros(len(prior) + len(apart))])
        solution = prior + lsq_linear(np.vstack([W, ridge, apart]), target, (lowest, highest)).x
        classes = {name: Terms(*map(float, solution[1 + 4 * k : 5 + 4 * k])) for k, name in enumerate(names)}
        return Calibration(self.call_ms, max(float(solution[0]), 0.0), classes)


def _works(blocks: Sequence[Block], latency_ms: Costs) -> Costs:
    """What the terms multiply: latency, one, edge values and weights (both in millions), shape ``(n, 4)``."""
    values, weights = [block.edge_values for block in blocks], [block.weights for block in blocks]
    return np.stack([latency_ms, np.ones(len(blocks)), 1e-6 * np.array(values), 1e-6 * np.array(weights)], axis=1)


def network_class(blocks: Sequence[Block]) -> str:
    """``"fp32"``, ``"int8"``, ... if all convolutions share a precision, else ``"mixed"``."""
    precisions = {block.precision for block in blocks if block.inner}
    return precisions.pop() if len(precisions) == 1 else "mixed"


def networks_error(checks: Sequence[Check]) -> dict[str, float]:
    """Errors of predictions as :meth:`LatencyTable.error` describes them."""
    result: dict[str, float] = {"networks": len(checks)}
    if not checks:
        return result
    errors = np.array([abs(check.error) for check in checks])
    kinds = [network_class([Block.parse(key) for key in check.blocks]) for check in checks]
    result["mean_abs"] = float(errors.mean())
    noisy = np.array([check.noisy for check in checks])
    if noisy.any():
        result["noisy"] = int(noisy.sum())
        if not noisy.all():
            result["calm_mean_abs"] = float(errors[~noisy].mean())
    result["max_abs"] = float(errors.max())
    measured, predicted = (np.array([getattr(check, name) for check in checks]) for name in ("measured_ms", "predicted_ms"))
    result["spearman"] = spearman(measured, predicted)
    bands = [(measured >= least) & (measured <= _BAND * least) for least in measured]
    inside = [spearman(measured[band], predicted[band]) for band in bands if band.sum() >= _FEWEST_IN_BAND]
    if inside:
        result["spearman_band"] = float(np.mean(inside))
    for kind in sorted(set(kinds)):
        result[f"mean_abs_{kind}"] = float(errors[[k == kind for k in kinds]].mean())
    return result


def spearman(a: Sequence[float] | Costs, b: Sequence[float] | Costs) -> float:
    """Rank correlation, ties at their mean rank; 1.0 if there is nothing to rank."""
    if len(a) < 2:
        return 1.0
    x, y = _ranks(np.asarray(a)), _ranks(np.asarray(b))
    if x.std() == 0 or y.std() == 0:
        return 1.0 if x.std() == y.std() else 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
