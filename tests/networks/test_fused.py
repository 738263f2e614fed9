"""Kernels of users' networks: their names, counts, and what they have in common with other blocks."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch.backends import Roofline
from hwsearch.devices import Device, LatencyTable, Protocol, Row, load_table
from hwsearch.errors import InvalidInput, Unsupported
from hwsearch.networks import Block, Fused


def conv(cin: int, cout: int, **more: object) -> Fused:
    return Fused.of(("conv2d", "relu"), cin, cout, into=(14, 10), onto=(7, 5), taps=(3, 3), **more)  # type: ignore[arg-type]


def test_a_kernel_is_read_back_from_its_key() -> None:
    """Oblong maps, one-sided kernels, groups and several operations are all in the key."""
    for kernel in (
        conv(24, 48, groups=8, precision="int8"),
        Fused.of(("max_pool2d",), 64, 64, into=(112, 112), onto=(56, 56)),
        Fused.of(("mul", "conv2d", "add"), 96, 40, into=(7, 9), onto=(7, 9), taps=(1, 7)),
        Fused.of(("adaptive_avg_pool2d", "linear"), 512, 1000, into=(7, 7)),
        Fused.of(("scaled_dot_product_attention",), 64, 768, into=(197,), onto=(197,)),
    ):
        found = Block.parse(kernel.key)
        assert isinstance(found, Fused)
        assert (found, found.key) == (kernel, kernel.key)


def test_the_counts_of_a_kernel_are_those_of_its_operation() -> None:
    """A strided, grouped convolution of an oblong map; what does not multiply counts nothing."""
    kernel = conv(24, 48, groups=8)
    assert kernel.macs == 48 * 3 * 9 * 35
    assert (kernel.weights, kernel.params) == (48 * 3 * 9, 48 * 3 * 9 + 48)
    assert kernel.weight_bytes == 4 * kernel.params
    assert kernel.activation_bytes == 4 * (24 * 140 + 48 * 35)
    assert conv(24, 48, groups=8, precision="int8").weight_bytes == kernel.weights + 8 * 48
    pool = Fused.of(("max_pool2d",), 64, 64, into=(4, 4), onto=(2, 2))
    assert (pool.macs, pool.params, pool.boundary, pool.inner) == (0, 0, False, False)


@pytest.mark.parametrize("broken", ["fused:conv2d-in3", "fused:-in3-out8-px4-to4-k1-g1-fp32", "fused:conv2d-in3-out8-px4-to4-k1-g2-fp32"])
def test_a_damaged_key_is_refused(broken: str) -> None:
    """Also one whose channels cannot be split into its groups."""
    with pytest.raises(InvalidInput):
        Block.parse(broken)


def test_a_table_of_kernels_estimates_those_that_it_does_not_hold(tmp_path: object) -> None:
    """Of a device that takes so long a product and so long a value, with blocks of 8 channels, half of the widths tell the others."""
    rng = np.random.default_rng(0)

    def truth(kernel: Fused) -> float:
        padded = -(-kernel.cin // 8) * 8 * -(-kernel.cout // 8) * 8 * 9 * 35
        return 0.004 + 2e-7 * padded + 4e-7 * kernel.edge_values

    kernels = [conv(int(a), int(b)) for a, b in rng.integers(4, 160, (160, 2))]
    rows = {kernel.key: Row(truth(kernel), 0.0, 12) for kernel in kernels[:80]}
    device = Device("d", "cpu", "h", "onnxruntime", "1")
    path = LatencyTable(device, Protocol(), rows, spent_s=1.0).save(f"{tmp_path}/table.json")
    wrong = load_table(path).costs(kernels[80:]) / np.array([truth(kernel) for kernel in kernels[80:]]) - 1
    assert np.abs(wrong).mean() < 0.02


def test_conversions_of_what_is_joined_take_as_long_as_its_parts() -> None:
    """A table has joins with one and two converted parts; many parts of a join of the same size have no more values than it has."""
    rng = np.random.default_rng(0)

    def join(parts: int, channels: int) -> Fused:
        return Fused.of(("quantize",) * parts + ("cat",), channels, channels, into=(14, 14), onto=(14, 14), precision="int8")

    def truth(kernel: Fused) -> float:
        return 0.001 * len(kernel.ops) + 4e-7 * kernel.edge_values + 8e-7 * kernel.inputs * (len(kernel.ops) > 1)

    kernels = [join(int(parts), 8 * int(eighths)) for parts, eighths in zip(rng.integers(0, 3, 60), rng.integers(4, 80, 60), strict=True)]
    rows = {kernel.key: Row(truth(kernel), 0.0, 12) for kernel in kernels}
    table = LatencyTable(Device("d", "cpu", "h", "onnxruntime", "1"), Protocol(), rows, spent_s=1.0)
    asked = [join(parts, channels) for parts in (6, 12, 20) for channels in (64, 256, 600)]
    wrong = table.costs(asked) / np.array([truth(kernel) for kernel in asked]) - 1
    assert np.abs(wrong).mean() < 0.05


def test_kernels_are_refused_by_runtimes_that_cannot_run_them_alone() -> None:
    """A computed device costs them like any block, and in any order; a real one says what to do instead."""
    kernels = (conv(24, 48), conv(16, 16))
    device = Roofline()
    assert device.open(kernels).times(1)[0] == pytest.approx(1e-3 * (sum(map(device.latency_ms, kernels)) + 0.01))
    assert device.latency_ms(conv(240, 480)) > 50 * device.latency_ms(conv(24, 48)) / 2
    from hwsearch.backends import load_backend

    with pytest.raises(Unsupported, match="run inside it"):
        load_backend("onnxruntime").open(kernels[:1])
    with pytest.raises(Unsupported, match="single kernels"):
        device.profiled("any.onnx")
