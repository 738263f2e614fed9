"""Many short rounds: the one way in which hwsearch measures.

One long batch of runs is not repeatable on a machine that does anything else. Many short rounds spread over time, with all things
to be measured interleaved in random order, are: what disturbs a round disturbs all alike, and the other rounds forget it.
A sentinel is measured before and after each reading, and :mod:`~hwsearch.profiling._readings` says which readings count. On a machine
shared with other work this brought the repeatability of whole networks from 20 % to 0.4 %.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ..backends.base import Session
from ..devices._device import Device, Protocol
from ..errors import BuildFailed
from ._quantiles import quantiles
from ._readings import PART, Readings

Open = Callable[[], Session]
_SENTINEL_RUNS = 6
_PERIOD_S = 0.075
"""A round begins at least this long after the one before: twenty of them take 1.5 s, however little there is to measure."""
_FEWEST_ROUNDS = 3
_LONG_S = 0.05
"""A thing that takes longer than this is run less often in a round, in proportion: a long run is disturbed less by its beginning."""
_COOLING_S = (0.5, 2.0, 5.0)
"""A reading that was taken while the device was held back is taken again after these pauses; the last one counts in any case."""


def period_of(device: Device) -> float:
    """Seconds from round to round at least, so that rounds are spread over time; an analytic device or a replay needs none."""
    return 0.0 if device.kind in ("analytic", "replay") else _PERIOD_S


class Rounds(Readings):
    """Things to be measured, taken in turns, and the readings of them.

    A thing whose build fails is dropped and remembered in ``failed`` (name -> why); the others go on.

    Args:
        things: name -> how to open it.
        sentinel: how to open the block that shows drift.
        protocol: when to stop.
        seed: of the order within the rounds.
        period_s: seconds from the beginning of a round to that of the next, at least; see :func:`period_of`.
        again, alike: see :class:`Readings`.

    Attributes:
        limit_s: seconds after which nothing is measured any more, finished or not, if there were three rounds.
    """

    def __init__(
        self,
        things: Mapping[str, Open],
        sentinel: Open,
        protocol: Protocol,
        seed: int = 0,
        period_s: float = 0.0,
        again: Collection[str] = (),
        *,
        alike: bool = False,
    ) -> None:
        super().__init__(things, protocol, again, alike=alike)
        self.things, self.seed, self.period_s = dict(things), seed, period_s
        self.limit_s = math.inf
        self._open_sentinel = sentinel
        self._sentinel: Session | None = None
        self._sessions: dict[str, Session] = {}

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
            beside = (before + after) / 2 if self.alike else max(before, after)
            times[name] = [latency, beside, *([] if energy is None else [energy])]
            times |= {f"{name}{PART}{kernel}": [ms, beside] for kernel, ms in session.kernels_ms.items()}
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
        """A low quantile of a few runs, ms; of fewer if each takes long."""
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
        return quantiles(times, self.protocol.quantile)[0] * 1e3

    def finish(self, done: Callable[[dict[str, Any]], None], advance: Callable[[float], None]) -> None:
        """Measure until everything is finished.

        Args:
            done: called with the record of each round.
            advance: called with the progress, in measurements (``max_rounds`` a thing).
        """
        before, pause = self.progress(), 0.0
        advance(before)
        try:
            while self.pending() and (self.spent_s < self.limit_s or self.number < _FEWEST_ROUNDS):
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

    def close(self) -> None:
        """Close all sessions."""
        for session in (*self._sessions.values(), *([] if self._sentinel is None else [self._sentinel])):
            session.close()
        self._sessions, self._sentinel = {}, None
