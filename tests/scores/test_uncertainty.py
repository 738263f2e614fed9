"""Which model predicts best, and how far its predictions are off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch import SearchSpace
from hwsearch.errors import CorruptFile, InvalidInput
from hwsearch.scores import Predictor, load_predictor
from hwsearch.scores._process import GaussianProcess
from hwsearch.scores._warp import Warp
from hwsearch.spaces import Choice

WORDS = ("none", "skip", "conv1", "conv3", "pool")


def words(*, ordered: bool | None = None, edges: int = 6) -> SearchSpace:
    """Genes of five operations each, read as ordered or not."""
    choices = [Choice(f"edge{edge}", WORDS, ordered=ordered) for edge in range(edges)]
    return SearchSpace.from_tables(choices, {"size": [(["edge0"], np.arange(5.0))]}, name="words")


def worth(space: SearchSpace, X: np.ndarray) -> np.ndarray:
    """A made-up accuracy: each operation has a worth in its place, and pairs of them have another."""
    rng = np.random.default_rng(3)
    features = space.features(X).astype(np.float64)
    single, pairs = rng.normal(size=30), rng.normal(size=(30, 30))
    return np.asarray(features @ single + 0.2 * np.einsum("ni,ij,nj->n", features, pairs, features))


def test_genes_know_whether_their_values_are_ordered() -> None:
    assert Choice("stage1.mid", (8, 16)).ordered
    assert Choice("block1.precision", ("int8", "fp32")).ordered
    assert not Choice("edge", WORDS).ordered
    assert not Choice("layer", (0, 1, 2), role="operation").ordered
    assert Choice("size", ("small", "large"), ordered=True).ordered
    assert words(ordered=True).fingerprint == words().fingerprint


def test_genes_without_order_are_learned_from_fewer_networks_when_they_say_so() -> None:
    right = {}
    for ordered in (True, False):
        space = words(ordered=ordered)
        X, Z = space.sample(60, np.random.default_rng(1)), space.sample(500, np.random.default_rng(2))
        right[ordered] = Predictor.fit(space, X, worth(space, X), kind="gp").score(Z, worth(space, Z)).pairwise_accuracy
    assert right[False] > right[True]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_an_operation_brings_in_one_place_is_learned_from_all_places(seed: int) -> None:
    """Eight edges of five operations, of which three bring next to nothing wherever they are."""
    space = SearchSpace.from_tables(
        [Choice(f"edge{edge}", WORDS) for edge in range(8)], {"size": [(["edge0"], np.arange(5.0))]}, name="eight"
    )
    rng = np.random.default_rng(seed)
    brings, place = np.array([0.0, 0.1, 2.0, 3.0, 0.1]), rng.uniform(0.5, 1.5, size=8)

    def accuracy(X: np.ndarray) -> np.ndarray:
        each = brings[X]
        return np.asarray(3 * np.tanh(each @ place / 6) + 0.3 * np.sin(3 * each[:, 0] * place[1] - each[:, 1]))

    X, Z = space.sample(60, rng), space.sample(800, rng)
    assert Predictor.fit(space, X, accuracy(X), kind="gp").score(Z, accuracy(Z)).pairwise_accuracy > 0.89


def test_gaussian_processes_of_one_part_are_read_as_before(digits: SearchSpace, tmp_path: Path) -> None:
    """Files of version 2 hold a length scale and a single smooth function of all steps."""
    X, Z = digits.sample(40, np.random.default_rng(1)), digits.sample(50, np.random.default_rng(2))
    model = Predictor.fit(digits, X, X.mean(axis=1), kind="gp").model
    assert isinstance(model, GaussianProcess)
    old = {name: array for name, array in model.arrays().items() if name != "genes"} | {"terms": np.array([0.7, 2.0, 0.2, 1.5])}
    features = digits.features(Z)
    inputs, rows = features @ model.steps, model.rows
    apart = np.square(inputs[:, None] - rows).sum(axis=2) / 2.0**2
    expected = (0.7 * np.exp(-0.5 * apart) + 0.2 * (1.5 + inputs @ rows.T)) @ model.alpha
    np.testing.assert_allclose(GaussianProcess.read(old, sum(digits.sizes)).mean(features), expected, atol=1e-5)
    with pytest.raises(CorruptFile, match="length scale"):
        GaussianProcess.read(old | {"terms": np.array([0.7, 0.0, 0.2, 1.5])}, sum(digits.sizes))


def test_the_kind_that_orders_most_pairs_is_taken_and_told() -> None:
    space = words()
    X, Z = space.sample(80, np.random.default_rng(1)), space.sample(500, np.random.default_rng(2))
    chosen = Predictor.fit(space, X, worth(space, X))
    assert chosen.report is not None
    assert chosen.report.choice.startswith(f"{chosen.model.kind} chosen by the pairs ordered in folds: gp ")
    assert "trees" in str(chosen.report)
    best = max(Predictor.fit(space, X, worth(space, X), kind=kind).score(Z, worth(space, Z)).pairwise_accuracy for kind in ("gp", "trees"))
    assert chosen.score(Z, worth(space, Z)).pairwise_accuracy > best - 0.03


def test_a_few_scores_that_are_far_off_do_not_spoil_the_order_of_the_others(tmp_path: Path) -> None:
    space = words()
    X, Z = space.sample(80, np.random.default_rng(1)), space.sample(500, np.random.default_rng(2))
    predictor = Predictor.fit(space, X, -np.exp(-worth(space, X)), kind="gp")
    assert predictor.warp is not None
    assert predictor.score(Z, -np.exp(-worth(space, Z))).pairwise_accuracy > 0.85
    assert predictor.tables is None
    loaded = load_predictor(predictor.save(tmp_path / "p.npz"), space)
    np.testing.assert_array_equal(loaded(Z), predictor(Z))
    np.testing.assert_array_equal(loaded.std(Z), predictor.std(Z))
    np.testing.assert_array_equal(loaded.interval(Z), predictor.interval(Z))
    assert loaded.report == predictor.report


def test_ranks_are_undone_beyond_what_is_known_as_well() -> None:
    y = np.random.default_rng(0).normal(size=50) ** 3
    warp, normal = Warp.of(y)
    np.testing.assert_allclose(warp.back(normal), y)
    far = np.linspace(-5, 5, 101)
    assert (np.diff(warp.back(far)) > 0).all()
    np.testing.assert_allclose(warp.forth(warp.back(far)), far)


def test_the_gradient_of_a_gaussian_process_tells_which_way_scores_rise(digits: SearchSpace) -> None:
    X, Z = digits.sample(80, np.random.default_rng(1)), digits.sample(200, np.random.default_rng(2))
    predictor = Predictor.fit(digits, X, digits.features(X) @ np.linspace(0, 1, sum(digits.sizes)), kind="gp")
    slopes = predictor.gradient(Z)
    assert slopes is not None
    assert slopes.shape == (200, sum(digits.sizes))
    result = hwsearch.search(digits, predictor=predictor, limits={"macs": 1e6}, run=hwsearch.Run(steps=3))
    assert "Memetic" in str(result.provenance["algorithm"])


def test_intervals_hold_with_few_networks() -> None:
    """A process that was fitted to fifty networks takes itself for better than it is; folds of them tell how good it is."""
    space, inside = words(), []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X, Z = space.sample(50, rng), space.sample(1000, rng)
        low, high = Predictor.fit(space, X, worth(space, X), kind="gp", seed=seed).interval(Z, 0.9)
        inside.append(np.mean((low <= worth(space, Z)) & (worth(space, Z) <= high)))
    assert 0.86 < np.mean(inside) < 0.97


@pytest.mark.parametrize("kind", [None, "gp"])
def test_intervals_hold_as_often_as_they_say(kind: str | None) -> None:
    space = words()
    X, Z = space.sample(150, np.random.default_rng(5)), space.sample(2000, np.random.default_rng(6))
    noise = np.random.default_rng(7)
    predictor = Predictor.fit(space, X, worth(space, X) + noise.normal(size=150), kind=kind)
    truth = worth(space, Z) + noise.normal(size=2000)
    inside = []
    for confidence in (0.5, 0.9):
        low, high = predictor.interval(Z, confidence)
        assert (low < high).all()
        inside.append(float(np.mean((low <= truth) & (truth <= high))))
    assert 0.35 < inside[0] < 0.7
    assert 0.8 < inside[1] < 0.98
    if kind is None:
        assert predictor.report is not None
        assert predictor.report.coverage == pytest.approx(inside[1], abs=0.1)
        assert "inside the 90 % interval" in str(predictor.report)


def test_intervals_that_are_not_known_are_refused(digits: SearchSpace) -> None:
    X = digits.sample(30, np.random.default_rng(0))
    predictor = Predictor.fit(digits, X, X.mean(axis=1), kind="linear")
    with pytest.raises(InvalidInput, match="confidence"):
        predictor.interval(X, 1.0)
    with pytest.raises(InvalidInput, match="not known how far"):
        replace(predictor, calibration=None).interval(X)
