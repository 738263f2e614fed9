"""Low rank: factors that reproduce a layer, ranks as genes, and networks cut by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hwsearch
from hwsearch.costs import metric
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.nn import load_data
from hwsearch.nn.adoption import Adopted, Probing, additive, importance, load_network, low_rank, save_adopted, save_network
from hwsearch.nn.adoption._masked import run_masked
from hwsearch.nn.adoption._proof import distance

torch.set_num_threads(1)


class Net(nn.Module):
    """A stem, a residual branch, a strided convolution, a 1 x 1 convolution and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.inner, self.outer = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1, bias=False)
        self.down, self.point = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 1)
        self.first, self.last = nn.Linear(32 * 16, 48), nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        x = F.relu(self.point(F.relu(self.down(x))))
        return self.last(F.relu(self.first(x.flatten(1))))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module", params=["tucker", "spatial"])
def space(request: Any) -> Adopted:
    """The network with ranks as genes."""
    return hwsearch.adopt(low_rank(net(), request.param), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), step=4)


@pytest.mark.parametrize(
    ("layer", "way", "size"),
    [
        (nn.Conv2d(12, 20, 3, 2, 1), "tucker", (3, 12, 9, 11)),
        (nn.Conv2d(3, 64, (3, 5), (2, 1), (1, 2), bias=False), "tucker", (2, 3, 9, 11)),
        (nn.Conv2d(12, 20, (3, 5), (2, 3), (1, 2), (2, 1)), "spatial", (3, 12, 15, 16)),
        (nn.Conv2d(20, 6, 3, padding=1), "spatial", (3, 20, 8, 8)),
        (nn.Conv2d(12, 20, 1, 2), "svd", (3, 12, 9, 9)),
        (nn.Linear(30, 12), "svd", (4, 30)),
        (nn.Linear(12, 30, bias=False), "tucker", (4, 5, 12)),
    ],
)
def test_factors_reproduce_a_layer_at_full_rank(layer: nn.Module, way: str, size: tuple[int, ...]) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, found = layer(x), low_rank(layer, way)(x)
    assert found.shape == wanted.shape
    assert distance([wanted], [found]) < 1e-5
    assert len(list(low_rank(layer, way).parameters())) > len(list(layer.parameters()))


def test_a_truncated_pair_is_the_best_of_its_rank() -> None:
    """Eckart and Young: what is lacking is what the singular values that are left out say."""
    layer = nn.Linear(40, 30, bias=False)
    space = hwsearch.adopt(low_rank(nn.Sequential(layer, nn.ReLU(), nn.Linear(30, 3))), torch.randn(1, 40), step=4)
    [rank] = [gene for gene in space.places.groups.values() if gene == "0.rank"]
    group = next(group for group, gene in space.places.groups.items() if gene == rank)
    network = space.extract({group: 8}, scores=importance(space, "l2"))
    product = network.get_parameter("0.factors.1.weight") @ network.get_parameter("0.factors.0.weight")
    values = torch.linalg.svdvals(layer.weight.detach())
    assert float((product - layer.weight).detach().norm()) == pytest.approx(float(values[8:].norm()), rel=1e-4)


def test_ranks_are_genes_with_off_among_their_values(space: Adopted) -> None:
    ranks = {choice.name: choice for choice in space.choices if choice.role == "rank"}
    assert {"inner.rank", "down.rank", "point.rank", "first.rank"} <= ranks.keys()
    full = space.widths
    for group, gene in space.places.groups.items():
        if gene in ranks:
            assert ranks[gene].values[-1] == full[group]
            assert len(ranks[gene].values) > 1
    whole = net()
    x = torch.randn(5, 1, 8, 8)
    extracted = space.extract({})
    with torch.no_grad():
        assert distance([whole(x)], [extracted(x)]) < 1e-5
    assert {name: tuple(each.shape) for name, each in extracted.named_parameters()} == {
        name: tuple(each.shape) for name, each in whole.named_parameters()
    }, "with all ranks off the network has the layers that it came with"
    plain = hwsearch.adopt(whole, x[:1])
    assert space.macs() == plain.macs()
    assert float(metric("params", space)(space.row()[None])[0]) == float(metric("params", plain)(plain.row()[None])[0])


def test_extracted_networks_compute_what_masked_ones_do_and_cost_what_the_tables_say(space: Adopted, rng: np.random.Generator) -> None:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for row in [*space.sample(24, rng), space.row()]:
        plan = space.plan(row)
        cut = space.cut(*plan)
        network = space.extract(*plan)
        with torch.no_grad():
            assert distance(run_masked(cut, (x,), {}), [network(x)]) < 1e-5
        macs, params, size = (float(metric(name, space)(row[None])[0]) for name in ("macs", "params", "size_mb"))
        assert params == sum(each.numel() for each in network.parameters())
        assert size == pytest.approx(4e-6 * params)
        assert macs == space.macs(*plan) == counted(network)
        assert sum(block.macs for block in space.blocks(row)) == macs


