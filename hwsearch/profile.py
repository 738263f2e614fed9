"""Profiling: what to measure of a search space, and what to make of it."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ._journal import make_header, resume, words
from ._progress import Advance
from ._progress import progress as progress_bar
from ._sampling import Sampler, held_out_error, seconds
from ._store import Journal, PathLike, sweep
from .backends import Backend, Session, load_backend
from .backends.base import check_fit
from .blocks import Block
from .device import Check, Device, Protocol, Row
from .errors import BuildFailed, InvalidInput, Unsupported, WrongDevice, check_count, check_seed
from .rounds import Open, Rounds, difference, period_of, sentinel_of
from .space import SearchSpace
from .spaces import load_space
from .table import Calibration, LatencyTable, load_table

FEWEST_CHECKS = 12
MOST_WHOLE = 20_000
"""A space of more blocks than these can only be sampled."""
_PATIENCE = 3
_SAMPLED = Protocol(min_rounds=8, max_rounds=16, runs=4, warmup=2)
"""How a sample is measured: its blocks are many, and an estimate from many blocks needs less of each."""
_Network = tuple[Block, ...]


class LeftOutWarning(UserWarning):
    """Blocks that could not be built and are not in the table; the message names each and says why."""


@dataclass(frozen=True)
class Measurement:
    """How long a model takes.

    Attributes:
        latency_ms: lower quartile over the rounds in calm moments.
        spread_ms: half the interquartile range over the same rounds.
        rounds: how many there were in all.
        device: where.
    """

    latency_ms: float
    spread_ms: float
    rounds: int
    device: Device


def profile(
    space: str | SearchSpace,
    *,
    backend: str | Backend = "onnxruntime",
    out: PathLike,
    precision: float = 0.01,
    max_rounds: int = 48,
    checks: int = 18,
    fits: int = 42,
    seed: int = 0,
    progress: bool = True,
    blocks: Sequence[Block] | None = None,
    budget: str | float | None = None,
    error: float = 0.01,
) -> LatencyTable:
    """Measure every block of a space on a device, and whole networks to calibrate and to check their sums.

    Each round is on disk as soon as it is measured (in ``<out>.partial.jsonl``), so that a run that was killed goes on where it
    was when it is started again; a table that is there already is completed: only what it lacks is measured. A block that the runtime
    cannot build is left out with a :class:`LeftOutWarning`, and so are whole networks that hold it; another run tries them again.

    Args:
        space: a space or its name. Blocks of precisions that the device does not have are left out.
        backend: a backend or its name.
        out: where the table goes.
        precision: relative standard error at which a measurement is good enough.
        max_rounds: rounds after which it has to be.
        checks: how many random whole networks are held out to tell the table's error, at least 12.
        fits: how many others the calibration is fitted on.
        seed: of the networks and of the order of measuring.
        progress: whether to show a bar with the time left.
        blocks: measure these and no whole networks, instead of all of the space.
        budget: measure a sample of the blocks for so long at most (seconds, or ``"90s"``, ``"20m"``, ``"1h30m"``), and let the table
            estimate the others: corners of the space, stairs, the whole networks, and then what the estimates are least sure of. Rounds
            are fewer and shorter then.
        error: a budgeted run stops where networks that the calibration has not seen are foretold with this mean relative error (of the
            ``fits``, half by half; the ``checks`` play no part in it).

    Returns:
        The table, as it is in ``out``.

    Raises:
        WrongDevice: ``out`` was measured on another device or by another protocol.
        WrongSpace: ``out`` has an unfinished run of another space beside it.
        Unsupported: the device runs no block of the space, or its networks are no chains of blocks.
        InvalidInput: fewer than 12 checks, numbers that make no sense, or more than 20,000 blocks without a budget.
        BuildFailed: not even an empty network or the sentinel could be built.
    """
    where, device, seed = load_space(space), load_backend(backend), check_seed(seed)
    if budget is not None:
        if blocks is not None:
            raise InvalidInput("budget chooses the blocks to measure; leave out either it or blocks.")
        networks = networks_of(where, device, checks, fits, seed)
        protocol = replace(_SAMPLED, precision=precision, sentinel=sentinel_of(device).key)
        return _sample(Sampler(where, device, networks, seed), protocol, out, seconds(budget), error, progress)
    table = _table_so_far(out, device, protocol_of(device, precision, max_rounds))
    run = plan(where, device, table, checks=checks, fits=fits, seed=seed, blocks=blocks)
    journal = Journal(f"{os.fspath(out)}.partial.jsonl")
    if run.nothing:
        journal.remove()
        sweep(out)
        return table
    total = len(run.networks) * table.protocol.max_rounds
    with progress_bar(f"profiling {where.name} on {table.device.name}", total, progress) as advance:
        rounds = run.measure(journal, advance)
    finished = run.table(rounds)
    finished.save(out)
    journal.remove()
    sweep(out)
    return load_table(out)


def _sample(sampler: Sampler, protocol: Protocol, out: PathLike, budget_s: float, error: float, progress: bool) -> LatencyTable:
    """Measure one batch after the other, each a run of its own with the table so far before it; see :func:`profile`."""
    device, space = sampler.backend, sampler.space
    table = _table_so_far(out, device, protocol)
    table = replace(table, spent_s=max(table.spent_s, 1e-3))
    journal = Journal(f"{os.fspath(out)}.partial.jsonl")
    each = {False: 0.0, True: 0.0}  # seconds that one of the last batch took: of blocks, of whole networks
    began = time.monotonic()
    with progress_bar(f"profiling {space.name} on {table.device.name} (seconds)", int(budget_s), progress) as advance:
        advance(table.spent_s)
        while table.spent_s < budget_s and not (table.checks and held_out_error(table) <= error):
            batch = sampler.next(table)
            whole = bool(batch.networks)
            batch = batch.first(int((budget_s - table.spent_s) / each[whole]) if each[whole] else len(batch))
            if not len(batch):
                break
            names = [*(block.key for block in batch.blocks), *map(_name, batch.networks)]
            fingerprint = hashlib.sha256(" ".join([space.fingerprint, *names]).encode()).hexdigest()[:16]
            header = make_header(table.device, table.protocol, space.name, fingerprint, sampler.seed)
            run = Run(device, table, batch.blocks, dict(batch.networks), header)
            rounds = run.measure(journal, lambda done: None)
            took, began = time.monotonic() - began, time.monotonic()
            run.before = replace(table, spent_s=table.spent_s + took)
            table = run.table(rounds)
            sampler.drop(filter(run.why, batch.blocks), [network for network in batch.networks if _name(network) in run.failed])
            each[whole] = took / len(batch)
            table.save(out)
            journal.remove()
            advance(took)
    sweep(out)
    return load_table(out)


def protocol_of(backend: Backend, precision: float, max_rounds: int) -> Protocol:
    """How a backend is measured: to this relative precision, in at most so many rounds."""
    minimum = min(Protocol.min_rounds, max_rounds)
    return Protocol(precision=precision, min_rounds=minimum, max_rounds=max_rounds, sentinel=sentinel_of(backend).key)


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
    wanted = tuple(dict.fromkeys(space.unique_blocks if blocks is None else blocks))
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
    fingerprint = space.fingerprint if blocks is None else hashlib.sha256(" ".join(b.key for b in wanted).encode()).hexdigest()[:16]
    header = make_header(table.device, table.protocol, space.name, fingerprint, seed)
    return Run(backend, table, table.missing(able), {n: r for n, r in roles.items() if not _known(table, n)}, header)


def _table_so_far(out: PathLike, backend: Backend, protocol: Protocol) -> LatencyTable:
    """The table in ``out``, checked, or an empty one."""
    device = backend.describe()
    if not Path(out).exists():
        return LatencyTable(device, protocol, {}, energy=backend.energy, source=os.fspath(out))
    table = load_table(out, device=device)
    check_protocol(table, protocol)
    return table


def check_protocol(table: LatencyTable, protocol: Protocol) -> None:
    """Check that a table can be completed by a protocol.

    Raises:
        WrongDevice: it was measured by another one.
    """
    if table.protocol != protocol:
        raise WrongDevice(
            f"{table.source} was measured by another protocol ({words(table.protocol)}, and not {words(protocol)}). Ask for the same, or "
            "profile into another file."
        )


def networks_of(space: SearchSpace, backend: Backend, checks: int, fits: int, seed: int) -> dict[_Network, str]:
    """Random different networks -> role; see :func:`profile`."""
    if checks < FEWEST_CHECKS:
        raise InvalidInput(f"checks must be at least {FEWEST_CHECKS}, so that the table's error means something, not {checks}.")
    check_count("fits", fits, least=0)
    networks = _draw(space, backend, fits, checks, seed)
    for network in tuple(networks)[:1]:
        _check_runs(space, network)
    return networks


def _draw(space: SearchSpace, backend: Backend, fits: int, checks: int, seed: int) -> dict[_Network, str]:
    """Random different networks -> role; in turns of one precision each and of all mixed."""
    rng = np.random.default_rng(seed)
    spaces = [space]
    genes = [choice for choice in space.choices if choice.is_precision]
    if genes:
        names = [name for name in backend.precisions if all(name in gene.values for gene in genes)]
        mixed = space.restrict({"*precision": backend.precisions})
        spaces = [*(space.restrict({"*precision": [name]}) for name in names if len(names) > 1), mixed]
    networks: dict[_Network, str] = {}
    for attempt in range(20 * (fits + checks)):
        if len(networks) == fits + checks:
            break
        row = spaces[attempt % len(spaces)].sample(1, rng)[0]
        # Every second lap is held out, until either role has enough.
        held = checks > 0 and (fits == 0 or (len(networks) * checks) // (fits + checks) < ((len(networks) + 1) * checks) // (fits + checks))
        networks.setdefault(space.blocks(row), "check" if held else "fit")
    return networks


def _check_runs(space: SearchSpace, network: _Network) -> None:
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


def _known(table: LatencyTable, network: _Network) -> bool:
    keys = tuple(block.key for block in network)
    return any(check.blocks == keys for check in table.checks)


class Run:
    """What one run measures: networks by name, and how they make up a table; see :func:`plan`.

    Attributes:
        header: what its journal begins with.
        sentinel: the block that shows drift.
    """

    def __init__(
        self, backend: Backend, table: LatencyTable, blocks: Sequence[Block], roles: dict[_Network, str], header: dict[str, Any]
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
    def networks(self) -> dict[str, _Network]:
        """All networks that have to run, by name: blocks in their frames, the frames, whole networks, and none."""
        networks = {network for pair in self.framed.values() for network in pair} | set(self.roles) | {()}
        return dict(sorted((_name(network), network) for network in networks))

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
        rounds.finish(journal.append, advance)
        return rounds

    def _known(self, journal: Journal) -> Rounds:
        """The rounds that a journal holds."""
        rounds = self.rounds()
        for record in resume(journal, self.header):
            rounds.add(record)
        return rounds

    def _opener(self, network: _Network) -> Open:
        def open() -> Session:
            broken = next((block for block in network if self.why(block)), None)
            if broken is not None:
                raise BuildFailed(f"It holds {broken.key}, which could not be built.")
            return self.backend.open(network)

        return open

    def why(self, block: Block) -> str:
        """Why a block could not be built; empty where it could, or was not tried."""
        return next((self.failed[name] for name in map(_name, self.framed.get(block, ())) if name in self.failed), "")

    def table(self, rounds: Rounds) -> LatencyTable:
        """The table before, and all that was measured."""
        before = self.before
        reference = before.protocol.sentinel_ms or rounds.reference_ms()

        def row(network: _Network) -> Row:
            return rounds.row(_name(network), reference)

        if why := self.failed.get(_name(())):
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
            if _name(network) in self.failed:
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


def _name(network: _Network) -> str:
    """A short name for a network in the journal."""
    return hashlib.sha256(" ".join(block.key for block in network).encode()).hexdigest()[:16]


def measure(
    model: PathLike | Sequence[Block], *, backend: str | Backend = "onnxruntime", rounds: int = 20, table: LatencyTable | None = None
) -> Measurement:
    """Measure one model by the protocol of the latency tables; see :func:`measure_many`."""
    return measure_many([model], backend=backend, rounds=rounds, table=table)[0]


def measure_many(
    models: Sequence[PathLike | Sequence[Block]],
    *,
    backend: str | Backend = "onnxruntime",
    rounds: int = 20,
    table: LatencyTable | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Measurement]:
    """Measure several models by the protocol of the latency tables, in turns, so that they can be compared.

    Args:
        models: model files, or networks as blocks.
        backend: a backend or its name.
        rounds: how many in calm moments, spread over time; on a busy machine three times as many in all.
        table: put the latencies in proportion to the sentinel of this table, so that they can be compared with its predictions
            although the machine has become faster or slower since.
        seed: of the order within the rounds.
        progress: whether to show a bar with the time left.

    Returns:
        One measurement a model.

    Raises:
        FileError: a model cannot be used.
        Unsupported: the backend cannot run a model.
        InvalidInput: no models, or fewer than one round.
        WrongDevice: ``table`` was measured on another device.
        BuildFailed: the runtime's builder crashed, hung or ran out of memory over a model.
    """
    device, seed = load_backend(backend), check_seed(seed)
    if not models:
        raise InvalidInput("models is empty; name at least one model to measure.")
    if rounds < 1:
        raise InvalidInput(f"rounds must be at least 1, not {rounds}.")
    described = device.describe()
    if table is not None and (change := described.difference(table.device)):
        raise WrongDevice(f"{table.source} was measured elsewhere: {change}.")
    sentinel = Block.parse(table.protocol.sentinel) if table is not None and table.protocol.sentinel else sentinel_of(device)
    things: dict[str, Open] = {}
    for index, model in enumerate(models):
        things[str(index)] = _opener(device, model)
    protocol = Protocol(min_rounds=rounds, max_rounds=_PATIENCE * rounds)
    turns = Rounds(things, lambda: device.open((sentinel,)), protocol, seed, period_of(device))
    with progress_bar("measuring", len(things) * protocol.max_rounds, progress) as advance:
        turns.finish(lambda record: None, advance)
    if turns.failed:
        raise BuildFailed(next(iter(turns.failed.values())))
    reference = table.protocol.sentinel_ms if table is not None and table.protocol.sentinel_ms else turns.reference_ms()
    rows = [turns.row(name, reference) for name in things]
    return [Measurement(row.latency_ms, row.spread_ms, row.rounds, described) for row in rows]


def _opener(backend: Backend, model: PathLike | Sequence[Block]) -> Open:
    if isinstance(model, str | os.PathLike):
        return lambda: backend.load(model)
    return lambda: backend.open(model)
