"""Device, Protocol, Row and Check: what a latency table is made of; and Estimate, what it says of a block."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from .._files._reading import is_number, is_whole
from ..errors import InvalidInput

NOISY = 0.03
"""What was measured with a larger relative standard error is noisy: it says little about predictions of a few percent."""
READINGS = 12
"""The number of readings that count, if a table does not say it."""
QUARTILE_ERROR = 1.363 * 1.483
"""Standard error of a quartile of n normal values, in halves of their interquartile range, times sqrt(n): it is 1.363 sigma / sqrt(n), and
sigma is 1.483 times half that range."""
_IDENTITY = ("kind", "hardware", "runtime", "runtime_version", "threads", "batch")
_NEEDED_FACTS = ("machine", "cpu", "flags", "caches")
_IDENTITY_FACTS = (*_NEEDED_FACTS, "int8", "huge pages")
"""Facts that belong to the identity too: two generations of processors often share a name. What int8 arithmetic does follows from the
others and the runtime, so that it may be missing; so may the policy of huge pages, which not every system tells."""

_WITHOUT_ZERO_POINTS = ("tensorrt",)
"""Runtimes whose tables say nothing of zero points if an earlier version wrote them, and whose files have none."""


class _FromFile:
    """Can be made of JSON data, without any package that boards do not have."""

    @classmethod
    def from_document(cls, document: Any) -> Self:
        """Make it of its fields as JSON data.

        Raises:
            InvalidInput: a field is missing, unknown, of another type, or impossible.
        """
        known = {entry.name: _KINDS.get(str(entry.type)) for entry in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(document, dict) or not set(document) <= set(known):
            raise InvalidInput(f"a {cls.__name__.lower()} must be an object with the fields {', '.join(known)}.")
        for name, value in document.items():
            is_kind = known[name]
            if is_kind is not None and not is_kind(value):
                raise InvalidInput(f"the {cls.__name__.lower()}'s {name} must not be {value!r}.")
            if isinstance(value, str) and any(unicodedata.category(character) == "Cc" for character in value):
                raise InvalidInput(f"the {cls.__name__.lower()}'s {name} holds control characters: {value!r}.")
        try:
            return cls(**document)
        except TypeError as error:
            raise InvalidInput(f"the {cls.__name__.lower()} lacks a field: {error}.") from error


_KINDS: dict[str, Callable[[object], bool]] = {"str": lambda value: isinstance(value, str), "int": is_whole, "float": is_number}


@dataclass(frozen=True)
class Device(_FromFile):
    """One piece of hardware and the runtime on it.

    Example:
        >>> from dataclasses import replace
        >>> from hwsearch.devices import Device
        >>> board = Device("my-board", "cpu", "Cortex-A76", runtime="onnxruntime", runtime_version="1.23", threads=4)
        >>> board.difference(replace(board, name="yours", threads=1))
        'threads is 1 and not 4'

    Attributes:
        name: what people call it; no part of its identity.
        kind: ``"cpu"``, ``"gpu"``, ``"analytic"``, or ``"replay"`` of measurements that were made before.
        hardware: the processor's name.
        runtime: the backend's name, such as ``"onnxruntime"``.
        runtime_version: of the runtime.
        threads: how many work on one network.
        batch: images at once.
        facts: whatever else explains a measurement. Of these ``machine`` (architecture), ``cpu`` (vendor, family and model), ``flags``
            (instruction sets), ``caches``, ``int8`` (what integer arithmetic does) and ``huge pages`` (when a process gets them) belong to
            the identity; operating system, clocks and the like do not.

    Raises:
        InvalidInput: what tables could not be written with: a text that is of another type, be it a subclass of ``str`` such as
            ``torch.__version__``; threads or batch that are no ``int`` of at least 1.
    """

    name: str
    kind: str
    hardware: str
    runtime: str
    runtime_version: str
    threads: int = 1
    batch: int = 1
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts: dict[str, Any] = {name: getattr(self, name) for name in ("name", "kind", "hardware", "runtime", "runtime_version")}
        if not isinstance(self.facts, Mapping):
            raise InvalidInput(f"the device's facts must map names to text, not {self.facts!r}.")
        texts |= {f"fact {name!r}": value for name, value in self.facts.items()}
        for what, text in (*texts.items(), *(("name of a fact", name) for name in self.facts)):
            if type(text) is not str:
                kind = type(text).__name__
                raise InvalidInput(f"the device's {what} must be plain text, not {text!r} of type {kind}: give str(...) of it.")
            if any(unicodedata.category(character) == "Cs" for character in text):
                raise InvalidInput(f"the device's {what} holds half a character (a lone surrogate): {text!r}.")
        for what, number in (("threads", self.threads), ("batch", self.batch)):
            if type(number) is not int or number < 1:
                raise InvalidInput(f"the device's {what} must be a whole number (int) of at least 1, not {number!r}.")

    @property
    def weight_bits(self) -> int:
        """How many bits of ``int8`` weights its integer products carry without saturating: 8, unless its facts say otherwise."""
        told = re.search(r"weights of (\d) bits", self._fact("int8"))
        return int(told[1]) if told else 8

    @property
    def zero_points(self) -> bool:
        """Whether quantised feature maps have zero points in model files for it: yes, unless its facts say ``zero_points: none``."""
        return self._fact("zero_points") != "none" and self.runtime not in _WITHOUT_ZERO_POINTS

    def same_as(self, other: Device) -> bool:
        """Whether measurements on both can be put together: nothing tells them apart, and both tell the same facts of their identity.

        Example:
            >>> from dataclasses import replace
            >>> from hwsearch.devices import Device
            >>> board = Device("my-board", "cpu", "Cortex-A76", runtime="onnxruntime", runtime_version="1.23")
            >>> board.same_as(replace(board, name="the other one")), board.same_as(replace(board, threads=4))
            (True, False)
        """
        return not self.difference(other) and not self.untold(other)

    def difference(self, other: Device) -> str:
        """What certainly tells two devices apart, in words; empty if nothing does.

        A fact that only one of them tells is no difference; see :meth:`untold`.
        """
        pairs = [(name, getattr(other, name), getattr(self, name)) for name in _IDENTITY]
        pairs += [(name, other._fact(name), self._fact(name)) for name in self._shared(other)]
        return ", ".join(f"{name} is {theirs!r} and not {mine!r}" for name, theirs, mine in pairs if theirs != mine)

    def untold(self, other: Device) -> tuple[str, ...]:
        """Facts that the identity needs and only one of both tells, so that they may be the same device or not.

        Tables that an earlier version or another program wrote tell less than ``hwsearch`` asks for today.
        """
        return tuple(name for name in _NEEDED_FACTS if bool(self._fact(name)) != bool(other._fact(name)))

    def _fact(self, name: str) -> str:
        return self.facts.get(name, "")

    def _shared(self, other: Device) -> list[str]:
        """The facts of the identity by which both can be compared."""
        shared = [name for name in _IDENTITY_FACTS if self._fact(name) and other._fact(name)]
        if "flags" in shared and bool(self._fact("cpu")) != bool(other._fact("cpu")):
            # Whoever does not tell the family of its processor may not have looked for all instruction sets, but has those that it names.
            newer, older = (self, other) if self._fact("cpu") else (other, self)
            if set(older._fact("flags").split()) <= set(newer._fact("flags").split()):
                shared.remove("flags")
        return shared


@dataclass(frozen=True)
class Protocol(_FromFile):
    """How latencies are measured.

    All things to be measured are interleaved in random order in each of many short rounds. In a round each is run a few times
    after a warm-up, and a low quantile of the times is taken. A sentinel is measured before and after: it tells which
    readings were taken while the machine was calm, only those count, and what drift it still shows is divided out. Their lower
    quartile is the result, and a thing leaves the rotation when the standard error of that is small enough.

    Example:
        >>> from hwsearch.devices import Protocol
        >>> Protocol(precision=0.05, min_rounds=4, max_rounds=8) == Protocol()  # tables of different protocols are not merged
        False
        >>> Protocol(min_rounds=12, max_rounds=8)
        Traceback (most recent call last):
            ...
        hwsearch.errors.InvalidInput: min_rounds must be in 1..max_rounds, runs at least 1 and warmup at least 0, not 12, 8, 10 and 3.

    Attributes:
        precision: relative standard error at which a thing leaves.
        min_rounds, max_rounds: how often it is measured at least and at most. A whole network of a table that is noisy then is measured
            again, up to twice as often.
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


