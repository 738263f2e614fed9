"""Synthetic problems given as tables, of realistic size and structure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwsearch import SearchSpace
from hwsearch.spaces import Choice

Values = npt.NDArray[np.float64]
Group = tuple[str | None, Values]
"""A gene (none where the width is fixed) and its widths in channels."""


class _Pruned:
    def __init__(self, seed: int, values: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.values = values
        self.choices: list[Choice] = []
        self.latency: list[tuple[tuple[str, ...], Values]] = []
        self.importance: list[tuple[tuple[str, ...], Values]] = []

    def group(self, name: str, channels: int, values: int, weight: float, keep: str | None = None) -> Group:
        widths = np.maximum(1, np.round(channels * np.arange(1, values + 1) / values))
        order = np.sort(self.rng.pareto(2.0, channels) + 0.05)[::-1]
        gain = weight * np.cumsum(order)[widths.astype(int) - 1] / order.sum()
        self.choices.append(Choice(name, tuple(int(width) for width in widths)))
        self.importance.append(((name, keep), np.stack([0 * gain, gain], axis=1)) if keep else ((name,), gain))
        return name, widths

    def conv(self, cin: Group, cout: Group, kernel: int, size: int, keep: str | None = None) -> None:
        steps = np.multiply.outer(np.ceil(cin[1] / 16), np.ceil(cout[1] / 16))
        cost = 0.002 + 5e-8 * steps * kernel**2 * size**2
        names = [name for name, _ in (cin, cout) if name]
        cost = cost.reshape([len(widths) for name, widths in (cin, cout) if name])
        self.latency.append(((*names, keep), np.stack([0 * cost, cost], axis=-1)) if keep else (tuple(names), cost))


def pruned_resnet(seed: int = 0, values: int = 4, blocks: tuple[int, ...] = (3, 4, 23, 4)) -> SearchSpace:
    """Channel pruning of a ResNet-101-like network with removable blocks: 71 channel groups, 34 blocks and 10^54 networks by default.

    A convolution's latency is bilinear in its groups of input and output channels (in steps of 16) plus an overhead, and gone
    where its block is removed. A group's importance is that of its kept channels, heavy-tailed and sorted.

    Args:
        seed: of the importances.
        values: widths of a group inside a block; groups tied by residual sums have twice as many.
        blocks: residual blocks in each stage.

    Returns:
        A space with the costs ``latency_ms`` and ``importance``.
    """
    made = _Pruned(seed, values)
    before: Group = (None, np.array([64.0]))
    for stage, count in enumerate(blocks):
        inner, size = 64 * 2**stage, 56 // 2**stage
        out: Group = (None, np.array([256.0]))
        if stage:
            out = made.group(f"stage{stage + 1}.out", 4 * inner, 2 * values, float(made.rng.uniform(1.0, 4.0)))
        made.conv(before, out, 1, size)
        for number in range(1, count + 1):
            block = f"stage{stage + 1}.block{number}"
            keep = f"{block}.keep"
            made.choices.append(Choice(keep, (0, 1)))
            weight = float(made.rng.lognormal(0.0, 0.7))
            mid1 = made.group(f"{block}.mid1", inner, values, weight, keep)
            mid2 = made.group(f"{block}.mid2", inner, values, weight, keep)
            made.conv(before if number == 1 else out, mid1, 1, size, keep)
            made.conv(mid1, mid2, 3, size, keep)
            made.conv(mid2, out, 1, size, keep)
        before = out
    tables = {"latency_ms": made.latency, "importance": made.importance}
    return SearchSpace.from_tables(made.choices, tables, name="pruned_resnet")
