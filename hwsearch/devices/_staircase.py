"""Staircases: latency climbs in stairs as a width grows, and only the widths at the right-hand edge of a stair are worth having."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from ..networks._blocks import Block
from ..spaces._genes import Rows, Value
from ..spaces._space import SearchSpace

Costs = Callable[[Sequence[Block]], npt.NDArray[np.float64]]
"""Blocks -> their milliseconds, shape ``(n,)``."""
TOLERANCE = 0.03
_SHARE = 0.25
_ROWS = 12


def right_edges(cost: Mapping[int, float], tolerance: float = TOLERANCE) -> tuple[int, ...]:
    """The widths that no wider one equals in cost.

    A wider one is as fast if it costs at most ``tolerance`` more, and at most a quarter of what its additional channels cost on average
    over the whole line: on a fine grid even a steep slope is a small step.

    Args:
        cost: width -> cost.
        tolerance: relative.

    Returns:
        The widths to keep, ascending.
    """
    widths = sorted(cost)
    slope = max(0.0, (cost[widths[-1]] - cost[widths[0]]) / max(1, widths[-1] - widths[0]))

    def as_fast(wider: int, width: int) -> bool:
        return cost[wider] - cost[width] <= min(tolerance * cost[width], _SHARE * slope * (wider - width))

    return tuple(w for index, w in enumerate(widths) if not any(as_fast(wider, w) for wider in widths[index + 1 :]))


def space_edges(costs: Costs, space: SearchSpace, tolerance: float = TOLERANCE) -> dict[str, tuple[Value, ...]]:
    """For each width of a space the values at right-hand edges.

    What a width costs is the mean, over networks of the space, of the costs of the blocks that it is a width of.

    Args:
        costs: of blocks on the device.
        space: its genes of the role ``"width"`` whose values are numbers of channels; within what it is restricted to.
        tolerance: as in :func:`right_edges`.

    Raises:
        InvalidInput: the space has no such gene with a choice.
        HwsearchError: as ``costs`` does.
    """
    widths = [g for g in space.with_role("width") if all(isinstance(value, int) for value in space.choices[g].values)]
    genes = [g for g in widths if len(space.allowed[g]) > 1]
    if not genes:
        raise InvalidInput(f"Space {space.name!r} has no widths to choose from: no gene has the role 'width' and several values.")
    base = _networks(space)
    active = space.active(base)
    rows = {gene: _lines(space, base[active[:, gene]], gene) for gene in genes}
    used = {gene: [space.slots.index(slot) for slot in space.slots if space.choices[gene].name in slot.depends_on] for gene in genes}
    networks = {gene: [space.placed(row) for row in rows[gene]] for gene in genes}
    blocks = tuple(
        dict.fromkeys(block for gene in genes for network in networks[gene] for slot in used[gene] for block in network[slot][1])
    )
    cost = dict(zip(blocks, costs(blocks).tolist(), strict=True))
    edges: dict[str, tuple[Value, ...]] = {}
    for gene in genes:
        choice, allowed = space.choices[gene], space.allowed[gene]
        sums = [sum(cost[block] for slot in used[gene] for block in network[slot][1]) for network in networks[gene]]
        means = np.array(sums).reshape(-1, len(allowed)).mean(axis=0)
        kept = right_edges({int(choice.values[index]): float(mean) for index, mean in zip(allowed, means, strict=True)}, tolerance)
        edges[choice.name] = tuple(choice.values[index] for index in allowed if choice.values[index] in kept)
    return edges


def _networks(space: SearchSpace) -> Rows:
    """Random networks that are as deep as can be, so that all their widths count, shape ``(n, genes)``."""
    deep = space.restrict({space.choices[g].name: [space.choices[g].values[space.allowed[g][-1]]] for g in space.with_role("depth")})
    return deep.sample(_ROWS, np.random.default_rng(0))


def _lines(space: SearchSpace, base: Rows, gene: int) -> Rows:
    """Each network with each allowed value of a gene, shape ``(len(base) * values, genes)``."""
    values = np.array(space.allowed[gene], dtype=np.uint8)
    rows = np.repeat(base, len(values), axis=0)
    rows[:, gene] = np.tile(values, len(base))
    return rows
