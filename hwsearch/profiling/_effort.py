"""Effort: how much of a space is measured, and how precisely."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..devices._device import Protocol
from ..errors import InvalidInput, check_count
from ..networks._blocks import Block

_WHOLE = Protocol()
"""How a whole space is measured."""
_SAMPLED = Protocol(min_rounds=8, max_rounds=16, runs=4, warmup=2)
"""How a sample is measured: it has many blocks, and an estimate that rests on many blocks needs less precision of each."""
_LENGTH = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much of a space is measured, and how precisely; ``Effort()`` measures all of it.

    Example:
        >>> from hwsearch.profiling import Effort
        >>> Effort(budget="1h30m").budget_s
        5400.0
        >>> Effort(precision=0.02, checks=30).protocol(("fp32", "int8")).precision
        0.02

    Attributes:
        precision: relative standard error at which a measurement is good enough.
        max_rounds: rounds after which it has to be; if omitted 48, and 16 with a ``budget``. Whole networks that are noisy by then are
            measured in the same number of rounds again; :meth:`LatencyTable.error` tells how many stayed noisy, and
            :attr:`LatencyTable.noisy` which blocks did.
        checks: number of random whole networks that are held out to tell the table's error, at least 12. They are shared equally among
            the precisions that all blocks may share and mixed ones, and range from small to large. Those in the table already count.
        fits: number of other networks that the calibration is fitted on, chosen in the same way.
        blocks: measure these and no whole networks, instead of all of the space.
        budget: measure a sample of the blocks within this time (seconds, or ``"90s"``, ``"20m"``, ``"1h30m"``), and let the table estimate
            the others: corners of the space, stairs, the whole networks, and then what the estimates are least sure of. Rounds are fewer
            and shorter then.
        error: a run with a budget stops once networks that the calibration has not seen are predicted with this mean relative error. It is
            computed on the ``fits``, each half predicted from the other; the ``checks`` play no part in it.
        wait_s: wait for up to this many seconds until the machine does little else, before anything is measured on it.

    Raises:
        InvalidInput: a number that is out of range, or both ``blocks`` and ``budget``.
    """

    precision: float = 0.01
    max_rounds: int | None = None
    checks: int = 18
    fits: int = 42
    blocks: Sequence[Block] | None = None
    budget: str | float | None = None
    error: float = 0.01
    wait_s: float | None = None

    def __post_init__(self) -> None:
        check_count("checks", self.checks, least=0)
        check_count("fits", self.fits, least=0)
        if self.max_rounds is not None:
            check_count("max_rounds", self.max_rounds, least=1)
        if self.budget is not None:
            seconds(self.budget)
            if self.blocks is not None:
                raise InvalidInput("A budget chooses the blocks that are measured; omit either budget or blocks.")

    @property
    def budget_s(self) -> float | None:
        """The budget in seconds; ``None`` if the whole space is measured."""
        return None if self.budget is None else seconds(self.budget)

    def protocol(self, precisions: Sequence[str]) -> Protocol:
        """How each thing is measured.

        Args:
            precisions: those of the device; the sentinel has the first.

        Raises:
            InvalidInput: the precision is not between 0 and 1.
        """
        usual = _WHOLE if self.budget is None else _SAMPLED
        most = usual.max_rounds if self.max_rounds is None else int(self.max_rounds)
        fewest = min(usual.min_rounds, most)
        return replace(usual, precision=self.precision, min_rounds=fewest, max_rounds=most, sentinel=sentinel_of(precisions).key)


def sentinel_of(precisions: Sequence[str]) -> Block:
    """The block that shows drift: a small residual block, the same for every space.

    Args:
        precisions: those of the device; the sentinel has the first.
    """
    return Block("basic", 16, 16, 16, (16,), kernel=3, precision=precisions[0])


ALL = Effort()
"""All of a space, as precisely as usual."""


def seconds(budget: str | float) -> float:
    """Read a length of time: a number of seconds, or ``"90s"``, ``"20m"``, ``"1h30m"``.

    Raises:
        InvalidInput: it is none, or not positive.
    """
    value = 0.0
    if isinstance(budget, str):
        match = _LENGTH.fullmatch(budget.strip())
        if match is not None:
            hours, minutes, rest = (float(match[unit] or 0) for unit in "hms")
            value = 3600 * hours + 60 * minutes + rest
    elif not isinstance(budget, bool):
        value = float(budget)
    if not 0 < value < float("inf"):
        raise InvalidInput(f"budget must be a length of time, such as 1200, '90s', '20m' or '1h30m', not {budget!r}.")
    return value
