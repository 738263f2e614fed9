"""Zeros among weights: every pattern and spread has exactly its share, and training keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

import hwsearch
from hwsearch.cli._options import settings
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.nn import Recipe, Supernet, coded_size, load_data, train
from hwsearch.nn.adoption._capture import as_graph
from hwsearch.nn.pruning import Sparsity, prune, sparsity_of
from hwsearch.nn.pruning._masks import as_four
from hwsearch.nn.quantization._tune import fine_of
from hwsearch.nn.training._loop import Training
from hwsearch.nn.training._losses import Sandwich
from hwsearch.nn.training._processes import Processes
from hwsearch.nn.training._recipe import recipe_for
from hwsearch.nn.training._thinning import Thinning

torch.set_num_threads(1)
INT8 = hwsearch.nn.Deployment(precision="int8")
AXES = {"weight": (), "row": (3,), "column": (2,), "kernel": (2, 3), "filter": (1, 2, 3)}


def layers() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"first": (16, 4, 3, 3), "second": (24, 16, 5, 3), "point": (40, 24, 1, 1), "linear": (10, 40)}
    return {name: torch.randn(shape, generator=generator) * 2.0**place for place, (name, shape) in enumerate(shapes.items())}


def units(mask: torch.Tensor, unit: str) -> torch.Tensor:
    """Whether each unit stays; a unit stays or goes as a whole."""
    four = as_four(mask)
    kept, any_ = four.float(), four.float()
    for axis in AXES[unit]:
        kept, any_ = kept.amin(axis, keepdim=True), any_.amax(axis, keepdim=True)
    assert torch.equal(kept, any_)
    return kept.flatten()


@pytest.mark.parametrize("unit", AXES)
@pytest.mark.parametrize("spread", ["layer", "global", "lamp", "erdos-renyi"])
@pytest.mark.parametrize("share", [0.0, 0.37, 0.5, 0.9])
def test_each_mask_has_exactly_its_share(unit: str, spread: str, share: float) -> None:
    masks = Sparsity(share, unit=unit, spread=spread).masks(layers())
    assert set(masks) == set(layers()) - ({"point", "linear"} if unit in ("row", "column", "kernel") else set())
    kept = {name: units(mask, unit) for name, mask in masks.items()}
    gone = {name: int((each == 0).sum()) for name, each in kept.items()}
    if spread == "layer":
        assert gone == {name: round(share * len(each)) for name, each in kept.items()}
    else:
        assert sum(gone.values()) == round(share * sum(map(len, kept.values())))
    if spread == "lamp":
        assert all(each.any() for each in kept.values())


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8), (1, 2)])
def test_n_of_every_m_along_the_input_channels_stay(n: int, m: int) -> None:
    weights = layers()
    masks = Sparsity(unit=f"{n}:{m}").masks(weights)
    assert set(masks) == {name for name, each in weights.items() if each.shape[1] % m == 0}
    for name, mask in masks.items():
        groups = mask.movedim(1, -1).reshape(-1, m)
        assert (groups.sum(1) == n).all()
        sizes = weights[name].abs().movedim(1, -1).reshape(-1, m)
        assert torch.where(groups, sizes, np.inf).amin(1).ge(torch.where(groups, -np.inf, sizes).amax(1)).all()


def test_the_smallest_units_go() -> None:
    weights = layers()
    for unit, axes in AXES.items():
        for name, mask in Sparsity(0.5, unit=unit).masks(weights).items():
            size = as_four(weights[name].abs())
            size = (size.mean(axes) if axes else size).flatten()
            kept = units(mask, unit).bool()
            assert size[kept].min() >= size[~kept].max()


def test_spreads_differ_as_they_are_published() -> None:
    weights = layers()
    found = {spread: Sparsity(0.8, spread=spread).masks(weights) for spread in ("global", "lamp", "erdos-renyi")}
    density = {spread: {name: float(mask.float().mean()) for name, mask in masks.items()} for spread, masks in found.items()}
    everything = torch.cat([each.abs().flatten() for each in weights.values()])
    kept = torch.cat([mask.flatten() for mask in found["global"].values()])
    assert everything[kept].min() >= everything[~kept].max()
    assert density["global"]["first"] < 0.05 < density["lamp"]["first"]  # its weights are small, which LAMP does not hold against it
    raw = {name: sum(each.shape) / np.prod(each.shape) for name, each in weights.items()}
    ratios = [density["erdos-renyi"][name] / raw[name] for name in ("second", "point")]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.05)
    assert density["erdos-renyi"]["linear"] >= density["erdos-renyi"]["second"]


def test_lamp_is_the_square_over_the_squares_that_are_not_below() -> None:
    weights = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([[10.0, 10.0], [10.0, 30.0]])}
    # a: 1/30, 4/29, 9/25, 1; b: 100/1200, 100/1100, 100/1000, 1
    masks = Sparsity(0.5, spread="lamp").masks(weights)
    assert masks["a"].tolist() == [[False, True], [True, True]]
    assert masks["b"].tolist() == [[False, False], [False, True]]


def test_the_schedule_is_zhu_and_guptas() -> None:
    gradual = Sparsity(0.9, begin=0.1, end=0.6, every=10)
    for step in range(1000):
        t = min(max((step - 100) / 500, 0.0), 1.0)
        assert gradual.at(step, 1000) == pytest.approx(0.9 + (0.0 - 0.9) * (1 - t) ** 3)
    reached = [gradual.reached(step, 1000) for step in range(1000)]
    assert [step for step in range(1, 1000) if reached[step] != reached[step - 1]] == list(range(110, 601, 10))
    assert all(reached[step] == gradual.at(step, 1000) for step in range(100, 601, 10))
    assert reached[-1] == 0.9
    at_once = Sparsity(0.9, begin=0.5, end=0.5)
    assert [at_once.at(step, 100) for step in (49, 50)] == [0.0, 0.9]
    assert [at_once.reached(step, 100) for step in (0, 49, 50, 99)] == [0.0, 0.0, 0.9, 0.9]
    assert Sparsity(0.9, end=1.0, every=7).reached(99, 100) == 0.9  # at the latest in the last step


def alone(toy: hwsearch.SearchSpace) -> hwsearch.SearchSpace:
    return toy.restrict({"precision": ["fp32"]}).alone([size - 1 for size in toy.sizes])


@pytest.mark.parametrize("by", ["magnitude", "movement"])
def test_a_network_becomes_sparse_while_it_learns(toy: hwsearch.SearchSpace, tmp_path: Path, by: str) -> None:
    sparsity = Sparsity(0.7, by=by, end=0.6, every=10, spread="layer")
    recipe = Recipe(epochs=3, batch=32, learning_rate=0.1, sparsity=sparsity, ema=0.9)
    network = train(alone(toy), data="digits", out=tmp_path / "sparse.safetensors", recipe=recipe, progress=False)
    weights = {name: each for name, each in network.named_parameters() if each.ndim > 1}
    assert len(weights) > 4
    for each in weights.values():
        assert int((each == 0).sum()) == round(0.7 * each.numel())
    read = Supernet.load(tmp_path / "sparse.safetensors", alone(toy))
    assert sparsity_of(read) == pytest.approx(0.7, abs=0.01)


STOPPED = [
    ("magnitude", "layer", "weight"),
    ("movement", "global", "weight"),
    ("magnitude", "lamp", "filter"),
    ("movement", "layer", "1:4"),
]


@pytest.mark.parametrize(("by", "spread", "unit"), STOPPED)
def test_a_stopped_training_keeps_its_zeros(toy: hwsearch.SearchSpace, tmp_path: Path, by: str, spread: str, unit: str) -> None:
    data = load_data("digits")

    def begun() -> Training:
        sparsity = Sparsity(0.8, by=by, spread=spread, unit=unit, begin=0.1, end=0.8, every=5)
        recipe = Recipe(epochs=1, batch=32, learning_rate=0.1, sparsity=sparsity, optimizer="Adam")
        return Training(Sandwich(Supernet(alone(toy), 0), recipe), data, recipe, 0, Processes(0, 1))

    whole = begun()
    for _ in whole:
        pass
    first = begun()
    first.keep_in(tmp_path / "state", {})
    steps = iter(first)
    for _ in range(first.steps // 2):
        next(steps)
    first._written, first._cost = -np.inf, 0.0
    next(steps)
    second = begun()
    second.resume(tmp_path / "state", {})
    assert 0 < second.step < second.steps
    for _ in second:
        pass
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters.values(), second.parameters.values(), strict=True))
    assert sparsity_of(whole.losses.network) > (0.75 if unit == "weight" else 0.3)


def test_sparse_weights_count_in_the_size_of_the_coded_file(toy: hwsearch.SearchSpace) -> None:
    space = alone(toy)
    dense, sparse = Supernet(space, 0), Supernet(space, 0)
    prune(sparse, Sparsity(0.9))
    row = np.array([[size - 1 for size in space.sizes]], dtype=np.uint8)
    row = space.canonical(np.array([[allowed[-1] for allowed in space.allowed]], dtype=np.uint8))
    sizes = [float(coded_size(network, bits=4)(row)[0]) for network in (dense, sparse)]
    assert sizes[1] < 0.8 * sizes[0]


def test_a_network_of_your_own_is_finished_sparse(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(120, 3, 8, 8, generator=generator), torch.randint(4, (120,), generator=generator)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)]
    recipe = {"epochs": 2, "batch": 20, "sparsity": Sparsity(0.75, unit="kernel", end=0.5, every=1, dense=("3.*",)), "teacher": None}
    hwsearch.finish(nn.Sequential(*layers).eval(), data=[(images, labels)], out=tmp_path, recipe=recipe, deployment=INT8, progress=False)
    network = hwsearch.nn.adoption.load_network(tmp_path / "float.safetensors")
    found = {name: float((each == 0).float().mean()) for name, each in network.named_parameters() if each.ndim > 1}
    assert found == {"0.weight": 0.75, "3.weight": 0.0, "6.weight": 0.0}
    tuned = hwsearch.nn.adoption.load_network(tmp_path / "tuned.safetensors")
    kernels = [each for each in tuned.state_dict().values() if each.ndim == 4]
    assert [round(float((each == 0).all(dim=3).all(dim=2).float().mean()), 2) for each in kernels] == [
        0.75,
        0.0,
    ]  # dense as said, rounded too
    assert tuned.meta["facts"]["happened"]["curve"][0][0] == 0, "what was rounded and not yet tuned is judged too"


class Scaled(nn.Module):
    """A convolution with a tiny scale of each channel, an embedding, and a layer whose weights are zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(8, 8, 3), nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.embedding, self.norm, self.head = nn.Embedding(4, 6), nn.LayerNorm((6, 6)), nn.Linear(8, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x) * self.scale + self.embedding.weight[0]).mean((2, 3)))