def counted(network: nn.Module, size: tuple[int, ...] = (1, 1, 8, 8)) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.randn(size))
    return counter.get_total_flops() // 2


def test_wrong_merges_are_noticed(space: Adopted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above is not vacuous: layers that are put together in another order differ."""
    from hwsearch.nn.adoption import _cut

    right = _cut.composed
    monkeypatch.setattr(_cut, "composed", lambda weights: right(weights).flip(0))
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert distance(run_masked(space.cut({}), (x,), {}), [space.extract({})(x)]) > 1e-3
    assert space.analysis.factors
    assert not hwsearch.adopt(low_rank(net()), x).analysis.factors, "the proof notices it"


def test_repair_by_least_squares_helps_cut_ranks_as_it_helps_widths(space: Adopted) -> None:
    data = load_data("digits")
    x = data.normalize(data.train_x[:300])
    ranks = {choice.name for choice in space.choices if choice.role == "rank"}
    least = {group: space.choices[space.position[gene]].values[0] for group, gene in space.places.groups.items() if gene in ranks}
    networks = [space.network, space.extract(least), space.extract(least, images=x), space.extract({}, images=x)]
    with torch.no_grad():
        wanted, bare, repaired, same = (network(x) for network in networks)
    assert float((repaired - wanted).square().mean()) < 0.5 * float((bare - wanted).square().mean())
    assert distance([wanted], [same]) < 1e-3, "where nothing is cut, nothing is changed"


def test_tables_price_two_kernels_in_the_place_of_one(space: Adopted) -> None:
    """A rank below the largest one puts a kernel where there was none, and changes the other; nothing else."""
    off = space.row()
    group = next(group for group, gene in space.places.groups.items() if gene == "first.rank")
    low = space.row({group: space.choices[space.position["first.rank"]].values[0]})
    before, after = ({slot.name: blocks for slot, blocks in space.placed(row)} for row in (off, low))
    changed = {name: (len(before[name]), len(after[name])) for name in before if before[name] != after[name]}
    assert sorted(changed.values()) == [(0, 1), (1, 1)]


def test_files_name_every_kernel_of_a_network_by_its_slot(space: Adopted, rng: np.random.Generator) -> None:
    import onnx

    from hwsearch.networks._fused import kernel_of

    for row in [space.row(), *space.sample(3, rng)]:
        nodes = onnx.load_from_string(space.model_file(row)).graph.node
        slots = {slot.name for slot, blocks in space.placed(row) if any(block.macs for block in blocks)}
        named = {kernel_of(node.name) or kernel_of(node.output[0]) for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")}
        assert named == slots


def test_the_teacher_of_a_cut_network_is_the_network_that_was_brought(space: Adopted) -> None:
    assert {name for name, _ in space.whole.named_parameters()} == {name for name, _ in net().named_parameters()}


def test_searches_and_files_take_ranks_as_any_gene(space: Adopted, tmp_path: Any) -> None:
    score = additive(space, importance(space, "l2"))
    limit = 0.4 * space.macs()
    result = hwsearch.search(space, "exact", predictor=score, limits={"macs": limit})
    assert result.values["macs"] <= limit
    x = torch.randn(3, 1, 8, 8)
    small = hwsearch.extract(result.best, data=torch.randn(200, 1, 8, 8))
    save_network(small, tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(load_network(tmp_path / "small.safetensors")(x), small(x))
    again = hwsearch.load_space(save_adopted(space, tmp_path / "folder"))
    assert again.fingerprint == space.fingerprint
    assert hwsearch.searching.load_result(result.save(tmp_path / "result.json"), again).best.genes.tolist() == result.best.genes.tolist()


def test_a_network_with_cut_ranks_can_be_adopted_again_and_costs_what_it_costs() -> None:
    """Its factors are cheaper than the layer was, so they stay apart: the largest value stands for the network as it is."""
    torch.manual_seed(0)
    x = torch.randn(1, 64)
    space = hwsearch.adopt(low_rank(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), layers=["0"]), x)
    group = next(group for group, gene in space.places.groups.items() if gene == "0.rank")
    small = space.extract({group: 8})
    again = hwsearch.adopt(small, x)
    assert again.macs() == space.macs({group: 8}) == 2 * 64 * 8 + 640
    with torch.no_grad():
        assert torch.equal(again.extract({})(x), small(x))
        assert torch.equal(again.whole(x), small(x))


class Twice(nn.Module):
    """A layer that is called twice, at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.relu(self.a(F.max_pool2d(F.relu(self.a(x)), 2))))


