"""Training: it learns, survives kill -9, and says what does not fit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import hwsearch
from hwsearch.errors import CorruptFile, InvalidInput, WrongSpace
from hwsearch.nn import PHASES, Recipe, Supernet, load_data, train
from hwsearch.nn.score import accuracy, deployed

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
    recipe = replace(RECIPE, phases=PHASES[phases])
    whole = train(toy, data="digits", out=tmp_path / "whole.safetensors", recipe=recipe, progress=False)
    out, partial = tmp_path / "killed.safetensors", tmp_path / "killed.safetensors.partial"
    rng, steps = random.Random(0), [0]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out), phases], cwd=Path(__file__).parent, env=_environment(), **pipes
    ) as nursery:
        assert nursery.stdin
        assert nursery.stdout
        for kill in range(10):
            print(file=nursery.stdin, flush=True)
            child, before, deadline = int(nursery.stdout.readline()), _stamp(partial), time.monotonic() + 60
            # Two of ten at any moment from the start of the training; the others while it steps.
            while kill % 5 and _stamp(partial) == before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.01 if kill % 5 else 0.5))
            os.kill(child, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == -signal.SIGKILL, "the training ended before it was killed"
            assert not out.exists()
            steps.append(_step(partial))
    assert steps == sorted(steps), "a step that was on disk is lost"
    assert len(set(steps)) >= 9
    (tmp_path / ".killed.safetensors.partial.left.tmp").write_bytes(b"half a file")
    resumed = train(toy, data="digits", out=out, recipe=recipe, progress=False)
    assert resumed.digest == whole.digest
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.safetensors", "whole.safetensors"]


def test_finished_training_is_not_repeated_and_other_arguments_are_refused(trained: Path, toy: hwsearch.SearchSpace) -> None:
    stamp = _stamp(trained)
    recipe = Recipe(epochs=10, batch=32, learning_rate=0.2, random_networks=1)
    assert train(toy, data="digits", out=trained, recipe=recipe, progress=False).digest == Supernet.load(trained, toy).digest
    with pytest.raises(InvalidInput, match=r"epochs 10 there and 13 here.*name another file"):
        train(toy, data="digits", out=trained, recipe=recipe, epochs=13, progress=False)
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
    train(toy, data="digits", out=out, recipe=Recipe(epochs=1, batch=512), progress=False)  # the advice can be followed


def test_last_step_that_diverges_is_an_error_too(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch=1077, learning_rate=3.3e38, weight_decay=0.99, warm_up=0.0)
    out = tmp_path / "a.safetensors"
    with pytest.raises(InvalidInput, match="step 1 of 1: try a smaller learning_rate"):
        train(toy, data="digits", out=out, recipe=recipe, progress=False)
    assert not out.exists()


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 1}, {"learning_rate": float("nan")}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"random_networks": -1}],
)
def test_recipe_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Recipe(**{"epochs": 1, **wrong})


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _step(partial: Path) -> int:
    """The step of a checkpoint, 0 where there is none; fails where it is half-written."""
    if not partial.exists():
        return 0
    with safe_open(partial, framework="pt") as file:
        return int(json.loads(file.metadata()["hwsearch"])["step"])
