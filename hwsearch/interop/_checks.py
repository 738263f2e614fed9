"""Reports about foreign data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ..devices._table import LatencyTable

_FACT = "problems"


class ForeignDataWarning(UserWarning):
    """A file that hwsearch did not write holds entries that cannot be trusted; the message says which and what was done.

    Example:
        >>> import json, warnings
        >>> from pathlib import Path
        >>> from hwsearch.interop import tfnas_table
        >>> entries = {"base": 1.0, "MBInvertedResBlock_56_24_0_24_k3_s1_relu": {"24": 0.5, "48": -0.9, "96": 1.0}}
        >>> size = Path("wrong.json").write_text(json.dumps(entries))
        >>> with warnings.catch_warnings(record=True, action="always") as told:
        ...     table = tfnas_table("wrong.json")
        >>> str(told[0].message)
        'wrong.json: skipped 1 entry (MBInvertedResBlock_... at width 48): negative or not finite; ...'
    """


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
    """What was found wrong with the foreign file that a table came from; empty if nothing was.

    Example:
        >>> import json, warnings
        >>> from pathlib import Path
        >>> from hwsearch.interop import problems, tfnas_table
        >>> entries = {"base": 1.0, "MBInvertedResBlock_56_24_0_24_k3_s1_relu": {"24": 0.5, "48": -0.9, "96": 1.0}}
        >>> size = Path("doubtful.json").write_text(json.dumps(entries))
        >>> with warnings.catch_warnings(action="ignore"):
        ...     table = tfnas_table("doubtful.json")
        >>> problems(table)
        ('skipped 1 entry (MBInvertedResBlock_... at width 48): negative or not finite', ...)
    """
    return tuple(filter(None, table.device.facts.get(_FACT, "").split("; ")))
