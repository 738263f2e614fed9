"""Estimates for blocks that were not measured: physics first, then the nearest measured neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .blocks import Block

Floats = npt.NDArray[np.float64]
_NEIGHBOURS = 4
_FOLDS = 5


@dataclass(frozen=True)
class Guess:
    """An estimate: milliseconds, typical relative error, millijoules where the table has them."""

    latency_ms: float
    relative_error: float
    energy_mj: float | None


@dataclass(frozen=True)
class Interpolator:
    """Estimates from measured blocks of the same kind, structure and precision.

    A non-negative combination of MACs, memory traffic and a constant (the roofline in one line), multiplied by the ratio of
    measured to modelled of the nearest measured blocks.

    Attributes:
        measured: block, milliseconds, millijoules or ``None``.
    """

    measured: Sequence[tuple[Block, float, float | None]]
    _families: dict[tuple[str, str, int], _Family | None] = field(default_factory=dict)

    def estimate(self, block: Block) -> Guess | None:
        """The estimate, or ``None`` where no block of the kind and precision was measured."""
        name = _family(block)
        if name not in self._families:
            members = [(b, ms, mj) for b, ms, mj in self.measured if _family(b) == name]
            self._families[name] = _Family.fit(members) if members else None
        family = self._families[name]
        if family is None:
            return None
        energy = None if family.energy is None else family.energy.predict(block)
        return Guess(family.latency.predict(block), family.relative_error, energy)


def _family(block: Block) -> tuple[str, str, int]:
    """Kind, precision and number of inner widths (with a squeeze-and-excite or without)."""
    return block.kind, block.precision, len(block.mids)


@dataclass(frozen=True)
class _Family:
    """The models of one kind and precision."""

    latency: _Model
    energy: _Model | None
    relative_error: float

    @classmethod
    def fit(cls, members: Sequence[tuple[Block, float, float | None]]) -> _Family:
        blocks = [block for block, _, _ in members]
        latency = np.array([ms for _, ms, _ in members])
        energies = [mj for _, _, mj in members if mj is not None]
        energy = _Model.fit(blocks, np.array(energies)) if len(energies) == len(members) else None
        return cls(_Model.fit(blocks, latency), energy, _left_out_error(blocks, latency))


@dataclass(frozen=True)
class _Model:
    """Physical model and measured ratios."""

    coefficients: Floats
    places: Floats
    log_ratios: Floats

    @classmethod
    def fit(cls, blocks: Sequence[Block], values: Floats) -> _Model:
        from scipy.optimize import nnls

        features = _features(blocks)
        coefficients, _ = nnls(features / values[:, None], np.ones(len(values)))
        modelled = np.maximum(features @ coefficients, 1e-12)
        return cls(coefficients, _places(blocks), np.log(values / modelled))

    def predict(self, block: Block) -> float:
        distance = np.abs(self.places - _places([block])).sum(axis=1)
        near = np.argsort(distance, kind="stable")[:_NEIGHBOURS]
        weight = 1 / (distance[near] + 0.02)
        ratio = np.exp(np.average(self.log_ratios[near], weights=weight))
        modelled = max(float((_features([block]) @ self.coefficients)[0]), 1e-12)
        return modelled * float(ratio)


def _features(blocks: Sequence[Block]) -> Floats:
    """MACs, traffic and a constant, scaled to be of like size, shape ``(n, 3)``."""
    return np.array([(block.macs * 1e-6, block.traffic_bytes * 1e-4, 1e-2) for block in blocks], dtype=np.float64)


def _places(blocks: Sequence[Block]) -> Floats:
    """Logarithmic coordinates in which nearness is measured, shape ``(n, d)``."""
    rows = [(block.cin, block.cout, *block.mids, block.size, block.kernel, 4 * block.stride, block.groups) for block in blocks]
    return np.log2(np.array(rows, dtype=np.float64))


def _left_out_error(blocks: Sequence[Block], values: Floats) -> float:
    """Mean relative error on blocks that were left out, a fifth at a time; 1.0 with fewer than two blocks."""
    if len(blocks) < 2:
        return 1.0
    fold = np.arange(len(blocks)) % min(_FOLDS, len(blocks))
    errors = []
    for number in range(fold.max() + 1):
        model = _Model.fit([b for b, f in zip(blocks, fold, strict=True) if f != number], values[fold != number])
        errors += [abs(model.predict(blocks[i]) / values[i] - 1) for i in range(len(blocks)) if fold[i] == number]
    return float(np.mean(errors))
