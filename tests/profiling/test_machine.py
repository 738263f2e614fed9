"""Measurements that know the machine: load, steal time and what other programs use, a spread that holds minutes later, and waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hwsearch.backends import Roofline, Session
from hwsearch.cli import app
from hwsearch.devices import Device
from hwsearch.errors import InvalidInput
from hwsearch.networks import Block
from hwsearch.profiling import BusyWarning, Effort, _machine, measure, profile
from hwsearch.profiling._machine import Counts, Machine
from hwsearch.spaces import Chain, Stage

NETWORK = (Block("conv", 3, 8, 8, kernel=3, precision="fp32"), Block("head", 8, 10, 8, precision="fp32"))


class Chip(Roofline):
    """A CPU that is slowed by a factor."""

    slow = 1.0

    def describe(self) -> Device:
        return Device("chip", "cpu", "a chip", self.name, "1", facts={"machine": "x86_64"})

    def _open(self, network: Any) -> Session:
        session = super()._open(network)
        times = session.times
        session.times = lambda runs: times(runs) * self.slow  # type: ignore[method-assign]
        return session


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round waits for the next."""
    monkeypatch.setattr("hwsearch.profiling._rounds._PERIOD_S", 0.0)


def seen(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    """The machine is found to be like this."""
    found = Machine(**{"cores": 2, "load": 0.2, "others": 0.1, "stolen": 0.0} | facts)
    for module in ("_machine", "_measure"):
        monkeypatch.setattr(f"hwsearch.profiling.{module}.machine", lambda before, after: found)


def test_two_spinning_processes_beside_it_are_told() -> None:
    """One of the starts: with as many threads as processors but one, two busy processes are one too many."""
    cores = os.cpu_count() or 1
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        found = _machine.look()
        if found is None:
            pytest.skip("this system does not count what its processors do")
        assert found.others > 0.5
        assert found.busy(max(1, cores - 1))
        with pytest.warns(BusyWarning, match=r"This machine is busy \(load \d+\.\d on \d+ cores, .*medians are not to be trusted"):
            _machine.warn_if_busy(found, max(1, cores - 1))
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("facts", "threads", "busy"),
    [
        ({"cores": 2, "others": 0.1}, 1, False),
        ({"cores": 2, "others": 1.0}, 1, True),
        ({"cores": 64, "others": 3.0}, 1, False),
        ({"cores": 64, "others": 3.0}, 64, True),
        ({"cores": 2, "others": 0.0}, 2, False),
        ({"cores": 1, "others": 0.05}, 1, False),  # something is always there
        ({"cores": 1, "others": 0.3}, 1, True),
        ({"cores": 2, "others": 0.0, "stolen": 0.1}, 1, True),
    ],
)
def test_a_machine_is_busy_if_others_leave_too_few_processors_or_its_host_takes_them(facts: Any, threads: int, busy: bool) -> None:
    assert Machine(**{"load": 1.0, "stolen": 0.0, **facts}).busy(threads) == busy


def test_what_the_kernel_counts_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(_machine, "PROC", tmp_path)
    (tmp_path / "stat").write_text(f"cpu {3 * tick} {tick} {2 * tick} 900 50 0 0 {4 * tick} 0 0\ncpu0 1 2 3\n")
    (tmp_path / "loadavg").write_text("4.10 2.00 1.00 3/100 4242\n")
    counted = _machine.counts()
    assert counted is not None
    assert (counted.busy_s, counted.stolen_s) == (6.0, 4.0)
    cores = os.cpu_count() or 1
    found = _machine.machine(Counts(0.0, 0.0, 0.0, 10.0), Counts(0.8 * cores * 10, 0.1 * cores * 10, 0.3 * cores * 10, 20.0))
    assert found is not None
    assert (found.load, found.stolen) == (4.1, pytest.approx(0.1))
    assert found.others == pytest.approx(0.5 * found.cores)
    assert str(found).startswith(f"load 4.1 on {found.cores} cores")
    (tmp_path / "stat").write_text("intr 3")
    assert _machine.counts() is None
    assert _machine.machine(None, counted) is None


