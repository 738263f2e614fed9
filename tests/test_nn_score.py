"""Scores of sub-networks and the predictor fitted to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hwsearch
from hwsearch.errors import CorruptFile, InvalidInput, UnknownName, WrongSpace
from hwsearch.nn import Supernet, evaluate, fit_predictor, score, score_samples

torch.set_num_threads(1)


def test_killed_scoring_continues_and_ends_with_the_same_file(
    trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.npz"
    X, accuracy = score_samples(toy, weights=trained, data="digits", out=whole, samples=12, progress=False)
    assert X.shape == (12, len(toy.choices))
    assert len(np.unique(X, axis=0)) == 12
    supernet = Supernet.load(trained, toy)
    assert accuracy[5] == evaluate(toy.architecture(X[5]), weights=supernet, data="digits", split="val")

    out, evaluated = tmp_path / "killed.npz", []
    original = score.accuracy

    def dying(*arguments: object) -> float:
        if len(evaluated) == 7:
            raise KeyboardInterrupt
        evaluated.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(score, "accuracy", dying)
    with pytest.raises(KeyboardInterrupt):
        score_samples(toy, weights=trained, data="digits", out=out, samples=12, progress=False)
    with open(tmp_path / "killed.npz.partial.jsonl", "ab") as file:
        file.write(b'{"row": "half a li')
    (tmp_path / ".killed.npz.left.tmp").write_bytes(b"half a file")
    evaluated.clear()
    score_samples(toy, weights=trained, data="digits", out=out, samples=12, progress=False)
    assert len(evaluated) == 5
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.npz", "whole.npz"]
    evaluated.clear()
    again, _ = score_samples(toy, weights=trained, data="digits", out=out, samples=12, progress=False)
    assert not evaluated
    assert np.array_equal(again, X)


def test_scores_of_other_arguments_or_weights_are_refused(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    out = tmp_path / "scores.npz"
    score_samples(toy, weights=trained, data="digits", out=out, samples=2, images=50, progress=False)
    with pytest.raises(InvalidInput, match=r"samples 2 there and 3 here"):
        score_samples(toy, weights=trained, data="digits", out=out, samples=3, images=50, progress=False)
    other = Supernet.load(trained, toy)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    with pytest.raises(InvalidInput, match="weights"):
        score_samples(toy, weights=other, data="digits", out=out, samples=2, images=50, progress=False)
    out.write_bytes(out.read_bytes()[:50])
    with pytest.raises(CorruptFile, match=r"scores\.npz"):
        score_samples(toy, weights=trained, data="digits", out=out, samples=2, images=50, progress=False)
    with pytest.raises(InvalidInput, match="at least 1"):
        score_samples(toy, weights=trained, data="digits", out=tmp_path / "b.npz", samples=0, progress=False)


def test_predictor_fits_the_scores_and_knows_its_space(
    trained: Path, toy: hwsearch.SearchSpace, digits: hwsearch.SearchSpace, tmp_path: Path
) -> None:
    out = tmp_path / "predictor.npz"
    predictor = fit_predictor(toy, weights=trained, data="digits", out=out, samples=40, progress=False)
    assert predictor.report is not None
    assert predictor.report.held_out == 8
    X, accuracy = score_samples(toy, weights=trained, data="digits", out=tmp_path / "predictor.scores.npz", samples=40, progress=False)
    assert float(np.abs(predictor(X) - accuracy).mean()) < float(np.abs(accuracy.mean() - accuracy).mean())
    assert np.array_equal(hwsearch.load_predictor(out, toy)(X), predictor(X))
    with pytest.raises(WrongSpace):
        hwsearch.load_predictor(out, digits)


def test_restricted_space_is_scored_within_its_bounds(trained: Path, toy: hwsearch.SearchSpace) -> None:
    floats = toy.restrict({"*.precision": ["fp32"]})
    rows = score.sampled(floats, 50, seed=0)
    assert {block.precision for row in rows for block in floats.blocks(row)} == {"fp32"}


def test_unknown_split_is_named(trained: Path, toy: hwsearch.SearchSpace) -> None:
    row = np.zeros(len(toy.choices), dtype=np.uint8)
    with pytest.raises(UnknownName, match=r"split 'tests'.*Did you mean 'test'"):
        evaluate(toy.architecture(row), weights=trained, data="digits", split="tests")
