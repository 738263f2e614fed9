"""Deployed networks: batch norms folded and feature maps quantised, exactly as the exported graph computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from ...networks._blocks import Block
from ..data._images import DataLike, Normalize
from ..data._load import load_data
from ..quantization._folded import FoldedBlock, FoldedLayer, Map, Place, Round, Visit, fold, owners
from ..quantization._learned import grid, grids
from ..quantization._quantize import STANDARD, Quantization, Quantizer, fit_quantizer
from ._plain import resize
from ._supernet import Supernet


@dataclass(frozen=True)
class Deployed:
    """A network as it is shipped.

    In quantised blocks the output of every convolution and of the residual sum is quantised: after a ReLU, and both before and after any
    other activation of a convolution. Maps of fewer than 8 bits, which no runtime here takes from a file, are rounded where they are stored
    alone: what accumulators hold goes into a sum or an activation as it is, as on integer hardware (HAWQ-V3, ICML'21). Weights are
    symmetric with one scale an output channel, and the input is what the block or the boundary before has produced. The layers of a
    squeeze-and-excite, and a second linear layer, compute in floats. In blocks of 16-bit floats weights and the same outputs are rounded to
    these.

    Example:
        >>> import torch
        >>> from hwsearch.nn import Supernet, deploy
        >>> supernet = Supernet("resnet_digits")
        >>> network = supernet.space.architecture(supernet.smallest).at_precision("int8")
        >>> images = torch.randn(64, 1, 16, 16)
        >>> shipped = deploy(supernet.extract(network.genes, images), network.blocks(), images)
        >>> shipped.resolution, sorted({quantizer.bits for quantizer in shipped.quantizers.values()})
        (8, [8])

    Attributes:
        blocks: in the order of execution, precision boundaries included.
        quantizers: by place.
        symmetric: whether quantisers have no zero points, and none stands before a sum or an activation; see
            :class:`hwsearch.backends._onnx._flavours.Flavour`.
    """

    blocks: tuple[FoldedBlock, ...]
    quantizers: dict[Place, Quantizer]
    symmetric: bool = False

    @property
    def resolution(self) -> int:
        """Height and width of the input, px."""
        return self.blocks[0].block.size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.blocks[-1].body[-1].weight.device

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape ``(n, classes)``, of normalised images of any size, shape ``(n, channels, h, w)``."""
        return self.run(x, Shipped(self))

    def skipped(self, place: Place) -> bool:
        """Whether the map there goes into a sum or an activation as it is."""
        block = self.blocks[place[0]]
        few, summed = block.block.bits.activation_bits < 8, []
        if block.shortcut is not None:
            summed = [f"body{len(block.body) - 1}"] if block.body[-1].layer.activation == "none" else []
            summed += [f"shortcut{len(block.shortcut) - 1}"] if few else []
        return (few or self.symmetric) and (place[1] in summed or place[1].endswith(".pre"))

    def run(self, x: torch.Tensor, visit: Visit) -> torch.Tensor:
        """Run the network with other quantisers than its own.

        Args:
            x: normalised images, shape ``(n, channels, h, w)``.
            visit: what to do with the feature maps.

        Returns:
            Logits, shape ``(n, classes)``.
        """
        value = Map(resize(x, self.resolution))
        for number, folded in enumerate(self.blocks):
            value = folded.run(value, number, visit)
            visit.leave(number, value.values)
        return value.values


@dataclass
class Shipped(Visit):
    """Maps are rounded as they are in the network that is shipped."""

    network: Deployed

    def grid(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        return None if self.network.skipped(place) else self.network.quantizers[place]


Moments = dict[Place, tuple[torch.Tensor, torch.Tensor]]
"""Means and standard deviations of the outputs of layers, shapes ``(cout,)``."""


def _moments(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, variance = torch.zeros(2, y.shape[1], device=y.device, dtype=y.dtype)
    torch.batch_norm_update_stats(y, mean, variance, momentum=1.0)  # ten times as fast as torch.std_mean
    return mean, variance.sqrt()


@dataclass
class _Watching(Visit):
    """The moments of a network in floating point are noted."""

    moments: Moments = field(default_factory=dict)

    def sums(self, place: Place, layer: FoldedLayer, y: torch.Tensor) -> torch.Tensor:
        self.moments[place] = _moments(y)
        return y

    def grid(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        return None


@dataclass
class _Fitting(Visit):
    """All quantisers are chosen, each on a map that the ones before it have rounded already, and layers corrected."""

    network: Deployed
    quantization: Quantization
    wanted: Moments

    def sums(self, place: Place, layer: FoldedLayer, y: torch.Tensor) -> torch.Tensor:
        if layer.steps is None or place not in self.wanted:
            return y
        (mean, std), (wanted, spread) = _moments(y), self.wanted[place]
        factor = torch.ones_like(std)
        if self.quantization.correction == "scale":
            factor = torch.where((std > 1e-6) & (spread > 1e-6), spread / std, factor)
            layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.ndim - 1)))
            layer.steps.mul_(factor)
        shift = wanted - factor * mean
        layer.bias.mul_(factor).add_(shift)
        shape = (1, -1, *[1] * (y.ndim - 2))
        return y * factor.view(shape) + shift.view(shape)

    def grid(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        if self.network.skipped(place):
            return None
        self.network.quantizers[place] = fit_quantizer(y, bits, signed, self.quantization.symmetric, self.quantization.ranges)
        return self.network.quantizers[place]


def deploy(network: nn.Sequential, blocks: Sequence[Block], images: torch.Tensor, quantization: Quantization = STANDARD) -> Deployed:
    """Fold and quantise a plain network.

    Quantisers that the network has learned (:func:`hwsearch.nn.tune`) are taken as they are if they have zero points, or none, as
    ``quantization`` says; then no layer is corrected.

    Example:
        >>> import torch
        >>> from hwsearch.nn import Supernet, deploy
        >>> supernet = Supernet("resnet_digits")
        >>> network = supernet.space.architecture(supernet.smallest).at_precision("int8")
        >>> images = torch.randn(64, 1, 16, 16)
        >>> shipped = deploy(supernet.extract(network.genes, images), network.blocks(), images)
        >>> shipped(images).shape
        torch.Size([64, 10])

    Args:
        network: from :meth:`hwsearch.nn.Supernet.extract`, its batch norms calibrated; it stays as it is.
        blocks: what the network is made of, as ``space.blocks(row)`` tells.
        images: normalised training images to choose the quantisers on, shape ``(n, channels, h, w)``.
        quantization: how it is quantised.

    Raises:
        InvalidInput: the network does not have these blocks.
        Unsupported: 8-bit floats.
    """
    with torch.inference_mode():
        symmetric = quantization.symmetric
        deployed = Deployed(fold(network, blocks, quantization), _learned(network, blocks, symmetric), symmetric)
        if any(block.bits.quantized for block in blocks) and not deployed.quantizers:
            fit(deployed, fold(network, [replace(block, precision="fp32") for block in blocks]), images, quantization)
    return deployed


def fit(network: Deployed, floats: tuple[FoldedBlock, ...], images: torch.Tensor, quantization: Quantization) -> None:
    """Choose all quantisers of a network, and correct the layers whose weights are rounded.

    Args:
        network: without quantisers; its layers are changed in place.
        floats: the blocks of the same network in floating point.
        images: normalised training images, shape ``(n, channels, h, w)``.
        quantization: as of :func:`deploy`.
    """
    watching = _Watching()
    if quantization.correction != "none":
        Deployed(floats, {}).run(images, watching)
    network.run(images, _Fitting(network, quantization, watching.moments))


def _learned(network: nn.Sequential, blocks: Sequence[Block], symmetric: bool) -> dict[Place, Quantizer]:
    """The quantisers of feature maps that a network has learned; none if some are for other blocks or of the other symmetry."""
    found = {place: grid(*owner, blocks[place[0]].bits.activation_bits) for place, owner in owners(network, blocks).items()}
    ours = {place: one.quantizer for place, one in found.items() if one is not None and one.symmetric == symmetric}
    return ours if len(ours) == sum(not one.step.ndim for one in grids(network)) else {}


def calibration_of(supernet: Supernet, data: DataLike | None = None) -> tuple[Normalize, torch.Tensor]:
    """How images are normalised for a supernet, and normalised ones to calibrate its networks on, shape ``(n, channels, h, w)``.

    Args:
        supernet: the trained weights.
        data: take training images of these data; if omitted, those that the supernet carries.

    Raises:
        InvalidInput: no data are given, and the supernet carries no images.
    """
    if data is not None:
        found = load_data(data).normalized(supernet.normalize)
        return found.normalize, found.normalize(found.calibration_images(0))
    images = supernet.calibration()
    assert supernet.normalize is not None  # or it would carry no images
    return supernet.normalize, images
