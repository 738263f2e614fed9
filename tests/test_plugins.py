"""Plug-ins that live outside of the package: each is one file and one line of entry points, and works like what ships."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SPACE = """
import hwsearch
from hwsearch.spaces import Chain, Stage


def build(classes=10) -> hwsearch.SearchSpace:
    stage = Stage(depths=(1, 2), outs=(8, 16), mids=(8, 16))
    return Chain("acme_space", (8,), (8,), (stage,), classes, ("fp32", "int8"), channels=1).space()
"""

BACKEND = """
import numpy as np

from hwsearch.backends import Backend, Session
from hwsearch.devices import Device


class _Simulated(Session):
    def __init__(self, seconds):
        self.seconds = seconds

    def times(self, runs):
        return np.full(runs, self.seconds)


class Npu(Backend):
    name = "acme_npu"
    precisions = ("fp32", "int8")

    def describe(self):
        return Device("acme-npu", "analytic", "simulated", runtime=self.name, runtime_version="1")

    def _open(self, network):
        return _Simulated(1e-6 + sum(block.macs for block in network) * 1e-9)
"""

ALGORITHM = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Guessing:
    name: ClassVar[str] = "acme_guessing"
    steps: int = 4

    def init(self, problem):
        return self

    def ask(self, state, problem, rng):
        return np.concatenate([problem.seeds, problem.space.sample(50, rng)]), state

    def tell(self, state, X, scores, costs):
        return state

    def done(self, state):
        return False
"""

COST = """
def flops(block) -> float:
    return 2.0 * block.macs
"""

IMPORTANCE = """
import numpy as np


def score(evidence):
    return {group.id: np.arange(group.width) for group in evidence.groups}
"""

DISTILLATION = """
from hwsearch.nn import Distillation


class Means(Distillation):
    def forward(self, own, wanted):
        return sum((a.mean() - b.mean()).square() for a, b in zip(own, wanted))
"""

TAUGHT = """
import hwsearch
from hwsearch.nn import Supernet, train

space = hwsearch.load_space("resnet_digits").restrict({"resolution": [8]})
space = space.alone(Supernet(space).smallest)
teacher = train(space, data="digits", out="teacher.safetensors", recipe={"epochs": 1}, progress=False)
recipe = {"epochs": 1, "teacher": teacher, "hints": {"acme_means": 1.0}}
print(train(space, data="digits", out="student.safetensors", recipe=recipe, progress=False).facts["recipe"]["hints"])
"""

RECIPE = """
from hwsearch.nn import Recipe

RECIPE = Recipe(epochs=3, batch=8, learning_rate=0.05)
"""

CUT = """
import torch

import hwsearch
from hwsearch.nn.adoption import allocate, importance

network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
adopted = hwsearch.adopt(network, torch.zeros(1, 3, 4, 4))
[kept] = allocate(adopted, importance(adopted, "acme_importance"), macs=adopted.macs() / 2).values()
print(kept.tolist())
"""

TRAINED = """
from hwsearch.nn import load_recipe
from hwsearch.nn.training._recipe import recipe_for

print(load_recipe("acme_flowers").epochs)
for data, changes in {"acme_flowers": {"epochs": 4}, "others": {"like": "acme_flowers"}, "more": None}.items():
    print(recipe_for(data, changes).batch)
"""

USE = """
import hwsearch
from hwsearch.backends import load_backend
from hwsearch.testing import check_backend

check_backend(load_backend("acme_npu"))
table = hwsearch.profile("acme_space", backend="acme_npu", out="table.json", progress=False)
limits = {"latency_ms": 1.0, "acme_flops": 4e5}
problem = hwsearch.Problem.of("acme_space", device=table, predictor=lambda X: X.sum(axis=1), limits=limits)
result = hwsearch.search(problem, "acme_guessing")
assert all(result.values[name] <= most for name, most in limits.items()), result.values
assert result.values["acme_flops"] == 2 * result.values["macs"]
print(hwsearch.load_space("acme_space", classes=3).name, table.device.name, result.provenance["algorithm"])
"""


def announce(folder: Path, package: str, **entries: str) -> None:
    """Announce plug-ins as an installed package does: kind -> ``name = module:attribute``."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(f"[hwsearch.{kind}]\n{line}\n" for kind, line in entries.items()))


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A folder on the path of Python that holds an installed package with a plug-in of each kind."""
    package = tmp_path / "site" / "acme"
    package.mkdir(parents=True)
    files = {"space": SPACE, "npu": BACKEND, "guessing": ALGORITHM, "cost": COST, "importance": IMPORTANCE, "recipe": RECIPE}
    files["distillation"] = DISTILLATION
    for name, text in {"__init__": "", **files}.items():
        (package / f"{name}.py").write_text(text)
    announce(
        package.parent,
        "acme",
        spaces="acme_space = acme.space:build",
        backends="acme_npu = acme.npu:Npu",
        algorithms="acme_guessing = acme.guessing:Guessing",
        costs="acme_flops = acme.cost:flops",
        importances="acme_importance = acme.importance:score",
        distillations="acme_means = acme.distillation:Means",
        recipes="acme_flowers = acme.recipe:RECIPE",
    )
    return package.parent


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=folder.parent, env=environment, check=False)


