"""The journal of a run of profiling: a header that says what is measured where, and one record a round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from .._files._reading import LARGEST, RANGE, PathLike, check_header, guarded, is_amount, is_number, is_whole
from .._files._writing import Journal
from ..devices._device import Device, Protocol
from ..errors import CorruptFile, WrongDevice, WrongSpace

FORMAT = "hwsearch-profile-journal"
VERSION = 1


def make_header(device: Device, protocol: Protocol, space: str, fingerprint: str, seed: int) -> dict[str, Any]:
    """What a journal begins with.

    Args:
        device: where is measured.
        protocol: how.
        space: name of the space.
        fingerprint: of the space, or of the blocks that are measured of it.
        seed: of the networks and of the order of measuring.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "device": asdict(device),
        "protocol": asdict(protocol),
        "space": space,
        "fingerprint": fingerprint,
        "seed": seed,
    }


def resume(journal: Journal, header: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rounds of an unfinished run; starts the journal if there is none.

    Raises:
        WrongDevice: it was run on another device or by another protocol.
        WrongSpace: it measures another space.
        CorruptFile, NewerVersion: it is no such journal.
    """
    records = journal.numbered()
    _, first = next(records, (1, None))
    if first is None:
        journal.append(header)
        return
    found, device, protocol = read_header(first, journal.path)
    hint = f"Finish that run as it was started, or delete {journal.path}"
    ours = Device(**header["device"])
    if change := ours.difference(device):
        raise WrongDevice(f"{journal.path} is an unfinished run on another device: {change}. {hint}.")
    if untold := ours.untold(device):
        raise WrongDevice(f"{journal.path} may be an unfinished run on another device: only one of both tells {', '.join(untold)}. {hint}.")
    if protocol != Protocol(**header["protocol"]):
        raise WrongDevice(f"{journal.path} is an unfinished run by another protocol ({words(protocol)}). {hint}.")
    if found["fingerprint"] != header["fingerprint"]:
        other = f"not of {header['space']!r}" if found["space"] != header["space"] else "with other blocks, or restricted otherwise"
        raise WrongSpace(f"{journal.path} is an unfinished run of {found['space']!r}, {other}. {hint}.")
    for number, record in records:
        yield check_round(record, f"{journal.path}, line {number}")


def check_round(record: Any, where: str) -> dict[str, Any]:
    """Check one round: what it measured, and what could not be built.

    Args:
        record: JSON data, of any program.
        where: its file and line, for the message.

    Raises:
        CorruptFile: it is no round, or holds impossible readings; the message says which.
    """
    if not isinstance(record, dict) or not isinstance(record.get("times"), dict):
        raise CorruptFile(f'{where} is not a round: {{"round": 1, "times": {{"NAME": [latency_ms, sentinel_ms], ...}}}} was expected.')
    number = record.get("round")
    if not is_whole(number) or number < 1:
        raise CorruptFile(f"{where}: its round is {number!r}; a whole number of at least 1 was expected.")
    for name, reading in record["times"].items():
        if not isinstance(reading, list) or len(reading) not in (2, 3):
            raise CorruptFile(
                f"{where}: the reading of {name!r} is {reading!r}; [latency_ms, sentinel_ms] or these and energy_mj was expected."
            )
        for value, what in zip(reading, ("latency_ms", "sentinel_ms", "energy_mj"), strict=False):
            energy = what == "energy_mj"  # of which an empty network may take none
            if not is_amount(value, zero=energy):
                wanted = f"of at least 0 (and at most {LARGEST:g})" if energy else f"above 0 {RANGE}"
                raise CorruptFile(f"{where}: {what} of {name!r} is {value!r}; a number {wanted} was expected.")
    failed = record.get("failed", {})
    if not isinstance(failed, dict) or not all(isinstance(why, str) for why in failed.values()):
        raise CorruptFile(f"{where}: what failed is {failed!r}; names and why they failed were expected.")
    seconds = record.get("seconds", 0.0)
    if not is_number(seconds) or seconds < 0:
        raise CorruptFile(f"{where}: its seconds are {seconds!r}; a number of at least 0 was expected.")
    return record


def read_header(record: object, path: PathLike) -> tuple[dict[str, Any], Device, Protocol]:
    """What a journal begins with: all of it, and its device and protocol.

    Raises:
        CorruptFile, NewerVersion: it is no such journal.
    """
    found = check_header(record, format=FORMAT, version=VERSION, path=path)
    if missing := [key for key in ("device", "protocol", "space", "fingerprint", "seed") if key not in found]:
        raise CorruptFile(f"{path} does not begin as a journal does: its first line lacks {', '.join(missing)}.")
    with guarded(path, "journal of profiling"):
        device, protocol = Device.from_document(found["device"]), Protocol.from_document(found["protocol"])
    return found, device, protocol


def words(protocol: Protocol) -> str:
    """What tells one protocol from another."""
    return f"precision {protocol.precision:g}, at most {protocol.max_rounds} rounds"
