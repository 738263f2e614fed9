"""One row of a comparison of finished networks."""

from __future__ import annotations

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
    """

    name: str
    accuracy: float
    predicted_ms: float
    measured_ms: float
    spread_ms: float
    macs: float
    params: float
    size_bytes: int

    def cells(self) -> dict[str, str]:
        """The figures as text, by column title."""
        return {
            "network": self.name,
            "accuracy": f"{self.accuracy:.2%}",
            "predicted (ms)": f"{self.predicted_ms:.4f}",
            "measured (ms)": f"{self.measured_ms:.4f} ±{self.spread_ms:.4f}",
            "MACs": f"{self.macs / 1e6:,.2f} M",
            "params": f"{self.params:,.0f}",
            "bytes": f"{self.size_bytes:,}",
        }
