"""A sample of a large space, measured within a budget, predicts what was not measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hwsearch import LatencyTable, SearchSpace, load_space, load_table, metric, profile
from hwsearch.backends import Roofline, Session
from hwsearch.errors import BuildFailed, InvalidInput
from hwsearch.networks import Block
from hwsearch.profiling import Effort, LeftOutWarning
from hwsearch.profiling._effort import seconds
from hwsearch.profiling._sampling import Sampler
from hwsearch.profiling._workbench import Here
from hwsearch.reports import families, staircase_figure


class Stepped(Roofline):
    """An analytic device without its memory, so that every stair is flat."""

    def __init__(self) -> None:
        super().__init__(bandwidth_gbs=1e6, block_us=5.0, tile={"fp32": 16, "int8": 8})


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    """ResNet-50 with some thousands of blocks."""
    return load_space("resnet50", resolutions=(64,), mids=7, outs=4)


@pytest.fixture(scope="module")
def table(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    """A sample of it, until the budget would be spent or all is well."""
    out = tmp_path_factory.mktemp("tables") / "sample.json"
    return profile(space, backend=Stepped(), out=out, effort=Effort(budget="5m", checks=15, fits=15, error=0.003), progress=False)


def truth(space: SearchSpace, X: np.ndarray) -> np.ndarray:
    device = Stepped()
    return np.array([device.call_us * 1e-3 + sum(map(device.latency_ms, space.blocks(row))) for row in X])


def test_a_sample_predicts_networks_and_says_how_well(space: SearchSpace, table: LatencyTable, rng: np.random.Generator) -> None:
    assert table.sampled
    assert len(table.rows) <= 600 < len(space.unique_blocks) / 8
    assert table.error()["networks"] == 15
    assert table.error()["mean_abs"] < 0.01
    X = space.sample(40, rng)
    np.testing.assert_allclose(metric("latency_ms", space, table)(X), truth(space, X), rtol=0.03)
    assert "a sample of" in repr(table)


def test_every_value_says_whether_it_was_measured_and_how_sure_it_is(space: SearchSpace, table: LatencyTable) -> None:
    device = Stepped()
    measured = [block for block in space.unique_blocks if block.key in table.rows]
    assert all(table.lookup(block).measured for block in measured[:20])
    guessed = [block for block in table.missing(space.unique_blocks) if block.mids][::50]
    estimates = [table.lookup(block) for block in guessed]
    assert not any(estimate.measured for estimate in estimates)
    errors = [abs(estimate.latency_ms / device.latency_ms(block) - 1) for estimate, block in zip(estimates, guessed, strict=True)]
    predicted = [estimate.relative_error for estimate in estimates]
    assert np.mean(errors) < 0.03
    assert 0.3 * np.mean(errors) < np.mean(predicted) < 10 * np.mean(errors)


def test_a_sample_stays_one_in_its_file(table: LatencyTable, tmp_path: Path) -> None:
    again = load_table(table.save(tmp_path / "again.json"))
    assert again.sampled
    assert again.spent_s == pytest.approx(table.spent_s)
    assert again.checks == table.checks


def test_a_run_stops_where_networks_are_predicted_well_enough(space: SearchSpace, table: LatencyTable, tmp_path: Path) -> None:
    effort = Effort(budget=300, checks=15, fits=15, error=0.5)
    loose = profile(space, backend=Stepped(), out=tmp_path / "loose.json", effort=effort, progress=False)
    assert 0 < len(loose.rows) < len(table.rows)


def test_a_run_stops_where_its_budget_is_spent(space: SearchSpace, tmp_path: Path) -> None:
    effort = Effort(budget=0.01, checks=15, fits=15)
    short = profile(space, backend=Stepped(), out=tmp_path / "short.json", effort=effort, progress=False)
    assert 0 < len(short.rows) <= 48
    assert short.checks == ()


class Mortal(Stepped):
    """Stops in the middle of a run."""

    def __init__(self, opens: int) -> None:
        super().__init__()
        self.opens = opens

    def _open(self, network: Sequence[Block]) -> Session:
        self.opens -= 1
        if self.opens < 0:
            raise KeyboardInterrupt
        return super()._open(network)


def test_a_run_that_was_stopped_goes_on_where_it_was(space: SearchSpace, tmp_path: Path) -> None:
    effort = Effort(checks=12, fits=12, error=0.05, budget=300.0)
    whole = profile(space, backend=Stepped(), out=tmp_path / "whole.json", effort=effort, progress=False)
    out = tmp_path / "parts.json"
    mortals = [Mortal(opens) for opens in (20, 70)]
    for mortal in mortals:
        with pytest.raises(KeyboardInterrupt):
            profile(space, backend=mortal, out=out, effort=effort, progress=False)
    assert 0 < len(load_table(out).rows) < len(whole.rows)
    parts = profile(space, backend=Stepped(), out=out, effort=effort, progress=False)
    assert parts.rows == whole.rows
    assert [check.blocks for check in parts.checks] == [check.blocks for check in whole.checks]
    assert [check.predicted_ms for check in parts.checks] == pytest.approx([check.predicted_ms for check in whole.checks], rel=1e-6)
    assert not list(tmp_path.glob("*.jsonl"))


class Picky(Stepped):
    """Cannot build one block."""

    def _open(self, network: Sequence[Block]) -> Session:
        if any(block.kind == "conv" and block.cout == 32 and block.kernel == 7 for block in network):
            raise BuildFailed("no such kernel")
        return super()._open(network)


def test_a_block_that_cannot_be_built_is_not_tried_for_ever(space: SearchSpace, tmp_path: Path) -> None:
    effort = Effort(budget=300, checks=12, fits=12, error=0.5)
    with pytest.warns(LeftOutWarning, match="no such kernel"):
        table = profile(space, backend=Picky(), out=tmp_path / "picky.json", effort=effort, progress=False)
    assert not any("conv-in3-out32" in key for key in table.rows)
    assert table.error()["networks"] > 0


def test_stairs_are_climbed_in_both_precisions(table: LatencyTable) -> None:
    found = {block.precision: (block, axis) for block, axis in reversed(families(table))}
    assert set(found) == {"fp32", "int8"}
    for block, axis in found.values():
        edges = table.edges(block, axis)
        assert len(edges) > 2
        assert edges[-1] == block.mids[int(axis[-1]) - 1]


def test_what_comes_next_is_least_sure_in_each_precision(space: SearchSpace, table: LatencyTable) -> None:
    sampler = Sampler(space, Here(Stepped()), {}, most=len(table.rows) + 30)
    batch = sampler.next(table)
    assert len(batch) == 30
    assert not any(block.key in table.rows for block in batch.blocks)
    assert {block.precision for block in batch.blocks} == {"fp32", "int8"}
    random = [block for row in space.sample(20, np.random.default_rng(0)) for block in space.blocks(row) if block.mids]
    doubt = [np.mean([table.lookup(block).relative_error for block in blocks]) for blocks in (batch.blocks, table.missing(random))]
    assert doubt[0] > doubt[1]


@pytest.mark.parametrize(
    ("text", "value"), [(90, 90), ("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1.5h", 5400), ("1m5", 65)]
)
def test_lengths_of_time_are_read(text: str | float, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "-5", 0, -1.0, float("nan"), float("inf"), True, "20 m 3"])
def test_what_is_no_length_of_time_is_refused(text: str | float) -> None:
    with pytest.raises(InvalidInput, match="budget must be a length of time"):
        seconds(text)


def test_a_budget_chooses_the_blocks(space: SearchSpace) -> None:
    with pytest.raises(InvalidInput, match="omit either budget or blocks"):
        Effort(budget="1m", blocks=space.unique_blocks[:3])


def test_a_space_that_is_too_large_asks_for_a_budget(tmp_path: Path) -> None:
    large = load_space("resnet50", resolutions=(64,), mids=13)
    with pytest.raises(InvalidInput, match=r"too many to measure them all.*--budget 20m"):
        profile(large, backend=Stepped(), out=tmp_path / "x.json", progress=False)


def test_only_the_widths_at_right_hand_edges_are_searched(space: SearchSpace, table: LatencyTable) -> None:
    single = space.restrict({"*precision": ["fp32"]})
    edges = table.edges(single)
    assert set(edges) == {choice.name for choice in space.choices if choice.name.endswith((".out", ".mid1", ".mid2"))}
    assert edges["stage1.block2.mid2"] == (16, 32, 48, 64), "of multiples of 8, where a stair is 16 wide"
    on_edges = single.restrict(table)
    assert 1 < on_edges.size < single.size
    with pytest.raises(InvalidInput, match="no widths to choose from"):
        table.edges(load_space("nasbench201"))


def test_the_picture_of_a_sample_shows_what_is_estimated_between_measured_widths(table: LatencyTable) -> None:
    pytest.importorskip("matplotlib")
    (axes,) = staircase_figure(table).axes
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    estimated = lines["fp32: estimated"]
    assert set(np.diff(estimated[:, 0])) == {4}
    assert len(estimated) > len(lines["fp32: edges worth keeping"])
