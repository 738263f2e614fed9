"""Parts of a space and of a measurement: restricted precisions, and rows without energy (point 9)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch import LatencyTable, SearchSpace, load_table, profile
from hwsearch.backends import Network, Roofline, Session
from hwsearch.devices import Row
from hwsearch.errors import InvalidInput, WrongSpace
from hwsearch.profiling import Effort
from hwsearch.profiling._readings import difference
from hwsearch.spaces import Chain, Stage

SMALL = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8)), Stage((1,), (16,), (8, 12), stride=2)), 10, channels=1).space()


def run(out: Path, space: SearchSpace = SMALL, backend: Roofline | None = None, **options: object) -> LatencyTable:
    return profile(space, backend=backend or Roofline(), out=out, progress=False, effort=Effort(checks=12, fits=6, **options))  # type: ignore[arg-type]


def widest(X: np.ndarray) -> np.ndarray:
    return X.sum(axis=1) + np.zeros(len(X))


class Unmetered(Roofline):
    """Its meter stands still for the networks in which a convolution has 12 inputs."""

    def _open(self, network: Network) -> Session:
        session = super()._open(network)
        if any(block.cin == 12 for block in network):
            session._energy_mj = None  # type: ignore[attr-defined]
        return session


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("budget", [None, 60.0])
def test_a_space_of_one_precision_is_profiled_and_nothing_else_is(precision: str, budget: float | None, tmp_path: Path) -> None:
    part = SMALL.restrict({"*precision": [precision]})
    table = run(tmp_path / "t.json", part, budget=budget)
    met = {part.unique_blocks[index] for index in part.reachable}
    assert set(table._blocks.values()) == met
    assert len(met) < len(SMALL.unique_blocks)
    assert set(table.error()) & {"mean_abs_fp32", "mean_abs_int8", "mean_abs_mixed"} == {f"mean_abs_{precision}"}
    assert table.precisions == (precision,)
    whole = hwsearch.search(SMALL, device=table, predictor=widest, run=hwsearch.Run(steps=2, progress=False))
    assert set(whole.best.values().values()) & {"fp32", "int8"} == {precision}, "a search of the whole space keeps to what was measured"
    found = hwsearch.search(part, device=table, predictor=widest, run=hwsearch.Run(steps=2, progress=False))
    assert found.values["latency_ms"] == pytest.approx(table.predict(found.best.blocks()))


def test_a_precision_that_some_genes_may_not_have_is_measured_where_they_may(tmp_path: Path) -> None:
    part = SMALL.restrict({"stem.precision": ["fp32"]})
    table = run(tmp_path / "t.json", part)
    assert table.missing(part.unique_blocks[index] for index in part.reachable) == ()
    assert {"mean_abs_fp32", "mean_abs_mixed"} <= set(table.error())
    assert "mean_abs_int8" not in table.error()


def test_a_refused_restriction_names_what_is_left() -> None:
    part = SMALL.restrict({"*precision": ["int8"]})
    with pytest.raises(InvalidInput, match=r"it may be one of \['int8'\] here, not of \['fp32'\]"):
        part.restrict({"*precision": ["fp32"]})


def test_an_unfinished_run_of_another_part_of_a_space_is_told_apart(tmp_path: Path) -> None:
    from hwsearch._files._writing import Journal
    from hwsearch.profiling._journal import make_header
    from hwsearch.profiling._planning import part_of

    part, device = SMALL.restrict({"*precision": ["int8"]}), Roofline()
    assert part_of(SMALL) == SMALL.fingerprint != part_of(part)
    header = make_header(device.describe(), Effort(max_rounds=48).protocol(device.precisions), "small", part_of(SMALL), 0)
    Journal(f"{tmp_path / 't.json'}.partial.jsonl").append(header)
    with pytest.raises(WrongSpace, match="unfinished run of .small., with other blocks, or restricted otherwise"):
        run(tmp_path / "t.json", part)


def test_a_restricted_space_keeps_what_was_computed_of_the_whole() -> None:
    assert SMALL.restrict({"*precision": ["int8"]}).unique_blocks is SMALL.unique_blocks


@pytest.mark.parametrize("budget", [None, 60.0])
def test_rows_without_energy_take_no_search_by_latency_away(budget: float | None, tmp_path: Path) -> None:
    table = run(tmp_path / "t.json", backend=Unmetered(), budget=budget)
    without = [key for key, row in table.rows.items() if row.energy_mj is None]
    assert 0 < len(without) < len(table.rows)
    most = 0.9 * table.predict(SMALL.blocks(SMALL.sample(1, np.random.default_rng(0))[0]))
    found = hwsearch.search(SMALL, device=table, predictor=widest, limits={"latency_ms": most}, run=hwsearch.Run(steps=2, progress=False))
    assert found.values["latency_ms"] <= most
    if budget is None:
        assert "energy_mj" not in found.values
        with pytest.raises(InvalidInput, match=rf"no energy for {len(without)} of .* measure these again with: hwsearch profile small"):
            hwsearch.search(SMALL, device=table, predictor=widest, limits={"energy_mj": 1.0}, run=hwsearch.Run(steps=2, progress=False))
    else:
        assert found.values["energy_mj"] > 0, "a sampled table estimates it"


def test_rows_without_energy_are_measured_again(tmp_path: Path) -> None:
    run(tmp_path / "t.json", backend=Unmetered())
    table = run(tmp_path / "t.json")
    assert all(row.energy_mj is not None for row in table.rows.values())
    unavailable = replace(table, rows={key: replace(row, energy_mj=None) for key, row in table.rows.items()}, energy="unavailable")
    unavailable.save(tmp_path / "u.json")
    assert run(tmp_path / "u.json").rows == unavailable.rows, "without a meter nothing is lacking"
    assert load_table(tmp_path / "u.json").energy == "unavailable"


def test_a_block_whose_energy_is_lost_in_noise_has_a_little() -> None:
    found = difference(Row(2.0, 0.1, 12, 5.0), Row(1.0, 0.1, 12, 5.1))
    assert found.energy_mj == pytest.approx(0.005)
    assert difference(Row(2.0, 0.1, 12, 5.0), Row(1.0, 0.1, 12, None)).energy_mj is None
