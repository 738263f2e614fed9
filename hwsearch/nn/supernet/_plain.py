"""Plain networks: one sub-network as ordinary torch modules, with no elastic layer left."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ...backends._torch_blocks import GraphBlock
from ...errors import InvalidInput
from ...networks._blocks import Block
from ..quantization._sparse import mask


class Resize(nn.Module):
    """Resizes square images to the network's input resolution (bilinear, antialiased).

    Args:
        size: height and width, px.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Resize ``x`` of shape ``(n, c, h, w)`` to ``(n, c, size, size)``."""
        return resize(x, self.size)


def resize(x: torch.Tensor, size: int) -> torch.Tensor:
    """Resize square images of shape ``(n, c, h, w)`` to ``(n, c, size, size)``, px (bilinear, antialiased).

    Example:
        >>> import torch
        >>> from hwsearch.nn import resize
        >>> resize(torch.randn(4, 3, 32, 32), 24).shape
        torch.Size([4, 3, 24, 24])

    Raises:
        InvalidInput: the images are not square; they would be squeezed.
    """
    if x.shape[2] != x.shape[3]:
        raise InvalidInput(f"Networks take square images, and these are {x.shape[2]} px high and {x.shape[3]} px wide: crop or pad them.")
    if tuple(x.shape[2:]) == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


class Boundary(nn.Identity):
    """Marks where the number format changes; in floating point it does nothing.

    Args:
        kind: ``"quantize"`` or ``"dequantize"``.
        precision: of the quantised side.
    """

    def __init__(self, kind: str, precision: str) -> None:
        super().__init__()
        self.kind = kind
        self.precision = precision

    def extra_repr(self) -> str:
        """Kind and precision."""
        return f"{self.kind}, {self.precision}"


def plain(placed: Iterable[tuple[str, Block]]) -> nn.Sequential:
    """Ordinary modules for the blocks of one network, weights not yet set.

    Args:
        placed: names and blocks in the order of execution.

    Returns:
        ``resize``, then one module a block. It takes normalised images of any size, shape ``(n, channels, h, w)``.
    """
    named = [(name.replace(".", "_"), block) for name, block in placed]
    modules: OrderedDict[str, nn.Module] = OrderedDict(resize=Resize(named[0][1].size))
    for name, block in named:
        modules[name] = _module(block)
    return nn.Sequential(modules)


def _module(block: Block) -> nn.Module:
    return Boundary(block.kind, block.precision) if block.boundary else GraphBlock(block)


def thin_out(network: nn.Sequential, blocks: Sequence[Block]) -> None:
    """Set to zero what 2:4 sparsity leaves out, in the layers of sparse blocks that are eligible."""
    for module, block in zip([one for one in network if not isinstance(one, Resize)], blocks, strict=True):
        layers = [layer for layer in block.graph.layers if not layer.pooling]
        if block.bits.sparse:
            for one, layer in zip([one for one in module.modules() if isinstance(one, nn.Conv2d | nn.Linear)], layers, strict=True):
                if layer.sparsable:
                    with torch.no_grad():
                        one.weight.mul_(mask(one.weight))


def calibrate_bn(network: nn.Module, images: torch.Tensor | Iterable[torch.Tensor], batch: int = 512) -> None:
    """Set the running statistics of every batch norm to the averages over some images (Once-for-All, ICLR'20, appendix).

    Weights taken from a supernet need this before they are evaluated. The network is left in evaluation mode.

    Example:
        >>> import torch
        >>> from hwsearch.nn import calibrate_bn
        >>> network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
        >>> calibrate_bn(network, torch.full((64, 3, 8, 8), 5.0))
        >>> network[0].running_mean.tolist(), network.training
        ([5.0, 5.0, 5.0], False)

    Args:
        network: with :class:`torch.nn.BatchNorm2d` layers.
        images: normalised training images, shape ``(n, channels, h, w)``, or batches of them, of one size.
        batch: images at a time, if they come as one tensor.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    network.train()
    for norm in norms:
        norm.reset_running_stats()  # what is not a number would stay so however little it weighs
    with torch.no_grad():
        for number, some in enumerate(torch.split(images, batch) if isinstance(images, torch.Tensor) else images, start=1):
            for norm in norms:
                norm.momentum = 1.0 / number
            network(some)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    network.eval()
