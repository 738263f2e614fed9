"""Profiling: what to measure of a search space, and what to make of it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .._files._lock import claim
from .._files._reading import guarded
from .._files._writing import Journal, PathLike
from .._progress import progress as progress_bar
from ..backends._load import load_backend
from ..backends.base import Backend
from ..devices._device import Device, Protocol
from ..devices._table import LatencyTable, load_table
from ..errors import BuildFailed, InvalidInput, WrongDevice, check_count, check_seed
from ..networks._blocks import Block
from ..spaces._load import load_space
from ..spaces._space import SearchSpace
from ._journal import make_header, words
from ._plan import LeftOutWarning as LeftOutWarning
from ._plan import Run, name_of, networks_of, part_of, plan
from ._rounds import Open, Rounds, period_of, sentinel_of
from ._sampling import Batch, Sampler, held_out_error, seconds
from ._sentinel import BusyWarning as BusyWarning
from ._sentinel import ask_sentinel, check_facts, check_sentinel

_PATIENCE = 3
_NEXT_TO_NOTHING_S = 1e-3
"""What a sample has taken before anything was measured: it is known as a sample by having taken something."""
_WHOLE = Protocol()
"""How a whole space is measured."""
_SAMPLED = Protocol(min_rounds=8, max_rounds=16, runs=4, warmup=2)
"""How a sample is measured: its blocks are many, and an estimate from many blocks needs less of each."""


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
    max_rounds: int | None = None,
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
        space: a space or its name. Blocks of precisions that the device does not have are left out, and so are those that searches of a
            restricted space never meet.
        backend: a backend or its name.
        out: where the table goes.
        precision: relative standard error at which a measurement is good enough.
        max_rounds: rounds after which it has to be: 48 by default, and 16 with a ``budget``. Whole networks that are noisy then are
            measured in as many rounds again; how many stayed noisy is told by :meth:`LatencyTable.error`, and which blocks by
            :attr:`LatencyTable.noisy`.
        checks: how many random whole networks are held out to tell the table's error, at least 12; as many of each precision that all
            blocks may share as of mixed ones, and from small to large. What the table holds already counts.
        fits: how many others the calibration is fitted on, chosen alike.
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
        WrongDevice: ``out`` was measured on another device or by another protocol; or it does not tell enough of its device, and its
            sentinel does not take as long here.
        WrongSpace: ``out`` has an unfinished run of another space beside it.
        Unsupported: the device runs no block of the space, or its networks are no chains of blocks.
        InvalidInput: fewer than 12 checks, numbers that make no sense, or more than 20,000 blocks without a budget.
        BuildFailed: not even an empty network or the sentinel could be built.
    """
    where, device, seed = load_space(space), load_backend(backend), check_seed(seed)
    if budget is not None:
        if blocks is not None:
            raise InvalidInput("budget chooses the blocks to measure; leave out either it or blocks.")
        budget_s = seconds(budget)
    protocol = protocol_of(device, precision, max_rounds, usual=_WHOLE if budget is None else _SAMPLED)
    with claim(out):
        table, facts_suffice = _table_so_far(out, device, protocol)
        if budget is not None:
            networks = networks_of(where, device, table, checks=checks, fits=fits, seed=seed)
            return _sample(Sampler(where, device, networks, seed), table, out, budget_s, error, progress, facts_suffice=facts_suffice)
        run = plan(where, device, table, checks=checks, fits=fits, seed=seed, blocks=blocks)
        return _complete(run, out, progress, facts_suffice=facts_suffice)


def _complete(run: Run, out: PathLike, progress: bool, *, facts_suffice: bool) -> LatencyTable:
    """Measure all that a table lacks; see :func:`profile`."""
    device, table, journal = run.backend, run.before, Journal(f"{os.fspath(out)}.partial.jsonl")
    if not (run.nothing and facts_suffice):
        ask_sentinel(table, device, facts_suffice=facts_suffice)
    if run.nothing:
        if not facts_suffice:
            table.save(out)
        journal.remove()
        return table
    total = len(run.networks) * table.protocol.max_rounds
    with progress_bar(f"profiling {run.header['space']} on {table.device.name}", total, progress) as advance:
        rounds = run.measure(journal, advance)
    if not device.here:
        check_sentinel(rounds.sentinels(), table, facts_suffice=facts_suffice)
    run.table(rounds).save(out)
    journal.remove()
    return load_table(out)


