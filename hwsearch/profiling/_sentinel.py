"""Whether a latency table is of this device: its sentinel must take as long as it did then."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ..backends.base import Backend
from ..devices._device import Device, Protocol
from ..devices._table import LatencyTable
from ..errors import WrongDevice
from ..networks._blocks import Block
from ._readings import UNDISTURBED
from ._rounds import Rounds, period_of

_APART = 1.3
"""Latencies of the sentinel that differ by more than this factor are of two devices if the facts leave it open."""
_CLOCKS = 2.0
"""The same if the facts agree: neighbours and clocks of a shared machine come to a factor of 1.3 now and then, for seconds on end."""
_BUSY = 1.1
"""A machine is busy while half of the sentinel's readings are slower than undisturbed by more than this factor."""
_ROUNDS = 12
_FIXED = ("analytic", "replay")
"""Devices of these kinds are told apart by their names: their latencies are computed, or were measured before."""


class BusyWarning(UserWarning):
    """The machine does so much else that its latencies say little; the message says by how much the sentinel is disturbed.

    Example:
        >>> import hwsearch, warnings
        >>> from hwsearch.profiling import BusyWarning
        >>> network = hwsearch.searching.dense(hwsearch.load_space("resnet_digits")).blocks()
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", BusyWarning)  # rather stop than believe what a busy machine says
        ...     found = hwsearch.measure(network, backend="roofline", progress=False)
        >>> found.latency_ms > 0
        True
    """


def check_facts(table: LatencyTable, device: Device, *, here: bool = True) -> bool:
    """Whether the facts say that a table is of a device; if they leave it open, the sentinel has to say so.

    Args:
        table: that is to be used or completed.
        device: that is to be measured.
        here: whether its sentinel can be run before anything else.

    Raises:
        WrongDevice: they say that it is another one, or leave it open and no sentinel can be compared.
    """
    other_file = f"Profile this device into another file with: hwsearch profile SPACE --backend {device.runtime} --out TABLE"
    if change := device.difference(table.device):
        raise WrongDevice(f"{table.source} was measured elsewhere: {change}. {other_file}")
    untold = device.untold(table.device)
    if untold and not (table.protocol.sentinel_ms and table.protocol.sentinel and here):
        raise WrongDevice(
            f"{table.source} may have been measured elsewhere: only one of both tells {', '.join(untold)}, and there is no sentinel "
            f"to compare. {other_file}"
        )
    return not untold


def ask_sentinel(table: LatencyTable, backend: Backend, *, facts_suffice: bool) -> None:
    """Run the sentinel of a table for about a second, and check that it takes as long as when the table was measured.

    Args:
        table: that is to be completed.
        backend: of this machine.
        facts_suffice: see :func:`check_facts`.

    Raises:
        WrongDevice: as :func:`check_sentinel`.
    """
    if not table.protocol.sentinel_ms or table.device.kind in _FIXED:
        return
    sentinel = Block.parse(table.protocol.sentinel)
    rounds = Rounds(
        {"sentinel": lambda: backend.open((sentinel,))},
        lambda: backend.open((sentinel,)),
        Protocol(min_rounds=_ROUNDS, max_rounds=_ROUNDS),
        period_s=period_of(backend.describe()),
    )
    rounds.finish(lambda record: None, lambda done: None)
    check_sentinel(rounds.sentinels(), table, facts_suffice=facts_suffice)


def check_sentinel(readings_ms: Sequence[float], table: LatencyTable, *, facts_suffice: bool) -> None:
    """Check that the sentinel takes as long as when a table was measured.

    A calm machine whose sentinel differs by more than a factor of 1.3 (2 if the facts agree, since the clocks and the neighbours of a
    shared machine alone come to more than 1.3 now and then) is another device, or its clocks are set otherwise. Readings of a busy machine
    scatter: a busy machine that the facts know is warned of, and one that they do not know is refused.

    Args:
        readings_ms: of the sentinel now.
        table: that tells what the sentinel took then; nothing is checked if it does not.
        facts_suffice: whether the facts of the device alone say that it is the same.

    Raises:
        WrongDevice: it is another device, or the machine is too busy to tell.
    """
    then = table.protocol.sentinel_ms
    if not then or not len(readings_ms) or table.device.kind in _FIXED:
        return
    now = float(np.quantile(readings_ms, UNDISTURBED))
    usual = float(np.median(readings_ms))
    if 1 / _APART <= now / then <= _APART:
        return
    words = f"the sentinel takes {now:.4g} ms, and took {then:.4g} ms when {table.source} was measured"
    scattered = now > then and usual > _BUSY * now
    if not scattered and not (facts_suffice and 1 / _CLOCKS <= now / then <= _CLOCKS):
        raise WrongDevice(
            f"This is another device, or its clocks are set otherwise, or something slows it all the time: {words}. Profile into another "
            "file, or measure without the table."
        )
    if scattered:
        why, more = "", f", and its readings scatter (half of them are {usual / now - 1:.0%} slower than undisturbed)"
    else:
        why, more = ", or was when the table was measured, or its clocks are set otherwise", ""
    busy = f"This machine is busy{why}: {words}{more}."
    if not facts_suffice:
        raise WrongDevice(f"{busy} So it cannot be told whether the table is of this device. Try again while the machine is calm.")
    warnings.warn(f"{busy} Latencies are put in proportion, but say little. Measure again while it is calm.", BusyWarning, stacklevel=3)
