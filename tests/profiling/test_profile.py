import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from hwsearch._files._writing import Journal
from hwsearch.backends import Roofline, Session, load_backend
from hwsearch.devices import LatencyTable, Protocol, load_table
from hwsearch.errors import BuildFailed, CorruptFile, FileError, InvalidInput, Unsupported, WrongDevice, WrongSpace
from hwsearch.networks import Block
from hwsearch.profiling import Effort, LeftOutWarning, measure, profile
from hwsearch.profiling import _rounds as rounds_module
from hwsearch.profiling._assembly import assemble
from hwsearch.profiling._planning import plan_space
from hwsearch.profiling._readings import difference
from hwsearch.profiling._rounds import Rounds
from hwsearch.profiling._workbench import Here
from hwsearch.spaces import Chain, Stage, load_space

SMALL = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8)), Stage((1,), (16,), (8, 12), stride=2)), 10, channels=1).space()
WIDER = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8, 16)), Stage((1,), (16,), (8, 12), stride=2)), 10, channels=1).space()
BLOCK = Block("basic", 8, 8, 8, (8,), 3)


class Counting(Roofline):
    """Remembers what was opened."""

    def __init__(self, **options):
        super().__init__(**options)
        self.opened = []

    def _open(self, network):
        self.opened.append(tuple(network))
        return super()._open(network)


def run(out, backend=None, space=SMALL, seed=0, **options):
    effort = Effort(**{"max_rounds": 5} | options)
    return profile(space, backend=backend or Roofline(), out=out, progress=False, effort=effort, seed=seed)


def test_profiling_an_analytic_device_finds_its_costs(tmp_path):
    device = Roofline()
    table = run(tmp_path / "t.json", device)
    assert table.missing(SMALL.unique_blocks) == ()
    for block in SMALL.unique_blocks:
        assert table.rows[block.key].latency_ms == pytest.approx(device.latency_ms(block), rel=1e-6)
        assert table.rows[block.key].energy_mj == pytest.approx(device.energy_mj(block), rel=1e-6)
    assert table.energy == "estimated"
    assert table.error()["max_abs"] < 1e-6
    assert table.network_ms == pytest.approx(device.call_us * 1e-3)
    assert load_table(tmp_path / "t.json").rows == table.rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.json"]


