"""TF-NAS's latency tables (Hu et al., ECCV'20)."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace

from .._files._reading import PathLike, guarded, is_amount, is_number, read_json
from ..devices._calibration import Calibration
from ..devices._table import Device, LatencyTable, Protocol, Row
from ..errors import CorruptFile
from ..networks._blocks import ACTIVATIONS, Block
from ._checks import report, some

_ENTRY = re.compile(r"MBInvertedResBlock_(\d+)_(\d+)_(\d+)_(\d+)_k(\d+)_s(\d+)_(\w+)")
_STRAIGHT = 1e-9


def tfnas_table(file: PathLike, *, device: Device | None = None, interpolated: bool = False) -> LatencyTable:
    """Read a latency table of TF-NAS: inverted bottlenecks at every inner width.

    Only some of the widths were measured. The others lie on straight lines between these or beyond them, far enough for some to be
    negative; they are found as the points that continue the line through their neighbours. All but the measured ones are skipped, and
    reported; a latency table interpolates better than a straight line does. The constant ``base`` (stem, first block, head) becomes what
    every network costs.

    Example:
        >>> import hwsearch, json, warnings
        >>> from pathlib import Path
        >>> from hwsearch.interop import tfnas_table
        >>> entries = {"base": 1.0, "MBInvertedResBlock_56_24_0_24_k3_s1_relu": {"24": 0.5, "48": 0.9, "96": 1.0}}
        >>> size = Path("tfnas.json").write_text(json.dumps(entries))
        >>> with warnings.catch_warnings(action="ignore"):  # of the width 24, which is on the line through the others
        ...     table = tfnas_table("tfnas.json")
        >>> {hwsearch.networks.Block.parse(key).mids: row.latency_ms for key, row in table.rows.items()}
        {(48,): 0.9, (96,): 1.0}

    Args:
        file: JSON, ``"MBInvertedResBlock_{size}_{cin}_{excited}_{cout}_k{kernel}_s{stride}_{activation}"`` -> ``{width: ms}``.
        device: what was measured; if omitted, it is named after the file.
        interpolated: keep what lies on a line, if it is positive.

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is no such table.
    """
    name = os.fspath(file)
    document = read_json(file, "table of TF-NAS")
    if not isinstance(document, dict) or not isinstance(document.get("base"), float):
        raise CorruptFile(f"{name} is no table of TF-NAS: blocks and the number 'base' were expected.")
    rows: dict[str, Row] = {}
    wrong, never = list[str](), list[str]()
    for key, widths in document.items():
        if key == "base":
            continue
        match = _ENTRY.fullmatch(key)
        if match is None or match[7] not in ACTIVATIONS or not isinstance(widths, dict):
            raise CorruptFile(f"{name}: {key!r} is no block of TF-NAS's tables.")
        size, cin, excited, cout, kernel, stride = map(int, match.groups()[:6])
        with guarded(name, "table of TF-NAS"):
            values = {int(width): value if is_number(value) else math.nan for width, value in widths.items()}
            measured = _measured(values)
        for width, value in values.items():
            where = f"{key} at width {width}"
            if not is_amount(value):
                wrong.append(where)
                continue
            never += [] if width in measured else [where]
            if width not in measured and not interpolated:
                continue
            block = Block("mbconv", cin, cout, size, (width, excited) if excited else (width,), kernel, stride, activation=match[7])
            rows[block.key] = Row(float(value))
    known = device or Device(os.path.splitext(os.path.basename(name))[0], "cpu", "unknown", "pytorch", "unknown")
    facts = report(name, _found(wrong, never, "kept" if interpolated else "skipped"))
    known = replace(known, facts={**known.facts, **facts})
    protocol = Protocol(min_rounds=1, max_rounds=1, runs=1, warmup=0)
    return LatencyTable(known, protocol, rows, (), Calibration(network_ms=document["base"]), source=name)


def _found(wrong: list[str], never: list[str], done: str) -> list[str]:
    """What was found wrong with entries, and what was done with those that were never measured."""
    found = [f"skipped {some(wrong)}: negative or not finite"] if wrong else []
    return found + ([f"{done} {some(never)}: never measured, but on a line between or beyond others"] if never else [])


def _measured(values: dict[int, float | int]) -> set[int]:
    """The widths at which the line bends, and the last one."""
    widths = sorted(values)
    bends = {
        here
        for before, here, after in zip(widths, widths[1:], widths[2:], strict=False)
        if abs((values[after] - values[here]) * (here - before) - (values[here] - values[before]) * (after - here)) > _STRAIGHT
    }
    return bends | set(widths[-1:])
