"""Distillation: what is learned from a teacher's feature maps, from which teachers, and in which trainings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from test_finish_own import Net
from torch import nn

import hwsearch
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.nn import Recipe, Supernet, load_data, train, tune
from hwsearch.nn._evaluate import Extracted
from hwsearch.nn.adoption import load_network, save_network
from hwsearch.nn.quantization._tune import Tuning
from hwsearch.nn.training._loop import Training
from hwsearch.nn.training._losses import Sandwich
from hwsearch.nn.training._maps import Forward, Stages, noted
from hwsearch.nn.training._processes import Processes
from hwsearch.nn.training._recipe import recipe_for
from hwsearch.nn.training._teacher import Teaching, load_teacher
from hwsearch.nn.training.distillations.angles import Angles
from hwsearch.nn.training.distillations.attention import Attention
from hwsearch.nn.training.distillations.distances import Distances
from hwsearch.nn.training.distillations.features import Features
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)

RECIPE = Recipe(epochs=1, batch=64, learning_rate=0.2, random_networks=1)
KINDS = ("features", "attention", "distances", "angles")


def images(rows: list[list[float]]) -> list[torch.Tensor]:
    """Feature maps of one point, a row of channels for each image."""
    return [torch.tensor(rows)[:, :, None, None]]


def test_attention_is_the_squared_distance_of_maps_of_length_one() -> None:
    own = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])  # two channels that look at the first point
    assert float(Attention([own], [own])([own], [own])) == pytest.approx(0.0)
    there = torch.tensor([[[[0.0, 7.0]]]])  # one channel that looks at the second
    assert float(Attention([own], [there])([own], [there])) == pytest.approx(2.0)
    both = torch.tensor([[[[1.0, 1.0]]]])  # (1, 0) and (1, 1) / sqrt 2: 2 - 2 / sqrt 2
    assert float(Attention([own], [both])([own], [both])) == pytest.approx(2 - 2**0.5)


def test_features_are_compared_relative_to_the_teachers_squares_through_a_regressor_where_widths_differ() -> None:
    own, there = images([[1.0, 2.0]]), images([[1.0, 4.0]])
    assert float(Features(own, there)(own, there)) == pytest.approx(2.0 / 8.5)
    wide = images([[2.0, 0.0, 1.0]])
    learned = Features(own, wide)
    assert [tuple(each.shape) for each in learned.parameters()] == [(3, 2, 1, 1), (3,)]
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[..., None, None]
    with torch.no_grad():
        for each, value in zip(learned.parameters(), (weights, torch.ones(3)), strict=True):
            each.copy_(value)
    # (1 + 1, 2 + 1, 3 + 1) against (2, 0, 1): squared differences 0, 9, 9; squares 4, 0, 1
    assert float(learned(own, wide).detach()) == pytest.approx(18 / 5)


def test_distances_are_relative_to_their_mean() -> None:
    own, there = images([[0.0], [1.0], [3.0]]), images([[0.0], [2.0], [4.0]])
    # 1, 3, 2 of mean 2 against 2, 4, 2 of mean 8/3: differences 1/4, 0, 1/4
    assert float(Distances(own, there)(own, there)) == pytest.approx(2 * 0.5 * 0.25**2 / 3, rel=1e-4)
    assert float(Distances(own, there)(own, [10 * own[0]])) == pytest.approx(0.0, abs=1e-6), "the unit of distances is no matter"


def test_angles_are_those_of_three_different_images() -> None:
    own, there = images([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), images([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    # cosines 0 and twice 1 / sqrt 2 against 1/2 thrice
    wanted = 0.5 * (0.5**2 + 2 * (0.5 - 2**-0.5) ** 2) / 3
    assert float(Angles(own, there)(own, there)) == pytest.approx(wanted, rel=1e-5)
    assert float(Angles(own[:2], there[:2])([own[0][:2]], [there[0][:2]])) == 0.0


def test_relations_of_a_single_image_are_0_and_those_of_many_images_take_little_memory() -> None:
    one = torch.ones(1, 4, 2, 2, requires_grad=True)
    for kind in (Distances, Angles):
        loss = kind([one], [one])([one], [torch.ones(1, 3, 2, 2)])
        assert float(loss.detach()) == 0.0
        loss.backward()
        assert one.grad is not None
        assert torch.isfinite(one.grad).all()
    many, other = (torch.randn(400, 3, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    loss = Angles([many], [other])([many], [other])
    assert torch.equal(loss, Angles([many], [other])([many[:128]], [other[:128]]))


def test_tokens_are_not_compared_with_maps_point_by_point() -> None:
    tokens, plane, vector = torch.randn(2, 3, 17, 1), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 1, 1)
    for kind in (Features, Attention):
        for own, wanted in ((plane, tokens), (tokens, plane)):
            with pytest.raises(InvalidInput, match="tokens cannot be compared with a map point by point"):
                kind([own], [wanted])([own], [wanted])
        for own, wanted in ((tokens, torch.randn(2, 3, 16, 1)), (plane, torch.randn(2, 3, 7, 5)), (vector, plane), (vector, tokens)):
            assert torch.isfinite(kind([own], [wanted])([own], [wanted])).all()
    assert torch.isfinite(Distances([plane], [tokens])([plane], [tokens]))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_maps_of_half_precision_teach_through_layers_of_their_own(kind: torch.dtype) -> None:
    """As they come of a student with ``amp`` in its recipe."""
    given = (torch.randn(4, 3, 8, 8),)
    recipe = Recipe(epochs=1, distill=0.0, hints=dict.fromkeys(KINDS, 1.0))
    teaching = Teaching(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), recipe, given)
    student = nn.Conv2d(3, 4, 3)

    def run(inputs: Any, stages: Stages) -> torch.Tensor:
        made = student(*inputs).to(kind)
        stages.note("conv", made)
        return made

    teaching.meet(run)
    own = teaching.stages()
    assert own is not None
    teaching(given, [run(given, own)], own).backward()
    assert student.weight.grad is not None
    assert float(student.weight.grad.abs().sum()) > 0


class Expert(nn.Module):
    """A teacher of the user's: stages of other widths than the toy's, with images made larger first."""

    def __init__(self) -> None:
        super().__init__()
        self.larger = nn.Upsample(size=12)
        self.first = nn.Sequential(nn.Conv2d(1, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(20, 28, 3, 2, 1, bias=False), nn.BatchNorm2d(28), nn.ReLU())
        self.head = nn.Linear(28, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(self.larger(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def expert() -> nn.Module:
    """Trained for a second."""
    torch.manual_seed(0)
    module, data = Expert(), load_data("digits")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    x, y = data.normalize(data.train_x), data.train_y
    for index in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(module(x[index]), y[index]).backward()
        optimizer.step()
    module.zero_grad(set_to_none=True)
    return module.eval()


def taught(student: Supernet, recipe: Recipe, teacher: nn.Module) -> Sandwich:
    """The losses of a student that learns from a module."""
    data = load_data("digits")
    return Sandwich(student, recipe, Teaching(teacher, recipe, (data.normalize(data.train_x[:2]),)))


def distance(losses: Sandwich | Tuning, expert: nn.Module, run: Callable[[Stages], object], x: torch.Tensor) -> float:
    """How far a student that was trained is from its teacher now, by the only hint that it has."""
    teaching = losses.teaching
    assert teaching is not None
    own, wanted = teaching.stages(), Stages()
    assert own is not None
    with torch.no_grad():
        run(own)
        noted(expert, (x,), wanted)
        [helper] = teaching.helpers.values()
        return float(helper(*teaching._matched(own, wanted)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_hint_draws_the_student_to_any_torch_module_and_leaves_the_teacher_as_it_is(
    toy: hwsearch.SearchSpace, expert: nn.Module, kind: str
) -> None:
    """The loss falls, gradients reach the student alone, and a teacher without hints leaves the maps further away."""
    data, before = load_data("digits"), {name: each.clone() for name, each in expert.state_dict().items()}
    x = data.normalize(data.train_x[:128])
    distances = []
    for weight in (0.0, 3.0):
        student = Supernet(toy.alone(Supernet(toy).smallest))
        recipe = replace(RECIPE, epochs=2, distill=0.0, hints={kind: weight} if weight else {kind: 1e-30})
        losses = taught(student, recipe, expert)
        list(Training(losses, data, recipe, 0, Processes()))
        distances.append(distance(losses, expert, lambda stages, student=student: Forward()(student, x, stages), x))
    assert distances[1] < 0.9 * distances[0]
    assert all(each.grad is None for each in expert.parameters())
    assert all(torch.equal(each, before[name]) for name, each in expert.state_dict().items())


def test_stages_are_matched_by_their_order_or_size_or_by_name(toy: hwsearch.SearchSpace, expert: nn.Module) -> None:
    data = load_data("digits")
    x = data.normalize(data.train_x[:4])
    wanted = Stages()
    noted(expert, (x,), wanted)
    assert {tuple(size): each.shape[1] for size, each in wanted.maps.items()} == {(12, 12): 20, (6, 6): 28}, "images are no feature maps"
    student = Supernet(toy)
    names = [name for name, _ in student.named_steps()]
    assert names == ["resize", *(name for name, _ in student.extract(student.largest, x).named_children())][: len(names)][:1] + names[1:]
    named = {names[2]: "first.0", names[-2]: "second"}
    teaching = taught(student, replace(RECIPE, hints={"features": 1.0}, stages=named), expert).teaching
    assert [tuple(each.shape[:2]) for each in teaching.helpers.parameters() if each.ndim > 1] == [(20, 16), (28, 16)]
    with pytest.raises(InvalidInput, match=r"The teacher has no stage .*'third'"):
        taught(student, replace(RECIPE, hints=1.0, stages={names[2]: "third"}), expert)
    with pytest.raises(InvalidInput, match=r"The network has no stage .*'nothing'"):
        taught(student, replace(RECIPE, hints=1.0, stages={"nothing": "first"}), expert)
    flat = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(InvalidInput, match=r"none fit each other\. Name pairs"):
        taught(student, replace(RECIPE, hints=1.0), flat)


def test_named_stages_come_in_the_order_in_which_the_student_makes_them(toy: hwsearch.SearchSpace, expert: nn.Module) -> None:
    """Relations between images are those of the last map, however the recipe orders its names."""
    student = Supernet(toy)
    names = [name for name, _ in student.named_steps()]
    pairs = {names[2]: "first", names[-2]: "second"}
    found = []
    for named in (pairs, dict(reversed(pairs.items()))):
        teaching = taught(student, replace(RECIPE, hints={"features": 1.0}, stages=named), expert).teaching
        assert teaching is not None
        found.append([tuple(each.shape[:2]) for each in teaching.helpers.parameters() if each.ndim > 1])
    assert found[0] == found[1] == [(20, 16), (28, 16)]


def test_a_stage_that_rounding_takes_away_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = {"epochs": 1, "teacher": Net(16), "hints": 1.0, "stages": {"batch_norm": "first"}}
    deployment = hwsearch.nn.Deployment(precision="int8")
    with pytest.raises(InvalidInput, match=r"stages \['batch_norm'\] become part of the layers before them"):
        hwsearch.finish(Net(8), data="digits", out=tmp_path, recipe=recipe, deployment=deployment, progress=False)
    assert not (tmp_path / "float.safetensors").exists()


def test_weights_in_bfloat16_have_a_digest_of_their_own() -> None:
    weights = {kind: nn.Linear(3, 2, dtype=kind) for kind in (torch.bfloat16, torch.float16)}
    for each in weights.values():
        nn.init.zeros_(each.weight)
        nn.init.zeros_(each.bias)
    one, other = (load_teacher(each, None) for each in weights.values())
    assert one is not None
    assert other is not None
    assert one.digest != other.digest


def test_tokens_of_a_transformer_are_maps_where_they_are_named() -> None:
    stages = Stages(["tokens"])
    stages.note("tokens", torch.arange(12.0).view(2, 3, 2))
    assert stages.maps["tokens"].shape == (2, 2, 3, 1)
    assert stages.maps["tokens"][1, 0].flatten().tolist() == [6.0, 8.0, 10.0]


def test_of_a_module_that_is_called_twice_the_last_run_counts() -> None:
    """Its map is that of the last run, and stands where that run stands."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.once, self.twice = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.twice(self.once(self.twice(x)))

    network, x, stages = Twice(), torch.randn(2, 1, 4, 4), Stages(["twice", "once"])
    (out,) = noted(network, (x,), stages)
    assert list(stages.maps) == ["once", "twice"]
    assert torch.equal(stages.maps["twice"], out)


