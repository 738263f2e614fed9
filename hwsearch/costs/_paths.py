"""Paths: what a cell computes, whatever its edges are called: which operations lie on the ways from its input to its output.

Two cells may differ in many genes and compute the same, and an operation counts for nothing where no way leads through it. A model that
reads what lies on the paths (White et al., AAAI'21, "BANANAS") learns that from far fewer networks than one that reads genes alone, and
so does one that knows how deep and how wide a cell is (Shu et al., ICLR'20, "Understanding architectures learnt by cell-based NAS").
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import Values
from ..errors import InvalidInput, UnknownName
from ..spaces._space import SearchSpace
from ._metrics import Metric

_MOST_CELLS, _MOST_PATHS, _LONGEST = 1_000_000, 10_000, 32
"""Entries of the tables of all paths, paths, and edges on one of them; cells with more are refused."""
_STOPS, _SAME = ("none",), ("skip_connect",)
_MANY = 3
"""Paths of so many operations count together with those of more."""
Edges = Mapping[str, tuple[int, int]]


def path_metrics(space: SearchSpace, edges: Edges, *, without: Sequence[object] = _STOPS) -> tuple[Metric, ...]:
    """How many paths lead through a cell, and how many operations of each kind lie on them, counted once for each path.

    Given as ``metrics=`` of a search, they may be limited like any other metric, and the algorithm ``surrogate`` reads them beside the
    genes, so that it needs fewer evaluations.

    Args:
        space: the space whose rows they take.
        edges: gene that chooses the operation of an edge -> the nodes that the edge leads from and to. The input of the cell is the node
            that no edge leads to, its output the one that none leads from.
        without: operations that pass nothing on, as the genes have them.

    Returns:
        ``paths``, and ``paths_OPERATION`` for each operation that passes something on.

    Raises:
        UnknownName: an edge names a gene that does not exist, or an operation is of no edge.
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
    paths = _Paths.of(space, edges, without)
    own = {f"paths_{kind}": paths.counted([kind]) for kind in paths.kinds}
    return tuple(paths.metric(name, counts) for name, counts in ({"paths": [1.0] * len(paths.ways)} | own).items())


def path_lengths(
    space: SearchSpace, edges: Edges, *, without: Sequence[object] = _STOPS, same: Sequence[object] = _SAME
) -> tuple[Metric, ...]:
    """How many paths through a cell are how long, and on how many of them an operation lies how often.

    Sums over paths (:func:`path_metrics`) do not tell a cell that is deep and narrow from one that is flat and wide; these do.

    Args:
        space, edges, without: as of :func:`path_metrics`.
        same: operations that pass on what they get, and make no path longer.

    Returns:
        As many as there can be of ``paths_of_0`` to ``paths_of_3``, the paths of so many operations, or more, and of
        ``paths_of_0_OPERATION`` to ``paths_of_3_OPERATION``, the paths on which this one lies so often, or more.

    Raises:
        HwsearchError: as :func:`path_metrics`.

    Example:
        >>> import hwsearch
        >>> from hwsearch.costs import path_lengths
        >>> space = hwsearch.load_space("nasbench201")
        >>> cell = dict.fromkeys(space.edges, "none") | {"node1.from0": "nor_conv_3x3", "node3.from1": "skip_connect"}
        >>> row = space.encode(cell)
        >>> {metric.name: float(metric(row[None])[0]) for metric in path_lengths(space, space.edges)[:4]}
        {'paths_of_0': 0.0, 'paths_of_1': 1.0, 'paths_of_2': 0.0, 'paths_of_3': 0.0}
    """
    paths = _Paths.of(space, edges, without)
    idle = _known(same, paths.kinds, _SAME)
    some = {"": [kind for kind in paths.kinds if kind not in idle]} | {f"_{kind}": [kind] for kind in paths.kinds}
    found = []
    for suffix, kinds in some.items():
        counts = [np.minimum(count, _MANY) for count in paths.counted(kinds)]
        for length in range(1 + min(_MANY, max(len(way) for way in paths.ways))):
            found.append(paths.metric(f"paths_of_{length}{suffix}", [count == length for count in counts]))
    return tuple(found)


@dataclass(frozen=True)
class _Paths:
    """The paths of a cell.

    Attributes:
        space: whose cell it is.
        ways: the genes of the edges of each path, in their order in the space.
        values: gene -> its operations, as words.
        kinds: operations that pass something on.
        passing: for each path where it does, an axis for each of its edges.
    """

    space: SearchSpace
    ways: list[list[str]]
    values: dict[str, list[str]]
    kinds: list[str]
    passing: list[Values]

    @classmethod
    def of(cls, space: SearchSpace, edges: Edges, without: Sequence[object]) -> _Paths:
        """List them.

        Raises:
            UnknownName, InvalidInput: as :func:`path_metrics`.
        """
        places = {choice.name: place for place, choice in enumerate(space.choices)}
        _check_edges(edges, places)
        values = {name: [str(value) for value in space.choices[places[name]].values] for name in edges}
        kinds = list(dict.fromkeys(value for own in values.values() for value in own))
        blocked = _known(without, kinds, _STOPS)
        ways = [sorted(way, key=places.__getitem__) for way in _listed(edges, values)]
        passing = [_product([np.isin(values[name], blocked, invert=True) for name in way]) for way in ways]
        return cls(space, ways, values, [kind for kind in kinds if kind not in blocked], passing)

    def counted(self, kinds: Sequence[str]) -> list[Values]:
        """How many operations of some kinds lie on each path, an axis for each of its edges."""
        return [_total([np.isin(self.values[name], kinds) for name in way]) for way in self.ways]

    def metric(self, name: str, counts: Sequence[Any]) -> Metric:
        """The sum over paths of what counts for each."""
        return Metric.from_tables(name, self.space, [(way, n * on) for way, n, on in zip(self.ways, counts, self.passing, strict=True)])


def _check_edges(edges: Edges, genes: Collection[str]) -> None:
    """Raise UnknownName or InvalidInput if an edge names no gene, or leads nowhere."""
    ends: Any
    for name, ends in edges.items():
        if name not in genes:
            raise UnknownName("gene of an edge", name, genes)
        if not isinstance(ends, tuple | list) or len(ends) != 2:
            raise InvalidInput(f"Edge {name!r} must lead from one node to another, as in (0, 1), not {ends!r}.")


def _known(operations: Sequence[object], kinds: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Operations that are given by name, as words.

    Raises:
        UnknownName: one is of no edge, and not what is usual.
        InvalidInput: it is no list.
    """
    if isinstance(operations, str):
        raise InvalidInput(f"Operations must be a list, such as [{operations!r}].")
    found = [str(each) for each in operations]
    for operation in found:
        if operation not in (*kinds, *usual):
            raise UnknownName("operation", operation, kinds)
    return found


def _listed(edges: Mapping[str, tuple[int, int]], values: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The edges of every way from the input to the output, as long as their tables are not too large.

    Raises:
        InvalidInput: they are, or as :func:`_ways` says.
    """
    found: list[list[str]] = []
    cells = 0
    for way in _ways(edges):
        cells += math.prod(len(values[name]) for name in way)
        found.append(way)
        if cells > _MOST_CELLS or len(found) > _MOST_PATHS or len(way) > _LONGEST:
            raise InvalidInput(
                f"The edges make too many or too long paths: at most {_MOST_PATHS:,} of {_LONGEST} edges, whose tables have "
                f"{_MOST_CELLS:,} entries together. Name fewer edges."
            )
    return found


def _ways(edges: Mapping[str, tuple[int, int]]) -> Iterator[list[str]]:
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

    return onward(first.pop(), ())


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
