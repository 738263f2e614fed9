"""Estimates of what was not measured."""

from __future__ import annotations

import numpy as np
import pytest

import hwsearch
from hwsearch.backends import Roofline
from hwsearch.devices._interpolation import Interpolator
from hwsearch.networks import Fused


def test_like_coordinates_share_a_length(digits: hwsearch.SearchSpace) -> None:
    """All widths of a block have one, its sizes another, and so have what it is and how much of each width is padding."""
    blocks, roofline = digits.unique_blocks, Roofline()
    told = Interpolator([(block, roofline.latency_ms(block), 0.01, None) for block in blocks])
    for family in {block.family for block in blocks}:
        process = told.process(family)
        widths = 2 + len(process.blocks[0].mids)
        parts = np.split(process.lengths, [widths, widths + 3, len(process.lengths) - widths])
        assert [len(set(part.tolist())) for part in parts] == [1, 1, 1, 1]


def pointwise(ops: tuple[str, ...], channels: int, size: int, *, skipping: bool) -> Fused:
    """A 1 x 1 convolution in int8."""
    after = size // 2 if skipping else size
    return Fused.of(ops, channels, 2 * channels, into=(size, size), onto=(after, after), precision="int8")


def test_a_convolution_that_skips_pixels_of_what_it_converts_is_told_from_others() -> None:
    """Where these run in floats, three small ones tell what a large one takes, which the others do not."""
    plain, late = ("conv2d", "relu"), ("quantize", "conv2d", "relu")
    kernels = [
        pointwise(plain, channels, size, skipping=each) for channels in range(32, 320, 16) for size in (14, 56) for each in (True, False)
    ]
    kernels += [pointwise(late, channels, 28, skipping=False) for channels in range(32, 320, 32)]
    measured = [(kernel, 1e-8 * kernel.macs + 2e-3, 0.01, None) for kernel in kernels]
    slow = [pointwise(late, channels, size, skipping=True) for channels, size in ((64, 14), (96, 28), (64, 28))]
    measured += [(kernel, 4e-8 * kernel.macs + 2e-3, 0.01, None) for kernel in slow]
    large = pointwise(late, 304, 56, skipping=True)
    found = Interpolator(measured).estimate([large]).latency_ms[0]
    assert found == pytest.approx(4e-8 * large.macs + 2e-3, rel=0.25)


def test_kernels_of_almost_nothing_do_not_speak_for_their_like() -> None:
    """A sum takes its conversion in, so that its profile says nothing; convolutions that convert as much take time for it."""
    measured = []
    for channels in range(16, 208, 16):
        for size in (28, 56):
            shape = {"into": (size, size), "onto": (size, size)}
            plain, late = (Fused.of(ops, channels, 32, **shape) for ops in (("conv2d",), ("dequantize", "conv2d")))
            measured.append((plain, 1e-8 * plain.macs, 0.01, None))
            if channels % 64 == 0:
                measured.append((late, 1e-8 * late.macs + 2e-7 * late.inputs, 0.01, None))
                measured.append((Fused.of(("dequantize", "add"), channels, channels, **shape), 1e-3, 0.01, None))
    other = Fused.of(("dequantize", "conv2d"), 96, 32, into=(56, 56), onto=(56, 56))
    wanted = 1e-8 * other.macs + 2e-7 * other.inputs
    assert Interpolator(measured).estimate([other]).latency_ms[0] == pytest.approx(wanted, rel=0.1)
