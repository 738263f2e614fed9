"""The latency table's JSON file: strict when read, a row a line when written."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from .._files._reading import LARGEST, RANGE, is_amount, read_document
from .._files._writing import PathLike, write_atomic
from ..errors import CorruptFile, InvalidInput, WrongUnit
from ..networks._blocks import Block
from ._calibration import Calibration, Terms
from ._device import Check, Device, Protocol, Row

FORMAT = "hwsearch-latency-table"
VERSION = 2
UNIT = "ms"
ENERGIES = ("measured", "estimated", "unavailable")


class _DeviceFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    name: str
    kind: str
    hardware: str
    runtime: str
    runtime_version: str
    threads: int
    batch: int
    facts: dict[str, str] = {}


class _ProtocolFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    precision: float
    min_rounds: int
    max_rounds: int
    runs: int
    warmup: int
    quantile: float
    sentinel: str = ""
    sentinel_ms: float = 0.0


class _TermsFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    scale: float = 1.0
    block_ms: float = 0.0
    value_ns: float = 0.0
    weight_ns: float = 0.0


class _CalibrationFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    call_ms: float = 0.0
    network_ms: float = 0.0
    classes: dict[str, _TermsFile] = {}


class _RowFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    block: str
    latency_ms: float
    spread_ms: float = 0.0
    rounds: int = 1
    energy_mj: float | None = None


class _CheckFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    role: str
    measured_ms: float
    spread_ms: float
    predicted_ms: float
    blocks: tuple[str, ...]


class _TableFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    format: str
    version: int
    unit: str
    device: _DeviceFile
    protocol: _ProtocolFile
    rows: list[_RowFile]
    energy: str = "unavailable"
    spent_s: float = 0.0
    calibration: _CalibrationFile = _CalibrationFile()
    checks: list[_CheckFile] = []


class Contents(typing.Protocol):
    """What a table's file holds; see :class:`hwsearch.LatencyTable`."""

    @property
    def device(self) -> Device: ...
    @property
    def protocol(self) -> Protocol: ...
    @property
    def rows(self) -> Mapping[str, Row]: ...
    @property
    def checks(self) -> tuple[Check, ...]: ...
    @property
    def calibration(self) -> Calibration: ...
    @property
    def energy(self) -> str: ...
    @property
    def spent_s(self) -> float: ...
    @property
    def sampled(self) -> bool: ...


def write(table: Contents, path: PathLike) -> Path:
    """Write a table; see :meth:`LatencyTable.save`."""
    if table.energy not in ENERGIES:
        raise InvalidInput(f"energy must be one of {', '.join(ENERGIES)}, not {table.energy!r}.")
    rows = [{"block": key, **asdict(row)} for key, row in sorted(table.rows.items(), key=lambda item: _order(item[0]))]
    checks = [
        {"role": c.role, "measured_ms": c.measured_ms, "spread_ms": c.spread_ms, "predicted_ms": c.predicted_ms, "blocks": c.blocks}
        for c in table.checks
    ]
    head = {
        "format": FORMAT,
        "version": VERSION,
        "unit": UNIT,
        "device": asdict(table.device) | {"facts": dict(table.device.facts)},
        "protocol": asdict(table.protocol),
        "energy": table.energy,
        **({"spent_s": table.spent_s} if table.sampled else {}),
        "calibration": {
            "call_ms": table.calibration.call_ms,
            "network_ms": table.calibration.network_ms,
            "classes": {name: asdict(terms) for name, terms in sorted(table.calibration.classes.items())},
        },
    }
    whole = _rounded({**head, "rows": rows, "checks": checks})
    try:
        _checked(msgspec.convert(whole, _TableFile), "This table")
    except CorruptFile as error:
        raise InvalidInput(f"This table cannot be saved: {error}") from error
    parts = [f'"{name}": {_line(whole[name])}' for name in head]
    parts += [f'"{name}": {_lines(whole[name])}' for name in ("rows", "checks")]
    write_atomic(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode())
    return Path(path)


