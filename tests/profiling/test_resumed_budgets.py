"""A budgeted run of profiling that was killed goes on as if nothing had happened (point 10)."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hwsearch import LatencyTable, load_table, profile
from hwsearch._files._writing import Journal
from hwsearch.backends import Network, Roofline, Session
from hwsearch.errors import InvalidInput, WrongDevice, WrongSpace
from hwsearch.profiling import Effort
from hwsearch.spaces import Chain, Stage

WIDTHS = (8, 16, 24, 32)
STAGES = (Stage((1, 2), WIDTHS, (8, 24)), Stage((1, 2), WIDTHS, (8,), stride=2))
SPACE = Chain("small", (8, 16), (8,), STAGES, 10, channels=1).space()
BUDGET = 25.0


class Killed(BaseException):
    """As if the process had been killed."""


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Slow(Roofline):
    """An analytic device on which everything takes virtual time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def _open(self, network: Network) -> Session:
        session, clock = super()._open(network), self.clock

        class Slowed(Session):
            energy_mj = session.energy_mj

            def times(self, runs: int) -> np.ndarray:
                clock.now += 0.002 * runs
                return session.times(runs)

        return Slowed()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for name in ("hwsearch.profiling._profile", "hwsearch.profiling._rounds"):
        monkeypatch.setattr(importlib.import_module(name), "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    return clock


def run(out: Path, clock: Clock, seed: int = 0, **options: object) -> LatencyTable:
    effort = Effort(**{"budget": BUDGET, "checks": 12, "fits": 12, "error": 1e-9} | options)  # type: ignore[arg-type]
    return profile(SPACE, backend=Slow(clock), out=out, effort=effort, seed=seed, progress=False)


def kill_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> list[int]:
    """Let the process die as soon as a number of lines was written to journals; returns the list of the numbers of lines so far."""
    written: list[int] = []
    append = Journal.append

    def counting(self: Journal, record: object) -> None:
        append(self, record)
        written.append(len(written) + 1)
        if len(written) == writes:
            raise Killed

    monkeypatch.setattr(Journal, "append", counting)
    return written


def killed(out: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, writes: int, **options: object) -> None:
    """A run that dies after it has written a number of lines to journals."""
    with monkeypatch.context() as patch:
        kill_after(patch, writes)
        with pytest.raises(Killed):
            run(out, clock, **options)


def lines_of(out: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[LatencyTable, int]:
    """The table of a run that nobody kills, and how many lines it writes to journals."""
    with monkeypatch.context() as patch:
        written = kill_after(patch, -1)
        return run(out, clock, **options), len(written)


@pytest.fixture
def last(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> tuple[LatencyTable, int]:
    """A run whose last batch is as much as fits into the budget."""
    whole, lines = lines_of(tmp_path / "whole.json", clock, monkeypatch)
    assert whole.spent_s == pytest.approx(BUDGET, rel=0.2)
    assert len(whole.rows) < len(SPACE.unique_blocks)
    return whole, lines


@pytest.mark.parametrize("missing", [8, 1, 0])
def test_a_run_killed_in_its_last_batch_is_completed(
    missing: int, last: tuple[LatencyTable, int], tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, lines = last
    killed(tmp_path / "t.json", clock, monkeypatch, lines - missing)
    table = run(tmp_path / "t.json", clock)
    assert table.rows.keys() == whole.rows.keys()
    assert [check.blocks for check in table.checks] == [check.blocks for check in whole.checks]
    assert table.spent_s == pytest.approx(whole.spent_s, rel=0.05)
    assert sorted(path.name for path in tmp_path.glob("t.json*")) == ["t.json"]


def test_a_run_killed_in_any_batch_is_completed(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, lines = lines_of(tmp_path / "whole.json", clock, monkeypatch, budget=1e6)
    for writes in (lines // 2,):
        killed(tmp_path / "t.json", clock, monkeypatch, writes, budget=1e6)
        table = run(tmp_path / "t.json", clock, budget=1e6)
        assert table.rows == whole.rows
        assert [check.blocks for check in table.checks] == [check.blocks for check in whole.checks]
        (tmp_path / "t.json").unlink()


def test_what_has_begun_is_finished_whatever_is_asked_for_now(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    out, journal = tmp_path / "t.json", tmp_path / "t.json.partial.jsonl"
    killed(out, clock, monkeypatch, 30)
    begun = json.loads(journal.read_text().splitlines()[0])["batch"]
    before = load_table(out)
    table = run(out, clock, budget=before.spent_s / 2, seed=1, fits=3)
    assert table.rows.keys() | {" ".join(check.blocks) for check in table.checks} == (
        before.rows.keys()
        | {" ".join(check.blocks) for check in before.checks}
        | set(begun["blocks"])
        | {" ".join(keys) for _, keys in begun["networks"]}
    )
    assert table.spent_s > before.spent_s


def test_a_batch_that_is_in_the_table_is_not_counted_twice(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Journal) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", never)
        with pytest.raises(Killed):
            run(tmp_path / "t.json", clock, budget=0.01)
    before = load_table(tmp_path / "t.json")
    assert run(tmp_path / "t.json", clock, budget=0.01) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.json"]


def test_a_budget_and_a_whole_space_do_not_take_over_from_each_other(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(tmp_path / "t.json", clock, monkeypatch, 3, max_rounds=48)
    with pytest.raises((WrongSpace, WrongDevice), match="Finish that run as it was started"):
        run(tmp_path / "t.json", clock, budget=None)


def test_a_budget_keeps_to_the_most_rounds(tmp_path: Path, clock: Clock) -> None:
    table = run(tmp_path / "t.json", clock, max_rounds=3, budget=3.0)
    assert {row.rounds for row in table.rows.values()} == {3}
    assert (table.protocol.min_rounds, table.protocol.max_rounds) == (3, 3)
    with pytest.raises(InvalidInput, match="max_rounds must be a whole number of at least 1"):
        run(tmp_path / "u.json", clock, max_rounds=0)
