"""Old results are never given back for new data: weights, scores, predictors and finished networks know the images that they come from."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import hwsearch
from hwsearch._files._reading import read_arrays
from hwsearch._files._writing import write_arrays
from hwsearch.errors import InvalidInput
from hwsearch.nn import (
    ArrayData,
    Data,
    Deployment,
    FolderData,
    Recipe,
    Sampling,
    Supernet,
    SupernetScore,
    SupernetVerifier,
    finish,
    fit_predictor,
    folder_data,
    load_data,
    score_networks,
    train,
)
from hwsearch.searching import load_finished

torch.set_num_threads(1)

RECIPE = Recipe(epochs=1, batch=256)
ANEW = "comes from other images that were called 'digits'.*To start anew.*name another file or delete"


def corrected() -> ArrayData:
    """The digits, with other labels on several hundred of the training images and on a hundred of the validation images."""
    data = load_data("digits")
    assert isinstance(data, ArrayData)
    train_y, val_y = data.train_y.clone(), data.val_y.clone()
    train_y[:500], val_y[:100] = (train_y[:500] + 1) % 10, (val_y[:100] + 1) % 10
    return replace(data, train_y=train_y, val_y=val_y)


def test_fingerprint_follows_pixels_labels_splits_and_augmentation() -> None:
    data = load_data("digits")
    assert isinstance(data, ArrayData)
    pixels = data.test_x.clone()
    pixels[0, 0, 0, 0] += 1
    others = [corrected(), replace(data, test_x=pixels), replace(data, shift=2), replace(data, val_x=data.val_x[:9], val_y=data.val_y[:9])]
    assert len({data.fingerprint, *(one.fingerprint for one in others)}) == 5
    assert load_data("digits").fingerprint == data.fingerprint
    normalize = replace(data.normalize, mean=(0.5,))
    assert data.normalized(normalize).fingerprint == data.fingerprint, "how pixels are normalised is for the weights to say"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images of two classes in each split."""
    for split in ("train", "val", "test"):
        for number in range(20):
            path = tmp_path / "images" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
            os.utime(path, (1e9, 1e9))
    return tmp_path / "images"


def test_fingerprint_of_a_folder_follows_its_files(folder: Path, tmp_path: Path) -> None:
    def seen() -> FolderData:
        return folder_data(folder, size=8, workers=0)

    before = seen().fingerprint
    assert seen().fingerprint == before
    assert folder_data(folder, size=16, workers=0).fingerprint != before
    folder.rename(tmp_path / "moved")
    assert folder_data(tmp_path / "moved", size=8, workers=0).fingerprint == before, "where the folder stands makes no difference"
    (tmp_path / "moved").rename(folder)
    (folder / "train" / "a" / "0.png").rename(folder / "train" / "b" / "0.png")
    assert seen().fingerprint != before, "a label was corrected"
    (folder / "train" / "b" / "0.png").rename(folder / "train" / "a" / "0.png")
    assert seen().fingerprint == before
    os.utime(folder / "val" / "b" / "1.png", (2e9, 2e9))
    assert seen().fingerprint != before, "a file was written again"


