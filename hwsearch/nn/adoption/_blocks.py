"""Blocks that a network can do without: what keeps the shape of the value that it is given, without a sum around it.

Plain convolutions one after the other, as in VGG or MobileNet, have no residual branches, but a block whose result has the shape of what it
is given can be left out all the same: what reads the result then reads what the block was given. The two may have different numbers of
channels when widths are searched, so without the block its channels are those of the group before it (:class:`Passing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import fx

from ...networks._fused import CONVOLUTIONS
from ._axes import Labels
from ._branches import Branch, Passing, between, made_of
from ._formats import tensors_of
from ._groups import Analysis
from ._pieces import Piece, find_pieces
from .rules.base import base_name, bound, shape_of

_IN_A_ROW = 2
"""Blocks that follow one another directly, at most; more are put together. A size behind them depends on the widths of all."""


def find_blocks(network: fx.GraphModule, analysis: Analysis, branches: Sequence[Branch]) -> tuple[Branch, ...]:
    """The blocks of a network that lie in no residual branch, in its order.

    A block begins and ends between kernels, has one input and one result of equal shapes, and layers of its own alone make the channels
    of the result. It is as small as can be, so that a longer stretch goes by leaving out one after the other.

    Args:
        network: the captured graph.
        analysis: its groups.
        branches: its residual branches.
    """
    return tuple(_Search(network, analysis, branches).run())


class _Search:
    """One search for blocks."""

    def __init__(self, network: fx.GraphModule, analysis: Analysis, branches: Sequence[Branch]) -> None:
        self.network, self.analysis, self.branches = network, analysis, branches
        self.pieces = find_pieces(network)
        self.owner = {node: piece for piece in self.pieces for node in piece.nodes}
        self.place = {node.name: number for number, node in enumerate(network.graph.nodes)}
        self.by = {node.name: node for node in network.graph.nodes}
        self.group = {int(unit): group for group in analysis.groups for unit in group.units}
        self.mixing = {str(bound(piece.main)["weight"].target) for piece in self.pieces if piece.main is not None and _mixes(piece)}
        self.ranks = {rank for each in analysis.factors for rank in each.ranks}

    def run(self) -> list[Branch]:
        """All blocks, none of which overlaps another one but by holding it."""
        taken = {name for branch in self.branches for name in branch.kernels}
        after = _afterwards(self.network)
        found: dict[str, Branch] = {}
        for piece in self.pieces:
            if _mixes(piece) and piece.main is not None and piece.main.name not in taken:
                for block in self._around(piece, after):
                    found.setdefault(block.node, block)
                    break
        chosen: list[Branch] = []
        for block in sorted(found.values(), key=lambda block: len(block.kernels)):
            nodes = set(block.kernels)
            apart = all(nodes.isdisjoint(other.kernels) or nodes > set(other.kernels) for other in (*chosen, *self.branches))
            held = {name for other in chosen for name in other.kernels} | taken
            own = any(_mixes(piece) and piece.main.name not in held for piece in self.pieces if piece.main and piece.main.name in nodes)
            if apart and own and all(_made(block) != _made(other) for other in chosen):
                chosen.append(block)
        ordered = sorted(self._shortened(chosen), key=lambda block: self.place[block.node])
        return [self._named(block, len(self.branches) + number) for number, block in enumerate(ordered)]

    def _named(self, block: Branch, number: int) -> Branch:
        return made_of(f"b{number}", self.by[block.node], self.by[block.stays], self._nodes(block), block.passing)

    def _nodes(self, block: Branch) -> list[fx.Node]:
        return between(self.by[block.stays], self.by[block.node])

    def _around(self, piece: Piece, after: dict[fx.Node, fx.Node]) -> Iterator[Branch]:
        """The blocks that hold a kernel, from those that begin earliest, each as short as can be."""
        assert piece.main is not None
        ends = [piece.main]
        while ends[-1] in after:
            ends.append(after[ends[-1]])
        for start in reversed(list(self._starts(piece))):
            for end in ends:
                if shape_of(end) == shape_of(start) and (block := self._block(start, end)) is not None:
                    yield block
                    break

    def _starts(self, piece: Piece) -> Iterator[fx.Node]:
        """Where a block may begin that a kernel is the first to mix channels in: before it, or before depthwise kernels ahead of it."""
        first = None
        while True:
            outside = _outside(piece)
            if len(outside) != 1 or (first is not None and shape_of(outside[0]) != shape_of(first)):
                return
            first = outside[0]
            yield first
            before = self.owner.get(first)
            alone = before is not None and before.nodes[-1] is first and set(first.users) <= set(piece.nodes)
            if before is None or not alone or before.main is None or _mixes(before):
                return
            piece = before

    def _block(self, start: fx.Node, end: fx.Node) -> Branch | None:
        """The block between two values of equal shape, if it is one."""
        nodes = between(start, end)
        inside = set(nodes)
        pieces = {id(piece): piece for node in nodes if (piece := self.owner.get(node)) is not None}
        if not nodes or not all(inside.issuperset(piece.nodes) for piece in pieces.values()):
            return None
        passing = self._passing(start, end, {str(node.target) for node in nodes if node.op == "get_attr"})
        return None if passing is None else made_of("", end, start, nodes, passing)

    def _passing(self, start: fx.Node, end: fx.Node, weights: set[str]) -> Passing | None:
        """Which channels stand for which, where those of both values are a group each, and these weights alone make those of the result."""
        given, made = self._units(start), self._units(end)
        if given is None or made is None or given[0] != made[0] or given[1].shape != made[1].shape:
            return None
        groups = [
            {self.group[int(unit)].id: self.group[int(unit)] for unit in units if int(unit) in self.group} for _, units in (given, made)
        ]
        if any(len(each) != 1 for each in groups):
            return None
        (before,), (own,) = (each.values() for each in groups)
        pairs = np.unique(np.stack([made[1], given[1]]), axis=1)
        whole = pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == own.width == before.width
        shared = {str(node.target) for node in self.network.graph.find_nodes(op="get_attr") if not self._alone(node, weights)}
        makers = {name for name, _ in own.opened} & self.mixing
        if not whole or not makers or not makers <= weights - shared or own.id == before.id or {own.id, before.id} & self.ranks:
            return None
        numbers = {int(unit): number for number, unit in enumerate(before.units)}
        order = {int(unit): numbers[int(other)] for unit, other in pairs.T}
        return Passing(own.id, before.id, tuple(order[int(unit)] for unit in own.units))

    def _alone(self, node: fx.Node, weights: set[str]) -> bool:
        """Whether one operation alone uses a parameter of these."""
        return str(node.target) not in weights or len(node.users) == 1

    def _units(self, node: fx.Node) -> tuple[int, Labels] | None:
        """The one axis of a value that channels lie on, and the unit at each place of it."""
        factors = self.analysis.flow.factors(node)
        if len(factors) != 1 or len(factors[0].dims) != 1:
            return None
        return factors[0].dims[0], self.analysis.flow.atoms.find(factors[0].labels)

    def _shortened(self, blocks: Iterable[Branch]) -> list[Branch]:
        """The same blocks, where more follow one another than may some of them put together, or left out if they cannot be."""
        left = {_made(block): block for block in blocks}
        while True:
            row = next((row for block in left.values() if len(row := _row(block, left)) > _IN_A_ROW), None)
            if row is None:
                return list(left.values())
            pairs = [(a, b, self._block(self.by[a.stays], self.by[b.node])) for a, b in pairwise(row) if a.node == b.stays]
            joined = [(a, b, block) for a, b, block in pairs if block is not None and _made(block) == _made(b)]
            if not joined:
                del left[_made(row[-1])]
                continue
            a, b, block = min(joined, key=lambda pair: len(pair[2].kernels))
            del left[_made(a)]
            left[_made(b)] = block


def _made(block: Branch) -> str:
    assert block.passing is not None
    return block.passing.made


def _row(block: Branch, blocks: dict[str, Branch]) -> list[Branch]:
    """A block after those that its channels are passed on from, the first one first."""
    row = [block]
    while (passing := row[0].passing) is not None and passing.given in blocks:
        row.insert(0, blocks[passing.given])
    return row


def _mixes(piece: Piece) -> bool:
    """Whether a kernel makes channels from others, which a depthwise convolution does not."""
    name = "" if piece.main is None else base_name(piece.main.target)
    if piece.main is None or name not in (*CONVOLUTIONS, "linear"):
        return False
    given = bound(piece.main)
    weight: Any = given["weight"]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return False
    return name == "linear" or int(given["groups"]) == 1 or min(shape_of(weight)[:2]) > 1


def _outside(piece: Piece) -> list[fx.Node]:
    """The tensors that a kernel is given."""
    found = dict.fromkeys(each for node in piece.nodes for each in tensors_of(node))
    return [each for each in found if each not in piece.nodes]


def _afterwards(network: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """For each node the next one that all that depends on it goes through, if there is one before the outputs."""
    place = {node: number for number, node in enumerate(network.graph.nodes)}
    after: dict[fx.Node, fx.Node] = {}
    for node in reversed(network.graph.nodes):
        users = [user for user in node.users if "number" not in user.meta]
        if not users or node.op == "get_attr":
            continue
        next_one: fx.Node | None = users[0]
        for user in users[1:]:
            other: fx.Node | None = user
            while next_one is not other and next_one is not None and other is not None:
                if place[next_one] < place[other]:
                    next_one = after.get(next_one)
                else:
                    other = after.get(other)
            next_one = next_one if next_one is other else None
        if next_one is not None and next_one.op != "output":
            after[node] = next_one
    return after
