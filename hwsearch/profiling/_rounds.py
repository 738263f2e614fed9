"""Many short rounds: the one way in which hwsearch measures.

One long batch of runs is not repeatable on a machine that does anything else. Many short rounds spread over time, with all things
to be measured interleaved in random order, are: what disturbs a round disturbs all alike, and the other rounds forget it.
A sentinel, measured before and after each reading, tells how busy the machine is with other things: only readings that it found calm
on both sides count, and what drift is left in them is divided out. On a machine shared with other work this brought the repeatability
of whole networks from 20 % to 0.4 %.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..backends.base import Backend, Session
from ..devices._device import NOISY, QUARTILE_ERROR, Protocol, Row
from ..errors import BuildFailed
from ..networks._blocks import Block

Open = Callable[[], Session]
_SENTINEL_RUNS = 6
_PERIOD_S = 0.075
"""A round begins at least this long after the one before: twenty of them take 1.5 s, however little there is to measure."""
_LONG_S = 0.05
"""A thing that takes longer than this is run less often in a round, in proportion: a long run is disturbed less by its beginning."""
_CALM = 1.04
"""The machine is calm while the sentinel is at most this much slower than undisturbed."""
_COOLING_S = (0.5, 2.0, 5.0)
"""A reading that was taken while the device was held back is taken again after these pauses; the last one counts in any case."""
UNDISTURBED = 0.05
"""The sentinel is undisturbed at this quantile of its latencies: one in twenty is faster."""
_AGAIN = 2
"""What is measured again has this many times as many rounds at most as all else."""
_FEWEST = 4
"""The calmest readings count in any case, this many."""
_LEVEL = 0.25
"""The result is this quantile of the readings that count: other work only ever makes a run slower, so the faster ones are truer."""


@dataclass(frozen=True)
class Reading:
    """One thing in one round: its latency, the sentinel's around it (the slower one), and its energy where there is a meter."""

    latency_ms: float
    sentinel_ms: float
    energy_mj: float | None = None


def sentinel_of(backend: Backend) -> Block:
    """The block that shows drift: a small residual block, the same for every space."""
    return Block("basic", 16, 16, 16, (16,), kernel=3, precision=backend.precisions[0])


def period_of(backend: Backend) -> float:
    """Seconds from round to round at least, so that rounds are spread over time; an analytic device or a replay needs none."""
    return 0.0 if backend.describe().kind in ("analytic", "replay") else _PERIOD_S


