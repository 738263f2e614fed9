"""How a block is measured: between neighbours, as inside a network."""

from __future__ import annotations

from ..networks._blocks import Block

_IMAGE = 4
"""Feature maps with at most this many channels are images: they come from outside, as floats in the plain layout."""


def framed(block: Block, probe: int = 1) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """A block between two cheap convolutions of its precision.

    Alone it would be charged for changing memory layouts at its edges and lose the fusion of its sum, neither of which happens inside a
    network. The convolution before it reads one channel, the one after it one pixel. If the block changes the number format, the
    convolutions stand on either side of the change, so that it is charged to the block.

    Args:
        block: that is to be measured.
        probe: kernel of the convolution behind the block.

    Returns:
        A network that holds the block, and the same without it.
    """
    floats = "fp32" if block.bits.quantized or block.boundary else block.precision
    before = block.precision if block.bits.quantized and block.kind != "quantize" else floats
    after = block.precision if block.bits.quantized and block.kind != "dequantize" else floats
    if block.boundary and not block.bits.quantized:
        before, after = ("fp32", block.precision) if block.kind == "quantize" else (block.precision, "fp32")
    lead = () if block.cin <= _IMAGE else (Block("conv", 1, block.cin, block.size, precision=before),)
    frame = (*lead, _probe(block.cin, block.size, probe, before))
    if block.kind == "head":
        return (*lead, block), frame
    return (*lead, block, _probe(block.cout, block.out_size, probe, after)), frame


def _probe(channels: int, size: int, kernel: int, precision: str) -> Block:
    """A convolution around one pixel of a feature map, to 16 channels."""
    return Block("conv", channels, 16, size, (), kernel, stride=size, precision=precision)