def test_only_weights_of_layers_become_sparse() -> None:
    network = Scaled()
    for module in (network, fx.symbolic_trace(network), as_graph(network, [torch.randn(2, 8, 8, 8)])):
        masks = prune(module, Sparsity(0.5, spread="global"))
        assert set(masks) == {"conv.weight", "head.weight"}
        assert sparsity_of(module) == pytest.approx(0.5, abs=0.01)
        assert all(bool(each.all()) for name, each in module.named_parameters() if name in ("scale", "embedding.weight", "norm.weight"))


@pytest.mark.parametrize("spread", ["layer", "global", "lamp", "erdos-renyi"])
def test_no_layer_is_emptied_and_no_class_is_lost(spread: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 64, 3), nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(network[0].weight, 1e-9)
    prune(network, Sparsity(0.9, unit="filter", spread=spread))
    stay = [int(network[place].weight.flatten(1).any(1).sum()) for place in (0, 1, 3)]
    assert stay[0] >= 1
    assert stay[0] + stay[1] == 7
    assert stay[2] == 10


def test_movements_of_all_layers_compare() -> None:
    weights = {"a": torch.ones(1, 4), "b": torch.ones(1, 4)}
    moved = {"a": torch.tensor([[-10.0, 1.0, 1.0, 1.5]]), "b": torch.tensor([[2.0, 3.0, 4.0, 5.0]])}
    masks = Sparsity(0.375, by="movement", spread="global").masks(weights, scores=moved)
    assert [masks[name].tolist() for name in weights] == [[[False, False, False, True]], [[True] * 4]]


