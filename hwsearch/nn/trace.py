"""The twin: what blocks a plain network has, read from the tensors that flow through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..blocks import KINDS, Block, Layer
from ..errors import InvalidInput
from .plain import Boundary, Residual, Resize

Shapes = dict[nn.Module, tuple[torch.Size, torch.Size]]
Layers = tuple[tuple[str, int, int, int, int, int, int, bool], ...]
"""Of each layer: op, channels in and out, size, kernel, stride, groups, and whether a ReLU follows."""
Signature = tuple[Layers, Layers | None]
"""Body, and shortcut where there is one."""


def trace(network: nn.Sequential, images: torch.Tensor) -> tuple[Block, ...]:
    """Read the blocks of a network by watching one forward pass.

    Shapes come from the tensors, kernels, strides and groups from the convolutions, precisions from the boundaries passed. Nothing is
    taken from a search space, so this checks what a space says about its networks.

    Args:
        network: from :meth:`hwsearch.nn.Supernet.extract`.
        images: normalised, shape ``(n, channels, h, w)``.

    Returns:
        The blocks in the order of execution.

    Raises:
        InvalidInput: a module that is no block.
    """
    seen: Shapes = {}

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen[module] = (inputs[0].shape, output.shape)

    handles = [module.register_forward_hook(watch) for module in network.modules()]
    try:
        with torch.inference_mode():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    blocks = []
    precision = "fp32"
    for child in network:
        if isinstance(child, Resize):
            continue
        shape = seen[child][0]
        if isinstance(child, Boundary):
            blocks.append(Block(child.kind, shape[1], shape[1], shape[2], precision=child.precision))
            precision = child.precision if child.kind == "quantize" else "fp32"
        else:
            blocks.append(_recognise(_graph(child, seen), precision))
    return tuple(blocks)


def _graph(module: nn.Module, seen: Shapes) -> Signature:
    if isinstance(module, Residual):
        return _layers(module.body, seen), _layers(module.shortcut, seen)
    return _layers(module, seen), None


def _layers(module: nn.Module, seen: Shapes) -> Layers:
    """Convolutions and linear layers in order; a ReLU belongs to the layer before it, and a pooling to the linear layer after it."""
    steps = [one for one in module.modules() if not list(one.children()) and one in seen]
    layers = []
    for position, one in enumerate(steps):
        if isinstance(one, nn.Conv2d):
            before, after = seen[one]
            following = next((step for step in steps[position + 1 :] if not isinstance(step, nn.BatchNorm2d)), None)
            shape = (before[1], after[1], before[2], one.kernel_size[0], one.stride[0], one.groups)
            if tuple(after[2:]) != (-(-before[2] // one.stride[0]),) * 2:
                sizes = f"{tuple(after[2:])} px out of {tuple(before[2:])} px"
                raise InvalidInput(f"A convolution makes maps of {sizes}: its padding is not half its kernel.")
            layers.append(("conv", *shape, isinstance(following, nn.ReLU)))
        elif isinstance(one, nn.MaxPool2d | nn.AvgPool2d):
            before, after = seen[one]
            op = "maxpool" if isinstance(one, nn.MaxPool2d) else "avgpool"
            layers.append((op, before[1], after[1], before[2], _number(one.kernel_size), _number(one.stride), 1, False))
        elif isinstance(one, nn.Linear):
            pooled = next(step for step in steps if isinstance(step, nn.AdaptiveAvgPool2d))
            layers.append(("linear", seen[one][0][1], seen[one][1][1], seen[pooled][0][2], 1, 1, 1, False))
    return tuple(layers)


def _number(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def _signature(block: Block) -> Signature:
    """What a block says it is made of, as :func:`_graph` reads it from a module."""

    def of(layers: tuple[Layer, ...]) -> Layers:
        return tuple(
            (one.op, one.cin, one.cout, one.size, one.kernel, one.stride, 1 if one.pooling else one.groups, one.relu) for one in layers
        )

    graph = block.graph
    return of(graph.body), None if graph.shortcut is None else of(graph.shortcut)


def _recognise(found: Signature, precision: str) -> Block:
    """The block that is made of these layers.

    Raises:
        InvalidInput: no kind of block is.
    """
    body = found[0]
    if body:
        mids = tuple(layer[2] for layer in body[:-1])
        kernel, stride, groups = max(layer[4:7] for layer in body)
        for kind in KINDS:
            try:
                block = Block(kind, body[0][1], body[-1][2], body[0][3], mids, kernel, stride, groups, precision)
            except InvalidInput:
                continue
            if _signature(block) == found:
                return block
    raise InvalidInput(f"No kind of block is made of the layers {found}.")
