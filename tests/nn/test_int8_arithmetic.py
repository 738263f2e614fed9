"""Int8 weights are ones that the machine's products carry: what is simulated, exported, run and told is the same arithmetic."""

from __future__ import annotations

import base64
import importlib
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import hwsearch
from hwsearch.backends import Backend, _cpu, load_backend
from hwsearch.backends._onnx._check import input_shape, metadata
from hwsearch.backends._onnx._flavours import ONNXRUNTIME
from hwsearch.backends._onnx._graph import BlockWeights, LayerWeights, build
from hwsearch.errors import BuildFailed, InvalidInput, SaturationWarning
from hwsearch.nn import (
    Data,
    Quantization,
    Sampling,
    Supernet,
    SupernetScore,
    SupernetVerifier,
    evaluate,
    evaluate_file,
    export,
    fit_predictor,
    score_networks,
)
from hwsearch.nn._agreement import Agreement
from hwsearch.nn._evaluate import deployed
from hwsearch.nn.quantization._quantize import quantize_weight

torch.set_num_threads(1)
EXPORT = importlib.import_module("hwsearch.nn._export")  # the module; hwsearch.nn shows the function of that name
RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def int8(supernet: Supernet) -> hwsearch.Architecture:
    return supernet.space.architecture(supernet.largest).at_precision("int8")


