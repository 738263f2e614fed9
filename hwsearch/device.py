"""Device, Protocol, Row and Check: what a latency table is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import InvalidInput

QUARTILE_ERROR = 1.363 * 1.483
"""Standard error of a quartile of n normal values, in halves of their interquartile range, times sqrt(n): it is 1.363 sigma / sqrt(n), and
sigma is 1.483 times half that range."""
_IDENTITY = ("kind", "hardware", "runtime", "runtime_version", "threads", "batch")


@dataclass(frozen=True)
class Device:
    """One piece of hardware and the runtime on it.

    Attributes:
        name: what people call it; no part of its identity.
        kind: ``"cpu"``, ``"gpu"``, ``"analytic"``, or ``"replay"`` of measurements that were made before.
        hardware: the processor's name.
        runtime: the backend's name, such as ``"onnxruntime"``.
        runtime_version: of the runtime.
        threads: how many work on one network.
        batch: images at once.
        facts: whatever else explains a measurement: operating system, clocks, instruction sets.
    """

    name: str
    kind: str
    hardware: str
    runtime: str
    runtime_version: str
    threads: int = 1
    batch: int = 1
    facts: Mapping[str, str] = field(default_factory=dict)

    def same_as(self, other: Device) -> bool:
        """Whether measurements on both can be put together: all but name and facts are equal."""
        return not self.difference(other)

    def difference(self, other: Device) -> str:
        """What tells two devices apart, in words; empty where they are the same."""
        return ", ".join(
            f"{name} is {getattr(other, name)!r} and not {getattr(self, name)!r}"
            for name in _IDENTITY
            if getattr(self, name) != getattr(other, name)
        )


@dataclass(frozen=True)
class Protocol:
    """How latencies are measured.

    All things to be measured are interleaved in random order in each of many short rounds. In a round each is run a few times
    after a warm-up, and a low quantile of the times is taken. A sentinel is measured before and after: it tells which
    readings were taken while the machine was calm, only those count, and what drift it still shows is divided out. Their lower
    quartile is the result, and a thing leaves the rotation when the standard error of that is small enough.

    Attributes:
        precision: relative standard error at which a thing leaves.
        min_rounds, max_rounds: how often it is measured at least (in calm moments) and at most (in any).
        runs: timed runs a round.
        warmup: untimed runs before them.
        quantile: of the timed runs that is kept; 0 is the fastest.
        sentinel, sentinel_ms: key of the block that shows drift, and its latency, to which all others were put in proportion. They
            are no part of what makes two protocols equal.

    Raises:
        InvalidInput: numbers that make no sense.
    """

    precision: float = 0.01
    min_rounds: int = 12
    max_rounds: int = 48
    runs: int = 10
    warmup: int = 3
    quantile: float = 0.0
    sentinel: str = field(default="", compare=False)
    sentinel_ms: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.precision < 1 or not 0 <= self.quantile <= 1:
            raise InvalidInput(f"precision must be in (0, 1) and quantile in [0, 1], not {self.precision} and {self.quantile}.")
        if not 1 <= self.min_rounds <= self.max_rounds or self.runs < 1 or self.warmup < 0:
            raise InvalidInput(
                f"min_rounds must be in 1..max_rounds, runs at least 1 and warmup at least 0, not {self.min_rounds}, {self.max_rounds}, "
                f"{self.runs} and {self.warmup}."
            )


@dataclass(frozen=True)
class Row:
    """What was measured of one block.

    Attributes:
        latency_ms: lower quartile over the rounds in calm moments.
        spread_ms: half the interquartile range over the same rounds.
        rounds: how many there were in all.
        energy_mj: millijoules of one run, or ``None``.
    """

    latency_ms: float
    spread_ms: float = 0.0
    rounds: int = 1
    energy_mj: float | None = None

    @property
    def error(self) -> float:
        """Relative standard error of the latency."""
        return QUARTILE_ERROR * self.spread_ms / self.latency_ms / math.sqrt(self.rounds)


@dataclass(frozen=True)
class Check:
    """One whole network, measured and predicted.

    Attributes:
        role: ``"fit"`` where the calibration used it, ``"check"`` where it was held out.
        blocks: keys of its blocks, in the order of execution.
        measured_ms, spread_ms: as of a row.
        predicted_ms: what the table says.
    """

    role: str
    blocks: tuple[str, ...]
    measured_ms: float
    spread_ms: float
    predicted_ms: float = 0.0

    @property
    def error(self) -> float:
        """Relative error of the prediction, negative where it is too fast."""
        return self.predicted_ms / self.measured_ms - 1