def test_a_layer_that_is_called_twice_has_one_rank(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    module, x = Twice().eval(), torch.randn(2, 16, 8, 8)
    plain, space = hwsearch.adopt(module, x), hwsearch.adopt(low_rank(module, "spatial", layers=["a"]), x, step=4)
    assert [(choice.name, choice.role) for choice in space.choices] == [("a.rank", "rank")]
    assert space.macs() == plain.macs()
    for row in [space.row(), *space.sample(6, rng)]:
        plan = space.plan(row)
        network = space.extract(*plan)
        with torch.no_grad():
            assert distance(run_masked(space.cut(*plan), (x,), {}), [network(x)]) < 1e-5
        assert float(metric("params", space)(row[None])[0]) == sum(each.numel() for each in network.parameters())
        assert space.macs(*plan) == float(metric("macs", space)(row[None])[0]) == counted(network, (1, 16, 8, 8))
    with torch.no_grad():
        assert distance([module(x)], [space.extract({})(x)]) < 1e-5


def test_modules_around_a_product_find_its_weight() -> None:
    """A transformer layer hands the weights of its linear layers on, past their forward."""
    torch.manual_seed(0)
    module, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval(), torch.randn(2, 5, 16)
    written = low_rank(module)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert distance([module(x).detach()], [written(x).detach()]) < 1e-5
    for layer, way in ((nn.Conv2d(12, 20, (3, 5)), "spatial"), (nn.Conv2d(12, 20, 3, bias=False), "tucker"), (nn.Linear(9, 6), "svd")):
        product: Any = low_rank(layer, way)
        assert distance([layer.weight.detach()], [product.weight.detach()]) < 1e-5
        assert product.bias is layer.bias is None or torch.equal(product.bias, layer.bias)


def test_what_is_shared_stays_shared() -> None:
    torch.manual_seed(0)
    shared, tied = nn.Sequential(nn.Linear(16, 16)), nn.Linear(16, 16)
    tied.weight = nn.Parameter(torch.randn(16, 16))
    module = nn.Sequential(shared, nn.ReLU(), shared, shared[0], nn.Embedding(16, 16, _weight=tied.weight), tied)
    module[4].weight = tied.weight
    written: Any = low_rank(module, layers=["3", "5", "0.0"])
    assert written[0] is written[2]
    assert written[0][0] is written[3]
    assert type(written[3]).__name__ == "Factored"
    assert written[5].weight is written[4].weight
    only: Any = low_rank(nn.Sequential(shared[0], shared[0]), layers=["1"])
    assert only[0] is only[1]


def test_ranks_alone_can_be_searched(space: Adopted) -> None:
    widths = {choice.name: [choice.values[-1]] for choice in space.choices if choice.role in ("width", "depth")}
    alone = space.restrict(widths)
    result = hwsearch.search(alone, "exact", predictor=additive(space, importance(space, "l2")), limits={"macs": 0.8 * space.macs()})
    assert result.values["macs"] <= 0.8 * space.macs()
    assert any(result.best.values()[gene] < space.choices[space.position[gene]].values[-1] for gene in result.best.values())


def test_what_cannot_be_a_product_is_refused() -> None:
    with pytest.raises(UnknownName, match="way of writing layers"):
        low_rank(net(), "cp")
    with pytest.raises(InvalidInput, match="stand for no convolution"):
        low_rank(net(), layers=["norm"])
    with pytest.raises(InvalidInput, match="are in fp32"):
        hwsearch.adopt(low_rank(net()), torch.randn(1, 1, 8, 8), precisions=("fp32", "int8"))
    grouped = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, 3))
    assert [type(each).__name__ for each in low_rank(grouped)] == ["Conv2d", "Conv2d", "Factored"]


def test_ranks_from_the_shell(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hwsearch.cli._app import app

    layers = "torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10)"
    (tmp_path / "mine.py").write_text(f"import torch\n\n\ndef build():\n    return torch.nn.Sequential({layers})\n")
    words = ["adopt", f"{tmp_path / 'mine.py'}:build", "--input", "1x64", "--out", str(tmp_path / "net"), "--ranks", "svd", "--layer", "0"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert [choice.name for choice in hwsearch.load_space(tmp_path / "net").choices] == ["0.rank", "0.width"]
    wrong = CliRunner().invoke(app, [*words[:6], "--layer", "0"])
    assert wrong.exit_code != 0


def test_a_predictor_that_judges_repaired_networks_takes_ranks(tmp_path: Path) -> None:
    """Trained digits: at half of the multiply-accumulates a search in ranks and widths keeps most of the accuracy, without training."""
    data = load_data("digits")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.003)
    x, y = data.normalize(data.train_x), data.train_y
    for epoch in range(8):
        for index in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(module(x[index]), y[index]).backward()
            optimizer.step()
    space = hwsearch.adopt(low_rank(module.eval()), x[:1])
    probing = Probing(widths=1, networks=4, images=200, held_out=200)
    score = hwsearch.fit_predictor(space, data="digits", out=tmp_path / "score.npz", sampling=probing, progress=False)
    result = hwsearch.search(space, "exact", predictor=score, limits={"macs": 0.5 * space.macs()})
    small = hwsearch.extract(result.best, data=x[:400])
    with torch.no_grad():
        right = [float((net(data.normalize(data.test_x)).argmax(1) == data.test_y).float().mean()) for net in (module, small)]
    assert right[0] > 0.9
    assert right[1] > right[0] - 0.1