def test_held_out_networks_are_many_different_and_not_fitted(tmp_path):
    table = run(tmp_path / "t.json", checks=15, fits=9)
    fitted = {check.blocks for check in table.checks if check.role == "fit"}
    held = [check.blocks for check in table.checks if check.role == "check"]
    assert len(held) == len(set(held)) == 15
    assert len(fitted) == 9
    assert not fitted & set(held)
    assert {"mean_abs_fp32", "mean_abs_int8", "mean_abs_mixed"} <= set(table.error())
    with pytest.raises(InvalidInput, match="checks must be at least 12"):
        run(tmp_path / "u.json", checks=11)
    with pytest.raises(InvalidInput, match="seed must be a whole number of at least 0"):
        run(tmp_path / "u.json", seed=-1)


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match=r"Cannot write .*file/t\.json"):
        run(tmp_path / "file" / "t.json")
    table = run(tmp_path / "t.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"Cannot write .*folder: Is a directory"):
        table.save(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "t.json"], "nothing is left behind"


def test_a_finished_table_is_not_measured_again(tmp_path):
    run(tmp_path / "t.json")
    device = Counting()
    again = run(tmp_path / "t.json", device)
    assert device.opened == []
    assert again.missing(SMALL.unique_blocks) == ()


def test_what_a_run_leaves_that_is_killed_after_its_table_was_written_is_cleared_away(tmp_path):
    table = run(tmp_path / "t.json")
    before = (tmp_path / "t.json").read_bytes()
    Journal(tmp_path / "t.json.partial.jsonl").append({"format": "hwsearch-profile-journal", "version": 1})
    (tmp_path / ".t.json.0123abcd.tmp").write_bytes(before[:100])
    assert run(tmp_path / "t.json").rows == table.rows
    assert (tmp_path / "t.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_only_new_blocks_of_a_grown_space_are_measured(tmp_path):
    before = run(tmp_path / "t.json")
    device = Counting()
    after = run(tmp_path / "t.json", device, WIDER)
    alone = {network[0] for network in device.opened if len(network) == 1}
    new = set(WIDER.unique_blocks) - set(SMALL.unique_blocks)
    assert alone - {Block.parse(after.protocol.sentinel)} == new
    assert set(before.rows) < set(after.rows)
    assert after.missing(WIDER.unique_blocks) == ()
    assert {check.blocks for check in before.checks} <= {check.blocks for check in after.checks}


def test_chosen_blocks_need_no_space_and_no_networks(tmp_path):
    table = run(tmp_path / "t.json", blocks=[BLOCK, replace(BLOCK, mids=(12,))])
    assert len(table.rows) == 2
    assert table.checks == ()
    assert "error is unknown" in repr(table)


def test_another_device_protocol_or_space_is_refused(tmp_path):
    run(tmp_path / "t.json")
    with pytest.raises(WrongDevice, match="measured elsewhere"):
        run(tmp_path / "t.json", Roofline(bandwidth_gbs=1.0))
    with pytest.raises(WrongDevice, match="another protocol"):
        run(tmp_path / "t.json", precision=0.2)


def unfinished(out, monkeypatch, space=SMALL, rounds=2):
    """A run that dies after a few rounds."""
    append, count = Journal.append, iter(range(1000))

    def dying(self, record):
        if next(count) > rounds:
            raise KeyboardInterrupt
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", dying)
        with pytest.raises(KeyboardInterrupt):
            run(out, space=space)


def test_an_unfinished_run_goes_on_where_it_was(tmp_path, monkeypatch):
    out, journal = tmp_path / "t.json", Path(f"{tmp_path / 't.json'}.partial.jsonl")
    unfinished(out, monkeypatch)
    assert not out.exists()
    assert [record["round"] for record in list(Journal(journal))[1:]] == [1, 2]
    seen = []
    plain = Rounds.run
    monkeypatch.setattr(Rounds, "run", lambda self: seen.append(plain(self)["round"]) or {"round": seen[-1], "times": {}})
    table = run(out)
    assert seen == [3, 4, 5]
    assert {row.rounds for row in table.rows.values()} == {5}
    assert not journal.exists()


def test_an_unfinished_run_of_something_else_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "t.json"
    unfinished(out, monkeypatch)
    with pytest.raises(WrongSpace, match="unfinished run of 'small'.*delete"):
        run(out, space=WIDER)
    with pytest.raises(WrongDevice, match="unfinished run on another device"):
        run(out, Roofline(block_us=9.0))
    with pytest.raises(WrongDevice, match="unfinished run by another protocol"):
        run(out, precision=0.3)
    Path(f"{out}.partial.jsonl").write_text('{"format": "hwsearch-profile-journal", "version": 1}\n')
    with pytest.raises(CorruptFile, match="does not begin as a journal"):
        run(out)


KILLED = """
import sys, time
import numpy as np
from hwsearch.backends import Roofline
from hwsearch.backends.base import Session
from tests_small import SMALL
from hwsearch.profiling import Effort, profile

rng = np.random.default_rng(0)

class Slow(Roofline):
    def _open(self, network):
        inner = super()._open(network)
        class Delayed(Session):
            energy_mj = inner.energy_mj
            def times(self, runs):
                time.sleep(5e-5)
                return inner.times(runs) * rng.uniform(1.0, 1.5)
        return Delayed()

profile(SMALL, backend=Slow(), out=sys.argv[1], progress=False, effort=Effort(max_rounds=40))
"""


@pytest.mark.slow
def test_kill_9_ten_times_loses_at_most_the_round_in_flight(tmp_path):
    source = Path(__file__).read_text().splitlines()
    small = next(line for line in source if line.startswith("SMALL = "))
    (tmp_path / "tests_small.py").write_text(f"from hwsearch.spaces._chain import Chain, Stage\n{small}\n")
    (tmp_path / "killed.py").write_text(KILLED)
    out, journal = tmp_path / "t.json", Path(f"{tmp_path / 't.json'}.partial.jsonl")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, str(tmp_path / "killed.py"), str(out)]
    rng, before, within = random.Random(0), [], 0
    for kill in range(10):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        # Two of ten at any moment from the start of the process; the others while it measures.
        while kill % 5 and process.poll() is None and time.monotonic() < deadline and len(lines(journal)) <= len(before):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1 if kill % 5 else 0.5))
        process.send_signal(signal.SIGKILL)
        _, message = process.communicate()
        assert process.returncode == -signal.SIGKILL, message.decode()
        assert not out.exists()
        now = lines(journal)
        assert now[: len(before)] == before, "a round that was on disk has changed"
        within += len(now) > len(before)
        before = now
    assert within >= 8
    assert len(before) < 40
    finished = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr.decode()
    numbers = [json.loads(line)["round"] for line in before[1:]]
    assert numbers == list(range(1, len(numbers) + 1)), "a round was measured twice, or lost"
    table = load_table(out)
    assert table.missing(SMALL.unique_blocks) == ()
    assert {row.rounds for row in table.rows.values()} == {40}
    assert not journal.exists()


