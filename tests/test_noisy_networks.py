"""What a busy hour does to a table: noisy networks count less, are measured again, and are told (point 16b)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwsearch import LatencyTable, _words, load_table, profile
from hwsearch._sampling import held_out_error
from hwsearch.backends import Roofline
from hwsearch.chain import Chain, Stage
from hwsearch.device import Check
from hwsearch.report import prediction_figure

SMALL = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8)), Stage((1,), (16,), (8, 12), stride=2)), 10, channels=1).space()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    """An exact table, whose networks take what it says."""
    return profile(SMALL, backend=Roofline(), out=tmp_path_factory.mktemp("table") / "t.json", checks=20, fits=30, progress=False)


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
    assert _words.error_facts(found)["noisy among them"].startswith("5: ")
    assert any("of them noisy" in text.get_text() for text in prediction_figure(found).axes[0].get_legend().get_texts())
    assert {"noisy", "calm_mean_abs"}.isdisjoint(table.error())
    assert "noisy" not in repr(table)
