"""The published spaces: their networks have the costs that their authors' code counts."""

from __future__ import annotations

import ast
import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch import SearchSpace, load_space, metric
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.interop import ofa_architecture
from hwsearch.networks import Block
from hwsearch.spaces._chain import Chain, Stage, divisible

PUBLISHED = ("apq", "bootstrapnas_resnet50", "nasbench201", "nasbench_macro", "ofa_mobilenetv3", "ofa_resnet50")


@pytest.fixture(params=PUBLISHED)
def published(request: pytest.FixtureRequest) -> SearchSpace:
    return load_space(request.param)


def test_every_block_survives_its_key(published: SearchSpace) -> None:
    blocks = published.unique_blocks
    assert len(blocks) == len({block.key for block in blocks})
    for block in blocks[:: max(1, len(blocks) // 300)]:
        assert Block.parse(block.key) == block


def test_compiled_costs_are_sums_over_blocks(published: SearchSpace, rng: np.random.Generator) -> None:
    X = published.sample(20, rng)
    for name, of_block in (("macs", lambda b: b.macs), ("params", lambda b: b.params), ("size_mb", lambda b: b.weight_bytes / 1e6)):
        sums = [sum(of_block(block) for block in published.blocks(row)) for row in X]
        np.testing.assert_allclose(metric(name, published)(X), sums, rtol=1e-12)


def test_feature_maps_fit_together(rng: np.random.Generator) -> None:
    for name in ("ofa_mobilenetv3", "ofa_resnet50", "bootstrapnas_resnet50", "nasbench_macro"):
        space = load_space(name)
        for row in space.sample(20, rng):
            blocks = space.blocks(row)
            for before, after in itertools.pairwise(blocks):
                assert (before.cout, before.out_size) == (after.cin, after.size), (name, before.key, after.key)


def test_sizes_are_the_published_ones() -> None:
    assert load_space("ofa_mobilenetv3", resolutions=(224,)).size == (9**2 + 9**3 + 9**4) ** 5
    assert load_space("ofa_resnet50", resolutions=(224,)).size == 2 * 3**6 * np.prod(
        [3**d + 3 ** (d + 1) + 3 ** (d + 2) for d in (2, 2, 4, 2)]
    )
    assert load_space("nasbench201").size == 15625
    assert load_space("nasbench_macro").size == 6561
    # A block of APQ: mid widths x (kernels 3 and 5 with 3 x 3 depthwise bits, kernel 7 with 3 x 2) x 3 x 3 pointwise bits.
    blocks = [(mids - 1) * 9 * (2 * 9 + 6) for mids in (6, 8, 12, 22, 26, 50)]
    size = blocks[5]
    for first, later in itertools.pairwise(blocks):
        size *= first * later * (1 + later + later**2)
    assert load_space("apq").size == size


def test_once_for_all_mobilenets_have_the_published_macs_and_parameters(data_folder: Path) -> None:
    """Two search traces of DyNAS-T list MACs and parameters of 904 networks of width 1.0, squeeze-and-excite counted."""
    space = load_space("ofa_mobilenetv3", width=1.0, resolutions=(224,))
    rows, wanted = [], []
    for trace in ("a", "b"):
        with open(data_folder / "ofa" / f"mbv3_w10_imagenet_top1_{trace}.csv", newline="") as file:
            for line in csv.DictReader(file):
                rows.append(ofa_architecture(ast.literal_eval(line["Sub-network"]), space).genes)
                wanted.append((int(line["MACs"]), int(line["Model Parameters"])))
    X = np.stack(rows)
    assert len(X) == 904
    np.testing.assert_array_equal(np.stack([metric("macs", space)(X), metric("params", space)(X)], axis=1), wanted)


# MMACs and parameters of three rows, counted by Once-for-All's own package (ofa 0.1.0.post202307202001: ResNet50FLOPsModel, and the
# parameters of get_active_subnet()), for settings as its set_active_subnet takes them.
RESNETS = (
    ({"d": [0, 0, 0, 0, 0], "e": [0.2] * 18, "w": [0] * 6, "image_size": 128}, 315.079552, 6539280),
    ({"d": [2, 2, 2, 2, 2], "e": [0.35] * 18, "w": [2] * 6, "image_size": 256}, 9784.377344, 48105992),
    ({"d": [2, 1, 0, 2, 1], "e": [0.2, 0.25, 0.35] * 6, "w": [0, 1, 2, 1, 0, 2], "image_size": 192}, 2213.401856, 21964016),
)


@pytest.mark.parametrize(("setting", "mmacs", "params"), RESNETS)
def test_once_for_all_resnets_have_the_macs_and_parameters_of_its_own_code(setting: dict[str, object], mmacs: float, params: int) -> None:
    space = load_space("ofa_resnet50")
    blocks = ofa_architecture(setting, space).blocks()
    assert sum(block.macs for block in blocks) / 1e6 == pytest.approx(mmacs, abs=1e-9)
    assert sum(block.params for block in blocks) == params


def test_once_for_all_resnets_range_from_315_to_9784_mmacs() -> None:
    space = load_space("ofa_resnet50")
    macs = metric("macs", space)
    largest = np.array([[size - 1 for size in space.sizes]], dtype=np.uint8)
    assert macs.lower_bound / 1e6 == pytest.approx(315.079552)
    assert macs(largest)[0] / 1e6 == pytest.approx(9784.377344)


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_intels_searched_resnets_are_in_the_space(data_folder: Path, name: str) -> None:
    """Layer by layer as submitted to MLPerf Inference v2.0 (open division): widths, MACs and weights."""
    document = json.loads((data_folder / "mlperf" / "intel_bootstrapnas_archs.json").read_text())[name]
    space = load_space("bootstrapnas_resnet50")
    architecture = space.architecture(space.encode(intel_values(document["layers"], space)))
    layers = [layer for block in architecture.blocks() for layer in block.graph.layers if not layer.pooling]
    ours = [(layer.cin, layer.cout, layer.kernel, layer.stride, layer.out_size, layer.macs) for layer in layers]
    theirs = [tuple(layer.get(key) for key in ("cin", "cout", "k", "stride", "out_hw", "macs")) for layer in document["layers"]]
    assert ours == theirs
    assert sum(layer.macs for layer in layers) == document["macs"]
    assert sum(layer.weights for layer in layers) == document["conv_fc_weights"]


def intel_values(layers: list[dict[str, int]], space: SearchSpace) -> dict[str, object]:
    """The genes of a network that is given layer by layer."""
    stem, *rest, _ = layers
    values: dict[str, object] = {"resolution": 224, "stem.width": ratio(64, stem["cout"])}
    stage, block, width = 0, 0, stem["cout"]
    for reduce, spatial, expand in zip(rest, rest[1:], rest[2:], strict=False):
        if (reduce["k"], spatial["k"], expand["k"]) != (1, 3, 1):
            continue
        if expand["cout"] != width:
            stage, block, width = stage + 1, 0, expand["cout"]
            values[f"stage{stage}.width"] = ratio(128 * 2**stage, width)
        block += 1
        values[f"stage{stage}.depth"] = block
        values[f"stage{stage}.block{block}.expand"] = next(e for e in (0.2, 0.25, 0.35) if divisible(round(width * e)) == reduce["cout"])
    return values


def ratio(base: int, width: int) -> float:
    return next(scale for scale in (0.65, 0.8, 1.0) if divisible(base * scale) == width)


def test_nasbench_macro_has_the_published_macs_and_parameters(data_folder: Path) -> None:
    document = json.loads((data_folder / "nas_bench_macro" / "nas-bench-macro_cifar10.json").read_text())
    space = load_space("nasbench_macro")
    X = np.array([[int(digit) for digit in key] for key in document])
    np.testing.assert_array_equal(metric("macs", space)(X), [entry["flops"] for entry in document.values()])
    np.testing.assert_array_equal(metric("params", space)(X), [entry["params"] for entry in document.values()])


def test_nasbench201_has_the_published_macs() -> None:
    """7.78305 and 220.11969 MFLOPs (Dong and Yang, ICLR'20), which count the ten biases of the classifier as well."""
    macs = metric("macs", load_space("nasbench201"))
    np.testing.assert_array_equal(macs(np.array([[0] * 6, [3] * 6])), [7783050 - 10, 220119690 - 10])


def test_apq_offers_no_kernel_of_7_with_4_bit_activations(rng: np.random.Generator) -> None:
    space = load_space("apq")
    kernels = set()
    for row in space.sample(200, rng):
        for block in space.blocks(row):
            if block.groups > 1:
                kernels.add((block.kernel, block.bits.activation_bits))
    assert kernels >= {(3, 4), (5, 4), (7, 6), (7, 8)}
    assert (7, 4) not in kernels


def test_mobile_blocks_are_what_their_papers_draw() -> None:
    block = Block("mbconv", 40, 40, 28, (240, 64), 5, activation="hswish")
    expand, depthwise, project = block.graph.body
    assert (expand.kernel, depthwise.kernel, depthwise.groups, project.activation) == (1, 5, 240, "none")
    assert block.graph.shortcut == ()
    assert block.graph.joined == "none"
    assert [(layer.cin, layer.cout, layer.macs) for layer in block.graph.excite] == [(240, 64, 15360), (64, 240, 15360)]
    assert block.key == "mbconv-in40-mid240x64-out40-px28-k5-s1-g1-fp32-hswish"
    assert Block("mbconv", 40, 40, 28, (240,), 5, 2).graph.shortcut is None
    assert Block("mbconv", 40, 80, 28, (240,), 5).graph.shortcut is None
    separable = Block("separable", 32, 16, 112, (), 3)
    assert [layer.groups for layer in separable.graph.body] == [32, 1]


def test_pooling_costs_traffic_but_no_macs() -> None:
    pool = Block("maxpool", 64, 64, 112, (), 3, 2)
    assert (pool.macs, pool.params, pool.weight_bytes, pool.out_size) == (0, 0, 0, 56)
    assert pool.activation_bytes == 4 * 64 * (112**2 + 56**2)
    first, last = Block("bottleneckd", 256, 512, 56, (128, 128), 3, 2).graph.shortcut or ()
    assert (first.op, first.out_size, last.size, last.stride) == ("avgpool", 28, 28, 1)
    assert Block("bottleneckd", 256, 512, 56, (128, 128), 3, 2).macs == Block("bottleneck", 256, 512, 56, (128, 128), 3, 2).macs


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: Block("mbconv", 8, 8, 8), InvalidInput, "1 or 2 mid width"),
        (lambda: Block("conv", 8, 8, 8, activation="gelu"), UnknownName, "activation"),
        (lambda: Block("maxpool", 8, 16, 8), InvalidInput, "as many channels out as in"),
        (lambda: Block("resconv", 8, 8, 8, stride=2), InvalidInput, "resconv block"),
        (lambda: Chain("a", (8,), (8,), (Stage(1, 8, kind="mbconv"),), 10).space(), InvalidInput, "either mids or expands"),
        (lambda: Chain("a", (8,), (8,), (Stage(1, 8, expands=(3,), kind="conv"),), 10).space(), InvalidInput, "neither mids nor expands"),
        (
            lambda: Chain("a", (8,), (8,), (Stage(1, (8, 16), (8,), scales=(0.5, 1.0)),), 10).space(),
            InvalidInput,
            "scales multiply one width",
        ),
    ],
)
def test_what_no_network_has_is_refused(build: object, error: type[Exception], words: str) -> None:
    assert callable(build)
    with pytest.raises(error, match=words):
        build()


