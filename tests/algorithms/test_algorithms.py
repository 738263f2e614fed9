"""Search algorithms: one contract for all, and what each is for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import hwsearch
from hwsearch import SearchSpace, metric
from hwsearch.algorithms import NSGA2, Algorithm, Evolution, Exact, Hybrid, Local, Memetic, RandomSearch, Surrogate, hypervolume
from hwsearch.algorithms.memetic import MemeticState, promising
from hwsearch.errors import Infeasible, InvalidInput, UnknownName
from hwsearch.searching import Status, load_result
from hwsearch.spaces import row_keys
from hwsearch.testing import best_of, check_algorithm, example_space, rugged

SMALL: dict[str, Callable[[], Algorithm]] = {
    "random": lambda: RandomSearch(population=40),
    "evolution": lambda: Evolution(population=64, parents=40, alone=2, together=1),
    "exact": lambda: Exact(),
    "hybrid": lambda: Hybrid(population=64, parents=40, alone=2, together=1, refits=(1, 2)),
    "local": lambda: Local(samples=40, pairs=100),
    "memetic": lambda: Memetic(climbers=12, parents=20, founders=40),
    "nsga2": lambda: NSGA2(population=30, metrics=()),
    "surrogate": lambda: Surrogate(founders=10, batch=4),
    "surrogate in a large space": lambda: Surrogate(founders=10, batch=4, whole=0, generations=2),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_algorithm_keeps_the_contract(name: str) -> None:
    check_algorithm(SMALL[name], additive=name == "exact")


def test_the_contract_notices_a_broken_algorithm() -> None:
    class Stubborn(RandomSearch):
        def ask(self, state, problem, rng):  # type: ignore[no-untyped-def]
            X, state = super().ask(state, problem, rng)
            return np.where(X == 0, 1, X).astype(np.uint8) % np.array(problem.space.sizes, dtype=np.uint8), state

    with pytest.raises(AssertionError, match="allowed values"):
        check_algorithm(lambda: Stubborn(population=40))


@pytest.mark.parametrize("limits", [{}, {"time": 4.0}, {"time": 6.0, "size": 5.0}, {"time": 6.0, "size": 5.0, "peak_memory_mb": 0.9}])
@pytest.mark.parametrize("seed", range(4))
def test_exact_is_what_looking_at_every_network_finds(limits: dict[str, float], seed: int) -> None:
    space = example_space(seed)
    worth = metric("worth", space)
    try:
        best = best_of(space, worth, limits)
    except Infeasible:
        with pytest.raises(Infeasible):
            hwsearch.search(space, predictor=worth, limits=limits, algorithm="exact")
        return
    result = hwsearch.search(space, predictor=worth, limits=limits, algorithm="exact")
    assert result.best_score == pytest.approx(best, rel=1e-9)
    assert result.status is Status.OPTIMAL
    assert result.bound == pytest.approx(best, rel=1e-5)
    assert result.gap is not None
    assert result.gap < 1e-5
    least = hwsearch.search(space, predictor=-worth, limits=limits, algorithm="exact")
    assert -least.best_score == pytest.approx(-best_of(space, -worth, limits), rel=1e-9)


def test_exact_proves_that_limits_cannot_be_met_together() -> None:
    """Each limit alone is easy, and so is every weighted sum of the two: only the program sees that no network meets both."""
    tables = {"a": [(["x"], [0.0, 2.0]), (["y"], [0.0, 2.0])], "b": [(["x"], [2.0, 0.0]), (["y"], [2.0, 0.0])], "c": [(["x"], [0.0, 1.0])]}
    space = SearchSpace.from_tables({"x": (0, 1), "y": (0, 1)}, tables)
    result = hwsearch.search(space, predictor=metric("c", space), limits={"a": 2.0, "b": 2.0}, algorithm="exact")
    assert result.best_score == 1.0
    odd = SearchSpace.from_tables({"x": (0, 1), "y": (0, 1)}, {**tables, "b": [(["x", "y"], [[5.0, 3.0], [3.0, 0.0]])]})
    with pytest.raises(Infeasible, match="proven"):
        hwsearch.search(odd, predictor=metric("c", odd), limits={"a": 3.0, "b": 2.0}, algorithm="exact")


def test_exact_says_what_it_needs() -> None:
    with pytest.raises(InvalidInput, match="hybrid"):
        hwsearch.search(example_space(), predictor=lambda X: X.sum(axis=1), algorithm="exact")


def test_exact_takes_a_linear_predictor(digits: SearchSpace, roofline_table: hwsearch.LatencyTable) -> None:
    X = digits.sample(200, np.random.default_rng(0))
    y = digits.features(X) @ np.linspace(0, 1, sum(digits.sizes))
    linear = hwsearch.Predictor.fit(digits, X, y, kind="linear")
    assert linear.tables is not None
    exact = hwsearch.search(digits, predictor=linear, device=roofline_table, limits={"latency_ms": 0.15}, algorithm="exact")
    other = hwsearch.search(
        digits, predictor=linear, device=roofline_table, limits={"latency_ms": 0.15}, algorithm=Evolution(population=256)
    )
    assert exact.bound is not None
    assert other.best_score <= exact.bound + 1e-9
    assert exact.best_score >= other.best_score - 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_hybrid_proves_additive_scores_and_solves_others(seed: int) -> None:
    space = example_space(seed)
    limits = {"time": 6.0}
    worth = hwsearch.search(space, predictor=metric("worth", space), limits=limits, algorithm="hybrid", run=hwsearch.Run(steps=1))
    assert worth.status is Status.OPTIMAL
    score = rugged(space, seed)
    result = hwsearch.search(space, predictor=score, limits=limits, algorithm=Hybrid(population=128, refits=(1, 3)), seed=seed)
    assert result.best_score == pytest.approx(best_of(space, score, limits))
    assert result.surrogate_bound is not None
    assert result.bound is None


def test_local_search_ends_where_no_two_genes_help() -> None:
    space = example_space()
    score = rugged(space)
    result = hwsearch.search(space, predictor=score, limits={"time": 6.0}, algorithm=Local(samples=20), run=hwsearch.Run(polish=False))
    assert result.status is Status.CONVERGED
    row = result.best.genes
    everything = np.concatenate(list(space.enumerate()))
    near = everything[((everything != row) & space.active(everything)).sum(axis=1) <= 2]
    near = near[((near != row).sum(axis=1) <= 2) & (metric("time", space)(near) <= 6.0)]
    assert len(near) > 20
    assert np.max(score(near)) <= result.best_score + 1e-12


def test_every_search_is_finished_in_its_neighbourhood_unless_told_otherwise() -> None:
    space = example_space()
    few = RandomSearch(population=30, steps=2)
    rough = hwsearch.search(space, predictor=rugged(space), algorithm=few, run=hwsearch.Run(polish=False))
    fine = hwsearch.search(space, predictor=rugged(space), algorithm=few)
    assert len(rough.history) == 2
    assert fine.best_score > rough.best_score
    assert fine.status is Status.CONVERGED


def test_nsga2_spreads_along_the_true_front() -> None:
    space = example_space()
    score = rugged(space)
    everything = np.concatenate(list(space.enumerate()))
    for names in (("time",), ("time", "size")):
        points = np.column_stack([-np.asarray(score(everything)), *(metric(name, space)(everything) for name in names)])
        algorithm = NSGA2(population=64, metrics=names)
        result = hwsearch.search(space, predictor=score, algorithm=algorithm, run=hwsearch.Run(steps=12))
        found = np.column_stack([-result.front.scores, *(result.front.values[name] for name in names)])
        worst = points.max(axis=0)
        assert hypervolume(found, worst) >= 0.97 * hypervolume(points, worst)
        assert result.history[-1]["evaluated"] < len(everything) / 3
        volumes = [step["hypervolume"] for step in result.history]
        assert volumes == sorted(volumes)
    with pytest.raises(UnknownName, match="watts"):
        hwsearch.search(space, predictor=score, algorithm=NSGA2(metrics=("watts",)))


def test_bounds_survive_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    space = example_space()
    result = hwsearch.search(space, predictor=metric("worth", space), limits={"time": 6.0}, algorithm="exact")
    back = load_result(result.save(tmp_path / "result.json"), space)
    assert (back.bound, back.gap, back.status) == (result.bound, result.gap, Status.OPTIMAL)


@pytest.mark.parametrize("sampler", ["TPESampler", "NSGAIISampler", "RandomSampler"])
def test_samplers_of_optuna_keep_the_contract(sampler: str) -> None:
    pytest.importorskip("optuna")
    from hwsearch.algorithms import OptunaSearch

    check_algorithm(lambda: OptunaSearch(sampler, population=6), steps=3)


def test_results_are_studies_of_optuna(tmp_path) -> None:  # type: ignore[no-untyped-def]
    optuna = pytest.importorskip("optuna")
    space = example_space()
    result = hwsearch.search(space, predictor=rugged(space), limits={"time": 6.0}, algorithm=Evolution(population=64, steps=5))
    study = result.to_study(storage=f"sqlite:///{tmp_path}/study.db", name="front")
    assert study.best_value == pytest.approx(result.best_score)
    again = optuna.load_study(study_name="front", storage=f"sqlite:///{tmp_path}/study.db")
    assert len(again.trials) == len(result.front)
    assert again.best_trial.user_attrs["time"] == pytest.approx(result.values["time"])
    with pytest.raises(UnknownName, match="TPESampler"):
        hwsearch.search(space, predictor=rugged(space), algorithm=hwsearch.algorithms.optuna.OptunaSearch("TPSampler"))


# Bits of the layers, from the first block on, that HAWQ-V3 (Yao et al., ICML'21) publishes for budgets of bytes and of BitOps.
HAWQ = {
    ("resnet18", "size_mb"): ["8888888888888488884", "8888888888888884844", "8888888888888844444"],
    ("resnet18", "bitops"): ["8888888848888484884", "8884888848884444444", "8884848444444444444"],
    ("resnet50", "size_mb"): ["8888 888 888 8888 888 888 888 8488 844 844 844 844 444 4484 444 844"],
    ("resnet50", "bitops"): [
        "8888 888 848 8888 888 888 848 8488 888 844 848 848 848 8488 888 888",
        "8888 888 848 8488 848 844 848 8488 844 844 844 844 848 8488 848 848",
    ],
}


@pytest.mark.parametrize(("network", "kind"), HAWQ)
def test_exact_reproduces_or_beats_the_published_bits(network: str, kind: str, data_folder: Path) -> None:
    file = data_folder / "hawq" / "hawq_v3_t4_lut.json"
    if not file.exists():
        pytest.skip("HAWQ's table is not at hand")
    space = hwsearch.interop.hawq_table(file, network).space()
    worth, cost = -metric("sensitivity", space), metric(kind, space)
    for bits in HAWQ[network, kind]:
        row = np.array([["48".index(bit) for bit in bits.replace(" ", "")]], dtype=np.uint8)
        result = hwsearch.search(space, predictor=worth, limits={kind: float(cost(row)[0])}, algorithm="exact")
        assert result.status is Status.OPTIMAL
        published = float(worth(row)[0])
        assert result.best_score >= published
        assert result.best_score > published or np.array_equal(result.best.genes, row[0])  # two of the nine are not optimal


def test_exact_proves_the_pruning_of_a_deep_network() -> None:
    """71 channel groups, 34 removable blocks, 10^54 networks, bilinear latency; evolution comes near but proves nothing."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from instances import pruned_resnet

    space = pruned_resnet()
    assert 1e53 < space.size < 1e55
    assert sum("keep" not in choice.name for choice in space.choices) == 71
    worth, latency = metric("importance", space), metric("latency_ms", space)
    full = float(latency(np.array([[size - 1 for size in space.sizes]], dtype=np.uint8))[0])
    result = hwsearch.search(space, predictor=worth, limits={"latency_ms": 0.3 * full}, algorithm="exact")
    assert result.gap is not None
    assert result.gap <= 1e-4
    assert result.values["latency_ms"] <= 0.3 * full
    other = hwsearch.search(
        space, predictor=worth, limits={"latency_ms": 0.3 * full}, algorithm=Evolution(population=256), run=hwsearch.Run(steps=40)
    )
    assert other.best_score <= result.best_score
    with pytest.raises(Infeasible, match="faster than"):
        hwsearch.search(space, predictor=worth, limits={"latency_ms": 0.001 * full}, algorithm="exact")


