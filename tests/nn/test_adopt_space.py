"""An adopted network as a search space: genes, counted costs, an additive score, the search, and the network that comes back."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hwsearch
from hwsearch.errors import InvalidInput, UnknownName, WrongSpace
from hwsearch.nn.adoption import Adopted, Probing, RepairVerifier, additive
from hwsearch.nn.adoption._examples import examples

IMAGE = (2, 3, 8, 8)


class Residual(nn.Module):
    """Two residual blocks, a cat of two branches, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(24, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 1)) for _ in "ab"
        )
        self.left, self.right = nn.Conv2d(24, 8, 1), nn.Conv2d(24, 20, 3, padding=1)
        self.last = nn.Conv2d(28, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = x + block(x)
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        return self.head(self.last(x).relu().mean((2, 3)))


class Recurring(nn.Module):
    """The same residual block several times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.stem = times, nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        for _ in range(self.times):
            x = x + self.block(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def space() -> Adopted:
    torch.manual_seed(0)
    return hwsearch.adopt(Residual(), torch.randn(IMAGE))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def score(space: Adopted, images: torch.Tensor) -> hwsearch.Predictor:
    return additive(space, "reconstruction", images=images)


def test_genes_are_the_widths_of_groups_and_the_presence_of_branches(space: Adopted) -> None:
    genes = {choice.name: (choice.values, choice.needs, choice.role) for choice in space.choices}
    assert genes == {
        "stem.width": ((8, 16, 24), None, "width"),
        "blocks.0.depth": ((0, 1), None, "depth"),
        "blocks.0.0.width": ((8, 16), ("blocks.0.depth", (1,)), "width"),
        "blocks.1.depth": ((0, 1), None, "depth"),
        "blocks.1.0.width": ((8, 16), ("blocks.1.depth", (1,)), "width"),
        "left.width": ((4, 8), None, "width"),
        "right.width": ((8, 16, 20), None, "width"),
        "last.width": ((8, 16), None, "width"),
    }
    assert len(next(iter(hwsearch.adopt(nn.Sequential(nn.Linear(3, 1000), nn.Linear(1000, 2)), torch.randn(2, 3)).choices)).values) <= 16


def test_heads_of_attention_are_chosen_one_by_one() -> None:
    """A unit that is eight channels already needs no further step."""
    layer = nn.TransformerEncoderLayer(32, 4, 40, batch_first=True)
    space = hwsearch.adopt(layer, torch.randn(2, 5, 32))
    widths = {choice.name: choice.values for choice in space.choices if choice.role == "width"}
    assert (1, 2, 3, 4) in widths.values()
    assert (8, 16, 24, 32, 40) in widths.values()


def test_a_removed_branch_takes_its_parameters_with_it() -> None:
    """Attention too, which a graph keeps otherwise though nothing reads it, since it can be random in training."""
    layer = nn.TransformerEncoderLayer(32, 4, 40, batch_first=True)
    space = hwsearch.adopt(layer, torch.randn(2, 5, 32))
    row = space.row(branches=space.places.branches)
    network = space.extract(*space.plan(row))
    assert sum(each.numel() for each in network.parameters()) == hwsearch.metric("params", space)(row[None])[0] < 300


def test_a_layer_that_several_branches_share_counts_as_long_as_one_of_them_is_left() -> None:
    space = hwsearch.adopt(Recurring(3), torch.randn(IMAGE), step=4)
    assert sum(choice.role == "depth" for choice in space.choices) == 3
    X = np.concatenate(list(space.enumerate()))
    params, size = (hwsearch.metric(name, space)(X) for name in ("params", "size_mb"))
    for row, count, megabytes in zip(X, params, size, strict=True):
        network = space.cut(*space.plan(row)).build()
        assert count == sum(each.numel() for each in network.parameters()), row
        assert megabytes == pytest.approx(4e-6 * count)


def test_a_layer_that_many_branches_share_counts_as_if_it_stayed() -> None:
    space = hwsearch.adopt(Recurring(9), torch.randn(IMAGE), step=8)
    whole = space.row()
    removed = space.row(branches=space.places.branches)
    params = hwsearch.metric("params", space)
    left = sum(each.numel() for each in space.cut(*space.plan(removed)).build().parameters())
    assert left < params(removed[None])[0] <= params(whole[None])[0]


def test_counted_costs_are_those_of_the_extracted_network(space: Adopted) -> None:
    X = space.sample(20, np.random.default_rng(0))
    costs = {name: hwsearch.metric(name, space)(X) for name in ("macs", "params", "size_mb")}
    for number, row in enumerate(X):
        kept, branches = space.plan(row)
        assert np.array_equal(space.row(kept, branches), row)
        network = space.extract(kept, branches)
        params = sum(each.numel() for each in network.parameters())
        assert costs["macs"][number] == space.macs(kept, branches)
        assert costs["params"][number] == params
        assert costs["size_mb"][number] == pytest.approx(4 * params / 1e6)


def test_search_and_extract_give_the_repaired_network(space: Adopted, score: hwsearch.Predictor, images: torch.Tensor) -> None:
    whole = hwsearch.metric("macs", space)(space.row()[None])[0]
    result = hwsearch.search(space, "exact", predictor=score, limits={"macs": 0.6 * whole})
    assert result.status.name == "OPTIMAL"
    feasible = np.concatenate(list(space.enumerate()))
    feasible = feasible[hwsearch.metric("macs", space)(feasible) <= 0.6 * whole]
    assert result.best_score == pytest.approx(score(feasible).max())
    plain, repaired = hwsearch.extract(result.best), hwsearch.extract(result.best, data=images)
    with torch.no_grad():
        wanted = space.network(images)
        wrong = [float((each(images) - wanted).square().mean()) for each in (plain, repaired)]
    assert wrong[1] < 0.5 * wrong[0]
    assert repaired.meta["plan"]["branches"] == sorted(space.plan(result.best.genes)[1])


def test_a_tuple_of_images_and_labels_is_one_batch_wherever_examples_are_read(
    space: Adopted, score: hwsearch.Predictor, images: torch.Tensor
) -> None:
    """Two tensors of one length are no two batches of inputs."""
    small = space.knowing(score.space.learned).architecture(space.row(dict.fromkeys(space.places.groups, 8)))
    labels = torch.zeros(len(images), dtype=torch.int64)
    wanted = hwsearch.extract(small, data=images)(images)
    for data in ((images, labels), (images,), [(images, labels)], [images[:120], images[120:]]):
        assert torch.equal(hwsearch.extract(small, data=data)(images), wanted)
    with pytest.raises(InvalidInput, match="holds 3 tensors; 1 inputs were expected"):
        hwsearch.extract(small, data=(images, labels, labels))
    with pytest.raises(InvalidInput, match=r"counts its images, but their shapes are \[\(200, 3, 8, 8\), \(199,\)\]"):
        hwsearch.extract(small, data=(images, labels[1:]))


def test_a_torch_dataset_is_read_as_it_is(space: Adopted, score: hwsearch.Predictor, images: torch.Tensor) -> None:
    """Its items are put together, as a loader does, in an order in which no class comes first."""
    small = space.knowing(score.space.learned).architecture(space.row(dict.fromkeys(space.places.groups, 8)))
    labels = torch.arange(len(images)) // 50
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    inputs, targets = examples(space, TensorDataset(images, labels), 100)
    assert len(inputs[0]) == 100
    assert targets is not None
    assert len(set(targets.tolist())) == 4
    assert all(torch.equal(x, images[(images == x).flatten(1).all(1)][0]) for x in inputs[0][:5])
    assert torch.equal(examples(space, TensorDataset(images, labels), 100)[0][0], inputs[0]), "always the same"
    assert hwsearch.extract(small, data=TensorDataset(images[order], labels[order]))(images).shape == (200, 5)


def test_images_of_another_size_are_told_with_what_to_do(space: Adopted) -> None:
    with pytest.raises(InvalidInput, match=r"sizes \[\(3, 8, 8\)\].*shapes \[\(4, 3, 9, 9\)\].*size="):
        space.checked(torch.zeros(4, 3, 9, 9))


def test_units_are_kept_by_importance_and_the_result_says_which(space: Adopted, images: torch.Tensor) -> None:
    values = {group: np.random.default_rng(3).random(space.widths[group]) for group in space.places.groups}
    result = hwsearch.search(space, "exact", predictor=additive(space, values), limits={"params": 2500})
    kept = hwsearch.extract(result.best, data=images).meta["plan"]["keep"]
    for group, units in kept.items():
        assert set(units) == set(np.argsort(-values[group])[: len(units)].tolist())


def test_one_importance_can_say_what_widths_cost_and_another_one_which_units_go(space: Adopted) -> None:
    rng = np.random.default_rng(4)
    costs, order = ({group: rng.random(space.widths[group]) for group in space.places.groups} for _ in range(2))
    plain, split = additive(space, costs), additive(space, costs, order=order)
    X = space.sample(9, rng)
    assert np.array_equal(plain(X), split(X))
    for group, units in split.space.choose(dict.fromkeys(order, 2)).items():
        assert set(units) == set(np.argsort(-order[group])[:2].tolist())


def test_a_fresh_process_finds_the_same_units(space: Adopted, score: hwsearch.Predictor, tmp_path: Path) -> None:
    """The predictor's file keeps which units matter; the result's file and the network adopted anew are all that is needed besides."""
    result = hwsearch.search(space, predictor=score, limits={"macs": 1e6})
    score.save(tmp_path / "score.npz")
    result.save(tmp_path / "result.json")
    torch.manual_seed(0)
    again = hwsearch.adopt(Residual(), torch.randn(IMAGE))
    loaded = hwsearch.load_predictor(tmp_path / "score.npz", again)
    best = hwsearch.load_result(tmp_path / "result.json", loaded.space).best
    for (name, a), (_, b) in zip(hwsearch.extract(best).named_parameters(), hwsearch.extract(result.best).named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_restricted_and_pickled_spaces_mean_the_same(space: Adopted, score: hwsearch.Predictor) -> None:
    few = space.restrict({"depth": [1], "stem.width": [16, 24]})
    assert isinstance(few, Adopted)
    assert few.fingerprint == space.fingerprint
    assert hwsearch.search(few, predictor=score, limits={"macs": 1e6}).best.values()["blocks.0.depth"] == 1
    plain = pickle.loads(pickle.dumps(score))
    assert type(plain.space) is hwsearch.SearchSpace
    assert plain.space.fingerprint == space.fingerprint
    X = space.sample(5, np.random.default_rng(0))
    assert np.array_equal(plain(X), score(X))
    with pytest.raises(InvalidInput, match="Adopt it again"):
        hwsearch.extract(plain.space.architecture(X[0]))


def test_results_of_another_network_are_refused(space: Adopted, score: hwsearch.Predictor, tmp_path: Path) -> None:
    other = hwsearch.adopt(Residual(), torch.randn(2, 3, 12, 12))
    with pytest.raises(WrongSpace):
        hwsearch.load_predictor(score.save(tmp_path / "score.npz"), other)
    with pytest.raises(WrongSpace):
        hwsearch.search(other, predictor=score)
    with pytest.raises(UnknownName, match="g99"):
        space.row({"g99": 1})
    with pytest.raises(InvalidInput, match="its values are"):
        space.row({next(iter(space.places.groups)): 9})
    with pytest.raises(InvalidInput, match="fits no group"):
        space.knowing({"g0": np.zeros(3)})


def test_a_space_says_what_is_free_and_what_is_frozen(space: Adopted) -> None:
    assert "8 genes" in str(space)
    assert "head.weight" in str(space)
    assert "output of the network" in str(space)
    assert "<table>" in space._repr_html_()


class Striped(nn.Module):
    """A classifier of the direction of stripes, most of whose channels are noise: it is right without training."""

    def __init__(self, n: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first, self.second, self.head = nn.Conv2d(1, n, 3, padding=1), nn.Conv2d(n, n, 1), nn.Linear(n, 2)
        with torch.no_grad():
            for each in self.parameters():
                each.copy_(0.02 * torch.randn(each.shape, generator=generator))
            for place, kernel in enumerate(
                (torch.tensor([[-1.0], [2.0], [-1.0]]).expand(3, 3), torch.tensor([[-1.0, 2.0, -1.0]]).expand(3, 3))
            ):
                self.first.weight[5 + 7 * place, 0] += kernel / 3
                self.second.weight[3 + 9 * place, 5 + 7 * place] += 1.0
                self.head.weight[place, 3 + 9 * place] += 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


def stripes(n: int = 240) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy stripes, and which way they go."""
    generator = torch.Generator().manual_seed(6)
    across = torch.randint(0, 2, (n,), generator=generator)
    waves = torch.sin(2.1 * torch.arange(8.0) + 6.3 * torch.rand(n, 1, generator=generator))
    images = torch.where(across[:, None, None] == 0, waves[:, :, None].expand(n, 8, 8), waves[:, None, :].expand(n, 8, 8))
    return images[:, None] + 0.8 * torch.randn(n, 1, 8, 8, generator=generator), across


FEW = Probing(images=80, held_out=160, widths=2, networks=8)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adopted, hwsearch.Predictor, Path]:
    space = hwsearch.adopt(Striped(), torch.randn(2, 1, 8, 8))
    out = tmp_path_factory.mktemp("fitted") / "score.npz"
    return space, hwsearch.fit_predictor(space, data=[stripes()], out=out, sampling=FEW, progress=False), out