def standard_error(latency_ms: float, spread_ms: float) -> float:
    """Relative standard error of a lower quartile of which half the interquartile range is known, if about a dozen readings count."""
    return QUARTILE_ERROR * spread_ms / latency_ms / math.sqrt(READINGS)


@dataclass(frozen=True)
class Row:
    """What was measured of one block.

    Example:
        >>> from hwsearch.devices import Row
        >>> row = Row(latency_ms=0.50, spread_ms=0.01, rounds=16)
        >>> f"{row.error:.1%}"  # standard error of the latency
        '1.0%'

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
class Estimate:
    """What one block costs.

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.devices import LatencyTable, Protocol, Row
        >>> from hwsearch.networks import Block
        >>> blocks = [Block("basic", 16, 16, 16, (width,), kernel=3) for width in (16, 32, 64)]
        >>> rows = {block.key: Row(Roofline().latency_ms(block)) for block in blocks}
        >>> table = LatencyTable(Roofline().describe(), Protocol(), rows)
        >>> table.lookup(blocks[0]).measured
        True
        >>> table.lookup(Block("basic", 16, 16, 16, (48,), kernel=3), interpolate=True).measured
        False

    Attributes:
        latency_ms: milliseconds, calibrated.
        measured: whether the block was measured; otherwise the value is interpolated.
        relative_error: half the interquartile range of the rounds relative to the latency, or, where interpolated, the standard
            deviation of the estimate.
        energy_mj: millijoules, or ``None`` if the device has no meter.
    """

    latency_ms: float
    measured: bool
    relative_error: float
    energy_mj: float | None = None


@dataclass(frozen=True)
class Check:
    """One whole network, measured and predicted.

    Example:
        >>> from hwsearch.devices import Check
        >>> held_out = Check("check", ("head-in16-out10-px32-k1-s1-g1-fp32",), measured_ms=0.50, spread_ms=0.01, predicted_ms=0.52)
        >>> round(held_out.error, 3), held_out.noisy
        (0.04, False)

    Attributes:
        role: ``"fit"`` if the calibration used it, ``"check"`` if it was held out.
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
    def noise(self) -> float:
        """Relative standard error of the measurement; see :func:`standard_error`."""
        return standard_error(self.measured_ms, self.spread_ms)

    @property
    def noisy(self) -> bool:
        """Whether the measurement says little, since the machine was busy."""
        return self.noise > NOISY

    @property
    def error(self) -> float:
        """Relative error of the prediction, negative if it is too fast."""
        return self.predicted_ms / self.measured_ms - 1
