"""The latency table of one device: what every block costs there, and how far sums of blocks can be trusted.

A table is a small JSON file (its format is documented in ``docs/table-format.md``), so that any program can write one. It
holds the device, the measuring protocol, one row a block, whole networks measured as a check, and the calibration that turns
rows into the cost of a block inside a network. Calibrated costs stay additive over blocks, which is what searching needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ._calibration import Calibration, networks_error
from ._interpolation import Interpolator
from ._store import PathLike
from .blocks import Block
from .device import Check, Device, Protocol, Row
from .errors import InvalidInput, MissingBlocks, WrongDevice

Costs = npt.NDArray[np.float64]
__all__ = ["Calibration", "Check", "Device", "Estimate", "LatencyTable", "Protocol", "Row", "load_table"]
QUANTITIES = ("latency_ms", "energy_mj")


@dataclass(frozen=True)
class Estimate:
    """What one block costs.

    Attributes:
        latency_ms: milliseconds, calibrated.
        measured: whether the block was measured; otherwise the value is interpolated.
        relative_error: half the interquartile range of the rounds relative to the latency, or, where interpolated, the typical
            error on measured blocks that were left out.
        energy_mj: millijoules, or ``None`` where the device has no meter.
    """

    latency_ms: float
    measured: bool
    relative_error: float
    energy_mj: float | None = None


@dataclass(frozen=True, repr=False)
class LatencyTable:
    """What the blocks of networks cost on one device.

    Attributes:
        device: where it was measured.
        protocol: how it was measured.
        rows: block key -> what was measured.
        checks: whole networks, measured and predicted: those of role ``"fit"`` made the calibration, those of role ``"check"`` did
            not and tell the table's error.
        calibration: how rows become costs.
        energy: ``"measured"``, ``"estimated"`` or ``"unavailable"``.
        source: where it was loaded from, for messages.
    """

    device: Device
    protocol: Protocol
    rows: Mapping[str, Row]
    checks: tuple[Check, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)
    energy: str = "unavailable"
    source: str = "<memory>"

    def __repr__(self) -> str:
        error = self.error()
        if error["networks"] == 0:
            trust = "no held-out networks, so its error is unknown"
        else:
            trust = f"error {error['mean_abs']:.1%} on {error['networks']:.0f} held-out networks".replace("%", " %")
        return f"<LatencyTable {self.device.name!r}: {len(self.rows)} blocks, {trust}>"

    # -- costs ---------------------------------------------------------------------------------------------------------

    @property
    def network_ms(self) -> float:
        """What every network costs once, whatever its blocks."""
        return self.calibration.network_ms

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that the device was measured at, sorted."""
        return tuple(sorted({block.precision for block in self._blocks.values()}))

    @cached_property
    def _blocks(self) -> dict[str, Block]:
        return {key: Block.parse(key) for key in self.rows}

    @cached_property
    def _interpolator(self) -> Interpolator:
        return Interpolator([(self._blocks[key], row.latency_ms, row.energy_mj) for key, row in self.rows.items()])

    def missing(self, blocks: Iterable[Block]) -> tuple[Block, ...]:
        """The blocks that the table does not hold, each once."""
        return tuple(dict.fromkeys(block for block in blocks if block.key not in self.rows))

    def lookup(self, block: Block, *, interpolate: bool = False) -> Estimate:
        """What one block costs.

        Args:
            block: what the device would run.
            interpolate: whether a block that was not measured is estimated from those that were (physical features and nearest
                measured neighbours), and marked as such.

        Raises:
            MissingBlocks: it was not measured, and ``interpolate`` is false or nothing similar was measured.
        """
        row = self.rows.get(block.key)
        if row is not None:
            cost = self.calibration.cost_ms(block, row.latency_ms)
            return Estimate(cost, True, row.spread_ms / row.latency_ms, row.energy_mj)
        if not interpolate:
            raise self._missing([block])
        guess = self._interpolator.estimate(block)
        if guess is None:
            raise self._missing([block])
        return Estimate(self.calibration.cost_ms(block, guess.latency_ms), False, guess.relative_error, guess.energy_mj)

    def costs(self, blocks: Sequence[Block], quantity: str = "latency_ms", *, interpolate: bool = False, space: str = "SPACE") -> Costs:
        """What many blocks cost, shape ``(len(blocks),)``.

        Args:
            blocks: what the device would run.
            quantity: ``"latency_ms"`` or ``"energy_mj"``.
            interpolate: as in :meth:`lookup`.
            space: name of the space that needs them, for the message.

        Raises:
            MissingBlocks: some were not measured; the message says how many, which is the first, and how to measure them.
            InvalidInput: an unknown quantity, or energy on a device without a meter.
        """
        if quantity not in QUANTITIES:
            raise InvalidInput(f"quantity must be one of {', '.join(QUANTITIES)}, not {quantity!r}.")
        missing = self.missing(blocks)
        if missing and not interpolate:
            raise self._missing(missing, len(set(blocks)), space)
        found = [self.lookup(block, interpolate=interpolate) for block in blocks]
        if quantity == "latency_ms":
            return np.array([estimate.latency_ms for estimate in found], dtype=np.float64)
        without = [block.key for block, estimate in zip(blocks, found, strict=True) if estimate.energy_mj is None]
        if without:
            raise InvalidInput(
                f"{self.source} holds no energy for {len(without)} of {len(blocks)} blocks (first: {without[0]}): "
                f"energy on {self.device.name!r} is {self.energy}. Limit latency_ms instead, or use a device with an energy meter."
            )
        return np.array([estimate.energy_mj for estimate in found], dtype=np.float64)

    def predict(self, network: Sequence[Block], *, interpolate: bool = False) -> float:
        """The latency of a whole network, ms: the sum of its blocks' costs and :attr:`network_ms`."""
        return self.network_ms + float(self.costs(network, interpolate=interpolate).sum())

    def _missing(self, blocks: Sequence[Block], total: int | None = None, space: str = "SPACE") -> MissingBlocks:
        of = f" of {space!r}" if space != "SPACE" else ""
        count = f"{len(blocks)} of {total} blocks{of} are" if total is not None else "The block asked for is"
        return MissingBlocks(
            f"{count} not in {self.source} (first: {blocks[0].key}). Profile them with: "
            f"hwsearch profile {space} --backend {self.device.runtime} --out {self.source}"
        )

    # -- trust ---------------------------------------------------------------------------------------------------------

    def error(self) -> dict[str, float]:
        """How far predictions are from measurements, on the held-out networks (role ``"check"``).

        Returns:
            ``networks`` (how many), ``mean_abs`` and ``max_abs`` relative errors, ``spearman`` rank correlation, and
            ``mean_abs_fp32``, ``mean_abs_int8``, ``mean_abs_mixed`` where such networks were measured (by precision of the
            convolutions).
        """
        return networks_error([check for check in self.checks if check.role == "check"])

    def calibrate(self, checks: Sequence[Check]) -> LatencyTable:
        """The same table calibrated on the networks of role ``"fit"``, and all networks predicted anew.

        Args:
            checks: measured networks; their ``predicted_ms`` is ignored.

        Raises:
            MissingBlocks: a network has a block that the table lacks.
        """
        networks = [[Block.parse(key) for key in check.blocks] for check in checks]
        missing = self.missing(block for network in networks for block in network)
        if missing:
            raise self._missing(missing)
        fits = [(network, check.measured_ms) for network, check in zip(networks, checks, strict=True) if check.role == "fit"]
        calibration = self.calibration.fit(fits, {key: row.latency_ms for key, row in self.rows.items()})
        table = replace(self, calibration=calibration, checks=())
        predicted = tuple(replace(check, predicted_ms=table.predict(network)) for network, check in zip(networks, checks, strict=True))
        return replace(table, checks=predicted)

    def merge(self, other: LatencyTable) -> LatencyTable:
        """Both tables in one, measured on the same device by the same protocol; the other's rows win.

        The calibration is fitted anew where there are networks to fit it on.

        Raises:
            WrongDevice: the devices or protocols differ.
        """
        if difference := self.device.difference(other.device):
            raise WrongDevice(f"Cannot merge {other.source} into {self.source}: {difference}.")
        if self.protocol != other.protocol:
            raise WrongDevice(f"Cannot merge {other.source} into {self.source}: they were measured by different protocols.")
        checks = {(check.role, check.blocks): check for check in (*self.checks, *other.checks)}
        merged = replace(self, rows={**self.rows, **other.rows}, checks=())
        return merged.calibrate(tuple(checks.values()))

    def edges(self, block: Block, axis: str, *, tolerance: float = 0.03) -> tuple[int, ...]:
        """The widths of a block that are worth having: those at the right-hand edge of a stair.

        Latency climbs in stairs, so a width is dominated where a wider one is as fast.

        Args:
            block: any member of the family; the others differ only in ``axis``.
            axis: ``"cin"``, ``"cout"``, or ``"mid1"``, ``"mid2"`` (``"mid"`` is the first).
            tolerance: how much slower a wider block may be and still count as equally fast.

        Returns:
            The widths to keep, ascending.

        Raises:
            InvalidInput: the block has no such width.
            MissingBlocks: fewer than two widths of the family were measured.
        """
        _width(block, axis)
        family = {
            _width(other, axis): self.calibration.cost_ms(other, self.rows[key].latency_ms)
            for key, other in self._blocks.items()
            if len(other.mids) == len(block.mids) and _with_width(other, axis, _width(block, axis)) == block
        }
        if len(family) < 2:
            raise MissingBlocks(
                f"{self.source} holds {len(family)} width(s) along {axis} of {block.key}; a staircase needs two or more. "
                f"Profile more with hwsearch.profile(..., blocks=[...])."
            )
        widths = sorted(family)
        return tuple(w for i, w in enumerate(widths) if all(family[wider] > family[w] * (1 + tolerance) for wider in widths[i + 1 :]))

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: PathLike) -> Path:
        """Write the table to a file, whole or not at all; rows are sorted, one a line.

        Raises:
            InvalidInput: a value that no table may hold.
        """
        from ._table_file import write

        return write(self, path)


