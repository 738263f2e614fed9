"""Readings: what rounds of measuring have found, and what follows from it.

A sentinel is measured beside each reading. It tells how busy the machine is with other things: only readings that it found calm on both
sides count, and the drift that is left in them is divided out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from ..devices._device import NOISY, QUARTILE_ERROR, Protocol, Row
from ._quantiles import quantiles

_CALM = 1.04
"""The machine is calm while the sentinel is at most this much slower than undisturbed."""
UNDISTURBED = 0.05
"""The sentinel is undisturbed at this quantile of its latencies: one in twenty is faster."""
_AGAIN = 2
"""What is measured again has at most this many times the rounds of everything else."""
_FEWEST = 4
"""At least this many of the calmest readings count."""
PART = "/"
_LEVEL = 0.25
"""The result is this quantile of the readings that count: other work only ever makes a run slower, so the faster ones are truer."""


@dataclass(frozen=True)
class Reading:
    """One thing in one round: its latency, the sentinel's around it (the slower one, or the mean of both where things are alike), and its
    energy if there is a meter."""

    latency_ms: float
    sentinel_ms: float
    energy_mj: float | None = None


class Readings:
    """What was read of things that are measured in turns.

    A thing that could not be built is remembered in ``failed`` (name -> why) and needs no more readings.

    Args:
        names: of the things.
        protocol: when a thing is finished.
        again: names of things that are measured again, in the same number of rounds once more, if they are noisy after ``max_rounds``.
        alike: whether the sentinel is a network like the things themselves, so that what slows it slows them by the same factor. Then all
            readings count, in proportion to it, and their median is the result.

    Attributes:
        readings: name -> all readings.
        parts: name of a thing and of a kernel in it, with ``PART`` between them -> all readings of that kernel.
        failed: name -> why it could not be built.
        strangers: names of readings that are of none of the things; they do not count.
        number: of the last round.
        spent_s: seconds that all rounds took, those of earlier processes included.
    """

    def __init__(self, names: Iterable[str], protocol: Protocol, again: Collection[str] = (), *, alike: bool = False) -> None:
        self.protocol, self.again, self.alike = protocol, frozenset(again), alike
        self.readings: dict[str, list[Reading]] = {name: [] for name in names}
        self.parts: dict[str, list[Reading]] = {}
        self.failed: dict[str, str] = {}
        self.strangers: set[str] = set()
        self.number, self.spent_s = 0, 0.0
        self._reference: float | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a round that was measured before, as :meth:`Rounds.run` returned it."""
        self.number = max(self.number, int(record["round"]))
        self.spent_s += record.get("seconds", 0.0)
        self._reference = None
        self.failed.update(record.get("failed", {}))
        for name, reading in record["times"].items():
            if name in self.readings:
                self.readings[name].append(Reading(*reading))
            elif name.partition(PART)[0] in self.readings:
                self.parts.setdefault(name, []).append(Reading(*reading))
            else:
                self.strangers.add(name)

    def pending(self) -> list[str]:
        """What is to be measured in the next round."""
        return [name for name in self.readings if not self.finished(name)]

    def finished(self, name: str) -> bool:
        """Whether a thing was measured precisely enough, or often enough, or cannot be."""
        rounds, most = len(self.readings[name]), self.protocol.max_rounds
        if name in self.failed or rounds >= _AGAIN * most:
            return True
        if rounds < self.protocol.min_rounds:
            return False
        if rounds < most:
            return self.error(name) <= self.protocol.precision
        return name not in self.again or self.error(name) <= NOISY

    def progress(self) -> int:
        """Measurements made or no longer needed."""
        most = self.protocol.max_rounds
        return sum(most if self.finished(name) else min(most, len(readings)) for name, readings in self.readings.items())

    def error(self, name: str) -> float:
        """How wrong the latency of a thing may be, relatively.

        It has two parts. The readings that count differ among each other: the standard error of their quartile, larger for few, whose
        spread is uncertain itself. And if no moment was calm they were all disturbed, and agree on too much: by as much as the sentinel
        beside them was slower than what counts as calm.
        """
        readings, row = self._calm(name), self.row(name)
        count = len(readings)
        sampling = QUARTILE_ERROR * row.spread_ms / row.latency_ms / math.sqrt(count) * (1 + 2 / count)
        if self.alike:
            return sampling
        usual = median(reading.sentinel_ms for reading in readings)
        return math.hypot(sampling, max(0.0, usual / (_CALM * self.reference_ms()) - 1))

    def reference_ms(self) -> float:
        """The latency of the sentinel while nothing disturbs it: a twentieth of all that was measured is faster."""
        if self._reference is None:
            self._reference = float(np.quantile(self.sentinels(), UNDISTURBED))
        return self._reference

    def sentinels(self) -> list[float]:
        """The latencies of the sentinel beside all readings, ms."""
        return [reading.sentinel_ms for readings in self.readings.values() for reading in readings]

    def _calm(self, name: str) -> list[Reading]:
        """The readings that count: those of calm moments, or the calmest few."""
        readings = sorted(self._all(name), key=lambda reading: reading.sentinel_ms)
        if self.alike:
            return readings
        limit = _CALM * self.reference_ms()
        count = sum(reading.sentinel_ms <= limit for reading in readings)
        return readings[: max(count, _FEWEST)]

    def _all(self, name: str) -> list[Reading]:
        return self.readings[name] if name in self.readings else self.parts[name]

    def row(self, name: str, reference_ms: float | None = None) -> Row:
        """What was found out about one thing, with the drift divided out.

        Args:
            name: of the thing, or of a kernel in it; see :attr:`parts`.
            reference_ms: latency of the sentinel to put it in proportion to; :meth:`reference_ms` by default.
        """
        readings = self._calm(name)
        own = self.reference_ms()
        reference = own if reference_ms is None else reference_ms
        # Where no moment was calm the sentinel says little about the reading beside it, and a storm is not drift.
        drift = np.minimum([reading.sentinel_ms for reading in readings], np.inf if self.alike else _CALM * own)
        latency = np.array([reading.latency_ms for reading in readings]) * reference / drift
        low, level, high = quantiles(latency, 0.25, 0.5 if self.alike else _LEVEL, 0.75)
        energies = [reading.energy_mj for reading in readings if reading.energy_mj is not None]
        return Row(level, (high - low) / 2, len(self._all(name)), float(median(energies)) if energies else None)


def difference(whole: Row, frame: Row) -> Row:
    """What a block costs: the network that holds it, less the same network without it; at least a thousandth of the former."""
    latency = max(whole.latency_ms - frame.latency_ms, 1e-3 * whole.latency_ms)
    spread = float(np.hypot(whole.spread_ms, frame.spread_ms))
    energy = None
    if whole.energy_mj is not None and frame.energy_mj is not None:
        energy = max(whole.energy_mj - frame.energy_mj, 1e-3 * whole.energy_mj)
    return replace(whole, latency_ms=latency, spread_ms=spread, energy_mj=energy)
