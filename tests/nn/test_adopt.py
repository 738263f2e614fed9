"""A user's own network is cut: every kind of operation gives the right channels, or is frozen and named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from masking import assert_cuts, assert_equal, draw, enliven, reference, widths
from torch import nn
from torch.nn import functional as F

import hwsearch
from hwsearch.errors import InvalidInput, UnknownName, Unsupported

IMAGE = (2, 3, 8, 12)


def conv(a: int, b: int, size: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, size, padding=size // 2, **options)


class Net(nn.Module):
    """Layers by name and a function of them and the image."""

    def __init__(self, call: object, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.call = call

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.call(self, *inputs)  # type: ignore[operator]


def head(x: torch.Tensor, m: Net) -> torch.Tensor:
    return m.out(x.mean((2, 3)))  # type: ignore[operator, no-any-return]


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def attention(m: Net, x: torch.Tensor, heads: int = 4) -> torch.Tensor:
    n, length, _ = x.shape
    q, k, v = m.qkv(x).reshape(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-2, -1) * 0.3).softmax(-1)
    return m.proj((scores @ v).transpose(1, 2).reshape(n, length, -1))


def fused_attention(m: Net, x: torch.Tensor, heads: int = 4) -> torch.Tensor:
    n, length, _ = x.shape
    q, k, v = (each.view(n, length, heads, -1).transpose(1, 2) for each in m.qkv(x).chunk(3, dim=-1))
    return m.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


# Each case: the network, the shapes of its inputs, and how many units each layer can choose from (0: frozen).
CASES: dict[str, tuple[Net, list[tuple[int, ...]], dict[str, int]]] = {
    "residual sum": (
        Net(
            lambda m, x: head(F.relu(F.relu(m.a(x)) + m.c(F.relu(m.n(m.b(m.a(x)))))), m),
            a=conv(3, 8), b=conv(8, 6), n=nn.BatchNorm2d(6), c=conv(6, 8), out=nn.Linear(8, 5),
        ),
        [IMAGE],
        {"a": 8, "b": 6, "c": 8, "out": 0},
    ),
    "dense cat": (
        Net(
            lambda m, x: (lambda a: (lambda b: head(m.c(torch.cat([a, b, x], 1)), m))(m.b(torch.cat([a, x], 1))))(m.a(x)),
            a=conv(3, 4), b=conv(7, 5), c=conv(12, 6), out=nn.Linear(6, 5),
        ),
        [IMAGE],
        {"a": 4, "b": 5, "c": 6, "out": 0},
    ),
    "unequal split and cat in another order": (
        Net(
            lambda m, x: (lambda p: head(m.b(torch.cat([p[2], p[0]], 1)) + m.c(p[1]), m))(m.a(x).split([2, 3, 5], 1)),
            a=conv(3, 10), b=conv(7, 4), c=conv(3, 4), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 10, "b": 4, "c": 4, "out": 0},
    ),
    "C2f: a chunk that is read and joined again": (
        Net(
            lambda m, x: (lambda y: head(m.d(torch.cat([*y, m.b(y[1])], 1)), m))(list(m.a(x).chunk(2, 1))),
            a=conv(3, 8), b=conv(4, 4), d=conv(12, 6), out=nn.Linear(6, 5),
        ),
        [IMAGE],
        {"a": 8, "b": 4, "d": 6, "out": 0},
    ),
    "slices with steps": (
        Net(
            lambda m, x: (lambda y: head(m.b(y[:, ::2]) + m.c(y[:, 1:5]), m))(m.a(x)),
            a=conv(3, 8), b=conv(4, 4), c=conv(4, 4), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 8, "b": 4, "c": 4, "out": 0},
    ),
    "channel shuffle by hand": (
        Net(lambda m, x: head(m.b(shuffle(m.a(x), 2)), m), a=conv(3, 8), b=conv(8, 4), out=nn.Linear(4, 5)),
        [IMAGE],
        {"a": 8, "b": 4, "out": 0},
    ),
    "channel shuffle between grouped convolutions": (
        Net(
            lambda m, x: head(m.c(m.b(shuffle(m.a(x), 2))), m),
            a=conv(3, 8), b=conv(8, 8, groups=2), c=conv(8, 4, 1), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 4, "b": 4, "c": 4, "out": 0},
    ),
    "torch's own channel shuffle": (
        Net(lambda m, x: head(m.b(m.s(m.a(x))), m), a=conv(3, 8), s=nn.ChannelShuffle(2), b=conv(8, 4), out=nn.Linear(4, 5)),
        [IMAGE],
        {"a": 4, "b": 4, "out": 0},
    ),
    "pixel shuffle and unshuffle": (
        Net(
            lambda m, x: head(m.c(F.pixel_unshuffle(m.b(F.pixel_shuffle(m.a(x), 2)), 2)), m),
            a=conv(3, 12), b=conv(3, 4), c=conv(16, 5), out=nn.Linear(5, 5),
        ),
        [IMAGE],
        {"a": 3, "b": 4, "c": 5, "out": 0},
    ),
    "flatten to linear": (
        Net(lambda m, x: m.out(F.relu(m.b(m.a(x).flatten(1)))), a=conv(3, 4), b=nn.Linear(4 * 8 * 12, 6), out=nn.Linear(6, 5)),
        [IMAGE],
        {"a": 4, "b": 6, "out": 0},
    ),
    "permute, then flatten to linear": (
        Net(lambda m, x: m.out(m.b(m.a(x).permute(0, 2, 3, 1).flatten(1))), a=conv(3, 4), b=nn.Linear(4 * 96, 6), out=nn.Linear(6, 5)),
        [IMAGE],
        {"a": 4, "b": 6, "out": 0},
    ),
    "depthwise with multiplier": (
        Net(
            lambda m, x: head(m.c(F.relu6(m.b(m.a(x)))), m),
            a=conv(3, 6), b=conv(6, 12, groups=6), c=conv(12, 4, 1), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 6, "b": 6, "c": 4, "out": 0},
    ),
    "grouped convolution loses whole groups": (
        Net(lambda m, x: head(m.c(m.b(m.a(x))), m), a=conv(3, 8), b=conv(8, 12, groups=4), c=conv(12, 4), out=nn.Linear(4, 5)),
        [IMAGE],
        {"a": 4, "b": 4, "c": 4, "out": 0},
    ),
    "transposed convolutions, one of them grouped": (
        Net(
            lambda m, x: head(m.d(m.c(m.b(m.a(x)))), m),
            a=conv(3, 6), b=nn.ConvTranspose2d(6, 8, 2, 2), c=nn.ConvTranspose2d(8, 8, 2, 2, groups=4), d=conv(8, 4), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 6, "b": 4, "c": 4, "d": 4, "out": 0},
    ),
    "squeeze and excite": (
        Net(
            lambda m, x: (lambda y: head(m.b(y * torch.sigmoid(m.e(F.relu(m.s(y.mean((2, 3), keepdim=True)))))), m))(m.a(x)),
            a=conv(3, 8), s=conv(8, 4, 1), e=conv(4, 8, 1), b=conv(8, 6), out=nn.Linear(6, 5),
        ),
        [IMAGE],
        {"a": 8, "s": 4, "e": 8, "b": 6, "out": 0},
    ),
    "hard activations": (
        Net(
            lambda m, x: head(m.b(F.hardswish(m.a(x)) * F.hardsigmoid(m.a(x)) + F.leaky_relu(F.mish(m.a(x)))), m),
            a=conv(3, 8), b=conv(8, 6), out=nn.Linear(6, 5),
        ),
        [IMAGE],
        {"a": 8, "b": 6, "out": 0},
    ),
    "group norm of several groups and of one": (
        Net(
            lambda m, x: head(m.c(m.h(m.b(m.g(m.a(x))))), m),
            a=conv(3, 8), g=nn.GroupNorm(4, 8), b=conv(8, 6), h=nn.GroupNorm(1, 6), c=conv(6, 4), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 4, "b": 6, "c": 4, "out": 0},
    ),
    "instance norm, and prelu with a slope a channel": (
        Net(
            lambda m, x: head(m.b(m.p(m.n(m.a(x)))), m),
            a=conv(3, 8), n=nn.InstanceNorm2d(8, affine=True), p=nn.PReLU(8), b=conv(8, 4), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 8, "b": 4, "out": 0},
    ),
    "transformer block": (
        Net(
            lambda m, x: (lambda y: m.out(y + m.down(F.gelu(m.up(m.n(y))))))(m.a(x) + attention(m, m.a(x))),
            a=nn.Linear(6, 8), qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8), n=nn.LayerNorm(8), up=nn.Linear(8, 16), down=nn.Linear(16, 8),
            out=nn.Linear(8, 5),
        ),
        [(2, 7, 6)],
        {"a": 8, "qkv": 4, "proj": 8, "up": 16, "down": 8, "out": 0},
    ),
    "fused attention": (
        Net(
            lambda m, x: m.out(fused_attention(m, m.a(x))),
            a=nn.Linear(6, 8), qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8), out=nn.Linear(8, 5),
        ),
        [(2, 7, 6)],
        {"a": 8, "qkv": 4, "proj": 8, "out": 0},
    ),
    "shared convolution": (
        Net(lambda m, x: head(m.b(m.s(F.relu(m.s(m.a(x))))), m), a=conv(3, 6), s=conv(6, 6), b=conv(6, 4), out=nn.Linear(4, 5)),
        [IMAGE],
        {"a": 6, "s": 6, "b": 4, "out": 0},
    ),
    "option-A shortcut": (
        Net(
            lambda m, x: (lambda y: head(m.c(F.relu(F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.b(y))), m))(m.a(x)),
            a=conv(3, 4), b=conv(4, 8, stride=2), c=conv(8, 6), out=nn.Linear(6, 5),
        ),
        [IMAGE],
        {"a": 4, "b": 8, "c": 6, "out": 0},
    ),
    "roll of the channels": (
        Net(lambda m, x: head(m.b(m.a(x).roll(3, 1)), m), a=conv(3, 8), b=conv(8, 4), out=nn.Linear(4, 5)),
        [IMAGE],
        {"a": 8, "b": 4, "out": 0},
    ),
    "sum with the channels in reverse order": (
        Net(lambda m, x: (lambda y: head(m.b(y + y.flip(1)), m))(m.a(x)), a=conv(3, 8), b=conv(8, 4), out=nn.Linear(4, 5)),
        [IMAGE],
        {"a": 4, "b": 4, "out": 0},
    ),
    "channels repeated": (
        Net(
            lambda m, x: head(m.b(m.a(x).repeat(1, 2, 1, 1)) + m.c(m.a(x).repeat_interleave(2, 1)), m),
            a=conv(3, 4), b=conv(8, 4), c=conv(8, 4), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 4, "b": 4, "c": 4, "out": 0},
    ),
    "gated linear unit": (
        Net(lambda m, x: head(m.b(F.glu(m.a(x), 1)), m), a=conv(3, 8), b=conv(4, 4), out=nn.Linear(4, 5)),
        [IMAGE],
        {"a": 4, "b": 4, "out": 0},
    ),
    "Einstein sum": (
        Net(
            lambda m, x: m.out(torch.einsum("nsc,ncd->nsd", m.a(x), m.b(x).transpose(1, 2) @ m.c(x))),
            a=nn.Linear(6, 8), b=nn.Linear(6, 8), c=nn.Linear(6, 4), out=nn.Linear(4, 5),
        ),
        [(2, 7, 6)],
        {"a": 8, "b": 8, "c": 4, "out": 0},
    ),
    "pooling and resampling": (
        Net(
            lambda m, x: head(m.b(F.interpolate(F.max_pool2d(m.a(x), 2), (8, 12), mode="bilinear") + F.avg_pool2d(m.a(x), 3, 1, 1)), m),
            a=conv(3, 8), b=conv(8, 4), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 8, "b": 4, "out": 0},
    ),
    "one-dimensional": (
        Net(lambda m, x: m.out(m.b(F.relu(m.a(x))).amax(2)), a=nn.Conv1d(3, 8, 3), b=nn.Conv1d(8, 6, 3), out=nn.Linear(6, 5)),
        [(2, 3, 16)],
        {"a": 8, "b": 6, "out": 0},
    ),
    "embedding": (
        Net(
            lambda m, x: m.out(m.b(m.a((x * 3).long().clamp(0, 9)).mean(1))),
            a=nn.Embedding(10, 8), b=nn.Linear(8, 6), out=nn.Linear(6, 5),
        ),
        [(2, 7)],
        {"a": 8, "b": 6, "out": 0},
    ),
    "several inputs": (
        Net(
            lambda m, x, y: head(m.c(m.a(x) + F.interpolate(m.b(y), size=x.shape[2:])), m),
            a=conv(3, 8), b=conv(2, 8), c=conv(8, 4), out=nn.Linear(4, 5),
        ),
        [IMAGE, (2, 2, 4, 6)],
        {"a": 8, "b": 8, "c": 4, "out": 0},
    ),
    "several outputs, in a dict": (
        Net(lambda m, x: (lambda y: {"map": m.b(y), "class": head(y, m)})(F.relu(m.a(x))), a=conv(3, 8), b=conv(8, 4), out=nn.Linear(8, 5)),
        [IMAGE],
        {"a": 8, "b": 0, "out": 0},
    ),
    "written in place": (
        Net(
            lambda m, x: (lambda y: head(m.b(F.relu_(y.add_(1.0).mul_(m.c(x)))), m))(m.a(x)),
            a=conv(3, 8), c=conv(3, 8), b=conv(8, 4), out=nn.Linear(4, 5),
        ),
        [IMAGE],
        {"a": 8, "c": 8, "b": 4, "out": 0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_cut_network_computes_what_the_masked_module_computes(name: str) -> None:
    module, shapes, expected = CASES[name]
    generator = torch.Generator().manual_seed(0)
    adopted = assert_cuts(module, *(torch.randn(shape, generator=generator) for shape in shapes))
    assert widths(adopted) == expected
    assert not adopted.report.unknown


def test_a_wrong_cut_differs_from_the_reference() -> None:
    """The comparison above can fail: the same network with two columns of a reader exchanged is noticed."""
    module = enliven(CASES["flatten to linear"][0])
    cut = hwsearch.adopt(module, torch.randn(IMAGE)).extract({})
    image = torch.randn(IMAGE)
    assert_equal(cut(image), reference(module, cut)(image))
    weight = cut.get_parameter("b.weight")
    weight.data[:, :200] = weight.data[:, :200].flip(1)
    with pytest.raises(AssertionError):
        assert_equal(cut(image), reference(module, cut)(image))


def test_an_unknown_operation_freezes_what_reaches_it_and_is_named_with_its_line() -> None:
    module = Net(
        lambda m, x: head(m.b(torch.linalg.qr(m.a(x))[1]) + m.d(m.c(x)), m),
        a=conv(3, 8), b=conv(8, 4), c=conv(3, 6), d=conv(6, 4), out=nn.Linear(4, 5),
    )  # fmt: skip
    adopted = assert_cuts(module, torch.randn(IMAGE))
    assert widths(adopted) == {"a": 0, "b": 4, "c": 6, "d": 4, "out": 0}
    [said] = adopted.report.unknown
    assert "linalg_qr, test_adopt.py:" in said
    assert said in str(adopted.report)


def test_a_rule_that_fails_is_named_and_freezes(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwsearch.nn.adoption import rule
    from hwsearch.nn.adoption.rules import base

    monkeypatch.setattr(base, "_RULES", dict(base._RULES))

    @rule("relu")
    def broken(call: base.Call) -> object:
        raise KeyError("no such argument")

    module = Net(lambda m, x: head(m.b(F.relu(m.a(x))), m), a=conv(3, 8), b=conv(8, 4), out=nn.Linear(4, 5))
    adopted = assert_cuts(module, torch.randn(IMAGE))
    assert widths(adopted) == {"a": 0, "b": 4, "out": 0}
    assert "KeyError: 'no such argument'" in adopted.report.unknown[0]


def test_a_wrong_rule_is_caught_by_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that says that a softmax over channels works value by value: masked and cut network differ, and the group is frozen."""
    from hwsearch.nn.adoption.rules import base

    monkeypatch.setattr(base, "_RULES", {**base._RULES, "softmax": base._RULES["pointwise"]})
    module = Net(
        lambda m, x: head(m.b(m.a(x).softmax(1)) + m.d(m.c(x)), m),
        a=conv(3, 8), b=conv(8, 4), c=conv(3, 6), d=conv(6, 4), out=nn.Linear(4, 5),
    )  # fmt: skip
    adopted = assert_cuts(module, torch.randn(IMAGE))
    assert widths(adopted) == {"a": 0, "b": 4, "c": 6, "d": 4, "out": 0}
    [reason] = {group.reason for group in adopted.groups if ("a.weight", 1) in group.opened}
    assert reason.startswith("not proven: the cut network differs from the masked one by")


