"""The twin: what blocks a plain network has, read from the tensors that flow through it."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from ...backends._torch_blocks import ACTIVATIONS, GraphBlock, GraphLayer
from ...errors import InvalidInput
from ...networks._blocks import KINDS, Block, Layer
from ._plain import Boundary, Resize

Shapes = dict[nn.Module, tuple[torch.Size, torch.Size]]
Layers = tuple[Layer, ...]
Signature = tuple[Layers, Layers, Layers | None, str]
"""Body, squeeze-and-excite, shortcut where there is one, and what follows the sum."""
_NAMES = {kind: name for name, kind in ACTIVATIONS.items()}


def trace(network: nn.Sequential, images: torch.Tensor) -> tuple[Block, ...]:
    """Read the blocks of a network by watching one forward pass.

    Shapes come from the tensors, kernels, strides and groups from the convolutions, precisions from the boundaries passed. Nothing is
    taken from a search space, so this checks what a space says about its networks; what cannot be seen, such as the context of a block,
    is left at its default.

    Example:
        >>> import torch
        >>> from hwsearch.nn import Supernet, trace
        >>> supernet = Supernet("resnet_digits")
        >>> images = torch.randn(16, 1, 16, 16)
        >>> network = supernet.extract(supernet.smallest, images)
        >>> trace(network, images) == supernet.space.blocks(supernet.smallest)
        True

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
            blocks.append(_recognise(_signature(child, seen), precision))
    return tuple(blocks)


def _signature(module: nn.Module, seen: Shapes) -> Signature:
    if not isinstance(module, GraphBlock):
        raise InvalidInput(f"A {type(module).__name__} is no block: networks are traced that come from Supernet.extract.")
    body, excite, shortcut = (
        tuple(_layer(layer, *seen[layer]) for layer in part if isinstance(layer, GraphLayer))
        for part in (module.body, module.excite, module.shortcut)
    )
    return (body, excite, None, "") if module.joined is None else (body, excite, shortcut, _NAMES[type(module.joined)])


def _layer(module: GraphLayer, before: torch.Size, after: torch.Size) -> Layer:
    """A layer as its modules and the shapes of its input and output tell it."""
    op, activation = module.op, _NAMES[type(module.activation)]
    size = before[2] if len(before) == 4 else 1
    bias = module.norm is not None or getattr(op, "bias", None) is not None
    if isinstance(op, nn.Linear):
        return Layer("linear", before[1], after[1], size, activation=activation, bias=bias)
    if isinstance(op, nn.Conv2d):
        if tuple(after[2:]) != (-(-size // op.stride[0]),) * 2:
            sizes = f"{tuple(after[2:])} px out of {tuple(before[2:])} px"
            raise InvalidInput(f"A convolution makes maps of {sizes}: its padding is not half its kernel.")
        return Layer("conv", before[1], after[1], size, op.kernel_size[0], op.stride[0], op.groups, activation, bias)
    assert isinstance(op, nn.MaxPool2d | nn.AvgPool2d)
    name = "maxpool" if isinstance(op, nn.MaxPool2d) else "avgpool"
    return Layer(name, before[1], after[1], size, _number(op.kernel_size), _number(op.stride), before[1], activation)


def _number(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def _recognise(found: Signature, precision: str) -> Block:
    """The block that is made of these layers.

    Raises:
        InvalidInput: no kind of block is.
    """
    body, excite = found[:2]
    widths = tuple(layer.cout for layer in body[:-1])
    kernel, stride, groups = max((layer.kernel, layer.stride, layer.groups) for layer in body)
    ways = itertools.product(KINDS, dict.fromkeys(("relu", body[0].activation)), range(len(widths) + 1), dict.fromkeys((1, groups)))
    for kind, activation, mids, split in ways:
        inner = (*widths[:mids], *(layer.cout for layer in excite[:1]))
        shape = (body[0].cin, body[-1].cout, body[0].size, inner, kernel, stride)
        try:
            block = Block(kind, *shape, split, precision, activation)
        except InvalidInput:
            continue
        graph = block.graph
        if (graph.body, graph.excite, graph.shortcut, "" if graph.shortcut is None else graph.joined) == found:
            return block
    raise InvalidInput(f"No kind of block is made of the layers {found}.")
