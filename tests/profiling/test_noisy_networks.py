"""What a busy hour does to a table: noisy networks count less, are measured again, and are told (point 16b)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwsearch import LatencyTable, load_table, profile
from hwsearch._files._writing import Journal
from hwsearch.backends import Roofline, Session
from hwsearch.devices import Check, Protocol
from hwsearch.networks import Block
from hwsearch.profiling import Effort
from hwsearch.profiling._plan import name_of
from hwsearch.profiling._rounds import Rounds
from hwsearch.profiling._sampling import held_out_error
from hwsearch.reports import _facts, prediction_figure
from hwsearch.spaces import Chain, Stage

SMALL = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8)), Stage((1,), (16,), (8, 12), stride=2)), 10, channels=1).space()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    """An exact table, whose networks take what it says."""
    return profile(
        SMALL, backend=Roofline(), out=tmp_path_factory.mktemp("table") / "t.json", effort=Effort(checks=20, fits=30), progress=False
    )


def busy(table: LatencyTable, role: str, every: int) -> LatencyTable:
    """The same, some networks of which were measured in a busy hour: they took 40 % longer, and their readings scatter."""
    count = 0

    def measured(check: Check) -> Check:
        nonlocal count
        count += check.role == role
        stormy = check.role == role and count % every == 0
        return replace(
            check, measured_ms=check.measured_ms * (1.4 if stormy else 1.0), spread_ms=check.measured_ms * (0.2 if stormy else 0.002)
        )

    return table.calibrate(tuple(map(measured, table.checks)))


def test_networks_of_a_busy_hour_do_not_bend_the_calibration(table: LatencyTable) -> None:
    found = busy(table, "fit", 3)
    assert found.error()["mean_abs"] < 0.01
    assert held_out_error(found) < 0.01
    calm = replace(found, checks=tuple(replace(check, spread_ms=0.0) for check in found.checks))
    assert calm.calibrate(calm.checks).error()["mean_abs"] > 0.05, "with the same weight they would"


def test_what_stayed_noisy_is_told(table: LatencyTable, tmp_path: Path) -> None:
    found = load_table(busy(table, "check", 4).save(tmp_path / "t.json"))
    error = found.error()
    assert (error["networks"], error["noisy"]) == (20, 5)
    assert error["calm_mean_abs"] < 0.01 < error["mean_abs"]
    assert "5 of them noisy" in repr(found)
    assert _facts.error_facts(found)["noisy among them"].startswith("5: ")
    assert any("of them noisy" in text.get_text() for text in prediction_figure(found).axes[0].get_legend().get_texts())
    assert {"noisy", "calm_mean_abs"}.isdisjoint(table.error())
    assert "noisy" not in repr(table)


# -- when measuring ends -----------------------------------------------------------------------------------------------


class Weather:
    """How much slower a machine is at each reading: things and their sentinel alike, and things with a noise of half a percent."""

    def __init__(self, slowdown: Callable[[int], float], seed: int = 0) -> None:
        self.slowdown, self.clock, self.rng = slowdown, 0, np.random.default_rng(seed)

    def open(self, seconds: float, noise: float = 0.005) -> Callable[[], Session]:
        weather = self

        class Thing(Session):
            def times(self, runs: int) -> np.ndarray:
                weather.clock += 1
                factor = weather.slowdown(weather.clock // 8) * np.exp(noise * abs(weather.rng.standard_normal()))
                return np.full(runs, seconds * factor)

        return Thing


def measured(weather: Weather, protocol: Protocol, things: int = 10, again: Collection[str] = (), noise: float = 0.005) -> Rounds:
    names = {f"thing {index}": weather.open(1e-3 * (index + 1), noise) for index in range(things)}
    rounds = Rounds(names, weather.open(1e-4, 0.0), protocol, again=again)
    rounds.finish(lambda record: None, lambda done: None)
    return rounds


def test_a_busy_machine_is_measured_until_the_answer_is_good_and_no_longer() -> None:
    storms = np.random.default_rng(1)
    factors = np.where(storms.random(100_000) < 0.6, 1.1 + 0.6 * storms.random(100_000), 1.0)
    rounds = measured(Weather(lambda clock: float(factors[clock])), Protocol())
    counts = [rounds.row(name).rounds for name in rounds.things]
    assert np.mean(counts) < 40, "a dozen calm readings would take 48 rounds"
    for index, name in enumerate(rounds.things):
        assert rounds.error(name) <= 0.01 or rounds.row(name).rounds == 48
        assert rounds.row(name).latency_ms == pytest.approx(index + 1, rel=0.03)


def test_readings_that_agree_in_a_storm_are_not_good_enough() -> None:
    """The sentinel was undisturbed beside some things, and beside one never."""
    rounds = Rounds({"calm": Session, "stormy": Session}, Session, Protocol())
    for number in range(1, 49):
        rounds.add({"round": number, "times": {"calm": [1.0, 0.1], "stormy": [1.5, 0.15]}})
        assert rounds.finished("calm") == (number >= 12)
        assert rounds.finished("stormy") == (number >= 48)
    assert rounds.error("calm") == 0
    assert rounds.error("stormy") == pytest.approx(1.5 / 1.04 - 1)


def test_noisy_networks_are_measured_again() -> None:
    def storm(clock: int) -> float:
        return 1.0 if clock > 1500 else 1.2 + (clock * 7 % 11) / 10

    rounds = measured(Weather(storm), Protocol(max_rounds=16), again=["thing 0", "thing 1"], noise=0.05)
    counts = {name: rounds.row(name).rounds for name in rounds.things}
    assert max(counts.values()) <= 32
    assert {name for name, count in counts.items() if count > 16} <= {"thing 0", "thing 1"}
    assert rounds.progress() == 10 * 16

    noisy = Rounds({"network": Session, "block": Session}, Session, Protocol(max_rounds=12), again=["network"])
    for number in range(1, 13):
        noisy.add({"round": number, "times": {"network": [1 + number % 3, 0.2], "block": [1 + number % 3, 0.1]}})
    assert noisy.pending() == ["network"]
    for number in range(13, 17):
        assert noisy.pending() == ["network"]
        noisy.add({"round": number, "times": {"network": [1.0, 0.1]}})
    assert noisy.pending() == [], "four calm readings agree"
    stormy = Rounds({"network": Session, "block": Session}, Session, Protocol(max_rounds=12), again=["network"])
    for number in range(1, 25):
        assert "network" in stormy.pending()
        stormy.add({"round": number, "times": {"network": [1 + number % 3, 0.2], "block": [1.0, 0.1]}})
    assert stormy.finished("network"), "it stays noisy"


def test_only_whole_networks_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = []
    append = Journal.append

    def noted(self: Journal, record: dict[str, object]) -> None:
        headers.append(record)
        append(self, record)

    monkeypatch.setattr(Journal, "append", noted)
    table = profile(SMALL, backend=Roofline(), out=tmp_path / "t.json", effort=Effort(checks=12, fits=6), progress=False)
    names = {name_of(tuple(map(Block.parse, check.blocks))) for check in table.checks}
    assert set(headers[0]["again"]) == names
    assert len(names) == 18


def test_blocks_that_stayed_noisy_are_named(table: LatencyTable) -> None:
    assert table.noisy == ()
    key = max(table.rows)
    found = replace(table, rows={**table.rows, key: replace(table.rows[key], spread_ms=0.2 * table.rows[key].latency_ms)})
    assert found.noisy == (key,)
    assert _facts.noisy_blocks(found).startswith(f"1 of {len(table.rows)} blocks are noisy")
