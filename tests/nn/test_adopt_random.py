"""Random networks: whatever is joined, parted, shuffled, shared or reshaped, a cut computes what the masked module computes.

``HWSEARCH_GRAPHS=300 pytest tests/nn/test_adopt_random.py`` draws more of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from masking import assert_cuts, assert_equal, enliven
from torch import nn
from torch.nn import functional as F

import hwsearch
from hwsearch.nn.adoption import adopt
from hwsearch.nn.adoption._masked import run_masked

GRAPHS = int(os.environ.get("HWSEARCH_GRAPHS", "20"))
Draw = Callable[[st.SearchStrategy[int]], int]


class ChannelNorm(nn.Module):
    """A layer norm over the channels of a map."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Drawn(nn.Module):
    """A network of steps: each takes some of the values so far, all maps of the same size, and appends one or several."""

    def __init__(self, draw: Draw, *, chain: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.steps: list[tuple[tuple[int, ...], Callable[..., object], str]] = []
        self.channels = [3]
        for number in range(draw(st.integers(3, 9))):
            self._append(draw)
            if chain and number < 4:
                self._chain(draw)
        used = {place for places, _, _ in self.steps for place in places}
        self.ends = [place for place in range(len(self.channels)) if place not in used and place]
        self.out = nn.Linear(sum(self.channels[place] for place in self.ends), 5)

    def __repr__(self) -> str:
        return f"Drawn({[(places, word) for places, _, word in self.steps]}, channels={self.channels})"

    def _layer(self, layer: nn.Module) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1

    def _one(self, place: int, layer: nn.Module, word: str, made: int) -> None:
        """A step of a single layer; steps find layers by number, so that a copy of the network uses its own."""
        number = self._layer(layer)
        self._step((place,), lambda m, x: m.layers[number](x), word, made)

    def _step(self, places: tuple[int, ...], call: Callable[..., object], word: str, *made: int) -> None:
        self.steps.append((places, call, word))
        self.channels += made

    def _append(self, draw: Draw) -> None:
        a = draw(st.integers(0, len(self.channels) - 1))
        n = self.channels[a]
        kinds = ["conv", "conv", "cat", "sum"]
        if n >= 2:
            kinds += ["split", "slice", "roll", "flip", "act", "norm", "layer norm", "depthwise", "pad", "repeat", "excite", "shared"]
        if n % 2 == 0:
            kinds += ["shuffle", "grouped", "group norm", "halves"]
        if n % 4 == 0:
            kinds += ["pixels"]
        getattr(self, f"_{kinds[draw(st.integers(0, len(kinds) - 1))].replace(' ', '_')}")(draw, a, n)

    def _conv(self, draw: Draw, a: int, n: int) -> None:
        made = draw(st.integers(2, 8))
        self._one(a, nn.Conv2d(n, made, 3, padding=1), "conv", made)

    def _chain(self, draw: Draw) -> None:
        """After the last value: layers that keep its shape, some behind an activation, or with a depthwise one or a residual sum inside."""
        a, n = len(self.channels) - 1, self.channels[-1]
        inside: list[nn.Module] = [nn.Conv2d(n, n, 1), nn.ReLU()]
        ways = [inside, [nn.Conv2d(n, n, 3, padding=1, groups=n), nn.BatchNorm2d(n), *inside], [nn.ReLU(), *inside]]
        layer = nn.Sequential(*ways[draw(st.integers(0, 2))])
        if draw(st.integers(0, 3)):
            self._one(a, layer, "chain", n)
        else:
            number = self._layer(layer)
            self._step((a,), lambda m, x: x + m.layers[number](x), "residual", n)

    def _grouped(self, draw: Draw, a: int, n: int) -> None:
        made = 2 * draw(st.integers(1, 4))
        self._one(a, nn.Conv2d(n, made, 1, groups=2), "grouped", made)

    def _depthwise(self, draw: Draw, a: int, n: int) -> None:
        self._one(a, nn.Conv2d(n, n, 3, padding=1, groups=n), "depthwise", n)

    def _shared(self, draw: Draw, a: int, n: int) -> None:
        layer = self._layer(nn.Conv2d(n, n, 3, padding=1))
        self._step((a,), lambda m, x: m.layers[layer](F.relu(m.layers[layer](x))), "shared", n)

    def _cat(self, draw: Draw, a: int, n: int) -> None:
        b = draw(st.integers(0, len(self.channels) - 1))
        self._step((a, b), lambda m, x, y: torch.cat([x, y], 1), "cat", n + self.channels[b])

    def _sum(self, draw: Draw, a: int, n: int) -> None:
        same = [place for place, channels in enumerate(self.channels) if channels == n]
        b = same[draw(st.integers(0, len(same) - 1))]
        self._step((a, b), lambda m, x, y: x + y.tanh(), "sum", n)

    def _split(self, draw: Draw, a: int, n: int) -> None:
        first = draw(st.integers(1, n - 1))
        self._step((a,), lambda m, x: x.split([first, n - first], 1), f"split {first}", first, n - first)

    def _slice(self, draw: Draw, a: int, n: int) -> None:
        start, step = draw(st.integers(0, n - 1)), draw(st.integers(1, 2))
        self._step((a,), lambda m, x: x[:, start::step], f"slice {start}::{step}", len(range(n)[start::step]))

    def _roll(self, draw: Draw, a: int, n: int) -> None:
        shift = draw(st.integers(1, n - 1))
        self._step((a,), lambda m, x: x.roll(shift, 1), f"roll {shift}", n)

    def _flip(self, draw: Draw, a: int, n: int) -> None:
        self._step((a,), lambda m, x: x.flip(1), "flip", n)

    def _act(self, draw: Draw, a: int, n: int) -> None:
        self._one(a, (nn.ReLU(), nn.Sigmoid(), nn.Hardswish(), nn.GELU())[draw(st.integers(0, 3))], "act", n)

    def _norm(self, draw: Draw, a: int, n: int) -> None:
        self._one(a, nn.BatchNorm2d(n), "norm", n)

    def _layer_norm(self, draw: Draw, a: int, n: int) -> None:
        self._one(a, ChannelNorm(n), "layer norm", n)

    def _group_norm(self, draw: Draw, a: int, n: int) -> None:
        self._one(a, nn.GroupNorm(n // 2, n), "group norm", n)

    def _pad(self, draw: Draw, a: int, n: int) -> None:
        before = draw(st.integers(0, 2))
        self._step((a,), lambda m, x: F.pad(x, (0, 0, 0, 0, before, 1)), f"pad {before}", n + before + 1)

    def _repeat(self, draw: Draw, a: int, n: int) -> None:
        self._step((a,), lambda m, x: x.repeat(1, 2, 1, 1), "repeat", 2 * n)

    def _excite(self, draw: Draw, a: int, n: int) -> None:
        down, up = self._layer(nn.Conv2d(n, 4, 1)), self._layer(nn.Conv2d(4, n, 1))
        self._step((a,), lambda m, x: x * torch.sigmoid(m.layers[up](F.relu(m.layers[down](x.mean((2, 3), keepdim=True))))), "excite", n)

    def _shuffle(self, draw: Draw, a: int, n: int) -> None:
        self._step((a,), lambda m, x: x.unflatten(1, (2, n // 2)).transpose(1, 2).flatten(1, 2), "shuffle", n)

    def _halves(self, draw: Draw, a: int, n: int) -> None:
        self._step((a,), lambda m, x: x.view(x.shape[0], 2, n // 2, *x.shape[2:])[:, 1].tanh(), "halves", n // 2)

    def _pixels(self, draw: Draw, a: int, n: int) -> None:
        layer = self._layer(nn.Conv2d(n // 4, 2, 1))
        self._step((a,), lambda m, x: F.pixel_unshuffle(m.layers[layer](F.pixel_shuffle(x, 2)), 2), "pixels", 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: list[torch.Tensor] = [x]
        for places, call, _ in self.steps:
            made = call(self, *(values[place] for place in places))
            values += [made] if isinstance(made, torch.Tensor) else list(made)  # type: ignore[call-overload]
        joined = torch.cat([values[place].mean((2, 3)) + values[place].amax((2, 3)) for place in self.ends], 1)
        return self.out(joined)  # type: ignore[no-any-return]


EVERY = settings(
    max_examples=GRAPHS,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@EVERY
@given(st.data())
def test_random_networks_are_cut_right(data: st.DataObject) -> None:
    module = Drawn(data.draw)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    adopted = assert_cuts(module, torch.randn((2, 3, 4, 6), generator=generator), plans=2)
    assert not adopted.report.unknown, module
    assert not [group.reason for group in adopted.groups if "does not run" in group.reason or "differs" in group.reason], module


@settings(EVERY, max_examples=GRAPHS // 2)
@given(st.data())
def test_random_networks_without_branches_and_blocks_compute_what_is_left(data: st.DataObject) -> None:
    """Random rows of chains of layers between what the other networks are made of: bypassed, extracted, and counted again."""
    module = enliven(Drawn(data.draw, chain=True))  # type: ignore[arg-type]
    images = torch.randn((2, 3, 4, 6), generator=torch.Generator().manual_seed(0))
    space = adopt(module, images, step=2)
    assert not [branch.reason for branch in space.branches if "does not run" in branch.reason or "differs" in branch.reason], module
    X = space.sample(4, np.random.default_rng(3))
    for row, count in zip(X, hwsearch.metric("params", space)(X), strict=True):
        cut = space.cut(*space.plan(row))
        network = cut.build()
        with torch.no_grad():
            assert_equal(network(images), run_masked(cut, (images,), {})[0])
        assert count == sum(each.numel() for each in network.parameters()), module
        assert space.macs(*space.plan(row)) == sum(block.macs for block in space.blocks(row)), module
