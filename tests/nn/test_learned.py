"""Learned steps: their gradients are those of the papers, and what was learned is shipped, saved and exported."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsearch
from hwsearch.backends import load_backend
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.nn import ArrayData, Quantization, Recipe, Supernet, deploy, load_data, train, tune
from hwsearch.nn._evaluate import Extracted, deployed
from hwsearch.nn.quantization._learned import Grid
from hwsearch.nn.quantization._tune import Tuning
from hwsearch.nn.training._loop import Training
from hwsearch.nn.training._processes import Processes
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)

FINE = Recipe(epochs=2, batch=32, learning_rate=0.02, label_smoothing=0.0)


def network(precision: str, folder: Path) -> tuple[hwsearch.Architecture, Supernet]:
    """A small network trained on scanned digits, alone at a precision."""
    space = Chain("bits", (8,), (8,), (Stage((1,), (16,), (16,), 2),), 10, ("fp32", precision), channels=1).space()
    architecture = hwsearch.searching.dense(space, precision)
    recipe = Recipe(epochs=6, batch=32, learning_rate=0.2)
    out = folder / "float.safetensors"
    return architecture, train(space.alone(architecture.genes), data=load_data("digits"), out=out, recipe=recipe, progress=False)


@pytest.fixture(scope="module")
def three_bits(tmp_path_factory: pytest.TempPathFactory) -> tuple[hwsearch.Architecture, Supernet]:
    return network("int3", tmp_path_factory.mktemp("three"))


@settings(deadline=None)
@given(st.integers(2, 8), st.floats(0.01, 3.0), st.integers(0, 7), st.booleans())
def test_step_learns_by_the_equations_of_lsq_and_pact(bits: int, step: float, zero: int, inner: bool) -> None:
    zero = min(zero, 2**bits - 1)
    grid = Grid(torch.tensor(step), zero, bits, inner=inner)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.autograd.backward((grid(x) * weight).sum())
    least, most = -zero, 2**bits - 1 - zero
    scaled = x.detach().double() / step
    clipped = (scaled < least) | (scaled > most)
    slope = torch.where(clipped, scaled.round().clamp(least, most), (scaled.round() - scaled) if inner else 0 * scaled)
    integers = max(most, -least)
    factor = 1 / math.sqrt(3 * 4 * 4 * integers) if inner else 1 / integers**2
    assert grid.step.grad is not None
    assert x.grad is not None
    assert float(grid.step.grad) == pytest.approx(float((slope * weight).sum()) * factor, rel=1e-3, abs=1e-3)
    assert torch.equal(x.grad, weight * ~clipped)
    assert len(grid(x).unique()) <= 2**bits


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_penalty_of_pact_draws_the_clipping_level_by_its_equation(bits: int) -> None:
    decay, rate, most = 0.1, 0.01, 2**bits - 1
    grid = Grid(torch.tensor(2.0 / most), 0, bits, inner=False)
    torch.autograd.backward(0.5 * decay * grid.reach.square())
    assert grid.step.grad is not None
    level = (float(grid.step.detach()) - rate * float(grid.step.grad)) * most
    assert level == pytest.approx(2.0 - rate * decay * 2.0, rel=1e-5)


def test_filters_learn_steps_of_their_own() -> None:
    weight = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    grid = Grid(torch.tensor([0.1, 0.2, 0.3, 0.4]), 0, 3)
    torch.autograd.backward(grid(weight)[1].square().sum())
    assert grid.step.grad is not None
    assert grid.step.grad.nonzero().flatten().tolist() == [1]
    assert all(
        set((one / step).round().int().unique().tolist()) <= set(range(-3, 4)) for one, step in zip(grid(weight), grid.steps, strict=True)
    )


@pytest.mark.parametrize("way", ["lsq", "pact"])
def test_tuning_learns_steps_that_are_shipped(three_bits: tuple[hwsearch.Architecture, Supernet], way: str, tmp_path: Path) -> None:
    architecture, floating = three_bits
    out = tmp_path / "tuned.safetensors"
    before = deployed(floating, architecture.genes)
    tuned = tune(floating, data=load_data("digits"), out=out, recipe=replace(FINE, epochs=4), way=way, progress=False)
    images, data = floating.calibration(), load_data("digits")
    after = deployed(tuned, architecture.genes)
    assert isinstance(data, ArrayData)
    x, y = data.normalized(floating.normalize).normalize(data.train_x), torch.as_tensor(data.train_y)
    assert F.cross_entropy(after(x), y) < 0.8 * F.cross_entropy(before(x), y)
    assert all(after.quantizers[place].scale != one.scale for place, one in before.quantizers.items())
    read = Supernet.load(out, architecture.space)
    assert torch.equal(deployed(read, architecture.genes)(images), after(images))
    assert read.digest == tuned.digest
    # Steps of three bits mean nothing at another precision.
    blocks = [hwsearch.networks.Block.parse(block.key.replace("int3", "int8")) for block in architecture.blocks()]
    assert {quantizer.bits for quantizer in deploy(read.extract(architecture.genes), blocks, images).quantizers.values()} == {8}


def losses_of(floating: Supernet, recipe: Recipe, batches: int, way: str = "lsq") -> tuple[Tuning, Extracted, Training]:
    """A training of a tuning under way: its batch norms go by the batch for so many steps."""
    taken = Extracted.of(floating, floating.largest)
    losses = Tuning(taken, recipe, way=way, batches=batches)
    return losses, taken, Training(losses, load_data("digits"), recipe, 0, Processes())


@pytest.mark.parametrize("way", ["lsq", "pact"])
def test_the_network_that_is_trained_is_the_one_that_is_shipped(three_bits: tuple[hwsearch.Architecture, Supernet], way: str) -> None:
    """To the last bit, even of a channel that its batch norm takes away."""
    _, floating = three_bits
    recipe = replace(FINE, epochs=1)
    losses, taken, training = losses_of(floating, recipe, 25, way)
    with torch.no_grad():
        next(iter(losses.norms.values())).weight[3] = 0.0
    assert all(math.isfinite(loss) for loss in training)
    losses.network.eval()
    data = load_data("digits")
    assert isinstance(data, ArrayData)
    x = data.normalize(data.test_x)
    with torch.inference_mode():
        trained = losses._run(x, None)
    losses.settle()
    assert torch.equal(deploy(losses.network, taken.blocks, taken.images)(x), trained)


def test_batch_norms_go_by_the_batch_at_first_and_are_shipped_as_the_last_steps_have_them(
    three_bits: tuple[hwsearch.Architecture, Supernet],
) -> None:
    _, floating = three_bits
    losses, taken, training = losses_of(floating, FINE, 40)
    x = taken.images[:32]
    seen, apart = [], []
    for _ in training:
        seen.append(torch.cat([each.clone() for each in losses.statistics.values()]))
        with torch.no_grad():
            outputs = [losses._run(some, None) for some in (x, torch.cat([x, 3 * x]))]
        apart.append(float((outputs[0] - outputs[1][:32]).abs().max()))
        for own, each in zip(losses.statistics.values(), seen[-1].split([len(one) for one in losses.statistics.values()]), strict=True):
            own.copy_(each)
    moved = [not torch.equal(*pair) for pair in pairwise(seen)]
    assert moved == [number < 39 for number in range(len(moved))]
    assert min(apart[:40]) > 0.1, "what an image becomes depends on the others of its batch"
    assert max(apart[40:]) < 1e-3


def test_images_that_are_no_numbers_leave_the_statistics_as_they_were(three_bits: tuple[hwsearch.Architecture, Supernet]) -> None:
    _, floating = three_bits
    losses, taken, _ = losses_of(floating, FINE, 40)
    before = [each.clone() for each in losses.statistics.values()]
    list(losses(float("nan") * taken.images[:8], torch.zeros(8, dtype=torch.int64), np.random.default_rng(0)))
    assert all(torch.equal(*pair) for pair in zip(before[:2], list(losses.statistics.values())[:2], strict=True))
    assert all(bool(torch.isfinite(each).all()) for each in losses.statistics.values())


def test_two_bits_are_learned_where_calibration_alone_fails(tmp_path: Path) -> None:
    architecture, floating = network("int2", tmp_path)
    calibrated = hwsearch.evaluate(architecture, weights=floating, data="digits")
    tuned = tune(floating, data="digits", out=tmp_path / "tuned.safetensors", recipe=replace(FINE, epochs=6), progress=False)
    assert hwsearch.evaluate(architecture, weights=tuned, data="digits") > calibrated + 0.1


@pytest.mark.parametrize("step", [20, 60])  # while batch norms go by the batch, and after that
def test_tuning_that_was_stopped_ends_with_the_same_steps(
    three_bits: tuple[hwsearch.Architecture, Supernet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    _, floating = three_bits
    arguments = {"data": load_data("digits"), "recipe": FINE, "progress": False}
    whole = tune(floating, out=tmp_path / "whole.safetensors", **arguments)
    save: Callable[..., None] = Training.save

    def stop(self: Training, *told: object) -> None:
        save(self, *told)
        if self.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(floating, out=tmp_path / "stopped.safetensors", **arguments)
    monkeypatch.undo()
    again = tune(floating, out=tmp_path / "stopped.safetensors", **arguments)
    assert again.digest == whole.digest
    assert all(torch.equal(each, whole.state_dict()[name]) for name, each in again.state_dict().items())


def test_tuned_int8_network_is_what_its_file_computes(tmp_path: Path) -> None:
    import onnxruntime

    architecture, floating = network("int8", tmp_path)
    data = load_data("digits")
    assert isinstance(data, ArrayData)
    how = Quantization().on(load_backend("onnxruntime"))
    tuned = tune(floating, data=data, out=tmp_path / "tuned.safetensors", recipe=FINE, quantization=how, progress=False)
    path = hwsearch.export(architecture, weights=tuned, out=tmp_path / "tuned.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = data.normalize(data.test_x).contiguous()
    found = np.concatenate([session.run(None, {"input": image[None].numpy()})[0] for image in x])
    with torch.inference_mode():
        network_ = deployed(tuned, architecture.genes, quantization=how)
        expected = network_(x).numpy()
    largest = max(quantizer.scale for quantizer in network_.quantizers.values())
    assert np.abs(found - expected).max() < 2 * largest  # a value between two steps may fall to either
    assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()


def test_a_network_is_tuned_again_the_other_way(three_bits: tuple[hwsearch.Architecture, Supernet], tmp_path: Path) -> None:
    architecture, floating = three_bits
    data = load_data("digits")
    once = tune(floating, data=data, out=tmp_path / "lsq.safetensors", recipe=FINE, progress=False)
    again = tune(once, data=data, out=tmp_path / "pact.safetensors", recipe=FINE, way="pact", progress=False)
    assert hwsearch.evaluate(architecture, weights=again, data="digits") > 0.8
    assert not any("weight_grid" in name for name in again.learned)
    free = network("w4a16", tmp_path / "free")[1]
    tune(free, data=data, out=tmp_path / "free" / "pact.safetensors", recipe=FINE, way="pact", progress=False)


def test_tuning_on_other_images_or_with_a_teacher_is_another_one(
    three_bits: tuple[hwsearch.Architecture, Supernet], tmp_path: Path
) -> None:
    _, floating = three_bits
    out, data = tmp_path / "tuned.safetensors", load_data("digits")
    assert isinstance(data, ArrayData)
    tune(floating, data=data, out=out, recipe=FINE, progress=False)
    with pytest.raises(InvalidInput, match="data 'digits' there and 'mine' here"):
        tune(floating, data=replace(data, name="mine"), out=out, recipe=FINE, progress=False)
    with pytest.raises(InvalidInput, match="teacher None there"):
        tune(floating, data=data, out=out, recipe=replace(FINE, teacher=floating), progress=False)


def test_steps_without_zero_points_are_used_where_there_shall_be_none(
    three_bits: tuple[hwsearch.Architecture, Supernet], tmp_path: Path
) -> None:
    architecture, floating = three_bits
    data, ways = load_data("digits"), (Quantization(symmetric=True), Quantization())
    for number, how in enumerate(ways):
        tuned = tune(floating, data=data, out=tmp_path / f"{number}.safetensors", recipe=FINE, quantization=how, progress=False)
        kept, other = (deployed(tuned, architecture.genes, quantization=one) for one in (how, ways[1 - number]))
        assert {one.symmetric for one in kept.quantizers.values()} == {how.symmetric}
        assert {one.symmetric for one in other.quantizers.values()} == {not how.symmetric}
        grids = {float(tensor) for name, tensor in tuned.learned.items() if name.endswith("out_grid.step")}
        assert {one.scale for one in kept.quantizers.values()} <= {abs(step) for step in grids}
        assert hwsearch.evaluate(architecture, weights=tuned, data=data, quantization=ways[1 - number]) > 0.5


def test_what_cannot_be_tuned_is_refused(three_bits: tuple[hwsearch.Architecture, Supernet], tmp_path: Path) -> None:
    architecture, floating = three_bits
    with pytest.raises(UnknownName, match="Did you mean 'lsq'"):
        tune(floating, data=load_data("digits"), out=tmp_path / "no", recipe=FINE, way="lsk")
    with pytest.raises(InvalidInput, match="sync_bn"):
        tune(floating, data=load_data("digits"), out=tmp_path / "no", recipe=replace(FINE, sync_bn=True))
    one = floating.alone(architecture.genes)
    assert one.digest == floating.digest
    with pytest.raises(InvalidInput, match="trained alone"):
        tune(Supernet(architecture.space), data=load_data("digits"), out=tmp_path / "no", recipe=FINE)
