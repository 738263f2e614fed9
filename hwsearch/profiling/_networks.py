"""Which random whole networks are measured beside the blocks of a space, and for what."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ..backends.base import check_fit
from ..devices._calibration import network_class
from ..devices._table import LatencyTable
from ..errors import InvalidInput, Unsupported
from ..networks._blocks import Block
from ..spaces._space import SearchSpace
from ._effort import Effort
from ._plan import Network

FEWEST_CHECKS = 12
_POOL = 4
"""Of this many random networks one is taken, so that all sizes are among those taken."""
_TRIES = 20
"""Of a space of few networks this many times the number is drawn, since many are drawn more than once."""


def networks_of(space: SearchSpace, precisions: Sequence[str], table: LatencyTable, effort: Effort, seed: int) -> dict[Network, str]:
    """The random whole networks -> role that a table lacks; see :class:`~hwsearch.profiling.Effort`.

    In each role the networks are shared equally among the precisions that all blocks may share and mixed ones, and each share ranges from
    small to large networks. Networks that the table holds already count, whichever they are.
    """
    if effort.checks < FEWEST_CHECKS:
        raise InvalidInput(f"checks must be at least {FEWEST_CHECKS}, so that the table's error means something, not {effort.checks}.")
    wanted = {"check": effort.checks, "fit": effort.fits}
    held = _held(space, table)
    parts = kinds_of(space, precisions)
    short = dict.fromkeys(wanted, 0)
    found, seen = list[dict[Network, str]](), set[Network]()
    for number, (kind, part) in enumerate(parts.items()):
        # What one kind has too few networks for falls to the next; the mixed ones come last.
        share = {role: share_of(count, len(parts), number) + short[role] for role, count in wanted.items()}
        drawn = _draw(part, kind, share, np.random.default_rng([seed, number]), seen)
        seen.update(drawn)
        short = {role: count - list(drawn.values()).count(role) for role, count in share.items()}
        known = [role for own, role in held.values() if kind in ("any", own)]
        lack = {role: share[role] - short[role] - known.count(role) for role in wanted}
        fresh: dict[Network, str] = {}
        for network, role in drawn.items():
            if network not in held and lack[role] > 0:
                fresh[network] = role
                lack[role] -= 1
        found.append(fresh)
    # In turns, so that each kind is there early.
    turns = itertools.zip_longest(*(part.items() for part in found))
    networks = dict(pair for turn in turns for pair in turn if pair is not None)
    for network in tuple(networks)[:1]:
        _check_runs(space, network)
    return networks


def kinds_of(space: SearchSpace, precisions: Sequence[str]) -> dict[str, SearchSpace]:
    """What networks are drawn of: the space at each precision that all blocks may share, and mixed; or all of it, as ``"any"``."""
    if not any(choice.is_precision for choice in space.choices):
        return {"any": space}
    mixed = space.restrict({"precision": precisions})
    names = uniform_precisions(space, precisions)
    if not names or mixed.size == space.restrict({"precision": names[:1]}).size:
        return {"any": mixed}
    return {**{name: space.restrict({"precision": [name]}) for name in names}, "mixed": mixed}


def _held(space: SearchSpace, table: LatencyTable) -> dict[Network, tuple[str, str]]:
    """The whole networks of a space that a table holds -> what precision they have, or ``"mixed"``, and their role."""
    if not table.checks:
        return {}
    known = {space.unique_blocks[index] for index in space.reachable}
    networks = ((tuple(map(Block.parse, check.blocks)), check.role) for check in table.checks)
    return {network: (network_class(network), role) for network, role in networks if known.issuperset(network)}


def share_of(count: int, parts: int, number: int) -> int:
    """How many of ``count`` fall to one of several parts; the first ones get what is left over."""
    return count // parts + (number < count % parts)


def _draw(
    space: SearchSpace, kind: str, share: Mapping[str, int], rng: np.random.Generator, seen: Collection[Network]
) -> dict[Network, str]:
    """Random different networks of one kind -> role, in random order: one of each class of size, the held-out ones among all sizes.

    If there are too few of this kind, others that were not seen before stand in.
    """
    count = sum(share.values())
    if not count:
        return {}
    rows = space.sample((_POOL if space.size > _TRIES * count else _TRIES) * count, rng)
    sample = dict.fromkeys(map(space.blocks, rows))
    pool = [network for network in sample if kind in ("any", network_class(network))]
    others = sample.keys() - set(pool) - set(seen)
    pool += [network for network in sample if network in others][: max(0, count - len(pool))]
    pool.sort(key=lambda network: sum(block.macs for block in network))
    drawn = [pool[rng.choice(places)] for places in np.array_split(np.arange(len(pool)), max(1, min(count, len(pool)))) if len(places)]
    # The share of held-out networks, in whole ones: wherever it rises, one is held out.
    rising = [math.floor(share["check"] * number / count + 0.5) for number in range(len(drawn) + 1)]
    roles = ["check" if after > before else "fit" for before, after in itertools.pairwise(rising)]
    return {drawn[index]: roles[index] for index in rng.permutation(len(drawn))}


def _check_runs(space: SearchSpace, network: Network) -> None:
    """Whole networks must be chains of blocks, or there is nothing to open on a device.

    Raises:
        Unsupported: they are not.
    """
    try:
        check_fit(network)
    except InvalidInput as error:
        raise Unsupported(
            f"Networks of {space.name!r} are no chains of blocks, so they cannot be measured whole ({error}) Measure its blocks alone with "
            f"profile(..., effort=Effort(blocks=space.unique_blocks))."
        ) from error


def uniform_precisions(space: SearchSpace, precisions: Sequence[str]) -> list[str]:
    """The precisions that a device runs and that every precision gene of the (perhaps restricted) space may have."""
    genes = zip(space.choices, space.allowed, strict=True)
    values = [{choice.values[index] for index in allowed} for choice, allowed in genes if choice.is_precision]
    return [name for name in precisions if values and all(name in each for each in values)]
