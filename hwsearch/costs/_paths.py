"""Paths: what a cell computes, whatever its edges are called: which operations lie on the ways from its input to its output.

Two cells may differ in many genes and compute the same, and an operation counts for nothing where no way leads through it. A model that
reads what lies on the paths (White et al., AAAI'21, "BANANAS") learns that from far fewer networks than one that reads genes alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .._types import Values
from ..errors import InvalidInput, UnknownName
from ..spaces._space import SearchSpace
from ._metrics import Metric

_MOST_CELLS = 1_000_000
"""Cells of the tables of all paths; cells with longer or more paths are refused."""


def path_metrics(space: SearchSpace, edges: Mapping[str, tuple[int, int]], *, without: Sequence[str] = ("none",)) -> tuple[Metric, ...]:
    """How many paths lead through a cell, and how many operations of each kind lie on them, counted once for each path.

    Given as ``metrics=`` of a search, they may be limited like any other metric, and the algorithm ``surrogate`` reads them beside the
    genes, so that it needs fewer evaluations.

    Args:
        space: the space whose rows they take.
        edges: gene that chooses the operation of an edge -> the nodes that the edge leads from and to. The input of the cell is the node
            that no edge leads to, its output the one that none leads from.
        without: operations that pass nothing on.

    Returns:
        ``paths``, and ``paths_OPERATION`` for each operation that passes something on.

    Raises:
        UnknownName: an edge names a gene that does not exist.
        InvalidInput: there is no single input or output, edges lead in a circle, a gene depends on another one, or the paths are very
            many.

    Example:
        >>> import hwsearch
        >>> from hwsearch.costs import path_metrics
        >>> space = hwsearch.load_space("nasbench201")
        >>> edges = {f"node{node}.from{source}": (source, node) for node in (1, 2, 3) for source in range(node)}
        >>> paths, skips, small, large, pools = path_metrics(space, edges)
        >>> cell = dict.fromkeys(edges, "none") | {"node1.from0": "nor_conv_3x3", "node3.from1": "skip_connect"}
        >>> row = space.encode(cell)
        >>> [float(metric(row[None])[0]) for metric in (paths, skips, small, large, pools)]
        [1.0, 1.0, 0.0, 1.0, 0.0]
    """
    places = {choice.name: place for place, choice in enumerate(space.choices)}
    for name in edges:
        if name not in places:
            raise UnknownName("gene of an edge", name, places)
    ways = [sorted(way, key=places.__getitem__) for way in _ways(edges)]
    values = {name: [str(value) for value in space.choices[places[name]].values] for name in edges}
    if sum(math.prod(len(values[name]) for name in way) for way in ways) > _MOST_CELLS:
        raise InvalidInput(f"The edges make {len(ways)} paths, whose tables would have more than {_MOST_CELLS:,} cells; name fewer edges.")
    kinds = [kind for kind in dict.fromkeys(value for own in values.values() for value in own) if kind not in without]
    passing = [_product([np.isin(values[name], without, invert=True) for name in way]) for way in ways]
    found = [Metric.from_tables("paths", space, list(zip(ways, passing, strict=True)))]
    for kind in kinds:
        counts = [_total([np.array(values[name]) == kind for name in way]) * passes for way, passes in zip(ways, passing, strict=True)]
        found.append(Metric.from_tables(f"paths_{kind}", space, list(zip(ways, counts, strict=True))))
    return tuple(found)


def _ways(edges: Mapping[str, tuple[int, int]]) -> list[list[str]]:
    """The edges of every way from the input to the output.

    Raises:
        InvalidInput: there is no single input or output, or edges lead in a circle.
    """
    sources, targets = ({ends[side] for ends in edges.values()} for side in (0, 1))
    first, last = sources - targets, targets - sources
    if len(first) != 1 or len(last) != 1:
        raise InvalidInput(f"The edges lead from {sorted(first)} to {sorted(last)}; a cell has one input and one output.")

    def onward(node: int, met: tuple[int, ...]) -> Iterator[list[str]]:
        if node in met:
            raise InvalidInput(f"The edges lead in a circle, through the nodes {[*met, node]}.")
        if node in last:
            yield []
        for name, (source, target) in edges.items():
            if source == node:
                yield from ([name, *rest] for rest in onward(target, (*met, node)))

    return list(onward(first.pop(), ()))


def _product(parts: Sequence[np.ndarray]) -> Values:
    """The product of vectors, an axis for each."""
    result: Values = np.ones(())
    for part in parts:
        result = np.multiply.outer(result, part.astype(np.float64))
    return result


def _total(parts: Sequence[np.ndarray]) -> Values:
    """The sum of vectors, an axis for each."""
    result: Values = np.zeros(())
    for part in parts:
        result = np.add.outer(result, part.astype(np.float64))
    return result
