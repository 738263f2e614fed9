"""A device played back from a recording of real measurements: for tests, and for showing what was measured on a device that is not here.

Tables made from a recording are those of a device of kind ``"replay"``, which no other device is: they cannot be taken for new
measurements, nor merged with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from .._files._reading import check_header, guarded
from .._files._writing import Journal, PathLike
from ..devices._device import Device
from ..errors import FileError, InvalidInput, Unsupported
from ..networks._blocks import Block
from .base import Backend, Network, Session, Times

FORMAT = "hwsearch-recording"
VERSION = 1
_Keys = tuple[str, ...]


class Recording(Backend):
    """Any backend, and a record of every time that its sessions measured.

    Whatever is done with it is done with the backend; the file grows by a line whenever a session is closed.

    Args:
        backend: what measures.
        path: the recording; must not be there yet.

    Raises:
        FileError: there is a file already.
    """

    def __init__(self, backend: Backend, path: PathLike) -> None:
        self.backend, self.name, self.energy = backend, backend.name, backend.energy
        self.weight_bits, self.zero_points = backend.weight_bits, backend.zero_points
        self._journal = Journal(path)
        if os.path.exists(self._journal.path):
            raise FileError(f"{self._journal.path} exists already. Delete it, or record into another file.")
        self._framed: set[Block] = set()
        device = asdict(backend.describe())
        self._journal.append(
            {"format": FORMAT, "version": VERSION, "device": device, "precisions": list(backend.precisions), "energy": backend.energy}
        )

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of the backend."""
        return self.backend.precisions

    def describe(self) -> Device:
        """The device of the backend."""
        return self.backend.describe()

    def supports(self, block: Block) -> bool:
        """Whether the backend supports it."""
        return self.backend.supports(block)

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """As the backend says."""
        whole, frame = self.backend.framed(block)
        if block not in self._framed:
            self._framed.add(block)
            self._journal.append({"block": block.key, "whole": _keys(whole), "frame": _keys(frame)})
        return whole, frame

    def _open(self, network: Network) -> Session:
        return _Heard(self.backend.open(network), _keys(network), self._journal)


class _Heard(Session):
    """A session whose times are written down when it is closed."""

    def __init__(self, session: Session, network: _Keys, journal: Journal) -> None:
        self.batch = session.batch
        self._session, self._network, self._journal = session, network, journal
        self._seconds: list[float] = []
        self._energies: list[float] = []

    def times(self, runs: int) -> Times:
        seconds = self._session.times(runs)
        self._seconds += seconds.tolist()
        return seconds

    @property
    def energy_mj(self) -> float | None:
        energy = self._session.energy_mj
        if energy is not None:
            self._energies.append(energy)
        return energy

    @property
    def throttled(self) -> bool:
        return self._session.throttled

    def close(self) -> None:
        energy = float(np.median(self._energies)) if self._energies else None
        self._session.close()
        if self._seconds:
            ns = [round(1e9 * second) for second in self._seconds]
            self._journal.append({"network": self._network, "ns": ns, "energy_mj": energy})
            self._seconds = []


class Replay(Backend):
    """What a :class:`Recording` has heard, in the same order; after the last time comes the first again.

    The same questions get the same answers: profiling the same space with the same seed makes the table that was made then.

    Args:
        path: of the recording.

    Raises:
        InvalidInput: no path.
        FileError: there is no such file.
        CorruptFile, NewerVersion: it is no recording.
    """

    name = "replay"

    def __init__(self, path: PathLike | None = None) -> None:
        if path is None:
            raise InvalidInput("Say which recording is played back: hwsearch.backends.replay.Replay(PATH).")
        journal = Journal(path)
        if not os.path.isfile(journal.path):
            raise FileError(f"There is no recording {journal.path}.")
        records = list(journal)
        header = check_header(records[0] if records else None, format=FORMAT, version=VERSION, path=path)
        self._heard: dict[_Keys, list[int]] = {}
        self._energies: dict[_Keys, float | None] = {}
        self._frames: dict[str, tuple[_Keys, _Keys]] = {}
        self._next: dict[_Keys, int] = {}
        with guarded(journal.path, "recording"):
            device = Device.from_document(header["device"])
            self._precisions, self.energy = tuple(header["precisions"]), str(header["energy"])
        for number, record in enumerate(records[1:], start=2):
            with guarded(f"{journal.path}, line {number}", "record of a recording"):
                self._take(record)
        self.weight_bits, self.zero_points = device.weight_bits, device.zero_points
        self._blocks = {key for network in self._heard for key in network}
        self._device = replace(
            device,
            name=f"replay of {device.name}",
            kind="replay",
            runtime=self.name,
            runtime_version=f"{device.runtime} {device.runtime_version}",
            facts={**device.facts, "replay": f"measured before, and played back from {journal.path.name}"},
        )

    def _take(self, record: dict[str, Any]) -> None:
        if "block" in record:
            self._frames[record["block"]] = _parsed(record["whole"]), _parsed(record["frame"])
            return
        network, energy = _parsed(record["network"]), record["energy_mj"]
        ns = [int(value) for value in record["ns"]]
        if not ns or min(ns) <= 0 or not (energy is None or float(energy) >= 0):
            raise InvalidInput(f"its times must be positive and its energy not negative, not {ns[:3]} ... and {energy!r}.")
        self._heard.setdefault(network, []).extend(ns)
        self._energies[network] = None if energy is None else float(energy)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of the device that was recorded."""
        return self._precisions

    @property
    def networks(self) -> tuple[tuple[Block, ...], ...]:
        """What was measured."""
        return tuple(tuple(map(Block.parse, network)) for network in self._heard)

    def describe(self) -> Device:
        """The device that was recorded, marked as a replay."""
        return self._device

    def supports(self, block: Block) -> bool:
        """Whether the block was measured, in any network."""
        return block.key in self._blocks

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """As the backend that was recorded framed it.

        Raises:
            Unsupported: the block was not measured alone.
        """
        if block.key not in self._frames:
            raise Unsupported(f"Block {block.key} was not measured alone in the recording of {self._device.name}.")
        whole, frame = self._frames[block.key]
        return tuple(map(Block.parse, whole)), tuple(map(Block.parse, frame))

    def _open(self, network: Network) -> Session:
        keys = _keys(network)
        if keys not in self._heard:
            raise Unsupported(f"The network {' '.join(keys)} is not in the recording: {self._device.name} cannot say how long it takes.")
        return _Played(self, keys)

    def play(self, network: _Keys, runs: int) -> Times:
        """The next times of a network, seconds, shape ``(runs,)``."""
        heard, start = self._heard[network], self._next.get(network, 0)
        self._next[network] = start + runs
        return 1e-9 * np.array([heard[index % len(heard)] for index in range(start, start + runs)], dtype=np.float64)

    def energy_of(self, network: _Keys) -> float | None:
        """Millijoules of one run, as recorded."""
        return self._energies[network]


class _Played(Session):
    """A network of a recording."""

    def __init__(self, replay: Replay, network: _Keys) -> None:
        self.batch = replay.describe().batch
        self._replay, self._network = replay, network

    def times(self, runs: int) -> Times:
        return self._replay.play(self._network, runs)

    @property
    def energy_mj(self) -> float | None:
        return self._replay.energy_of(self._network)


def _parsed(keys: Iterable[str]) -> _Keys:
    """The keys of blocks, checked."""
    return _keys(map(Block.parse, keys))


def _keys(network: Iterable[Block]) -> _Keys:
    return tuple(block.key for block in network)
