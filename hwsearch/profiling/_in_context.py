"""Kernels measured inside whole networks: what the runtime itself says that each of them takes there.

The kernels of a user's network cannot be cut out of it: alone they find warm caches and another memory layout. So some whole networks of
the space run under the runtime's own profiler, from the smallest to the largest, and each kernel's time is a row of the table. The
profiler slows a network down, by little or by half; so other whole networks run without it, and the calibration is fitted on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .._types import Rows
from ..backends.base import Backend, Session
from ..devices._calibration import Calibration
from ..devices._device import READINGS, Check, Protocol, Row
from ..devices._table import LatencyTable
from ..errors import BuildFailed
from ..networks._blocks import Block
from ..networks._fused import Fused
from ..spaces._space import SearchSpace
from ._effort import Effort, sentinel_of
from ._networks import kinds_of, share_of
from ._plan import Network, name_of
from ._readings import PART, Readings
from ._rounds import Open

MOST_KERNELS = 600
"""A table holds at most about this many measured kernels."""
_FEWEST, _MOST = 3, 16
"""Networks that are run under the profiler."""
_CANDIDATES = 32
"""They are chosen among this many random networks of each kind."""
_FAR, _ODD = 3.0, 0.5
"""How far a kernel is from the measured ones, in doublings of its widths: where none is like it, and where one width of two is odd."""
_PRODUCTS_A_VALUE = 20
"""A value that is moved takes about as long as this many products."""
_Like = tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, str]
Floats = npt.NDArray[np.float64]
_POOL = 4
"""Of this many random networks one is taken, so that all sizes are among those taken."""
_APART = 0.35
"""How far, in shares of its range, a width of a random network may be from what the network's size suggests."""
_ABSENT = 0.2
"""The chance of a branch to be absent from a random network."""
_LEAST_MS = 1e-3
"""What a kernel is taken to cost at least: profilers count in microseconds, and a kernel that vanished into another one costs nothing."""
_RUNS = 4
"""Timed runs of a reading."""
_PROFILED = "kernels-"
MIDDLE = "middle"
"""The name of the network that stands beside every reading."""


@dataclass(frozen=True)
class Chosen:
    """Whole networks to measure.

    Attributes:
        profiled: under the profiler: name -> row of genes.
        roles: without it: name -> row of genes and role, ``"fit"`` or ``"check"``.
        middle: a network of middling size, which stands beside every reading: what slows it slows the others alike.
    """

    profiled: Mapping[str, Rows]
    roles: Mapping[str, tuple[Rows, str]]
    middle: Rows

    @property
    def rows(self) -> dict[str, Rows]:
        """All of them by name."""
        return {**self.profiled, **{name: row for name, (row, _) in self.roles.items()}}


def in_context(protocol: Protocol) -> Protocol:
    """How whole networks beside one of their own kind are measured: few runs a reading, so that both see the same machine."""
    return replace(protocol, runs=_RUNS, warmup=1)


