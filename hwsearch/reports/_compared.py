"""One row of a comparison of finished networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Compared:
    """One finished network in a comparison.

    Example:
        >>> from hwsearch.reports import Compared
        >>> latency = {"predicted_ms": 0.031, "measured_ms": 0.032, "spread_ms": 0.001}
        >>> searched = Compared("searched", accuracy=0.95, images=2000, macs=9e5, params=4e4, size_bytes=50_000, **latency)
        >>> searched.cells()["accuracy"], searched.cells()["MACs"]
        ('95.00% (94.0% to 95.9%)', '0.90 M')

    Attributes:
        name: such as ``"dense"``, ``"uniform width"``, ``"searched"``.
        accuracy: on the test images, measured on the exported model, in [0, 1].
        predicted_ms, measured_ms: latency by the table, and on the device.
        spread_ms: of the measured latency.
        macs, params: as in :mod:`hwsearch.networks._blocks`.
        size_bytes: of the model file on disk.
        images: how many independent test images there are, so that the accuracy gets its 95 % interval (Wilson 1927); 0 if that is not
            known. Where several images were made of one, :func:`independent_images` says how many they are worth.
    """

    name: str
    accuracy: float
    predicted_ms: float
    measured_ms: float
    spread_ms: float
    macs: float
    params: float
    size_bytes: int
    images: int = 0

    @property
    def interval(self) -> tuple[float, float] | None:
        """Between which accuracies the network lies with 95 % confidence, from the number of test images; ``None`` if that is not known."""
        if not self.images:
            return None
        n, z = self.images, 1.96
        middle = (self.accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(self.accuracy * (1 - self.accuracy) / n + z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    def cells(self) -> dict[str, str]:
        """The figures as text, by column title."""
        return {
            "network": self.name,
            "accuracy": f"{self.accuracy:.2%}" + ("" if self.interval is None else " ({:.1%} to {:.1%})".format(*self.interval)),
            "predicted (ms)": f"{self.predicted_ms:.4f}",
            "measured (ms)": f"{self.measured_ms:.4f} ±{self.spread_ms:.4f}",
            "MACs": f"{self.macs / 1e6:,.2f} M",
            "params": f"{self.params:,.0f}",
            "bytes": f"{self.size_bytes:,}",
        }


def independent_images(right: npt.ArrayLike, sources: npt.ArrayLike) -> int:
    """How many independent images tell as much as these, of which several were made of one source (the design effect of Kish 1965).

    Args:
        right: whether a network gets each image right, shape ``(n,)``.
        sources: which source each image was made of, shape ``(n,)``.

    Returns:
        At least 1 and at most ``n``.

    Example:
        >>> from hwsearch.reports import independent_images
        >>> independent_images([1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3])  # images of one source are alike
        3
    """
    hits = np.asarray(right, dtype=np.float64)
    share, error = hits.mean(), _standard_error(hits, np.asarray(sources))
    return len(hits) if not error else max(1, min(len(hits), round(share * (1 - share) / error**2)))


def paired_gain(ours: npt.ArrayLike, theirs: npt.ArrayLike, sources: npt.ArrayLike) -> tuple[float, float]:
    """How much more of the same images one network gets right than another, and the standard error of that.

    Args:
        ours, theirs: whether each network gets each image right, shape ``(n,)``.
        sources: which source each image was made of, shape ``(n,)``; ``range(n)`` if all are independent.

    Returns:
        The difference of the shares, and its standard error, from differences that are summed by source.

    Example:
        >>> from hwsearch.reports import paired_gain
        >>> gain, error = paired_gain([1, 1, 1, 0], [1, 0, 1, 0], range(4))
        >>> gain, round(error, 3)
        (0.25, 0.25)
    """
    apart = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    return float(apart.mean()), _standard_error(apart, np.asarray(sources))


def _standard_error(values: npt.NDArray[np.float64], sources: npt.NDArray[np.int64]) -> float:
    """The standard error of the mean of values, shape ``(n,)``, that are independent from source to source only."""
    names, place = np.unique(sources, return_inverse=True)
    sums = np.bincount(place, weights=values - values.mean())
    return float(np.sqrt(np.sum(sums**2) * len(names) / (len(names) - 1)) / len(values)) if len(names) > 1 else 0.0
