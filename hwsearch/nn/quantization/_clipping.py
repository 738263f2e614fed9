"""How much of the range of a feature map its quantiser keeps."""

from __future__ import annotations

from collections.abc import Callable

import torch

SHARES = torch.linspace(1.0, 0.1, 37, dtype=torch.float64)
"""The shares of a range that are tried."""
_KEPT = 0.9999
_BINS = 2048

Grid = Callable[[float], tuple[float, int]]
"""The size of a step, and the integer that stands for 0, where a share of the range is kept."""


def minmax(values: torch.Tensor, grid: Grid, bits: int) -> float:
    """All of the range."""
    return 1.0


def percentile(values: torch.Tensor, grid: Grid, bits: int) -> float:
    """The share that holds 99.99 % of the values (Wu et al., 2020, section 4.2)."""
    step, zero = grid(1.0)
    least, most = -zero * step, (2**bits - 1 - zero) * step
    reach = torch.maximum(values / most if most > 0 else 0 * values, values / least if least < 0 else 0 * values)
    count = len(reach) - int(_KEPT * len(reach))
    return min(1.0, max(float(torch.topk(reach, max(1, count)).values[-1]), float(SHARES[-1])))


def mse(values: torch.Tensor, grid: Grid, bits: int) -> float:
    """The share with the least mean square error."""

    def error(share: float) -> float:  # one share at a time: all at once would leave the processor's cache
        step, zero = grid(share)
        rounded = (values / step).round_().clamp_(-zero, 2**bits - 1 - zero).mul_(step)
        return float(rounded.sub_(values).square_().mean())

    return float(min(SHARES.tolist(), key=error))


def kl(values: torch.Tensor, grid: Grid, bits: int) -> float:
    """The share whose rounded values are distributed most like the values themselves (Migacz, GTC'17).

    The divergence is that of the histogram of the clipped values, in 2,048 bins, from the histogram in which the bins between two steps are
    merged. Zeros are not counted: rounding keeps them in any case, and there may be many.
    """
    values = values[values != 0]
    step, zero = grid(1.0)
    low, high = -zero * step, (2**bits - 1 - zero) * step
    width = (high - low) / _BINS
    counts = torch.histc(values, _BINS, low, high)
    centers = low + width * (torch.arange(_BINS, dtype=torch.float64, device=values.device) + 0.5)

    def divergence(share: float) -> float:
        step, zero = grid(share)
        levels = (centers / step).round().add(zero).long()
        inside = (levels >= 0) & (levels < 2**bits)
        clipped, first, last = counts * inside, int(inside.long().argmax()), _BINS - 1 - int(inside.flip(0).long().argmax())
        here = levels.clamp(0, 2**bits - 1)[inside]
        filled = (clipped[inside] > 0).double()
        sums, sizes = (
            torch.zeros(2**bits, dtype=torch.float64, device=values.device).index_add(0, here, x) for x in (clipped[inside], filled)
        )
        clipped[first] += counts[:first].sum()
        clipped[last] += counts[last + 1 :].sum()
        wanted = clipped[inside] / counts.sum()
        found = (filled * (sums / sizes.clamp_min(1))[here] / sums.sum()).clamp_min(1e-12)
        return float(torch.where(wanted > 0, wanted * (wanted / found).log(), 0.0 * wanted).sum())

    return float(min(SHARES.tolist(), key=divergence))


RANGES: dict[str, Callable[[torch.Tensor, Grid, int], float]] = {"mse": mse, "minmax": minmax, "percentile": percentile, "kl": kl}
"""The ways of choosing a range, by name."""
