"""What one run of profiling measures, and the table that it makes of what was measured."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ._journal import make_header, resume
from ._progress import Advance
from ._sampling import uniform_precisions
from ._store import Journal
from .backends import Backend, Session
from .backends.base import check_fit
from .blocks import Block
from .device import Check, Row
from .errors import BuildFailed, FileError, InvalidInput, Unsupported, check_count, check_seed
from .rounds import Open, Rounds, difference, period_of, sentinel_of
from .space import SearchSpace
from .table import Calibration, LatencyTable

FEWEST_CHECKS = 12
MOST_WHOLE = 20_000
"""A space of more blocks than these can only be sampled."""
Network = tuple[Block, ...]


class LeftOutWarning(UserWarning):
    """Blocks that could not be built and are not in the table; the message names each and says why."""


def plan(
    space: SearchSpace,
    backend: Backend,
    table: LatencyTable,
    *,
    checks: int = 18,
    fits: int = 42,
    seed: int = 0,
    blocks: Sequence[Block] | None = None,
) -> Run:
    """What is to be measured so that ``table`` holds a space; see :func:`profile`."""
    reachable = [space.unique_blocks[index] for index in space.reachable]
    wanted = tuple(dict.fromkeys(reachable if blocks is None else blocks))
    able = tuple(block for block in wanted if backend.supports(block))
    if not any(block.graph.layers and block.kind != "head" for block in able) and blocks is None:
        needs = dict.fromkeys(block.precision for block in wanted if block.graph.layers and block.kind != "head")
        raise Unsupported(
            f"Backend {backend.name!r} runs no block of {space.name!r}: its precisions are {', '.join(backend.precisions)}, and the "
            f"space's are {', '.join(needs)}."
        )
    if blocks is None and len(able) > MOST_WHOLE:
        raise InvalidInput(
            f"Space {space.name!r} has {len(able):,} blocks on {backend.name!r}, too many to measure them all, or to emit. Measure a "
            f"sample, here or through --remote: hwsearch profile {space.name} --budget 20m, or profile(..., budget='20m')."
        )
    if blocks is not None and len(able) < len(wanted):
        backend.open([next(block for block in wanted if block not in able)])
    seed = check_seed(seed)
    roles = {} if blocks is not None else networks_of(space, backend, checks, fits, seed)
    fingerprint = part_of(space) if blocks is None else hashlib.sha256(" ".join(b.key for b in wanted).encode()).hexdigest()[:16]
    header = make_header(table.device, table.protocol, space.name, fingerprint, seed)
    lacking = table.missing(able, energy=table.energy != "unavailable")
    return Run(backend, table, lacking, {n: r for n, r in roles.items() if not _known(table, n)}, header)


def part_of(space: SearchSpace) -> str:
    """The fingerprint of a space, which another restriction of it does not share."""
    if all(len(allowed) == size for allowed, size in zip(space.allowed, space.sizes, strict=True)):
        return space.fingerprint
    return hashlib.sha256(f"{space.fingerprint} {space.allowed}".encode()).hexdigest()[:16]


def networks_of(space: SearchSpace, backend: Backend, checks: int, fits: int, seed: int) -> dict[Network, str]:
    """Random different networks -> role; see :func:`profile`."""
    if check_count("checks", checks, least=0) < FEWEST_CHECKS:
        raise InvalidInput(f"checks must be at least {FEWEST_CHECKS}, so that the table's error means something, not {checks}.")
    check_count("fits", fits, least=0)
    networks = _draw(space, backend, fits, checks, seed)
    for network in tuple(networks)[:1]:
        _check_runs(space, network)
    return networks


def _draw(space: SearchSpace, backend: Backend, fits: int, checks: int, seed: int) -> dict[Network, str]:
    """Random different networks -> role; in turns of one precision each and of all mixed."""
    rng = np.random.default_rng(seed)
    spaces = [space]
    if any(choice.is_precision for choice in space.choices):
        names = uniform_precisions(space, backend)
        mixed = space.restrict({"*precision": backend.precisions})
        spaces = [*(space.restrict({"*precision": [name]}) for name in names if len(names) > 1), mixed]
    networks: dict[Network, str] = {}
    for attempt in range(20 * (fits + checks)):
        if len(networks) == fits + checks:
            break
        row = spaces[attempt % len(spaces)].sample(1, rng)[0]
        # Every second lap is held out, until either role has enough.
        held = checks > 0 and (fits == 0 or (len(networks) * checks) // (fits + checks) < ((len(networks) + 1) * checks) // (fits + checks))
        networks.setdefault(space.blocks(row), "check" if held else "fit")
    return networks


def _check_runs(space: SearchSpace, network: Network) -> None:
    """Whole networks must be chains of blocks, or there is nothing to open on a device.

    Raises:
        Unsupported: they are not.
    """
    try:
        check_fit(network)
    except InvalidInput as error:
        raise Unsupported(
            f"Networks of {space.name!r} are no chains of blocks, so they cannot be measured whole ({error}) Measure its blocks alone with "
            f"profile(..., blocks=space.unique_blocks)."
        ) from error


def _known(table: LatencyTable, network: Network) -> bool:
    keys = tuple(block.key for block in network)
    return any(check.blocks == keys for check in table.checks)


class Run:
    """What one run measures: networks by name, and how they make up a table; see :func:`plan`.

    Attributes:
        header: what its journal begins with.
        sentinel: the block that shows drift.
    """

    def __init__(
        self, backend: Backend, table: LatencyTable, blocks: Sequence[Block], roles: dict[Network, str], header: dict[str, Any]
    ) -> None:
        self.backend, self.before, self.roles, self.header = backend, table, roles, header
        self.sentinel = Block.parse(table.protocol.sentinel) if table.protocol.sentinel else sentinel_of(backend)
        self.framed = {block: backend.framed(block) for block in blocks}
        self.failed: Mapping[str, str] = {}

    @property
    def nothing(self) -> bool:
        """Whether nothing is left to be measured."""
        return not self.framed and not self.roles

    @property
    def networks(self) -> dict[str, Network]:
        """All networks that have to run, by name: blocks in their frames, the frames, whole networks, and none."""
        networks = {network for pair in self.framed.values() for network in pair} | set(self.roles) | {()}
        return dict(sorted((name_of(network), network) for network in networks))

    def rounds(self) -> Rounds:
        """The networks as things to be measured in turns."""
        things = {name: self._opener(network) for name, network in self.networks.items()}
        rounds = Rounds(things, self._opener((self.sentinel,)), self.before.protocol, self.header["seed"], period_of(self.backend))
        self.failed = rounds.failed
        return rounds

    def measure(self, journal: Journal, advance: Advance) -> Rounds:
        """Measure what the journal does not hold yet, here or where the backend has its device."""
        rounds = self._known(journal)
        if rounds.pending() and self.backend.fill(journal, self.header, self.networks, self.sentinel, advance):
            rounds, advance = self._known(journal), lambda done: None
        if not self.backend.here and (lacking := rounds.pending()):
            had, fewest, most = len(rounds.readings[lacking[0]]), rounds.protocol.min_rounds, rounds.protocol.max_rounds
            strangers = f" Its journal has names of no network, such as {min(rounds.strangers)!r}." if rounds.strangers else ""
            raise FileError(
                f"{self.before.device.name} has not finished: {len(lacking)} of {len(rounds.things)} networks lack rounds. {lacking[0]!r} "
                f"has {had}; it needs {fewest} in calm moments that agree, or {most} of any kind.{strangers} Run there again: python "
                "run.pyz (it goes on where it was)"
            )
        rounds.finish(journal.append, advance)
        return rounds

    def _known(self, journal: Journal) -> Rounds:
        """The rounds that a journal holds."""
        rounds = self.rounds()
        for record in resume(journal, self.header):
            rounds.add(record)
        return rounds

    def _opener(self, network: Network) -> Open:
        def open() -> Session:
            broken = next((block for block in network if self.why(block)), None)
            if broken is not None:
                raise BuildFailed(f"It holds {broken.key}, which could not be built.")
            return self.backend.open(network)

        return open

    def why(self, block: Block) -> str:
        """Why a block could not be built; empty where it could, or was not tried."""
        return next((self.failed[name] for name in map(name_of, self.framed.get(block, ())) if name in self.failed), "")

    def table(self, rounds: Rounds) -> LatencyTable:
        """The table before, and all that was measured."""
        before = self.before
        reference = before.protocol.sentinel_ms or rounds.reference_ms()

        def row(network: Network) -> Row:
            return rounds.row(name_of(network), reference)

        if why := self.failed.get(name_of(())):
            raise BuildFailed(f"Not even an empty network could be built: {why}")
        lost = {block: why for block in self.framed if (why := self.why(block))}
        if lost:
            lines = "".join(f"\n  {block.key}: {why}" for block, why in lost.items())
            warnings.warn(f"{len(lost)} blocks could not be built and are left out:{lines}", LeftOutWarning, stacklevel=3)
        rows = {block.key: difference(row(whole), row(frame)) for block, (whole, frame) in self.framed.items() if block not in lost}
        call_ms = before.calibration.call_ms or row(()).latency_ms
        calibration = replace(before.calibration, call_ms=call_ms)
        if not before.checks:
            calibration = Calibration(call_ms, call_ms)
        new = []
        for network, role in self.roles.items():
            if name_of(network) in self.failed:
                continue
            found = row(network)
            new.append(Check(role, tuple(block.key for block in network), found.latency_ms, found.spread_ms))
        table = replace(
            before,
            protocol=replace(before.protocol, sentinel_ms=reference),
            rows={**before.rows, **rows},
            calibration=calibration,
            checks=(),
        )
        return table.calibrate((*before.checks, *new))


def name_of(network: Network) -> str:
    """A short name for a network in the journal."""
    return hashlib.sha256(" ".join(block.key for block in network).encode()).hexdigest()[:16]
