"""A network without the channels that are not kept: parameters picked by index, arguments of operations made to fit."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ._axes import Axes, Labels, on
from ._factors import Factors, arguments, composed
from ._groups import Analysis
from ._state import get, put
from .rules import Call, find_rule
from .rules.base import bound, shape_of


class Cut:
    """One way of cutting a network.

    Args:
        network: the whole network.
        analysis: what is known of it.
        gone: the numbers of units that are removed.
        branches: names of the last nodes of what is removed, each with the node whose value is left.
        tensors: parameters and statistics to use in place of the network's, by name.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        analysis: Analysis,
        gone: Labels,
        branches: Mapping[str, str] | None = None,
        tensors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.network, self.analysis = network, analysis
        self.flow = analysis.flow
        self._kept = np.ones(max(len(self.flow.atoms), 1), dtype=bool)
        self._kept[gone] = False
        self.branches = dict(branches or {})
        self.tensors = tensors or {}
        self._indices: dict[tuple[Any, int], Labels | None] = {}
        self._new: dict[fx.Node, fx.Node] = {}
        self._graph = fx.Graph()
        self._by = {node.name: node for node in network.graph.nodes}
        self._constants: dict[str, torch.Tensor] = {}
        self._joined: dict[str, tuple[fx.Node, nn.Parameter]] = {}
        self.ends = self._find_ends()

    def _find_ends(self) -> dict[fx.Node, tuple[Factors, int, int]]:
        """The factors of layers whose ranks are off, by the last operation of each layer that they are: which they are of its factors."""
        units = {group.id: group.units for group in self.analysis.groups}
        found = {}
        for each in self.analysis.factors:
            off = {rank for rank in each.ranks if self.keeps(units[rank]).all()}
            for last, name in enumerate(each.nodes):
                first = each.first(last, off)
                if first is not None and first < last:
                    found[self._by[name]] = (each, first, last)
        return found

    def source(self, node: fx.Node) -> fx.Node:
        """What an operation reads: if it is the last factor of a layer, what the layer reads."""
        if node in self.ends:
            each, first, _ = self.ends[node]
            node = self._by[each.nodes[first]]
        read = bound(node)["input"]
        assert isinstance(read, fx.Node)
        return read

    def factors(self, node: Any) -> Axes:
        """What lies on the axes of a node, or of one of its results where ``(node, number)`` is given."""
        return self.flow.part(*node) if isinstance(node, tuple) else self.flow.factors(node)

    def keeps(self, labels: Labels) -> Any:
        """Which of these atoms are kept."""
        return self._kept[self.flow.atoms.find(labels)]

    def index(self, node: Any, dim: int) -> Labels | None:
        """The places along an axis that are kept; ``None`` where all are."""
        key = (node, dim)
        if key not in self._indices:
            factor = on(self.factors(node), dim)
            self._indices[key] = None
            if factor is not None:
                kept = self.keeps(factor.labels)
                along = kept.any(axis=tuple(place for place in range(kept.ndim) if factor.dims[place] != dim))
                if not along.all():
                    self._indices[key] = np.flatnonzero(along)
        return self._indices[key]

    def size(self, node: Any, dim: int) -> int:
        """The size of an axis that is left."""
        kept = self.index(node, dim)
        shape = node[0].meta["shape"][node[1]] if isinstance(node, tuple) else shape_of(node)
        return int(shape[dim]) if kept is None else len(kept)

    def sized(self, given: Any, node: fx.Node, dim: int) -> Any:
        """A size among the arguments of an operation as it has to be now; sizes that depend on the batch go on doing so."""
        before, left = shape_of(node)[dim], self.size(node, dim)
        if before == left or given == -1:
            return self.new(given)
        if isinstance(given, fx.Node):
            grown = self._graph.call_function(operator.mul, (self.new(given), left))
            return self._graph.call_function(operator.floordiv, (grown, before))
        return left

    def new(self, value: Any) -> Any:
        """An argument of the old graph in the new one."""
        return fx.map_arg(value, self._new.__getitem__)

    def call(self, target: Any, *args: Any) -> fx.Node:
        """Insert an operation."""
        return self._graph.call_function(target, args)

    def copy(self, call: Call, **changes: Any) -> fx.Node:
        """Insert the same operation, some of whose arguments are different."""
        node = call.node
        fresh = self._graph.node_copy(node, self._new.__getitem__)
        if changes:
            values = bound(node) | changes
            arguments = node.target._schema.arguments  # type: ignore[union-attr]
            plain = [each.name for each in arguments if not each.kwarg_only]
            given = dict(zip(plain, node.args, strict=False)) | node.kwargs
            last = max(plain.index(name) for name in (*given, *changes) if name in plain)
            fresh.args = tuple(self._renewed(values[name], name in changes) for name in plain[: last + 1])
            fresh.kwargs = {name: self._renewed(values[name], name in changes) for name in given if name not in plain}
        return fresh

    def _renewed(self, value: Any, changed: bool) -> Any:
        return value if changed else self.new(value)

    def constant(self, value: torch.Tensor) -> fx.Node:
        """Insert a tensor."""
        name = f"_picked_{len(self._constants)}"
        self._constants[name] = value
        return self._graph.get_attr(name)

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """A parameter without the channels that are gone; the very same where it keeps all."""
        name = str(node.target)
        found = self.tensors[name] if name in self.tensors else get(self.network, name)
        for dim in range(found.ndim):
            kept = self.index(node, dim)
            if kept is not None:
                found = found.detach().index_select(dim, torch.from_numpy(kept))
        return found

    def build(self) -> fx.GraphModule:
        """The smaller network; nothing in it is shared with the whole one."""
        self._graph, self._new, self._constants, self._joined = fx.Graph(), {}, {}, {}
        for node in self.network.graph.nodes:
            self._new[node] = self._insert(node)
        self._tell_apart()
        self._graph.eliminate_dead_code(_needed)
        root = nn.Module()
        used = {str(node.target) for node in self._graph.find_nodes(op="get_attr")}
        for node in self.network.graph.find_nodes(op="get_attr"):
            name = str(node.target)
            if name in used:
                used.remove(name)
                whole, value = get(self.network, name), self.tensor(node).detach().clone()
                put(root, name, nn.Parameter(value, whole.requires_grad) if isinstance(whole, nn.Parameter) else value)
        for name, value in self._constants.items():
            root.register_buffer(name, value)
        for name, (_, parameter) in self._joined.items():
            put(root, name, parameter)
        self._graph.set_codegen(self.network.graph._codegen)
        built = fx.GraphModule(root, self._graph, "Network")
        return built.eval()

    def _tell_apart(self) -> None:
        """Give operations that were inserted another name where they took that of one of the whole network's."""
        own = {(fresh, node.name) for node, fresh in self._new.items()}
        taken = {fresh.name for fresh in self._graph.nodes if (fresh, fresh.name) in own}
        for fresh in self._graph.nodes:
            if (fresh, fresh.name) not in own:
                stem, number = fresh.name, 0
                while fresh.name in taken:
                    number += 1
                    fresh.name = f"{stem}_{number}"
                taken.add(fresh.name)

    @property
    def places(self) -> dict[fx.Node, fx.Node]:
        """The operation of the network that was built last for each of the whole network's, where it has one."""
        there = set(self._graph.nodes)
        return {node: fresh for node, fresh in self._new.items() if fresh in there}

    def _insert(self, node: fx.Node) -> fx.Node:
        if node.name in self.branches:
            return self._new[self._by[self.branches[node.name]]]
        if node in self.ends:
            return self._join(node)
        rule = find_rule(node.target) if node.op == "call_function" else None
        if rule is not None and rule.rewrite is not None and self._touched(node):
            return rule.rewrite(Call.of(self.flow, node), self)
        fresh = self._graph.node_copy(node, self._new.__getitem__)
        fresh.name = node.name
        return fresh

    def _join(self, node: fx.Node) -> fx.Node:
        """Insert the layer that some factors of a layer are, of which this is the last one."""
        each, first, last = self.ends[node]
        nodes = [self._by[name] for name in each.nodes[first : last + 1]]
        held = [bound(found)["weight"] for found in nodes]
        call, name = bound(node), each.named(first, last)
        weight = self._held(f"{name}.weight".removeprefix("."), composed([self.tensor(found) for found in held]), held[-1])
        bias = None if call["bias"] is None else self._held(f"{name}.bias".removeprefix("."), self.tensor(call["bias"]), call["bias"])
        read, changed = self._new[self.source(node)], arguments(nodes)
        given = (read, weight, bias, *(changed[key] for key in ("stride", "padding", "dilation") if changed))
        fresh = self._graph.create_node("call_function", node.target, (*given, 1) if changed else given, {}, node.name)
        fresh.meta = dict(node.meta)
        return fresh

    def _held(self, name: str, value: torch.Tensor, node: fx.Node) -> fx.Node:
        """Insert a parameter that stands for one or several of the whole network's; once, however often its layer is called."""
        if name not in self._joined:
            learns = get(self.network, str(node.target)).requires_grad
            self._joined[name] = self._graph.get_attr(name), nn.Parameter(value.detach().clone(), learns)
        return self._joined[name][0]

    def _touched(self, node: fx.Node) -> bool:
        """Whether something is gone from an operation's result or inputs."""
        touching = (factor for each in (node, *node.all_input_nodes) for factor in self.flow.factors(each))
        return any(not self.keeps(factor.labels).all() for factor in touching)


def _needed(node: fx.Node) -> bool:
    """Whether an operation has to stay even if nothing reads it; attention that could drop values at random, but does not, need not."""
    return node.op in ("placeholder", "output") or (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable)
