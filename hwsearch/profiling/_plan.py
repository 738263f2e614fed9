"""What one run of profiling measures, and the table that it makes of what was measured."""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .._files._writing import Journal
from .._progress import Advance
from ..backends.base import Backend, Session, check_fit
from ..devices._calibration import network_class
from ..devices._device import Check, Row
from ..devices._table import Calibration, LatencyTable
from ..errors import BuildFailed, FileError, InvalidInput, Unsupported, check_count, check_seed
from ..networks._blocks import Block
from ..spaces._space import SearchSpace
from ._journal import make_header, resume
from ._rounds import Open, Rounds, difference, period_of, sentinel_of
from ._sampling import uniform_precisions

FEWEST_CHECKS = 12
MOST_WHOLE = 20_000
"""A space of more blocks than these can only be sampled."""
_POOL = 4
"""Of this many random networks one is taken, so that all sizes are among those taken."""
_TRIES = 20
"""Of a space of few networks this many times as many are drawn, since many are drawn more than once."""
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
    roles = {} if blocks is not None else networks_of(space, backend, table, checks=checks, fits=fits, seed=seed)
    fingerprint = part_of(space) if blocks is None else hashlib.sha256(" ".join(b.key for b in wanted).encode()).hexdigest()[:16]
    header = make_header(table.device, table.protocol, space.name, fingerprint, seed)
    lacking = table.missing(able, energy=table.energy != "unavailable")
    return Run(backend, table, lacking, roles, header)


def part_of(space: SearchSpace) -> str:
    """The fingerprint of a space, which another restriction of it does not share."""
    if all(len(allowed) == size for allowed, size in zip(space.allowed, space.sizes, strict=True)):
        return space.fingerprint
    return hashlib.sha256(f"{space.fingerprint} {space.allowed}".encode()).hexdigest()[:16]


def networks_of(space: SearchSpace, backend: Backend, table: LatencyTable, *, checks: int, fits: int, seed: int) -> dict[Network, str]:
    """The random whole networks -> role that a table lacks; see :func:`profile`.

    As many are wanted of each precision that all blocks may share as of mixed ones, in each role, and all of them from small to large. What
    the table holds of each counts, whichever networks they are.
    """
    if check_count("checks", checks, least=0) < FEWEST_CHECKS:
        raise InvalidInput(f"checks must be at least {FEWEST_CHECKS}, so that the table's error means something, not {checks}.")
    wanted = {"check": checks, "fit": check_count("fits", fits, least=0)}
    held = _held(space, table)
    parts = _parts(space, backend)
    short = dict.fromkeys(wanted, 0)
    found, seen = list[dict[Network, str]](), set[Network]()
    for number, (kind, part) in enumerate(parts.items()):
        # What one kind has too few networks for falls to the next; the mixed ones come last.
        share = {role: _share(count, len(parts), number) + short[role] for role, count in wanted.items()}
        drawn = _draw(part, kind, share, np.random.default_rng([seed, number]), seen)
        seen.update(drawn)
        short = {role: count - list(drawn.values()).count(role) for role, count in share.items()}
        known = [role for own, role in held.values() if kind in ("any", own)]
        lack = {role: share[role] - short[role] - known.count(role) for role in wanted}
        fresh: dict[Network, str] = {}
        for network, role in drawn.items():
            if network not in held and lack[role] > 0:
                fresh[network] = role
                lack[role] -= 1
        found.append(fresh)
    # In turns, so that each kind is there early.
    turns = itertools.zip_longest(*(part.items() for part in found))
    networks = dict(pair for turn in turns for pair in turn if pair is not None)
    for network in tuple(networks)[:1]:
        _check_runs(space, network)
    return networks


def _parts(space: SearchSpace, backend: Backend) -> dict[str, SearchSpace]:
    """What networks are drawn of: the space at each precision that all blocks may share, and mixed; or all of it, as ``"any"``."""
    if not any(choice.is_precision for choice in space.choices):
        return {"any": space}
    mixed = space.restrict({"precision": backend.precisions})
    names = uniform_precisions(space, backend)
    if not names or mixed.size == space.restrict({"precision": names[:1]}).size:
        return {"any": mixed}
    return {**{name: space.restrict({"precision": [name]}) for name in names}, "mixed": mixed}


def _held(space: SearchSpace, table: LatencyTable) -> dict[Network, tuple[str, str]]:
    """The whole networks of a space that a table holds -> what precision they have, or ``"mixed"``, and their role."""
    if not table.checks:
        return {}
    known = {space.unique_blocks[index] for index in space.reachable}
    networks = ((tuple(map(Block.parse, check.blocks)), check.role) for check in table.checks)
    return {network: (network_class(network), role) for network, role in networks if known.issuperset(network)}


def _share(count: int, parts: int, number: int) -> int:
    """How many of ``count`` fall to one of several parts; the first ones get what is left over."""
    return count // parts + (number < count % parts)


def _draw(
    space: SearchSpace, kind: str, share: Mapping[str, int], rng: np.random.Generator, seen: Collection[Network]
) -> dict[Network, str]:
    """Random different networks of one kind -> role, in random order: one of each class of size, the held-out ones among all sizes.

    Where there are too few of this kind, others that were not seen before stand in.
    """
    count = sum(share.values())
    if not count:
        return {}
    rows = space.sample((_POOL if space.size > _TRIES * count else _TRIES) * count, rng)
    sample = dict.fromkeys(map(space.blocks, rows))
    pool = [network for network in sample if kind in ("any", network_class(network))]
    others = sample.keys() - set(pool) - set(seen)
    pool += [network for network in sample if network in others][: max(0, count - len(pool))]
    pool.sort(key=lambda network: sum(block.macs for block in network))
    drawn = [pool[rng.choice(places)] for places in np.array_split(np.arange(len(pool)), max(1, min(count, len(pool)))) if len(places)]
    # The share of held-out networks, in whole ones: where it rises, one is held out.
    rising = [math.floor(share["check"] * number / count + 0.5) for number in range(len(drawn) + 1)]
    roles = ["check" if after > before else "fit" for before, after in itertools.pairwise(rising)]
    return {drawn[index]: roles[index] for index in rng.permutation(len(drawn))}


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


class Run:
    """What one run measures: networks by name, and how they make up a table; see :func:`plan`.

    Attributes:
        header: what its journal begins with.
        sentinel: the block that shows drift.
    """

    def __init__(
        self, backend: Backend, table: LatencyTable, blocks: Sequence[Block], roles: dict[Network, str], header: dict[str, Any]
    ) -> None:
        self.backend, self.before, self.roles = backend, table, roles
        self.header = {**header, "again": sorted(map(name_of, roles))}
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
        sentinel, period_s = self._opener((self.sentinel,)), period_of(self.backend)
        rounds = Rounds(things, sentinel, self.before.protocol, self.header["seed"], period_s, self.header["again"])
        self.failed = rounds.failed
        return rounds

    def measure(self, journal: Journal, advance: Advance) -> Rounds:
        """Measure what the journal does not hold yet, here or where the backend has its device."""
        rounds = self._known(journal)
        if rounds.pending() and self.backend.fill(journal, self.header, self.networks, self.sentinel, advance):
            rounds, advance = self._known(journal), lambda done: None
        if not self.backend.here:
            rounds.again = frozenset()  # what came back counts, noisy or not
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
