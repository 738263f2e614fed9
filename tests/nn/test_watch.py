"""Training that tells: logs, callbacks, early stopping, optimisers and schedules by name, weights of classes, own losses and metrics."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from hwsearch.cli import app
from hwsearch.errors import InvalidInput, MissingDependency, UnknownName
from hwsearch.nn import Data, Recipe, Supernet, Watch, evaluate, make_data, train
from hwsearch.nn.training._losses import of_labels
from hwsearch.nn.training._recipe import recipe_for
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)
SPACE = Chain("toy", (8,), (8,), (Stage((1, 2, 3), (8, 12, 16), (8, 12)),), 2, ("fp32", "int8"), 1).space()
RECIPE: dict[str, Any] = {"epochs": 3, "batch": 16, "learning_rate": 0.05, "amp": None}


@pytest.fixture(scope="module")
def data() -> Data:
    """Bright and dark images, ninety of the one to thirty of the other."""
    rng = np.random.default_rng(0)
    y = (np.arange(120) % 4 == 0).astype(int)
    return make_data("levels", (np.clip(rng.normal(90 + 80 * y[:, None, None], 30, size=(120, 8, 8)), 0, 255).astype(np.uint8), y))


def test_a_log_tells_losses_accuracies_rates_and_times_as_csv_and_to_a_function(data: Data, tmp_path: Path) -> None:
    """One of the starts."""
    told: list[dict[str, Any]] = []
    watch = Watch(csv=tmp_path / "log.csv", callback=told.append, metrics={"mean": lambda logits, labels: labels.float().mean()}, bar=False)
    train(SPACE, data=data, out=tmp_path / "s.safetensors", recipe=RECIPE, progress=watch)
    assert [row["epoch"] for row in told] == [1, 2, 3]
    names = {"loss", "learning_rate", "images_per_second", "seconds", "seconds_left", "step", "epoch", "val_mean"}
    assert set(told[0]) == names | {"val_largest", "val_large", "val_small", "val_smallest"}
    assert told[-1]["seconds_left"] == 0
    assert told[0]["val_mean"] == pytest.approx(0.25)
    assert told[-1]["val_largest"] >= 0.75
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in told]


def test_watching_changes_nothing(data: Data, tmp_path: Path) -> None:
    watched = train(SPACE, data=data, out=tmp_path / "a.safetensors", recipe=RECIPE, progress=Watch(bar=False, callback=lambda told: None))
    alone = train(SPACE, data=data, out=tmp_path / "b.safetensors", recipe=RECIPE, progress=False)
    assert watched.digest == alone.digest


class Stop(Exception):
    """Somebody stops a training."""


def stopped(out: Path, data: Data, recipe: dict[str, Any], log: Path, epoch: int) -> None:
    """Train until an epoch has been told, and stop."""

    def stop(told: dict[str, Any]) -> None:
        if told["epoch"] == epoch:
            raise Stop

    with pytest.raises(Stop):
        train(SPACE, data=data, out=out, recipe=recipe, progress=Watch(csv=log, callback=stop, bar=False))


@pytest.mark.parametrize("optimizer", ["sgd", "AdamW"])
def test_a_log_and_an_optimiser_go_on_where_they_stopped(
    data: Data, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsearch.nn.training._loop._PATIENCE", 0)  # a state after every step
    recipe = {**RECIPE, "optimizer": optimizer, "learning_rate": 0.003}
    straight = train(SPACE, data=data, out=tmp_path / "a.safetensors", recipe=recipe, progress=False)
    stopped(tmp_path / "b.safetensors", data, recipe, tmp_path / "log.csv", 2)
    resumed = train(SPACE, data=data, out=tmp_path / "b.safetensors", recipe=recipe, progress=Watch(csv=tmp_path / "log.csv", bar=False))
    assert resumed.digest == straight.digest
    with open(tmp_path / "log.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_a_file_that_is_no_log_is_not_overwritten(data: Data, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("name,price\nflour,3\n")
    with pytest.raises(InvalidInput, match="is no log of a training"):
        train(SPACE, data=data, out=tmp_path / "s.safetensors", recipe=RECIPE, progress=Watch(csv=tmp_path / "log.csv", bar=False))


def test_tensorboard_where_it_is_installed(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "runs")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None: ...
        def close(self) -> None:
            written.append(("closed", 0.0, 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    watch = Watch(tensorboard=tmp_path / "runs", images=0, bar=False)
    train(SPACE, data=data, out=tmp_path / "s.safetensors", recipe={**RECIPE, "epochs": 1}, progress=watch)
    assert {"loss", "learning_rate", "closed"} <= {name for name, _, _ in written}
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependency, match="tensorboard"):
        Watch(tensorboard=tmp_path)


def test_patience_stops_and_keeps_the_best_and_the_last_weights(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy that rises for two epochs and then falls: the second epoch is the result, also of a training that was stopped."""
    monkeypatch.setattr("hwsearch.nn.training._loop._PATIENCE", 0)
    scores = iter([0.1] * 4 + [0.5] * 4 + [0.2] * 100)
    monkeypatch.setattr("hwsearch.nn.training._watch.Log._judged", lambda self, network, name, metrics: {name: next(scores)})
    recipe, told = {**RECIPE, "epochs": 9, "patience": 2, "schedule": "constant"}, []
    out = tmp_path / "s.safetensors"
    best = train(SPACE, data=data, out=out, recipe=recipe, progress=Watch(callback=told.append, bar=False))
    assert [row["epoch"] for row in told] == [1, 2, 3, 4]
    last = Supernet.load(tmp_path / "s.last.safetensors", SPACE)
    assert best.digest == Supernet.load(out, SPACE).digest != last.digest
    two = train(
        SPACE,
        data=data,
        out=tmp_path / "two.safetensors",
        recipe={**RECIPE, "epochs": 9, "schedule": "constant"} | {"epochs": 9},
        progress=False,
    )
    assert two.digest not in (best.digest, last.digest)
    assert not list(tmp_path.glob("*.best"))

    scores = iter([0.1] * 4 + [0.5] * 4 + [0.2] * 100)
    stopped(tmp_path / "again.safetensors", data, recipe, tmp_path / "log.csv", 3)
    again = train(SPACE, data=data, out=tmp_path / "again.safetensors", recipe=recipe, progress=False)
    assert again.digest == best.digest


