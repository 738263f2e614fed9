"""Random weights and statistics under which every channel matters to the outputs, so that a proof on them is never vacuous."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ._run import execute
from ._state import get
from .rules.base import base_name, bound

_SCALED = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")


def lively(network: fx.GraphModule, inputs: tuple[torch.Tensor, ...], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Draw a network's floating-point parameters and statistics anew.

    Weights are scaled, layer after layer, so that results have a standard deviation of about 1 (Mishkin and Matas, All you need is a good
    init, 2016); statistics of batch norms are those of the layer's input, disturbed.

    Args:
        network: the graph; left as it is.
        inputs: images to scale on.
        rng: where the randomness comes from.

    Returns:
        A tensor for each name.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    drawn: dict[str, torch.Tensor] = {}
    for node in network.graph.nodes:
        if node.op == "get_attr" and "constant" not in node.meta and str(node.target) not in drawn:
            value = get(network, str(node.target))
            if value.is_floating_point():
                fresh = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                # Statistics and scales may have to be positive, for a root or a logarithm.
                drawn[str(node.target)] = fresh if isinstance(value, nn.Parameter) or (value < 0).any() else fresh.abs() + 0.1

    def compute(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(node.target, torch._ops.OpOverload):
            return NotImplemented
        named = bound(node)
        name = base_name(node.target)
        values = dict(zip((each.name for each in node.target._schema.arguments), args, strict=False)) | kwargs
        if name in _SCALED and isinstance(named["weight"], fx.Node) and named["weight"].op == "get_attr":
            return _scaled(node, values, str(named["weight"].target))
        if "norm" in name:
            _normed(named, values, generator)
        return NotImplemented

    def _scaled(node: fx.Node, values: dict[str, Any], weight: str) -> Any:
        if isinstance(values.get("bias"), torch.Tensor):
            values["bias"].mul_(0.5)
        result = node.target(**values)  # type: ignore[operator]
        if weight not in done:
            spread = float(result.std())
            drawn[weight].mul_(1 / max(spread, 1e-6))
            done.add(weight)
            result = node.target(**values)  # type: ignore[operator]
        return result

    done: set[str] = set()
    execute(network, inputs, compute=compute, tensors=drawn)
    return drawn


def _normed(named: dict[str, Any], values: dict[str, Any], generator: torch.Generator) -> None:
    """Give a normalisation scales around 1 of either sign, small shifts, and statistics of its input."""
    for part, tensor in values.items():
        if not isinstance(named.get(part), fx.Node) or named[part].op != "get_attr" or not isinstance(tensor, torch.Tensor):
            continue
        noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
        if part == "weight":
            tensor.copy_(torch.where(tensor > -1, 0.5 + noise, -0.5 - noise))
        elif part == "bias":
            tensor.copy_(noise - 0.5)
        elif part in ("running_mean", "running_var"):
            x = values["input"]
            dims = [dim for dim in range(x.ndim) if dim != 1]
            if part == "running_mean":
                tensor.copy_(x.mean(dims) + 0.3 * (noise - 0.5))
            else:
                tensor.copy_((x.var(dims, unbiased=False) + 1e-2) * (0.5 + noise))
