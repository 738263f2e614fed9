"""The journal of a run of profiling: a header that says what is measured where, and one record a round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ._reading import check_header
from ._store import Journal, PathLike
from .device import Device, Protocol
from .errors import CorruptFile, WrongDevice, WrongSpace

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


def resume(journal: Journal, header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rounds of an unfinished run; starts the journal where there is none.

    Raises:
        WrongDevice: it was run on another device or by another protocol.
        WrongSpace: it measures another space.
        CorruptFile, NewerVersion: it is no such journal.
    """
    records = iter(journal)
    first = next(records, None)
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
    yield from records


def read_header(record: object, path: PathLike) -> tuple[dict[str, Any], Device, Protocol]:
    """What a journal begins with: all of it, and its device and protocol.

    Raises:
        CorruptFile, NewerVersion: it is no such journal.
    """
    found = check_header(record, format=FORMAT, version=VERSION, path=path)
    try:
        device, protocol = Device(**found["device"]), Protocol(**found["protocol"])
        if not {"space", "fingerprint", "seed"} <= set(found):
            raise KeyError("space")
    except (KeyError, TypeError) as error:
        raise CorruptFile(f"{path} does not begin as a journal does ({error}). Delete it.") from error
    return found, device, protocol


def words(protocol: Protocol) -> str:
    """What tells one protocol from another."""
    return f"precision {protocol.precision:g}, at most {protocol.max_rounds} rounds"