@pytest.mark.parametrize("name", ["AdamW", "adam", "RMSprop", "NAdam", "Adadelta"])
def test_optimisers_by_name(data: Data, tmp_path: Path, name: str) -> None:
    recipe = {**RECIPE, "epochs": 1, "optimizer": name, "learning_rate": 0.001}
    assert all(
        bool(torch.isfinite(each).all())
        for each in train(SPACE, data=data, out=tmp_path / "s.safetensors", recipe=recipe, progress=False).parameters()
    )


def test_schedules_by_name() -> None:
    recipe = Recipe(epochs=1, warm_up=0.1, learning_rate=2.0)
    from dataclasses import replace

    assert [replace(recipe, schedule="constant").rate(step, 20) for step in (0, 2, 19)] == [1.0, 2.0, 2.0]
    assert replace(recipe, schedule="linear").rate(11, 20) == pytest.approx(1.0)
    steps = replace(recipe, schedule="MultiStepLR", schedule_options={"milestones": [4, 8], "gamma": 0.5})
    assert [steps.rate(step, 20) for step in (2, 5, 6, 10)] == [2.0, 2.0, 1.0, 0.5]


def test_what_does_not_exist_is_named() -> None:
    for wrong, said in (
        ({"optimizer": "AdamX"}, "Did you mean 'adam'"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"class_weights": "balance"}, "Did you mean 'balanced'"),
    ):
        with pytest.raises(UnknownName, match=said):
            recipe_for("digits", wrong)
    for unfit, said in (
        ({"optimizer": "LBFGS"}, "Unknown optimizer"),
        ({"optimizer": "AdamW", "optimizer_options": {"beta": 1}}, "does not take"),
        ({"schedule": "StepLR"}, "does not take"),
        ({"schedule": "cosine", "schedule_options": {"T_max": 3}}, "takes no options"),
        ({"patience": -1}, "patience must be a whole number"),
        ({"loss": "mse"}, "loss must be a function"),
        ({"class_weights": [1.0, -1.0]}, "finite numbers of at least 0"),
    ):
        with pytest.raises(InvalidInput, match=said):
            recipe_for("digits", unfit)


