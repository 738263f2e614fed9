"""Finds the layers of a captured network that are products of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from torch import fx

from ._factors import MARK, Factors
from ._groups import Analysis, Group
from .rules.base import bound, shape_of


def ranked(network: fx.GraphModule, analysis: Analysis) -> Analysis:
    """The same analysis, which knows the layers that are products of others."""
    return replace(analysis, factors=find_factors(network, analysis.groups)).freeze({})


def find_factors(network: fx.GraphModule, groups: Iterable[Group]) -> tuple[Factors, ...]:
    """The layers of a captured network that are products of others, as their names tell and the graph confirms.

    Args:
        network: the captured graph.
        groups: of its channels.
    """
    chains: dict[str, list[fx.Node]] = {}
    for node in network.graph.nodes:
        weight = node.args[1] if node.op == "call_function" and len(node.args) > 1 else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr" and MARK in f".{weight.target}" and len(weight.users) == 1:
            chains.setdefault(f".{weight.target}".rpartition(MARK)[0].removeprefix("."), []).append(node)
    between = {(group.opened, group.read): group for group in groups if not group.follow}
    found = [_chain(name, nodes, between) for name, nodes in chains.items()]
    return tuple(each for each in found if each is not None)


def _chain(
    name: str, nodes: Sequence[fx.Node], between: Mapping[tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]], Group]
) -> Factors | None:
    """The factors of one layer, if each is all that reads the one before, and adds nothing."""
    weights = [str(node.args[1].target) for node in nodes]  # type: ignore[union-attr]
    ranks = [between.get((((before, 1),), ((after, 1),))) for before, after in pairwise(weights)]
    follows = all(
        set(before.users) == {after} and after.args[0] is before and bound(before)["bias"] is None for before, after in pairwise(nodes)
    )
    held = [group for group in ranks if group is not None]
    if not follows or not held or len(held) < len(ranks):
        return None
    taps = tuple(tuple(shape_of(node.args[1])[2:]) for node in nodes)
    ids, full = tuple(group.id for group in held), tuple(group.width for group in held)
    return Factors(name, tuple(node.name for node in nodes), tuple(weights), ids, full, taps)