def test_training_on_corrected_labels_is_refused_and_says_how_to_start_anew(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    how = {"out": tmp_path / "toy.safetensors", "recipe": RECIPE, "progress": False}
    first = train(toy, data="digits", **how)
    with pytest.raises(InvalidInput, match=ANEW):
        train(toy, data=corrected(), **how)
    assert train(toy, data="digits", **how).digest == first.digest
    (tmp_path / "toy.safetensors").unlink()
    assert train(toy, data=corrected(), **how).digest != first.digest


def test_a_begun_training_is_not_gone_on_with_on_corrected_labels(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    out = tmp_path / "toy.safetensors"

    class Stopped(ArrayData):
        def training(self, shares, seed):  # type: ignore[no-untyped-def]
            for number, batch in enumerate(super().training(shares, seed)):
                if number == 2:
                    raise KeyboardInterrupt
                yield batch

    stopped = load_data("digits")
    with pytest.raises(KeyboardInterrupt):
        train(toy, data=Stopped(**vars(stopped)), out=out, recipe=RECIPE, progress=False)
    with pytest.raises(InvalidInput, match=f"toy.safetensors.partial {ANEW}"):
        train(toy, data=corrected(), out=out, recipe=RECIPE, progress=False)
    train(toy, data="digits", out=out, recipe=RECIPE, progress=False)


def test_scores_on_corrected_labels_are_refused(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    X = toy.sample(2, np.random.default_rng(0))
    how = {"out": tmp_path / "scores.npz", "progress": False}
    before = score_networks(SupernetScore(toy, trained, "digits"), X, **how)
    other = SupernetScore(toy, trained, corrected())
    with pytest.raises(InvalidInput, match=ANEW):
        score_networks(other, X, **how)
    (tmp_path / "scores.npz").unlink()
    assert (score_networks(other, X, **how) < before - 0.1).all()


def test_workers_open_files_again_that_have_changed(folder: Path, tmp_path: Path) -> None:
    from hwsearch.spaces import Chain, Stage

    space = Chain("tiny", (8,), (8,), (Stage((1, 2), (8,), (8,), 2),), 2, ("fp32",)).space()
    data = folder_data(folder, size=8, workers=0)
    weights = tmp_path / "tiny.safetensors"
    train(space, data=data, out=weights, recipe=Recipe(epochs=1, batch=9), progress=False)

    def score(name: str) -> float:
        with ThreadPoolExecutor(1) as pool:
            row, how = space.sample(1, np.random.default_rng(0)), {"executor": pool, "progress": False}
            return float(
                score_networks(SupernetScore(space, weights, ("imagefolder", folder)), row, out=tmp_path / f"{name}.npz", **how)[0]
            )

    before = score("before")
    for split in ("train", "val", "test"):
        (folder / split / "a").rename(folder / split / "c")  # the classes change places
    assert score("after") == pytest.approx(1 - before)


def test_files_of_the_first_versions_without_a_fingerprint_still_load(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    out = tmp_path / "toy.safetensors"
    first = train(toy, data="digits", out=out, recipe=RECIPE, progress=False)
    header = _header(out)
    assert header["training"].pop("data_fingerprint") == load_data("digits").fingerprint
    save_file(load_file(out), out, metadata={"hwsearch": json.dumps(header)})
    assert train(toy, data="digits", out=out, recipe=RECIPE, progress=False).digest == first.digest

    X = toy.sample(2, np.random.default_rng(0))
    score, how = SupernetScore(toy, trained, "digits", images=50), {"out": tmp_path / "scores.npz", "progress": False}
    scores = score_networks(score, X, **how)
    old, arrays = read_arrays(tmp_path / "scores.npz", "scores", format="hwsearch-scores", version=1)
    del old["data_fingerprint"]
    write_arrays(tmp_path / "scores.npz", old, {**arrays, "accuracy": arrays["accuracy"] / 2})
    assert np.array_equal(score_networks(score, X, **how), scores / 2), "it was read, and not made again"


def test_predictor_and_finished_network_say_which_images_they_come_from(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    label = f"digits {load_data('digits').fingerprint}"
    how = {"weights": trained, "out": tmp_path / "p.npz", "sampling": Sampling(networks=10, images=20), "progress": False}
    fit_predictor(toy, data="digits", **how)
    assert hwsearch.load_predictor(tmp_path / "p.npz", toy).data == label
    with pytest.raises(InvalidInput, match=ANEW):
        fit_predictor(toy, data=corrected(), **how)
    smallest = toy.architecture(Supernet(toy).smallest)
    how = {"out": tmp_path / "done", "recipe": RECIPE, "deployment": Deployment(tuning=0), "progress": False}
    finish(smallest, data="digits", **how)
    assert load_finished(tmp_path / "done" / "finished.json", toy).data == label
    with pytest.raises(InvalidInput, match=ANEW):
        finish(smallest, data=corrected(), **how)


def test_verified_scores_are_not_gone_on_with_on_corrected_labels(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    def verify(data: str | Data) -> hwsearch.SearchResult:
        verify = hwsearch.Verify(SupernetVerifier(trained, data), networks=1, rounds=1, tolerance={"score": 1.0})
        return hwsearch.search(toy, "random", predictor=Wide(), verify=verify, run=hwsearch.Run(steps=2, state=tmp_path / "state"))

    verify("digits")
    with pytest.raises(InvalidInput, match=rf"state.verified.jsonl holds .*digits {corrected().fingerprint}.*Use another state file"):
        verify(corrected())


class Wide:
    """A score that likes large values of genes."""

    def __call__(self, X: np.ndarray) -> np.ndarray:
        return X.sum(axis=1) / 1000


def _header(path: Path) -> dict[str, dict[str, object]]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    found: dict[str, dict[str, object]] = msgspec.json.decode(msgspec.json.decode(data[8 : 8 + length])["__metadata__"]["hwsearch"])
    return found