def test_class_weights_label_smoothing_and_a_loss_of_the_users(data: Data, tmp_path: Path) -> None:
    logits, y = torch.tensor([[2.0, -1.0], [0.5, 0.0], [0.0, 3.0]]), torch.tensor([0, 0, 1])
    plain = Recipe(epochs=1, label_smoothing=0.0)
    from dataclasses import replace

    weighted = replace(plain, class_weights=(1.0, 3.0), label_smoothing=0.2)
    expected = F.cross_entropy(logits, y, weight=torch.tensor([1.0, 3.0]), label_smoothing=0.2)
    assert of_labels(weighted, logits, y) == expected != of_labels(plain, logits, y)
    balanced = train(SPACE, data=data, out=tmp_path / "b.safetensors", recipe={**RECIPE, "class_weights": "balanced"}, progress=False)
    assert balanced.facts["recipe"]["class_weights"] == pytest.approx([96 / 2 / 72, 96 / 2 / 24])
    with pytest.raises(InvalidInput, match="class_weights has 3 numbers, and data 'levels' has 2 classes"):
        train(SPACE, data=data, out=tmp_path / "c.safetensors", recipe={**RECIPE, "class_weights": (1, 2, 3)}, progress=False)
    seen: list[tuple[int, ...]] = []

    def squares(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(labels.shape))
        return F.mse_loss(logits, F.one_hot(labels, 2).float())

    own = train(SPACE, data=data, out=tmp_path / "own.safetensors", recipe={**RECIPE, "epochs": 1, "loss": squares}, progress=False)
    assert seen[0] == (16,)
    assert own.facts["recipe"]["loss"].endswith("squares")


def test_a_metric_of_the_users(data: Data, tmp_path: Path) -> None:
    supernet = train(SPACE, data=data, out=tmp_path / "s.safetensors", recipe={**RECIPE, "epochs": 1}, progress=False)
    network = SPACE.architecture(supernet.largest)
    right = evaluate(network, weights=supernet, data=data)
    assert evaluate(network, weights=supernet, data=data, metric=lambda z, y: (z.argmax(1) == y).float().mean()) == pytest.approx(right)


def test_the_device_is_chosen_by_its_name(data: Data, tmp_path: Path) -> None:
    train(SPACE, data=data, out=tmp_path / "s.safetensors", recipe={**RECIPE, "epochs": 1, "device": "cpu"}, progress=False)
    for missing in ("xpu", "no_such"):
        with pytest.raises(InvalidInput, match=f"device '{missing}' is not there"):
            train(SPACE, data=data, out=tmp_path / "t.safetensors", recipe={**RECIPE, "device": missing}, progress=False)


def test_the_shell_logs_and_sets(tmp_path: Path) -> None:
    words = [
        "train",
        "resnet_digits",
        "--epochs",
        "1",
        "--batch",
        "512",
        "--log",
        str(tmp_path / "log.csv"),
        "-q",
        "-o",
        str(tmp_path / "s.safetensors"),
    ]
    result = CliRunner().invoke(app, [*words, "--set", "optimizer=AdamW", "--set", "learning_rate=0.001"], env={"TERM": "dumb"})
    assert result.exit_code == 0, result.output
    assert (tmp_path / "log.csv").read_text().startswith("epoch,step,loss,learning_rate,images_per_second")


def test_an_augmentation_of_the_users_is_drawn_from_the_seed(data: Data, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def darker(images: torch.Tensor) -> torch.Tensor:
        seen.append((images * torch.rand(len(images), 1, 1, 1)).to(torch.uint8))
        return seen[-1]

    recipe = {**RECIPE, "epochs": 1, "augment": darker}
    first = train(SPACE, data=data, out=tmp_path / "a.safetensors", recipe=recipe, progress=False)
    once, seen[:] = list(seen), []
    second = train(SPACE, data=data, out=tmp_path / "b.safetensors", recipe=recipe, progress=False)
    assert first.digest == second.digest
    assert all(torch.equal(one, other) for one, other in zip(once, seen, strict=True))
    assert not torch.equal(once[0], once[1])
    assert first.facts["recipe"]["augment"].endswith("darker")
    plain = train(SPACE, data=data, out=tmp_path / "c.safetensors", recipe={**recipe, "augment": None}, progress=False)
    assert plain.digest != first.digest
    with pytest.raises(InvalidInput, match="augment must give uint8 images of shape .*not torch.float32"):
        train(SPACE, data=data, out=tmp_path / "d.safetensors", recipe={**recipe, "augment": lambda x: x / 255}, progress=False)
