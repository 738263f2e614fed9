"""Finishing: from a search's answer to a trained, quantised, exported and measured network, however often it is stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch

import hwsearch
from hwsearch.errors import CorruptFile, InvalidInput
from hwsearch.nn import Deployment, Recipe, Supernet, finish, load_data, train
from hwsearch.searching import load_finished

torch.set_num_threads(1)

RECIPE = Recipe(epochs=6, batch=32, learning_rate=0.2, label_smoothing=0.0)


@pytest.fixture(scope="module")
def architecture(toy: hwsearch.SearchSpace) -> hwsearch.Architecture:
    """A narrow network, most of it in int8."""
    return toy.architecture(Supernet(toy).smallest).at_precision("int8")


def test_network_is_trained_with_its_teacher_quantised_exported_and_measured(
    architecture: hwsearch.Architecture, trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, teacher=trained)
    arguments = {"data": "digits", "out": tmp_path / "done", "weights": trained, "recipe": recipe, "progress": False}
    done = finish(architecture, **arguments)
    assert done.accuracy > 0.9
    assert done.float_accuracy == pytest.approx(done.accuracy, abs=0.03)
    assert done.latency_ms > 0
    assert done.teacher_ms is not None
    assert done.teacher_ms > done.latency_ms
    assert load_finished(tmp_path / "done" / "finished.json", toy) == done
    data, model = load_data("digits"), tmp_path / "done" / done.model
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = data.normalize(data.test_x).contiguous().numpy()
    right = np.concatenate([session.run(None, {"input": image[None]})[0] for image in images]).argmax(axis=1) == data.test_y.numpy()
    assert float(right.mean()) == pytest.approx(done.accuracy, abs=0.01)
    weights = Supernet.load(tmp_path / "done" / done.weights, toy)
    assert hwsearch.evaluate(architecture, weights=weights, data="digits") == done.accuracy
    again = hwsearch.export(architecture, weights=tmp_path / "done" / done.weights, out=tmp_path / "again.onnx")
    assert again.read_bytes() == model.read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "done").glob("*.safetensors")}
    assert finish(architecture, **arguments).accuracy == done.accuracy
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "done").glob("*.safetensors")}


def test_hints_without_a_teacher_are_refused(architecture: hwsearch.Architecture, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Hints come from a teacher"):
        finish(architecture, data="digits", out=tmp_path, recipe={"hints": 0.5}, progress=False)
    assert not list(tmp_path.iterdir())


def test_fine_tuning_for_a_negative_number_of_epochs_is_refused() -> None:
    with pytest.raises(InvalidInput, match="tuning must be at least 0, not -1"):
        Deployment(tuning=-1)


def test_weights_of_one_network_are_not_taken_for_those_of_another(architecture: hwsearch.Architecture, tmp_path: Path) -> None:
    toy = architecture.space
    recipe, out = replace(RECIPE, epochs=3), tmp_path / "one.safetensors"
    alone = train(toy.alone(architecture.genes), data="digits", out=out, recipe=recipe, progress=False)
    with pytest.raises(InvalidInput, match="These weights are of networks with"):
        hwsearch.evaluate(toy.architecture(Supernet(toy).largest), weights=alone, data="digits")
    with pytest.raises(InvalidInput, match="These weights are of networks with"):
        train(toy, data="digits", out=tmp_path / "all.safetensors", recipe=RECIPE, weights=tmp_path / "one.safetensors", progress=False)
    assert hwsearch.evaluate(architecture.at_precision("fp32"), weights=alone, data="digits") > 0.3


def test_inherited_weights_compute_what_the_supernet_does(trained: Path, toy: hwsearch.SearchSpace, rng: np.random.Generator) -> None:
    supernet, images = Supernet.load(trained, toy), torch.randn(32, 1, 8, 8)
    for row in toy.sample(4, rng):
        alone = Supernet(toy.alone(row))
        alone.inherit(supernet)
        supernet.activate(row)
        with torch.no_grad():
            assert torch.equal(alone.train()(images), supernet.train()(images))
        assert sum(p.numel() for p in alone.parameters()) == sum(block.params for block in toy.blocks(row))


def test_a_summary_that_is_damaged_is_refused(architecture: hwsearch.Architecture, tmp_path: Path) -> None:
    facts = {"weights": "a", "model": "b", "tuned": False, "accuracy": 0.9, "float_accuracy": 0.9, "latency_ms": 1.0, "spread_ms": 0.0}
    facts |= {"device": "d", "macs": 1, "params": 1, "size_mb": 1.0, "architecture": architecture.document()}
    whole = {"format": "hwsearch-finished", "version": 1, **facts}
    path = tmp_path / "finished.json"
    path.write_bytes(msgspec.json.encode(whole))
    assert load_finished(path, architecture.space).accuracy == 0.9
    for broken in ({**whole, "accuracy": "high"}, {name: value for name, value in whole.items() if name != "model"}):
        path.write_bytes(msgspec.json.encode(broken))
        with pytest.raises(CorruptFile):
            load_finished(path, architecture.space)


def test_command_finishes_an_architecture_and_shows_how_it_turned_out(tmp_path: Path, digits: hwsearch.SearchSpace) -> None:
    from typer.testing import CliRunner

    from hwsearch.cli import app

    narrow = digits.architecture(Supernet(digits).smallest).to_json(tmp_path / "narrow.json")
    command = ["finish", str(narrow), "--data", "digits", "--epochs", "1", "--tuning", "0", "--out", str(tmp_path / "done"), "-q"]
    done = CliRunner().invoke(app, [*command, "--set", "ema=0.5", "--set", "amp=bf16"])
    assert done.exit_code == 0, done.output
    assert "calibrated at its precisions" in done.output
    recipe = Supernet.load(tmp_path / "done" / "float.safetensors", digits).facts["recipe"]
    assert (recipe["ema"], recipe["amp"], recipe["epochs"]) == (0.5, "bf16", 1)
    assert "best.onnx" in CliRunner().invoke(app, ["show", str(tmp_path / "done" / "finished.json")]).output
    wrong = CliRunner().invoke(app, [*command, "--set", "emma=0.5"])
    assert wrong.exit_code == 1
    assert "Did you mean 'ema'" in wrong.output
    assert CliRunner().invoke(app, [*command, "--set", "ema=high"]).exit_code == 1
