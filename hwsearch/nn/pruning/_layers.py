"""Which parameters of a network are weights of convolutions and linear layers, rather than embeddings, scales or tokens."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

_LOOKED_UP_OR_SCALES = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.PReLU)
"""Modules whose ``weight`` is not multiplied by channels and summed."""


def layers_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of convolutions and linear layers, by the names of parameters.

    A graph tells which tensors its operations read as weights. Of other modules it is what they call ``weight``, and the projections of
    attention.

    Args:
        network: any module, or one with graphs inside.
    """
    names = {name for path, module in network.named_modules() for name in _named(path, module)}
    return {name: each for name, each in network.named_parameters() if name in names and each.ndim > 1 and each.is_floating_point()}


def _named(path: str, module: nn.Module) -> Iterator[str]:
    """The names of what one module multiplies by."""
    prefix = f"{path}." if path else ""
    if isinstance(module, fx.GraphModule):
        for node in module.graph.nodes:
            operation = str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""
            weight = node.kwargs.get("weight", (*node.args, None, None)[1])
            if operation.startswith(("conv", "linear")) and isinstance(weight, fx.Node) and weight.op == "get_attr":
                yield f"{prefix}{weight.target}"
    elif type(module) is not nn.Module and not isinstance(module, _LOOKED_UP_OR_SCALES):  # a graph keeps its tensors in bare modules
        for name, _ in module.named_parameters(recurse=False):
            if name == "weight" or name.endswith("proj_weight"):
                yield f"{prefix}{name}"
