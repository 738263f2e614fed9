"""Networks of tokens: branches that see more than what they are added to, and values whose first axis is not that of the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from masking import assert_cuts, assert_equal, enliven, widths
from torch import nn
from torch.nn import functional as F

import hwsearch
from hwsearch.profiling import Effort

DIM, HEADS = 16, 4


class Attention(nn.Module):
    """By heads of a size of its own, as in T5: what is added to the scores comes from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(DIM, DIM) for _ in range(4))

    def forward(self, x: torch.Tensor, memory: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        parts = ((self.q, x), (self.k, memory), (self.v, memory))
        q, k, v = (layer(each).unflatten(-1, (-1, DIM // HEADS)).transpose(1, 2) for layer, each in parts)
        out: torch.Tensor = self.o(F.scaled_dot_product_attention(q, k, v, bias, scale=1.0).transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(3))
        self.own, self.cross = Attention(), Attention()
        self.wide, self.narrow = nn.Linear(DIM, 24), nn.Linear(24, DIM)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, bias: torch.Tensor, without: tuple[str, ...] = ()) -> torch.Tensor:
        y = self.norms[0](x)
        x = x + (0 if "own" in without else self.own(y, y, bias))
        x = x + (0 if "cross" in without else self.cross(self.norms[1](x), memory, None))
        return x + (0 if "mlp" in without else self.narrow(F.gelu(self.wide(self.norms[2](x)))))


class Decoder(nn.Module):
    """Two layers that share learned biases for each head and distance, masked towards what comes later, over the tokens of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds, self.distance = nn.Embedding(20, DIM), nn.Embedding(2, DIM), nn.Embedding(8, HEADS)
        self.encoder = nn.Linear(6, DIM)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.head = nn.Linear(DIM, 5)
        self.register_buffer("kind", torch.zeros(1, 32, dtype=torch.long))

    def forward(self, ids: torch.Tensor, seen: torch.Tensor, without: tuple[str, ...] = ()) -> torch.Tensor:
        places = torch.arange(ids.shape[1])
        far = (places[:, None] - places).clamp(0, 7)
        bias = self.distance(far).permute(2, 0, 1)[None].masked_fill(places > places[:, None], -1e4)
        kinds = torch.gather(self.kind.expand(ids.shape[0], -1), 1, places.expand(ids.shape[0], -1))
        x, memory = self.words(ids) + self.kinds(kinds), self.encoder(seen)
        for number, layer in enumerate(self.layers):
            x = layer(x, memory, bias, without if number == 1 else ())
        out: torch.Tensor = self.head(x.to(torch.float32).mean(1))
        return out


IDS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))
SEEN = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return enliven(Decoder())


@pytest.fixture(scope="module")
def space(module: nn.Module) -> hwsearch.nn.adoption.Adopted:
    return hwsearch.adopt(module, (IDS, SEEN))


def test_heads_go_together_with_what_is_learned_for_each_of_them() -> None:
    """Attention as one operation, to which biases for each head are given as its mask; both layers share them."""
    adopted = assert_cuts(Decoder(), IDS, SEEN)
    found = widths(adopted)
    heads = {"layers.0.own.q": HEADS, "layers.1.own.v": HEADS, "layers.0.cross.k": HEADS, "layers.1.cross.v": HEADS}
    assert heads.items() <= found.items()
    assert found["layers.0.wide"] == 24
    assert {group.width for group in adopted.groups if ("distance.weight", 1) in (*group.opened, *group.follow)} == {HEADS}
    assert adopted.report.share == 1
    assert not adopted.report.unknown  # places and kinds of tokens are looked up in ways that no rule covers, but are no channels


@pytest.mark.parametrize(("name", "layer"), [("own", "own.q"), ("cross", "cross.q"), ("mlp", "wide")])
def test_branches_are_found_beside_what_all_layers_share(
    module: nn.Module, space: hwsearch.nn.adoption.Adopted, name: str, layer: str
) -> None:
    found = [branch for branch in space.branches if branch.searchable]
    assert len(found) == 6  # of two layers: attention, attention to the encoder, and a perceptron each
    (gone,) = [branch.id for branch in found if any(f"layers.1.{layer}" in each for each in branch.weights)]
    cut = space.extract({}, branches=(gone,))
    held = {each.rpartition(".")[0] for each in cut.state_dict()}
    assert "encoder" in held
    assert f"layers.0.{layer}" in held
    assert f"layers.1.{layer}" not in held
    with torch.no_grad():
        assert_equal(cut(IDS, SEEN), module(IDS, SEEN, without=(name,)))


class Timed(nn.Module):
    """A residual block of a diffusion network: a code of time, which all blocks see, is added within."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.shift = nn.Linear(8, 16)

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        return x + self.last(F.relu(self.first(x) + self.shift(code)[:, :, None, None]))


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clock, self.stem = nn.Linear(1, 8), nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(Timed() for _ in range(2))
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        code, x = F.relu(self.clock(time)), self.stem(x)
        for block in self.blocks:
            x = block(x, code)
        out: torch.Tensor = self.head(x)
        return out


def test_a_network_whose_blocks_share_an_input_is_searched_in_bits_and_written(tmp_path: Path) -> None:
    """From the module to a file: tables price networks without a block, and what is written computes what was searched."""
    module = enliven(Denoiser())
    images, times = torch.randn(4, 3, 8, 8), torch.rand(4, 1)
    space = hwsearch.adopt(module, (images[:1], times[:1]), precisions=("fp32", "int8"))
    assert sum(branch.searchable for branch in space.branches) == 2
    table = hwsearch.profile(space, out=tmp_path / "table.json", effort=Effort(max_rounds=1, checks=3, fits=2), progress=False)
    latency = hwsearch.metric("latency_ms", space, table)
    assert (latency(space.sample(100, np.random.default_rng(0))) > 0).all()
    row = space.row()
    row[space.with_role("depth")[0]] = 0
    assert latency(row[None])[0] < latency(space.row()[None])[0]
    cut = hwsearch.extract(space.architecture(row))
    assert len(cut.state_dict()) == len(module.state_dict()) - 6
    path = hwsearch.export(cut, out=tmp_path / "cut.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = dict(zip([each.name for each in session.get_inputs()], (images[:1].numpy(), times[:1].numpy()), strict=True))
    with torch.no_grad():
        wanted = cut(images[:1], times[:1])
    np.testing.assert_allclose(session.run(None, given)[0], wanted.numpy(), rtol=1e-4, atol=1e-4)


class Windowed(nn.Module):
    """As in Swin: a mask is drawn in place, within the branch that uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scores, self.last = nn.Linear(6, DIM), nn.Linear(DIM, 8), nn.Linear(DIM, DIM)
        self.head = nn.Linear(DIM, 5)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        mask = x.new_zeros((8, 8))
        mask[:4, :4] = 1
        mask[4:, 4:] = 2
        mask = mask.masked_fill(mask == 0, -100.0)
        out: torch.Tensor = self.last((self.scores(x) + mask).softmax(-1) @ x)
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.branch(x)
        out: torch.Tensor = self.head(x + self.last(x))
        return out


def test_a_mask_that_is_drawn_in_place_hides_no_branch() -> None:
    module = enliven(Windowed())
    images = torch.randn(2, 8, 6)
    adopted = assert_cuts(module, images)
    assert [branch.searchable for branch in adopted.branches] == [True, True]
    cut = adopted.extract({}, branches=(adopted.branches[0].id,))
    x = module.first(images)
    assert_equal(cut(images), module.head(x + module.last(x)))


class Redrawn(Windowed):
    """A constant that is read, changed, and read again."""

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        mask = x.new_zeros((8, 8))
        scores = self.scores(x) + mask.view(8, 8)
        mask[:4] = 3
        return scores * mask @ x


def test_a_constant_that_changes_between_two_readers_is_not_computed_once() -> None:
    assert_cuts(Redrawn(), torch.randn(2, 8, 6))


class Skipping(nn.Module):
    """A U-Net whose topmost skip connection has no channels, as encoders of transformers give it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nothing = torch.empty(x.shape[0], 0, *x.shape[2:])
        out: torch.Tensor = self.last(torch.cat([nothing, F.relu(self.first(x))], 1))
        return out


def test_a_connection_without_channels_is_left_out() -> None:
    images = torch.randn(2, 3, 8, 8)
    adopted = assert_cuts(Skipping(), images)
    assert widths(adopted) == {"first": 12, "last": 0}
    assert "Concat" not in str(onnx.load_from_string(adopted.model_file(adopted.row())).graph)


class Tokens(nn.Module):
    """Attention of PyTorch, which puts tokens before images, and images and heads on one axis if it is to tell its weights."""

    def __init__(self, told: bool) -> None:
        super().__init__()
        self.told = told
        self.first, self.attention, self.last = nn.Linear(6, 24), nn.MultiheadAttention(24, 4, batch_first=True), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        out: torch.Tensor = self.last(self.attention(x, x, x, need_weights=self.told)[0].mean(1))
        return out


class TokensFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 24), nn.TransformerEncoderLayer(24, 4, 32), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.layer(self.first(x).transpose(0, 1)).mean(0))
        return out


@pytest.mark.parametrize("told", [False, True])
def test_attention_of_pytorch_loses_heads(told: bool) -> None:
    adopted = assert_cuts(Tokens(told), torch.randn(2, 9, 6))
    assert widths(adopted) == {"first": 24, "attention.in_proj_weight": 4, "attention.out_proj": 24, "last": 0}


@pytest.mark.parametrize("module", [Tokens(False), Tokens(True), TokensFirst()], ids=["attention", "told", "tokens first"])
def test_importances_tell_the_images_of_a_batch_apart_wherever_they_lie(module: nn.Module) -> None:
    """Squares are summed image by image: they would be others if two images were taken for one, or an image was left out."""
    enliven(module)
    adopted = hwsearch.adopt(module, torch.randn(1, 9, 6))
    images, labels = torch.randn(6, 9, 6), torch.tensor([0, 1, 2, 3, 4, 0])
    for name in ("fisher", "taylor"):
        together = hwsearch.nn.adoption.importance(adopted, name, images, labels)
        alone = [hwsearch.nn.adoption.importance(adopted, name, images[k : k + 1], labels[k : k + 1]) for k in range(6)]
        assert len(together) >= 3
        for group, scores in together.items():
            assert (scores > 0).all()
            summed = np.sum([each[group] for each in alone], axis=0)
            np.testing.assert_allclose(scores / scores.sum(), summed / summed.sum(), rtol=1e-3)


def test_importances_do_not_depend_on_how_attention_is_computed() -> None:
    plain, told = enliven(Tokens(False)), enliven(Tokens(True))
    images, labels = torch.randn(6, 9, 6), torch.tensor([0, 1, 2, 3, 4, 0])
    one, other = (hwsearch.nn.adoption.importance(hwsearch.adopt(each, images[:1]), "fisher", images, labels) for each in (plain, told))
    np.testing.assert_allclose(one["g0"], other["g0"], rtol=1e-3)
    hessian = hwsearch.nn.adoption.importance(hwsearch.adopt(told, images[:1]), "hessian", images, labels)
    assert all(np.isfinite(each).all() and each.any() for each in hessian.values())
