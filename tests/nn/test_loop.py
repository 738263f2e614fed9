"""The training loop: what a recipe says changes the result or the cost, and how often it is stopped, or on how many processes, does not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import hwsearch
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.nn import Recipe, Supernet, load_data, make_data, train, tune
from hwsearch.nn.training._blending import blended
from hwsearch.nn.training._loop import Training
from hwsearch.nn.training._losses import Sandwich
from hwsearch.nn.training._maps import Forward
from hwsearch.nn.training._processes import Processes

torch.set_num_threads(1)

RECIPE = Recipe(epochs=1, batch=32, learning_rate=0.2, random_networks=1)
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from conftest import make_toy
from hwsearch.nn import PHASES, Recipe, Supernet, train
space = make_toy()
phases = PHASES["progressive"]
recipe = Recipe(epochs=int(sys.argv[3]), batch=32, parts=2, ema=0.9, amp=sys.argv[4] or None, learning_rate=0.1, phases=phases)
if sys.argv[2] == "alone":
    space = space.alone(Supernet(space).smallest)
train(space, data="digits", out=sys.argv[1], recipe=recipe, progress=False)
"""


def losses(space: hwsearch.SearchSpace, recipe: Recipe, steps: int) -> list[float]:
    """The first losses of a training."""
    training = Training(Sandwich(Supernet(space), recipe), load_data("digits"), recipe, 0, Processes())
    return [loss for _, loss in zip(range(steps), training, strict=False)]


def test_parts_of_a_batch_and_recomputed_maps_give_the_same_training(toy: hwsearch.SearchSpace) -> None:
    recipe = replace(RECIPE, parts=2)
    whole = losses(toy, recipe, 4)
    assert losses(toy, replace(recipe, recompute=True), 4) == pytest.approx(whole, rel=1e-5)
    assert losses(toy, RECIPE, 4) == pytest.approx(whole, rel=0.2)


def test_recomputing_keeps_fewer_maps(toy: hwsearch.SearchSpace) -> None:
    def kept(recompute: bool) -> int:
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Forward(recompute=recompute)(Supernet(toy), torch.randn(16, 1, 8, 8))
        return total

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_fewer_bits_learn_almost_the_same(toy: hwsearch.SearchSpace, amp: str) -> None:
    assert losses(toy, replace(RECIPE, amp=amp), 8) == pytest.approx(losses(toy, RECIPE, 8), abs=0.15)


def test_moving_average_is_the_result_and_follows_the_weights(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    space = toy.alone(Supernet(toy).smallest)
    last, average = (
        train(space, data="digits", out=tmp_path / f"{ema}.safetensors", recipe=replace(RECIPE, ema=ema), progress=False)
        for ema in (0.0, 0.9)
    )
    far, near, weight = (one.state_dict()["blocks.stem.body.0.weight"] for one in (Supernet(space), average, last))
    assert 0 < float((weight - near).norm()) < float((weight - far).norm())


def test_mixed_images_have_mixed_labels_and_are_those_of_their_step(toy: hwsearch.SearchSpace) -> None:
    seen = []
    for recipe in (replace(RECIPE, mixup=0.4), replace(RECIPE, cutmix=1.0), replace(RECIPE, mixup=0.4, cutmix=1.0)):
        x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
        pairs = [blended(recipe, 10, x, y, (0, step)) for step in (0, 1, 2, 3, 0)]
        assert all(torch.allclose(labels.sum(dim=1), torch.ones(8)) for _, labels in pairs)
        assert torch.equal(pairs[0][0], pairs[4][0])
        assert not torch.equal(pairs[0][0], pairs[1][0])
        seen.append(losses(toy, recipe, 2))
    assert len({tuple(one) for one in seen}) == 3


@pytest.mark.slow
def test_single_network_killed_again_and_again_ends_the_same(tmp_path: Path) -> None:
    """In fp16, so that the scale of the losses is part of the state, as is the moving average."""
    amp, out, whole = "fp16", tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    assert run([sys.executable, "-c", SCRIPT, str(whole), "alone", "3", amp]).wait() == 0
    for _ in range(3):
        process, before = run([sys.executable, "-c", SCRIPT, str(out), "alone", "3", amp]), stamp(Path(f"{out}.partial"))
        deadline = time.monotonic() + 60
        while process.poll() is None and stamp(Path(f"{out}.partial")) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            break
    assert run([sys.executable, "-c", SCRIPT, str(out), "alone", "3", amp]).wait() == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_two_nodes_learn_what_one_does(tmp_path: Path) -> None:
    """Two ``torchrun``s on the loopback interface, each a node of one process, in phases: with two parts the sums are the same bytes.

    One of the starts.
    """
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert run([sys.executable, "-c", SCRIPT, str(one), "all", "1", ""]).wait() == 0
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port))
    words = (str(script), str(two), "all", "1", "")
    nodes = [run([sys.executable, "-m", "torch.distributed.run", *where, "--node-rank", str(rank), *words]) for rank in range(2)]
    assert [node.wait() for node in nodes] == [0, 0]
    assert one.read_bytes() == two.read_bytes()


def test_parts_must_suit_the_processes(toy: hwsearch.SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["hwsearch.nn.training._train"], "processes", lambda: Processes(0, 2))
    with pytest.raises(InvalidInput, match="choose a multiple of 2"):
        train(toy, data="digits", out=tmp_path / "a.safetensors", recipe=replace(RECIPE, parts=3), progress=False)


def test_tuning_at_two_bits_repairs_what_rounding_broke(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    from hwsearch.spaces import Chain, Stage

    space = Chain("bits", (8,), (8,), (Stage((1,), (16,), (16,), 2),), 10, ("fp32", "int2"), channels=1).space()
    architecture = hwsearch.searching.dense(space, "int2")
    data = load_data("digits")
    recipe = Recipe(epochs=8, batch=32, learning_rate=0.2)
    floating = train(space.alone(architecture.genes), data=data, out=tmp_path / "float.safetensors", recipe=recipe, progress=False)
    before = hwsearch.evaluate(architecture, weights=floating, data=data)
    tuned = tune(
        floating, data=data, out=tmp_path / "tuned.safetensors", recipe=replace(recipe, epochs=3, learning_rate=0.02), progress=False
    )
    assert hwsearch.evaluate(architecture, weights=tuned, data=data) > before + 0.05
    supernet = Supernet.load(trained, toy)
    with pytest.raises(InvalidInput, match="trained alone"):
        tune(supernet, data=data, out=tmp_path / "no.safetensors", recipe=recipe, progress=False)


@pytest.mark.parametrize(
    "wrong", [{"parts": 20}, {"ema": 1.0}, {"mixup": -1.0}, {"distill": 2.0}, {"temperature": 0.0}, {"hints": float("inf")}]
)
def test_recipe_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Recipe(**{"epochs": 1, "batch": 32, **wrong})
    with pytest.raises(UnknownName, match="Did you mean 'bf16'"):
        Recipe(epochs=1, amp="bf166")


def test_data_without_a_whole_batch_are_used_whole(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    split = (rng.integers(0, 256, size=(20, 1, 8, 8), dtype=np.uint8), np.arange(20) % 10)
    data = make_data("few", split, split, split)
    assert train(toy, data=data, out=tmp_path / "few.safetensors", recipe=RECIPE, progress=False).facts["recipe"]["batch"] == 20


def run(command: list[str]) -> subprocess.Popen[bytes]:
    paths = [str(ROOT), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return subprocess.Popen(command, env=environment)


def stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
