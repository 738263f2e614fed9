"""Mobile networks: the same supernet, training, evaluation and export as for residual ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import hwsearch
from hwsearch import SearchSpace
from hwsearch.backends import load_backend
from hwsearch.networks import Block
from hwsearch.nn import (
    Quantization,
    Recipe,
    Supernet,
    SupernetScore,
    deploy,
    evaluate,
    export,
    load_data,
    sample_networks,
    score_networks,
    trace,
    train,
)
from hwsearch.nn.adoption._capture import as_graph
from hwsearch.nn.supernet._elastic import ElasticBlock, ElasticLayer
from hwsearch.nn.training import _amp
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)

RECIPE = Recipe(epochs=6, batch=32, learning_rate=0.3, random_networks=1)


def make_mobile() -> SearchSpace:
    """Every part of a mobile network, small enough for scanned digits."""
    chain = Chain(
        name="mobile",
        resolutions=(8,),
        stem=(),
        stages=(
            Stage(1, 8, kind="conv", activation="hswish", name="stem"),
            Stage((1, 2), (8, 12), kind="mbconv", kernel=(3, 5), expands=(2, 3), excited=True, activation="hswish"),
            Stage((1, 2), 16, stride=2, kind="mbconv", kernel=(3, 5, 7), expands=(2, 3), activation="relu6"),
            Stage(1, 32, kind="conv", kernel=1, activation="hswish", name="final"),
        ),
        classes=10,
        channels=1,
        mix=24,
        mix_activation="hswish",
    )
    return chain.space()


@pytest.fixture(scope="module")
def mobile() -> SearchSpace:
    return make_mobile()


@pytest.fixture(scope="module")
def weights(mobile: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mobile supernet, trained on scanned digits in a few seconds."""
    out = tmp_path_factory.mktemp("mobile") / "mobile.safetensors"
    train(mobile, data="digits", out=out, recipe=RECIPE, progress=False)
    return out


def ends(space: SearchSpace, supernet: Supernet, precision: str) -> list[hwsearch.Architecture]:
    """The smallest and the largest network at one precision."""
    return [space.architecture(row).at_precision(precision) for row in (supernet.smallest, supernet.largest)]


@pytest.mark.parametrize(("name", "options"), [("ofa_mobilenetv3", {"resolutions": (32, 48)}), ("apq", {})])
def test_traced_published_network_is_what_the_space_says(name: str, options: dict[str, Any], rng: np.random.Generator) -> None:
    """But for what a network in floats does not show: bits, and the resolution under which a table lists a block."""
    space = hwsearch.load_space(name, **options)
    supernet = Supernet(space)
    images = torch.randn(2, 3, 32, 32)
    for row in (supernet.largest, supernet.smallest, *space.sample(2, rng)):
        seen = trace(supernet.extract(row, images), images)
        assert seen == tuple(replace(block, precision="fp32", context="") for block in space.blocks(row))


def test_extracted_network_computes_what_the_supernet_does(mobile: SearchSpace, rng: np.random.Generator) -> None:
    supernet = Supernet(mobile)
    _shake(supernet)
    images = torch.randn(64, 1, 8, 8)
    for row in mobile.sample(8, rng):
        network = supernet.extract(row, images)
        assert trace(network, images) == mobile.blocks(row)
        supernet.activate(row)
        with torch.no_grad():
            torch.testing.assert_close(supernet.train()(images), network.train()(images), rtol=1e-4, atol=1e-5)
            network = supernet.extract(row, images)
            supernet.calibrate_bn(images)
            torch.testing.assert_close(supernet(images[:16]), network(images[:16]), rtol=1e-4, atol=1e-5)