@pytest.fixture(params=RUNTIMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    pytest.importorskip(request.param)
    return load_backend(request.param)


def convolution(saturating: bool):
    """A runtime that computes the probe's only layer by hand, adding pairs of products in 16 bits where it saturates."""

    def open_(model: onnx.ModelProto):
        values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        weight = values["b0.body0.weight.values"].astype(np.int64)
        factor = values["b0.body0.weight.scale"][0] / 255 / values["b0.body0.q.scale"]

        def run(x):
            products = x[0].astype(np.int64)[None, :, 3, 3, None, None] * weight
            pairs = products.reshape(len(weight), -1, 2).sum(axis=2)
            if saturating:
                pairs = pairs.clip(-(2**15), 2**15 - 1)
            out = np.rint(pairs.sum(axis=1) * factor).clip(0, 255).astype(np.uint8)
            return np.broadcast_to(out[None, :, None, None], (1, len(weight), 8, 8))

        return run

    return open_


def probe(bits: int) -> onnx.ModelProto:
    """A convolution of the largest inputs and the largest weights of this many bits; right is 200 everywhere inside."""
    block = hwsearch.networks.Block("conv", 32, 32, 8, (), 3, precision="int8")
    layer = LayerWeights(np.ones((32, 32, 3, 3), np.float32), np.zeros(32, np.float32), 288 / 200, 0)
    return build([block], weights=[BlockWeights((layer,))], flavour=ONNXRUNTIME.carried(bits), input_scale=1 / 255)


def test_the_probe_tells_saturating_products_from_exact_ones() -> None:
    assert onnx.load_from_string(zlib.decompress(base64.b64decode(_cpu.PROBE))).graph == probe(8).graph
    assert [_cpu.exact(convolution(saturating=False)(probe(bits))) for bits in (7, 8)] == [True, True]
    assert [_cpu.exact(convolution(saturating=True)(probe(bits))) for bits in (7, 8)] == [True, False]


def test_a_graph_as_it_is_written_is_exact_on_every_machine() -> None:
    pytest.importorskip("onnxruntime")
    for bits in (7, 8):
        assert _cpu.exact(load_backend("onnxruntime").as_written(probe(bits)))


def test_a_device_says_what_its_products_carry(backend: Backend) -> None:
    assert _cpu.exact(backend.runner(probe(backend.weight_bits)))
    assert backend.describe().facts["int8"] == {8: "exact", 7: "saturates in 16 bits: weights of 7 bits"}[backend.weight_bits]


def test_the_file_computes_the_simulation_on_every_test_image(
    backend: Backend, supernet: Supernet, data: Data, int8: hwsearch.Architecture, tmp_path: Path
) -> None:
    path = export(int8, weights=supernet, out=tmp_path / "a.onnx", backend=backend)
    simulated = evaluate(int8, weights=supernet, data=data, quantization=Quantization().on(backend))
    assert evaluate_file(path, data=data, backend=backend) == pytest.approx(simulated, abs=2.5 / data.count("test"))
    largest = max(np.abs(onnx.numpy_helper.to_array(one).astype(int)).max() for one in weights_of(path))
    assert largest == 2 ** (backend.weight_bits - 1) - 1
    assert metadata(path)["hwsearch.int8"] == str(backend.weight_bits)


def weights_of(path: Path) -> list[onnx.TensorProto]:
    return [one for one in onnx.load(path).graph.initializer if one.name.endswith("weight.values")]


def test_seven_bits_stay_within_sixteen_bit_sums() -> None:
    rounded, steps = quantize_weight(torch.tensor([[[[1.0, -1.0]]]]), 7), torch.tensor(1 / 63)
    assert float((rounded / steps).abs().max()) <= 63.5
    assert 2 * 255 * 63 < 2**15


def test_files_for_another_machine_are_told_apart(
    supernet: Supernet, int8: hwsearch.Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Agreement, "__call__", lambda *_: 0.0)
    here = load_backend("onnxruntime")
    paths = {
        bits: export(int8, weights=supernet, out=tmp_path / f"{bits}.onnx", backend=load_backend("onnxruntime", weight_bits=bits))
        for bits in (7, 8)
    }
    assert [metadata(paths[bits])["hwsearch.int8"] for bits in (7, 8)] == ["7", "8"]
    monkeypatch.setattr(_cpu, "_carried", lambda kind: 7)
    with pytest.warns(SaturationWarning, match="holds int8 weights of 8 bits.*carry 7"):
        hwsearch.measure(paths[8], backend=here, rounds=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaturationWarning)
        hwsearch.measure(paths[7], backend=here, rounds=1)
    monkeypatch.setattr(_cpu, "_carried", lambda kind: 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaturationWarning)
        hwsearch.measure(paths[8], backend=here, rounds=1)


def test_a_file_that_computes_something_else_is_not_written_and_the_block_is_named(
    supernet: Supernet, int8: hwsearch.Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = EXPORT.block_weights

    def wrong(network):
        numbers = list(right(network))
        index = next(number for number, folded in enumerate(network.blocks) if folded.block.kind == "bottleneck")
        first = numbers[index].body[0]
        body = (replace(first, weight=-first.weight), *numbers[index].body[1:])
        numbers[index] = replace(numbers[index], body=body)
        return tuple(numbers)

    monkeypatch.setattr(EXPORT, "block_weights", wrong)
    key = next(block.key for block in int8.blocks() if block.kind == "bottleneck")
    with pytest.raises(BuildFailed, match=f"does not compute what was evaluated.*{key}"):
        export(int8, weights=supernet, out=tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch", [3, "open"])
def test_files_take_any_batch_and_compute_the_same(
    batch: int | str, backend: Backend, supernet: Supernet, data: Data, int8: hwsearch.Architecture, tmp_path: Path
) -> None:
    one = export(int8, weights=supernet, out=tmp_path / "one.onnx", backend=backend)
    many = export(int8, weights=supernet, out=tmp_path / "many.onnx", backend=backend, batch=batch)
    assert input_shape(many)[0] == (None if batch == "open" else 3)
    assert evaluate_file(many, data=data, backend=backend) == evaluate_file(one, data=data, backend=backend)


def test_a_file_of_one_batch_is_not_measured_as_another(supernet: Supernet, int8: hwsearch.Architecture, tmp_path: Path) -> None:
    eight = load_backend("onnxruntime", batch=8)
    one = export(int8, weights=supernet, out=tmp_path / "one.onnx")
    with pytest.raises(InvalidInput, match="takes 1 images at once, and the backend measures 8"):
        hwsearch.measure(one, backend=eight, rounds=1)
    path = export(int8, weights=supernet, out=tmp_path / "eight.onnx", backend=eight)
    assert input_shape(path)[0] == 8
    assert hwsearch.measure(path, backend=eight, rounds=1).device.batch == 8
    with pytest.raises(InvalidInput, match="batch must be"):
        export(int8, weights=supernet, out=tmp_path / "none.onnx", batch=0)


def test_weights_tuned_with_eight_bits_are_rounded_again_where_seven_are_carried(supernet: Supernet, int8: hwsearch.Architecture) -> None:
    seven = deployed(supernet, int8.genes, quantization=Quantization(weight_bits=7))
    for folded in seven.blocks:
        for layer in folded.body:
            if layer.steps is not None:
                integers = (layer.weight / layer.steps.view(-1, *[1] * (layer.weight.ndim - 1))).abs()
                assert float(integers.max()) < 63.5
    with pytest.raises(InvalidInput, match="weight_bits"):
        Quantization(weight_bits=9)


# -- scores are simulated with the arithmetic of the device that they are for --------------------------------------------------


@pytest.fixture(scope="module")
def saturating(toy: hwsearch.SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> hwsearch.LatencyTable:
    """A table of a device whose products carry weights of 7 bits."""
    out = tmp_path_factory.mktemp("table") / "saturating.json"
    table = hwsearch.profile(toy, backend="roofline", out=out, progress=False)
    facts = {**table.device.facts, "int8": "saturates in 16 bits: weights of 7 bits"}
    replace(table, device=replace(table.device, facts=facts)).save(out)
    return hwsearch.load_table(out)


def test_a_table_says_how_many_bits_its_device_carries(saturating: hwsearch.LatencyTable, backend: Backend) -> None:
    assert saturating.device.weight_bits == 7
    assert replace(saturating.device, facts={}).weight_bits == replace(saturating.device, facts={"int8": "exact"}).weight_bits == 8
    assert backend.describe().weight_bits == backend.weight_bits
    assert Quantization().on(saturating.device) == Quantization(weight_bits=7)
    assert Quantization().on(replace(saturating.device, runtime="tensorrt")).symmetric, "as tables of earlier versions have it"
    assert Quantization().on(replace(saturating.device, facts={"zero_points": "none"})).symmetric


def test_scores_are_simulated_as_they_are_told_and_never_joined_with_others(
    supernet: Supernet, data: Data, int8: hwsearch.Architecture, tmp_path: Path
) -> None:
    few, out = Quantization(weight_bits=2), tmp_path / "scores.npz"
    accuracy = SupernetScore(int8.space, supernet, data)
    coarse = replace(accuracy, quantization=few)
    (score,) = score_networks(coarse, int8.genes[None], out=out, progress=False)
    assert score == evaluate(int8, weights=supernet, data=data, split="val", quantization=few)
    assert score < evaluate(int8, weights=supernet, data=data, split="val")
    with pytest.raises(InvalidInput, match=r"other arguments: quantization .*'weight_bits': 2.*'weight_bits': 8"):
        score_networks(accuracy, int8.genes[None], out=out, progress=False)
    assert score_networks(coarse, int8.genes[None], out=out, progress=False) == [score]


def test_a_predictor_of_other_arithmetic_than_the_devices_is_warned_of(
    trained: Path, toy: hwsearch.SearchSpace, saturating: hwsearch.LatencyTable, tmp_path: Path
) -> None:
    predictors = {bits: tmp_path / f"{bits}.npz" for bits in (7, 8)}
    options = {"weights": trained, "data": "digits", "progress": False}
    sampling = Sampling(networks=10, images=100)
    seven = replace(sampling, quantization=Quantization().on(saturating.device))
    fit_predictor(toy, out=predictors[7], sampling=seven, **options)
    fit_predictor(toy, out=predictors[8], sampling=sampling, **options)
    assert [hwsearch.load_predictor(predictors[bits], toy).weight_bits for bits in (7, 8)] == [7, 8]
    exact = replace(saturating, device=replace(saturating.device, facts={}))
    for bits, table in ((7, saturating), (8, exact)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            hwsearch.Problem.of(toy, predictor=predictors[bits], device=table)
    for bits, table in ((8, saturating), (7, exact)):
        with pytest.warns(SaturationWarning, match=rf"int8 weights of {bits} bits, and .* carry {15 - bits}.*--device"):
            hwsearch.Problem.of(toy, predictor=predictors[bits], device=table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hwsearch.Problem.of(toy.restrict({"*precision": ["fp32"]}), predictor=predictors[8], device=saturating)


def test_scores_that_no_file_is_run_for_are_verified_in_the_devices_arithmetic(
    supernet: Supernet, data: Data, int8: hwsearch.Architecture, saturating: hwsearch.LatencyTable
) -> None:
    facts = {"int8": "saturates in 16 bits: weights of 2 bits"}
    make = SupernetVerifier(supernet, data)
    device = replace(saturating, device=replace(saturating.device, facts=facts))
    verifier = make(hwsearch.Problem.of(int8.space, predictor=lambda X: X.sum(axis=1), device=device), None)
    assert verifier.score(int8.genes[None]) == [
        evaluate(int8, weights=supernet, data=data, split="val", quantization=Quantization(weight_bits=2))
    ]
    assert verifier.name.endswith("int8 weights of 2 bits")
    assert make(hwsearch.Problem.of(int8.space, predictor=lambda X: X.sum(axis=1)), None).name != verifier.name