def test_slopes_are_what_a_small_change_of_the_features_brings(digits: SearchSpace, rng: np.random.Generator) -> None:
    X = digits.sample(60, rng)
    predictor = hwsearch.Predictor.fit(digits, X, rugged(digits)(X) / 100, kind="mlp", seed=0)
    rows = X[:3]
    gradient, features = predictor.gradient(rows), digits.features(rows)
    assert gradient is not None
    assert gradient.shape == features.shape
    for feature in rng.integers(features.shape[1], size=8):
        nudge = 1e-3 * (np.arange(features.shape[1]) == feature)
        apart = [predictor.model.each((features + sign * nudge).astype(np.float32)).mean(axis=0) for sign in (1, -1)]
        np.testing.assert_allclose((apart[0] - apart[1]) / 2e-3 * predictor.scale, gradient[:, feature], rtol=0.05, atol=5e-4)
    assert hwsearch.Predictor.fit(digits, X, rugged(digits)(X), kind="trees").gradient(rows) is None


@pytest.mark.parametrize("seed", range(3))
def test_climbing_along_slopes_finds_the_best_network(seed: int) -> None:
    space, limits = example_space(seed), {"time": 6.0, "size": 5.0}
    score = rugged(space, seed)
    result = hwsearch.search(space, predictor=score, limits=limits, seed=seed)
    assert "Memetic" in result.provenance["algorithm"]
    assert result.best_score == pytest.approx(best_of(space, score, limits))
    plain = hwsearch.search(space, predictor=lambda X: score(X), limits=limits, seed=seed)
    assert "Evolution" in plain.provenance["algorithm"]
    with pytest.raises(InvalidInput, match="gradient"):
        hwsearch.search(space, predictor=lambda X: score(X), limits=limits, algorithm="memetic")


