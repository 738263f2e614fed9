"""Reports about foreign data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ..devices._table import LatencyTable

_FACT = "problems"


class ForeignDataWarning(UserWarning):
    """A file that hwsearch did not write holds entries that cannot be trusted; the message says which and what was done."""


def report(where: str, found: Sequence[str]) -> dict[str, str]:
    """Warn about problems of a file, and return them as the facts of a device."""
    if not found:
        return {}
    warnings.warn(f"{where}: {'; '.join(found)}.", ForeignDataWarning, stacklevel=3)
    return {_FACT: "; ".join(found)}


def some(keys: Sequence[str], most: int = 3) -> str:
    """The number of entries and the first of them, in words."""
    more = ", ..." if len(keys) > most else ""
    return f"{len(keys)} {'entry' if len(keys) == 1 else 'entries'} ({', '.join(keys[:most])}{more})"


def problems(table: LatencyTable) -> tuple[str, ...]:
    """What was found wrong with the foreign file that a table came from; empty if nothing was."""
    return tuple(filter(None, table.device.facts.get(_FACT, "").split("; ")))
