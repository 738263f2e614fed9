"""From a space to the plan of what is measured of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..devices._table import LatencyTable
from ..errors import InvalidInput, Unsupported
from ..networks._blocks import Block
from ..spaces._space import SearchSpace
from ._effort import Effort, sentinel_of
from ._journal import make_header
from ._networks import networks_of
from ._plan import Network, Plan, fingerprint_of, name_of
from ._workbench import Workbench

MOST_WHOLE = 20_000
"""A space of more blocks than these can only be sampled."""


def plan_space(space: SearchSpace, bench: Workbench, table: LatencyTable, effort: Effort, seed: int) -> Plan:
    """What is to be measured so that a table holds a space.

    Args:
        space: perhaps restricted.
        bench: where it is measured.
        table: what was measured before, perhaps nothing.
        effort: how much is measured.
        seed: of the networks, and of the order of measuring.

    Raises:
        Unsupported: the device runs no block of the space, or one of ``effort.blocks`` it does not run.
        InvalidInput: the space has too many blocks to measure all of them.
    """
    blocks = effort.blocks
    wanted = tuple(dict.fromkeys([space.unique_blocks[index] for index in space.reachable] if blocks is None else blocks))
    able = tuple(block for block in wanted if bench.supports(block))
    if blocks is None:
        _check_whole(space, bench, wanted, able)
    elif len(able) < len(wanted):
        bench.check(next(block for block in wanted if block not in able))
    roles = networks_of(space, bench.precisions, table, effort, seed) if blocks is None else {}
    fingerprint = part_of(space) if blocks is None else fingerprint_of(block.key for block in wanted)
    header = make_header(table.device, table.protocol, space.name, fingerprint, seed)
    return frame(bench, table, header, table.missing(able, energy=table.energy != "unavailable"), roles)


def frame(bench: Workbench, table: LatencyTable, header: Mapping[str, Any], blocks: Iterable[Block], roles: Mapping[Network, str]) -> Plan:
    """A plan of blocks in the frames of a device, and of whole networks.

    Args:
        bench: says how blocks are framed.
        table: what was measured before; it names the sentinel.
        header: what the journal begins with, but for the names of the whole networks.
        blocks: to be measured.
        roles: whole networks -> role.
    """
    sentinel = Block.parse(table.protocol.sentinel) if table.protocol.sentinel else sentinel_of(bench.precisions)
    framed = {block: bench.framed(block) for block in blocks}
    return Plan({**header, "again": sorted(map(name_of, roles))}, framed, dict(roles), sentinel)


def _check_whole(space: SearchSpace, bench: Workbench, wanted: Sequence[Block], able: Sequence[Block]) -> None:
    """Check that all blocks of a space that a device runs can be measured."""
    if space.kernels_only and not able:
        raise Unsupported(
            f"The kernels of {space.name!r} run only inside it, and {bench.name!r} {'' if bench.here else 'on a board '}does not tell what "
            "single kernels of a network take. Profile here with backend='onnxruntime', or measure files with hwsearch.measure()."
        )
    if not any(block.inner for block in able):
        needs = dict.fromkeys(block.precision for block in wanted if block.inner)
        raise Unsupported(
            f"Backend {bench.name!r} runs no block of {space.name!r}: its precisions are {', '.join(bench.precisions)}, and the "
            f"space's are {', '.join(needs)}."
        )
    if len(able) > MOST_WHOLE:
        raise InvalidInput(
            f"Space {space.name!r} has {len(able):,} blocks on {bench.name!r}, too many to measure them all, or to emit. Measure a "
            f"sample, here or through --remote: hwsearch profile {space.name} --budget 20m, or profile(..., effort=Effort(budget='20m'))."
        )


def part_of(space: SearchSpace) -> str:
    """The fingerprint of a space, which another restriction of it does not share."""
    if all(len(allowed) == size for allowed, size in zip(space.allowed, space.sizes, strict=True)):
        return space.fingerprint
    return fingerprint_of([space.fingerprint, str(space.allowed)])
