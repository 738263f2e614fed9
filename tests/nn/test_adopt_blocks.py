"""Blocks that keep the shape of what they are given: found in networks without residual sums, removed, counted, priced, searched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from masking import assert_equal, enliven
from torch import nn

import hwsearch
from hwsearch.backends import load_backend
from hwsearch.nn.adoption import Adopted, additive, branch_importance, importance, load_network, save_network
from hwsearch.nn.adoption._masked import run_masked

IMAGE = (2, 3, 8, 12)


def conv(n: int, made: int, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(n, made, 3, padding=1, groups=groups), nn.BatchNorm2d(made), nn.ReLU()]


def plain() -> nn.Sequential:
    """Two stages, of two and one blocks that keep their shape, and a linear layer that does."""
    layers = [
        *conv(3, 24),
        *conv(24, 24),
        *conv(24, 24),
        nn.MaxPool2d(2),
        *conv(24, 32),
        *conv(32, 32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return enliven(nn.Sequential(*layers, nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5)))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def module() -> nn.Sequential:
    return plain()


@pytest.fixture(scope="module")
def space(module: nn.Module) -> Adopted:
    return hwsearch.adopt(module, torch.randn(IMAGE))


def blocks(space: Adopted) -> dict[str, str]:
    """The genes of blocks, each with why it is frozen."""
    return {space.places.branches.get(each.id, each.id): each.reason for each in space.branches if each.passing is not None}


def assert_removable(space: Adopted, n: int = 6) -> None:
    """Random rows: what is extracted computes what the whole network does when it ignores what is gone, and is what was counted."""
    inputs = tuple(torch.randn(each.shape, generator=torch.Generator().manual_seed(3)) for each in space.inputs)
    X = space.sample(n, np.random.default_rng(2))
    macs, params = (hwsearch.metric(name, space)(X) for name in ("macs", "params"))
    for row, count, size in zip(X, macs, params, strict=True):
        kept, branches = space.plan(row)
        cut = space.cut(kept, branches)
        network = cut.build()
        with torch.no_grad():
            assert_equal(torch.utils._pytree.tree_leaves(network(*inputs)), run_masked(cut, inputs, {}))
        assert size == sum(each.numel() for each in network.parameters())
        again = hwsearch.adopt(network, inputs)
        assert count == space.macs(kept, branches) == again.macs() == pytest.approx(sum(block.macs for block in space.blocks(row)))


def test_blocks_that_keep_their_shape_are_genes(space: Adopted) -> None:
    """The widths that a block makes need it; a chain of three is three blocks, of which two follow one another here."""
    genes = {choice.name: (choice.values, choice.needs) for choice in space.choices}
    assert genes == {
        "0.width": ((8, 16, 24), None),
        "3.depth": ((0, 1), None),
        "3.width": ((8, 16, 24), ("3.depth", (1,))),
        "6.depth": ((0, 1), None),
        "6.width": ((8, 16, 24), ("6.depth", (1,))),
        "10.width": ((8, 16, 24, 32), None),
        "13.depth": ((0, 1), None),
        "13.width": ((8, 16, 24, 32), ("13.depth", (1,))),
        "18.width": ((8, 16), None),
        "20.depth": ((0, 1), None),
        "20.width": ((8, 16), ("20.depth", (1,))),
    }
    assert [row.op for row in space.report.rows].count("block") == 4


def test_without_a_block_the_next_layer_reads_the_channels_before_it(space: Adopted, module: nn.Sequential) -> None:
    """The kept channels of the stem, of the weights at the same places, by hand."""
    ids = {space.places.groups[group.id]: group.id for group in space.groups if group.id in space.places.groups}
    kept = [1, 4, 9, 20]
    gone = [space.branches[0].id, space.branches[1].id, space.branches[3].id]
    cut = space.extract({ids["0.width"]: kept, ids["3.width"]: [0, 2]}, gone)
    images = torch.randn(IMAGE)
    with torch.no_grad():
        x = module[:3](images)
        x[:, [place for place in range(24) if place not in kept]] = 0
        assert_equal(cut(images), module[22](module[9:20](x)))
    assert {name for name, _ in cut.named_parameters()} == {f"{n}.{p}" for n in (0, 1, 10, 11, 13, 14, 18, 22) for p in ("weight", "bias")}


def test_what_is_extracted_is_what_was_counted_and_proven(space: Adopted) -> None:
    assert_removable(space, 20)


class Unet(nn.Module):
    """Two levels, whose inner one is a block as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*conv(3, 8))
        self.second = nn.Sequential(*conv(8, 8))
        self.down = nn.Sequential(*conv(8, 16))
        self.deep = nn.Sequential(*conv(16, 16))
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x))
        deep = self.deep(self.down(nn.functional.max_pool2d(x, 2)))
        return self.last(torch.cat([x, self.up(deep)], 1))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A stage in two halves, one of which goes through a residual block, without a sum around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv(3, 16))
        self.split = nn.Conv2d(16, 32, 1)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.join = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        a, b = self.split(x).relu().chunk(2, 1)
        x = self.join(torch.cat([a, b + self.inner(b).relu()], 1)).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def depthwise(n: int) -> nn.Module:
    return nn.Sequential(*conv(n, n, n), nn.Conv2d(n, n, 1), nn.ReLU())