def test_chains_with_identities_in_the_place_of_bottlenecks_are_trained_and_extracted() -> None:
    """NAS-Bench-Macro, where an identity that halves the map is a convolution beside bottlenecks."""
    space = hwsearch.load_space("nasbench_macro", size=8)
    supernet, x = Supernet(space), torch.randn(8, 3, 8, 8)
    for operation in range(3):
        row = np.full(8, operation, dtype=np.uint8)
        supernet.activate(row)
        supernet.zero_grad()
        supernet(x).square().mean().backward()
        learned = {name for name, block in supernet.blocks.items() if any(each.grad is not None for each in block.parameters())}
        some = {"stem", "head", "head_2"} | {f"layer{layer}_identity" for layer in (1, 3, 6)}
        assert learned == some if not operation else len(learned) == 11, learned
        network = supernet.extract(row, x)
        supernet.calibrate_bn(x)
        torch.testing.assert_close(network(x), supernet(x))
        supernet.train()


@pytest.mark.parametrize("way", ["as a module", "captured"])
@pytest.mark.parametrize("groups", [1, 12])
def test_depthwise_layers_learn_in_float32_where_others_learn_in_bf16(groups: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In networks of one's own as in ours, and with the gradients of float32."""
    layer: Any = nn.Conv2d(12, 12, 5, stride=2, padding=2, groups=groups, bias=False)
    x = torch.randn(4, 12, 8, 8)
    run = layer if way == "as a module" else as_graph(layer, (x,))
    (weight,) = run.parameters()
    monkeypatch.setattr(_amp, "_has_bf16", lambda cpu: True)
    exact = torch.autograd.grad(run(x).square().sum(), weight)[0]
    with _amp.mixed("cpu", "bf16"):
        found = run(x)
        slope = torch.autograd.grad(found.float().square().sum(), weight)[0]
    assert found.dtype == (torch.bfloat16 if groups == 1 else torch.float32)
    error = float((slope - exact).norm() / exact.norm())
    assert error < (1e-5 if groups > 1 else 0.02), error


def test_kernels_of_all_sizes_are_the_middle_at_first_and_learn_matrices_of_their_own() -> None:
    blocks = [Block("mbconv", 8, 8, 8, (16,), kernel) for kernel in (3, 5, 7)]
    place = ElasticBlock(blocks)
    layer = place.body[1]
    assert isinstance(layer, ElasticLayer)
    for block in blocks:
        edge = (7 - block.kernel) // 2
        assert torch.equal(layer.sliced(block.graph.body[1])[0], layer.weight[:, :, edge : 7 - edge, edge : 7 - edge])
    with torch.no_grad():
        layer.matrices["7to5"].mul_(2.0)
        layer.matrices["5to3"].copy_(torch.eye(9).flip(0))
    torch.testing.assert_close(layer.sliced(blocks[0].graph.body[1])[0], 2 * layer.weight[:, :, 2:5, 2:5].flip(2, 3))
    assert {name for name, _ in layer.named_parameters()} == {"weight", "norm.weight", "norm.bias", "matrices.7to5", "matrices.5to3"}
    alone = ElasticLayer([blocks[0].graph.body[1]])
    alone.inherit(layer)
    assert torch.equal(alone.weight, layer.sliced(blocks[0].graph.body[1])[0])
    assert not alone.matrices


@pytest.mark.parametrize("name", ["mobilenetv2_cifar", "mobilenetv3_cifar"])
def test_blocks_without_a_residual_sum_begin_alive(name: str) -> None:
    """Where a slot holds blocks with and without a sum, the last scale is not zero."""
    supernet = Supernet(name)
    for row in (supernet.smallest, supernet.largest):
        supernet.activate(row)
        logits = supernet(torch.randn(4, 3, 32, 32))
        assert (logits.std(dim=0) > 0).all()


def test_small_and_large_mobile_networks_learn(weights: Path, mobile: SearchSpace) -> None:
    supernet, data = Supernet.load(weights, mobile), load_data("digits")
    small, large = (evaluate(architecture, weights=supernet, data=data) for architecture in ends(mobile, supernet, "fp32"))
    assert large > 0.9
    assert small > 0.8
    moved = [p.detach() for name, p in supernet.named_parameters() if name.endswith("7to5")]
    assert moved
    assert all(not torch.equal(matrix, torch.eye(len(matrix))) for matrix in moved)
    assert all(float((matrix - torch.eye(len(matrix))).abs().max()) < 0.5 for matrix in moved)


def test_int8_loses_little_and_its_file_computes_the_same(weights: Path, mobile: SearchSpace, tmp_path: Path) -> None:
    supernet, data = Supernet.load(weights, mobile), load_data("digits")
    how = Quantization().on(load_backend("onnxruntime"))
    for precision, tolerance in (("fp32", 1e-4), ("int8", 0.05)):
        for architecture in ends(mobile, supernet, precision):
            path = export(architecture, weights=supernet, out=tmp_path / "best.onnx")
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            images = supernet.calibration()
            deployed = deploy(supernet.extract(architecture.genes), architecture.blocks(), images, how)
            x = data.normalize(data.test_x)
            with torch.inference_mode():
                expected = deployed(x).numpy()
            x = torch.nn.functional.interpolate(x, size=(deployed.resolution,) * 2, mode="bilinear", antialias=True)
            found = np.concatenate([session.run(None, {"input": image[None].numpy()})[0] for image in x])
            assert np.abs(found - expected).max() / np.abs(expected).max() < tolerance
            assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.99
            right = float((found.argmax(axis=1) == data.test_y.numpy()).mean())
            assert right == pytest.approx(evaluate(architecture, weights=supernet, data=data, quantization=how), abs=0.01)
    int8, fp32 = (evaluate(ends(mobile, supernet, one)[1], weights=supernet, data=data) for one in ("int8", "fp32"))
    assert int8 > fp32 - 0.02


def test_weights_come_back_from_the_file_and_are_scored(weights: Path, mobile: SearchSpace, tmp_path: Path) -> None:
    supernet = Supernet.load(weights, mobile)
    supernet.save(tmp_path / "again.safetensors")
    assert Supernet.load(tmp_path / "again.safetensors", mobile).digest == supernet.digest
    score = SupernetScore(mobile, supernet, "digits", images=100)
    scores = score_networks(score, sample_networks(mobile, 6), out=tmp_path / "scores.npz", progress=False)
    assert scores.min() > 0.5


def test_an_interrupted_training_ends_with_the_same_weights(mobile: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwsearch.nn.training._loop import Training

    recipe = replace(RECIPE, epochs=1)
    whole = train(mobile, data="digits", out=tmp_path / "whole.safetensors", recipe=recipe, progress=False)
    save = Training.save

    def killed(self: Training, *arguments: Any) -> None:
        save(self, *arguments)
        if self.step == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(mobile, data="digits", out=tmp_path / "again.safetensors", recipe=recipe, progress=False)
    monkeypatch.undo()
    assert train(mobile, data="digits", out=tmp_path / "again.safetensors", recipe=recipe, progress=False).digest == whole.digest


def test_a_network_alone_keeps_its_kernels_and_what_it_computed(weights: Path, mobile: SearchSpace, rng: np.random.Generator) -> None:
    """It inherits kernels that have gone through the matrices, and has no matrices itself."""
    supernet = Supernet.load(weights, mobile)
    images = supernet.calibration()[:64]
    for row in mobile.sample(4, rng):
        alone = Supernet(mobile.alone(row))
        alone.inherit(supernet)
        assert not any("matrices" in name for name, _ in alone.named_parameters())
        with torch.no_grad():
            torch.testing.assert_close(alone.extract(row, images)(images), supernet.extract(row, images)(images))


def test_a_part_of_the_kernels_inherits_what_they_were(weights: Path, mobile: SearchSpace) -> None:
    supernet = Supernet.load(weights, mobile)
    images = supernet.calibration()[:64]
    part = Supernet(mobile.restrict({"stage2.*.kernel": [3, 7]}))
    part.inherit(supernet)
    for row in (part.smallest, part.largest):
        with torch.no_grad():
            torch.testing.assert_close(part.extract(row, images)(images), supernet.extract(row, images)(images))


def _shake(supernet: Supernet) -> None:
    """Give batch norms and kernel matrices other values than their first ones, so that forgetting one would show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
            elif "matrices" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