def test_a_supernet_of_another_space_teaches_from_its_file_with_images_as_it_wants_them(
    toy: hwsearch.SearchSpace, trained: Path, tmp_path: Path
) -> None:
    other = Chain("other", (8,), (12,), (Stage((1,), (20,), (8,)),), classes=10, channels=1).space()
    hwsearch.register("space", "other", lambda: other)
    expert = train(other, data="digits", out=tmp_path / "other.safetensors", recipe=replace(RECIPE, epochs=2), progress=False)
    recipe = replace(RECIPE, teacher=tmp_path / "other.safetensors", hints={"features": 0.5, "attention": 1.0})
    alone = toy.alone(Supernet(toy).smallest)
    taught = train(alone, data="digits", out=tmp_path / "small.safetensors", recipe=recipe, progress=False)
    assert taught.facts["teacher"] == expert.digest
    assert taught.facts["recipe"]["hints"] == {"features": 0.5, "attention": 1.0}
    assert not [name for name in taught.state_dict() if "helpers" in name or "regressor" in name]
    teacher, data = load_teacher(expert, toy), load_data("digits")
    assert teacher is not None
    same = data.normalized(replace(data.normalize, mean=(0.1,), std=(0.7,)))
    x = data.train_x[:16]
    with torch.no_grad():
        wanted = teacher.network()(data.normalize(x))
        assert torch.allclose(teacher.network(same.normalize)(same.normalize(x)), wanted, atol=1e-4)


