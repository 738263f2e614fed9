"""Predictors: they learn, they last, and they refuse what is not theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch.errors import CorruptFile, FileError, InvalidInput, NewerVersion, WrongSpace
from hwsearch.scores import KINDS, Predictor, load_predictor
from hwsearch.scores._perceptrons import Perceptrons
from hwsearch.spaces import Chain, SearchSpace, Stage


def accuracy(space: SearchSpace, X: np.ndarray) -> np.ndarray:
    """A made-up accuracy with an interaction: width helps, int8 hurts, and more so in narrow blocks."""
    total = np.full(len(X), 0.7)
    active = space.active(X)
    for gene, choice in enumerate(space.choices):
        level = X[:, gene] / max(1, len(choice.values) - 1)
        if choice.is_precision:
            total -= np.where(active[:, gene], 0.01 * level * (2 - X[:, gene - 1] / 3), 0)
        else:
            total += np.where(active[:, gene], 0.02 * np.sqrt(level), 0)
    return total


@pytest.fixture(scope="module")
def fitted(digits: SearchSpace) -> Predictor:
    X = digits.sample(300, np.random.default_rng(1))
    return Predictor.fit(digits, X, accuracy(digits, X), kind="mlp", seed=0)


def test_it_orders_networks_that_it_has_not_seen(digits: SearchSpace, fitted: Predictor) -> None:
    X = digits.sample(500, np.random.default_rng(2))
    fresh = fitted.score(X, accuracy(digits, X))
    assert fresh.kendall_tau > 0.9
    assert fresh.pairwise_accuracy > 0.95
    assert fresh.rmse < 0.005
    report = fitted.report
    assert report is not None
    assert (report.held_out, report.fitted) == (60, 240)
    assert abs(report.kendall_tau - fresh.kendall_tau) < 0.1


def test_networks_that_all_score_the_same_have_no_order_to_tell(digits: SearchSpace, fitted: Predictor) -> None:
    report = fitted.score(digits.sample(20, np.random.default_rng(2)), np.full(20, 0.9))
    assert np.isnan(report.kendall_tau)
    assert np.isnan(report.pairwise_accuracy)
    assert str(report).startswith("No order to be told")
    assert "nan" not in str(report)
    assert report.rmse > 0


def test_it_learns_interactions_that_a_linear_model_cannot(digits: SearchSpace) -> None:
    rng = np.random.default_rng(3)
    X, Z = digits.sample(400, rng), digits.sample(400, rng)
    wide, quantized = digits.position["stage2.block1.mid"], digits.position["stage2.block1.precision"]

    def crossed(X: np.ndarray) -> np.ndarray:
        return np.where(X[:, quantized] == 1, 1.0 - X[:, wide] / 3, X[:, wide] / 3)

    linear = Predictor.fit(digits, X, crossed(X), kind="linear").score(Z, crossed(Z))
    full = Predictor.fit(digits, X, crossed(X), kind="mlp").score(Z, crossed(Z))
    assert linear.kendall_tau < 0.2
    assert full.kendall_tau > 0.7


def floats(space: SearchSpace, X: np.ndarray) -> np.ndarray:
    """The same networks in floating point."""
    precision = np.array([choice.is_precision for choice in space.choices])
    return space.canonical(np.where(precision, np.uint8(0), X))


def test_a_base_in_floating_point_saves_quantised_networks(digits: SearchSpace) -> None:
    """Where each value of a gene has its own worth, few networks cannot tell it, and many in floating point can."""
    rng = np.random.default_rng(5)
    worth = rng.normal(size=sum(digits.sizes))
    F, X, Z = floats(digits, digits.sample(300, rng)), digits.sample(40, rng), digits.sample(300, rng)

    def quantised(X: np.ndarray) -> np.ndarray:
        return 0.05 * digits.features(floats(digits, X)) @ worth + accuracy(digits, X) - accuracy(digits, floats(digits, X))

    base = Predictor.fit(digits, F, 100 * quantised(F), kind="linear")  # in percent: units do not matter
    alone = Predictor.fit(digits, X, quantised(X), members=2).score(Z, quantised(Z))
    upon = Predictor.fit(digits, X, quantised(X), members=2, base=base)
    assert 1 - upon.score(Z, quantised(Z)).pairwise_accuracy < 0.5 * (1 - alone.pairwise_accuracy)
    assert upon.score(Z, quantised(Z)).rmse < alone.rmse
    assert upon.report is not None
    assert upon.report.base == 300


def test_a_base_may_be_of_the_space_without_precisions(digits: SearchSpace) -> None:
    from hwsearch.spaces.library.resnet_digits import CHAIN

    plain = replace(CHAIN, precisions=()).space()
    assert set(plain.position) < set(digits.position)
    rng = np.random.default_rng(6)
    F, X, Z = plain.sample(300, rng), digits.sample(40, rng), digits.sample(300, rng)
    base = Predictor.fit(plain, F, accuracy(plain, F), kind="linear")
    upon = Predictor.fit(digits, X, accuracy(digits, X), kind="linear", base=base)
    assert upon.score(Z, accuracy(digits, Z)).pairwise_accuracy > 0.85
    with pytest.raises(InvalidInput, match="not all genes of 'resnet_digits'"):
        Predictor.fit(plain, F, accuracy(plain, F), kind="linear", base=upon)


def test_a_base_that_knows_nothing_does_little_harm(digits: SearchSpace) -> None:
    rng = np.random.default_rng(7)
    X, Z = digits.sample(100, rng), digits.sample(300, rng)
    base = Predictor.fit(digits, digits.sample(100, rng), rng.normal(size=100), kind="linear")
    alone = Predictor.fit(digits, X, accuracy(digits, X), kind="linear").score(Z, accuracy(digits, Z))
    upon = Predictor.fit(digits, X, accuracy(digits, X), kind="linear", base=base).score(Z, accuracy(digits, Z))
    assert upon.pairwise_accuracy > alone.pairwise_accuracy - 0.02


def test_what_is_fitted_upon_a_base_is_an_ordinary_predictor(digits: SearchSpace, fitted: Predictor, tmp_path: Path) -> None:
    """It survives a file, knows how unsure it is, and its gradient is that of its scores."""
    X, Z = digits.sample(60, np.random.default_rng(9)), digits.sample(50, np.random.default_rng(10))
    rugged = accuracy(digits, X) ** 2 + 0.01 * (X[:, digits.position["stage2.block1.mid"]] % 2)
    upon = Predictor.fit(digits, X, rugged, base=fitted, members=3)
    assert isinstance(upon.model, Perceptrons)
    loaded = load_predictor(upon.save(tmp_path / "p.npz"), digits)
    np.testing.assert_array_equal(loaded(Z), upon(Z))
    assert loaded.report == upon.report
    assert (upon.std(Z) > 0).all()
    gradient = upon.gradient(Z)
    assert gradient is not None
    features = digits.features(Z).astype(np.float32)
    for feature in (0, 5, len(features[0]) - 1):
        nudged = features.copy()
        nudged[:, feature] += 1e-2
        change = (upon.model.each(nudged) - upon.model.each(features)).mean(axis=0) * upon.scale / 1e-2
        assert np.median(np.abs(change - gradient[:, feature])) < 1e-4


def test_bases_that_cannot_carry_are_refused(digits: SearchSpace, fitted: Predictor, rng: np.random.Generator) -> None:
    X = digits.sample(60, rng)
    trees = Predictor.fit(digits, X, accuracy(digits, X), kind="trees", members=1, trees=5)
    for kind, base in (("mlp", trees), ("gp", fitted)):
        with pytest.raises(InvalidInput, match="can be fitted upon each other"):
            Predictor.fit(digits, X, accuracy(digits, X), kind=kind, base=base)


def test_bits_are_known_to_matter_before_each_is_tried() -> None:
    """A precision that no network had in some block is judged by what it does elsewhere."""
    space = Chain("bits", (8,), (8,), (Stage((3,), (8,), (4, 8)),), 10, ("w4a4", "w4a8", "w8a4", "w8a8"), channels=1).space()
    precision = [gene for gene, choice in enumerate(space.choices) if choice.is_precision]

    def rounded(X: np.ndarray) -> np.ndarray:
        return 0.7 - sum(np.where(X[:, gene] // 2 == 0, 0.03, 0) + np.where(X[:, gene] % 2 == 0, 0.05, 0) for gene in precision)

    X, Z = space.sample(30, np.random.default_rng(0)), space.sample(200, np.random.default_rng(1))
    assert Predictor.fit(space, X, rounded(X), kind="linear").score(Z, rounded(Z)).rmse < 0.005


def test_the_next_networks_are_doubtful_and_different(digits: SearchSpace, fitted: Predictor) -> None:
    pool, known = digits.sample(400, np.random.default_rng(11)), digits.sample(50, np.random.default_rng(12))
    chosen = fitted.choose(pool, 30, known)
    assert len(set(chosen.tolist())) == 30
    assert fitted.std(pool[chosen]).mean() > fitted.std(pool).mean()
    assert np.array_equal(fitted.choose(pool, 10, known), chosen[:10])
    twice = np.concatenate([pool[chosen[:1]]] * 3)
    assert len(fitted.choose(twice, 5)) == 3
    features = digits.features(pool)

    def apart(some: np.ndarray) -> float:
        gaps = np.abs(features[some][:, None] - features[some][None]).sum(axis=2)
        return float((gaps + 99 * np.eye(len(some))).min(axis=1).mean())

    assert apart(chosen) > apart(np.arange(30))


def test_the_same_seed_gives_the_same_predictor(digits: SearchSpace, fitted: Predictor) -> None:
    X = digits.sample(300, np.random.default_rng(1))
    again = Predictor.fit(digits, X, accuracy(digits, X), kind="mlp", seed=0)
    assert np.array_equal(again(X), fitted(X))


def test_equal_networks_have_equal_predictions(digits: SearchSpace, fitted: Predictor, rng: np.random.Generator) -> None:
    raw = np.stack([rng.integers(size, size=100) for size in digits.sizes], axis=1).astype(np.uint8)
    assert np.array_equal(fitted(raw), fitted(digits.canonical(raw)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_repeats_itself_and_survives_a_file(kind: str, digits: SearchSpace, tmp_path: Path) -> None:
    X, Z = digits.sample(150, np.random.default_rng(1)), digits.sample(300, np.random.default_rng(2))
    predictor = Predictor.fit(digits, X, accuracy(digits, X), kind=kind, seed=3)
    assert predictor.score(Z, accuracy(digits, Z)).kendall_tau > (0.7 if kind == "trees" else 0.85)
    again = Predictor.fit(digits, X, accuracy(digits, X), kind=kind, seed=3)
    loaded = load_predictor(predictor.save(tmp_path / "p.npz"))
    for other in (again, loaded):
        np.testing.assert_array_equal(other(Z), predictor(Z))
        np.testing.assert_array_equal(other.std(Z), predictor.std(Z))
    assert (predictor.std(Z) >= 0).all()
    if kind in ("trees", "gp"):
        assert (predictor.std(Z) > 0).all()
    if kind == "linear":
        assert predictor.tables is not None


def test_the_gaussian_process_doubts_most_where_it_knows_least(digits: SearchSpace) -> None:
    low = digits.restrict({"resolution": [8], "*.mid": [4, 8, 16], "*.depth": [1]})
    X = low.sample(100, np.random.default_rng(4))
    predictor = Predictor.fit(digits, X, accuracy(digits, X), kind="gp")
    far = digits.restrict({"resolution": [16], "*.depth": [2]}).sample(100, np.random.default_rng(5))
    assert predictor.std(far).min() > predictor.std(X).max()


def test_perceptrons_do_not_learn_noise(digits: SearchSpace) -> None:
    """What they cannot foretell of networks that they did not see is not believed."""
    rng = np.random.default_rng(8)
    X, Z = digits.sample(150, rng), digits.sample(300, rng)
    width = X[:, digits.position["stage3.block1.mid"]], Z[:, digits.position["stage3.block1.mid"]]
    predictor = Predictor.fit(digits, X, width[0] + rng.normal(size=150), kind="mlp")
    error = predictor(Z) - width[1]
    assert np.abs(error - error.mean()).mean() < 0.5


def test_the_tables_of_a_linear_predictor_are_its_predictions(digits: SearchSpace, rng: np.random.Generator) -> None:
    X = digits.sample(100, rng)
    predictor = Predictor.fit(digits, X, accuracy(digits, X), kind="linear")
    tables = predictor.tables
    assert tables is not None
    Z = digits.sample(200, rng)
    total = sum(np.broadcast_to(array[tuple(Z[:, gene] for gene in genes)], len(Z)) for genes, array in tables)
    np.testing.assert_allclose(total, predictor(Z), rtol=1e-5)


def test_a_search_cautions_against_scores_that_cannot_be_trusted(digits: SearchSpace) -> None:
    low = digits.restrict({"resolution": [8, 12]})
    X = low.sample(60, np.random.default_rng(6))
    predictor = Predictor.fit(digits, X, accuracy(digits, X))
    beyond = hwsearch.search(digits.restrict({"resolution": [16]}), predictor=predictor, run=hwsearch.Run(steps=2))
    assert any("no network had" in caution for caution in beyond.cautions)
    assert not any("no network had" in caution for caution in hwsearch.search(low, predictor=predictor, run=hwsearch.Run(steps=2)).cautions)
    stuck = hwsearch.search(digits, predictor=lambda X: np.minimum(X.sum(axis=1), 20), run=hwsearch.Run(steps=2))
    assert any("saturated" in caution for caution in stuck.cautions)
    assert "Caution" in stuck._repr_html_()


def test_it_survives_a_file(digits: SearchSpace, toy: SearchSpace, fitted: Predictor, tmp_path: Path, rng: np.random.Generator) -> None:
    path = fitted.save(tmp_path / "p.npz")
    X = digits.sample(100, rng)
    for loaded in (load_predictor(path), load_predictor(path, digits), hwsearch.load_predictor(path)):
        assert np.array_equal(loaded(X), fitted(X))
        assert loaded.report == fitted.report
    with pytest.raises(WrongSpace, match="predicts for space 'resnet_digits'"):
        load_predictor(path, toy)
    with pytest.raises(WrongSpace, match="resnet_digits"):
        hwsearch.search(toy, predictor=fitted)


def test_a_space_of_the_same_name_but_other_choices_is_foreign(digits: SearchSpace, fitted: Predictor, tmp_path: Path) -> None:
    other = Chain("resnet_digits", (8,), (8,), (Stage((1,), (8,), (4, 8)),), 10, channels=1).space()
    with pytest.raises(WrongSpace):
        load_predictor(fitted.save(tmp_path / "p.npz"), other)


def test_files_that_are_no_predictors_are_refused(fitted: Predictor, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "p.npz")
    whole = path.read_bytes()
    with pytest.raises(FileError, match="Cannot read"):
        load_predictor(tmp_path / "absent.npz")
    for broken in (b"", b"not a zip", whole[: len(whole) // 2], whole[:-20]):
        path.write_bytes(broken)
        with pytest.raises(CorruptFile):
            load_predictor(path)
    with np.load(fitted.save(path)) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes())

    def rewritten(**changes: object) -> None:
        fields = {key: value for key, value in changes.items() if key in header}
        own = {key: value for key, value in changes.items() if key not in header}
        packed = np.frombuffer(json.dumps({**header, **fields}).encode(), dtype=np.uint8)
        np.savez(path, **{**arrays, "header": packed, **own})

    rewritten(version=99)
    with pytest.raises(NewerVersion):
        load_predictor(path)
    rewritten(format="hwsearch-result")
    with pytest.raises(CorruptFile, match="hwsearch-predictor"):
        load_predictor(path)
    rewritten(kind="forest")
    with pytest.raises(CorruptFile, match="Unknown kind of predictor 'forest'"):
        load_predictor(path)
    rewritten(**{"model.linear": np.full_like(arrays["model.linear"], np.nan)})
    with pytest.raises(CorruptFile, match="not finite"):
        load_predictor(path)
    rewritten(**{"model.linear": arrays["model.linear"][:-3]})
    with pytest.raises(CorruptFile, match="inputs were expected"):
        load_predictor(path)
    for scale in (-1.0, 0.0, float("inf"), float("nan"), 10**400):
        rewritten(scale=scale)
        with pytest.raises(CorruptFile):
            load_predictor(path)
    rewritten(**{"model.linear": arrays["model.linear"].astype(complex)})
    with pytest.raises(CorruptFile, match="real numbers"):
        load_predictor(path)


def test_data_that_cannot_be_fitted_is_refused(digits: SearchSpace, rng: np.random.Generator) -> None:
    X = digits.sample(20, rng)
    y = accuracy(digits, X)
    for rows, scores, words in (
        (X[:5], y[:5], "at least 10"),
        (X, y[:-1], r"shape \(20,\)"),
        (X, np.where(y > y[0], np.nan, y), "not finite"),
    ):
        with pytest.raises(InvalidInput, match=words):
            Predictor.fit(digits, rows, scores)
    with pytest.raises(InvalidInput, match="holdout"):
        Predictor.fit(digits, X, y, holdout=1.0)


def test_a_predictor_of_equal_scores_can_be_kept(digits: SearchSpace, rng: np.random.Generator, tmp_path: Path) -> None:
    predictor = Predictor.fit(digits, digits.sample(30, rng), np.full(30, 0.9), kind="linear")
    loaded = load_predictor(predictor.save(tmp_path / "flat.npz"), digits)
    assert loaded.report is not None
    assert np.isnan(loaded.report.pairwise_accuracy)
    assert loaded(digits.sample(5, rng)) == pytest.approx(0.9)