def steps_of(network: nn.Module, sparsity: Sparsity, steps: int) -> list[float]:
    """The shares of zeros after each step of a training on noise."""
    optimizer, found = torch.optim.SGD(network.parameters(), lr=0.1), []
    thinning = Thinning(sparsity, network, optimizer)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.zero_grad()
        network(torch.randn(8, 8, generator=generator)).sub(torch.randn(8, 6, generator=generator)).square().mean().backward()
        thinning.before(step, steps)
        optimizer.step()
        thinning.after({})
        found.append(sparsity_of(network))
    return found


def test_weights_that_begin_as_zeros_learn() -> None:
    network = nn.Linear(8, 6)
    nn.init.zeros_(network.weight)
    found = steps_of(network, Sparsity(0.5, begin=0.0, end=0.6), 40)
    assert found[0] < 0.1
    assert found[-1] == 0.5


def test_zeros_are_held_without_a_schedule() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6))
    prune(network, Sparsity(0.75))
    assert set(steps_of(network, Sparsity(hold=True, begin=0.2, end=0.6), 20)) == {0.75}


def test_a_short_training_becomes_sparse_little_by_little() -> None:
    shares = [Sparsity(0.9, begin=0.0, end=0.6).reached(step, 100) for step in range(100)]
    assert max(np.diff(shares)) < 0.2
    assert len(set(shares)) >= 20


