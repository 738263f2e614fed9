"""Scores of sub-networks and the predictor fitted to them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_toy

import hwsearch
from hwsearch.errors import CorruptFile, InvalidInput, UnknownName, WrongSpace
from hwsearch.nn import Sampling, Supernet, SupernetScore, evaluate, fit_predictor, load_data, sample_networks, score_networks
from hwsearch.nn import _scores as scoring
from hwsearch.nn._sampling import precisions

torch.set_num_threads(1)


def score_samples(space, *, samples, out, executor=None, **how):
    """Random networks of a space, and their scores."""
    X = sample_networks(space, samples, floating=how.get("floating", False))
    return X, score_networks(SupernetScore(space, **how), X, out=out, executor=executor, progress=False)


def test_killed_scoring_continues_and_ends_with_the_same_file(
    trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.npz"
    X, accuracy = score_samples(toy, weights=trained, data="digits", out=whole, samples=12)
    assert X.shape == (12, len(toy.choices))
    assert len(np.unique(X, axis=0)) == 12
    supernet = Supernet.load(trained, toy)
    assert accuracy[5] == evaluate(toy.architecture(X[5]), weights=supernet, data="digits", split="val")

    out, evaluated = tmp_path / "killed.npz", []
    original = scoring.accuracy

    def dying(*arguments: object) -> float:
        if len(evaluated) == 7:
            raise KeyboardInterrupt
        evaluated.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "accuracy", dying)
    with pytest.raises(KeyboardInterrupt):
        score_samples(toy, weights=trained, data="digits", out=out, samples=12)
    with open(tmp_path / "killed.npz.partial.jsonl", "ab") as file:
        file.write(b'{"row": "half a li')
    (tmp_path / ".killed.npz.0123abcd.tmp").write_bytes(b"half a file")
    evaluated.clear()
    score_samples(toy, weights=trained, data="digits", out=out, samples=12)
    assert len(evaluated) == 5
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.npz", "whole.npz"]
    evaluated.clear()
    again, _ = score_samples(toy, weights=trained, data="digits", out=out, samples=12)
    assert not evaluated
    assert np.array_equal(again, X)


def test_scores_of_other_arguments_or_weights_are_refused(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    out = tmp_path / "scores.npz"
    score_samples(toy, weights=trained, data="digits", out=out, samples=2, images=50)
    with pytest.raises(InvalidInput, match=r"images 50 there and 60 here"):
        score_samples(toy, weights=trained, data="digits", out=out, samples=2, images=60)
    with pytest.raises(InvalidInput, match=r"floating False there and True here"):
        score_samples(toy, weights=trained, data="digits", out=out, samples=2, images=50, floating=True)
    other = Supernet.load(trained, toy)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    with pytest.raises(InvalidInput, match="weights"):
        score_samples(toy, weights=other, data="digits", out=out, samples=2, images=50)
    out.write_bytes(out.read_bytes()[:50])
    with pytest.raises(CorruptFile, match=r"scores\.npz"):
        score_samples(toy, weights=trained, data="digits", out=out, samples=2, images=50)
    with pytest.raises(InvalidInput, match="at least 1"):
        score_samples(toy, weights=trained, data="digits", out=tmp_path / "b.npz", samples=0)


def test_a_file_of_scores_grows_and_evaluates_nothing_twice(
    trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, out = {"weights": Supernet.load(trained, toy), "data": load_data("digits"), "images": 50}, tmp_path / "scores.npz"
    few, scores = score_samples(toy, samples=6, out=out, **how)
    evaluated = []
    original = scoring.accuracy

    def counted(*arguments: object) -> float:
        evaluated.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "accuracy", counted)
    many, more = score_samples(toy, samples=9, out=out, **how)
    assert np.array_equal(many[:6], few)
    assert np.array_equal(more[:6], scores)
    assert len(evaluated) == 3
    assert np.array_equal(score_networks(SupernetScore(toy, **how), many[[8, 0, 8]], out=out, progress=False), more[[8, 0, 8]])
    assert len(evaluated) == 3


def test_in_floating_point_precisions_make_no_difference(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    how, out = {"weights": trained, "data": "digits", "images": 50, "floating": True}, tmp_path / "floats.npz"
    rows, scores = score_samples(toy, out=out, samples=8, **how)
    assert {block.precision for row in rows for block in toy.blocks(row)} == {"fp32"}
    quantised = toy.canonical(np.where(precisions(toy), np.uint8(1), rows))
    again = score_networks(SupernetScore(toy, **how), quantised, out=out, progress=False)
    assert np.array_equal(again, scores)


def test_workers_find_what_one_process_finds(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    alone = score_samples(toy, weights=trained, data="digits", out=tmp_path / "a.npz", samples=10, images=50)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        spread = score_samples(toy, weights=trained, data="digits", out=tmp_path / "b.npz", samples=10, images=50, executor=pool)
    assert np.array_equal(spread[0], alone[0])
    assert np.array_equal(spread[1], alone[1])


def test_a_short_fine_tuning_mends_coarse_networks(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    coarse = make_toy("fp32", "int3")
    weights = Supernet(coarse)
    known = Supernet.load(trained, toy)
    weights.load_state_dict(known.state_dict())
    weights.images, weights.normalize = known.images, known.normalize
    rows = coarse.sample(3, np.random.default_rng(0))
    rows = coarse.canonical(np.where(precisions(coarse), np.uint8(1), rows))
    calibrated = SupernetScore(coarse, weights, "digits", images=360)
    before = score_networks(calibrated, rows, out=tmp_path / "calibrated.npz", progress=False)
    after = score_networks(replace(calibrated, tuning=240), rows, out=tmp_path / "tuned.npz", progress=False)
    assert after.mean() > before.mean() + 0.01
    assert np.array_equal(calibrated(rows), before), "a score can be called like any other"
    with pytest.raises(InvalidInput, match="tuning"):
        replace(calibrated, tuning=5, floating=True)


def test_a_predictor_is_fitted_upon_floating_point_in_rounds(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    how = {"weights": trained, "data": "digits", "out": tmp_path / "p.npz", "progress": False}
    how["sampling"] = Sampling(networks=24, floating=20, rounds=2, images=50)
    predictor = fit_predictor(toy, **how)
    assert predictor.report is not None
    assert predictor.report.base == 20
    assert predictor.report.held_out + predictor.report.fitted == 24
    assert "upon a base of 20" in str(predictor.report)
    assert hwsearch.load_predictor(tmp_path / "p.npz", toy).report == predictor.report
    again = fit_predictor(toy, **how)
    X = toy.sample(20, np.random.default_rng(0))
    assert np.array_equal(again(X), predictor(X))


@pytest.mark.parametrize("wrong", [{"networks": 24, "rounds": 9}, {"networks": 10, "rounds": 2}, {"floating": 9}, {"rounds": 0}])
def test_too_few_networks_for_a_predictor_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match=r"at least 10 networks in each of its \d rounds"):
        Sampling(**wrong)


def test_predictor_fits_the_scores_and_knows_its_space(
    trained: Path, toy: hwsearch.SearchSpace, digits: hwsearch.SearchSpace, tmp_path: Path
) -> None:
    out = tmp_path / "predictor.npz"
    predictor = fit_predictor(toy, weights=trained, data="digits", out=out, sampling=Sampling(networks=40), progress=False)
    assert predictor.report is not None
    assert predictor.report.held_out == 8
    X, accuracy = score_samples(toy, weights=trained, data="digits", out=tmp_path / "predictor.scores.npz", samples=40)
    assert float(np.abs(predictor(X) - accuracy).mean()) < float(np.abs(accuracy.mean() - accuracy).mean())
    assert np.array_equal(hwsearch.load_predictor(out, toy)(X), predictor(X))
    with pytest.raises(WrongSpace):
        hwsearch.load_predictor(out, digits)


def test_restricted_space_is_scored_within_its_bounds(trained: Path, toy: hwsearch.SearchSpace) -> None:
    floats = toy.restrict({"*.precision": ["fp32"]})
    rows = sample_networks(floats, 50, seed=0)
    assert {block.precision for row in rows for block in floats.blocks(row)} == {"fp32"}


def test_unknown_split_is_named(trained: Path, toy: hwsearch.SearchSpace) -> None:
    row = np.zeros(len(toy.choices), dtype=np.uint8)
    with pytest.raises(UnknownName, match=r"split 'tests'.*Did you mean 'test'"):
        evaluate(toy.architecture(row), weights=trained, data="digits", split="tests")
