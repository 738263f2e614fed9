"""Training: it learns, survives kill -9, and says what does not fit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors import safe_open

import hwsearch
from hwsearch.errors import CorruptFile, InvalidInput, WrongSpace
from hwsearch.nn import PHASES, Recipe, Supernet, load_data, train
from hwsearch.nn._evaluate import accuracy, deployed
from hwsearch.nn.training._loop import ChangedWarning, SkippedWarning, Training
from hwsearch.nn.training._losses import Sandwich
from hwsearch.nn.training._processes import Processes

torch.set_num_threads(1)

RECIPE = Recipe(epochs=1, batch=32)
SCRIPT = """
import os, sys, torch
torch.set_num_threads(1)
from conftest import make_toy
from hwsearch.nn import PHASES, Recipe, load_data, train
load_data("digits"), torch.optim.SGD([torch.zeros(1)])  # imports the rest of scikit-learn and torch
for _ in sys.stdin:  # each training is a process of its own, which need not import all that again
    child = os.fork()
    if not child:
        train(make_toy(), data="digits", out=sys.argv[1], recipe=Recipe(epochs=1, batch=32, phases=PHASES[sys.argv[2]]), progress=False)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_largest_and_smallest_network_both_learn(trained: Path, toy: hwsearch.SearchSpace) -> None:
    supernet, data = Supernet.load(trained, toy), load_data("digits")
    assert accuracy(deployed(supernet, supernet.largest), data, "test") > 0.9
    assert accuracy(deployed(supernet, supernet.smallest), data, "test") > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("phases", PHASES)