class Given(nn.Module):
    """What a module of layers and a function make."""

    def __init__(self, call: object, **layers: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(self, x)  # type: ignore[operator,no-any-return]


HEAD = {"out": nn.Linear(16, 5)}
NETWORKS = {
    "depthwise and pointwise": (nn.Sequential(*conv(3, 16), depthwise(16), depthwise(16), nn.Conv2d(16, 4, 1)), {"3.depth", "4.depth"}),
    "five in a row": (
        nn.Sequential(*conv(3, 8), *(nn.Sequential(*conv(8, 8)) for _ in range(5)), nn.Conv2d(8, 4, 1)),
        {"3.0.depth", "5.0.depth"},
    ),
    "u-net": (Unet(), {"second.0.depth", "down.0.depth", "deep.0.depth"}),
    "a stage with a residual block inside": (Stage(), {"split.depth"}),
    "sequences": (nn.Sequential(nn.Linear(3, 16), nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5)), {"1.depth"}),
    "a gate": (
        Given(
            lambda m, x: m.out((lambda y: y * m.up(m.down(y.mean((2, 3), keepdim=True)).relu()).sigmoid())(m.a(x)).mean((2, 3))),
            a=nn.Conv2d(3, 16, 1), down=nn.Conv2d(16, 4, 1), up=nn.Conv2d(4, 16, 1), **HEAD,
        ),
        set(),
    ),
    "a layer that is called three times": (
        Given(lambda m, x: m.out(m.b(m.b(m.b(m.a(x)).relu()).relu()).mean((2, 3))), a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 16, 1), **HEAD),
        set(),
    ),
    "two that read one": (
        Given(
            lambda m, x: (lambda y: m.out(torch.cat([m.b(y).relu(), m.c(y)], 1).mean((2, 3))))(m.a(x)),
            a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 8, 1), c=nn.Conv2d(8, 8, 3, padding=1), **HEAD,
        ),
        {"b.depth", "c.depth"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_kinds_of_blocks(name: str) -> None:
    module, wanted = NETWORKS[name]
    shape = (2, 7, 3) if name == "sequences" else IMAGE
    space = hwsearch.adopt(enliven(module), torch.randn(shape), step=4)
    assert blocks(space) == dict.fromkeys(wanted, "")
    assert_removable(space)


def test_frozen_channels_keep_their_blocks() -> None:
    """A block whose result has to stay whole cannot hand on fewer channels; one that holds frozen parameters stays."""
    layers = nn.Sequential(*conv(3, 16), *conv(16, 16), *conv(16, 16))
    assert blocks(hwsearch.adopt(layers, torch.randn(IMAGE)))["b1"] == "the channels that it makes have to stay: output of the network"
    frozen = hwsearch.adopt(plain(), torch.randn(IMAGE), freeze=["0", "3"])
    assert blocks(frozen)["b0"] == "frozen by '3'"


def test_a_search_leaves_blocks_out_and_repair_makes_up_for_them(space: Adopted, module: nn.Module, tmp_path: Path) -> None:
    """The optimum of an additive score is proven with blocks among the genes, and the file of the network is the network."""
    images = torch.randn(240, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    score = additive(space, importance(space, "l2", images), branch_importance(space, images))
    limit = 0.3 * space.macs()
    result = hwsearch.search(space, "exact", predictor=score, limits={"macs": limit})
    rows = np.concatenate(list(space.enumerate()))
    feasible = rows[hwsearch.metric("macs", space)(rows) <= limit]
    assert result.status.name == "OPTIMAL"
    assert result.best_score == pytest.approx(score(feasible).max())
    gone = space.row(branches=[space.branches[0].id])
    bare, repaired = (hwsearch.extract(score.space.architecture(gone), data=data) for data in (None, images))
    with torch.no_grad():
        wanted = module(images)
        wrong = [float((each(images) - wanted).square().mean()) for each in (bare, repaired)]
        assert wrong[1] < 0.5 * wrong[0]
        save_network(repaired, tmp_path / "net.safetensors")
        assert torch.equal(load_network(tmp_path / "net.safetensors")(images), repaired(images))


def assert_kernels(space: Adopted, row: np.ndarray, path: Path) -> None:
    """Each kernel that ONNX Runtime names is one of the row's slots, and each slot that multiplies is one of its kernels."""
    path.write_bytes(space.model_file(row))
    with load_backend("onnxruntime").profiled(path) as session:
        session.times(3)
        told = set(session.kernels_ms)
    assert told <= {slot.name for slot, _ in space.placed(row)}
    assert {slot.name for slot, found in space.placed(row) for block in found if block.macs} <= told


def test_each_kernel_of_a_file_is_one_of_the_slots_of_its_row(space: Adopted, tmp_path: Path) -> None:
    for row in (space.row(branches=space.places.branches), *space.sample(3, np.random.default_rng(4))):
        assert_kernels(space, row, tmp_path / "network.onnx")


def test_with_bits_as_genes_a_block_is_given_the_precision_that_it_makes(tmp_path: Path) -> None:
    """The inner level of a U-Net ends in floats, and so what reads it would have to know whether it is there."""
    space = hwsearch.adopt(enliven(Unet()), torch.randn(IMAGE), precisions=("fp32", "int8"))
    other = "what it is given may be in another precision than what it makes"
    assert blocks(space) == {"second.0.depth": "", "deep.0.depth": "", "b2": other}
    for row in (space.row(branches=space.places.branches), *space.sample(4, np.random.default_rng(0))):
        assert_kernels(space, row, tmp_path / "network.onnx")


class Bottleneck(nn.Module):
    """Three convolutions beside another one, as where ResNet-50 begins: the middle one keeps the shape of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 32, 1)
        self.beside = nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        y = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        head: torch.Tensor = self.head((y + self.beside(x)).relu().mean((2, 3)))
        return head


def test_a_block_takes_its_layers_out_of_the_region_that_they_are_in(tmp_path: Path) -> None:
    """The region lives on in int8 without them: its file is written, and so is that of the network that is extracted."""
    space = hwsearch.adopt(enliven(Bottleneck()), torch.randn(IMAGE), precisions=("fp32", "int8"))
    gone = next(gene for gene in space.places.branches.values() if gene.startswith("conv2"))
    low = {choice.name: "int8" for choice in space.choices if choice.is_precision}
    largest = {choice.name: choice.values[-1] for choice in space.choices}
    whole, row = (space.canonical(space.encode(largest | low | each)[None])[0] for each in ({}, {gone: 0}))
    assert space.bits(whole).keys() - space.bits(row).keys() == {"conv2.weight"}
    assert_kernels(space, row, tmp_path / "kernels.onnx")
    small = hwsearch.extract(space.architecture(row), data=torch.randn(20, *IMAGE[1:]))
    hwsearch.export(small, data=torch.randn(20, *IMAGE[1:]), out=tmp_path / "small.onnx")
    assert set(small.meta["plan"]["precisions"]) == space.bits(row).keys() <= set(dict(small.named_parameters()))
