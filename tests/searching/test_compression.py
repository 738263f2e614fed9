"""The recipe: one network made smaller for one device, beside its baselines."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import hwsearch
from hwsearch.cli import app
from hwsearch.errors import Infeasible, InvalidInput
from hwsearch.searching import InPlace, compress, quantized_in_place, revert_slower
from hwsearch.spaces import Architecture


@pytest.fixture(scope="module")
def scored(toy):
    """A score that grows with the parameters, more slowly at the end."""
    params = hwsearch.metric("params", toy)
    return lambda X: np.sqrt(params(X))


@pytest.fixture(scope="module")
def everything(toy):
    return np.concatenate(list(toy.enumerate()))


def test_least_is_the_cheapest_network_that_keeps_the_score(toy, scored, roofline_table, everything):
    latency = hwsearch.metric("latency_ms", toy, roofline_table)
    floor = float(np.quantile(scored(everything), 0.7))
    found = hwsearch.cheapest(toy, "latency_ms", floor, predictor=scored, device=roofline_table)
    assert found.best_score >= floor
    best = float(latency(everything)[scored(everything) >= floor].min())
    assert found.values["latency_ms"] == pytest.approx(best, rel=0.01)
    assert found.limits["latency_ms"] == found.values["latency_ms"]
    macs = hwsearch.cheapest(toy, "macs", floor, predictor=scored, limits={"params": 1e9})
    assert macs.values["macs"] == hwsearch.metric("macs", toy)(everything)[scored(everything) >= floor].min()


def test_least_leaves_out_networks_of_infinite_cost():
    genes = {f"g{index}": (0, 1, 2) for index in range(4)}
    tables = {
        "cost": [(["g0"], [np.inf, 4.0, 2.0]), *(([gene], [1.0, 2.0, np.inf]) for gene in list(genes)[1:])],
        "other": [(["g0"], [1, 2, 3])],
    }
    space = hwsearch.SearchSpace.from_tables(genes, tables)
    found = hwsearch.cheapest(space, "cost", 3.0, predictor=lambda X: X.sum(axis=1).astype(float))
    assert found.values["cost"] == 6.0
    assert found.limits["cost"] == 6.0
    with pytest.raises(Infeasible):
        hwsearch.cheapest(space, "cost", 0.0, predictor=lambda X: X.sum(axis=1).astype(float), limits={"other": 1.0})


def test_least_says_what_cannot_be_had(toy, scored, roofline_table):
    with pytest.raises(Infeasible, match="score of at least 1e\\+06"):
        hwsearch.cheapest(toy, "macs", 1e6, predictor=scored)
    with pytest.raises(InvalidInput, match="'latency_ms' is not known here"):
        hwsearch.cheapest(toy, "latency_ms", 1.0, predictor=scored)


@pytest.fixture(scope="module")
def compressed(toy, scored, roofline_table):
    return compress(toy, device=roofline_table, predictor=scored, limits={"macs": 0.4, "params": 0.6}, run=hwsearch.Run(steps=60))


def test_the_searched_networks_meet_the_targets_and_keep_the_score(toy, compressed):
    whole = compressed["dense"]
    for name in ("uniform", "macs only", "two stages", "joint"):
        assert compressed[name].values["macs"] <= 0.4 * whole.values["macs"]
        assert compressed[name].values["params"] <= 0.6 * whole.values["params"]
    for name in ("two stages", "joint"):
        assert compressed[name].score >= compressed["uniform"].score
        assert compressed[name].latency_ms <= compressed["uniform"].latency_ms
        assert {value for gene, value in compressed[name].architecture.values().items() if gene.endswith("precision")} == {"int8"}
    assert compressed["macs only"].score >= compressed["joint"].score
    assert compressed.best.latency_ms == min(compressed["joint"].latency_ms, compressed["two stages"].latency_ms)


def test_searches_keep_to_the_edges_of_the_stairs(toy, scored, roofline_table):
    found = compress(
        toy, device=roofline_table, predictor=scored, limits={"macs": 0.4, "params": 0.6}, edges=True, run=hwsearch.Run(steps=60)
    )
    inside = toy.restrict(roofline_table)
    for name in ("two stages", "joint"):
        genes = found[name].architecture.genes
        assert all(gene in allowed or gene == 0 for gene, allowed in zip(genes, inside.allowed, strict=True))


def test_rows_are_ratios_to_the_dense_network(compressed):
    first, *others = compressed.rows()
    assert (first["name"], first["mac_ratio"], first["speedup"]) == ("dense", 1.0, 1.0)
    for row in others:
        assert row["speedup"] == pytest.approx(first["latency_ms"] / row["latency_ms"])
        assert row["speedup_per_mac_ratio"] == pytest.approx(row["speedup"] / row["mac_ratio"])
    with pytest.raises(InvalidInput, match="'best'; there are dense, uniform"):
        compressed["best"]


def test_what_is_frozen_stays(toy, scored, roofline_table):
    frozen = toy.restrict({"stage1.*": [16, 8, 2, "int8"], "resolution": [12]})
    found = compress(frozen, {"macs": 0.6}, device=roofline_table, predictor=scored, run=hwsearch.Run(steps=20))
    for network in found.networks:
        assert network.architecture.values()["resolution"] == 12


def test_the_dense_network_of_a_restricted_space_is_within_it(toy):
    whole = hwsearch.searching.dense(toy.restrict({"resolution": [8], "stage1.out": [8]}))
    assert {whole.values()[gene] for gene in ("resolution", "stage1.out")} == {8}
    assert whole.values()["stage1.depth"] == 2


def test_compression_refuses_targets_that_make_no_sense(toy, scored, roofline_table):
    with pytest.raises(InvalidInput, match="Name a target"):
        compress(toy, device=roofline_table, predictor=scored)
    with pytest.raises(InvalidInput, match="macs must be positive"):
        compress(toy, {"macs": -1.0}, device=roofline_table, predictor=scored)


def test_compression_refuses_a_budget_or_a_state_that_its_searches_cannot_share(toy, scored, roofline_table, tmp_path):
    """Each of the searches would spend the whole budget, and the second would not go on from the file of the first."""
    for run in (hwsearch.Run(evaluations=20), hwsearch.Run(steps=3, state=tmp_path / "state.npz")):
        with pytest.raises(InvalidInput, match="several searches"):
            compress(toy, {"macs": 0.5}, device=roofline_table, predictor=scored, run=run)


def test_the_command_writes_the_comparison_and_the_networks(digits, tmp_path, roofline_table):
    rng = np.random.default_rng(0)
    X = digits.sample(40, rng)
    macs = hwsearch.metric("macs", digits)
    hwsearch.Predictor.fit(digits, X, np.sqrt(macs(X)) / 1e3, kind="linear").save(tmp_path / "predictor.npz")
    roofline_table.save(tmp_path / "table.json")
    arguments = ["compress", "resnet_digits", "--device", str(tmp_path / "table.json"), "--predictor", str(tmp_path / "predictor.npz")]
    done = CliRunner().invoke(app, [*arguments, "--macs", "0.5", "--steps", "15", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert [row["name"] for row in document["networks"]] == ["dense", "uniform", "macs only", "two stages", "joint"]
    assert isinstance(Architecture.from_json(tmp_path / "out" / "joint.json", digits), Architecture)
    assert "joint" in done.output
    assert "latencies are predicted" in " ".join(done.output.split())


def test_int8_parts_are_judged_in_place_and_reverted_where_slower(toy):
    whole = hwsearch.searching.dense(toy, "int8")
    found = quantized_in_place(whole, backend=hwsearch.backends.Roofline(), rounds=2)
    assert [one.gene for one in found] == [name for name in whole.values() if name.endswith("precision")]
    assert not any(one.slower for one in found)
    assert revert_slower(whole, found) == whole
    slow = hwsearch.backends.Roofline(peak_gmacs={"fp32": 20.0, "int8": 2.0})
    found = quantized_in_place(whole, backend=slow, rounds=2)
    assert any(one.slower for one in found)
    reverted = revert_slower(whole, found)
    values = reverted.values()
    assert {one.gene: values[one.gene] for one in found} == {one.gene: "fp32" if one.slower else "int8" for one in found}
    assert InPlace("stem.precision", 1.0, 0.99, 0.02).slower is False
