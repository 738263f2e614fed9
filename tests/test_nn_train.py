"""Training: it learns, survives kill -9, and says what does not fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hwsearch
from hwsearch.errors import CorruptFile, InvalidInput, WrongSpace
from hwsearch.nn import Recipe, Supernet, load_data, train
from hwsearch.nn.score import accuracy, deployed

torch.set_num_threads(1)

RECIPE = Recipe(epochs=1, batch=32)
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from conftest import make_toy
from hwsearch.nn import Recipe, train
train(make_toy(), data="digits", out=sys.argv[1], recipe=Recipe(epochs=1, batch=32), progress=False)
"""


def test_largest_and_smallest_network_both_learn(trained: Path, toy: hwsearch.SearchSpace) -> None:
    supernet, data = Supernet.load(trained, toy), load_data("digits")
    assert accuracy(deployed(supernet, supernet.largest), data, "test") > 0.9
    assert accuracy(deployed(supernet, supernet.smallest), data, "test") > 0.8


def test_killed_training_continues_to_exactly_the_same_weights(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    whole = train(toy, data="digits", out=tmp_path / "whole.safetensors", recipe=RECIPE, progress=False)
    out, partial = tmp_path / "killed.safetensors", tmp_path / "killed.safetensors.partial"
    seen = []
    for after in (0.0, 0.1):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], cwd=Path(__file__).parent, env=_environment())
        before = _stamp(partial)
        while process.poll() is None and _stamp(partial) == before:
            time.sleep(0.005)
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(_stamp(partial))
        assert not out.exists()
        assert seen[-1] is not None
    assert seen[0] != seen[1]
    (tmp_path / ".killed.safetensors.partial.left.tmp").write_bytes(b"half a file")
    resumed = train(toy, data="digits", out=out, recipe=RECIPE, progress=False)
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
