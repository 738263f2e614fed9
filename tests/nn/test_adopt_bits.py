"""Precisions as genes of adopted networks: regions, counted sizes, and networks that remember what they are to be written in."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from masking import enliven
from torch import nn

import hwsearch
from hwsearch.algorithms._parts import compare_arithmetic
from hwsearch.backends import load_backend
from hwsearch.backends.onnxruntime import OnnxRuntime
from hwsearch.errors import CorruptFile, InvalidInput, SaturationWarning
from hwsearch.networks import Fused
from hwsearch.nn import Quantization
from hwsearch.nn.adoption import (
    Adopted,
    Probing,
    additive,
    bits_importance,
    branch_importance,
    importance,
    load_network,
    quantize,
    save_adopted,
    save_network,
)
from hwsearch.nn.adoption._tuning import find_spots

torch.set_num_threads(1)
BOTH = ("fp32", "int8")


class Net(nn.Module):
    """A stem, a removable branch with squeeze-and-excite on its trunk, a strided layer, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.Hardswish())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.Hardsigmoid())
        self.last = nn.Conv2d(32, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 24, 3, 2, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.first(x)
        x = torch.relu(x + self.last(y * self.squeeze(y)))
        return self.head(torch.relu(self.down(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def space(images: torch.Tensor) -> Adopted:
    torch.manual_seed(0)
    return hwsearch.adopt(enliven(Net()), images[:2], precisions=BOTH)


GENES = ("stem.0.precision", "precision", "down.precision", "head.precision")


def row(space: Adopted, *int8: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The whole network, some of whose regions are in int8."""
    found = space.row()
    for name in int8:
        found[space.position[name]] = space.choices[space.position[name]].index("int8")
    return found


def fused(path: Path, folder: Path) -> list[str]:
    """What ONNX Runtime makes of a file."""
    backend = load_backend("onnxruntime")
    assert isinstance(backend, OnnxRuntime)
    backend.session(str(path), optimized=folder / "fused.onnx")
    return [node.op_type for node in onnx.load(folder / "fused.onnx").graph.node]


def test_regions_of_kernels_have_a_gene_for_their_precision(space: Adopted) -> None:
    """What is in a branch goes together and needs the branch; elsewhere what makes maps of one size; the whole network is the last row."""
    genes = {choice.name: (choice.values, choice.needs) for choice in space.choices if choice.role == "precision"}
    assert genes == {
        "stem.0.precision": (("int8", "fp32"), None),
        "precision": (("int8", "fp32"), ("depth", (1,))),
        "down.precision": (("int8", "fp32"), None),
        "head.precision": (("int8", "fp32"), None),
    }
    assert space.places.regions["precision"].weights == ("first.0.weight", "squeeze.1.weight", "squeeze.3.weight", "last.weight")
    assert space.bits(space.row()) == {}
    assert space.bits(row(space, "down.precision")) == {"down.weight": "int8"}
    gone = space.row(branches=space.places.branches)
    assert space.bits(gone) == {}
    assert "stem.0.precision" in str(space.report)
    assert "precision" in space.report._repr_html_()


def test_without_precisions_a_network_is_the_space_that_it_was(images: torch.Tensor) -> None:
    """No gene, no column in the report, the same fingerprint; one precision alone is a gene with one value."""
    plain = hwsearch.adopt(enliven(Net()), images[:2])
    assert not plain.with_role("precision")
    assert "precision" not in str(plain.report)
    assert plain.fingerprint == hwsearch.adopt(enliven(Net()), images[:2], precisions=["fp32"]).fingerprint
    only = hwsearch.adopt(enliven(Net()), images[:2], precisions="int8")
    assert set(only.bits(only.row()).values()) == {"int8"}
    for wrong in ((), ("int4",)):
        with pytest.raises(InvalidInput, match="fp32 and int8"):
            hwsearch.adopt(enliven(Net()), images[:2], precisions=wrong)


def test_frozen_weights_stay_in_floats(images: torch.Tensor) -> None:
    frozen = hwsearch.adopt(enliven(Net()), images[:2], freeze=["head", "first"], precisions=BOTH)
    weights = {weight for region in frozen.places.regions.values() for weight in region.weights}
    assert weights == {"stem.0.weight", "squeeze.1.weight", "squeeze.3.weight", "last.weight", "down.weight"}


def test_the_size_follows_the_bits(space: Adopted) -> None:
    """A byte a weight in int8, and four bytes a channel for its step; multiply-accumulates stay."""
    sizes = hwsearch.metric("size_mb", space)
    whole = float(sizes(space.row()[None])[0])
    assert whole == pytest.approx(4e-6 * sum(each.numel() for each in Net().parameters()))
    low = row(space, "down.precision")
    assert float(sizes(low[None])[0]) == pytest.approx(whole - 1e-6 * (3 * 16 * 24 * 9 - 4 * 24))
    low[space.position["stem.0.width"]] = 0
    narrow = space.choices[space.position["stem.0.width"]].values[0]
    again = low.copy()
    again[space.position["down.precision"]] = 1
    assert float((sizes(again[None]) - sizes(low[None]))[0]) == pytest.approx(1e-6 * (3 * narrow * 24 * 9 - 4 * 24))  # type: ignore[operator]
    for name in ("macs", "params"):
        assert hwsearch.metric(name, space)(row(space, *GENES)[None])[0] == hwsearch.metric(name, space)(space.row()[None])[0]


def test_an_extracted_network_is_written_in_its_own_bits(space: Adopted, images: torch.Tensor, tmp_path: Path) -> None:
    """Without being told again, in this process and in another; what the file computes is what torch simulates."""
    chosen = row(space, "stem.0.precision", "down.precision")
    small = hwsearch.extract(space.architecture(chosen), data=images)
    assert small.meta["plan"]["precisions"] == {"stem.0.weight": "int8", "down.weight": "int8"}
    save_network(small, tmp_path / "small.safetensors")
    runtime = load_backend("onnxruntime")
    simulated = quantize(small, [images], quantization=Quantization().on(runtime))
    with torch.no_grad():
        wanted, whole = simulated(images), small(images)
    for network in (small, load_network(tmp_path / "small.safetensors")):
        path = hwsearch.export(network, out=tmp_path / "mixed.onnx", data=images, batch="open")
        found = torch.from_numpy(runtime.runner(str(path))(images.numpy()))  # type: ignore[attr-defined]
        assert float((found - wanted).norm() / wanted.norm()) < 0.02
        facts = {entry.key: msgspec.json.decode(entry.value) for entry in onnx.load(path).metadata_props}
        assert facts["hwsearch.precision"] == small.meta["plan"]["precisions"]
    assert float((wanted - whole).norm() / whole.norm()) > 1e-4
    assert fused(path, tmp_path).count("QLinearConv") == 2
    plain = hwsearch.export(small, out=tmp_path / "plain.onnx", precision="fp32", batch="open")
    assert "QLinearConv" not in fused(plain, tmp_path)
    hwsearch.export(small, out=tmp_path / "openvino.onnx", data=images, backend="openvino")  # which compares outputs itself
    with pytest.raises(InvalidInput, match="images to calibrate on"):
        hwsearch.export(small, out=tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("int8", "integers", "floats"),
    [
        (GENES, {"QLinearConv", "QLinearAdd", "QLinearMul", "QGemm"}, set()),
        (("stem.0.precision", "down.precision"), {"QLinearConv", "QLinearAdd"}, {"Conv", "Gemm"}),
        (("precision",), {"QLinearConv", "QLinearMul"}, {"Conv", "Gemm"}),
    ],
)
def test_sums_follow_the_trunk(
    space: Adopted, images: torch.Tensor, tmp_path: Path, int8: tuple[str, ...], integers: set[str], floats: set[str]
) -> None:
    """A branch in floats is converted for a trunk in integers, and the other way round, so that no choice changes the kernels behind."""
    small = hwsearch.extract(space.architecture(row(space, *int8)))
    kinds = fused(hwsearch.export(small, out=tmp_path / "net.onnx", data=images), tmp_path)
    assert integers <= set(kinds)
    stems = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
    assert floats == {stems.get(kind, kind) for kind in kinds} & {"Conv", "Gemm"}
    assert ("QLinearAdd" in kinds) == ("stem.0.precision" in int8)


def test_kernels_know_their_precision_and_what_they_convert(space: Adopted) -> None:
    """The sum is a kernel of its own where trunk and branch differ, and part of the convolution before it where they do not."""

    def kernels(*int8: str) -> list[tuple[tuple[str, ...], str]]:
        return [(block.ops, block.precision) for block in space.blocks(row(space, *int8)) if isinstance(block, Fused)]

    whole = kernels()
    assert (("mul", "conv2d", "add", "relu"), "fp32") in whole
    low = kernels(*GENES)
    assert low[0] == (("quantize", "conv2d", "relu"), "int8")  # the image is in floats
    assert low[1:] == [(ops, "int8") for ops, _ in whole[1:]]
    mixed = kernels("precision")
    assert mixed[0] == whole[0]
    assert mixed[1] == (("quantize", "conv2d", "hardswish"), "int8")
    assert (("mul", "conv2d"), "int8") in mixed
    assert (("dequantize", "add", "relu"), "fp32") in mixed
    other = kernels("stem.0.precision")
    assert (("quantize", "add", "relu"), "int8") in other
    assert (("dequantize", "conv2d", "relu"), "fp32") in other
    gone = [block.key for block in space.blocks(space.row(branches=space.places.branches))]
    assert len(gone) == 3


def test_a_pooling_of_floats_that_only_integers_read_is_a_kernel_of_its_own_kind() -> None:
    """ONNX Runtime converts before it, which may take a hundred times as long; in all other cases it stays a pooling."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    pooled = hwsearch.adopt(net, torch.randn(1, 3, 20, 20), precisions=("fp32", "int8"))
    first, *rest = list(pooled.places.regions)
    for int8, late in (((), False), (rest, True), ((first,), False), ((first, *rest), False)):
        kernels = [block for block in pooled.blocks(row(pooled, *int8)) if isinstance(block, Fused)]
        assert (("max_pool2d", "quantize") in [kernel.ops for kernel in kernels]) == late


def test_files_name_the_kernels_of_each_precision(space: Adopted, tmp_path: Path) -> None:
    """Whatever a runtime fuses and converts belongs to a slot of the row."""
    runtime = load_backend("onnxruntime")
    for number, int8 in enumerate((GENES, ("precision",), ("stem.0.precision", "head.precision"))):
        chosen = row(space, *int8)
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(space.model_file(chosen))
        with runtime.profiled(path) as session:
            session.times(3)
            told = session.kernels_ms
        there = {slot.name: blocks for slot, blocks in space.placed(chosen) if blocks}
        assert set(told) <= set(there)
        assert {name for name, (block,) in there.items() if block.macs} <= set(told)


def test_a_folder_keeps_the_precisions(space: Adopted, tmp_path: Path) -> None:
    """One that was written before there were any is a network in fp32."""
    again = hwsearch.load_space(save_adopted(space, tmp_path / "net"))
    assert (again.fingerprint, again.choices) == (space.fingerprint, space.choices)
    path = tmp_path / "net" / "adopted.json"
    document = json.loads(path.read_text())
    plain = hwsearch.adopt(space.module, space.inputs)
    old = {name: value for name, value in document.items() if name != "precisions"} | {"fingerprint": plain.fingerprint}
    path.write_text(json.dumps(old))
    assert hwsearch.load_space(tmp_path / "net").choices == plain.choices
    for wrong in ([], ["int4"], 3):
        path.write_text(json.dumps(document | {"precisions": wrong}))
        with pytest.raises(CorruptFile, match="precisions"):
            hwsearch.load_space(tmp_path / "net")


def test_scores_know_what_each_region_loses_in_int8(space: Adopted, images: torch.Tensor, tmp_path: Path) -> None:
    """The predictor tells the loss of networks that it has not seen, and a search within a size gives up bits before accuracy."""
    with torch.no_grad():
        whole = space.network(images)

    def closeness(network: nn.Module) -> float:
        return -float((network(images) - whole).square().mean())

    rough = Quantization(weight_bits=3)
    how = Probing(images=64, metric=closeness, widths=1, networks=8, quantization=rough)
    score = hwsearch.fit_predictor(space, data=images, out=tmp_path / "s.npz", sampling=how, progress=False)
    assert score.weight_bits == 3
    alone = {gene: float((score(space.row()[None]) - score(row(space, gene)[None]))[0]) for gene in GENES}
    assert min(alone.values()) >= 0
    real = {gene: -closeness(quantize(space.network, [images], space.bits(row(space, gene)), rough)) for gene in GENES}
    assert max(alone, key=alone.__getitem__) == max(real, key=real.__getitem__)
    again = hwsearch.fit_predictor(space, data=images, out=tmp_path / "s.npz", sampling=how, progress=False)  # from the journal
    assert np.array_equal(again(space.sample(9, np.random.default_rng(0))), score(space.sample(9, np.random.default_rng(0))))
    limit = 0.5 * float(hwsearch.metric("size_mb", space)(space.row()[None])[0])
    best = hwsearch.search(space, "exact", predictor=score, limits={"size_mb": limit}).best
    assert space.bits(best.genes)
    small = hwsearch.extract(best, data=images)
    assert small.meta["plan"]["precisions"] == space.bits(best.genes)


def test_what_a_region_loses_is_measured_on_its_outputs(space: Adopted, images: torch.Tensor) -> None:
    """Fewer bits lose more, and the sum over regions tells roughly what all of them lose together."""
    fine, coarse = (bits_importance(space, images, Quantization(weight_bits=bits)) for bits in (8, 3))
    assert fine.keys() == set(GENES)
    assert all(coarse[gene] > 3 * fine[gene] > 0 for gene in GENES)
    score = additive(space, {group: np.ones(width) for group, width in space.widths.items()}, bits=coarse)
    lost = float((score(space.row()[None]) - score(row(space, *GENES)[None]))[0])
    assert lost == pytest.approx(sum(coarse.values()), rel=1e-5)


def test_one_call_tells_units_branches_and_bits_from_images_without_labels(space: Adopted, images: torch.Tensor) -> None:
    how = Quantization().on(load_backend("onnxruntime"))
    bits = bits_importance(space, images, how)
    by_hand = additive(space, importance(space, "reconstruction", images), branch_importance(space, images), bits=bits)
    score = additive(space, "reconstruction", images=images)
    X = space.sample(20, np.random.default_rng(0))
    assert np.array_equal(score(X), by_hand(X))
    assert score.weight_bits == how.weight_bits
    assert np.array_equal(additive(space, "l1", images=images, bits={})(X), additive(space, "l1", branch_importance(space, images))(X))
    with pytest.raises(InvalidInput, match="images"):
        additive(space, "reconstruction")


def test_a_predictor_in_other_bits_than_the_devices_is_fitted_anew_by_probing(space: Adopted) -> None:
    """What the warning names is what networks of the user's take: no command has it."""
    device: Any = SimpleNamespace(device=SimpleNamespace(name="here", weight_bits=7), source="table.json")
    with pytest.warns(SaturationWarning, match="with: fit_predictor.*Probing.quantization=") as told:
        compare_arithmetic(SimpleNamespace(weight_bits=8), space, [device])
    assert "Sampling" not in str(told[0].message)


class Fixed(Net):
    """Takes one number of images at once."""

    def __init__(self, batch: int = 1) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).reshape(self.batch, 10)


def test_a_network_of_one_batch_size_is_scored_and_written_in_bits(images: torch.Tensor) -> None:
    """It is calibrated on as many images as it takes."""
    fixed = hwsearch.adopt(enliven(Fixed()), images[:1], precisions=BOTH)
    assert not fixed.dynamic
    assert all(lost > 0 for lost in bits_importance(fixed, images[:4], Quantization(weight_bits=3)).values())
    chosen = row(fixed, "down.precision")
    small = quantize(fixed.extract({}), fixed.at_once((images,)), fixed.bits(chosen))
    assert small(images[:1]).shape == (1, 10)
    assert fixed.model_file(chosen) != fixed.model_file(fixed.row())


@pytest.mark.parametrize("batch", [1, 2])
def test_a_network_of_one_batch_size_is_repaired_and_its_units_weighed(batch: int, images: torch.Tensor) -> None:
    """It is fed as many images as it takes, however many are given."""
    module = enliven(Fixed(batch))
    fixed = hwsearch.adopt(module, images[:batch])
    assert not fixed.dynamic
    found = importance(fixed, "reconstruction", images[:31])
    assert found.keys() == {group.id for group in fixed.groups if group.searchable}
    taylor = importance(fixed, "taylor", images[:31], torch.zeros(31, dtype=torch.int64))
    assert all(np.isfinite(scores).all() for scores in (*found.values(), *taylor.values()))
    half = {group.id: group.width // 2 for group in fixed.groups if group.searchable}
    repaired, cut = fixed.extract(half, scores=found, images=images[:60]), fixed.extract(half, scores=found)

    def error(network: nn.Module) -> float:
        with torch.no_grad():
            return sum(float((network(x) - module(x)).square().sum()) for x in images[60:].split(batch))

    assert error(repaired) < 0.7 * error(cut)


def test_the_shifts_of_a_network_that_takes_one_image_are_counted_in_deviations_of_many(images: torch.Tensor) -> None:
    """One value of a linear layer has no deviation, which would leave its shift at nothing."""
    fixed = hwsearch.adopt(enliven(Fixed()), images[:1])
    network = fixed.extract({})
    spots = {spot.scaled: spot for spot in find_spots(network, [(each[None],) for each in images], ())}
    wanted = torch.cat([network(each[None]) for each in images]).std(0)
    assert torch.allclose(spots["head.weight"].deviation, wanted, rtol=1e-3)