@pytest.mark.parametrize("tables", [False, True])
def test_climbing_knows_what_changes_of_all_genes_bring_and_what_they_wake(digits: SearchSpace, tables: bool) -> None:
    """Of a linear score the best changes of one gene or two, depths among them, are known exactly before anything is scored."""
    weights = np.random.default_rng(1).normal(size=sum(digits.sizes))

    class Linear:
        def __call__(self, X: np.ndarray) -> np.ndarray:
            return digits.features(X) @ weights

        def gradient(self, X: np.ndarray) -> np.ndarray:
            return np.tile(weights, (len(X), 1))

    problem = hwsearch.Problem.of(digits, predictor=metric("params", digits) if tables else Linear(), limits={"macs": 1e6})
    X = digits.sample(200, np.random.default_rng(2))
    X = X[(problem.costs(X) <= 1.0).all(axis=1)][:10]
    needed = sorted({need[0] for need in digits.needs if need is not None})
    found, of = promising(problem, X, 4)
    assert (found[:, needed] != X[of][:, needed]).any()
    assert (problem.costs(found) <= 1.0).all()
    for row, own in enumerate(X):
        single = digits.neighbours(own)
        single = single[(problem.costs(single) <= 1.0).all(axis=1)]
        assert problem.score(found[of == row]).max() >= problem.score(single).max() - 1e-5


