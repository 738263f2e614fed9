"""What a runtime's profiler says of operations, put together for the kernels of a user's network."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch.backends._kernels import kernels_ms, resolved_us
from hwsearch.networks import kernel_of, labelled


def test_the_kernel_of_an_operation_is_told_from_what_runtimes_make_of_its_name() -> None:
    """Paths, suffixes and what other runtimes append are no part of the kernel's name."""
    name = labelled("relu__1", "conv2d_3")
    for made in (f"/{name}/Relu_output_0_nchwc", f"/{name}/Conv", f"/{name}/Conv/WithoutBiases", name):
        assert kernel_of(made) == "conv2d_3"
    assert kernel_of("ReorderOutput_token_17") is None


def test_what_a_runtime_names_after_two_operations_belongs_to_the_latter() -> None:
    """OpenVINO names so what changes a format or a layout between two operations, such as the conversion of what an int8 kernel reads."""
    made = f"/{labelled('conv', 'a')}/Conv/WithoutBiases_f32_u8_/{labelled('conv', 'b')}/Conv/WithoutBiases"
    assert kernel_of(made) == "b"
    assert kernel_of(f"onnx::Conv_0_abcd_acdb_/{labelled('conv', 'a')}/Conv") == "a"


def test_what_a_profiler_adds_to_each_operation_is_taken_off_and_what_a_runtime_inserts_goes_to_the_next_kernel() -> None:
    """Five operations of 10, 30, 5, 40 and 2 microseconds, to each of which the profiler adds 6; the last one comes after all kernels."""
    names = [
        f"/{labelled('conv', 'a')}/Conv",
        f"/{labelled('relu', 'a')}/Relu",
        "ReorderInput",
        f"/{labelled('conv', 'b')}/Conv",
        "Reorder",
    ]
    real = np.array([10.0, 30.0, 5.0, 40.0, 2.0])
    found = kernels_ms(names, 1e-3 * (real + 6), 1e-3 * real.sum())
    assert found == pytest.approx({"a": 0.040, "b": 0.047}, rel=1e-3)


def test_a_profile_that_is_faster_than_the_network_is_left_as_it_is() -> None:
    """The machine was calmer then; nothing is taken off, and nothing becomes negative or nothing."""
    names = [f"/{labelled('conv', 'a')}/Conv", f"/{labelled('conv', 'b')}/Conv"]
    assert kernels_ms(names, np.array([0.01, 0.02]), 1.0) == pytest.approx({"a": 0.01, "b": 0.02})
    assert min(kernels_ms(names, np.array([0.01, 0.02]), 1e-9).values()) > 0


def test_fractions_of_the_microseconds_that_a_profiler_counts_in_are_told_from_when_operations_begin() -> None:
    """Operations of 2.1, 2.9, 40.5 and 1.2 microseconds, 3 more after each for the profiler, which says 2, 2, 40 and 1 each time."""
    real, rng = np.array([2.1, 2.9, 40.5, 1.2]), np.random.default_rng(0)
    begin = np.cumsum(np.tile(real + 3.0, 100)).reshape(100, 4) - (real + 3.0) + rng.random((100, 1))
    found = resolved_us(np.floor(begin), np.tile(np.floor(real), (100, 1)))
    assert np.ptp((found - real)[:3]) < 0.35, "what it takes itself is the same for all"
    assert found[1] - found[0] == pytest.approx(0.8, abs=0.3)
    assert resolved_us(np.zeros((3, 1)), np.full((3, 1), 7.0)) == pytest.approx([7.0])


def test_an_operation_inside_another_takes_what_the_profiler_says() -> None:
    """A loop of 50 microseconds tells of the 20 of its body as well, which begins before the loop ends."""
    begin, took = np.tile([0.0, 10.0, 53.0], (4, 1)), np.tile([50.0, 20.0, 7.0], (4, 1))
    found = resolved_us(begin, took)
    assert np.all(found >= took[0])
    assert found[1] < 50
