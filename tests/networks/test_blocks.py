"""Blocks: golden counts, and keys that read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.networks import Block, Precision


def resnet(depths: tuple[int, ...], precision: str = "fp32") -> list[Block]:
    """The bottlenecks and the classifier of a torchvision ResNet at 224 px (its 7x7 stem is followed by a pooling to 56 px)."""
    blocks, width, size = [Block("conv", 3, 64, 224, kernel=7, stride=2, precision=precision)], 64, 56
    for stage, depth in enumerate(depths):
        mid, out = 64 * 2**stage, 256 * 2**stage
        for index in range(depth):
            stride = 2 if stage and not index else 1
            blocks.append(Block("bottleneck", width, out, size, (mid, mid), 3, stride, precision=precision))
            width, size = out, blocks[-1].out_size
    return [*blocks, Block("head", width, 1000, size)]


def test_resnet50_has_its_published_macs_and_parameters() -> None:
    # torchvision 0.28, resnet50: 25,557,032 parameters; 4.089 GMACs at 224 px by the field's rule (convolutions and linear layers)
    blocks = resnet((3, 4, 6, 3))
    assert sum(block.params for block in blocks) == 25_557_032
    assert sum(block.macs for block in blocks) == 4_089_184_256


def test_resnet20_has_its_published_macs() -> None:
    # He et al., CVPR'16: 0.27 M parameters, 40.5 MMACs with identity ("option A") shortcuts; projections add 0.3 MMACs
    blocks, width, size = [Block("conv", 3, 16, 32, kernel=3)], 16, 32
    for out in (16, 32, 64):
        for index in range(3):
            blocks.append(Block("basic", width, out, size, (out,), 3, 2 if out > 16 and not index else 1))
            width, size = out, blocks[-1].out_size
    blocks.append(Block("head", width, 10, size))
    projections = [layer for block in blocks for layer in block.graph.shortcut or ()]
    assert sum(block.macs for block in blocks) - sum(layer.macs for layer in projections) == 40_551_040


def test_int8_weighs_a_quarter_and_its_bitops_are_a_sixteenth() -> None:
    full, small = (Block("basic", 16, 32, 32, (24,), 3, 2, precision=precision) for precision in ("fp32", "int8"))
    weights = 24 * 16 * 9 + 32 * 24 * 9 + 32 * 16
    assert full.weight_bytes == 4 * weights + 4 * (24 + 32 + 32)
    assert small.weight_bytes == weights + 8 * (24 + 32 + 32)
    assert full.bitops == 16 * small.bitops == 1024 * full.macs


def test_peak_memory_holds_the_shortcut_while_the_body_runs() -> None:
    plain = Block("conv", 8, 8, 10, kernel=3)
    residual = Block("basic", 8, 8, 10, (8,), 3)
    assert plain.activation_bytes == 4 * (800 + 800)
    assert residual.activation_bytes == 4 * (800 + 800 + 800)


def test_the_first_bottleneck_of_a_stage_projects_its_shortcut() -> None:
    first = Block("bottleneck", 64, 256, 56, (64, 64), 3)
    later = Block("bottleneck", 256, 256, 56, (64, 64), 3)
    assert [(layer.cin, layer.cout) for layer in first.graph.shortcut or ()] == [(64, 256)]
    assert later.graph.shortcut == ()


@given(
    kind=st.sampled_from(["conv", "basic", "bottleneck", "head", "quantize"]),
    widths=st.tuples(*[st.integers(1, 2048)] * 4),
    size=st.integers(1, 512),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 4),
    precision=st.sampled_from(["fp32", "fp16", "bf16", "fp8", "int8", "int4", "w4a8", "w4a16"]),
)
def test_keys_read_back(kind: str, widths: tuple[int, ...], size: int, kernel: int, stride: int, precision: str) -> None:
    mids = {"basic": widths[2:3], "bottleneck": widths[2:4]}.get(kind, ())
    block = Block(kind, widths[0], widths[1], size, mids, kernel, stride, 1, precision)
    assert Block.parse(block.key) == block
    assert block.macs >= 0
    assert block.activation_bytes > 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Block("blok", 1, 1, 1), "conv"),
        (lambda: Block("basic", 8, 8, 8), "mid width"),
        (lambda: Block("conv", 0, 8, 8), "cin must be at least 1"),
        (lambda: Block("conv", 8, 8, 8, stride=0), "stride must be at least 1"),
        (lambda: Block("conv", 8, 8, 8, groups=3), "groups"),
        (lambda: Block("conv", 8, 8, 8, precision="int9"), "int2..int8"),
        (lambda: Block.parse("conv-in3"), "not a block key"),
        (lambda: Block("basic", 8, 8, 8, (0,)), "mid widths"),
    ],
)
def test_impossible_blocks_are_refused_with_the_reason(build: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words.replace(".", r"\.")):
        build()  # type: ignore[operator]


def test_an_unknown_kind_names_the_likely_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'bottleneck'"):
        Block("botleneck", 1, 1, 1)


NAMES = [("fp32", 32, 32), ("int8", 8, 8), ("fp8", 8, 8), ("w4a8", 4, 8), ("w4a16", 4, 16), ("bf16", 16, 16)]


@pytest.mark.parametrize(("name", "weight", "activation"), NAMES)
def test_precisions(name: str, weight: int, activation: int) -> None:
    precision = Precision.parse(name)
    assert (precision.weight_bits, precision.activation_bits) == (weight, activation)
    assert precision.quantized == (activation < 16)


def test_sparse_weights_are_half_and_their_places_and_go_by_their_name() -> None:
    dense, sparse = (Block("basic", 32, 32, 16, (64,), 3, precision=name) for name in ("int8", "int8-2:4"))
    assert Block.parse(sparse.key) == sparse
    assert (sparse.bits.sparse, sparse.bits.dense, sparse.bits.weight_bits) == (True, "int8", 8)
    weights = 2 * 32 * 64 * 9
    assert dense.weight_bytes - sparse.weight_bytes == weights - weights // 2 * 10 // 8
    assert sparse.macs == dense.macs
    narrow = [Block("conv", 12, 16, 16, kernel=3, precision=name) for name in ("fp16", "fp16-2:4")]
    assert narrow[0].weight_bytes == narrow[1].weight_bytes, "12 channels are no multiple of 16: nothing is left out"
    with pytest.raises(InvalidInput, match="-2:4"):
        Block("conv", 16, 16, 8, precision="int8-2:4-2:4")


def test_no_boundary_stands_between_sparse_and_dense_weights_of_one_format() -> None:
    from hwsearch.spaces._chain import boundary

    assert boundary("int8", "int8-2:4", 16, 8) == ()
    assert [block.precision for block in boundary("fp32", "int8-2:4", 16, 8)] == ["int8"]