def _sample(
    sampler: Sampler, table: LatencyTable, out: PathLike, budget_s: float, error: float, progress: bool, *, facts_suffice: bool
) -> LatencyTable:
    """Measure one batch after the other, each a run of its own with the table so far before it; see :func:`profile`."""
    device, space = sampler.backend, sampler.space
    ask_sentinel(table, device, facts_suffice=facts_suffice)
    asked = device.here  # a board answers with the first batch
    if asked and not facts_suffice:
        table.save(out)
    table = replace(table, spent_s=max(table.spent_s, _NEXT_TO_NOTHING_S))
    journal = Journal(f"{os.fspath(out)}.partial.jsonl")
    with progress_bar(f"profiling {space.name} on {table.device.name} (seconds)", int(budget_s), progress) as advance:
        advance(table.spent_s)
        began = time.monotonic()
        while batch := _begun(journal, table) or _further(sampler, table, budget_s, error):
            names = [*(block.key for block in batch.blocks), *map(name_of, batch.networks)]
            fingerprint = hashlib.sha256(" ".join([part_of(space), *names]).encode()).hexdigest()[:16]
            header = make_header(table.device, table.protocol, space.name, fingerprint, sampler.seed)
            run = Run(device, table, batch.blocks, dict(batch.networks), header | {"spent_s": table.spent_s, "batch": batch.document()})
            rounds = run.measure(journal, lambda done: None)
            if not asked:
                check_sentinel(rounds.sentinels(), table, facts_suffice=facts_suffice)
                asked = True
            took, began = max(time.monotonic() - began, rounds.spent_s), time.monotonic()
            run.before = replace(table, spent_s=table.spent_s + took)
            run.table(rounds).save(out)
            table = load_table(out)
            sampler.drop(filter(run.why, batch.blocks), [network for network in batch.networks if name_of(network) in run.failed])
            journal.remove()
            advance(took)
    return load_table(out)


def _begun(journal: Journal, table: LatencyTable) -> Batch | None:
    """The batch whose measuring has begun, whatever is asked for now; a journal whose batch is in the table already is removed."""
    header = next(iter(journal), None)
    if not isinstance(header, dict) or "batch" not in header:
        return None
    with guarded(journal.path, "journal of a budgeted run"):
        batch, before_s = Batch.read(header["batch"]), float(header["spent_s"])
    if before_s < table.spent_s:
        journal.remove()
        return None
    return batch


def _further(sampler: Sampler, table: LatencyTable, budget_s: float, error: float) -> Batch | None:
    """What is worth measuring next, if anything is and there is time."""
    if table.spent_s >= budget_s or (table.checks and held_out_error(table) <= error):
        return None
    return sampler.within(table, budget_s) or None


def protocol_of(backend: Backend, precision: float, max_rounds: int | None = None, *, usual: Protocol = _WHOLE) -> Protocol:
    """How a backend is measured: to this relative precision, in at most this many rounds, and otherwise as usual."""
    most = usual.max_rounds if max_rounds is None else check_count("max_rounds", max_rounds, least=1)
    fewest = min(usual.min_rounds, most)
    return replace(usual, precision=precision, min_rounds=fewest, max_rounds=most, sentinel=sentinel_of(backend).key)


def _table_so_far(out: PathLike, backend: Backend, protocol: Protocol) -> tuple[LatencyTable, bool]:
    """The table in ``out``, with the facts of its device completed, or an empty one; and whether the facts say that it is this device's.

    If they leave that open, the sentinel has to be asked before anything is done with the table.
    """
    device = backend.describe()
    if not Path(out).exists():
        return LatencyTable(device, protocol, {}, energy=backend.energy, source=os.fspath(out)), True
    table = load_table(out)
    facts_suffice = check_facts(table, backend)
    check_protocol(table, protocol)
    return replace(table, device=replace(device, name=table.device.name)), facts_suffice


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
        rounds: how many, spread over time; on a busy machine up to three times as many, until those of calm moments agree to 1 %.
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
        WrongDevice: ``table`` was measured on another device, by its facts or by its sentinel, which takes more than 1.3 times as long now
            or then. If the readings scatter, this machine is busy: then a :class:`~hwsearch.profiling.BusyWarning` says so.
        BuildFailed: the runtime's builder crashed, hung or ran out of memory over a model.
    """
    device, seed = load_backend(backend), check_seed(seed)
    if not models:
        raise InvalidInput("models is empty; name at least one model to measure.")
    if rounds < 1:
        raise InvalidInput(f"rounds must be at least 1, not {rounds}.")
    facts_suffice = table is None or check_facts(table, device)
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
    if table is not None:
        check_sentinel(turns.sentinels(), table, facts_suffice=facts_suffice)
    reference = table.protocol.sentinel_ms if table is not None and table.protocol.sentinel_ms else turns.reference_ms()
    rows = [turns.row(name, reference) for name in things]
    return [Measurement(row.latency_ms, row.spread_ms, row.rounds, device.describe()) for row in rows]


def _opener(backend: Backend, model: PathLike | Sequence[Block]) -> Open:
    if isinstance(model, str | os.PathLike):
        return lambda: backend.load(model)
    return lambda: backend.open(model)
