"""The latency table of one device: what every block costs there, and how far sums of blocks can be trusted.

A table is a small JSON file (its format is documented in ``docs/table-format.md``), so that any program can write one. It
holds the device, the measuring protocol, one row a block, whole networks measured as a check, and the calibration that turns
rows into the cost of a block inside a network. Calibrated costs stay additive over blocks, which is what searching needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from .._files._writing import PathLike
from ..errors import InvalidInput, MissingBlocks, WrongDevice
from ..networks._blocks import Block
from ..spaces._genes import Value
from ..spaces._space import SearchSpace
from ._calibration import Calibration, networks_error
from ._device import NOISY, Check, Device, Estimate, Protocol, Row, standard_error
from ._frame import to_frame
from ._interpolation import Guesses, Interpolator, Process
from ._staircase import TOLERANCE, right_edges, space_edges
from ._table_file import read, write

Costs = npt.NDArray[np.float64]
__all__ = ["Calibration", "Check", "Device", "Estimate", "LatencyTable", "Protocol", "Row", "load_table"]
QUANTITIES = ("latency_ms", "energy_mj")


@dataclass(frozen=True, repr=False)
class LatencyTable:
    """What the blocks of networks cost on one device.

    Example:
        >>> import hwsearch
        >>> space = hwsearch.load_space("resnet_digits").restrict({"resolution": [8], "precision": ["int8"]})
        >>> few = hwsearch.profiling.Effort(max_rounds=1, checks=12, fits=12)
        >>> hwsearch.profile(space, backend="roofline", out="table.json", effort=few, progress=False)
        <LatencyTable 'roofline': 133 blocks, error 0.0 % on 12 held-out networks>

    Attributes:
        device: where it was measured.
        protocol: how it was measured.
        rows: block key -> what was measured.
        checks: whole networks, measured and predicted: those of role ``"fit"`` made the calibration, those of role ``"check"`` did
            not and tell the table's error.
        calibration: how rows become costs.
        energy: ``"measured"``, ``"estimated"`` or ``"unavailable"``.
        source: where it was loaded from, for messages.
        spent_s: seconds that were spent on measuring under a budget; 0 if there was none. Such a table holds a sample of its space's
            blocks, and estimates the others.
    """

    device: Device
    protocol: Protocol
    rows: Mapping[str, Row]
    checks: tuple[Check, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)
    energy: str = "unavailable"
    source: str = "<memory>"
    spent_s: float = 0.0

    def __repr__(self) -> str:
        error = self.error()
        if error["networks"] == 0:
            trust = "no held-out networks, so its error is unknown"
        else:
            noisy = f", {error['noisy']:.0f} of them noisy" if "noisy" in error else ""
            trust = f"error {error['mean_abs']:.1%} on {error['networks']:.0f} held-out networks{noisy}".replace("%", " %")
        blocks = f"a sample of {len(self.rows)} blocks" if self.sampled else f"{len(self.rows)} blocks"
        return f"<LatencyTable {self.device.name!r}: {blocks}, {trust}>"

    @property
    def sampled(self) -> bool:
        """Whether it was made under a budget, so that blocks that it does not hold are estimated."""
        return self.spent_s > 0

    to_frame = to_frame

    @property
    def network_ms(self) -> float:
        """What every network costs once, whatever its blocks."""
        return self.calibration.network_ms

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that the device was measured at, sorted: those of convolutions if there are any, since a head is often fp32."""
        inner = {block.precision for block in self._blocks.values() if block.inner}
        return tuple(sorted(inner or {block.precision for block in self._blocks.values()}))

    @cached_property
    def _blocks(self) -> dict[str, Block]:
        return {key: Block.parse(key) for key in self.rows}

    @cached_property
    def _interpolator(self) -> Interpolator:
        rows = sorted(self.rows.items())  # however they came together
        return Interpolator([(self._blocks[key], row.latency_ms, row.error, row.energy_mj) for key, row in rows])

    @cached_property
    def _measured(self) -> dict[Block, Row]:
        return {self._blocks[key]: row for key, row in self.rows.items()}

    def missing(self, blocks: Iterable[Block], *, energy: bool = False) -> tuple[Block, ...]:
        """The blocks that the table does not hold, each once; with ``energy`` also those whose energy it does not hold."""
        known: Mapping[Block, object] = self._energies if energy else self._measured
        return tuple(dict.fromkeys(block for block in blocks if block not in known))

    def lookup(self, block: Block, *, interpolate: bool | None = None) -> Estimate:
        """What one block costs.

        Args:
            block: what the device would run.
            interpolate: whether a block that was not measured is estimated from those that were, and marked as such; where ``None``, it
                is if the table is :attr:`sampled`.

        Raises:
            MissingBlocks: it was not measured, and ``interpolate`` is false or nothing similar was measured.
        """
        row = self._measured.get(block)
        if row is not None:
            cost = self.calibration.costs_ms([block], np.array([row.latency_ms]))
            return Estimate(float(cost[0]), True, row.spread_ms / row.latency_ms, row.energy_mj)
        guess = self._guess([block], interpolate)
        cost = self.calibration.costs_ms([block], guess.latency_ms)
        energy = float(guess.energy_mj[0])
        return Estimate(float(cost[0]), False, float(guess.relative_error[0]), None if np.isnan(energy) else energy)

    def _guess(
        self, missing: Sequence[Block], interpolate: bool | None, total: int | None = None, space: str = "SPACE", *, errors: bool = True
    ) -> Guesses:
        """Estimates of blocks that were not measured.

        Raises:
            MissingBlocks: they shall not be estimated, or cannot.
        """
        if missing and not (self.sampled if interpolate is None else interpolate):
            raise self._missing(missing, total, space)
        guesses = self._interpolator.estimate(missing, errors=errors)
        if lost := [block for block, ms in zip(missing, guesses.latency_ms, strict=True) if np.isnan(ms)]:
            raise self._missing(lost, total, space)
        return guesses

    def measured_ms(self, blocks: Sequence[Block], *, interpolate: bool | None = None, space: str = "SPACE") -> Costs:
        """What blocks were measured (or are estimated) at, before calibration, shape ``(len(blocks),)``; errors as of :meth:`costs`."""
        missing = self.missing(blocks)
        guesses = self._guess(missing, interpolate, len(set(blocks)), space, errors=False)
        found = dict(zip(missing, guesses.latency_ms.tolist(), strict=True))
        return np.array([found[b] if b in found else self._measured[b].latency_ms for b in blocks], dtype=np.float64)

    def process(self, family: str) -> Process:
        """The model of a family of blocks, some of which were measured; see :attr:`Block.family`."""
        return self._interpolator.process(family)

    def costs(
        self, blocks: Sequence[Block], quantity: str = "latency_ms", *, interpolate: bool | None = None, space: str = "SPACE"
    ) -> Costs:
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
        if quantity == "latency_ms":
            return self.calibration.costs_ms(blocks, self.measured_ms(blocks, interpolate=interpolate, space=space))
        estimated = self.sampled if interpolate is None else interpolate
        known = self._energies
        lacking = tuple(dict.fromkeys(block for block in blocks if block not in known and (estimated or block not in self._measured)))
        guesses = self._guess(lacking, interpolate, len(set(blocks)), space, errors=False)
        known = known | {block: mj for block, mj in zip(lacking, guesses.energy_mj.tolist(), strict=True) if not np.isnan(mj)}
        if without := [block.key for block in blocks if block not in known]:
            what = (
                f"measure these again with: hwsearch profile {space} --backend {self.device.runtime} --out {self.source}"
                if self.energy != "unavailable"
                else "use a device with an energy meter"
            )
            raise InvalidInput(
                f"{self.source} holds no energy for {len(without)} of {len(blocks)} blocks (first: {without[0]}): "
                f"energy on {self.device.name!r} is {self.energy}. Limit latency_ms instead, or {what}."
            )
        return np.array([known[block] for block in blocks], dtype=np.float64)

    @cached_property
    def _energies(self) -> dict[Block, float]:
        """The blocks whose energy was measured."""
        return {block: row.energy_mj for block, row in self._measured.items() if row.energy_mj is not None}

    def has_energy(self, blocks: Iterable[Block]) -> bool:
        """Whether the energy of all of these blocks is known, or can be estimated if the table is :attr:`sampled`."""
        if self.energy == "unavailable":
            return False
        families = {block.family for block in self._energies} if self.sampled else set[str]()
        return all(block in self._energies or block.family in families for block in blocks)

    def predict(self, network: Sequence[Block], *, interpolate: bool | None = None) -> float:
        """The latency of a whole network, ms: the sum of its blocks' costs and :attr:`network_ms`."""
        return self.network_ms + float(self.costs(network, interpolate=interpolate).sum())

    def _missing(self, blocks: Sequence[Block], total: int | None = None, space: str = "SPACE") -> MissingBlocks:
        of = f" of {space!r}" if space != "SPACE" else ""
        count = f"{len(blocks)} of {total} blocks{of} are" if total is not None else "The block asked for is"
        return MissingBlocks(
            f"{count} not in {self.source} (first: {blocks[0].key}). Profile them with: "
            f"hwsearch profile {space} --backend {self.device.runtime} --out {self.source}"
        )

    @property
    def noisy(self) -> tuple[str, ...]:
        """Keys of the blocks whose latency is uncertain by more than 3 %, since the device was busy or they cost next to nothing."""
        return tuple(key for key, row in self.rows.items() if standard_error(row.latency_ms, row.spread_ms) > NOISY)

    def error(self) -> dict[str, float]:
        """How far predictions are from measurements, on the held-out networks (role ``"check"``).

        Returns:
            ``networks`` (how many), ``mean_abs`` and ``max_abs`` relative errors, ``spearman`` rank correlation over all of them and
            ``spearman_band`` inside bands of 25 % in latency (the mean over the bands that start at each and hold five or more), and
            ``mean_abs_fp32``, ``mean_abs_int8``, ``mean_abs_mixed`` where such networks were measured (by precision of the
            convolutions). Where some were measured while the machine was busy, so that part of their error is that of the measurement:
            ``noisy`` (how many) and ``calm_mean_abs`` (the mean over the others, if there are any).
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
        used = tuple(dict.fromkeys(block for network in networks for block in network))
        measured = dict(zip(used, self.measured_ms(used).tolist(), strict=True))
        fits = [(network, check.measured_ms, check.noise) for network, check in zip(networks, checks, strict=True) if check.role == "fit"]
        calibration = self.calibration.fit(fits, measured)
        costs = dict(zip(used, calibration.costs_ms(used, np.array([measured[block] for block in used])).tolist(), strict=True))
        predicted = [calibration.network_ms + sum(costs[block] for block in network) for network in networks]
        renewed = tuple(replace(check, predicted_ms=ms) for check, ms in zip(checks, predicted, strict=True))
        table = replace(self, calibration=calibration, checks=renewed)
        table.__dict__["_interpolator"] = self._interpolator  # it is of the same rows, and takes long to fit
        return table

    def merge(self, other: LatencyTable) -> LatencyTable:
        """Both tables in one, measured on the same device by the same protocol; the other's rows win.

        The calibration is fitted anew if there are networks to fit it on.

        Raises:
            WrongDevice: the devices or protocols differ.
        """
        if difference := self.device.difference(other.device):
            raise WrongDevice(f"Cannot merge {other.source} into {self.source}: {difference}.")
        if untold := self.device.untold(other.device):
            raise WrongDevice(
                f"Cannot merge {other.source} into {self.source}: only one of them tells {', '.join(untold)} of its device. On that "
                "device, hwsearch profile ... --out TABLE completes the facts of a table."
            )
        if self.protocol != other.protocol:
            raise WrongDevice(f"Cannot merge {other.source} into {self.source}: they were measured by different protocols.")
        checks = {(check.role, check.blocks): check for check in (*self.checks, *other.checks)}
        merged = replace(self, rows={**self.rows, **other.rows}, checks=(), spent_s=self.spent_s + other.spent_s)
        return merged.calibrate(tuple(checks.values()))

    @overload
    def edges(self, of: Block, axis: str, *, tolerance: float = ...) -> tuple[int, ...]: ...

    @overload
    def edges(self, of: SearchSpace, *, tolerance: float = ...) -> dict[str, tuple[Value, ...]]: ...

    def edges(
        self, of: Block | SearchSpace, axis: str = "mid1", *, tolerance: float = TOLERANCE
    ) -> tuple[int, ...] | dict[str, tuple[Value, ...]]:
        """The widths that are worth having: those at the right-hand edge of a stair.

        Latency climbs in stairs, so a width is dominated if a wider one is as fast. ``space.restrict(table)`` searches only the
        others.

        Example:
            >>> import hwsearch
            >>> from hwsearch.devices import Protocol, Row
            >>> blocks = [hwsearch.networks.Block("basic", 16, 16, 16, (width,), kernel=3) for width in range(8, 49, 8)]
            >>> device = hwsearch.backends.Roofline()  # which computes 16 channels at a time
            >>> rows = {block.key: Row(device.latency_ms(block)) for block in blocks}
            >>> hwsearch.LatencyTable(device.describe(), Protocol(), rows).edges(blocks[0], "mid")
            (16, 32, 48)

        Args:
            of: any block of a family that differs only in ``axis``; or a space, for the edges of each of its widths, by the mean cost over
                networks of the space.
            axis: of a block: ``"cin"``, ``"cout"``, or ``"mid1"``, ``"mid2"`` (``"mid"`` is the first).
            tolerance: how much slower a wider block may be and still count as equally fast, within a quarter of what its channels cost on
                average.

        Returns:
            The widths to keep, ascending; of a space, those of each gene by its name.

        Raises:
            InvalidInput: the block or the space has no such width.
            MissingBlocks: fewer than two widths of the family were measured, or the table lacks blocks of the space.
        """
        if isinstance(of, SearchSpace):
            return space_edges(partial(self.costs, space=of.name), of, tolerance)
        _width(of, axis)
        family = [other for other in self._measured if len(other.mids) == len(of.mids) and _with_width(other, axis, _width(of, axis)) == of]
        if len(family) < 2:
            raise MissingBlocks(
                f"{self.source} holds {len(family)} width(s) along {axis} of {of.key}; a staircase needs two or more. "
                "Profile more with hwsearch.profile(..., effort=Effort(blocks=[...]))."
            )
        return right_edges(dict(zip((_width(block, axis) for block in family), self.costs(family).tolist(), strict=True)), tolerance)

    def save(self, path: PathLike) -> Path:
        """Write the table to a file, whole or not at all; rows are sorted, one a line.

        Raises:
            InvalidInput: a value that no table may hold.
        """
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
        WrongDevice: it was measured on another device than ``device``, or does not say enough about its own to know.

    Example:
        >>> import hwsearch
        >>> from hwsearch.devices import Device, Protocol, Row
        >>> board = Device("my-board", "cpu", "Cortex-A76", runtime="my-runtime", runtime_version="2.3")
        >>> rows = {"head-in16-out10-px32-k1-s1-g1-fp32": Row(latency_ms=0.012, spread_ms=0.001, rounds=20)}
        >>> path = hwsearch.LatencyTable(board, Protocol(), rows).save("my-board.json")
        >>> hwsearch.load_table(path).device.name
        'my-board'
    """
    table = LatencyTable(**read(path))
    if device is None:
        return table
    if difference := device.difference(table.device):
        raise WrongDevice(
            f"{table.source} was measured elsewhere: {difference}. Profile this device into another file with: hwsearch profile SPACE "
            f"--backend {device.runtime} --out TABLE"
        )
    if untold := device.untold(table.device):
        raise WrongDevice(
            f"{table.source} may have been measured elsewhere: only one of both devices tells {', '.join(untold)}. Without device= the "
            "table loads for searching; on the device itself hwsearch profile SPACE --out TABLE compares sentinels and adds the facts."
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