def test_a_space_a_backend_an_algorithm_and_a_cost_of_another_package_are_found(acme: Path) -> None:
    done = python(acme, "-W", "error", "-c", USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("acme_space:classes=3 acme-npu ")
    assert "Guessing" in done.stdout


def test_an_importance_of_another_package_is_found(acme: Path) -> None:
    done = python(acme, "-W", "error", "-c", CUT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[4, 5, 6, 7]\n"


def test_a_distillation_of_another_package_is_found(acme: Path) -> None:
    done = python(acme, "-W", "error", "-c", TAUGHT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'acme_means': 1.0}\n"


def test_a_recipe_of_another_package_is_found_by_the_name_of_the_data(acme: Path) -> None:
    done = python(acme, "-W", "error", "-c", TRAINED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "8", "8", "128"]


def test_the_command_line_finds_them_too(acme: Path) -> None:
    words = ("profile", "acme_space", "--backend", "acme_npu", "--out", "table.json", "-q")
    done = python(acme, "-m", "hwsearch", *words)
    assert done.returncode == 0, done.stderr
    assert "acme-npu" in done.stdout


def test_a_broken_plug_in_is_named_and_breaks_nothing_else(acme: Path) -> None:
    announce(acme, "broken", spaces="broken_space = broken.nowhere:build", algorithms="acme_guessing = broken.nowhere:Guessing")
    asked = python(acme, "-c", "import hwsearch; print(hwsearch.load_space('acme_space').name); hwsearch.load_space('broken_space')")
    assert asked.stdout == "acme_space\n"
    assert "InvalidInput: The space 'broken_space' of broken (broken.nowhere:build) cannot be imported: No module named" in asked.stderr
    twice = python(acme, "-c", "from hwsearch.algorithms import load_algorithm; load_algorithm('acme_guessing')")
    assert "is announced by" in twice.stderr
    listed = python(acme, "-c", "from hwsearch._registry import names; print(names('space'))")
    assert "'acme_space'" in listed.stdout
    assert "'broken_space'" in listed.stdout


def test_an_unknown_name_lists_what_is_announced(acme: Path) -> None:
    done = python(acme, "-c", "import hwsearch; hwsearch.load_space('acme_spaec')")
    assert "Did you mean 'acme_space'?" in done.stderr


BESIDE = """
import hwsearch
from acme.guessing import Guessing
from acme.npu import Npu
from hwsearch.spaces import Chain, Stage

space = Chain("beside", (8,), (8,), (Stage((1, 2), (8,), (8, 12)),), classes=4, precisions=("fp32", "int8"), channels=1).space()
hwsearch.register("space", "beside", lambda: space)
hwsearch.register("backend", "npu", Npu)
hwsearch.register("algorithm", "guessing", Guessing)
"""


@pytest.fixture
def beside(acme: Path) -> Path:
    """A module that nobody installed, in the folder where commands are run: it registers a space, a backend and an algorithm."""
    (acme.parent / "my_plug_ins.py").write_text(BESIDE)
    return acme


@pytest.mark.parametrize("words", [("--import", "my_plug_ins", "list", "spaces"), ("list", "spaces", "--import=my_plug_ins.py")])
def test_the_command_line_imports_a_module_that_registers(beside: Path, words: tuple[str, ...]) -> None:
    done = python(beside, "-m", "hwsearch", *words)
    assert done.returncode == 0, done.stderr
    assert " beside " in done.stdout
    wrong = python(beside, "-m", "hwsearch", "--import", "no_plug_ins", "list")
    assert wrong.returncode == 1
    assert "--import no_plug_ins: it cannot be imported" in wrong.stderr


def test_an_own_space_an_own_backend_and_an_own_algorithm_from_the_shell(beside: Path) -> None:
    """Two of the starts: profile, search and show with plug-ins of a module beside; a file of theirs names what is missing without it."""
    where = ("-m", "hwsearch", "--import", "my_plug_ins")
    measured = python(beside, *where, "profile", "beside", "--backend", "npu", "--out", "table.json", "-q", "--max-rounds", "1")
    assert measured.returncode == 0, measured.stderr
    fit = "import my_plug_ins as m, hwsearch, numpy as np; X = m.space.sample(60, np.random.default_rng(0));"
    fitted = python(beside, "-c", fit + "hwsearch.Predictor.fit(m.space, X, X.mean(axis=1), kind='linear').save('predictor.npz')")
    assert fitted.returncode == 0, fitted.stderr
    found = python(beside, *where, "search", "beside", "-d", "table.json", "--algorithm", "guessing", "-l", "latency_ms=1", "-q")
    assert found.returncode == 0, found.stderr
    shown = python(beside, *where, "show", "result.json")
    assert shown.returncode == 0, shown.stderr
    known = python(beside, "-m", "hwsearch", "show", "predictor.npz")
    assert known.returncode == 0, "what a predictor knows of itself needs no space"
    assert "beside" in known.stdout
    loading = python(beside, "-c", "import hwsearch; hwsearch.load_predictor('predictor.npz')")
    for file, lost in (("result.json", python(beside, "-m", "hwsearch", "show", "result.json")), ("predictor.npz", loading)):
        assert lost.returncode == 1
        assert f"WrongSpace: {file} belongs to the search space 'beside', which is not registered here" in lost.stderr
        assert "--import MODULE" in lost.stderr


def test_list_says_where_each_comes_from(beside: Path) -> None:
    announce(beside, "broken", spaces="broken_space = broken.nowhere:build")
    done = python(beside, "-m", "hwsearch", "--import", "my_plug_ins", "list")
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    rows = {(line[0], line[1]): line[2].strip() for line in lines if len(line) == 3}
    assert rows["space", "resnet_digits"] == "hwsearch"
    assert rows["space", "acme_space"] == "acme (acme.space:build)"
    assert rows["space", "broken_space"] == "broken (broken.nowhere:build)"
    assert rows["space", "beside"] == "registered by my_plug_ins"
    assert rows["backend", "npu"] == "registered by acme.npu"
    assert rows["cost", "macs"] == "hwsearch"
    assert rows["cost", "acme_flops"] == "acme (acme.cost:flops)"
