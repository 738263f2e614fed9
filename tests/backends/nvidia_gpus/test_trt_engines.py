"""Engines that TensorRT-RTX really builds, without a GPU: every kind of block at every precision, for four generations of GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwsearch._registry import names
from hwsearch.backends._nvidia import _trt
from hwsearch.errors import BuildFailed, MissingDependency, Unsupported
from hwsearch.networks import KINDS, Block
from hwsearch.spaces import load_space

pytest.importorskip("onnx")
try:
    MODULE = _trt.find()
except MissingDependency:
    pytest.skip("neither TensorRT nor TensorRT-RTX is installed (pip install 'hwsearch[tensorrt-rtx]')", allow_module_level=True)
if not _trt.is_rtx(MODULE):
    pytest.skip("TensorRT builds for the GPU of its machine only; TensorRT-RTX is not installed", allow_module_level=True)

from hwsearch.backends.tensorrt import TensorRT

TARGETS = ("80", "86", "89", "120")
EIGHT = ("89", "120")
"""Those with fp8."""
SHAPES = (
    "conv-in3-out16-px8-k3-s2-g1",
    "conv-in16-out16-px8-k3-s1-g16",
    "resconv-in8-out8-px8-k3-s1-g1",
    "basic-in16-mid24-out16-px8-k3-s1-g1",
    "basic-in12-mid20-out24-px9-k3-s2-g1",
    "bottleneck-in32-mid8x8-out32-px8-k3-s1-g1",
    "bottleneck-in16-mid8x8-out32-px8-k3-s2-g4",
    "bottleneckd-in16-mid8x8-out32-px8-k3-s2-g1",
    "mbconv-in8-mid24-out8-px8-k5-s1-g1{}-relu6",
    "mbconv-in8-mid24x8-out16-px8-k3-s2-g1{}-hswish",
    "separable-in8-mid8-out8-px8-k3-s1-g1{}-swish",
    "maxpool-in8-out8-px8-k3-s2-g1",
    "avgpool-in8-out8-px8-k3-s2-g1",
    "head-in16-out10-px8-k1-s1-g1",
    "head-in16-mid24-out10-px8-k1-s1-g1{}-hswish",
    "quantize-in8-out8-px8-k1-s1-g1",
    "dequantize-in8-out8-px8-k1-s1-g1",
)
"""Every kind, with and without a shortcut, its convolution, groups, squeeze-and-excite."""


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory):
    cache = tmp_path_factory.mktemp("engines")
    made = {targets: TensorRT(sm=targets, cache=cache) for targets in (TARGETS, EIGHT)}
    yield made
    for one in made.values():
        one.engines.close()


def blocks(precision: str) -> list[Block]:
    keys = (shape if "{}" in shape else shape + "{}" for shape in SHAPES)
    found = [Block.parse(key.format(f"-{precision}")) for key in keys]
    return [block for block in found if not block.boundary or precision != "fp32"]


def test_all_kinds_are_here() -> None:
    assert {block.kind for block in blocks("int8")} == set(KINDS)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8", "w4a16", "int8-2:4"])
def test_every_kind_of_block_becomes_an_engine(backends, precision: str) -> None:
    targets = EIGHT if precision == "fp8" else TARGETS
    backend = backends[targets]
    for block in blocks(precision):
        assert backend.supports(block)
        assert len(backend.engine(backend.framed(block)[0])) > 10_000, block.key


def test_every_kind_of_block_of_every_space_becomes_an_engine(backends) -> None:
    """The smallest of each kind, precision, activation and shape of graph; all blocks are many, see ``benchmarks/tensorrt_builds.py``."""
    backend = backends[TARGETS]
    smallest: dict[tuple[object, ...], Block] = {}
    for name in names("space"):
        options = {"resolutions": (64,), "mids": 3, "outs": 2} if name == "resnet50" else {}
        for block in load_space(name, **options).unique_blocks:
            kind = (
                block.kind,
                block.precision,
                block.activation,
                len(block.mids),
                block.graph.shortcut is None,
                bool(block.graph.shortcut),
            )
            if kind not in smallest or block.macs < smallest[kind].macs:
                smallest[kind] = block
    able = [block for block in smallest.values() if backend.supports(block)]
    assert {block.kind for block in able} == set(KINDS)
    assert {block.precision for block in smallest.values() if block not in able} <= {f"w{w}a{a}" for w in (4, 6, 8) for a in (4, 6, 8)}
    for block in able:
        assert len(backend.engine((block,))) > 10_000, block.key


def test_each_generation_alone_takes_whole_mixed_networks(backends, tmp_path) -> None:
    for sm in TARGETS:
        backend = TensorRT(sm=sm, batch=8, cache=tmp_path)
        space = load_space("resnet_digits")
        for row in space.restrict({"*precision": backend.precisions}).sample(2, np.random.default_rng(int(sm))):
            assert len(backend.engine(space.blocks(row))) > 10_000
        backend.engines.close()


def test_precisions_that_a_target_lacks_never_reach_the_builder(backends, monkeypatch) -> None:
    backend = backends[TARGETS]
    monkeypatch.setattr(backend.engines, "build", lambda *a: pytest.fail("the builder was called"))
    for precision in ("fp8", "int4", "w4a8"):
        with pytest.raises(Unsupported, match=f"{precision}: its precisions are fp32, fp16, bf16, int8, w4a16"):
            backend.engine((Block("conv", 3, 8, 8, (), 3, precision=precision),))


def test_what_the_parser_refuses_is_told_with_its_reason(backends) -> None:
    with pytest.raises(BuildFailed, match="cannot build this: the parser refuses the graph"):
        backends[TARGETS].engines.build(b"no model", "this")


def test_resnet50_at_int8_becomes_an_engine_searched_and_dense(backends) -> None:
    """The networks of docs/resnet50-mlperf.md, as the search found them, with made-up weights."""
    results = json.loads((Path(__file__).parents[3] / "benchmarks/results/resnet50-terms-onnxruntime-b1.json").read_text())
    for name, macs in (("b: searched, free", 1_252_049_920), ("dense", 4_089_184_256)):
        network = [Block.parse(key) for key in results["networks"][name]["blocks"]]
        assert {block.precision for block in network} == {"int8"}
        assert sum(block.macs for block in network) == macs
        assert len(backends[TARGETS].engine(network)) > 1e6
