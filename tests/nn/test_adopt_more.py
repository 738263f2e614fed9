"""Networks as people write them: computed weights, raw parameters, lookups, odd outputs and wrappers; and what the proofs cost."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from masking import assert_cuts, assert_equal, draw, enliven, reference, widths
from torch import nn
from torch.nn import functional as F

import hwsearch
from hwsearch.errors import Unsupported
from hwsearch.nn.adoption import _proof

IMAGE = (2, 3, 8, 12)


def conv(a: int, b: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(a, b, size, padding=size // 2)


class Chain(nn.Module):
    """Two convolutions with something between them, and a linear layer."""

    def __init__(self, between: object = F.relu, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in ({"a": conv(3, 8), "b": conv(8, 6), "out": nn.Linear(6, 5)} | layers).items():
            self.add_module(name, layer)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(self.between(self.a(x))).mean((2, 3)))  # type: ignore[no-any-return, operator]


def response_norm(y: torch.Tensor) -> torch.Tensor:
    """As in ConvNeXt V2: each channel by its size, relative to the mean of all."""
    size = torch.norm(y, p=2, dim=(2, 3), keepdim=True)
    return y + y * size / (size.mean(1, keepdim=True) + 1e-6)


def look_around(y: torch.Tensor) -> torch.Tensor:
    return y * F.grid_sample(y, 0.5 + torch.zeros(1, 8, 12, 2).expand(y.shape[0], -1, -1, -1), align_corners=False)


BETWEEN = {
    "channels in a listed order": lambda y: y[:, [7, 2, 5, 0, 1, 6, 3, 4]].tanh(),
    "some channels by number": lambda y: torch.cat([y[:, [-1, 0, 1, 2]], y[:, 3:7]], 1),
    "sampled at places": look_around,
    "to frequencies and back": lambda y: torch.fft.irfft2(torch.fft.rfft2(y) * 0.5, s=(8, 12)),
    "likeness of maps": lambda y: y * F.cosine_similarity(y, y.tanh(), dim=1).unsqueeze(1),
    "in patches and back": lambda y: F.fold(F.unfold(y, 2, stride=2).sin(), (8, 12), 2, stride=2),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_operations_that_used_to_freeze_are_cut_right(name: str) -> None:
    module = Chain(BETWEEN[name])
    adopted = assert_cuts(module, torch.randn(IMAGE, generator=torch.Generator().manual_seed(0)))
    assert not adopted.report.unknown
    assert widths(adopted) == {"a": 8, "b": 6, "out": 0}


class Modulated(nn.Module):
    """As in FocalNet: single channels of one layer are gates of many of its other channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.split, self.out = conv(3, 8), nn.Conv2d(8, 14, 1), nn.Linear(6, 5)
        self.alone = nn.Conv2d(6, 6, 3, padding=1, groups=6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, around, gates = self.split(self.first(x)).split([6, 6, 2], 1)
        total = around * gates[:, :1]
        around = F.gelu(self.alone(around))
        total = query * (total + around.mean((2, 3), keepdim=True) * gates[:, 1:])
        return self.out(total.mean((2, 3)))  # type: ignore[no-any-return]


def test_a_channel_that_gates_many_stays_and_they_are_searchable() -> None:
    adopted = assert_cuts(Modulated(), torch.randn(IMAGE, generator=torch.Generator().manual_seed(0)))
    assert widths(adopted) == {"first": 8, "split": 6, "alone": 6, "out": 0}
    assert "a single channel, which all of another meet" in str(adopted.report)


def test_a_mean_over_channels_is_one_of_those_that_are_kept() -> None:
    module = enliven(Chain(response_norm))
    image = torch.randn(IMAGE)
    adopted = hwsearch.adopt(module, image)
    assert widths(adopted) == {"a": 8, "b": 6, "out": 0}
    group = next(group for group in adopted.groups if ("a.weight", 1) in group.opened)
    kept = [1, 2, 6]
    small = copy.deepcopy(module)
    small.a.weight, small.a.bias = nn.Parameter(module.a.weight[kept]), nn.Parameter(module.a.bias[kept])
    small.b.weight = nn.Parameter(module.b.weight[:, kept])
    with torch.no_grad():
        assert_equal(adopted.extract({group.id: kept})(image), small(image))


class Standardised(nn.Conv2d):
    """Weights of mean 0 and variance 1, as in networks without batch norms."""

    def standard(self) -> torch.Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        return F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.standard(), self.bias, padding=1)


