"""MetaPruning: weights that a small network makes from the widths of each layer, trained on random widths, searched by evolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hwsearch
from hwsearch.algorithms import Evolution
from hwsearch.errors import InvalidInput
from hwsearch.nn import Supernet, SupernetScore, coded_size, evaluate
from hwsearch.nn.supernet._channels import rank_channels
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)
META = {"epochs": 3, "batch": 16, "learning_rate": 0.1, "generated": True, "sandwich": False, "random_networks": 1}


@pytest.fixture(scope="module")
def space() -> hwsearch.SearchSpace:
    """Widths of two stages."""
    stages = (Stage(depths=(1,), outs=(16, 24), mids=(12, 16, 24)), Stage(depths=(1,), outs=(24,), mids=(12, 16, 24), kind="bottleneck"))
    return Chain("widths", (8,), (16,), stages, classes=10, channels=1, precisions=()).space()


@pytest.fixture(scope="module")
def trained(space: hwsearch.SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of weights that are made from widths, trained on digits."""
    out = tmp_path_factory.mktemp("meta") / "meta.safetensors"
    hwsearch.train(space, data="digits", out=out, recipe=META, progress=False)
    return out


def test_no_two_widths_share_weights_and_each_network_computes_with_its_own(space: hwsearch.SearchSpace) -> None:
    meta, shared = Supernet(space, 0, generated=True), Supernet(space, 0)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    firsts = {}
    for supernet in (meta, shared):
        for row in (supernet.smallest, supernet.largest):
            supernet.activate(row)
            supernet.calibrate_bn(x)
            network = supernet.extract(row, x)
            assert torch.allclose(network(x), supernet(x), atol=1e-5)
            firsts[supernet.generated, bool(row.any())] = network.get_submodule("stage1_block1").body[0].op.weight[:12, :16]
    assert torch.equal(firsts[False, False], firsts[False, True])
    assert (firsts[True, False] - firsts[True, True]).abs().max() > 0.01


def test_a_step_changes_what_is_made_for_all_widths(space: hwsearch.SearchSpace) -> None:
    """The networks share what makes their weights, so those learn that are not sampled, too."""
    meta = Supernet(space, 1, generated=True)
    before = [parameter.clone() for parameter in meta.extract(meta.smallest, torch.randn(4, 1, 8, 8)).parameters()]
    meta.activate(meta.largest)
    meta(torch.randn(4, 1, 8, 8)).square().sum().backward()
    with torch.no_grad():
        for parameter in meta.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    after = list(meta.extract(meta.smallest, torch.randn(4, 1, 8, 8)).parameters())
    assert any(not torch.allclose(one, other) for one, other in zip(before, after, strict=True))


def test_networks_of_random_widths_learn_and_evolution_finds_one_within_a_limit(space: hwsearch.SearchSpace, trained: Path) -> None:
    """Batch norms are re-estimated for each network before it is judged, on images held out of training."""
    supernet = Supernet.load(trained, space)
    assert supernet.generated
    score = SupernetScore(space, trained, "digits", images=200)
    macs = hwsearch.metric("macs", space)
    limit = 0.5 * (macs.lower_bound + float(macs(supernet.largest[None])[0]))
    evolution = Evolution(population=8, islands=1, parents=3, alone=1, steps=4)
    found = hwsearch.search(space, evolution, predictor=score, limits={"macs": limit}, run=hwsearch.Run(evaluations=14, progress=False))
    assert float(macs(found.best.genes[None])[0]) <= limit
    assert evaluate(found.best, weights=trained, data="digits") > 0.6
    rows = space.sample(4, np.random.default_rng(0))
    assert min(score(rows)) > 0.6


def test_the_network_that_was_found_goes_on_alone_with_what_was_made_for_it(
    space: hwsearch.SearchSpace, trained: Path, tmp_path: Path
) -> None:
    meta = Supernet.load(trained, space)
    row = meta.smallest
    alone = Supernet(space.alone(row))
    alone.inherit(meta)
    images = meta.calibration()
    assert torch.allclose(alone.extract(row, images)(images[:4]), meta.extract(row)(images[:4]), atol=1e-5)
    assert not alone.generated
    tuned = hwsearch.train(
        space.alone(row), data="digits", out=tmp_path / "alone.safetensors", recipe={"epochs": 1}, weights=trained, progress=False
    )
    assert Supernet.load(tmp_path / "alone.safetensors", tuned.space).settled


def test_what_makes_no_sense_is_refused(space: hwsearch.SearchSpace, trained: Path, tmp_path: Path) -> None:
    def refused(words: str, where: hwsearch.SearchSpace = space, **more: object) -> None:
        changes = more.pop("recipe", {})
        with pytest.raises(InvalidInput, match=words):
            hwsearch.train(where, data="digits", out=tmp_path / "never.safetensors", recipe={**META, **changes}, progress=False, **more)

    refused("are for supernets", space.alone(Supernet(space).largest))
    refused("leave the phases out", recipe={"phases": "progressive"})
    refused("leave the teacher out", recipe={"teacher": trained})
    refused("at least one a step", recipe={"random_networks": 0})
    refused("begin at random", weights=trained)
    assert not list(tmp_path.iterdir())


def test_the_coded_size_of_large_layers_whose_weights_are_made() -> None:
    """Layers above 16,384 weights go by the largest one in their place, which is made like any other."""
    stages = (Stage(depths=(1,), outs=(48, 64), mids=(48, 64)),)
    large = Chain("big", (8,), (8,), stages, classes=10, channels=1).space()
    supernet = Supernet(large, 0, generated=True)
    sizes = coded_size(supernet, bits=4)(np.stack([supernet.smallest, supernet.largest]))
    assert 0 < sizes[0] < sizes[1] < 1


def test_what_changes_single_weights_is_refused_where_they_are_made(space: hwsearch.SearchSpace) -> None:
    """They would be changed in copies, and lost."""
    one = space.alone(Supernet(space).largest)
    meta, network = Supernet(one, 0, generated=True), Supernet(one).extract(Supernet(one).largest, torch.randn(4, 1, 8, 8))
    with pytest.raises(InvalidInput, match="cannot take over those of a network"):
        meta.settle(network)
    assert not meta.settled
    with pytest.raises(InvalidInput, match="have no order of channels"):
        meta.reorder()
    with pytest.raises(InvalidInput, match="have no order of channels"):
        rank_channels(meta, one)