def test_a_fitted_predictor_is_additive_and_on_the_scale_of_accuracy(fitted: tuple[Adopted, hwsearch.Predictor, Path]) -> None:
    space, score, out = fitted
    x, y = stripes()
    with torch.no_grad():
        right = float((space.network(x[80:]).argmax(1) == y[80:]).double().mean())
    assert right > 0.9
    assert abs(score(space.row()[None])[0] - right) < 0.1
    result = hwsearch.search(
        space, "exact", predictor=score, limits={"macs": 0.3 * float(hwsearch.metric("macs", space)(space.row()[None])[0])}
    )
    assert result.status.name == "OPTIMAL"
    small = hwsearch.extract(result.best, data=x[:80])
    with torch.no_grad():
        assert float((small(x[80:]).argmax(1) == y[80:]).double().mean()) > right - 0.05
    again = hwsearch.load_predictor(out, space)
    X = space.sample(6, np.random.default_rng(0))
    assert np.array_equal(again(X), score(X))
    assert again.report is not None
    assert again.space.learned.keys() == space.places.groups.keys()


def test_a_stopped_fit_goes_on_where_it_stopped(fitted: tuple[Adopted, hwsearch.Predictor, Path], tmp_path: Path) -> None:
    space, score, out = fitted
    lines = out.with_suffix(".probes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "again.probes.jsonl").write_text("".join(lines[:6]))
    again = hwsearch.fit_predictor(space, data=[stripes()], out=tmp_path / "again.npz", sampling=FEW, progress=False)
    X = space.sample(6, np.random.default_rng(0))
    assert np.array_equal(again(X), score(X))
    assert (tmp_path / "again.probes.jsonl").read_text().splitlines(keepends=True)[:6] == lines[:6]
    with pytest.raises(InvalidInput, match="comes from other arguments: data"):
        hwsearch.fit_predictor(space, data=[stripes(250)], out=tmp_path / "again.npz", sampling=FEW, progress=False)


def test_a_metric_of_the_users_own_takes_the_place_of_accuracy(fitted: tuple[Adopted, hwsearch.Predictor, Path], tmp_path: Path) -> None:
    space, _, _ = fitted
    x = stripes()[0]
    with torch.no_grad():
        whole = space.network(x)

    def closeness(network: nn.Module) -> float:
        return -float((network(x) - whole).square().mean())

    how = Probing(images=80, metric=closeness, widths=1, networks=5)
    score = hwsearch.fit_predictor(space, data=x, out=tmp_path / "own.npz", sampling=how, progress=False)
    rows = np.array([space.row(), np.zeros_like(space.row())])
    assert score(rows)[0] > score(rows)[1]


def test_a_search_is_verified_on_repaired_networks(fitted: tuple[Adopted, hwsearch.Predictor, Path]) -> None:
    space, score, _ = fitted
    verify = hwsearch.Verify(RepairVerifier([stripes()], FEW), networks=3, rounds=2, tolerance={"score": 0.01})
    macs = float(hwsearch.metric("macs", space)(space.row()[None])[0])
    result = hwsearch.search(space, predictor=score, limits={"macs": 0.3 * macs}, verify=verify, run=hwsearch.Run(steps=5))
    assert result.word == "measured"
    x, y = stripes()
    small = hwsearch.extract(result.best, data=x[:80])
    with torch.no_grad():
        assert result.best_score == pytest.approx(float((small(x[80:]).argmax(1) == y[80:]).double().mean()))


def test_the_uniform_network_is_there_to_compare_with(fitted: tuple[Adopted, hwsearch.Predictor, Path]) -> None:
    """In a network without branches too, whose genes are all widths."""
    space, score, _ = fitted
    macs = hwsearch.metric("macs", space)
    same = {"macs": 0.4 * float(macs(space.row()[None])[0])}
    plain = hwsearch.searching.uniform(space, predictor=score, limits=same)
    found = hwsearch.search(space, "exact", predictor=score, limits=same)
    assert len({value / space.widths[group] for group, value in space.plan(plain.genes)[0].items()}) == 1
    assert float(macs(plain.genes[None])[0]) <= same["macs"]
    assert found.best_score >= float(score(plain.genes[None])[0])


def test_what_cannot_be_fitted_is_said(space: Adopted, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="brings its weights along"):
        hwsearch.fit_predictor(space, weights="w.safetensors", data=torch.randn(9, 3, 8, 8), out=tmp_path / "p.npz")
    with pytest.raises(InvalidInput, match="needs the weights of a supernet"):
        hwsearch.fit_predictor("resnet_digits", data="digits", out=tmp_path / "p.npz")
    with pytest.raises(InvalidInput, match="tensors"):
        hwsearch.extract(space.architecture(space.row()), data=[(torch.randn(2, 3, 8, 8),) * 3])
    dense = hwsearch.adopt(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)), torch.randn(2, 3, 4, 4))
    with pytest.raises(InvalidInput, match="no classifier"):
        hwsearch.fit_predictor(dense, data=torch.randn(9, 3, 4, 4), out=tmp_path / "p.npz")
