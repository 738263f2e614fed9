"""What to measure of a space that is too large to be measured whole: corners, stairs, whole networks, and where the model is least sure.

What comes next follows from what a table holds, and from nothing else; a batch that has begun stands in its journal. So a run that was
stopped continues where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..devices._interpolation import coordinates
from ..devices._table import LatencyTable
from ..networks._blocks import Block
from ..spaces._space import SearchSpace
from ._networks import uniform_precisions
from ._plan import Network
from ._workbench import Workbench

MOST_BLOCKS = 600
"""A sample holds at most this many blocks."""
_BATCH = 48
_FIRST = 8
"""Things that are measured before it is known how long things take."""
_NETWORKS = 8
_CORNERS = 24
"""Of each family."""
_LINE = 7
"""Measured points of a staircase, at most."""
_POOL = 600


@dataclass(frozen=True)
class Batch:
    """What is measured next, together.

    Attributes:
        blocks: to be measured in their frames.
        networks: whole networks -> role.
    """

    blocks: tuple[Block, ...] = ()
    networks: Mapping[Network, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.blocks) + len(self.networks)

    def first(self, count: int) -> Batch:
        """The first ``count`` of it."""
        return Batch(self.blocks[:count], dict(list(self.networks.items())[: max(0, count - len(self.blocks))]))

    def document(self) -> dict[str, Any]:
        """It as JSON data, to stand in a journal."""
        networks = [[role, [block.key for block in network]] for network, role in self.networks.items()]
        return {"blocks": [block.key for block in self.blocks], "networks": networks}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Batch:
        """The batch that was written as JSON data."""
        networks = {tuple(map(Block.parse, keys)): role for role, keys in document["networks"]}
        return cls(tuple(map(Block.parse, document["blocks"])), networks)


class Sampler:
    """Chooses what to measure.

    Args:
        space: that the table shall serve.
        bench: where it is measured; blocks that it does not run are left out.
        networks: whole networks -> role, all of which are measured.
        seed: of the candidates.
        most: blocks in all.
    """

    def __init__(
        self, space: SearchSpace, bench: Workbench, networks: Mapping[Network, str], seed: int = 0, most: int = MOST_BLOCKS
    ) -> None:
        self.space, self.bench, self.seed, self.most = space, bench, seed, most
        self._networks, self._lost = dict(networks), set[Block]()
        self._able: dict[str, list[Block]] = {}
        for block in (space.unique_blocks[index] for index in space.reachable):
            if bench.supports(block):
                self._able.setdefault(block.family, []).append(block)
        self._corners = [block for members in self._able.values() for block in corners(members, _CORNERS)]
        self._lines = self._stairs()

    def drop(self, blocks: Iterable[Block], networks: Iterable[Network]) -> None:
        """Choose these no more: they could not be built."""
        self._lost |= set(blocks)
        self._networks = {n: role for n, role in self._networks.items() if n not in set(networks) and self._lost.isdisjoint(n)}

    def within(self, table: LatencyTable, budget_s: float) -> Batch:
        """As much of :meth:`next` as fits into a budget, if all things take what those in the table took on average; at first a few."""
        batch, done = self.next(table), len(table.rows) + len(table.checks)
        return batch.first(int((budget_s - table.spent_s) * done / table.spent_s) if done else _FIRST)

    def next(self, table: LatencyTable) -> Batch:
        """What to measure next, given what was measured so far; an empty batch if nothing is left."""
        lacking = [block for block in table.missing(self._corners) if block not in self._lost]
        if lacking:
            return Batch(tuple(lacking[:_BATCH]))
        known = {check.blocks for check in table.checks}
        wanted = {n: role for n, role in self._networks.items() if tuple(block.key for block in n) not in known}
        if wanted:
            return Batch(networks=dict(list(wanted.items())[:_NETWORKS]))
        left = self.most - len(table.rows)
        if left <= 0:
            return Batch()
        chosen = [block for block in self._bisected(table) if block not in self._lost]
        return Batch(tuple((chosen or self._least_sure(table))[: min(left, _BATCH)]))

    # -- stairs --------------------------------------------------------------------------------------------------------

    def _stairs(self) -> list[list[Block]]:
        """Lines of blocks that differ in one gene: of the middle and the largest slot of each family, all others at their largest."""
        lines: dict[tuple[Block, ...], None] = {}
        places = [np.where(np.isin(slot.blocks, self.space.reachable), slot.blocks, -1) for slot in self.space.slot_blocks]
        for name, members in self._able.items():
            if not members[0].mids or len(members) < self.most:
                continue
            slots = [self._largest(cells, name) for cells in places]
            largest = sorted((one for one in slots if one is not None), key=lambda one: one[0])
            for index in sorted({len(largest) // 2, len(largest) - 1} if largest else ()):
                _, place, cells = largest[index]
                for axis, size in enumerate(cells.shape):
                    line = [int(cells[(*place[:axis], value, *place[axis + 1 :])]) for value in range(size)]
                    found = tuple(dict.fromkeys(self.space.unique_blocks[cell] for cell in line if cell >= 0))
                    if len(found) > 2 and all(block.family == name for block in found):
                        lines[found] = None
        return [list(line) for line in lines]

    def _largest(self, blocks: npt.NDArray[np.int32], name: str) -> tuple[int, tuple[int, ...], npt.NDArray[np.int32]] | None:
        """The largest block of a family at a corner of a slot: its MACs, its cell, and the slot's cells; of slots of single blocks."""
        if blocks.shape[-1] != 1:
            return None
        cells = blocks[..., 0]
        places = itertools.product(*(sorted({0, size - 1}) for size in cells.shape))
        known = [(self.space.unique_blocks[cells[place]], place) for place in places if cells[place] >= 0]
        found = [(block.macs, place) for block, place in known if block.family == name]
        return (*max(found), cells) if found else None

    def _bisected(self, table: LatencyTable) -> list[Block]:
        """The ends of each line, then the middle of the interval in which latency rises most."""
        chosen: dict[Block, None] = {}
        for line in self._lines:
            measured = [index for index, block in enumerate(line) if block.key in table.rows]
            if ends := [block for block in (line[0], line[-1]) if block.key not in table.rows]:
                chosen |= dict.fromkeys(ends)
                continue
            if len(measured) >= _LINE:
                continue
            gaps = [(a, b) for a, b in itertools.pairwise(measured) if b - a > 1]
            if gaps:
                cost = {index: table.rows[line[index].key].latency_ms for index in measured}
                a, b = max(gaps, key=lambda gap: (abs(cost[gap[1]] - cost[gap[0]]), gap))
                chosen[line[(a + b) // 2]] = None
        return list(chosen)

    # -- where the model is least sure ---------------------------------------------------------------------------------

    def _least_sure(self, table: LatencyTable) -> list[Block]:
        """The blocks of random networks whose measurement tells most: the most uncertain time, each time given the ones before.

        All precisions get the same number, since networks of each are to be predicted.
        """
        rng = np.random.default_rng([self.seed, len(table.rows)])
        names = uniform_precisions(self.space, self.bench.precisions)
        able = [self.space.restrict({"precision": [name]}) for name in names] or [self.space]
        drawn = (block for space in able for row in space.sample(150, rng) for block in self.space.blocks(row))
        fresh = [block for block in table.missing(drawn) if self.bench.supports(block) and block not in self._lost]
        chosen: list[Block] = []
        precisions = sorted({block.precision for block in fresh})
        for precision in precisions:
            found: list[tuple[float, Block]] = []
            pool = [block for block in fresh if block.precision == precision]
            share = table.measured_ms(pool)
            share /= share.mean()
            for name in sorted({block.family for block in pool}):
                places = [index for index, block in enumerate(pool) if block.family == name][:_POOL]
                process = table.process(name)
                found += process.least_sure([pool[index] for index in places], share[places], _BATCH)
            found.sort(key=lambda entry: -entry[0])
            chosen += [block for _, block in found[: _BATCH // len(precisions)]]
        return chosen


def corners(blocks: Sequence[Block], count: int) -> list[Block]:
    """Blocks that are far from each other: the cheapest, the costliest, and then always the one that is farthest from those taken."""
    if len(blocks) <= count:
        return list(blocks)
    rng = np.random.default_rng(0)
    pool = [blocks[index] for index in np.sort(rng.permutation(len(blocks))[:4000])]
    work = [(block.macs, block.traffic_bytes) for block in blocks]
    taken = [blocks[work.index(min(work))], blocks[work.index(max(work))]]
    places = coordinates([*taken, *pool])
    places /= np.maximum(places.std(axis=0), 1e-9)
    distance = np.minimum(*(((places - places[index]) ** 2).sum(axis=1) for index in (0, 1)))
    while len(taken) < count:
        farthest = int(distance.argmax())
        taken.append([*taken[:2], *pool][farthest])
        distance = np.minimum(distance, ((places - places[farthest]) ** 2).sum(axis=1))
    return list(dict.fromkeys(taken))


def held_out_error(table: LatencyTable) -> float:
    """Mean relative error on the networks of role ``"fit"``, each half predicted with the calibration on the other; 1.0 without any.

    Networks whose measurement is noisy play no part in it, if there are others.
    """
    fits = [check for check in table.checks if check.role == "fit"]
    calm = [check for check in fits if not check.noisy]
    fits = calm if len(calm) >= 4 else fits
    if len(fits) < 4:
        return 1.0
    errors: list[float] = []
    for half in (0, 1):
        roles: Iterable[str] = ("check" if index % 2 == half else "fit" for index in range(len(fits)))
        checks = tuple(replace(check, role=role) for check, role in zip(fits, roles, strict=True))
        errors += [abs(check.error) for check in table.calibrate(checks).checks if check.role == "check"]
    return float(np.mean(errors))