def lines(path):
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


# -- measuring ---------------------------------------------------------------------------------------------------------


class Weather:
    """Virtual time: how much slower everything is at a moment."""

    def __init__(self, slowdown):
        self.slowdown, self.clock = slowdown, 0

    def open(self, seconds):
        weather = self

        class Thing(Session):
            def times(self, runs):
                weather.clock += 1
                return np.full(runs, seconds * weather.slowdown(weather.clock))

        return lambda: Thing()


def test_slow_drift_is_divided_out():
    weather = Weather(lambda clock: 1 + clock * 1e-5)
    rounds = Rounds({"a": weather.open(1e-3), "b": weather.open(3e-3)}, weather.open(1e-4), Protocol(max_rounds=40))
    rounds.finish(lambda record: None, lambda n: None)
    assert rounds.row("b").latency_ms / rounds.row("a").latency_ms == pytest.approx(3, rel=1e-3)
    assert rounds.row("a", reference_ms=0.2).latency_ms == pytest.approx(2.0, rel=1e-3)


def test_readings_of_a_busy_machine_do_not_count():
    rng = np.random.default_rng(0)
    storms = rng.random(100) < 0.5
    # While it storms things slow down by different factors, so dividing by the sentinel would not help.
    busy = Weather(lambda clock: 1.5 if storms[clock // 50 % 100] else 1.0)

    def thing(seconds, sensitivity):
        inner = busy.open(seconds)()

        class Sensitive(Session):
            def times(self, runs):
                return seconds * (inner.times(runs) / seconds) ** sensitivity

        return lambda: Sensitive()

    rounds = Rounds({"a": thing(1e-3, 0.3), "b": thing(1e-3, 2.0)}, busy.open(1e-4), Protocol())
    rounds.finish(lambda record: None, lambda n: None)
    assert rounds.row("a").latency_ms == pytest.approx(1.0)
    assert rounds.row("b").latency_ms == pytest.approx(1.0)


def test_steady_things_leave_early_and_noisy_ones_stay():
    rng = np.random.default_rng(0)

    class Noisy(Session):
        def times(self, runs):
            return 1e-3 * np.exp(0.5 * rng.standard_normal()) * np.ones(runs)

    steady = Weather(lambda clock: 1.0)
    protocol = Protocol(precision=0.01, min_rounds=5, max_rounds=20)
    rounds = Rounds({"steady": steady.open(1e-3), "noisy": Noisy}, steady.open(1e-4), protocol)
    rounds.finish(lambda record: None, lambda n: None)
    assert rounds.row("steady").rounds == 5
    assert rounds.row("noisy").rounds == 20
    assert rounds.row("noisy").spread_ms > 0.1


def test_progress_ends_where_it_should():
    steady = Weather(lambda clock: 1.0)
    rounds = Rounds({"a": steady.open(1e-3), "b": steady.open(2e-3)}, steady.open(1e-4), Protocol(min_rounds=3, max_rounds=10))
    steps = []
    rounds.finish(lambda record: None, steps.append)
    assert sum(steps) == 20
    assert all(step >= 0 for step in steps)


def test_rounds_are_spread_over_time(monkeypatch):
    pytest.importorskip("onnxruntime")
    now, began = [0.0], []

    class Quick(Session):
        def times(self, runs):
            began.append(now[0])
            now[0] += 1e-3
            return np.full(runs, 1e-4)

    monkeypatch.setattr(rounds_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(rounds_module.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    weather = Weather(lambda clock: 1.0)
    cpu, analytic = load_backend("onnxruntime"), Roofline()
    rounds = Rounds({"a": Quick}, weather.open(1e-4), Protocol(min_rounds=20, warmup=0), period_s=rounds_module.period_of(cpu.describe()))
    rounds.finish(lambda record: None, lambda n: None)
    assert len(began) == 20
    assert 1.0 < began[-1] - began[0] < 2.0
    assert np.ptp(np.diff(began)) < 1e-9
    assert rounds_module.period_of(analytic.describe()) == 0


def test_a_block_is_the_difference_that_it_makes():
    from hwsearch.devices import Row

    row = difference(Row(0.5, 0.03, 9, 2.0), Row(0.2, 0.04, 12, 0.5))
    assert (row.latency_ms, row.spread_ms, row.rounds, row.energy_mj) == pytest.approx((0.3, 0.05, 9, 1.5))
    assert difference(Row(0.2), Row(0.3)).latency_ms > 0


def test_measure_says_how_long_a_network_takes():
    device = Roofline()
    network = SMALL.blocks(SMALL.sample(1, np.random.default_rng(0))[0])
    found = measure(network, backend=device, rounds=4)
    assert found.latency_ms == pytest.approx(device.call_us * 1e-3 + sum(map(device.latency_ms, network)))
    assert (found.spread_ms, found.rounds, found.device) == (0.0, 4, device.describe())
    with pytest.raises(InvalidInput, match="models is empty"):
        measure([], backend=device)
    with pytest.raises(InvalidInput, match="rounds must be at least 1"):
        measure(network, backend=device, rounds=0)


def test_one_model_gives_a_measurement_and_several_give_a_list():
    """A verb takes the batch: there is no second one for several models."""
    network, other = SMALL.blocks(SMALL.sample(1, np.random.default_rng(0))[0]), (BLOCK,)
    one = measure(network, backend=Roofline(), rounds=2)
    assert measure([network], backend=Roofline(), rounds=2) == [one]
    assert [found.latency_ms for found in measure((network, other), backend=Roofline(), rounds=2)] == [
        one.latency_ms,
        measure(other, backend=Roofline(), rounds=2).latency_ms,
    ]
    assert measure([()], backend=Roofline(), rounds=2)[0].latency_ms == pytest.approx(Roofline().call_us * 1e-3)


def test_a_table_follows_from_its_plan_and_its_readings_alone(tmp_path):
    """Whoever measured: the table is made by one function, which changes nothing that it is given."""
    bench, effort = Here(Roofline()), Effort(max_rounds=3, checks=12, fits=6)
    before = LatencyTable(bench.device, effort.protocol(bench.precisions), {}, energy=bench.energy)
    plan = plan_space(SMALL, bench, before, effort, 0)
    journal = Journal(tmp_path / "journal.jsonl")
    measured = bench.measure(plan, journal, lambda done: None)
    table = assemble(plan, before, measured)
    assert assemble(plan, before, plan.read(journal)) == table == assemble(plan, before, measured)
    assert (before.rows, before.checks) == ({}, ())
    profiled = run(tmp_path / "t.json", max_rounds=3, checks=12, fits=6)
    assert load_table(table.save(tmp_path / "again.json")).rows == profiled.rows


@pytest.mark.parametrize(
    "options", [{"checks": -1}, {"fits": 1.5}, {"max_rounds": 0}, {"budget": "soon"}, {"budget": 9, "blocks": [BLOCK]}]
)
def test_an_effort_that_cannot_be_is_refused_when_it_is_made(options):
    with pytest.raises(InvalidInput):
        Effort(**options)


def test_measurements_can_be_put_in_proportion_to_a_table(tmp_path):
    table = run(tmp_path / "t.json")
    network = SMALL.blocks(SMALL.sample(1, np.random.default_rng(0))[0])
    assert measure(network, backend=Roofline(), rounds=2, table=table).latency_ms == pytest.approx(table.predict(network), rel=1e-5)
    with pytest.raises(WrongDevice):
        measure(network, backend=Roofline(call_us=1.0), table=table)


def test_a_space_whose_precisions_the_device_lacks(tmp_path):
    with pytest.raises(Unsupported, match=r"runs no block of 'small': its precisions are fp16, and the space's are fp32, int8\."):
        run(tmp_path / "t.json", Roofline(peak_gmacs={"fp16": 10.0}, tile={"fp16": 8}))
    table = run(tmp_path / "t.json", Roofline(peak_gmacs={"fp32": 10.0}))
    assert table.precisions == ("fp32",)
    with pytest.raises(Unsupported, match="int8"):
        run(tmp_path / "u.json", Roofline(peak_gmacs={"fp32": 10.0}), blocks=[replace(BLOCK, precision="int8")])


def test_networks_that_are_no_chains_are_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(Unsupported, match="Networks of 'nasbench201' are no chains of blocks"):
        run(tmp_path / "t.json", space="nasbench201")
    assert not list(tmp_path.iterdir())
    space = load_space("nasbench201")
    assert run(tmp_path / "t.json", space=space, blocks=space.unique_blocks).missing(space.unique_blocks) == ()


class Fragile(Counting):
    """Its builder crashes over the given blocks."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken

    def _open(self, network):
        session = super()._open(network)
        if self.broken.intersection(network):
            raise BuildFailed("the builder died of signal 11")
        return session


def test_a_block_that_crashes_the_builder_is_left_out_and_the_run_completes(tmp_path):
    broken = {block for block in SMALL.unique_blocks if block.kind == "basic" and block.size == 8 and block.cout == 12}
    device = Fragile(broken)
    with pytest.warns(LeftOutWarning, match="(?s)could not be built.*died of signal 11") as warned:
        table = run(tmp_path / "t.json", device)
    assert all(block.key in str(warned[0].message) for block in broken)
    assert set(table.missing(SMALL.unique_blocks)) == broken
    keys = {block.key for block in broken}
    assert table.checks
    assert not any(keys.intersection(check.blocks) for check in table.checks)
    for block in broken:
        assert device.opened.count((block,)) == 1
    assert not (tmp_path / "t.json.partial.jsonl").exists()


def test_a_resumed_run_does_not_try_failed_builds_again_and_a_new_one_does(tmp_path, monkeypatch):
    broken = {next(block for block in SMALL.unique_blocks if block.kind == "basic")}
    finish = Rounds.finish
    monkeypatch.setattr(Rounds, "finish", lambda self, done, advance: (done(self.run()), time.sleep(0), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "t.json", Fragile(broken))
    monkeypatch.setattr(Rounds, "finish", finish)
    again = Fragile(broken)
    with pytest.warns(LeftOutWarning):
        run(tmp_path / "t.json", again)
    assert not any(broken.intersection(network) for network in again.opened)
    mended = run(tmp_path / "t.json", Fragile(set()))
    assert mended.missing(SMALL.unique_blocks) == ()


def test_a_runtime_that_builds_nothing_is_an_error(tmp_path):
    class Dead(Roofline):
        def _open(self, network):
            raise BuildFailed("the builder died of signal 11")

    with pytest.raises(BuildFailed, match="signal 11"):
        run(tmp_path / "t.json", Dead())
    with pytest.raises(BuildFailed, match="signal 11"):
        measure([BLOCK], backend=Dead())


def test_readings_of_a_throttled_device_are_taken_again(monkeypatch):
    monkeypatch.setattr(rounds_module, "_COOLING_S", (0.0, 0.0))

    class Hot(Session):
        """Slow and throttled at first."""

        def __init__(self, hot):
            self.hot, self.runs = hot, 0

        @property
        def throttled(self):
            return self.runs <= self.hot

        def times(self, runs):
            self.runs += 1
            return np.full(runs, 3.0 if self.throttled else 1.0)

        def close(self):
            pass

    for hot, expected in ((0, 1.0), (2, 1.0), (99, 3.0)):
        rounds = Rounds({"hot": lambda hot=hot: Hot(hot)}, lambda: Hot(0), Protocol(min_rounds=1, max_rounds=1, warmup=0))
        assert rounds.run()["times"]["hot"][0] == expected * 1e3


def test_this_cpu_end_to_end(tmp_path):
    pytest.importorskip("onnxruntime")
    table = profile(SMALL, out=tmp_path / "t.json", effort=Effort(max_rounds=3, precision=0.5, checks=12, fits=6), progress=True)
    assert table.missing(SMALL.unique_blocks) == ()
    assert table.precisions == ("fp32", "int8")
    assert table.error()["networks"] == 12
    assert table.energy == "unavailable"
    rows = [SMALL.blocks(row) for row in SMALL.sample(2, np.random.default_rng(1))]
    assert all(table.predict(network) > 0 for network in rows)

    from hwsearch.backends._onnx._graph import build

    model = tmp_path / "model.onnx"
    model.write_bytes(build(rows[0]).SerializeToString())
    for found in measure([model, rows[1]], rounds=2, progress=True):
        assert found.latency_ms > 0
        assert found.device.same_as(load_backend("onnxruntime").describe())