def choose(space: SearchSpace, precisions: Sequence[str], table: LatencyTable, effort: Effort, seed: int) -> Chosen:
    """The networks that a table lacks: in equal shares those in one precision throughout, and mixed ones.

    Args:
        space: perhaps restricted.
        precisions: of the device.
        table: what was measured before; what it holds is not measured again.
        effort: how many networks check the table and how many fit it.
        seed: of the networks.
    """
    rng = np.random.default_rng(seed)
    kinds = list(kinds_of(space, precisions).values())
    covering = cover(kinds, rng)
    known = {(check.blocks, check.role) for check in table.checks}
    profiled, roles = dict[str, Rows](), dict[str, tuple[Rows, str]]()
    for row in covering:
        network = space.blocks(row)
        if table.missing(network):
            profiled[_PROFILED + name_of(network)] = row
    everything: list[Rows] = []
    for number, kind in enumerate(kinds):
        checks, fits = (share_of(count, len(kinds), number) for count in (effort.checks, effort.fits))
        drawn = draw(kind, checks + fits, rng)
        everything += drawn
        # The share of held-out networks, in whole ones: wherever it rises, one is held out; networks come from small to large.
        share = checks / max(1, checks + fits)
        rising = [int(share * place + 0.5) for place in range(len(drawn) + 1)]
        for place, row in enumerate(drawn):
            network, role = space.blocks(row), "check" if rising[place + 1] > rising[place] else "fit"
            if (tuple(block.key for block in network), role) not in known:
                roles[name_of(network)] = (row, role)
    everything.sort(key=lambda row: sum(block.macs for block in space.blocks(row)))
    return Chosen(profiled, roles, everything[len(everything) // 2])


def cover(kinds: Sequence[SearchSpace], rng: np.random.Generator) -> list[Rows]:
    """The largest network of each precision, and those that tell most of the kernels of all others.

    Of random networks of all sizes and precisions the one comes next that brings the kernels of all of them closest to measured ones, for
    each kernel that has to be measured for it. A kernel counts by its share of what its network does.

    Args:
        kinds: the space in each precision that all kernels may share, and last mixed; or the space alone.
        rng: the source of randomness.

    Returns:
        Networks of together at most :data:`MOST_KERNELS` different kernels, but three in any case.
    """
    chosen = [np.array([allowed[-1] for allowed in kind.allowed], dtype=np.uint8) for kind in kinds[: max(1, len(kinds) - 1)]]
    sizes = (np.arange(_CANDIDATES) + rng.random((len(kinds), _CANDIDATES))) / _CANDIDATES
    pool = [_sized(kind, size, rng, absent=0.0) for kind, own in zip(kinds, sizes, strict=True) for size in own]
    networks = [kernels_of(kinds[-1], row) for row in pool]
    unknown, held = Unknown(networks), set[Fused]()
    for row in chosen:
        unknown.measured(kernels := kernels_of(kinds[-1], row))
        held.update(kernels)
    while len(chosen) < _MOST:
        fresh = [len(set(network) - held) for network in networks]
        fits = [count > 0 and (len(held) + count <= MOST_KERNELS or len(chosen) < _FEWEST) for count in fresh]
        told = [unknown.told(network) / count if fit else 0.0 for network, count, fit in zip(networks, fresh, fits, strict=True)]
        best = int(np.argmax(told))
        if not told[best]:
            break
        chosen.append(pool[best])
        unknown.measured(networks[best])
        held.update(networks[best])
    return chosen


def kernels_of(space: SearchSpace, row: Rows) -> list[Fused]:
    """The kernels of a network of a space whose networks are made of kernels."""
    return [block for block in space.blocks(row) if isinstance(block, Fused)]


class Unknown:
    """How far the kernels of some networks are from those that are measured: at first from all of them.

    Args:
        networks: their kernels.
    """

    def __init__(self, networks: Sequence[Sequence[Fused]]) -> None:
        counts = dict[Fused, float]()
        for network in networks:
            work = np.array([kernel.macs + _PRODUCTS_A_VALUE * kernel.edge_values for kernel in network], dtype=np.float64)
            for kernel, share in zip(network, (work / work.sum()).tolist(), strict=True):
                counts[kernel] = counts.get(kernel, 0.0) + share
        alike = _alike(counts)
        self._widths = {like: _widths(kernels) for like, kernels in alike.items()}
        self._counts = {like: np.array([counts[kernel] for kernel in kernels]) for like, kernels in alike.items()}
        self._far = {like: np.full(len(kernels), _FAR) for like, kernels in alike.items()}

    def _closer(self, network: Iterable[Fused]) -> Iterator[tuple[_Like, Floats]]:
        """By what kernels are, how far they are once those of this network are measured."""
        for like, kernels in _alike(network).items():
            if like in self._far:
                apart = np.abs(self._widths[like][:, None] - _widths(kernels)).sum(axis=2).min(axis=1)
                yield like, np.minimum(self._far[like], apart)

    def told(self, network: Iterable[Fused]) -> float:
        """How much closer all kernels come if those of this network are measured."""
        return float(sum(self._counts[like] @ (self._far[like] - far) for like, far in self._closer(network)))

    def measured(self, network: Iterable[Fused]) -> None:
        """Take the kernels of this network for measured."""
        self._far.update(self._closer(network))


def _alike(kernels: Iterable[Fused]) -> dict[_Like, list[Fused]]:
    """Different kernels by what those have in common that differ in their widths alone."""
    found: dict[_Like, list[Fused]] = {}
    for kernel in dict.fromkeys(kernels):
        like = kernel.ops, kernel.into, kernel.onto, kernel.taps, kernel.groups > 1, kernel.precision
        found.setdefault(like, []).append(kernel)
    return found


def _widths(kernels: Sequence[Fused]) -> Floats:
    """Logarithms of their channels, and whether these are odd for a runtime that takes them in fours, shape ``(n, 4)``."""
    channels = np.array([(kernel.cin, kernel.cout) for kernel in kernels], dtype=np.float64)
    return np.hstack([np.log2(channels), _ODD * (channels % 4 > 0)])


def _sized(space: SearchSpace, size: float, rng: np.random.Generator, *, absent: float) -> Rows:
    """A random network with widths around a share of their range, each of whose branches may be absent."""
    places = np.clip(size + _APART * (2 * rng.random(len(space.allowed)) - 1), 0, 1 - 1e-9)
    for gene in space.with_role("depth"):
        places[gene] = 0.0 if rng.random() < absent else 1 - 1e-9
    row = np.array([allowed[int(place * len(allowed))] for allowed, place in zip(space.allowed, places, strict=True)], dtype=np.uint8)
    canonical: Rows = space.canonical(row[None])[0]
    return canonical


def draw(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Rows]:
    """Random different networks from small to large: one of each class of size."""
    found: dict[Network, Rows] = {}
    for _ in range(_POOL * count):
        row = _sized(space, rng.random(), rng, absent=_ABSENT)
        found.setdefault(space.blocks(row), row)
    networks = sorted(found, key=lambda network: sum(block.macs for block in network))
    classes = np.array_split(np.arange(len(networks)), max(1, min(count, len(networks))))
    return [found[networks[rng.choice(places)]] for places in classes if len(places)]


def openers(space: SearchSpace, backend: Backend, chosen: Chosen, folder: Path) -> dict[str, Open]:
    """How to open each network, an empty one, and the one of middling size; files are written when they are needed first.

    Args:
        space: that writes the files of its networks.
        backend: that runs them.
        chosen: the networks.
        folder: where the files go.
    """

    def opened(name: str, row: Rows) -> Session:
        path = folder / f"{name.removeprefix(_PROFILED)}{backend.suffix}"
        if not path.exists():
            path.write_bytes(space.model_file(row))
        return backend.profiled(path) if name.startswith(_PROFILED) else backend.load(path)

    sentinel = sentinel_of(backend.precisions)
    things: dict[str, Open] = {name: partial(opened, name, row) for name, row in chosen.rows.items()}
    blocks: dict[str, Open] = {name_of(each): partial(backend.open, each) for each in ((), (sentinel,))}
    return {**blocks, **things, MIDDLE: partial(opened, MIDDLE, chosen.middle)}


def assemble_kernels(space: SearchSpace, chosen: Chosen, before: LatencyTable, readings: Readings) -> LatencyTable:
    """The table before, and all that was measured since.

    Args:
        space: whose networks were measured.
        chosen: which ones.
        before: the table, perhaps an empty one.
        readings: of all networks, with the kernels of those under the profiler.

    Raises:
        BuildFailed: none of the networks for the profiler could be built.
    """
    lost = {name: why for name, why in readings.failed.items() if name in chosen.rows}
    if chosen.profiled and all(name in lost for name in chosen.profiled):
        raise BuildFailed(f"No network of {space.name!r} could be built: {next(iter(lost.values()))}")
    sentinel = name_of((Block.parse(before.protocol.sentinel),))
    reference = readings.reference_ms()
    sentinel_ms = before.protocol.sentinel_ms or readings.row(sentinel, reference).latency_ms
    reference *= sentinel_ms / readings.row(sentinel, reference).latency_ms
    found: dict[str, list[Row]] = {}
    for name, row in chosen.profiled.items():
        if name not in lost:
            for slot, blocks in space.placed(row):
                part = f"{name}{PART}{slot.name}"
                if blocks:
                    measured = readings.row(part, reference) if part in readings.parts else Row(_LEAST_MS)
                    found.setdefault(blocks[0].key, []).append(measured)
    rows = {key: _middle(each) for key, each in found.items()}
    checks = list(before.checks)
    alongside = {name: (row, "fit") for name, row in chosen.profiled.items()}
    for name, (row, role) in (alongside | dict(chosen.roles)).items():
        if name not in lost:
            own = readings.row(name, reference)
            # The spread of a check is understood as that of a dozen readings; here all of them count.
            spread_ms = own.spread_ms * math.sqrt(READINGS / max(READINGS, own.rounds))
            checks.append(Check(role, _keys(space.blocks(row)), own.latency_ms, spread_ms))
    call_ms = before.calibration.call_ms or readings.row(name_of(()), reference).latency_ms
    calibration = replace(before.calibration, call_ms=call_ms) if before.checks else Calibration(call_ms, call_ms)
    return replace(
        before,
        protocol=replace(before.protocol, sentinel_ms=sentinel_ms),
        rows={**before.rows, **rows},
        calibration=calibration,
        checks=(),
        energy="unavailable",
        spent_s=before.spent_s + readings.spent_s,
    ).calibrate(tuple(checks))


def _keys(network: Iterable[Block]) -> tuple[str, ...]:
    return tuple(block.key for block in network)


def _middle(rows: list[Row]) -> Row:
    """One row of several of the same kernel in different networks or places: the middle one, since few neighbours slow a kernel a lot."""
    middle = sorted(rows, key=lambda row: row.latency_ms)[(len(rows) - 1) // 2]
    return Row(max(middle.latency_ms, _LEAST_MS), middle.spread_ms, sum(row.rounds for row in rows))
