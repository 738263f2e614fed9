"""Ranges and corrections: each way keeps its promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsearch
from hwsearch.errors import UnknownName
from hwsearch.nn import Quantization, Supernet
from hwsearch.nn._evaluate import deployed
from hwsearch.nn.quantization._clipping import RANGES
from hwsearch.nn.quantization._quantize import fit_quantizer, quantize_weight, weight_steps

torch.set_num_threads(1)


def error(x: torch.Tensor, bits: int, signed: bool, ranges: str) -> float:
    return float((fit_quantizer(x, bits, signed, ranges=ranges)(x) - x).square().mean())


@settings(deadline=None)
@given(st.integers(2, 8), st.booleans(), st.integers(0, 5), st.floats(0.1, 10.0))
def test_least_square_error_is_least_and_minmax_clips_nothing(bits: int, signed: bool, seed: int, spread: float) -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * spread
    x = x if signed else x.relu()
    errors = {ranges: error(x, bits, signed, ranges) for ranges in RANGES}
    assert errors["mse"] <= min(errors.values()) * 1.02 + 1e-12  # percentiles may lie between the shares that are tried
    whole = fit_quantizer(x, bits, signed, ranges="minmax")
    assert float((whole(x) - x).abs().max()) <= whole.scale * 1.001


@pytest.mark.parametrize("ranges", ["mse", "percentile", "kl"])
def test_one_large_value_does_not_cost_the_others_their_steps(ranges: str) -> None:
    x = torch.randn(50000, generator=torch.Generator().manual_seed(0)).relu()
    x[0] = 40.0
    assert fit_quantizer(x, 8, signed=False, ranges=ranges).scale < 0.5 * fit_quantizer(x, 8, signed=False, ranges="minmax").scale


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 5))
def test_steps_of_weights_do_not_depend_on_the_scale_of_a_channel(bits: int, seed: int) -> None:
    weight = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    factor = torch.tensor([0.5, 1.0, 8.0])
    assert torch.allclose(weight_steps(weight * factor.view(3, 1, 1, 1), bits), weight_steps(weight, bits) * factor)
    once = quantize_weight(weight, bits)
    assert torch.allclose(quantize_weight(once, bits, weight_steps(weight, bits)), once, atol=1e-6)


def test_correction_keeps_the_means_and_brings_the_outputs_closer(trained: Path, toy: hwsearch.SearchSpace) -> None:
    supernet = Supernet.load(trained, toy)
    images, row = supernet.calibration(), supernet.largest
    int8 = toy.architecture(row).at_precision("int8").genes
    with torch.inference_mode():
        wanted = deployed(supernet, row, floating=True)(images)
        found = {way: deployed(supernet, int8, quantization=Quantization(correction=way))(images) for way in ("none", "bias", "scale")}
    drift = {way: float((one - wanted).mean(dim=0).abs().max()) for way, one in found.items()}
    assert max(drift["bias"], drift["scale"]) <= drift["none"] + 1e-4


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'percentile'"):
        Quantization(ranges="percentil")
    with pytest.raises(UnknownName, match="Did you mean 'scale'"):
        Quantization(correction="scal")