def test_hints_reach_tuning_at_few_bits(tmp_path: Path, expert: nn.Module) -> None:
    """The rounded maps come nearer to those of the teacher than by labels alone."""
    space = Chain("bits", (8,), (8,), (Stage((1,), (16,), (16,), 2),), 10, ("fp32", "int3"), channels=1).space()
    architecture = hwsearch.searching.dense(space, "int3")
    alone = space.alone(architecture.genes)
    floating = train(alone, data="digits", out=tmp_path / "float.safetensors", recipe=replace(RECIPE, epochs=3), progress=False)
    data, found = load_data("digits"), []
    x = data.normalize(data.train_x[:128])
    for weight in (1e-30, 10.0):
        recipe = Recipe(epochs=2, batch=32, learning_rate=0.02, distill=0.0, hints={"attention": weight})
        losses = Tuning(Extracted.of(floating, floating.largest), recipe, Teaching(expert, recipe, (x[:2],)))
        list(Training(losses, data, recipe, 0, Processes()))
        found.append(distance(losses, expert, lambda stages, losses=losses: losses._run(x, stages), x))
    assert found[1] < 0.5 * found[0]
    recipe = Recipe(epochs=1, batch=64, learning_rate=0.02, teacher=expert, hints={"features": 1.0})
    tuned = tune(floating, data="digits", out=tmp_path / "tuned.safetensors", recipe=recipe, progress=False)
    assert tuned.facts["recipe"]["hints"] == {"features": 1.0}
    assert not [name for name in tuned.state_dict() if "regressor" in name]


