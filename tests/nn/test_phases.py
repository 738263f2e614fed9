"""Phases: small networks join little by little, and channels are put in order without changing what was trained."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsearch
from hwsearch import _registry
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.nn import PHASES, Phase, Recipe, Supernet, load_data, load_recipe, train
from hwsearch.nn._evaluate import accuracy, deployed
from hwsearch.nn.supernet._channels import rank_channels
from hwsearch.nn.training._loop import Training
from hwsearch.nn.training._losses import Sandwich
from hwsearch.nn.training._phases import corner, kinds, phases_for
from hwsearch.nn.training._processes import Processes
from hwsearch.nn.training._recipe import recipe_for
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)

PROGRESSIVE = PHASES["progressive"]
DENSE = Phase(resolution=0, kernel=0, depth=0, width=0)


@pytest.mark.parametrize(
    ("name", "gene", "kind"),
    [
        ("ofa_mobilenetv3", "resolution", "resolution"),
        ("ofa_mobilenetv3", "stage1.block1.kernel", "kernel"),
        ("ofa_mobilenetv3", "stage1.depth", "depth"),
        ("ofa_mobilenetv3", "stage1.block1.expand", "width"),
        ("ofa_resnet50", "stage1.width", "width"),
        ("apq", "stage2.block1.depthwise.weight_bits", ""),
        ("resnet_cifar", "stem.out", "width"),
        ("resnet_cifar", "stem.precision", ""),
    ],
)
def test_what_a_gene_changes_is_seen_in_the_network(name: str, gene: str, kind: str) -> None:
    space = hwsearch.load_space(name)
    assert kinds(space)[space.position[gene]] == kind


@pytest.mark.parametrize("name", ["ofa_mobilenetv3", "resnet_cifar", "toy"])
def test_each_phase_adds_networks_and_the_last_one_has_all(name: str, toy: hwsearch.SearchSpace) -> None:
    space = toy if name == "toy" else hwsearch.load_space(name)
    phases = phases_for(PROGRESSIVE, space)
    spaces = [phase.restrict(space) for phase in phases]
    for smaller, larger in pairwise(spaces):
        assert all(set(few) <= set(many) for few, many in zip(smaller.allowed, larger.allowed, strict=True))
        assert smaller.size < larger.size
    shaping = [gene for gene, kind in enumerate(kinds(space)) if kind]
    assert [spaces[-1].allowed[gene] for gene in shaping] == [space.allowed[gene] for gene in shaping]
    assert len(phases) == {"ofa_mobilenetv3": 6, "resnet_cifar": 5, "toy": 3}[name]


def test_a_single_network_has_a_single_phase(toy: hwsearch.SearchSpace) -> None:
    assert phases_for(PROGRESSIVE, toy.alone(Supernet(toy).smallest)) == PROGRESSIVE[:1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6), st.integers(1, 200))
def test_every_step_has_its_place_in_one_phase(shares: list[float], steps: int) -> None:
    recipe = Recipe(epochs=1, phases=tuple(Phase(share=share, rate=1 + number) for number, share in enumerate(shares)))
    places = [recipe.place(step, steps) for step in range(steps)]
    for (phase, at, length), (later, then, _) in pairwise(places):
        assert (later is phase and then == at + 1) or (then == 0 and at == length - 1)
    assert places[0][1] == 0
    assert places[-1][1] == places[-1][2] - 1
    assert all(0 < recipe.rate(step, steps) <= phase.rate * recipe.learning_rate * (1 + 1e-9) for step, (phase, _, _) in enumerate(places))


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"rate": float("nan")}, {"width": 1.5}, {"depth": -0.1}, {"random_networks": -1}])
def test_phase_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Phase(**wrong)


def test_phases_have_names() -> None:
    assert recipe_for("digits", {"phases": "progressive"}).phases == PROGRESSIVE
    with pytest.raises(UnknownName, match="Did you mean 'progressive'"):
        recipe_for("digits", {"phases": "progresive"})
    with pytest.raises(InvalidInput, match="one Phase or more"):
        Recipe(epochs=1, phases=())


def test_a_recipe_begins_with_that_of_the_data_or_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry._TARGETS, "recipe", {**_registry._TARGETS["recipe"], "wrong": 3})
    mine = Recipe(epochs=3, batch=8)
    hwsearch.register("recipe", "mine", mine)
    assert recipe_for("mine", None) == recipe_for("digits", {"like": "mine"}) == load_recipe("mine") == mine
    assert recipe_for("others", {"epochs": 5}) == replace(load_recipe("cifar10"), epochs=5)
    with pytest.raises(UnknownName, match="Did you mean 'digits'"):
        recipe_for("digits", {"like": "digit"})
    with pytest.raises(InvalidInput, match="must be a hwsearch.nn.Recipe, not 3"):
        load_recipe("wrong")


def test_small_networks_are_left_alone_until_their_phase() -> None:
    """The largest network has the identity beside its first block, so that a narrower one's convolution there waits."""
    space = Chain("tiny", (8,), (8, 16), (Stage((1, 2), (8, 16), (4, 8)),), 10, channels=1).space()
    recipe = Recipe(epochs=1, batch=64, weight_decay=0.0, phases=(DENSE, Phase()))
    supernet = Supernet(space)
    shortcut = supernet.block("stage1.block1").shortcut[0].weight
    before, changed, phases = shortcut.detach().clone(), [], []
    training = Training(Sandwich(supernet, recipe), load_data("digits"), recipe, 0, Processes())
    for _ in training:
        changed.append(not torch.equal(shortcut, before))
        phases.append(recipe.place(training.step - 1, training.steps)[0])
    assert changed == [phase is not phases[0] for phase in phases]
    assert any(changed)