def test_weights_that_are_computed_from_others_are_computed_once() -> None:
    """Standardised weights: what is cut are the weights that multiply, so that what is left stays as it was."""
    module = enliven(Chain(a=Standardised(3, 8, 3), b=Standardised(8, 6, 3)))
    image = torch.randn(IMAGE)
    adopted = hwsearch.adopt(module, image)
    assert widths(adopted) == {"a": 8, "b": 6, "out": 0}
    plain = Chain()
    plain.load_state_dict(module.state_dict())
    with torch.no_grad():
        plain.a.weight.copy_(module.a.standard())
        plain.b.weight.copy_(module.b.standard())
        cut = adopted.extract(draw(adopted, np.random.default_rng(0)))
        assert_equal(cut(image), reference(plain, cut)(image))
        assert torch.equal(adopted.extract({})(image), module(image))


class Twice(nn.Module):
    """Standardised weights that are used a second time as they are, and a third time for something else."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Standardised(3, 3, 3), conv(3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        standard = self.a.standard()
        x = F.conv2d(x, standard, padding=1) * standard.square().sum()
        return self.b(F.conv2d(x, standard * 2, padding=1) + F.conv2d(x, self.a.weight, padding=1)).mean((2, 3))  # type: ignore[no-any-return]


def test_computed_weights_that_are_used_elsewhere_too_keep_their_sources() -> None:
    module, image = enliven(Twice()), torch.randn(IMAGE)
    with torch.no_grad():
        assert_equal(hwsearch.adopt(module, image).extract({})(image), module(image))


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_weight_and_spectral_norms_do_not_freeze(norm: object) -> None:
    module = enliven(Chain())
    norm(module.a)  # type: ignore[operator]
    norm(module.b)  # type: ignore[operator]
    module.eval()
    image = torch.randn(IMAGE)
    adopted = hwsearch.adopt(module, image)
    assert sorted(widths(adopted).values()) == [0, 6, 8]
    with torch.no_grad():
        assert_equal(adopted.extract({})(image), module(image))


class FrozenNorm(nn.Module):
    """A batch norm written out, as detectors have it: a root of a buffer."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("running_var", torch.ones(n))
        self.register_buffer("running_mean", torch.zeros(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = (self.running_var + 1e-5).rsqrt().reshape(1, -1, 1, 1)
        return F.relu((x - self.running_mean.reshape(1, -1, 1, 1)) * scale)


def test_statistics_that_have_to_be_positive_are_drawn_so() -> None:
    adopted = assert_cuts(Chain(FrozenNorm(8)), torch.randn(IMAGE))
    assert widths(adopted) == {"a": 8, "b": 6, "out": 0}


class Raw(nn.Module):
    """Matrices without layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(n, m)) for n, m in ((6, 8), (8, 7), (7, 5)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bi,io->bo", F.relu(F.relu(x @ self.a) @ self.b), self.c)


def test_matrices_without_layers_are_searchable() -> None:
    adopted = assert_cuts(Raw(), torch.randn(2, 6))
    assert widths(adopted) == {"a": 8, "b": 7, "c": 0}
    assert adopted.report.share > 0.7


@dataclass
class Answer:
    classes: torch.Tensor
    maps: list[torch.Tensor]


class Answering(Chain):
    def forward(self, x: torch.Tensor) -> Answer:  # type: ignore[override]
        maps = self.b(F.relu(self.a(x)))  # type: ignore[operator]
        return Answer(self.out(maps.mean((2, 3))), [maps])  # type: ignore[operator]


class Opaque(Chain):
    def forward(self, x: torch.Tensor) -> object:  # type: ignore[override]
        return slice(super().forward(x))


def test_outputs_in_a_dataclass_come_back_in_one() -> None:
    module = enliven(Answering())
    image = torch.randn(IMAGE)
    adopted = hwsearch.adopt(module, image)
    assert widths(adopted) == {"a": 8, "b": 0, "out": 0}
    cut = adopted.extract(draw(adopted, np.random.default_rng(0)))
    with torch.no_grad():
        found = cut(image)
        assert isinstance(found, Answer)
        assert_equal(found.classes, reference(module, cut)(image).classes)
    with pytest.raises(Unsupported, match="Opaque returns a slice.*Wrap the module"):
        hwsearch.adopt(Opaque(), image)


class Turned(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return self.inner(x)  # type: ignore[no-any-return]
        return self.inner(-x)  # type: ignore[no-any-return]


def test_scripted_modules_adopt_unless_they_decide_by_values() -> None:
    """Where they do, the message names the line, which TorchScript keeps."""
    image = torch.randn(IMAGE)
    plain = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.Flatten(), nn.Linear(6 * 96, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted, turned = torch.jit.script(plain), torch.jit.script(Turned(plain))
    adopted = hwsearch.adopt(scripted, image)
    assert widths(adopted) == {"0": 8, "2": 6, "4": 0}
    with torch.no_grad():
        assert_equal(adopted.extract({})(image), plain(image))
    with pytest.raises(Unsupported, match=r"test_adopt_more\.py:\d+ what is computed depends on the values.*part="):
        hwsearch.adopt(turned, image)


def test_compiled_modules_adopt_and_quantised_ones_are_refused_in_words() -> None:
    image = torch.randn(IMAGE)
    module = enliven(Chain())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, image)
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear})
    adopted = hwsearch.adopt(traced, image)
    assert sorted(widths(adopted).values()) == [0, 6, 8]
    with torch.no_grad():
        assert_equal(adopted.extract({})(image), module(image))
    assert widths(hwsearch.adopt(nn.DataParallel(module), image)) == {"module.a": 8, "module.b": 6, "module.out": 0}
    with pytest.raises(Unsupported, match="out is quantised.*as it was before"):
        hwsearch.adopt(quantised, image)


def test_a_part_whose_name_is_taken_is_named_with_a_way_out() -> None:
    module = Chain()
    module.add_module("graph", conv(3, 3))
    with pytest.raises(Unsupported, match=r"graph\.weight cannot be captured.*Sequential"):
        hwsearch.adopt(module, torch.randn(IMAGE))
    assert widths(hwsearch.adopt(nn.Sequential(module), torch.randn(IMAGE)))["0.a"] == 8


class Residual(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem, self.out = conv(3, 8), nn.Linear(8, 5)
        self.first = nn.ModuleList(conv(8, 6) for _ in range(blocks))
        self.second = nn.ModuleList(conv(6, 8) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for a, b in zip(self.first, self.second, strict=True):
            x = x + b(F.relu(a(x)))
        return self.out(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_proofs_run_no_more_of_the_network_than_they_have_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong index is put where a group is used last, and branches in which one was noticed are not run again."""
    runs: list[int] = []
    again = _proof.Replay.again

    def counted(self: _proof.Replay, tensors: dict[str, torch.Tensor], *rest: object) -> list[torch.Tensor]:
        computed: list[str] = []
        whole = _proof.execute

        def watching(network: torch.fx.GraphModule, inputs: object, *, compute: object, **given: object) -> object:
            def look(node: torch.fx.Node, args: object, kwargs: object) -> object:
                value = compute(node, args, kwargs)  # type: ignore[operator]
                if value is NotImplemented and "conv2d" in str(node.target):
                    computed.append(node.name)
                return value

            return whole(network, inputs, compute=look, **given)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(_proof, "execute", watching)
            found = again(self, tensors, *rest)  # type: ignore[arg-type]
        if tensors or rest:
            runs.append(len(computed))
        return found

    monkeypatch.setattr(_proof.Replay, "again", counted)
    adopted = hwsearch.adopt(Residual(6), torch.randn(IMAGE))
    assert sum(group.searchable for group in adopted.groups) == 7
    assert [branch.searchable for branch in adopted.branches] == [True] * 6
    # The stream is read last by the linear layer; block k's inner channels by its second convolution, after which 2 (5 - k) follow.
    assert sum(runs) <= sum(2 * (5 - k) + 1 for k in range(6))


class NamesSingle(nn.Module):
    """Makes a tensor in single precision by name, as recurrent layers do, and joins it to what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 64), nn.Linear(64, 32), nn.Linear(32, 4)
        self.again = nn.LSTM(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.out(torch.relu(self.second(torch.relu(self.first(x)))))
        return self.again(x[None])[0]  # type: ignore[no-any-return]


def test_what_names_single_precision_is_proven_where_rounding_needs_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_proof, "TOLERANCE", 1e-12)
    adopted = hwsearch.adopt(NamesSingle(), torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
    assert widths(adopted) == {"first": 64, "second": 32, "out": 0}


class ReadsLength(nn.Module):
    """Takes its batch from ``len``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Linear(16 * 36, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.second(x.view(len(x), -1))


def test_a_batch_that_is_read_by_len_stays_open() -> None:
    module, x = ReadsLength().eval(), torch.randn(7, 3, 8, 8)
    space = hwsearch.adopt(module, x[:1])
    assert space.dynamic
    assert space.choices
    with torch.no_grad():
        assert torch.allclose(space.extract({})(x), module(x), atol=1e-6)
    assert len(x) == 7


class BakesLength(ReadsLength):
    """Makes a number of its batch, which no capture can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).view(int(x.shape[0]), 2, 2)


def test_a_batch_that_is_made_a_number_is_never_taken_for_an_open_one() -> None:
    space = hwsearch.adopt(BakesLength().eval(), torch.randn(2, 3, 8, 8))
    for images in (space.batch, 2 * space.batch + 1):
        if images == space.batch or space.dynamic:
            assert space.extract({})(torch.randn(images, 3, 8, 8)).shape == (images, 2, 2)
