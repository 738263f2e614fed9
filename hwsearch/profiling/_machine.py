"""How busy this machine is with other things, as its kernel counts: before and while networks are measured on it.

Linux counts for each processor what it did with its time, and what a host took from it (steal time). What other programs used is all of
that less what this process used. Elsewhere nothing is known, and nothing is said.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .._files._cache import cache_folder
from .._files._writing import write_atomic
from ..devices._device import Device
from ..errors import FileError, check_positive
from ._sentinel import BusyWarning

PROC = Path("/proc")
CPUS = Path("/sys/devices/system/cpu")
_STOLEN = 0.02
"""A machine whose host takes more than this part of its time is busy."""
_SPARE = 0.5
"""A machine is busy if other programs leave fewer processors than those that are measured and half of one besides."""
_LITTLE = 0.1
"""Other programs that use less than this part of one processor are always there."""
_LOOK_S = 0.5
_CALM_LOOKS = 3
"""Looks in a row, a second apart, that find the machine calm before it is taken to be."""


@dataclass(frozen=True)
class Counts:
    """What the kernel has counted so far.

    Attributes:
        busy_s: seconds that processors worked, for whomever, together.
        stolen_s: seconds that a host took from them.
        own_s: seconds that this process and those that it started have used.
        at_s: when that was.
    """

    busy_s: float
    stolen_s: float
    own_s: float
    at_s: float


@dataclass(frozen=True)
class Machine:
    """How busy a machine was for a while.

    Attributes:
        cores: processors.
        load: how many programs wanted to run, on average over the last minute.
        others: processors that other programs used.
        stolen: the part of the time that a host took.
        mhz: the clock of the fastest processor at the end; 0 if it is not told.
    """

    cores: int
    load: float
    others: float
    stolen: float
    mhz: float = 0.0

    def __str__(self) -> str:
        clock = f", {self.mhz:,.0f} MHz" if self.mhz else ""
        taken = f", {self.stolen:.0%} stolen by its host" if self.stolen >= 0.005 else ""
        return f"load {self.load:.1f} on {self.cores} cores, of which other programs used {self.others:.1f}{taken}{clock}"

    def busy(self, threads: int = 1) -> bool:
        """Whether it does so much else that a measurement with some threads says little."""
        return self.stolen > _STOLEN or self.others > max(self.cores - threads - _SPARE, _LITTLE)


def counts() -> Counts | None:
    """What the kernel has counted so far; ``None`` if it does not tell."""
    try:
        fields = [float(field) for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return None
    if len(fields) < 8:
        return None
    tick = 1.0 / os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, soft, steal = fields[:8]
    own = os.times()
    return Counts((user + nice + system + irq + soft) * tick, steal * tick, sum(own[:4]), time.monotonic())


def machine(before: Counts | None, after: Counts | None) -> Machine | None:
    """How busy the machine was between two counts; ``None`` if nothing is known, or no time passed."""
    if before is None or after is None or after.at_s <= before.at_s:
        return None
    try:
        load = float((PROC / "loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    passed, cores = after.at_s - before.at_s, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    everywhere = os.cpu_count() or cores
    used = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    others = min(float(everywhere), max(0.0, used / passed)) * cores / everywhere
    stolen = max(0.0, (after.stolen_s - before.stolen_s) / passed / everywhere)
    return Machine(cores, load, others, min(1.0, stolen), _mhz())


def _mhz() -> float:
    """The clock of the fastest processor."""
    found = []
    for path in CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"):
        try:
            found.append(float(path.read_text()) / 1e3)
        except (OSError, ValueError):
            continue
    return max(found, default=0.0)


def look(sleep: Callable[[float], object] = time.sleep) -> Machine | None:
    """How busy the machine is now, from a look of half a second."""
    before = counts()
    if before is None:
        return None
    sleep(_LOOK_S)
    return machine(before, counts())


def wait_for_calm(most_s: float, threads: int = 1, sleep: Callable[[float], object] = time.sleep) -> bool:
    """Wait until the machine does little else, for three looks in a row.

    Args:
        most_s: give up after this many seconds.
        threads: that will be measured with.
        sleep: waits.

    Returns:
        Whether it is calm, as far as its kernel tells.

    Raises:
        InvalidInput: a time that is not positive.
    """
    began, calm = time.monotonic(), 0
    check_positive("the time to wait for a calm machine", most_s)
    while calm < _CALM_LOOKS:
        seen = look(sleep)
        calm = 0 if seen is not None and seen.busy(threads) else calm + 1
        if calm < _CALM_LOOKS:
            if seen is not None and time.monotonic() - began > most_s:
                return False
            if seen is None:
                return True
            sleep(1.0 - _LOOK_S)
    return True


def warn_if_busy(seen: Machine | None, threads: int = 1) -> bool:
    """Warn that a machine was busy while something was measured there.

    Args:
        seen: how busy it was.
        threads: that were measured with.

    Returns:
        Whether it was.
    """
    if seen is None or not seen.busy(threads):
        return False
    warnings.warn(
        f"This machine is busy ({seen}): medians are not to be trusted. Stop the other programs, or measure while it is calm: in the shell "
        "--wait-for-calm 10m waits until it is.",
        BusyWarning,
        stacklevel=3,
    )
    return True


@contextmanager
def watched(device: Device | None) -> Iterator[None]:
    """Warn at the end of this block if the machine was busy meanwhile; nothing is said of devices that are no CPU."""
    before = counts() if device is not None and device.kind == "cpu" else None
    yield
    if device is not None:
        warn_if_busy(machine(before, counts()), device.threads)


def slowdown(device: Device, sentinel: str, now_ms: float) -> float:
    """By which part the sentinel is slower now than it ever was here, from what earlier measurements of this device have kept.

    Two measurements minutes apart agree among themselves and not with each other, if a neighbour or a clock has slowed all of one of them.
    What this machine can do is known from its best moment, which is kept in the folder of :func:`cache_folder`.

    Args:
        device: what is measured.
        sentinel: the key of the block that shows drift.
        now_ms: its undisturbed latency now.
    """
    folder = cache_folder()
    if folder is None or device.kind in ("analytic", "replay"):
        return 0.0
    path = folder / "sentinels.json"
    key = " | ".join(map(str, (device.hardware, device.runtime, device.runtime_version, device.threads, device.batch, sentinel)))
    try:
        known = json.loads(path.read_text())
        best = float(known.get(key, now_ms))
    except (OSError, ValueError, AttributeError, TypeError):
        known, best = {}, now_ms
    if now_ms < best or key not in known:
        with suppress(FileError):  # where nothing can be kept
            write_atomic(path, json.dumps({**known, key: min(now_ms, best)}, indent=1).encode(), sync=False)
    return max(0.0, now_ms / best - 1.0) if best > 0 else 0.0
