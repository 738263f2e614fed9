"""Profiling: from a space to the latency table of a device."""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from .._files._lock import claim
from .._files._reading import guarded
from .._files._writing import Journal, PathLike
from .._progress import Advance
from .._progress import progress as progress_bar
from ..backends.base import Backend
from ..devices._device import Protocol
from ..devices._table import LatencyTable, load_table
from ..errors import WrongDevice, check_seed
from ..spaces._load import load_space
from ..spaces._space import SearchSpace
from ._assembly import assemble, warn_of_failures
from ._effort import ALL, Effort
from ._in_context import MIDDLE, assemble_kernels, choose, in_context, openers
from ._journal import make_header, resume, words
from ._machine import wait_for_calm, watched
from ._networks import networks_of
from ._plan import Plan, fingerprint_of, name_of
from ._planning import frame, part_of, plan_space
from ._readings import Readings
from ._rounds import Rounds, period_of
from ._sampling import Batch, Sampler, held_out_error
from ._sentinel import ask_sentinel, check_facts, check_sentinel
from ._workbench import Workbench, workbench

_NEXT_TO_NOTHING_S = 1e-3
"""What a sample has taken before anything was measured: it is known as a sample by having taken something."""


def profile(
    space: str | SearchSpace,
    *,
    backend: str | Backend | Workbench = "onnxruntime",
    out: PathLike,
    effort: Effort = ALL,
    seed: int = 0,
    progress: bool = True,
) -> LatencyTable:
    """Measure every block of a space on a device, and whole networks to calibrate and to check their sums.

    Each round is on disk as soon as it is measured (in ``<out>.partial.jsonl``), so a run that was killed continues where it was when it is
    started again, and a table that exists is completed. Blocks that the runtime cannot build are left out of the table, and a
    :class:`LeftOutWarning` names them. A :class:`BusyWarning` says if the machine did so much else meanwhile that latencies say little.

    The kernels of a user's network (:func:`hwsearch.adopt`) are measured inside some whole networks of it, by what the runtime itself says
    of each, and others are estimated. There ``effort.blocks`` and ``effort.error`` play no part, and a budget ends the rounds.

    Example:
        >>> import hwsearch
        >>> space = hwsearch.load_space("resnet_digits")
        >>> few = hwsearch.profiling.Effort(blocks=space.unique_blocks[:4])
        >>> table = hwsearch.profile(space, backend="roofline", out="few.json", effort=few, progress=False)
        >>> len(table.rows)
        4

    Args:
        space: a space or its name. Blocks of precisions that the device does not have are not measured, and neither are those that
            searches of a restricted space never meet.
        backend: a backend or its name, to measure on this machine; or a board that is reached by ssh, ``Remote("user@host")``.
        out: where the table goes.
        effort: how much of the space is measured, and how precisely.
        seed: of the networks and of the order of measuring.
        progress: whether to show a bar with the time left.

    Returns:
        The table, as it is in ``out``.

    Raises:
        WrongDevice: ``out`` was measured on another device or by another protocol; or it does not tell enough of its device, and its
            sentinel does not take as long here.
        WrongSpace: ``out`` has an unfinished run of another space beside it.
        Unsupported: the device runs no block of the space, or its networks are no chains of blocks, or the runtime does not tell what the
            kernels of a user's network take.
        InvalidInput: fewer than 12 checks, or more than 20,000 blocks without a budget.
        BuildFailed: not even an empty network or the sentinel could be built.
    """
    where, bench, seed = load_space(space), workbench(backend), check_seed(seed)
    if effort.wait_s is not None and bench.here:
        wait_for_calm(effort.wait_s, bench.device.threads)
    with claim(out), watched(bench.device if bench.here else None):
        protocol = effort.protocol(bench.precisions)
        if where.kernels_only and bench.tells_kernels:
            return _in_context(_Work(bench, out, in_context(protocol)), where, effort, seed, progress)
        work = _Work(bench, out, protocol)
        if effort.budget_s is None:
            plan = plan_space(where, bench, work.table, effort, seed)
            return _complete(work, plan, f"profiling {where.name} on {work.table.device.name}", progress)
        sampler = Sampler(where, bench, networks_of(where, bench.precisions, work.table, effort, seed), seed)
        return _sample(work, sampler, effort, progress)