def test_a_wrong_rule_is_caught_within_a_branch_that_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths within a residual branch are proven while the branch is there."""
    from hwsearch.nn.adoption.rules import base

    monkeypatch.setattr(base, "_RULES", {**base._RULES, "softmax": base._RULES["pointwise"]})
    module = Net(
        lambda m, x: (lambda y: head(y + m.c(m.b(y).softmax(1)), m))(m.a(x)),
        a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), out=nn.Linear(8, 5),
    )  # fmt: skip
    adopted = assert_cuts(module, torch.randn(IMAGE))
    assert widths(adopted) == {"a": 8, "b": 0, "c": 8, "out": 0}
    assert [branch.searchable for branch in adopted.branches] == [True]


def test_networks_that_magnify_rounding_are_compared_in_double_precision() -> None:
    """In single precision the cut network and the masked one part ways after some layers, though the cut is right."""
    layers = nn.ModuleList(nn.Linear(12 if number else 3, 12) for number in range(10))

    def call(m: Net, x: torch.Tensor) -> torch.Tensor:
        for layer in m.layers:  # type: ignore[union-attr]
            x = torch.sin(6 * layer(x))
        return m.out(x)  # type: ignore[operator, no-any-return]

    adopted = hwsearch.adopt(Net(call, layers=layers, out=nn.Linear(12, 5)), torch.randn(4, 3))
    assert sum(group.searchable for group in adopted.groups) == 10


def test_few_channels_that_die_do_not_hide_the_layers_before_them() -> None:
    """A chain of narrow layers: a random cut may leave nothing alive behind a ReLU, which must not count against what comes before it."""
    module = nn.Sequential(*(nn.Sequential(conv(3 if not i else 4, 4), nn.ReLU()) for i in range(6)), nn.Flatten(), nn.Linear(384, 5))
    for seed in range(5):
        adopted = hwsearch.adopt(module, torch.randn(IMAGE), rng=np.random.default_rng(seed))
        assert sum(group.searchable for group in adopted.groups) == 6


def test_what_makes_no_difference_is_not_taken_for_proven() -> None:
    """Channels that reach the outputs times zero prove nothing, whichever are cut."""
    module = Net(lambda m, x: head(m.a(x) + 0.0 * m.d(m.c(x)), m), a=conv(3, 4), c=conv(3, 6), d=conv(6, 4), out=nn.Linear(4, 5))
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    assert widths(adopted) == {"a": 4, "c": 0, "d": 4, "out": 0}
    reason = next(group.reason for group in adopted.groups if ("c.weight", 1) in group.opened)
    assert reason == "not proven: a wrong index changes the outputs by 0 only"


def test_proofs_do_not_depend_on_the_weights_that_a_module_has() -> None:
    """A fresh layer scale of zero hides a branch; weights are drawn anew for the proof, and the module keeps its own."""

    class Scaled(Net):
        def __init__(self) -> None:
            super().__init__(lambda m, x: head(x + m.scale * m.b(F.relu(m.a(x))), m), a=conv(3, 8), b=conv(8, 3), out=nn.Linear(3, 5))
            self.scale = nn.Parameter(torch.zeros(3, 1, 1))

    module = Scaled()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    assert widths(adopted)["a"] == 8
    assert [branch.searchable for branch in adopted.branches] == [True]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_removed_branch_leaves_what_it_was_added_to() -> None:
    module = Net(
        lambda m, x: (lambda y: head(F.relu(y + m.c(F.relu(m.b(y)))), m))(m.a(x)),
        a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), out=nn.Linear(8, 5),
    )  # fmt: skip
    enliven(module)
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    [branch] = adopted.branches
    assert set(branch.weights) == {"b.weight", "b.bias", "c.weight", "c.bias"}
    image = torch.randn(IMAGE)
    cut = adopted.extract({}, branches=[branch.id])
    assert {name for name, _ in cut.named_parameters()} == {"a.weight", "a.bias", "out.weight", "out.bias"}
    with torch.no_grad():
        assert_equal(cut(image), head(F.relu(module.a(image)), module))
    assert adopted.macs(branches=[branch.id]) == 3 * 8 * 9 * 96 + 8 * 5


def test_macs_are_those_of_the_cut_network() -> None:
    """Counted by hand: kernels are 3x3 on 8x12 positions, then a linear layer; and again from the shapes of what is left."""
    module = CASES["dense cat"][0]
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    assert adopted.macs() == 9 * 96 * (3 * 4 + 7 * 5 + 12 * 6) + 6 * 5
    plan = draw(adopted, np.random.default_rng(0))
    cut = adopted.extract(plan)
    weights = dict(cut.named_parameters())
    by_hand = 96 * sum(weights[f"{name}.weight"].numel() for name in "abc") + weights["out.weight"].numel()
    assert adopted.macs({name: len(units) for name, units in plan.items()}) == by_hand


def test_frozen_tensors_and_all_kept_ones_stay_equal_to_the_bit() -> None:
    module = enliven(CASES["dense cat"][0])
    image = torch.randn(IMAGE)
    adopted = assert_cuts(module, image, freeze=["a*"])
    assert widths(adopted) == {"a": 0, "b": 5, "c": 6, "out": 0}
    assert {group.reason for group in adopted.groups if ("a.weight", 1) in group.opened} == {"frozen by 'a*'"}
    cut = adopted.extract(draw(adopted, np.random.default_rng(0)))
    assert torch.equal(cut.get_parameter("a.weight"), module.a.weight)
    whole = adopted.extract({})
    assert all(torch.equal(module.get_parameter(name), tensor) for name, tensor in whole.named_parameters())
    assert torch.equal(whole(image), module(image))
    with pytest.raises(InvalidInput, match="stands for no parameter"):
        hwsearch.adopt(module, torch.randn(IMAGE), freeze=["no_such_layer"])
    with pytest.raises(InvalidInput, match="cannot be cut: frozen by 'a\\*'"):
        adopted.extract({next(group.id for group in adopted.groups if group.reason == "frozen by 'a*'"): 1})


def test_the_most_important_units_are_kept_in_their_order() -> None:
    module = enliven(CASES["flatten to linear"][0])
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    group = next(group for group in adopted.groups if ("a.weight", 1) in group.opened)
    cut = adopted.extract({group.id: 2}, scores={group.id: np.array([0.1, 3.0, 0.2, 5.0])})
    assert torch.equal(cut.get_parameter("a.weight"), module.a.weight[[1, 3]])
    with pytest.raises(InvalidInput, match="keep 1 to 4 of them"):
        adopted.extract({group.id: 0})
    with pytest.raises(UnknownName, match="Unknown group"):
        adopted.extract({"g99": 1})


class Keyed(nn.Module):
    """Plain Python in ``forward``: keywords, a flag, a loop over blocks, conditions on sizes, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.blocks = nn.ModuleList(conv(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor, *, scale: torch.Tensor, residual: bool = False) -> dict[str, torch.Tensor]:
        x = self.stem(image)
        if x.shape[-1] > 4:
            x = F.max_pool2d(x, 2)
        for block in self.blocks:
            x = x + F.relu(block(x)) if residual else F.relu(block(x))
        with torch.no_grad():
            x = x * scale.view(-1, 1, 1, 1)
        return {"features": x.mean((2, 3)).detach().sum(1), "class": self.out(x.mean((2, 3)))}


def test_python_in_forward_keywords_and_dict_outputs() -> None:
    module = enliven(Keyed())
    keywords = {"residual": True, "scale": torch.rand(2) + 0.5}
    image = torch.randn(IMAGE)
    adopted = hwsearch.adopt(module, image, keywords=keywords)
    assert widths(adopted) == {"stem": 8, "blocks.0": 8, "blocks.1": 8, "blocks.2": 8, "out": 0}
    cut = adopted.extract(draw(adopted, np.random.default_rng(0)))
    with torch.no_grad():
        found = cut(image, **keywords)
        assert sorted(found) == ["class", "features"]
        assert_equal(found["class"], reference(module, cut)(image, **keywords)["class"])


class Dependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.ReLU())
        self.out = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.backbone(x).mean((2, 3))
        if y.sum() > 1e9:
            return self.out(y) * 0
        return self.out(y)


