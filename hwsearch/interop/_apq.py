"""APQ's table of the BitFusion simulator (Wang et al., CVPR'20)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache

from .._files._reading import PathLike, is_amount, read_json
from ..devices._calibration import Calibration
from ..devices._table import Device, LatencyTable, Protocol, Row
from ..errors import CorruptFile
from ..networks._blocks import Block
from ..spaces._space import SearchSpace
from ..spaces.library.apq import build
from ._checks import report, some

_ENTRY = re.compile(
    r"\((?P<cin>\d+), (?P<cout>\d+), (?P<size>\d+), (?P<kernel>\d+), (?P<stride>\d+), (?P<pad>\d+), (?P<groups>\d+)\)"
    r"-W(?P<weight>\d+)A(?P<activation>\d+)"
)


def apq_table(file: PathLike) -> LatencyTable:
    """Read APQ's table: latency and energy of every convolution at every bit-width, for the space ``apq``.

    The table has one number for all that comes before the stages (``head``) and one for all that comes after (``tail``); each is shared
    among the blocks of the space there in proportion to their MACs, so that sums are exact. Entries that are negative, not finite or
    contradictory are skipped, and reported with the blocks of the space that the table lacks.

    The published table is complete; of this one, most blocks are missing, which is reported.

    Example:
        >>> import json, warnings
        >>> from pathlib import Path
        >>> from hwsearch.interop import apq_table
        >>> entry = {"latency": 0.1, "energy": 0.2}
        >>> entries = dict.fromkeys(["head", "tail", "(16, 64, 112, 1, 1, 0, 1)-W4A8"], entry)
        >>> size = Path("apq.json").write_text(json.dumps(entries))
        >>> with warnings.catch_warnings(action="ignore"):
        ...     table = apq_table("apq.json")
        >>> table.rows["conv-in16-out64-px112-k1-s1-g1-w4a8"].energy_mj
        0.2

    Args:
        file: JSON, ``"(cin, cout, size, kernel, stride, padding, groups)-W4A8"`` -> ``{latency, energy}`` in ms and mJ.

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is no such table.
    """
    name = os.fspath(file)
    document = read_json(file, "table of APQ")
    if not isinstance(document, dict) or not {"head", "tail"} <= document.keys():
        raise CorruptFile(f"{name} is no table of APQ: convolutions and the entries 'head' and 'tail' were expected.")
    slots = {slot.name: slot.lower() for slot in _space().slots if not slot.genes}
    rows: dict[str, Row] = {}
    wrong: list[str] = []
    for key, entry in document.items():
        row = _row(entry)
        blocks = slots["stem"] if key == "head" else slots["final"] if key == "tail" else _blocks(key, name)
        if row is None or row.energy_mj is None or not blocks:
            wrong.append(key)
            continue
        macs = sum(block.macs for block in blocks)
        for block in blocks:
            share = block.macs / macs
            rows[block.key] = Row(row.latency_ms * share, energy_mj=row.energy_mj * share)
    found = [f"skipped {some(wrong)}: negative, not finite or contradictory"] if wrong else []
    lacking = [key for key in _wanted() if key not in rows]
    found += [f"it lacks {some(lacking)} of the space 'apq'"] if lacking else []
    device = Device("bitfusion", "analytic", "BitFusion", "bitfusion-simulator", "unknown", facts=report(name, found))
    return LatencyTable(device, Protocol(min_rounds=1, max_rounds=1, runs=1, warmup=0), rows, (), Calibration(), "estimated", name)


@cache
def _space() -> SearchSpace:
    """APQ's space, which takes longer to build than a table to read."""
    return build()


@cache
def _wanted() -> tuple[str, ...]:
    """The keys of all blocks of the space."""
    return tuple(block.key for block in _space().unique_blocks)


def _row(entry: object) -> Row | None:
    match entry:
        case {"latency": float(latency), "energy": float(energy)} if is_amount(latency) and is_amount(energy):
            return Row(latency, energy_mj=energy)
    return None


def _blocks(key: str, name: str) -> Iterable[Block]:
    """The block of an entry; none if the entry contradicts itself."""
    match = _ENTRY.fullmatch(key)
    if match is None:
        raise CorruptFile(f"{name}: {key!r} is no convolution of APQ's table.")
    cin, cout, size, kernel, stride, pad, groups = map(int, match.groups()[:7])
    if pad != kernel // 2 or cin % groups or cout % groups:
        return ()
    return (Block("conv", cin, cout, size, (), kernel, stride, groups, f"w{match['weight']}a{match['activation']}"),)