class _Work:
    """A table that is being completed.

    Args:
        bench: where it is measured.
        out: where it goes.
        protocol: how it is measured.

    Attributes:
        table: what was measured so far, with the facts of its device completed; perhaps nothing.

    Raises:
        WrongDevice: what is in ``out`` was measured on another device or by another protocol.
    """

    def __init__(self, bench: Workbench, out: PathLike, protocol: Protocol) -> None:
        self.bench, self.out, self.journal = bench, out, Journal(f"{os.fspath(out)}.partial.jsonl")
        self._facts_suffice, self._compared = True, False
        self.table = LatencyTable(bench.device, protocol, {}, energy=bench.energy, source=os.fspath(out))
        if Path(out).exists():
            found = load_table(out)
            self._facts_suffice = check_facts(found, bench.device, here=bench.here)
            check_protocol(found, protocol)
            self.table = replace(found, device=replace(bench.device, name=found.device.name))

    def compare(self) -> None:
        """Check that the device's sentinel takes as long as in the table; that of a board is checked when its readings come.

        A table whose facts did not say what device it is of is then completed by them.

        Raises:
            WrongDevice: it does not.
        """
        if self.bench.here:
            ask_sentinel(self.table, self.bench.runtime, facts_suffice=self._facts_suffice)
            self._compared = True
            if not self._facts_suffice:
                self.table.save(self.out)

    def finish(self) -> LatencyTable:
        """The table if nothing is left to be measured."""
        if not self._facts_suffice:
            self.compare()
        self.journal.remove()
        return self.table

    def measure(self, plan: Plan, advance: Advance) -> Readings:
        """Measure a plan, here or there."""
        readings = self.bench.measure(plan, self.journal, advance)
        if not self._compared:
            check_sentinel(readings.sentinels(), self.table, facts_suffice=self._facts_suffice)
            self._compared = True
        return readings

    def keep(self, plan: Plan, readings: Readings) -> LatencyTable:
        """Complete the table, in its file too, by what was measured of a plan."""
        warn_of_failures(plan, readings)
        assemble(plan, self.table, readings).save(self.out)
        self.table = load_table(self.out)
        self.journal.remove()
        return self.table


def _complete(work: _Work, plan: Plan, title: str, progress: bool) -> LatencyTable:
    """Measure all that a table lacks."""
    if plan.nothing:
        return work.finish()
    work.compare()
    with progress_bar(title, len(plan.networks) * plan.protocol.max_rounds, progress) as advance:
        readings = work.measure(plan, advance)
    return work.keep(plan, readings)


def _sample(work: _Work, sampler: Sampler, effort: Effort, progress: bool) -> LatencyTable:
    """Measure one batch after the other, each by a plan of its own, until the budget is spent or the predictions are good enough."""
    budget_s, title = effort.budget_s or 0.0, f"profiling {sampler.space.name} on {work.table.device.name} (seconds)"
    work.compare()
    work.table = replace(work.table, spent_s=max(work.table.spent_s, _NEXT_TO_NOTHING_S))
    with progress_bar(title, int(budget_s), progress) as advance:
        advance(work.table.spent_s)
        began = time.monotonic()
        while batch := _begun(work.journal, work.table) or _further(sampler, work.table, budget_s, effort.error):
            plan = replace(_plan_batch(sampler, work.table, batch), limit_s=max(0.0, budget_s - work.table.spent_s))
            readings = work.measure(plan, lambda done: None)
            took, began = max(time.monotonic() - began, readings.spent_s), time.monotonic()  # choosing the batch took time too
            work.table = replace(work.table, spent_s=work.table.spent_s + took)
            work.keep(plan, readings)
            lost = [network for network in batch.networks if name_of(network) in readings.failed]
            sampler.drop([block for block in batch.blocks if plan.why(block, readings.failed)], lost)
            advance(took)
    return load_table(work.out)


def _in_context(work: _Work, space: SearchSpace, effort: Effort, seed: int, progress: bool) -> LatencyTable:
    """Measure the kernels of a user's network inside whole networks; a budget ends the rounds."""
    chosen = choose(space, work.bench.precisions, work.table, effort, seed)
    if not chosen.rows:
        return work.finish()
    work.compare()
    fingerprint = fingerprint_of([part_of(space), *chosen.rows])
    header = make_header(work.table.device, work.table.protocol, space.name, fingerprint, seed) | {"again": sorted(chosen.roles)}
    with tempfile.TemporaryDirectory() as folder:
        things = openers(space, work.bench.runtime, chosen, Path(folder))
        beside, period_s = things.pop(MIDDLE), period_of(work.bench.device)
        rounds = Rounds(things, beside, work.table.protocol, seed, period_s, chosen.roles, alike=True)
        rounds.limit_s = effort.budget_s or math.inf
        for record in resume(work.journal, header):
            rounds.add(record)
        with progress_bar(
            f"profiling {space.name} on {work.table.device.name}", len(things) * rounds.protocol.max_rounds, progress
        ) as advance:
            rounds.finish(work.journal.append, advance)
    assemble_kernels(space, chosen, work.table, rounds).save(work.out)
    work.table = load_table(work.out)
    work.journal.remove()
    return work.table


def _plan_batch(sampler: Sampler, table: LatencyTable, batch: Batch) -> Plan:
    """The plan of a batch; its journal says what is in the batch, and what was spent before it."""
    names = [*(block.key for block in batch.blocks), *map(name_of, batch.networks)]
    fingerprint = fingerprint_of([part_of(sampler.space), *names])
    header = make_header(table.device, table.protocol, sampler.space.name, fingerprint, sampler.seed)
    header |= {"spent_s": table.spent_s, "batch": batch.document()}
    return frame(sampler.bench, table, header, batch.blocks, batch.networks)


def _begun(journal: Journal, table: LatencyTable) -> Batch | None:
    """The batch whose measuring has begun, which is finished first; a journal whose batch is in the table already is removed."""
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