def test_measure_and_profile_tell_that_the_machine_is_busy(calm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, load=4.1, others=1.9)
    said = r"This machine is busy \(load 4.1 on 2 cores, of which other programs used 1.9\): medians are not to be trusted.*--wait-for-calm"
    with pytest.warns(BusyWarning, match=said):
        found = measure(NETWORK, backend=Chip(), rounds=4, progress=False)
    assert found.machine.startswith("load 4.1 on 2 cores")
    space = Chain("small", (8,), (8,), (Stage((1, 2), (8,), (4, 8)),), 10, channels=1).space()
    few = Effort(max_rounds=1, blocks=space.unique_blocks[:3])
    with pytest.warns(BusyWarning, match=said):
        profile(space, backend=Chip(), out=tmp_path / "t.json", effort=few, progress=False)
    seen(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(NETWORK, backend=Chip(), rounds=4, progress=False)
        measure(NETWORK, backend=Roofline(), rounds=4, progress=False)


def test_the_spread_covers_what_a_slowed_machine_hides(calm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steadily slowed by 38 %, the readings of a call agree among themselves, and not with the call before."""
    seen(monkeypatch)
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path))
    chip = Chip()
    best = measure(NETWORK, backend=chip, rounds=6, progress=False)
    chip.slow = 1.38
    slowed = measure(NETWORK, backend=chip, rounds=6, progress=False)
    assert slowed.latency_ms == pytest.approx(1.38 * best.latency_ms)
    assert slowed.latency_ms - slowed.spread_ms <= best.latency_ms + best.spread_ms
    assert best.spread_ms < 0.01 * best.latency_ms
    assert len(json.loads((tmp_path / "sentinels.json").read_text())) == 1
    (tmp_path / "sentinels.json").write_text("[damaged")
    assert measure(NETWORK, backend=chip, rounds=6, progress=False).spread_ms < 0.01 * slowed.latency_ms
    monkeypatch.setenv("HWSEARCH_CACHE", "")
    chip.slow = 2.0
    assert measure(NETWORK, backend=chip, rounds=6, progress=False).spread_ms < 0.01 * slowed.latency_ms


def test_waiting_for_a_calm_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, quiet = Machine(2, 4.0, 2.0, 0.0), Machine(2, 0.1, 0.0, 0.0)
    looks = iter([busy, quiet, quiet, busy, quiet, quiet, quiet])
    monkeypatch.setattr(_machine, "look", lambda sleep: next(looks))
    assert _machine.wait_for_calm(60, sleep=lambda seconds: None)
    assert next(looks, None) is None
    monkeypatch.setattr(_machine, "look", lambda sleep: busy)
    now = iter(range(100))
    monkeypatch.setattr(_machine.time, "monotonic", lambda: float(next(now)))
    assert not _machine.wait_for_calm(5, sleep=lambda seconds: None)
    monkeypatch.setattr(_machine, "look", lambda sleep: None)
    assert _machine.wait_for_calm(5, sleep=lambda seconds: None), "where nothing is known there is nothing to wait for"
    with pytest.raises(InvalidInput, match="time to wait"):
        _machine.wait_for_calm(0)


def test_the_shell_waits_and_says_what_the_machine_did(calm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    from hwsearch.backends import onnx_graph

    waited: list[float] = []
    monkeypatch.setattr("hwsearch.profiling._measure.wait_for_calm", lambda most_s, threads: waited.append(most_s))
    seen(monkeypatch)
    onnx.save(onnx_graph(NETWORK), tmp_path / "net.onnx")
    words = ["measure", str(tmp_path / "net.onnx"), "--rounds", "2", "--wait-for-calm", "10m", "-q"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    assert waited == [600.0]
    assert "meanwhile: load 0.2 on 2 cores" in result.output