def test_training_killed_ten_times_continues_to_exactly_the_same_weights(toy: hwsearch.SearchSpace, tmp_path: Path, phases: str) -> None:
    recipe, start = replace(RECIPE, phases=PHASES[phases]), time.perf_counter()
    whole = train(toy, data="digits", out=tmp_path / "whole.safetensors", recipe=recipe, progress=False)
    took = time.perf_counter() - start
    out, partial = tmp_path / "killed.safetensors", tmp_path / "killed.safetensors.partial"
    rng, steps = random.Random(0), [0]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out), phases], cwd=Path(__file__).parents[1], env=_environment(), **pipes
    ) as nursery:
        assert nursery.stdin
        assert nursery.stdout
        for kill in range(10):
            print(file=nursery.stdin, flush=True)
            child, before, deadline = int(nursery.stdout.readline()), _stamp(partial), time.monotonic() + 60
            # Two of ten at any moment from the start of the training; the others while it steps.
            while kill % 5 and _stamp(partial) == before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, min(0.01, took / 100) if kill % 5 else min(0.5, took / 8)))  # fast machines end sooner
            os.kill(child, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == -signal.SIGKILL, "the training ended before it was killed"
            assert not out.exists()
            steps.append(_step(partial))
    assert steps == sorted(steps), "a step that was on disk is lost"
    assert len(set(steps)) >= 9
    (tmp_path / ".killed.safetensors.partial.0123abcd.tmp").write_bytes(b"half a file")
    resumed = train(toy, data="digits", out=out, recipe=recipe, progress=False)
    assert resumed.digest == whole.digest
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.safetensors", "whole.safetensors"]


def test_finished_training_is_not_repeated_and_other_arguments_are_refused(trained: Path, toy: hwsearch.SearchSpace) -> None:
    stamp = _stamp(trained)
    recipe = Recipe(epochs=10, batch=32, learning_rate=0.2, random_networks=1)
    assert train(toy, data="digits", out=trained, recipe=recipe, progress=False).digest == Supernet.load(trained, toy).digest
    with pytest.raises(InvalidInput, match=r"epochs 10 there and 13 here.*name another file"):
        train(toy, data="digits", out=trained, recipe=replace(recipe, epochs=13), progress=False)
    with pytest.raises(InvalidInput, match="seed 0 there and 1 here"):
        train(toy, data="digits", out=trained, recipe=recipe, seed=1, progress=False)
    with pytest.raises(WrongSpace):
        train("resnet_digits", data="digits", out=trained, recipe=recipe, progress=False)
    assert _stamp(trained) == stamp


def test_damaged_checkpoint_is_refused(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors.partial").write_bytes(b"not a checkpoint")
    with pytest.raises(CorruptFile, match=r"a\.safetensors\.partial"):
        train(toy, data="digits", out=tmp_path / "a.safetensors", recipe=RECIPE, progress=False)


def test_images_that_do_not_fit_the_space_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"takes 3 channel.*has 1 and 10"):
        train("resnet_cifar", data="digits", out=tmp_path / "a.safetensors", progress=False)


def test_divergence_is_an_error_and_no_result(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    with pytest.raises(InvalidInput, match="smaller learning_rate"):
        train(toy, data="digits", out=out, recipe=Recipe(epochs=1, batch=64, learning_rate=1e30, warm_up=0.0), progress=False)
    assert not out.exists()
    assert not list(tmp_path.iterdir()), "a state that leads there is not kept"
    train(toy, data="digits", out=out, recipe=Recipe(epochs=1, batch=512), progress=False)  # the advice can be followed


class Faulty(Sandwich):
    """Its losses are not finite in the steps of ``faults``."""

    faults: ClassVar[set[int]] = set()
    made: ClassVar[int] = 0

    def __call__(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        Faulty.made += 1
        for loss in super().__call__(x, y, rng):
            yield loss * float("nan") if Faulty.made in self.faults else loss


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[Faulty]:
    """Trainings learn so from now on; steps are counted from 1."""
    monkeypatch.setattr(sys.modules["hwsearch.nn.training._train"], "Sandwich", Faulty)
    monkeypatch.setattr(Faulty, "made", 0)
    monkeypatch.setattr(sys.modules["hwsearch.nn.training._loop"], "_PATIENCE", 0)  # states are written after every step
    return Faulty


def test_single_steps_that_are_not_finite_are_left_out_and_counted(
    faulty: type[Faulty], toy: hwsearch.SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faulty, "faults", {2, 6, 7, 8, 9, 16})
    out = tmp_path / "a.safetensors"
    how = {"data": "digits", "out": out, "recipe": Recipe(epochs=1, batch=64, random_networks=1), "progress": False}
    with pytest.warns(SkippedWarning, match="6 of 16 steps were skipped"):
        done = train(toy, **how)
    assert done.facts["happened"] == {"skipped": 6}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in Supernet.load(out, toy).state_dict().values())
    assert train(toy, **how).digest == done.digest, "what happened is no argument: the result is handed back"


@pytest.mark.parametrize("alone", [False, True])
def test_several_bad_steps_are_refused_and_a_good_state_stays(
    faulty: type[Faulty], toy: hwsearch.SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    space = toy.alone(Supernet(toy).smallest) if alone else toy
    monkeypatch.setattr(faulty, "faults", set(range(11, 1000)))
    out = tmp_path / "a.safetensors"
    recipe = Recipe(epochs=1, batch=64, random_networks=1, learning_rate=0.2)
    with pytest.raises(
        InvalidInput, match=r"5 step\(s\) in a row.*step 15 of 16.*smaller learning_rate than 0.2.*clip.*a.safetensors.partial keeps"
    ):
        train(space, data="digits", out=out, recipe=recipe, progress=False)
    monkeypatch.setattr(faulty, "faults", set())
    with pytest.raises(InvalidInput, match="label_smoothing"):
        train(space, data="digits", out=out, recipe=replace(recipe, label_smoothing=0.2), progress=False)
    monkeypatch.setattr(faulty, "made", 0)
    with pytest.warns(ChangedWarning, match="from step 8 with learning_rate 0.05 instead of 0.2, clip 1.0 instead of 0.0"):
        done = train(space, data="digits", out=out, recipe=replace(recipe, learning_rate=0.05, clip=1.0), progress=False)
    assert faulty.made == 8, "the steps that were good are not made again"
    assert done.facts["happened"] == {"changes": [{"step": 8, "learning_rate": 0.05, "clip": 1.0}]}
    assert sorted(tmp_path.iterdir()) == [out]


def test_a_bad_step_leaves_no_trace_in_the_statistics_of_a_network(toy: hwsearch.SearchSpace) -> None:
    """A running mean that is not a number stays so, however little it weighs."""
    supernet = Supernet(toy.alone(Supernet(toy).smallest))
    for name, buffer in supernet.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(float("nan"))
    supernet.calibrate_bn(torch.randn(32, 1, 8, 8))
    assert bool(torch.isfinite(supernet(torch.randn(2, 1, 8, 8))).all())


def test_gradients_are_clipped_by_option(toy: hwsearch.SearchSpace) -> None:
    """The first step of plain gradient descent moves the weights by the rate times the clipped norm."""
    moved = []
    for clip in (0.0, 0.05, 1e9):
        recipe = Recipe(epochs=1, batch=64, learning_rate=0.5, warm_up=0.0, momentum=0.0, weight_decay=0.0, clip=clip)
        supernet = Supernet(toy)
        before = torch.cat([parameter.detach().flatten().clone() for parameter in supernet.parameters()])
        next(iter(Training(Sandwich(supernet, recipe), load_data("digits"), recipe, 0, Processes())))
        moved.append(float((torch.cat([parameter.detach().flatten() for parameter in supernet.parameters()]) - before).norm()))
    assert moved[0] == moved[2] > 0.05
    assert moved[1] == pytest.approx(0.5 * 0.05, rel=1e-3)


def test_last_step_that_diverges_is_an_error_too(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch=1077, learning_rate=3.3e38, weight_decay=0.99, warm_up=0.0)
    out = tmp_path / "a.safetensors"
    with pytest.raises(InvalidInput, match="step 1 of 1. Call again with a smaller learning_rate"):
        train(toy, data="digits", out=out, recipe=recipe, progress=False)
    assert not out.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": 1},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"random_networks": -1},
        {"clip": -1.0},
    ],
)
def test_recipe_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Recipe(**{"epochs": 1, **wrong})


def _environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _step(partial: Path) -> int:
    """The step of a checkpoint, 0 where there is none; fails where it is half-written."""
    if not partial.exists():
        return 0
    with safe_open(partial, framework="pt") as file:
        return int(json.loads(file.metadata()["hwsearch"])["step"])


class Counted:
    """A metric that holds what cannot be copied, such as a stream of images."""

    def __init__(self) -> None:
        self.stream = (number for number in range(3))

    def __call__(self, network: torch.nn.Module) -> float:
        return 0.5


def test_functions_of_a_recipe_are_named_and_not_copied() -> None:
    recipe = Recipe(epochs=1, metric=Counted(), loss=torch.nn.CrossEntropyLoss())
    assert recipe.document["metric"] == "Counted"
    assert recipe.document["loss"] == "CrossEntropyLoss"
    assert Recipe(epochs=1).document["metric"] is None
