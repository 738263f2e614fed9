"""Accuracy of sub-networks at their precisions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from ..networks._blocks import Block
from ..spaces._genes import Rows
from ..spaces._space import Architecture, SearchSpace
from .data._images import Data, DataLike
from .data._load import load_data
from .quantization._quantize import STANDARD, Quantization
from .supernet._deploy import Deployed, deploy
from .supernet._supernet import Supernet, WeightsLike, load_supernet
from .training._processes import accelerator
from .training._watch import Metric


@dataclass(frozen=True)
class Extracted:
    """A plain network taken out of a supernet.

    Attributes:
        space: of the supernet.
        network: with calibrated batch norms, on the device with the most power to compute.
        blocks: what the network is made of.
        images: normalised training images to choose quantisers on, shape ``(n, channels, h, w)``, on the same device.
    """

    space: SearchSpace
    network: nn.Sequential
    blocks: tuple[Block, ...]
    images: torch.Tensor

    @classmethod
    def of(cls, supernet: Supernet, row: Rows) -> Extracted:
        """The network of a row, shape ``(genes,)``."""
        images = supernet.calibration().to(accelerator())
        network = supernet.extract(row, None if supernet.settled else images).to(images.device)
        return cls(supernet.space, network, tuple(supernet.space.blocks(row)), images)


def deployed(supernet: Supernet, row: Rows, *, floating: bool = False, quantization: Quantization = STANDARD) -> Deployed:
    """The network of a row as it is shipped: extracted, calibrated, folded, quantised.

    Args:
        supernet: the weights.
        row: the network, shape ``(genes,)``.
        floating: whether to compute all of it in fp32 instead.
        quantization: how it is quantised.
    """
    taken = Extracted.of(supernet, row)
    blocks = [replace(block, precision="fp32") for block in taken.blocks] if floating else taken.blocks
    return deploy(taken.network, blocks, taken.images, quantization)


def accuracy(network: Deployed, data: Data, split: str, most: int | None = None, batch: int | None = None) -> float:
    """Share of the images that a deployed network classifies correctly.

    Args:
        network: what to evaluate.
        data: the images.
        split: ``"train"``, ``"val"`` or ``"test"``.
        most: evaluate on this many images only, the first of the split.
        batch: images at a time; if omitted, 50 on a CPU, whose caches are small, and 250 on a GPU.
    """
    right = total = 0
    device = network.device
    batch = batch or (50 if device.type == "cpu" else 250)
    with torch.inference_mode():
        for x, y in data.batches(split, batch, most):
            right += int((network(data.normalize(x.to(device))).argmax(dim=1) == y.to(device)).sum())
            total += len(y)
    return right / total


def _judged(network: Deployed, data: Data, split: str, most: int | None, metric: Metric) -> float:
    """A metric of the user's of a deployed network, on all outputs and labels together."""
    outputs, labels = [], []
    with torch.inference_mode():
        for x, y in data.batches(split, 250, most):
            outputs.append(network(data.normalize(x.to(network.device))).cpu())
            labels.append(y)
    return float(metric(torch.cat(outputs), torch.cat(labels)))


def evaluate(
    architecture: Architecture,
    *,
    weights: WeightsLike,
    data: DataLike,
    split: str = "test",
    images: int | None = None,
    quantization: Quantization = STANDARD,
    metric: Metric | None = None,
) -> float:
    """Accuracy of one architecture at its precisions, with the weights it has in the supernet.

    Args:
        architecture: the network.
        weights: the supernet or its file.
        data: the images (:func:`load_data`).
        split: ``"train"``, ``"val"`` or ``"test"``.
        images: evaluate on this many images only, the first of the split.
        quantization: how it is quantised.
        metric: a function of logits, shape ``(n, classes)``, and labels, shape ``(n,)``, in the place of the accuracy.

    Returns:
        Between 0 and 1, or what the metric says.

    Raises:
        UnknownName: there is no such split.
        FileError: the weights cannot be used; WrongSpace if they are of another space.
        Unsupported: a precision that is neither fp32 nor quantised.

    Example:
        >>> import hwsearch
        >>> from hwsearch.spaces import Chain, Stage
        >>> toy = Chain("toy", (8,), (8,), (Stage((1, 2), (8, 16), (8, 12)),), classes=10, precisions=("fp32", "int8"), channels=1).space()
        >>> supernet = hwsearch.train(toy, data="digits", out="toy-evaluate.safetensors", recipe={"epochs": 1}, progress=False)
        >>> accuracy = hwsearch.evaluate(toy.architecture(supernet.largest), weights=supernet, data="digits", images=100)
        >>> 0 <= accuracy <= 1
        True
    """
    supernet = load_supernet(weights, architecture.space)
    network = deployed(supernet, architecture.genes, quantization=quantization)
    opened = load_data(data).normalized(supernet.normalize)
    return accuracy(network, opened, split, images) if metric is None else _judged(network, opened, split, images, metric)
