"""Roofline: the smallest honest backend, which computes what others measure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..devices._device import Device
from ..errors import InvalidInput, check_count, check_positive
from ..networks._blocks import Block
from .base import Backend, Network, Session, Times


class Roofline(Backend):
    """An analytic device: every block takes as long as its arithmetic or its memory traffic, whichever is longer.

    Deterministic, needs nothing, and its networks cost exactly the sum of their blocks: for tests, for trying out spaces, and as
    the pattern of a backend (Williams et al., CACM'09). Energies are estimates.

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.networks import Block
        >>> device = Roofline(tile={"fp32": 16}, bandwidth_gbs=100.0)
        >>> [round(device.latency_ms(Block("conv", 64, width, 32, kernel=3)), 3) for width in (16, 17, 32, 33)]  # a staircase
        [0.474, 0.946, 0.946, 1.418]

    Args:
        peak_gmacs: precision -> 1e9 multiply-accumulates a second; also says which precisions there are.
        bandwidth_gbs: 1e9 bytes a second.
        tile: precision -> channels are rounded up to a multiple of this, which makes the staircase; 1 if omitted.
        block_us, call_us: microseconds a block and a network take before any work is done.
        mac_pj, byte_pj: picojoules a 32-bit MAC (scaled by the bits) and a byte of traffic.
        batch: images at once.

    Raises:
        InvalidInput: a number that is not positive.
    """

    name = "roofline"
    energy = "estimated"

    def __init__(
        self,
        peak_gmacs: Mapping[str, float] | None = None,
        bandwidth_gbs: float = 10.0,
        tile: Mapping[str, int] | None = None,
        block_us: float = 2.0,
        call_us: float = 10.0,
        mac_pj: float = 4.6,
        byte_pj: float = 20.0,
        batch: int = 1,
    ) -> None:
        for name, given in (("peak_gmacs", peak_gmacs), ("tile", tile)):
            if given is not None and not isinstance(given, Mapping):
                raise InvalidInput(f"{name} must map precisions to numbers, not {given!r}.")
        peaks = peak_gmacs or {"fp32": 20.0, "fp16": 40.0, "int8": 60.0, "int4": 100.0}
        tiles = tile or {"fp32": 16, "fp16": 16, "int8": 4, "int4": 8}
        self.peak_gmacs = {precision: check_positive(f"peak_gmacs[{precision!r}]", peak) for precision, peak in peaks.items()}
        self.tile = {precision: check_count(f"tile[{precision!r}]", size, least=1) for precision, size in tiles.items()}
        self.bandwidth_gbs = check_positive("bandwidth_gbs", bandwidth_gbs)
        self.block_us, self.call_us = check_positive("block_us", block_us), check_positive("call_us", call_us)
        self.mac_pj, self.byte_pj = check_positive("mac_pj", mac_pj), check_positive("byte_pj", byte_pj)
        self.batch = check_count("batch", batch, least=1)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those with a peak."""
        return tuple(self.peak_gmacs)

    def supports(self, block: Block) -> bool:
        """Whether there is a peak for its precision; kernels of a user's network are computed like any block."""
        return block.precision in self.precisions

    def describe(self) -> Device:
        """An analytic device, described by its own parameters."""
        peaks = " ".join(f"{name}:{value:g}" for name, value in self.peak_gmacs.items())
        tiles = " ".join(f"{name}:{value}" for name, value in self.tile.items())
        numbers = f"{self.bandwidth_gbs:g} GB/s, {self.block_us:g} us a block, {self.call_us:g} us a call"
        return Device("roofline", "analytic", f"{peaks} GMAC/s, tiles {tiles}, {numbers}", self.name, "1", 1, self.batch)

    def latency_ms(self, block: Block) -> float:
        """What one block costs, ms."""
        memory = block.traffic_bytes / self.bandwidth_gbs
        tile = self.tile.get(block.precision, 1)
        padded = 0
        for layer in block.graph.layers:
            cin, cout = (-(-channels // layer.groups // tile) * tile for channels in (layer.cin, layer.cout))
            padded += layer.groups * cin * cout * layer.kernel**2 * layer.out_size**2
        return self.batch * max(memory, max(padded, block.macs) / self.peak_gmacs[block.precision]) * 1e-6 + self.block_us * 1e-3

    def energy_mj(self, block: Block) -> float:
        """What one block uses, mJ, estimated."""
        bits = block.bits.weight_bits * block.bits.activation_bits / 32**2
        return self.batch * (block.macs * self.mac_pj * bits + block.traffic_bytes * self.byte_pj) * 1e-9

    def _open(self, network: Network) -> Session:
        seconds = (self.call_us * 1e-3 + sum(map(self.latency_ms, network))) * 1e-3
        return _Fixed(seconds, sum(map(self.energy_mj, network)), self.batch)


class _Fixed(Session):
    """Always the same."""

    def __init__(self, seconds: float, energy_mj: float, batch: int) -> None:
        self._seconds, self._energy_mj, self.batch = seconds, energy_mj, batch

    def times(self, runs: int) -> Times:
        return np.full(runs, self._seconds)

    @property
    def energy_mj(self) -> float:
        return self._energy_mj