def test_spaces_are_found_by_their_own_names(published: SearchSpace) -> None:
    """Files name the space they belong to, so that name must lead back to it."""
    assert load_space(published.name).fingerprint == published.fingerprint
    narrow = load_space("ofa_mobilenetv3", width=1.0)
    assert load_space(narrow.name).fingerprint == narrow.fingerprint


def test_published_spaces_are_searched_like_any_other() -> None:
    space = load_space("ofa_mobilenetv3")
    result = hwsearch.search(
        space, predictor=lambda X: X.sum(axis=1).astype(float), limits={"macs": 3e8}, seed=0, run=hwsearch.Run(steps=5)
    )
    assert result.best is not None
    assert result.values["macs"] <= 3e8


def dense(space: SearchSpace) -> np.ndarray:
    """The widest and deepest row, in fp32."""
    return np.array([0 if choice.is_precision else len(choice.values) - 1 for choice in space.choices], dtype=np.uint8)


def test_the_largest_resnet50_is_the_one_that_everybody_knows() -> None:
    """torchvision counts 25,557,032 parameters, and 4.089 GMACs at 224 px by the field's rule."""
    space = load_space("resnet50", mids=2, outs=2)
    row = dense(space)
    assert metric("macs", space)(row[None])[0] == 4_089_184_256
    assert metric("params", space)(row[None])[0] == 25_557_032
    spatial = [layer for block in space.blocks(row) for layer in block.graph.layers if layer.kernel == 3 and layer.stride == 2]
    assert [layer.op for layer in spatial] == ["maxpool", "conv", "conv", "conv"], "the stride is in the 3x3"


