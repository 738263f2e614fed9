"""Runs networks and notes their feature maps on the way: those of supernets, of graphs, and of any module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from ..adoption._run import execute
from ..adoption._state import get
from ..supernet._supernet import Supernet
from ._amp import mixed

Inputs = tuple[torch.Tensor, ...]
"""One tensor for each input of a network, shapes ``(n, ...)``."""


class Stages:
    """Notes feature maps while a network runs: those of named places, or else the last one of each size.

    A map has the shape ``(n, channels, height, width)``. Without names, maps of a single point count for nothing. With names, tokens of
    shape ``(n, tokens, channels)`` and vectors of shape ``(n, channels)`` are taken as maps, too. Of a place that runs several times, the
    last run counts, for the map as for its place in the order.

    Args:
        names: of the places.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(names)
        self._found: dict[Any, torch.Tensor] = {}

    def note(self, name: str, value: Any) -> None:
        """Look at what a place of the network gives."""
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return
        if self._names:
            if name in self._names:
                self._keep(name, value if value.ndim == 4 else value.reshape(len(value), -1, value.shape[-1]).transpose(1, 2)[..., None])
        elif value.ndim == 4 and value.shape[2] * value.shape[3] > 1:
            self._keep(value.shape[2:], value)

    def _keep(self, key: Any, found: torch.Tensor) -> None:
        """Keep a map in the place of an earlier one, as the last of all."""
        self._found.pop(key, None)
        self._found[key] = found

    @property
    def missing(self) -> list[str]:
        """The named places that gave no map."""
        return sorted(self._names - self._found.keys())

    @property
    def maps(self) -> dict[Any, torch.Tensor]:
        """The maps by the name of their place, or by their size, in the order in which they were run last."""
        return self._found


@dataclass(frozen=True)
class Forward:
    """Runs a supernet or a plain network as its recipe says: in which numbers, and with which feature maps kept.

    Attributes:
        amp: the number format, as a recipe names it.
        recompute: whether feature maps inside blocks are computed again for the backward pass.
    """

    amp: str | None = None
    recompute: bool = False

    def __call__(self, network: nn.Module, x: torch.Tensor, stages: Stages | None = None) -> torch.Tensor:
        """Run a supernet or a plain network.

        Args:
            network: its steps are run in order.
            x: normalised images, shape ``(n, channels, h, w)``.
            stages: notes the map after each block, by the block's name.

        Returns:
            Logits, float32 of shape ``(n, classes)``.
        """
        steps: list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]]
        steps = network.named_steps() if isinstance(network, Supernet) else list(network.named_children())
        with mixed(x.device.type, self.amp):
            for number, (name, step) in enumerate(steps):
                x = self._step(step, x)
                if stages is not None and number:  # the first one resizes the images
                    stages.note(name, x)
        return x.float()

    def _step(self, step: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return step(x)
        out: Any = checkpoint(step, x, use_reentrant=False, preserve_rng_state=False)
        return out  # type: ignore[no-any-return]


def noted(network: nn.Module, inputs: Inputs, stages: Stages | None) -> list[torch.Tensor]:
    """Run any network without gradients, and note its feature maps.

    The places of a graph are its operations, those of any other module the modules inside. What comes before the first weights counts for
    nothing: these are the images.

    Returns:
        The tensors among what it returns.
    """
    with torch.no_grad():
        if isinstance(network, fx.GraphModule):
            return execute(network, inputs, after=noting(network, stages))
        watched = [] if stages is None else [(name, module) for name, module in _weighty(network) if name]
        handles = [module.register_forward_hook(_hook(name, stages)) for name, module in watched]
        try:
            return [each for each in tree_leaves(network(*inputs)) if isinstance(each, torch.Tensor)]
        finally:
            for handle in handles:
                handle.remove()


def _weighty(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules from the first one on that has weights, by name."""
    named = list(network.named_modules())
    leaves = [number for number, (_, module) in enumerate(named) if next(module.parameters(recurse=False), None) is not None]
    first = leaves[0] if leaves else 0
    return [(name, module) for number, (name, module) in enumerate(named) if number >= first or next(module.parameters(), None) is not None]


def _hook(name: str, stages: Stages | None) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, given, value: stages.note(name, value) if stages is not None else None


def noting(network: fx.GraphModule, stages: Stages | None) -> Callable[[fx.Node, Any], Any]:
    """Notes the feature maps of a graph while :func:`hwsearch.nn.adoption._run.execute` runs it: its ``after``."""
    nodes = list(network.graph.nodes)
    reads = [any(each.op == "get_attr" and _is_weight(network, each) for each in node.all_input_nodes) for node in nodes]
    first = reads.index(True) if True in reads else 0
    seen = {node for node in nodes[first:] if node.op == "call_function"}

    def after(node: fx.Node, value: Any) -> Any:
        if stages is not None and node in seen:
            stages.note(node.name, value)
        return value

    return after


def _is_weight(network: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(get(network, str(node.target)), nn.Parameter)