def load_table(path: PathLike, *, device: Device | None = None) -> LatencyTable:
    """Read a latency table.

    Args:
        path: of the JSON file.
        device: where the table must have been measured; ``None`` accepts any.

    Raises:
        FileError: it cannot be read.
        CorruptFile: it is truncated or malformed, or holds impossible or repeated values; the message says where.
        NewerVersion: a newer hwsearch wrote it.
        WrongUnit: its unit is not milliseconds.
        WrongDevice: it was measured on another device than ``device``.
    """
    from ._table_file import read

    table = read(path)
    if device is not None and (difference := device.difference(table.device)):
        raise WrongDevice(
            f"{table.source} was measured elsewhere: {difference}. Profile this device into another file with: hwsearch profile SPACE "
            f"--backend {device.runtime} --out TABLE"
        )
    return table


def _axis(block: Block, axis: str) -> int | None:
    """The index in ``mids``, or ``None`` for cin and cout."""
    if axis in ("cin", "cout"):
        return None
    index = {"mid": 0, "mid1": 0, "mid2": 1}.get(axis)
    if index is None or index >= len(block.mids):
        raise InvalidInput(f"A {block.kind} block has no width {axis!r}; its axes are cin, cout and {len(block.mids)} mid width(s).")
    return index


def _width(block: Block, axis: str) -> int:
    index = _axis(block, axis)
    return int(getattr(block, axis)) if index is None else block.mids[index]


def _with_width(block: Block, axis: str, width: int) -> Block:
    index = _axis(block, axis)
    if index is None:
        return replace(block, cin=width) if axis == "cin" else replace(block, cout=width)
    return replace(block, mids=(*block.mids[:index], width, *block.mids[index + 1 :]))