def test_every_width_of_resnet50_is_a_multiple_of_the_step() -> None:
    for step in (4, 8):
        space = load_space("resnet50", step=step)
        widths = {choice.name: choice.values for choice in space.choices if choice.name.endswith((".out", ".mid1", ".mid2"))}
        assert len(widths) == 5 + 2 * (3 + 4 + 6 + 3)
        assert all(width % step == 0 for values in widths.values() for width in values)
        assert all(np.all(np.diff(values) > 0) and len(values) <= 13 for values in widths.values())
    assert space.choices[space.position["stage2.block1.mid1"]].values[-1] == 128
    with pytest.raises(InvalidInput, match="no multiple of 7"):
        load_space("resnet50", step=7)


def test_parts_of_resnet50_can_be_frozen(rng: np.random.Generator) -> None:
    frozen = {"stage1.*": [3, 64, 256, "int8"], "stage1.out": [256], "resolution": [224]}
    space = load_space("resnet50", mids=2, outs=2, freeze=frozen)
    rows = [[block.key for block in space.blocks(row) if block.kind == "bottleneck"][1:3] for row in space.sample(9, rng)]
    stages = {tuple(row) for row in rows}
    assert stages == {("bottleneck-in256-mid64x64-out256-px56-k3-s1-g1-int8",) * 2}


def test_resnet50_pools_in_the_precision_of_its_stem(rng: np.random.Generator) -> None:
    space = load_space("resnet50", mids=2, outs=2)
    for row in space.sample(20, rng):
        stem, pool = (block for block in space.blocks(row) if block.kind in ("conv", "maxpool"))
        assert stem.precision == pool.precision
