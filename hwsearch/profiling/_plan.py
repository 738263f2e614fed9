"""Plan: what one run of profiling measures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .._files._writing import Journal
from ..devices._device import Protocol
from ..networks._blocks import Block
from ._journal import resume
from ._readings import Readings

Network = tuple[Block, ...]


@dataclass(frozen=True)
class Plan:
    """What one run of profiling measures, wherever that is done.

    Attributes:
        header: what the journal of the run begins with; see :func:`hwsearch.profiling._journal.make_header`.
        framed: block -> a network that holds it, and the same without it.
        roles: whole networks -> ``"check"`` or ``"fit"``.
        sentinel: the block that shows drift.
        limit_s: seconds after which nothing is measured any more here, finished or not, if there were three rounds.
    """

    header: Mapping[str, Any]
    framed: Mapping[Block, tuple[Network, Network]]
    roles: Mapping[Network, str]
    sentinel: Block
    limit_s: float = math.inf

    @property
    def nothing(self) -> bool:
        """Whether nothing is left to be measured."""
        return not self.framed and not self.roles

    @cached_property
    def networks(self) -> dict[str, Network]:
        """All networks that have to run, by name: blocks in their frames, the frames, whole networks, and the empty one."""
        networks = {network for pair in self.framed.values() for network in pair} | set(self.roles) | {()}
        return dict(sorted((name_of(network), network) for network in networks))

    @property
    def protocol(self) -> Protocol:
        """How each network is measured."""
        return Protocol(**self.header["protocol"])

    @property
    def seed(self) -> int:
        """Of the order of measuring."""
        return int(self.header["seed"])

    @property
    def again(self) -> tuple[str, ...]:
        """Names of the whole networks, which are measured again if they stay noisy."""
        return tuple(self.header["again"])

    def read(self, journal: Journal) -> Readings:
        """The readings that a journal holds; the journal is started if there is none.

        Raises:
            WrongDevice, WrongSpace: it is of another run.
            CorruptFile, NewerVersion: it is no such journal.
        """
        readings = Readings(self.networks, self.protocol, self.again)
        for record in resume(journal, self.header):
            readings.add(record)
        return readings

    def why(self, block: Block, failed: Mapping[str, str]) -> str:
        """Why a block could not be built; empty if it could, or was not tried.

        Args:
            block: any block.
            failed: name of a network -> why it could not be built.
        """
        return next((failed[name] for name in map(name_of, self.framed.get(block, ())) if name in failed), "")


def name_of(network: Network) -> str:
    """A short name for a network in the journal."""
    return fingerprint_of(block.key for block in network)


def fingerprint_of(words: Iterable[str]) -> str:
    """A short name for a list of words."""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]
