"""2:4 sparsity: the pattern holds from the mask to the file, and costs little where channels may move and weights may adapt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsearch
from hwsearch.backends.onnxruntime import OnnxRuntime
from hwsearch.errors import InvalidInput, Unsupported
from hwsearch.nn import Phase, Recipe, Supernet, evaluate, floats, load_data, sample_networks, train
from hwsearch.nn.quantization._sparse import DECAY, best_order, kept, mask, thin
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)


def make_space() -> hwsearch.SearchSpace:
    return Chain("sparse", (8,), (16,), (Stage((1,), (16,), (32,), 2),), 10, ("fp32", "int8", "int8-2:4"), channels=1).space()


def row(space: hwsearch.SearchSpace, precision: str) -> hwsearch.Architecture:
    return hwsearch.searching.dense(space, precision)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(0, 1000))
def test_the_two_largest_of_every_four_are_kept(cout: int, groups: int, kernel: int, seed: int) -> None:
    weight = torch.randn(cout, 4 * groups, kernel, kernel, generator=torch.Generator().manual_seed(seed))
    shown = mask(weight).view(cout, groups, 4, kernel, kernel)
    assert (shown.sum(dim=2) == 2).all()
    magnitude = weight.abs().view(cout, groups, 4, kernel, kernel)
    least = torch.where(shown, magnitude, torch.inf).amin(dim=2)
    assert (least >= torch.where(shown, 0.0, magnitude).amax(dim=2)).all()
    assert torch.equal(mask(weight * mask(weight)), mask(weight)) or float((weight == 0).sum()) > 0


def test_gradients_pass_the_mask_and_what_is_hidden_decays() -> None:
    weight = torch.tensor([[4.0, 3.0, 2.0, 1.0]], requires_grad=True)
    thinned = thin(weight)
    assert thinned.tolist() == [[4.0, 3.0, 0.0, 0.0]]
    torch.autograd.backward(thinned.sum())
    assert weight.grad is not None
    assert torch.allclose(weight.grad, torch.tensor([[1.0, 1.0, 1.0 + 2 * DECAY, 1.0 + DECAY]]))


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_an_order_of_channels_never_keeps_less(groups: int, seed: int) -> None:
    weight = torch.randn(8, 4 * groups, 3, 3, generator=torch.Generator().manual_seed(seed))
    order = best_order(weight, rounds=20)
    assert sorted(order.tolist()) == list(range(4 * groups))
    assert kept(weight[:, order]) >= kept(weight) - 1e-6


def test_channels_that_stand_badly_are_put_right() -> None:
    """Large channels next to each other lose half of what they hold; spread out they lose nothing."""
    weight = torch.full((8, 16, 1, 1), 0.01)
    weight[:, :8] = 1.0
    assert kept(weight) == pytest.approx(0.5, abs=0.02)
    assert kept(weight[:, best_order(weight)]) > 0.98


def test_reordered_network_computes_what_it_did_and_loses_less() -> None:
    space = make_space()
    dense = Supernet(space)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    alone = Supernet(space.alone(row(space, "int8-2:4").genes))
    alone.inherit(dense)
    last = alone.blocks["stage1_block1"].body[1]
    before, images = kept(last.weight), torch.randn(16, 1, 8, 8)
    floating = row(space, "fp32").genes
    alone.activate(floating)
    expected = alone(images)
    alone.activate(alone.largest)
    alone.reorder()
    assert kept(last.weight) > before
    alone.activate(floating)
    with torch.no_grad():
        assert torch.allclose(alone(images), expected, rtol=1e-3, atol=1e-3)


def test_sparse_retraining_recovers_and_the_file_keeps_the_pattern(tmp_path: Path) -> None:
    space, data = make_space(), load_data("digits")
    sparse, dense = row(space, "int8-2:4"), row(space, "int8")
    recipe = Recipe(epochs=6, batch=32, learning_rate=0.2, label_smoothing=0.0)
    weights = train(space.alone(dense.genes), data=data, out=tmp_path / "dense.safetensors", recipe=recipe, progress=False)
    whole = evaluate(dense, weights=weights, data=data)
    pruned = evaluate(sparse, weights=weights, data=data)
    finer = Recipe(epochs=4, batch=32, learning_rate=0.05, label_smoothing=0.0)
    alone = train(space.alone(sparse.genes), data=data, out=tmp_path / "sparse.safetensors", recipe=finer, weights=weights, progress=False)
    recovered = evaluate(sparse, weights=alone, data=data)
    assert recovered > pruned - 0.005
    assert recovered > whole - 0.02
    path = hwsearch.export(sparse, weights=tmp_path / "sparse.safetensors", out=tmp_path / "sparse.onnx")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    checked = 0
    for name, values in arrays.items():
        if name.endswith(".weight.values") and values.ndim == 4 and values.shape[1] % 16 == 0 and values.shape[0] % 8 == 0:
            nonzero = (values != 0).reshape(values.shape[0], -1, 4, *values.shape[2:]).sum(axis=2)
            assert nonzero.max() <= 2
            checked += 1
    assert checked == 3, "both convolutions of the block and its shortcut"


def test_a_processor_without_sparse_kernels_refuses(tmp_path: Path) -> None:
    space = make_space()
    with pytest.raises(Unsupported, match="its precisions are fp32, int8"):
        OnnxRuntime().open(row(space, "int8-2:4").blocks())
    table = hwsearch.profile(space, backend=hwsearch.backends.Roofline(), out=tmp_path / "table.json", progress=False)
    assert not [key for key in table.rows if "2:4" in key]
    found = hwsearch.search(
        space, device=table, predictor=lambda X: X.sum(axis=1) + np.zeros(len(X)), run=hwsearch.Run(steps=3, progress=False)
    ).best
    assert not [value for value in found.values().values() if value == "int8-2:4"]


@pytest.mark.parametrize("precisions", [("int8", "int8-2:4"), ("int8-2:4", "int8"), ("int4", "fp32", "int8-2:4", "int8")])
def test_whatever_the_order_of_precisions_the_largest_network_teaches_with_all_its_weights(precisions: tuple[str, ...]) -> None:
    space = Chain("sparse", (8,), (16,), (Stage((1, 2), (16, 24), (32,), 2),), 10, precisions, channels=1).space()
    finest = "fp32" if "fp32" in precisions else "int8"
    supernet = Supernet(space)
    for row in (supernet.largest, supernet.smallest):
        found = {value for name, value in space.decode(row).items() if name.endswith("precision") and name != "head.precision"}
        assert found == {finest}
    network = supernet.extract(supernet.largest, torch.randn(8, 1, 8, 8))
    assert all((parameter != 0).any(dim=0).all() for parameter in network.parameters() if parameter.ndim == 4)
    held = Phase(resolution=0, kernel=0, depth=0, width=0).restrict(space)
    assert held.size == 1
    assert np.array_equal(held.sample(1, np.random.default_rng(0))[0], supernet.largest)
    corners = sample_networks(space, 4, 0)
    assert {tuple(row) for row in floats(space, corners)} == {tuple(supernet.largest), tuple(supernet.smallest)}
    assert len({tuple(row) for row in corners}) == 4, "at the coarsest precisions, too"


def test_values_that_are_listed_from_large_to_small_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"'stage1.out' must list its values from small to large, not as \(32, 16\)"):
        Chain("wide", (8,), (16,), (Stage((1, 2), (32, 16), (32,), 2),), 10, channels=1).space()
    with pytest.raises(InvalidInput, match="'resolution' must list its values from small to large"):
        hwsearch.load_space("resnet50", resolutions=(224, 128))
