"""ProxylessNAS: the gradient and the expected cost of its architecture parameters, and what it finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_toy
from safetensors.torch import load_file
from typer.testing import CliRunner

import hwsearch
from hwsearch.cli import app
from hwsearch.costs import Metric, metric
from hwsearch.errors import InvalidInput
from hwsearch.nn import Recipe, Searched, Supernet, Tradeoff, Watch, evaluate, load_data, proxyless
from hwsearch.nn._proxyless import _Alternating
from hwsearch.nn.training._paths import Expected, Paths, of_two, reinforced
from hwsearch.spaces import Chain, Stage, TableSum

torch.set_num_threads(1)


def drawn(space: hwsearch.SearchSpace, seed: int) -> Paths:
    """Architecture parameters drawn at random."""
    paths = Paths(space)
    drawing = torch.Generator().manual_seed(seed)
    paths.alphas = [torch.randn(alpha.shape, generator=drawing) for alpha in paths.alphas]
    return paths


def test_the_gradient_of_two_paths_equals_finite_differences(toy: hwsearch.SearchSpace, rng: np.random.Generator) -> None:
    paths = drawn(toy, 0)
    rows, losses = (paths.sample(rng), paths.sample(rng)), [1.3, 0.4]
    alphas = [alpha.double().requires_grad_() for alpha in paths.alphas]
    slopes = torch.autograd.grad(of_two(paths, rows, losses, alphas), alphas, allow_unused=True)
    compared = 0
    for gene, slope in enumerate(slopes):
        for value in range(len(alphas[gene])):
            moved = []
            for change in (1e-5, -1e-5):
                other = [alpha.detach().clone() for alpha in alphas]
                other[gene][value] += change
                moved.append(float(of_two(paths, rows, losses, other)))
            wanted = (moved[0] - moved[1]) / 2e-5
            assert (0.0 if slope is None else float(slope[value])) == pytest.approx(wanted, abs=1e-6)
            compared += abs(wanted) > 1e-4
    assert compared >= 2


def test_expected_latency_equals_the_sum_of_the_table_for_one_hot_probabilities(
    toy: hwsearch.SearchSpace, roofline_table: hwsearch.LatencyTable, rng: np.random.Generator
) -> None:
    latency = metric("latency_ms", toy, roofline_table)
    expected = Expected(latency, Paths(toy).held)
    for row in toy.sample(20, rng):
        sure = [torch.nn.functional.one_hot(torch.tensor(int(value)), size).float() for value, size in zip(row, toy.sizes, strict=True)]
        assert float(expected(sure)) == pytest.approx(float(latency(row[None])[0]), rel=1e-5)


def test_expected_latency_is_the_mean_over_sampled_networks(toy: hwsearch.SearchSpace, rng: np.random.Generator) -> None:
    paths, macs = drawn(toy, 1), metric("macs", toy)
    found = macs(np.stack([paths.sample(rng) for _ in range(400)]))
    error = 4 * found.std() / len(found) ** 0.5
    assert float(Expected(macs, paths.held)(paths.probabilities())) == pytest.approx(found.mean(), abs=error)


def test_a_step_keeps_the_probabilities_of_all_values_that_were_not_sampled(rng: np.random.Generator) -> None:
    space = hwsearch.load_space("resnet_digits")
    paths = drawn(space, 2)
    rows = paths.sample(rng), paths.sample(rng)
    before = paths.probabilities()
    paths.step(rows, lambda alphas: of_two(paths, rows, [2.0, 0.5], alphas), 0.3)
    changed = 0
    for gene, (old, new) in enumerate(zip(before, paths.probabilities(), strict=True)):
        others = [value for value in range(len(old)) if value not in {int(row[gene]) for row in rows}]
        assert torch.allclose(old[others], new[others], atol=1e-6)
        changed += not torch.allclose(old, new, atol=1e-4)
    assert changed
    assert float(paths.logarithm(rows[1], list(paths.alphas))) > float(drawn(space, 2).logarithm(rows[1], list(drawn(space, 2).alphas)))


def test_rewards_draw_to_the_better_of_two_networks(toy: hwsearch.SearchSpace, rng: np.random.Generator) -> None:
    paths = drawn(toy, 3)
    rows = paths.sample(rng), paths.sample(rng)
    first = [float(paths.logarithm(row, list(paths.alphas))) for row in rows]
    paths.step(rows, lambda alphas: reinforced(paths, rows, [0.9, 0.2], alphas), 0.1)
    after = [float(paths.logarithm(row, list(paths.alphas))) for row in rows]
    assert after[0] - after[1] > first[0] - first[1]


@pytest.fixture
def small() -> hwsearch.SearchSpace:
    """A space whose smallest network learns digits within four epochs."""
    stages = (Stage(depths=(1, 2), outs=(16, 24), mids=(16, 24)), Stage(depths=(1,), outs=(24,), mids=(16, 24)))
    return Chain("small", (8,), (16,), stages, classes=10, channels=1).space()


@pytest.mark.parametrize("reward", [False, True])
def test_a_search_by_training_finds_small_networks_that_are_accurate_where_cost_counts(
    small: hwsearch.SearchSpace, tmp_path: Path, reward: bool
) -> None:
    """Where cost counts for very much the answer is the network that costs least, or nearly so, and it has learned.

    In half as many steps even a network that is trained alone gets no more than 0.7 of the digits right.
    """
    macs = metric("macs", small)
    tradeoff = Tradeoff(factor=3.0, reward=reward, rate=0.1, warm_up=0.1)
    arguments = {"data": "digits", "out": tmp_path / "found.safetensors", "cost": macs, "tradeoff": tradeoff, "progress": False}
    arguments["recipe"] = {"epochs": 3, "batch": 16, "learning_rate": 0.2}
    result = proxyless(small, **arguments)
    assert all(sum(each) == pytest.approx(1.0, abs=1e-5) for each in result.probabilities.values())
    before = float(Expected(macs, Paths(small).held)(Paths(small).probabilities()))
    after = float(Expected(macs, Paths(small).held)([torch.tensor(each) for each in result.probabilities.values()]))
    assert macs.lower_bound <= after < 0.5 * (macs.lower_bound + before)
    again = proxyless(small, **arguments)
    assert again.probabilities == result.probabilities
    assert again.best == result.best
    assert evaluate(result.best, weights=result.supernet, data="digits") > 0.6


def test_precisions_take_the_finest_value_and_inactive_genes_stay(rng: np.random.Generator) -> None:
    space = make_toy("fp32", "int8")
    paths = drawn(space, 4)
    finest = paths.sample(rng)
    assert all(block.precision == "fp32" for block in space.blocks(finest))
    depth = [choice.name for choice in space.choices].index("stage1.depth")
    shallow, deep = finest.copy(), space.canonical(Supernet(space).largest[None])[0]
    shallow[depth] = 0
    shallow = space.canonical(shallow[None])[0]
    inactive = np.flatnonzero(space.active(deep[None])[0] & ~space.active(shallow[None])[0])
    assert len(inactive)
    before = [alpha.clone() for alpha in paths.alphas]
    paths.step((shallow, deep), lambda alphas: of_two(paths, (shallow, deep), [1.0, 2.0], alphas), 0.3)
    assert all(torch.equal(paths.alphas[gene], before[gene]) for gene in inactive)
    assert not torch.equal(paths.alphas[depth], before[depth])
    assert paths.steps[depth] == 1
    assert not paths.steps[inactive].any()


def test_the_first_step_of_every_gene_is_as_large_as_that_of_adam(rng: np.random.Generator) -> None:
    """Adam corrects its mean of squares by how often a gene was changed, not by how many steps were made."""
    space = hwsearch.load_space("resnet_digits")
    paths, rate = Paths(space), 0.1
    first = Supernet(space).largest
    late = first.copy()
    late[0] = 0
    other = first.copy()
    other[1] = 0
    for row in (*[other] * 50, late):
        rows = first, space.canonical(row[None])[0]
        paths.step(rows, lambda alphas, rows=rows: of_two(paths, rows, [0.0, 1.0], alphas), rate)
    assert paths.steps[:2].tolist() == [1, 50]
    gap = float(paths.alphas[0][int(first[0])] - paths.alphas[0][0])
    assert gap == pytest.approx(2 * rate, rel=1e-3)


class Stopped(Exception):
    """The training was stopped."""


def test_a_search_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """The state holds the architecture as it was before the step that is made anew; the average of the weights leaves it alone."""
    space, outs = make_toy("fp32"), [tmp_path / f"{name}.safetensors" for name in ("straight", "stopped")]

    def run(out: Path, stop: bool) -> Searched:
        def told(row: dict[str, float]) -> None:
            if stop and row["epoch"] == 2:
                raise Stopped

        tradeoff = Tradeoff(warm_up=0.0, rate=0.1, factor=1.0)
        watch = Watch(callback=told, bar=False, images=0)
        recipe = {"epochs": 3, "batch": 128, "ema": 0.9}
        return proxyless(space, data="digits", out=out, cost=metric("macs", space), recipe=recipe, tradeoff=tradeoff, progress=watch)

    straight = run(outs[0], False)
    with pytest.raises(Stopped):
        run(outs[1], True)
    partial = load_file(f"{outs[1]}.partial")
    assert partial["memory.made"] > 0
    assert not [name for name in partial if name.startswith("average.") and "alphas" in name]
    assert run(outs[1], False).probabilities == straight.probabilities
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert max(abs(each[0] - each[-1]) for each in straight.probabilities.values() if len(each) == 2) > 0.1


def test_a_table_that_was_measured_anew_is_another_cost(toy: hwsearch.SearchSpace) -> None:
    macs = metric("macs", toy)
    scaled = hwsearch.costs.Metric("macs", "", toy, TableSum(tuple((genes, 1.01 * array) for genes, array in macs.tables)))
    assert macs.digest == metric("macs", toy).digest != scaled.digest


def test_what_cannot_be_is_refused(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    common = {"data": "digits", "out": tmp_path / "never.safetensors", "progress": False}
    for recipe in ({"teacher": Supernet(toy)}, {"phases": "progressive"}, {"patience": 3}, {"parts": 2}):
        with pytest.raises(InvalidInput, match="leave phases, patience, parts and teacher out"):
            proxyless(toy, cost=metric("macs", toy), recipe=recipe, **common)
    with pytest.raises(InvalidInput, match="no expected value"):
        proxyless(toy, cost=metric("peak_memory_mb", toy), **common)
    with pytest.raises(InvalidInput, match="is of space 'resnet_digits'"):
        proxyless(toy, cost=metric("macs", hwsearch.load_space("resnet_digits")), **common)
    colours = hwsearch.load_space("resnet_cifar")
    with pytest.raises(InvalidInput, match="has 1 and 10"):
        proxyless(colours, cost=metric("macs", colours), **common)
    with pytest.raises(InvalidInput, match="device 'nowhere' is not there"):
        proxyless(toy, cost=metric("macs", toy), recipe={"device": "nowhere"}, **common)
    with pytest.raises(InvalidInput, match="A trade-off needs"):
        Tradeoff(factor=-1.0)
    assert not list(tmp_path.iterdir())


def test_the_command_line_searches_by_training(tmp_path: Path) -> None:
    command = ["proxyless", "resnet_digits", "-o", str(tmp_path / "paths.safetensors"), "--architecture", str(tmp_path / "best.json")]
    done = CliRunner().invoke(app, [*command, "--epochs", "1", "--set", "batch=512", "--factor", "0.5", "--quiet"])
    assert done.exit_code == 0, done.output
    space = hwsearch.load_space("resnet_digits")
    assert hwsearch.Architecture.from_json(tmp_path / "best.json", space).space.fingerprint == space.fingerprint
    assert Supernet.load(tmp_path / "paths.safetensors", space).facts["tradeoff"]["factor"] == 0.5


@pytest.mark.parametrize("losses", [[np.nan, 1.0], [np.inf, 1.0], [1e39, 1.0]])
def test_a_loss_that_is_not_finite_changes_nothing(toy: hwsearch.SearchSpace, rng: np.random.Generator, losses: list[float]) -> None:
    paths = Paths(toy)
    rows = paths.sample(rng), paths.sample(rng)
    paths.step(rows, lambda alphas: of_two(paths, rows, losses, alphas), 0.1)
    assert not any(each.any() for each in paths.memory().values())
    paths.sample(rng)


def test_a_training_that_diverges_says_so(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    recipe = {"epochs": 1, "batch": 32, "learning_rate": 1e30, "warm_up": 0.0}
    with pytest.raises(InvalidInput, match="Training diverged"):
        proxyless(
            toy,
            data="digits",
            out=tmp_path / "never.safetensors",
            cost=metric("macs", toy),
            recipe=recipe,
            tradeoff=Tradeoff(warm_up=0.0),
            progress=False,
        )


def test_logits_move_on_after_a_huge_loss(rng: np.random.Generator) -> None:
    """And what is kept of it is finite, as files of states have to be."""
    space = hwsearch.load_space("resnet_digits")
    paths = Paths(space)
    first = Supernet(space).largest
    other = first.copy()
    other[0] = 0
    rows = first, space.canonical(other[None])[0]
    paths.step(rows, lambda alphas: of_two(paths, rows, [0.0, 1e25], alphas), 0.1)
    assert all(bool(torch.isfinite(each).all()) for each in paths.memory().values())
    before = paths.alphas[0].clone()
    for _ in range(100):
        paths.step(rows, lambda alphas: of_two(paths, rows, [1.0, 0.0], alphas), 0.1)
    assert float((paths.alphas[0] - before).abs().max()) > 0.01


@pytest.mark.parametrize(
    "change", [{"factor": np.inf}, {"rate": np.inf}, {"target": np.inf}, {"target": np.nan}, {"factor": None}, {"rate": "1"}]
)
def test_a_trade_off_takes_finite_numbers(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="A trade-off needs finite numbers"):
        Tradeoff(**change)  # type: ignore[arg-type]


def test_a_trade_off_turns_numbers_of_numpy_into_those_of_files() -> None:
    tradeoff = Tradeoff(factor=np.float32(0.5), target=np.float64(2.0), rate=np.float32(0.25), warm_up=np.int64(0))  # type: ignore[arg-type]
    assert [type(each) for each in (tradeoff.factor, tradeoff.target, tradeoff.rate, tradeoff.warm_up)] == [float] * 4
    assert tradeoff == Tradeoff(factor=0.5, target=2.0, rate=0.25, warm_up=0.0)


def alternating(space: hwsearch.SearchSpace, cost: Metric, tradeoff: Tradeoff, batch: int = 64) -> _Alternating:
    """The losses of a search by training, of digits."""
    return _Alternating(Supernet(space), Recipe(epochs=1, batch=batch), tradeoff, cost, load_data("digits"))


def over_resolutions(space: hwsearch.SearchSpace, *values: float) -> Metric:
    """A cost by the resolution alone."""
    return Metric.from_tables("own", space, [(["resolution"], values)])


def test_costs_that_are_no_costs_are_refused(toy: hwsearch.SearchSpace) -> None:
    for reward in (False, True):
        with pytest.raises(InvalidInput, match="may be as low as -3"):
            alternating(toy, over_resolutions(toy, -3.0, 5.0), Tradeoff(reward=reward))
    with pytest.raises(InvalidInput, match="costs above 0 only"):
        alternating(toy, over_resolutions(toy, 0.0, 5.0), Tradeoff(reward=True))
    assert alternating(toy, over_resolutions(toy, 0.0, 5.0), Tradeoff()).target == 2.5
    with pytest.raises(InvalidInput, match="is no target"):
        alternating(toy, over_resolutions(toy, 0.0, 0.0), Tradeoff())
    with pytest.raises(InvalidInput, match="is no target"):
        alternating(toy, over_resolutions(toy, 1.0, np.inf), Tradeoff(reward=True))
    with pytest.raises(InvalidInput, match="none of them can run"):
        alternating(toy, over_resolutions(toy, np.inf, np.inf), Tradeoff(reward=True, target=1.0))


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_a_network_that_cannot_run_gets_no_reward(toy: hwsearch.SearchSpace, factor: float) -> None:
    losses = alternating(toy, over_resolutions(toy, 1.0, np.inf), Tradeoff(reward=True, target=1.0, factor=factor))
    rows = losses.supernet.smallest, losses.supernet.largest
    for row, other in (rows, rows[::-1]):
        found = losses._loss((row, other), [(1.0, 0.5), (1.0, 0.5)], losses.paths.alphas)
        wanted = reinforced(losses.paths, rows, [0.5, 0.0], losses.paths.alphas)
        assert float(found) == pytest.approx(float(wanted))


def test_what_a_space_does_not_allow_may_cost_anything(toy: hwsearch.SearchSpace) -> None:
    """The cost may be of the whole space, and the search of a part of it."""
    cost = over_resolutions(toy, 2.0, np.inf)
    part = replace(toy, allowed=((0,), *toy.allowed[1:]))
    paths = Paths(part)
    assert float(Expected(cost, paths.held)(paths.probabilities())) == 2.0
    with pytest.raises(InvalidInput, match="no expected value"):
        Expected(cost, Paths(toy).held)


def test_validation_images_are_spread_evenly_over_batches(toy: hwsearch.SearchSpace) -> None:
    """The last one would be a single image, by which no batch norm can go."""
    count = load_data("digits").count("val")
    batches = alternating(toy, metric("macs", toy), Tradeoff(), batch=count - 1)._batches
    assert [len(labels) for _, labels in batches] == [len(images) for images, _ in batches] == [(count + 1) // 2, count // 2]
    whole = load_data("digits").batches("val", count)
    assert torch.equal(torch.cat([images for images, _ in batches]), next(iter(whole))[0])


def test_a_space_is_taken_by_its_name_and_other_things_by_what_they_are(tmp_path: Path) -> None:
    space = hwsearch.load_space("resnet_digits")
    common = {"data": "digits", "out": tmp_path / "named.safetensors", "progress": False}
    with pytest.raises(InvalidInput, match="cost must be a metric"):
        proxyless("resnet_digits", cost="macs", **common)
    with pytest.raises(InvalidInput, match="tradeoff must be a Tradeoff"):
        proxyless("resnet_digits", cost=metric("macs", space), tradeoff={"factor": 0.5}, **common)
    assert not list(tmp_path.iterdir())
    recipe = {"epochs": 1, "batch": 512, "sandwich": False, "random_networks": 0}  # which play no part
    found = proxyless("resnet_digits", cost=metric("macs", space), recipe=recipe, **common)
    assert found.best.space.fingerprint == space.fingerprint


def test_the_command_line_needs_two_files_that_can_be_written(tmp_path: Path) -> None:
    out, folder = tmp_path / "one.safetensors", tmp_path / "folder"
    folder.mkdir()
    for architecture, words in ((tmp_path / "folder" / ".." / "one.safetensors", "need a file each"), (folder, "it is a folder")):
        command = ["proxyless", "resnet_digits", "-o", str(out), "--architecture", str(architecture), "--epochs", "1", "--quiet"]
        done = CliRunner().invoke(app, command)
        assert done.exit_code != 0
        assert words in " ".join(done.output.split())
    assert list(tmp_path.iterdir()) == [folder]