def read(path: PathLike) -> dict[str, Any]:
    """Read the fields of a table; see :func:`hwsearch.devices.load_table`."""
    name = os.fspath(path)
    document = read_document(path, "latency table", format=FORMAT, version=VERSION)
    if document.get("unit") != UNIT:
        raise WrongUnit(f"{name}: its unit is {document.get('unit')!r}, and latency tables are in {UNIT!r}. Convert its values.")
    try:
        file = msgspec.convert(document, _TableFile, strict=True)
    except msgspec.ValidationError as error:
        raise CorruptFile(f"{name}: {error}.") from error
    _checked(file, name)
    device = msgspec.structs.asdict(file.device)
    try:
        protocol = Protocol(**msgspec.structs.asdict(file.protocol))
    except InvalidInput as error:
        raise CorruptFile(f"{name}: protocol: {error}") from error
    classes = {key: Terms(**msgspec.structs.asdict(terms)) for key, terms in file.calibration.classes.items()}
    return {
        "device": Device(**device),
        "protocol": protocol,
        "rows": {row.block: Row(row.latency_ms, row.spread_ms, row.rounds, row.energy_mj) for row in file.rows},
        "checks": tuple(Check(c.role, c.blocks, c.measured_ms, c.spread_ms, c.predicted_ms) for c in file.checks),
        "calibration": Calibration(file.calibration.call_ms, file.calibration.network_ms, classes),
        "energy": file.energy,
        "source": name,
        "spent_s": file.spent_s,
    }


def _checked(file: _TableFile, name: str) -> None:
    """Refuse values that no measurement gives, each with its own message."""
    if file.energy not in ENERGIES:
        raise CorruptFile(f"{name}: energy must be one of {', '.join(ENERGIES)}, not {file.energy!r}.")
    if file.device.threads < 1 or file.device.batch < 1:
        raise CorruptFile(f"{name}: the device's threads and batch must be at least 1.")
    seen: set[str] = set()
    for number, row in enumerate(file.rows, start=1):
        where = f"{name}, row {number} ({row.block})"
        _parse(row.block, where)
        if row.block in seen:
            raise CorruptFile(f"{where}: this block has a row already. Keep one of them.")
        seen.add(row.block)
        _positive(where, "latency_ms", row.latency_ms)
        _at_least_zero(where, "spread_ms", row.spread_ms)
        if row.energy_mj is not None:
            _positive(where, "energy_mj", row.energy_mj)
        if row.rounds < 1:
            raise CorruptFile(f"{where}: rounds must be at least 1, not {row.rounds}.")
    for number, check in enumerate(file.checks, start=1):
        where = f"{name}, check {number}"
        if check.role not in ("fit", "check"):
            raise CorruptFile(f"{where}: role must be 'fit' or 'check', not {check.role!r}.")
        for key in check.blocks:
            _parse(key, where)
        _positive(where, "measured_ms", check.measured_ms)
        _positive(where, "predicted_ms", check.predicted_ms)
        _at_least_zero(where, "spread_ms", check.spread_ms)
    _at_least_zero(name, "spent_s", file.spent_s)
    _at_least_zero(name, "protocol.sentinel_ms", file.protocol.sentinel_ms)
    _at_least_zero(name, "calibration.call_ms", file.calibration.call_ms)
    _at_least_zero(name, "calibration.network_ms", file.calibration.network_ms)
    for key, terms in file.calibration.classes.items():
        if not all(abs(term) <= LARGEST for term in (terms.scale, terms.block_ms, terms.value_ns, terms.weight_ns)):
            raise CorruptFile(f"{name}: calibration class {key!r} holds a value that is not finite, or too large.")


def _parse(key: str, where: str) -> None:
    try:
        Block.parse(key)
    except InvalidInput as error:
        raise CorruptFile(f"{where}: {error}") from error


def _positive(where: str, what: str, value: float) -> None:
    if not is_amount(value):
        raise CorruptFile(f"{where}: {what} must be a positive number {RANGE}, not {value}.")


def _at_least_zero(where: str, what: str, value: float) -> None:
    if not is_amount(value, zero=True):
        raise CorruptFile(f"{where}: {what} must be a number of at least 0 (and at most {LARGEST:g}), not {value}.")


def _order(key: str) -> tuple[Any, ...]:
    block = Block.parse(key)
    return (block.kind, block.precision, block.size, block.stride, block.cin, block.cout, block.mids, key)


def _rounded(value: Any) -> Any:
    """Numbers to twelve digits: finer than any measurement or simulation, and stable when saved again."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _line(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def _lines(items: Iterable[Any]) -> str:
    lines = ",\n".join("  " + _line(item) for item in items)
    return f"[\n{lines}\n]" if lines else "[]"
