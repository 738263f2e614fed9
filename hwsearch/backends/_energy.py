"""Meters of energy: what a CPU package (RAPL) or an NVIDIA GPU (NVML) says that it has used.

A meter is a counter of joules that moves in steps. One run uses too little to be seen, so the network runs for a window of many
steps, from one step of the counter to another, and the energy is divided by the runs. It is that of the whole package or GPU, idle
power and other work included; without a meter there is no energy: nothing here stands in for a measurement.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import MissingDependency, Unsupported, require
from .base import Session, Times

POWERCAP = Path("/sys/class/powercap")
_STEPS = 20
"""Steps of the counter that a window is long: half a step at either end is then at most 5 % of it."""
_PATIENCE = 10
"""A counter that stands still for this many of its steps is broken."""


class Meter(ABC):
    """A counter of energy.

    Attributes:
        step_s: seconds from one step of the counter to the next.
        words: what it is and how finely it resolves, for the facts of a device.
    """

    step_s: float
    words: str

    @abstractmethod
    def joules(self) -> float:
        """Energy since some moment."""

    def close(self) -> None:  # noqa: B027 - most meters have nothing to release
        """Stop counting."""

    @property
    def window_s(self) -> float:
        """Seconds over which one energy is measured."""
        return _STEPS * self.step_s

    def energy_mj(self, run: Callable[[], object]) -> float | None:
        """Millijoules of one run.

        Args:
            run: runs once, to its end.

        Returns:
            The energy, or ``None`` if the counter stands still.
        """
        _, first = self._step(run)
        if first is None:
            return None
        runs, end = 0, time.monotonic() + self.window_s
        while time.monotonic() < end:
            run()
            runs += 1
        more, last = self._step(run)
        return None if last is None else 1e3 * (last - first) / (runs + more)

    def _step(self, run: Callable[[], object]) -> tuple[int, float | None]:
        """Run until the counter moves: how many runs that took, and the counter then; ``None`` if it stands still."""
        before, runs, end = self.joules(), 0, time.monotonic() + _PATIENCE * self.step_s
        while time.monotonic() < end:
            run()
            runs += 1
            now = self.joules()
            if now != before:
                return runs, now
        return runs, None


class Metered(Session):
    """A session and a meter: the energy of a run is measured when it is first needed, and kept.

    Args:
        session: what runs.
        meter: of what it runs on.
    """

    def __init__(self, session: Session, meter: Meter) -> None:
        self.batch = session.batch
        self._session, self._meter = session, meter

    def times(self, runs: int) -> Times:
        """Seconds of each run, shape ``(runs,)``."""
        return self._session.times(runs)

    @property
    def throttled(self) -> bool:
        """As the session says."""
        return self._session.throttled

    @property
    def energy_mj(self) -> float | None:
        """Millijoules of one run."""
        return self._energy_mj

    @cached_property
    def _energy_mj(self) -> float | None:
        return self._meter.energy_mj(lambda: self._session.times(1))

    def close(self) -> None:
        """Close the session; the meter stays open."""
        self._session.close()


def metered(session: Session, meter: Meter | None) -> Session:
    """The session, with energies if there is a meter."""
    return session if meter is None else Metered(session, meter)


def words_of(meter: Meter | None) -> str:
    """What a meter is, for the facts of a device; ``None`` is no meter."""
    return "no meter" if meter is None else meter.words


class Rapl(Meter):
    """Running average power limit: counters of the processor's packages, through Linux' powercap.

    Args:
        root: the folder of the counters.

    Raises:
        Unsupported: there are none, or they may not be read (most systems show them to root only).
    """

    step_s = 0.005
    words = "RAPL, all packages; over windows of 0.1 s, counter moves every ms"

    def __init__(self, root: Path = POWERCAP) -> None:
        # Zones such as intel-rapl:0 are packages (AMD's too); intel-rapl:0:0 is a part of one, and psys would count it twice.
        zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._zones: list[tuple[Path, int]] = []
        self._last: list[int] = []
        self._total = 0
        try:
            for zone in zones:
                if (zone / "name").read_text().startswith("package"):
                    self._zones.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
                    self._last.append(int((zone / "energy_uj").read_text()))
        except (OSError, ValueError) as error:
            raise Unsupported(f"The energy counters in {root} cannot be read ({error}). Give read permission on energy_uj.") from error
        if not self._zones:
            raise Unsupported(f"This machine shows no energy counters of its CPU (nothing in {root}).")

    def joules(self) -> float:
        """Energy of all packages since the meter was made; counters that have begun again at 0 are understood."""
        for index, (path, span) in enumerate(self._zones):
            now = int(path.read_text())
            self._total += (now - self._last[index]) % (span + 1)
            self._last[index] = now
        return 1e-6 * self._total


class NvmlCounter(Meter):
    """The total-energy counter of an NVIDIA GPU (Volta and later).

    Args:
        gpu: from :func:`hwsearch.backends._nvidia._nvml.handle`.

    Raises:
        Unsupported: the GPU has no such counter.
    """

    step_s = 0.1
    words = "NVML total-energy counter; over windows of 2 s, counter moves about every 100 ms"

    def __init__(self, gpu: Any) -> None:
        self._nvml, self._gpu = _nvml(), gpu
        try:
            self.joules()
        except self._nvml.NVMLError as error:
            raise Unsupported(f"This GPU has no total-energy counter ({error}).") from error

    def joules(self) -> float:
        """Energy since the driver was loaded."""
        return 1e-3 * float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu))


class NvmlPower(Meter):
    """The power of an NVIDIA GPU, read again and again and summed up, for those without a counter.

    Args:
        gpu: from :func:`hwsearch.backends._nvidia._nvml.handle`.

    Raises:
        Unsupported: the GPU does not tell its power.
    """

    step_s = 0.1
    words = "NVML power, read every 20 ms and summed up; over windows of 2 s; on some GPUs a reading sees a part of the time only"
    _EVERY_S = 0.02

    def __init__(self, gpu: Any) -> None:
        self._nvml, self._gpu = _nvml(), gpu
        try:
            self._watts()
        except self._nvml.NVMLError as error:
            raise Unsupported(f"This GPU does not tell its power ({error}).") from error
        self._joules = 0.0
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _watts(self) -> float:
        return 1e-3 * float(self._nvml.nvmlDeviceGetPowerUsage(self._gpu))

    def _read(self) -> None:
        before, watts = time.monotonic(), self._watts()
        while not self._stop.wait(self._EVERY_S):
            now, power = time.monotonic(), self._watts()
            self._joules += (now - before) * (watts + power) / 2
            before, watts = now, power

    def joules(self) -> float:
        """Energy since the meter was made."""
        return self._joules

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._reader.join()


def cpu_meter(root: Path = POWERCAP) -> Meter | None:
    """The meter of this machine's CPU, or ``None`` if it shows none."""
    try:
        return Rapl(root)
    except Unsupported:
        return None


def gpu_meter(gpu: Any) -> Meter | None:
    """The best meter of a GPU, or ``None`` if it has none.

    Args:
        gpu: from :func:`hwsearch.backends._nvidia._nvml.handle`.
    """
    for kind in (NvmlCounter, NvmlPower):
        try:
            return kind(gpu)
        except (Unsupported, MissingDependency):
            continue
    return None


def _nvml() -> Any:
    return require("pynvml", feature="The energy of an NVIDIA GPU", extra="tensorrt")