class Rounds:
    """Things to be measured, taken in turns.

    A thing whose build fails is dropped and remembered in ``failed`` (name -> why); the others go on.

    Args:
        things: name -> how to open it.
        sentinel: how to open the block that shows drift.
        protocol: when to stop.
        seed: of the order within the rounds.
        period_s: seconds from the beginning of a round to that of the next, at least; see :func:`period_of`.
        again: names of things that are measured again, in as many rounds once more, if they are noisy after ``max_rounds``.

    Attributes:
        readings: name -> all readings.
        failed: name -> why it could not be built.
        strangers: names of readings that are of none of the things; they are left out.
        spent_s: seconds that all rounds took, those of earlier processes too.
    """

    def __init__(
        self,
        things: Mapping[str, Open],
        sentinel: Open,
        protocol: Protocol,
        seed: int = 0,
        period_s: float = 0.0,
        again: Collection[str] = (),
    ) -> None:
        self.things, self.protocol, self.seed, self.period_s = dict(things), protocol, seed, period_s
        self.again = frozenset(again)
        self.readings: dict[str, list[Reading]] = {name: [] for name in things}
        self.failed: dict[str, str] = {}
        self.strangers: set[str] = set()
        self.number, self.spent_s = 0, 0.0
        self._reference: float | None = None
        self._open_sentinel = sentinel
        self._sentinel: Session | None = None
        self._sessions: dict[str, Session] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a round that was measured before, as :meth:`run` returned it."""
        self.number = max(self.number, int(record["round"]))
        self.spent_s += record.get("seconds", 0.0)
        self._reference = None
        self.failed.update(record.get("failed", {}))
        for name, reading in record["times"].items():
            if name in self.readings:
                self.readings[name].append(Reading(*reading))
            else:
                self.strangers.add(name)

    def run(self) -> dict[str, Any]:
        """Measure everything that is not finished once more.

        Returns:
            The round as JSON data: its number, name -> latency_ms, sentinel_ms, energy_mj, and what failed to build, name -> why.
        """
        names = self.pending()
        number = self.number + 1
        order = np.random.default_rng([self.seed, number]).permutation(len(names))
        if self._sentinel is None:
            self._sentinel = self._open_sentinel()
        times, failed = {}, {}
        before: float | None = None
        for name in (names[index] for index in order):
            fresh = name not in self._sessions
            try:
                session = self._session(name)
            except BuildFailed as error:
                failed[name] = str(error)
                continue
            if before is None or fresh:
                before = self._time(self._sentinel, _SENTINEL_RUNS)
            latency = self._time(session, self.protocol.runs)
            after = self._time(self._sentinel, _SENTINEL_RUNS)
            energy = session.energy_mj
            times[name] = [latency, max(before, after), *([] if energy is None else [energy])]
            before = after
        record = {"round": number, "times": times} | ({"failed": failed} if failed else {})
        self.add(record)
        for name in names:
            if self.finished(name) and name in self._sessions:
                self._sessions.pop(name).close()
        return record

    def _session(self, name: str) -> Session:
        if name not in self._sessions:
            self._sessions[name] = self.things[name]()
        return self._sessions[name]

    def _time(self, session: Session, runs: int) -> float:
        """A low quantile of a few runs, ms; of fewer where each takes long."""
        if self.protocol.warmup:
            share = min(1.0, _LONG_S / float(session.times(1)[0]))
            if warmup := int(share * (self.protocol.warmup - 1)):
                session.times(warmup)
            runs = max(1, round(share * runs))
        times = session.times(runs)
        for pause in _COOLING_S:
            if not session.throttled:
                break
            time.sleep(pause)
            times = session.times(runs)
        return float(np.quantile(times, self.protocol.quantile)) * 1e3

    def pending(self) -> list[str]:
        """What is to be measured in the next round."""
        return [name for name in self.things if not self.finished(name)]

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

    def error(self, name: str) -> float:
        """How wrong the latency of a thing may be, relatively.

        It has two parts. The readings that count differ among each other: the standard error of their quartile, larger for few, whose
        spread is uncertain itself. And where no moment was calm they were all disturbed, and agree on too much: by as much as the sentinel
        beside them was slower than what counts as calm.
        """
        readings, row = self._calm(name), self.row(name)
        count = len(readings)
        sampling = QUARTILE_ERROR * row.spread_ms / row.latency_ms / math.sqrt(count) * (1 + 2 / count)
        usual = float(np.median([reading.sentinel_ms for reading in readings]))
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
        readings = sorted(self.readings[name], key=lambda reading: reading.sentinel_ms)
        limit = _CALM * self.reference_ms()
        count = sum(reading.sentinel_ms <= limit for reading in readings)
        return readings[: max(count, _FEWEST)]

    def row(self, name: str, reference_ms: float | None = None) -> Row:
        """What was found out about one thing, with the drift divided out.

        Args:
            name: of the thing.
            reference_ms: latency of the sentinel to put it in proportion to; :meth:`reference_ms` by default.
        """
        readings = self._calm(name)
        own = self.reference_ms()
        reference = own if reference_ms is None else reference_ms
        # Where no moment was calm the sentinel says little about the reading beside it, and a storm is not drift.
        drift = np.minimum([reading.sentinel_ms for reading in readings], _CALM * own)
        latency = np.array([reading.latency_ms for reading in readings]) * reference / drift
        low, level, high = map(float, np.quantile(latency, (0.25, _LEVEL, 0.75)))
        energies = [reading.energy_mj for reading in readings if reading.energy_mj is not None]
        return Row(level, (high - low) / 2, len(self.readings[name]), float(np.median(energies)) if energies else None)

    def finish(self, done: Callable[[dict[str, Any]], None], advance: Callable[[float], None]) -> None:
        """Measure until everything is finished.

        Args:
            done: called with the record of each round.
            advance: called with the progress, in measurements (``max_rounds`` a thing).
        """
        before, pause = self.progress(), 0.0
        advance(before)
        try:
            while self.pending():
                time.sleep(pause)
                began = time.monotonic()
                record = self.run()
                record["seconds"] = pause + time.monotonic() - began
                self.spent_s += record["seconds"]
                done(record)
                pause = max(0.0, began + self.period_s - time.monotonic())
                after = self.progress()
                advance(after - before)
                before = after
        finally:
            self.close()

    def progress(self) -> int:
        """Measurements made or no longer needed."""
        most = self.protocol.max_rounds
        return sum(most if self.finished(name) else min(most, len(readings)) for name, readings in self.readings.items())

    def close(self) -> None:
        """Close all sessions."""
        for session in (*self._sessions.values(), *([] if self._sentinel is None else [self._sentinel])):
            session.close()
        self._sessions, self._sentinel = {}, None


def difference(whole: Row, frame: Row) -> Row:
    """What a block costs: the network that holds it, less the same network without it; at least a thousandth of the former."""
    latency = max(whole.latency_ms - frame.latency_ms, 1e-3 * whole.latency_ms)
    spread = float(np.hypot(whole.spread_ms, frame.spread_ms))
    energy = None
    if whole.energy_mj is not None and frame.energy_mj is not None:
        energy = max(whole.energy_mj - frame.energy_mj, 1e-3 * whole.energy_mj)
    return replace(whole, latency_ms=latency, spread_ms=spread, energy_mj=energy)