def test_what_makes_no_sense_is_refused(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unit of sparsity 'kernl'"):
        Sparsity(unit="kernl")
    with pytest.raises(UnknownName, match="spread"):
        Sparsity(spread="everywhere")
    with pytest.raises(InvalidInput, match="N:M needs"):
        Sparsity(unit="4:4")
    with pytest.raises(InvalidInput, match="share"):
        Sparsity(1.0)
    with pytest.raises(InvalidInput, match="recipe of a training"):
        prune(nn.Linear(4, 4), Sparsity(by="movement"))
    with pytest.raises(InvalidInput, match="holds zeros"):
        prune(nn.Linear(4, 4), Sparsity(hold=True))
    with pytest.raises(InvalidInput, match="LAMP compares"):
        Sparsity(by="movement", spread="lamp")
    with pytest.raises(InvalidInput, match="No layer"):
        prune(nn.Linear(4, 4), Sparsity(unit="kernel"))
    with pytest.raises(InvalidInput, match="share their weights"):
        train(toy, data="digits", out=tmp_path / "all.safetensors", recipe=Recipe(epochs=1, sparsity=Sparsity(0.5)), progress=False)


def test_the_shell_says_how_sparse_a_network_becomes() -> None:
    def told(*texts: str) -> Sparsity | None:
        return recipe_for("digits", settings([f"sparsity={text}" for text in texts])).sparsity

    assert told("0.69") == Sparsity(0.69)
    assert told("share:0.75,unit:filter,spread:lamp,begin:0.1,end:0.5,every:7") == Sparsity(
        0.75, "filter", "lamp", begin=0.1, end=0.5, every=7
    )
    assert told("unit:2:4,dense:*linear*+stem*,by:movement") == Sparsity(unit="2:4", dense=("*linear*", "stem*"), by="movement")
    assert told("hold:true") == Sparsity(hold=True)
    for wrong in ("share:much", "hold:perhaps", "1.5", "every:0", "0.5,unit"):
        with pytest.raises(InvalidInput):
            told(wrong)
    with pytest.raises(UnknownName, match="spread"):
        told("spraed:lamp")


def test_tuning_after_a_sparse_training_makes_no_new_zeros() -> None:
    recipe = Recipe(epochs=9, sparsity=Sparsity(0.7, dense=("head*",)), warm_up=0.1)
    assert fine_of(recipe, 2).sparsity == Sparsity(hold=True)
    assert fine_of(replace(recipe, sparsity=None), 2).sparsity is None