SCRIPT = """
import os, signal, sys, torch
torch.set_num_threads(1)
import hwsearch
from test_distillation import HINTS
recipe = {"epochs": 2, "batch": 32, "teacher": sys.argv[1], **HINTS}
def stop(told):
    if os.path.exists(sys.argv[3] + "/float.safetensors.partial"):
        os.kill(os.getpid(), signal.SIGKILL)
watch = hwsearch.nn.Watch(callback=stop, bar=False)
deployment = hwsearch.nn.Deployment(precision="int8")
hwsearch.finish(sys.argv[2], data="digits", out=sys.argv[3], recipe=recipe, deployment=deployment, progress=watch)
"""
HINTS: dict[str, Any] = {"distill": 0.5, "hints": {"features": 1.0, "attention": 1.0, "distances": 1.0, "angles": 1.0}}


@pytest.mark.slow
def test_a_cut_network_is_finished_with_hints_in_floats_and_rounded_and_ends_the_same_after_kill_9(tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = hwsearch.adopt(Net(16).eval(), torch.randn(1, 1, 8, 8), step=4)
    small = hwsearch.extract(space.architecture(space.row(dict.fromkeys(space.places.groups, 8))))
    save_network(small, tmp_path / "small.safetensors")
    save_network(space.network, tmp_path / "whole.safetensors")

    def finished(out: Path, precision: str = "int8", **more: Any) -> hwsearch.searching.Finished:
        recipe = {"epochs": 2, "batch": 32, "teacher": tmp_path / "whole.safetensors", **HINTS, **more}
        deployment = hwsearch.nn.Deployment(precision=precision)
        return hwsearch.finish(tmp_path / "small.safetensors", data="digits", out=out, recipe=recipe, deployment=deployment, progress=False)

    finished(tmp_path / "straight")
    command = [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in ("whole.safetensors", "small.safetensors", "killed"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "nn")))}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "float.safetensors.partial").exists()
    finished(tmp_path / "killed")
    for name in ("float.safetensors", "tuned.safetensors", "best.onnx"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
    bare = finished(tmp_path / "bare", "fp32", hints=0.0)
    x, data = load_data("digits").train_x[:200], load_data("digits")
    maps = []
    for file in ("whole.safetensors", "straight/float.safetensors", "bare/float.safetensors"):
        stages = Stages()
        noted(load_network(tmp_path / file), (data.normalize(x),), stages)
        maps.append(list(stages.maps.values()))
    near, far = (float(Attention(each, maps[0])(each, maps[0])) for each in maps[1:])
    assert near < 0.9 * far, bare


def test_a_network_of_the_users_learns_from_a_supernet(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    network = Net(8)
    recipe = {"epochs": 1, "batch": 64, "teacher": Supernet.load(trained, toy), "hints": "attention:1"}
    found = hwsearch.finish(network, data="digits", out=tmp_path, recipe=recipe, progress=False)
    assert found.teacher_accuracy is not None
    assert found.teacher_accuracy > 0.9
    assert found.teacher_ms is None, "it resizes its images, which no ONNX model of a module does"


def test_finishing_a_network_of_a_supernet_takes_any_module_as_its_teacher(
    toy: hwsearch.SearchSpace, trained: Path, expert: nn.Module, tmp_path: Path
) -> None:
    architecture = toy.architecture(Supernet(toy).smallest)
    recipe = replace(RECIPE, teacher=expert, hints={"features": 0.1})
    found = hwsearch.finish(architecture, data="digits", out=tmp_path, weights=trained, recipe=recipe, progress=False)
    data = load_data("digits")
    with torch.no_grad():
        right = (expert(data.normalize(data.test_x)).argmax(1) == data.test_y).float().mean()
    assert found.teacher_accuracy == pytest.approx(float(right))
    assert found.teacher_ms is None


def test_hints_are_read_from_text_and_wrong_ones_are_refused(toy: hwsearch.SearchSpace, expert: nn.Module, tmp_path: Path) -> None:
    read = recipe_for("digits", {"hints": "attention:2,features", "stages": "stem:first,head:second"})
    assert (read.hints, read.stages) == ({"attention": 2.0, "features": 1.0}, {"stem": "first", "head": "second"})
    assert recipe_for("digits", {"hints": 3}).distillations == {"attention": 3}
    with pytest.raises(UnknownName, match="distillation"):
        Recipe(epochs=1, hints={"feature": 1.0})
    with pytest.raises(InvalidInput, match="'attention' must be a number"):
        Recipe(epochs=1, hints={"attention": -1.0})
    with pytest.raises(InvalidInput, match="names with numbers"):
        recipe_for("digits", {"hints": "attention:much"})
    with pytest.raises(InvalidInput, match="Hints come from a teacher"):
        train(toy, data="digits", out=tmp_path / "never.safetensors", recipe={"hints": {"angles": 1.0}}, progress=False)
    other = nn.Sequential(expert, nn.Linear(10, 7))
    with pytest.raises(InvalidInput, match=r"shapes .*Feature maps can teach alone"):
        train(toy, data="digits", out=tmp_path / "never.safetensors", recipe={"teacher": other}, progress=False)
