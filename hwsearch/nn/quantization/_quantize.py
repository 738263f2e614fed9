"""How networks are quantised, and uniform quantisers of 2 to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...backends.base import Backend
from ...devices._device import Device
from ...errors import InvalidInput, UnknownName, Unsupported
from ._clipping import RANGES, SHARES

CORRECTIONS = ("none", "bias", "scale")
WEIGHTS = ("linear", "k-means")
_MOST_VALUES = 32768


@dataclass(frozen=True)
class Quantization:
    """How a network is quantised after training.

    Example:
        >>> from hwsearch.devices import Device
        >>> from hwsearch.nn import Quantization
        >>> old = Device("old-cpu", "cpu", "x86", "onnxruntime", "1.23", facts={"int8": "weights of 7 bits"})
        >>> Quantization(ranges="percentile").on(old)  # as its arithmetic needs it
        Quantization(ranges='percentile', correction='scale', symmetric=False, weight_bits=7, weights='linear')

    Attributes:
        ranges: how the range of a feature map is chosen: ``"mse"``, ``"minmax"``, ``"percentile"`` or ``"kl"``
            (:mod:`hwsearch.nn.quantization._clipping`).
        correction: what is restored of the outputs of a layer whose weights are rounded, channel by channel: the mean, by the bias
            (``"bias"``, Nagel et al., ICCV'19, section 4.2); the mean and the standard deviation (``"scale"``), as re-estimated batch norms
            do; or nothing (``"none"``).
        symmetric: whether quantisers have no zero points, as of :class:`hwsearch.nn.Deployed`.
        weight_bits: the most bits that weights have, whatever their precision says. Runtimes on x86 without VNNI carry 7
            (:attr:`hwsearch.backends.Backend.weight_bits`).
        weights: what quantised weights are rounded to: ``"linear"``, evenly spaced values, one step an output channel, which kernels for
            integers compute with; or ``"k-means"``, the ``2**bits`` values of a codebook a layer times a scale an output channel (Deep
            Compression, Han et al., ICLR'16, as searched by HAQ, Wang et al., CVPR'19). Codebooks make a file smaller and nothing faster:
            :func:`hwsearch.nn.save_coded` writes such a network, its layers in floats coded as well, :func:`hwsearch.nn.coded_size` is
            the size of the file with its codebooks, and what learns steps or writes model files for runtimes refuses them.

    Raises:
        UnknownName: there is no such way.
        InvalidInput: bits that are not 2 to 8.
    """

    ranges: str = "mse"
    correction: str = "scale"
    symmetric: bool = False
    weight_bits: int = 8
    weights: str = "linear"

    def __post_init__(self) -> None:
        if self.weight_bits not in range(2, 9):
            raise InvalidInput(f"weight_bits must be 2 to 8, not {self.weight_bits}.")
        chosen = (("ranges", self.ranges, RANGES), ("correction", self.correction, CORRECTIONS), ("weights", self.weights, WEIGHTS))
        for what, name, known in chosen:
            if name not in known:
                raise UnknownName(what, name, known)

    def on(self, device: Backend | Device) -> Quantization:
        """The same, as model files for a device need it: with zero points or without, and with weights that its arithmetic carries.

        Args:
            device: a backend, or the device of a latency table (``table.device``).
        """
        return replace(self, symmetric=not device.zero_points, weight_bits=min(self.weight_bits, device.weight_bits))

    def check_linear(self, what: str) -> None:
        """Refuse codebooks.

        Args:
            what: needs evenly spaced weights, as the subject of a sentence.

        Raises:
            Unsupported: weights are to share the values of codebooks.
        """
        if self.weights != "linear":
            raise Unsupported(
                f"{what} evenly spaced weights, and Quantization(weights={self.weights!r}) has codebooks. Use weights='linear' for it; "
                "hwsearch.nn.save_coded writes networks with codebooks."
            )


STANDARD = Quantization()
"""Ranges of least square error, and layers whose means and standard deviations are restored."""


@dataclass(frozen=True)
class Quantizer:
    """A quantiser of a whole feature map: ``real = scale * (integer - zero)``, integers in ``0 .. 2**bits - 1``.

    Attributes:
        scale: the size of a step.
        zero: the integer that stands for 0; 0 for maps without negative values, which makes it the ReLU as well.
        bits: 2 to 8.
        symmetric: integers are in ``-2**(bits - 1) .. 2**(bits - 1) - 1`` and ``zero`` is 0, whatever the map, as TensorRT has it.
    """

    scale: float
    zero: int
    bits: int
    symmetric: bool = False

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest number of steps from 0."""
        least = -(2 ** (self.bits - 1)) if self.symmetric else -self.zero
        return least, least + 2**self.bits - 1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Round ``x`` of any shape to the values that the integers stand for (fake quantisation)."""
        # Five times as fast as torch.fake_quantize_per_tensor_affine on a CPU, and the same numbers.
        return (x * (1.0 / self.scale)).round_().clamp_(*self.range).mul_(self.scale)


def fit_quantizer(x: torch.Tensor, bits: int, signed: bool, symmetric: bool = False, ranges: str = "mse") -> Quantizer:
    """The quantiser of a feature map.

    With few bits, clipping rare large values saves accuracy; with 8 it changes little. Its error is estimated from at most 32,768 values
    drawn at random, the range from all of them.

    Args:
        x: a feature map of real images, any shape.
        bits: 2 to 8.
        signed: whether negative values matter; ``False`` after a ReLU.
        symmetric: whether there must be no zero point; then maps without negative values use half of the integers.
        ranges: as of :class:`Quantization`.
    """
    if symmetric:
        half = fit_quantizer(x.abs() if signed else x, bits - 1, signed=False, ranges=ranges)
        return Quantizer(half.scale, 0, bits, symmetric=True)
    steps = 2**bits - 1
    low, high = float(x.amin()), float(x.amax())  # twenty times as fast as torch.aminmax where channels are last
    low, high = (min(low, 0.0) if signed else 0.0), max(high, 0.0)
    if high - low < 1e-8:
        return Quantizer(1.0, 0, bits)
    if x.numel() > _MOST_VALUES:
        drawn = torch.randint(x.numel(), (_MOST_VALUES,), generator=torch.Generator().manual_seed(0))
        values = torch.take(x, drawn.to(x.device))
    else:
        values = x.flatten()
    values = values.double().clamp(min=low)

    def grid(share: float) -> tuple[float, int]:
        step = share * ((high - low) / steps)
        return step, round(-low * share / step)

    step, zero = grid(RANGES[ranges](values, grid, bits))
    return Quantizer(float(torch.tensor(step)), zero, bits)


def weight_steps(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The steps of a symmetric grid of ``2**bits - 1`` values for each output channel, shape ``(cout,)``.

    They reach to the largest weight of the channel at 8 bits, as runtimes have it; below, they are those of least square error.

    Args:
        weight: shape ``(cout, ...)``.
        bits: 2 to 8.
    """
    top = 2 ** (bits - 1) - 1
    flat = weight.flatten(1)
    full = flat.abs().amax(dim=1) / top
    full = torch.where(full > 0, full, torch.ones_like(full))
    best, least = full, torch.full_like(full, float("inf"))
    for share in SHARES[:1].tolist() if bits == 8 else SHARES.tolist():
        error = ((quantize_weight(flat, bits, full * share) - flat) ** 2).sum(dim=1)
        best = torch.where(error < least, full * share, best)
        least = torch.minimum(error, least)
    return best


def quantize_weight(weight: torch.Tensor, bits: int, steps: torch.Tensor | None = None) -> torch.Tensor:
    """Round weights to a symmetric grid of ``2**bits - 1`` values, with one scale an output channel (fake quantisation).

    Args:
        weight: shape ``(cout, ...)``.
        bits: 2 to 8.
        steps: of the grid, shape ``(cout,)``; if omitted, those of :func:`weight_steps`.

    Returns:
        The rounded weights, shaped like ``weight``.
    """
    top = 2 ** (bits - 1) - 1
    shape = (-1, *[1] * (weight.ndim - 1))
    step = (weight_steps(weight, bits) if steps is None else steps).view(shape)
    return torch.round(weight / step).clamp_(-top, top).mul_(step)
