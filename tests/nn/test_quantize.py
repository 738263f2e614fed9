"""Quantisation: few bits cost little where they can, and a network of any precision is evaluated as it is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hwsearch
from hwsearch.errors import UnknownName, Unsupported
from hwsearch.nn import Quantization, Recipe, Supernet, deploy, evaluate, load_data, make_data, save_coded, trace, train, tune
from hwsearch.nn._evaluate import deployed
from hwsearch.nn.quantization._quantize import fit_quantizer, quantize_weight
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)


@pytest.mark.parametrize("bits", range(2, 9))
def test_quantiser_has_the_values_of_its_bits_and_keeps_zero(bits: int) -> None:
    x = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.3
    quantizer = fit_quantizer(x, bits, signed=True)
    assert len(quantizer(x).unique()) <= 2**bits
    assert quantizer(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    positive = fit_quantizer(x.relu(), bits, signed=False)
    assert positive.zero == 0
    assert torch.equal(positive(x), positive(x.relu()))


def test_every_bit_more_lowers_the_error_and_clipping_beats_the_full_range() -> None:
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    errors = [float(((fit_quantizer(x, bits, signed=True)(x) - x) ** 2).mean()) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3
    step = float(x.max() - x.min()) / 15
    naive = torch.round(x / step) * step
    assert errors[2] < float(((naive - x) ** 2).mean())


def test_range_is_seen_whatever_the_layout_of_the_map() -> None:
    x = torch.zeros(64, 16, 64, 64)
    x[:, :, 1:-1, 1:-1] = torch.rand(64, 16, 62, 62, generator=torch.Generator().manual_seed(0))
    assert fit_quantizer(x, 8, signed=False).scale == pytest.approx(1 / 255, rel=0.03)


def test_constant_map_has_a_quantiser() -> None:
    assert fit_quantizer(torch.zeros(2, 3, 4, 4), 8, signed=True)(torch.zeros(1)).item() == 0.0


def test_weights_at_eight_bits_are_those_that_the_exported_graph_holds() -> None:
    from hwsearch.backends._onnx._graph import quantize_weight as quantize_in_graph

    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    values, scale = quantize_in_graph(weight.numpy())
    expected = values.astype(np.float32) * scale.reshape(-1, 1, 1, 1)
    assert np.allclose(quantize_weight(weight, 8).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_lie_on_a_symmetric_grid_of_each_channel(bits: int) -> None:
    weight = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1.0, 10.0, 100.0]).view(4, 1, 1, 1)
    rounded = quantize_weight(weight, bits)
    for channel, original in zip(rounded, weight, strict=True):
        assert len(channel.unique()) <= 2**bits - 1
        assert torch.equal(torch.sign(channel) * torch.sign(original), torch.sign(channel).abs())
        assert float((channel - original).abs().mean()) < float(original.abs().mean())


def test_int8_loses_almost_nothing(trained: Path, toy: hwsearch.SearchSpace) -> None:
    supernet, data = Supernet.load(trained, toy), load_data("digits")
    for end in (supernet.largest, supernet.smallest):
        one = toy.architecture(end)
        both = [evaluate(one.at_precision(precision), weights=supernet, data=data) for precision in ("fp32", "int8")]
        assert both[1] == pytest.approx(both[0], abs=0.015)


def test_fewer_bits_are_evaluated_by_the_same_code(tmp_path: Path) -> None:
    names = ("fp32", "int2", "int4", "w4a8", "int8")
    space = Chain("bits", (8,), (8,), (Stage((1,), (16,), (16,), 2),), 10, names, channels=1).space()
    data = load_data("digits")
    recipe = Recipe(epochs=12, batch=32, learning_rate=0.2, random_networks=0)
    supernet = train(space, data=data, out=tmp_path / "bits.safetensors", recipe=recipe, progress=False)
    score = {}
    for name in names:
        score[name] = evaluate(hwsearch.searching.dense(space, name), weights=supernet, data=data)
    assert score["fp32"] > 0.8
    assert score["int8"] == pytest.approx(score["fp32"], abs=0.015)
    assert score["fp32"] - 0.1 < score["w4a8"]
    assert score["int2"] < score["int4"] - 0.02
    assert score["int4"] <= score["w4a8"] + 0.015


@pytest.mark.parametrize(
    ("precision", "rounded"),
    [
        ("int8", {"body0", "body1", "shortcut0", "out"}),
        ("w4a8", {"body0", "body1", "shortcut0", "out"}),
        ("int4", {"body0", "out"}),
        ("w8a2", {"body0", "out"}),
    ],
)
def test_sums_of_few_bits_are_formed_in_accumulators(precision: str, rounded: set[str]) -> None:
    """Eight bits are rounded wherever a file for a runtime rounds them; fewer where they are stored, which is once behind a sum."""
    space = Chain("bits", (8,), (8,), (Stage((1,), (16,), (16,), 2),), 10, (precision,), channels=1).space()
    supernet = Supernet(space)
    blocks, images = space.blocks(supernet.largest), torch.randn(8, 1, 8, 8)
    found = deploy(supernet.extract(supernet.largest, images), blocks, images)
    number = next(number for number, folded in enumerate(found.blocks) if folded.shortcut is not None)
    assert {name for place, name in found.quantizers if place == number} == rounded
    assert found(images).isfinite().all()


def test_weights_that_share_codebooks_are_evaluated_as_the_coded_file_computes_and_refused_where_steps_are_needed(tmp_path: Path) -> None:
    space = Chain("shared", (8,), (8,), (Stage((1,), (16,), (16,), 2),), 10, ("w3a8",), channels=1).space()
    data, shared = load_data("digits"), Quantization(weights="k-means")
    supernet = train(space, data=data, out=tmp_path / "shared.safetensors", recipe=Recipe(epochs=4, batch=32), progress=False)
    network = hwsearch.searching.dense(space, "w3a8")
    codebooks, steps = (deployed(supernet, network.genes, quantization=how) for how in (shared, Quantization()))
    floats = deployed(supernet, network.genes, floating=True)
    for folded, even, plain in zip(codebooks.blocks, steps.blocks, floats.blocks, strict=True):
        for layer, other, exact in zip(folded.body, even.body, plain.body, strict=True):
            if layer.steps is not None and other.steps is not None:
                values = layer.weight / layer.steps.view(-1, *[1] * (layer.weight.ndim - 1))
                assert len(values.round(decimals=4).unique()) <= 8
                assert (layer.weight - exact.weight).square().mean() < (other.weight - exact.weight).square().mean()
    images = data.normalize(data.calibration_images(0)[:50])
    coded = save_coded(network, weights=supernet, out=tmp_path / "shared.npz")
    for folded, written in zip(codebooks.blocks, coded.network.blocks, strict=True):
        for layer, same in zip(folded.body, written.body, strict=True):
            if layer.steps is not None:  # what stays in floats here is coded there as well
                torch.testing.assert_close(layer.weight, same.weight)
    assert codebooks(images).shape == (50, 10)
    with pytest.raises(Unsupported, match="save_coded"):
        hwsearch.export(network, weights=supernet, out=tmp_path / "shared.onnx", quantization=shared)
    with pytest.raises(Unsupported, match="Tuning"):
        tune(supernet, data=data, out=tmp_path / "tuned.safetensors", recipe=Recipe(epochs=1), quantization=shared)
    with pytest.raises(Unsupported, match="finished"):
        hwsearch.nn.Deployment(quantization=shared)
    module = hwsearch.adopt(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3)), images[:1]).extract({})
    with pytest.raises(Unsupported, match="int8"):
        hwsearch.nn.adoption.quantize(module, [images], "int8", shared)
    with pytest.raises(UnknownName, match="k-means"):
        Quantization(weights="kmeans")


def test_sixteen_bit_floats_round_a_little_and_eight_bit_ones_are_refused() -> None:
    def network(*precisions: str) -> tuple[Supernet, hwsearch.Architecture]:
        space = Chain("half", (8,), (8,), (Stage((1,), (8,), (8,)),), 10, precisions, channels=1).space()
        return Supernet(space), hwsearch.searching.dense(space, precisions[-1])

    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    errors = []
    for precision in ("fp32", "fp16", "bf16"):
        supernet, rounded = network("fp32", precision) if precision != "fp32" else network("fp32")
        plain = supernet.extract(rounded.genes, images)
        with torch.no_grad():
            errors.append(float((deploy(plain, rounded.blocks(), images)(images) - plain(images)).abs().max()))
    assert 10 * errors[0] < errors[1] < errors[2] < 0.05
    supernet, rounded = network("fp8")
    with pytest.raises(Unsupported, match="fp8"):
        deploy(supernet.extract(rounded.genes, images), rounded.blocks(), images)


def test_a_whole_network_with_poolings_and_an_integer_classifier_is_what_its_file_computes(tmp_path: Path) -> None:
    import onnxruntime

    space = hwsearch.load_space("resnet50", resolutions=(32,), mids=2, outs=2, classes=10)
    space = space.alone(space.canonical(np.zeros((1, len(space.choices)), dtype=np.uint8))[0])
    architecture = space.architecture(Supernet(space).largest).at_precision("int8")
    supernet = Supernet(space.alone(architecture.genes))
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.copy_(torch.where(parameter == 0, 0.2, parameter))
    rng = np.random.default_rng(0)
    split = (rng.integers(0, 256, size=(64, 3, 32, 32), dtype=np.uint8), np.arange(64) % 10)
    data = make_data("noise", split, split, split)
    supernet.normalize, supernet.images = data.normalize, data.train_x
    assert trace(supernet.extract(architecture.genes), torch.randn(2, 3, 32, 32)) == architecture.blocks()
    path = hwsearch.export(architecture, weights=supernet, out=tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = data.normalize(data.train_x).contiguous()
    found = np.concatenate([session.run(None, {"input": image[None].numpy()})[0] for image in x[:16]])
    with torch.inference_mode():
        expected = deploy(supernet.extract(architecture.genes), architecture.blocks(), x)(x[:16]).numpy()
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
