"""One row of a comparison of finished networks."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Compared:
    """One finished network in a comparison.

    Attributes:
        name: such as ``"dense"``, ``"uniform width"``, ``"searched"``.
        accuracy: on the test images, measured on the exported model, in [0, 1].
        predicted_ms, measured_ms: latency by the table, and on the device.
        spread_ms: of the measured latency.
        macs, params: as in :mod:`hwsearch.networks._blocks`.
        size_bytes: of the model file on disk.
        images: how many test images there are, so that the accuracy gets its 95 % interval (Wilson 1927); 0 if that is not known.
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