def test_the_best_of_each_brood_climbs_and_what_climbs_goes_on() -> None:
    """A brood's best begins even if other broods are better altogether; rows that still rise keep their places, however low they are."""
    X = np.concatenate(list(example_space().enumerate()))[:10]
    keys = row_keys(X)
    order = np.argsort(keys)
    by = np.array([0, 1, 2, 3, 3, 3, 4, 4, 4, 5])  # three rows climb; the others belong to three broods
    state = MemeticState(X[7:8], np.array([0.7]), X[:3], np.array([0.0, 0.1, 0.25]), keys[order], by[order])
    scores = np.array([0.05, 0.15, 0.2, 0.9, 0.8, np.nan, 0.3, np.nan, 0.4, np.nan])
    told = Memetic(climbers=6, parents=8).tell(state, X, scores, np.zeros((10, 1)))
    np.testing.assert_array_equal(told.climbing, X[[0, 1, 3, 8]])
    np.testing.assert_array_equal(told.climbed, [0.05, 0.15, 0.9, 0.4])
    np.testing.assert_array_equal(told.X, X[[7, 2]])
    np.testing.assert_array_equal(told.scores, [0.7, 0.25])
    assert (told.best, told.stale) == (0.9, 0)


@pytest.mark.parametrize(("old", "new"), [("slopes", "gradient"), ("doubt", "std"), ("outside", "extrapolates")])
def test_a_score_with_methods_of_former_names_is_told_the_new_ones(old: str, new: str) -> None:
    """It would otherwise be searched by a weaker algorithm, or without cautions, and nobody would know why."""
    space = example_space()

    class Own:
        def __call__(self, X: np.ndarray) -> np.ndarray:
            return X.sum(axis=1)

    score = Own()
    setattr(score, old, lambda X: np.zeros((len(X), 1)))
    with pytest.raises(InvalidInput, match=f"called '{new}' now"):
        hwsearch.Problem.of(space, predictor=score)
    setattr(score, new, lambda X: np.zeros((len(X), 1)))
    assert hwsearch.Problem.of(space, predictor=score).score is score
