"""Run a graph, one operation after the other."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from ._state import get

ARITHMETIC = (operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv)
"""What a graph calls besides operations of PyTorch: parts of results, and what is computed of sizes."""
Before = Callable[[fx.Node, tuple[Any, ...], dict[str, Any]], Any]
After = Callable[[fx.Node, Any], Any]


def execute(
    network: fx.GraphModule,
    inputs: tuple[Any, ...],
    *,
    compute: Before | None = None,
    after: After | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    grad: bool = False,
    instead: Mapping[str, str] | None = None,
) -> list[torch.Tensor]:
    """Run a graph module.

    Args:
        network: the graph with its tensors.
        inputs: one for each placeholder that is a tensor.
        compute: computes an operation in place of the usual way; returns ``NotImplemented`` to leave it to that.
        after: is shown each node with its result and returns the result to go on with.
        tensors: tensors to use in place of the network's, by name.
        grad: whether to record gradients.
        instead: names of nodes whose value is that of another one before them, each with the name of that one.

    Returns:
        The tensors among the outputs.
    """
    env: dict[fx.Node, Any] = {}
    by = {node.name: node for node in network.graph.nodes} if instead else {}
    taken = {by[name]: by[other] for name, other in (instead or {}).items()}
    last = {node: user for user in network.graph.nodes for node in (*user.all_input_nodes, *filter(None, [taken.get(user)]))}
    ends: dict[fx.Node, list[fx.Node]] = {}
    for node, user in last.items():
        ends.setdefault(user, []).append(node)
    given = iter(inputs)
    with torch.set_grad_enabled(grad):
        for node in network.graph.nodes:
            if node.op == "placeholder":
                value = next(given) if node.meta["given"] else None
            elif node.op == "get_attr":
                name = str(node.target)
                value = tensors[name] if tensors is not None and name in tensors else get(network, name)
            elif node in taken:
                value = env[taken[node]]
            else:
                args = fx.map_arg(node.args, env.__getitem__)
                if node.op == "output":
                    return [each for each in torch.utils._pytree.tree_leaves(args) if isinstance(each, torch.Tensor)]
                kwargs = fx.map_arg(node.kwargs, env.__getitem__)
                value = NotImplemented if compute is None else compute(node, args, kwargs)
                if value is NotImplemented:
                    value = node.target(*args, **kwargs)
            env[node] = value if after is None else after(node, value)
            for gone in ends.get(node, ()):
                del env[gone]
    raise AssertionError("a graph without output")