SPACES = {
    "bottlenecks": Chain(
        "bottlenecks",
        (16,),
        (),
        (
            Stage(1, (8, 16), (), 2, "conv", 5, name="stem"),
            Stage(1, None, (), 2, "maxpool", name="pool"),
            Stage((1, 2), (16, 24, 32), (4, 8, 12), kind="bottleneck"),
            Stage((1, 2, 3), (32, 48), (8, 16), 2, "bottleneckd"),
        ),
        5,
    ),
    "mobile": Chain(
        "mobile",
        (16,),
        (),
        (
            Stage(1, 8, (), 2, "conv", 3, name="stem", activation="hswish"),
            Stage(1, 8, (), 1, "separable", (3, 5), name="first"),
            Stage((1, 2), (8, 16), kind="mbconv", kernel=(3, 5, 7), expands=(1, 2, 4), excited=True, activation="hswish"),
            Stage((1, 2), (16, 24), (16, 32), 2, "mbconv", (3, 5)),
        ),
        5,
        (),
        mix=16,
    ),
    "basic": Chain("basic", (8, 12), (8, 16), (Stage((1, 2, 3), (8, 12, 16), (4, 8, 16)), Stage((1, 2), (16, 24), (8, 12), 2)), 5),
}


@pytest.mark.parametrize("name", SPACES)
def test_order_of_channels_changes_no_network_that_was_trained(name: str, rng: np.random.Generator) -> None:
    space = SPACES[name].space()
    images = torch.randn(4, 3, 16, 16)
    for phase in PROGRESSIVE[:-1]:
        supernet, trained = _shaken(space), phase.restrict(space)
        rows = [supernet.largest, corner(trained, 0), *trained.sample(10, rng)]
        before, digest = [_run(supernet, row, images) for row in rows], supernet.digest
        rank_channels(supernet, trained)
        assert supernet.digest != digest
        for row, logits in zip(rows, before, strict=True):
            assert torch.allclose(_run(supernet, row, images), logits, atol=1e-5)
        again = supernet.digest
        rank_channels(supernet, trained)
        assert supernet.digest == again


def test_most_important_channels_come_first_and_widths_are_borders() -> None:
    space = SPACES["basic"].space()
    supernet = _shaken(space)
    reader = supernet.block("stage1.block2").body[1].weight

    def norms() -> list[float]:
        found: list[float] = reader.detach().abs().sum(dim=(0, 2, 3)).tolist()
        return found

    first, wide, before = norms()[:4], norms()[8:], norms()
    rank_channels(supernet, space)  # all widths were trained: 4, 8 and 16
    after = norms()
    assert sorted(after[:4]) == pytest.approx(sorted(first))
    assert after[8:] == pytest.approx(sorted(wide, reverse=True))
    rank_channels(supernet, DENSE.restrict(space))
    assert norms() == pytest.approx(sorted(before, reverse=True))


def test_narrow_networks_inherit_more_from_ordered_channels(digits: hwsearch.SearchSpace, tmp_path: Path) -> None:
    """Only the largest network is trained; 16 networks of its depth and resolution, but narrower, are cut from it."""
    data = load_data("digits")
    recipe = Recipe(epochs=10, batch=64, learning_rate=0.2, phases=(DENSE,))
    supernet = train(digits, data=data, out=tmp_path / "dense.safetensors", recipe=recipe, seed=1, progress=False)
    rows = digits.restrict({"*depth": [2], "resolution": [16]}).sample(16, np.random.default_rng(0))

    def narrow() -> float:
        return mean(accuracy(deployed(supernet, row, floating=True), data, "val") for row in rows)

    before = narrow()
    rank_channels(supernet, DENSE.restrict(digits))
    assert narrow() > before + 0.02


def test_a_phase_begins_with_the_moving_average_of_the_one_before(toy: hwsearch.SearchSpace) -> None:
    recipe = Recipe(epochs=1, batch=64, ema=0.9, phases=(DENSE, Phase(depth=0, width=0, rate=1e-12)))
    training = Training(Sandwich(Supernet(toy), recipe), load_data("digits"), recipe, 0, Processes())
    bias, average = (tensors["blocks.head.body.0.bias"] for tensors in (training.parameters, training.average))
    seen = [(bias.detach().clone(), average.clone()) for _ in training]
    first = next(step for step in range(1, len(seen)) if recipe.place(step, len(seen))[1] == 0)
    assert not torch.allclose(*seen[first - 1], atol=1e-6)
    assert torch.allclose(seen[first][0], seen[first - 1][1], atol=1e-6)
    assert torch.allclose(*seen[first], atol=1e-6)


def test_files_of_recipes_without_phases_are_still_known(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    supernet, out = Supernet.load(trained, toy), tmp_path / "older.safetensors"
    del supernet.facts["recipe"]["phases"]
    supernet.save(out)
    recipe = Recipe(epochs=10, batch=32, learning_rate=0.2, random_networks=1)
    assert train(toy, data="digits", out=out, recipe=recipe, progress=False).digest == supernet.digest
    with pytest.raises(InvalidInput, match="phases"):
        train(toy, data="digits", out=out, recipe=replace(recipe, phases=PROGRESSIVE), progress=False)


def _shaken(space: hwsearch.SearchSpace) -> Supernet:
    """A supernet whose batch norms all differ, so that a channel in the wrong place would show."""
    supernet, generator = Supernet(space), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in supernet.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return supernet


def _run(supernet: Supernet, row: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], images: torch.Tensor) -> torch.Tensor:
    supernet.activate(row)
    with torch.no_grad():
        return supernet(images)  # type: ignore[no-any-return]
