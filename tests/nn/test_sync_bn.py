"""Batch norms of several processes go by the whole batch where the recipe says so (``sync_bn``), and by each part alone where not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, make_toy
from safetensors.torch import load_file, save_file

import hwsearch
from hwsearch.errors import InvalidInput
from hwsearch.nn import Recipe, Supernet, make_data, train, tune
from hwsearch.nn.adoption._distilled import Distilling
from hwsearch.nn.adoption._judge import Judge
from hwsearch.nn.adoption._state import copied
from hwsearch.nn.adoption._student import Floating
from hwsearch.nn.supernet._elastic import ElasticNorm
from hwsearch.nn.training._loop import Training, learn
from hwsearch.nn.training._norms import normalised
from hwsearch.nn.training._processes import ALONE, Processes, processes
from hwsearch.nn.training._train import suited
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)
SYNCED = Recipe(epochs=1, batch=32, learning_rate=0.02, random_networks=1, recompute=True, sync_bn=True)


def learned(folder: Path, sync_bn: bool) -> None:
    """Train a supernet, and a network of the user's, on images that are augmented by nothing: augmentation depends on the parts."""
    rng, labels = np.random.default_rng(0), np.arange(192) % 10
    images = np.clip(rng.normal(20 * labels[:, None, None, None], 40, size=(192, 1, 8, 8)), 0, 255).astype(np.uint8)
    data = make_data("spots", (images, labels), classes=10)
    recipe = replace(SYNCED, sync_bn=sync_bn)
    train(make_toy(), data=data, out=folder / "toy.safetensors", recipe=recipe, progress=False)
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(216, 10))
    module = torch.nn.Sequential(*layers, torch.nn.BatchNorm1d(10)).eval()
    graph = copied(hwsearch.adopt(module, torch.rand(2, 1, 8, 8)).network)
    batches = [(data.normalize(data.train_x[:64]),)]
    student, team = Floating(graph, (), batches), processes()
    recipe = suited(recipe, data, None)
    losses = Distilling(student, graph, recipe, Judge(data, module), lambda: batches, "own")
    learn(Training(losses, data, recipe, 0, team), folder / "own.partial", {}, title="own", progress=False)
    if team.first:
        save_file({name: each.detach().contiguous() for name, each in graph.named_parameters()}, folder / "own.safetensors")
    team.wait()


def tuned(folder: Path) -> None:
    """Tune a network at three bits, and write what each process ends with."""
    space = Chain("bits", (8,), (8,), (Stage((1,), (16,), (16,), 2),), 10, ("fp32", "int3"), channels=1).space()
    alone, recipe = space.alone(hwsearch.searching.dense(space, "int3").genes), Recipe(epochs=1, batch=32, learning_rate=0.02)
    floating = train(alone, data="digits", out=folder / "float.safetensors", recipe=recipe, progress=False)
    done = tune(floating, data="digits", out=folder / "tuned.safetensors", recipe=recipe, progress=False)
    done.save(folder / f"{processes().rank}.safetensors")


def two_processes(code: str) -> None:
    """Run code in two processes that talk by gloo on the loopback interface, as ``torchrun`` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = f"from pathlib import Path; from test_sync_bn import learned, tuned\n{code}"
    paths = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **shared, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}
    members = [subprocess.Popen([sys.executable, "-c", code], env={**environment, "RANK": str(rank)}) for rank in range(2)]
    assert [each.wait() for each in members] == [0, 0]


def apart(first: Path, second: Path) -> float:
    """By how much the weights of two files differ at most, in the largest of the weights of their tensor."""
    mine, others = load_file(first), load_file(second)
    assert mine.keys() == others.keys()
    floats = [name for name, each in mine.items() if each.is_floating_point()]
    return max(float((mine[name] - others[name]).abs().max() / (others[name].abs().max() + 1e-3)) for name in floats)


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_the_whole_batch(tmp_path: Path) -> None:
    """With ``sync_bn`` to rounding; without it they learn something else. Elastic norms, norms of adopted networks, recomputed maps."""
    for name in ("one", "synced", "apart"):
        (tmp_path / name).mkdir()
    learned(tmp_path / "one", sync_bn=True)
    two_processes(f"for name in ('synced', 'apart'): learned(Path({str(tmp_path)!r}, name), sync_bn=name == 'synced')")
    for file in ("toy.safetensors", "own.safetensors"):
        same, other = (apart(tmp_path / name / file, tmp_path / "one" / file) for name in ("synced", "apart"))
        assert same < 1e-3 < 5e-3 < other, file
    supernet = Supernet.load(tmp_path / "synced" / "toy.safetensors", make_toy())
    assert supernet.facts["recipe"]["sync_bn"] is True
    assert all(module.team is ALONE for module in supernet.modules() if isinstance(module, ElasticNorm))


@pytest.mark.slow
def test_two_processes_tune_one_network(tmp_path: Path) -> None:
    """Each has seen other images, and both end with the same weights, steps and statistics."""
    two_processes(f"tuned(Path({str(tmp_path)!r}))")
    assert apart(tmp_path / "0.safetensors", tmp_path / "1.safetensors") == 0.0


class Twins(Processes):
    """Two processes with the same images."""

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor.mul_(2)


@pytest.mark.parametrize("shape", [(8, 5), (8, 5, 7), (8, 5, 4, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_norms_have_the_values_and_gradients_of_plain_ones(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Also where the mean is large beside the deviation, so that a difference of squares would be lost."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator) + (300 if dtype == torch.float32 else 1)).to(dtype).requires_grad_()
    given = torch.randn(shape, generator=generator).to(dtype)
    weight, bias = (torch.rand(5, generator=generator).requires_grad_() for _ in range(2))
    found = []
    for team in (Processes(0, 1), Twins(0, 2)):
        y = normalised(x, weight, bias, 1e-5, team)
        found.append((y, *torch.autograd.grad(y, (x, weight, bias), given)))
    close = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    for mine, plain in zip(found[1], found[0], strict=True):
        assert mine.dtype == plain.dtype
        assert torch.allclose(mine, plain, **close)
    assert torch.allclose(found[0][0], F.batch_norm(x, None, None, weight, bias, True, 0.0, 1e-5))


def test_parts_that_no_process_runs_at_the_same_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"each process runs one part.*1 process\(es\) are to run 2.*--nproc-per-node 2"):
        train(make_toy(), data="digits", out=tmp_path / "a.safetensors", recipe={"sync_bn": True, "parts": 2}, progress=False)
    with pytest.raises(InvalidInput, match="sync_bn of a recipe must be true or false"):
        Recipe(epochs=1, sync_bn="yes")  # type: ignore[arg-type]