def test_control_flow_on_values_names_the_line_and_part_adopts_the_rest() -> None:
    module = enliven(Dependent())
    with pytest.raises(Unsupported, match=r"test_adopt\.py:\d+ \(if y\.sum\(\) > 1e9:\).*depends on the values.*part="):
        hwsearch.adopt(module, torch.randn(IMAGE))
    adopted = hwsearch.adopt(module, torch.randn(IMAGE), part="backbone")
    assert widths(adopted) == {"0": 8, "2": 0}
    cut = adopted.extract(draw(adopted, np.random.default_rng(0)))
    image = torch.randn(IMAGE)
    whole = adopted.insert(cut)
    with torch.no_grad():
        masked = reference(module.backbone, cut)(image).mean((2, 3))
        assert_equal(whole(image), module.out(masked))
    with pytest.raises(UnknownName, match="Did you mean 'backbone'"):
        hwsearch.adopt(module, torch.randn(IMAGE), part="backbon")


def test_what_export_cannot_capture_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing gives the same groups, and parameters keep their names."""

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("export is not up to it")

    monkeypatch.setattr(torch.export, "export", fail)
    for name in ("residual sum", "transformer block", "several outputs, in a dict"):
        module, shapes, expected = CASES[name]
        adopted = assert_cuts(module, *(torch.randn(shape) for shape in shapes))
        assert widths(adopted) == expected
        assert not adopted.dynamic


def test_a_captured_network_takes_batches_of_any_size() -> None:
    adopted = hwsearch.adopt(CASES["transformer block"][0], torch.randn(1, 7, 6))
    assert adopted.dynamic
    cut = adopted.extract(draw(adopted, np.random.default_rng(0)))
    assert cut(torch.randn(5, 7, 6)).shape == (5, 7, 5)


def test_what_cannot_be_adopted_is_refused_in_words() -> None:
    with pytest.raises(Unsupported, match="copy.deepcopy"):
        hwsearch.adopt(nn.Linear(3, 4).half(), torch.randn(2, 3))
    with pytest.raises(InvalidInput, match="do not fit"):
        hwsearch.adopt(nn.Linear(3, 4), (torch.randn(2, 3), torch.randn(2, 3)))
    with pytest.raises(InvalidInput, match="no tensor"):
        hwsearch.adopt(nn.Identity(), (3,))
    with pytest.raises(InvalidInput, match="does not run on the example inputs.*cannot be multiplied"):
        hwsearch.adopt(nn.Linear(3, 4), torch.randn(2, 5))


def test_the_report_says_what_is_free_and_why_the_rest_is_not() -> None:
    report = hwsearch.adopt(CASES["squeeze and excite"][0], torch.randn(IMAGE)).report
    rows = {row.layer: row for row in report.rows}
    assert (rows["a.weight"].searchable, rows["a.weight"].width, rows["a.weight"].why) == (True, 8, "")
    assert rows["a.weight"].group == rows["e.weight"].group != rows["s.weight"].group
    assert (rows["out.weight"].searchable, rows["out.weight"].why) == (False, "output of the network")
    assert report.share == 1.0
    assert report.macs == 9 * 96 * (3 * 8 + 8 * 6) + 2 * 8 * 4 + 6 * 5
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "op", "width", "group", "why"]
    assert "<td>output of the network</td>" in report._repr_html_()


def test_a_custom_operation_is_frozen_until_it_has_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwsearch.nn.adoption import rule
    from hwsearch.nn.adoption.rules import base

    monkeypatch.setattr(base, "_RULES", dict(base._RULES))

    @torch.library.custom_op("hwsearch_tests::scale", mutates_args=())
    def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor

    scale.register_fake(lambda x, factor: torch.empty_like(x))
    module = Net(lambda m, x: head(m.b(scale(m.a(x), 2.0)), m), a=conv(3, 8), b=conv(8, 4), out=nn.Linear(4, 5))
    adopted = assert_cuts(module, torch.randn(IMAGE))
    assert widths(adopted) == {"a": 0, "b": 4, "out": 0}
    assert "hwsearch_tests" in adopted.report.unknown[0] or "scale" in adopted.report.unknown[0]
    rule("hwsearch_tests.scale")(lambda call: call.axes("x"))
    assert widths(assert_cuts(module, torch.randn(IMAGE))) == {"a": 8, "b": 4, "out": 0}


def test_the_page_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    from hwsearch.nn.data._vision import import_torchvision

    import_torchvision()
    page = (Path(hwsearch.__file__).parents[1] / "docs" / "adopt.md").read_text()
    scope: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], scope)
    assert "100 % of" in capsys.readouterr().out
    space = scope["space"]
    assert isinstance(space, hwsearch.SearchSpace)
    top = [choice.values[-1] for choice in space.choices]
    half = {
        choice.name: min(choice.values, key=lambda value: abs(2 * value - most)) if choice.role == "width" else most
        for choice, most in zip(space.choices, top, strict=True)
    }
    whole, small = hwsearch.metric("macs", space)(np.array([[size - 1 for size in space.sizes], space.encode(half)]))
    assert 0.2 * whole < small < 0.35 * whole
