"""Files that an earlier version wrote are read as before: ``tests/kept`` holds one of each format, made before the modules moved.

All of them are of one small space, and of 400 of scikit-learn's digits; ``expected.json`` says what the earlier version made of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hwsearch
from hwsearch.errors import InvalidInput
from hwsearch.nn import Data, Supernet, SupernetScore, evaluate, evaluate_file, load_coded, load_data, make_data, score_networks, train
from hwsearch.nn.adoption import Probing, load_network
from hwsearch.scores import load_predictor
from hwsearch.searching import load_finished
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)
KEPT = Path(__file__).parents[1] / "kept"


@pytest.fixture(scope="module")
def space() -> hwsearch.SearchSpace:
    stage = Stage(depths=(1, 2), outs=(4, 8), mids=(4, 6))
    return Chain("kept", (8,), (4,), (stage,), classes=10, channels=1, precisions=("fp32", "int8")).space()


@pytest.fixture(scope="module")
def images() -> Data:
    digits: Any = load_data("digits")
    x, y = digits.train_x.numpy(), digits.train_y.numpy()
    return make_data("kept", *((x[start:end], y[start:end]) for start, end in ((0, 200), (200, 300), (300, 400))))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((KEPT / "expected.json").read_text())


@pytest.fixture(scope="module")
def network(space: hwsearch.SearchSpace) -> hwsearch.Architecture:
    return hwsearch.Architecture.from_json(KEPT / "architecture.json", space)


def test_a_supernet_is_read(space: hwsearch.SearchSpace, images: Data, network: hwsearch.Architecture, expected: dict[str, Any]) -> None:
    supernet = Supernet.load(KEPT / "supernet.safetensors", space)
    assert supernet.digest == expected["digest"]
    assert evaluate(network, weights=supernet, data=images) == pytest.approx(expected["accuracy"], abs=0.03)


def test_a_trained_supernet_is_the_result_of_the_same_call(space: hwsearch.SearchSpace, images: Data, tmp_path: Path) -> None:
    out = tmp_path / "supernet.safetensors"
    shutil.copy(KEPT / "supernet.safetensors", out)
    recipe = {"epochs": 25, "batch": 20, "amp": None, "label_smoothing": 0.0}
    train(space, data=images, out=out, recipe=recipe, progress=False)
    assert out.read_bytes() == (KEPT / "supernet.safetensors").read_bytes(), "it was read, and not made again"
    with pytest.raises(InvalidInput, match="epochs 25 there and 24 here"):
        train(space, data=images, out=out, recipe={**recipe, "epochs": 24}, progress=False)


def test_scores_are_read_and_nothing_is_evaluated_again(space: hwsearch.SearchSpace, images: Data, tmp_path: Path) -> None:
    shutil.copy(KEPT / "predictor.scores.npz", tmp_path / "scores.npz")
    with np.load(KEPT / "predictor.scores.npz") as arrays:
        X, accuracy = arrays["X"], arrays["accuracy"]
    score = SupernetScore(space, KEPT / "supernet.safetensors", images)
    assert np.array_equal(score_networks(score, X, out=tmp_path / "scores.npz", progress=False), accuracy)
    assert (tmp_path / "scores.npz").read_bytes() == (KEPT / "predictor.scores.npz").read_bytes()


def test_a_predictor_is_read(space: hwsearch.SearchSpace, expected: dict[str, Any]) -> None:
    predictor = load_predictor(KEPT / "predictor.npz", space)
    assert predictor(np.array(expected["rows"], dtype=np.uint8)) == pytest.approx(expected["predicted"], abs=1e-5)


def test_a_coded_network_is_read(images: Data, expected: dict[str, Any]) -> None:
    coded, data = load_coded(KEPT / "coded.npz"), images
    logits = coded.network(data.normalize(data.test_x))  # type: ignore[attr-defined]
    right = float((logits.argmax(dim=1) == data.test_y).float().mean())  # type: ignore[attr-defined]
    assert right == pytest.approx(expected["coded"], abs=0.03)


def test_an_exported_file_is_run(images: Data, expected: dict[str, Any]) -> None:
    pytest.importorskip("onnxruntime")
    assert evaluate_file(KEPT / "best.onnx", data=images) == pytest.approx(expected["accuracy"], abs=0.03)


def test_a_finished_network_is_read(space: hwsearch.SearchSpace, network: hwsearch.Architecture, expected: dict[str, Any]) -> None:
    done = load_finished(KEPT / "finished" / "finished.json", space)
    assert done.architecture == network
    assert (done.accuracy, done.latency_ms) == (expected["finished"]["accuracy"], expected["finished"]["latency_ms"])


def test_a_table_and_a_result_are_read(space: hwsearch.SearchSpace, network: hwsearch.Architecture, expected: dict[str, Any]) -> None:
    table = hwsearch.load_table(KEPT / "table.json")
    assert float(table.predict(network.blocks())) == pytest.approx(expected["latency_ms"])
    result = hwsearch.load_result(KEPT / "result.json", space)
    assert result.best.genes.tolist() == expected["best"]
    assert result.values == pytest.approx(expected["values"])


ADOPTED = KEPT / "adopted"


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    return json.loads((ADOPTED / "expected.json").read_text())


def test_the_folder_of_an_adopted_network_is_read(said: dict[str, Any]) -> None:
    assert hwsearch.load_space(ADOPTED / "net").fingerprint == said["fingerprint"]


def test_probes_are_read_and_nothing_is_judged_again(images: Data, said: dict[str, Any], tmp_path: Path) -> None:
    space = hwsearch.load_space(ADOPTED / "net")
    shutil.copy(ADOPTED / "score.probes.jsonl", tmp_path / "score.probes.jsonl")
    probing = Probing(images=150, held_out=100, widths=1, networks=4)
    score = hwsearch.fit_predictor(space, data=images, out=tmp_path / "score.npz", sampling=probing, progress=False)
    assert (tmp_path / "score.probes.jsonl").read_bytes() == (ADOPTED / "score.probes.jsonl").read_bytes()
    rows = np.array(said["rows"], dtype=np.uint8)
    assert score(rows) == pytest.approx(said["predicted"], abs=1e-5)
    assert load_predictor(ADOPTED / "score.npz", space)(rows) == pytest.approx(said["predicted"], abs=1e-5)


@pytest.mark.parametrize("name", ["cut", "float", "tuned"])
def test_a_finished_network_of_a_user_computes_the_same(name: str, images: Data, said: dict[str, Any]) -> None:
    data: Any = images
    with torch.no_grad():
        found = load_network(ADOPTED / "finished" / f"{name}.safetensors")(data.normalize(data.test_x)[:4])
    assert torch.allclose(found, torch.tensor(said["logits"][name]), atol=0.05 if name == "tuned" else 1e-4)


def test_what_is_told_of_a_finished_network_of_a_user_is_read(images: Data, said: dict[str, Any]) -> None:
    done = load_finished(ADOPTED / "finished" / "finished.json")
    assert (done.accuracy, done.macs, done.architecture) == (said["accuracy"], said["macs"], None)
    pytest.importorskip("onnxruntime")
    assert evaluate_file(ADOPTED / "finished" / done.model, data=images) == pytest.approx(done.accuracy, abs=0.03)
