"""Finds the layers of a captured network that are products of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from torch import fx

from ._factors import MARK, Factors
from ._groups import Analysis, Group
from .rules.base import bound, shape_of


def ranked(network: fx.GraphModule, analysis: Analysis) -> Analysis:
    """The same analysis, which knows the layers that are products of others.

    Factors that would take more multiply-accumulates in one piece stay apart, with a width between them as between any two layers: so do
    those of a network that was cut before.
    """
    known = replace(analysis, factors=find_factors(network, analysis.groups)).freeze({})
    return replace(analysis, factors=tuple(each for each in known.factors if _pays(known, each))).freeze({})


def _pays(analysis: Analysis, layer: Factors) -> bool:
    """Whether a layer in one piece takes no more multiply-accumulates than its factors."""
    whole, kernels = {each.id: each.width for each in analysis.groups}, analysis.within(layer)
    return sum(kernel.macs(whole) for kernel in kernels) <= sum(kernel.apart(whole) for kernel in kernels)


def find_factors(network: fx.GraphModule, groups: Iterable[Group]) -> tuple[Factors, ...]:
    """The layers of a captured network that are products of others, as their names tell and the graph confirms.

    A layer that is called several times is found once for each call, or not at all.

    Args:
        network: the captured graph.
        groups: of its channels.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in network.graph.nodes:
        weight = node.args[1] if node.op == "call_function" and len(node.args) > 1 else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr" and MARK in f".{weight.target}":
            calls.setdefault(str(weight.target), []).append(node)
    uses: Counter[str] = Counter()
    for node in network.graph.find_nodes(op="get_attr"):
        uses[str(node.target)] += len(node.users)
    layers: dict[str, list[str]] = {}
    for name in calls:
        layers.setdefault(f".{name}".rpartition(MARK)[0].removeprefix("."), []).append(name)
    between = {(group.opened, group.read): group for group in groups if not group.follow}
    found: list[Factors] = []
    for layer, weights in layers.items():
        if {uses[name] for name in weights} == {len(calls[name]) for name in weights} == {len(calls[weights[0]])}:
            chains = [_chain(layer, nodes, between) for nodes in zip(*(calls[name] for name in weights), strict=True)]
            found.extend(each for each in chains if each is not None and None not in chains)
    return tuple(found)


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
