"""Accuracy of sub-networks at their precisions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from .._files._writing import PathLike
from ..spaces._genes import Rows
from ..spaces._space import Architecture
from .data._images import Data
from .data._load import load_data
from .quantization._quantize import Quantization
from .supernet._deploy import Deployed, deploy
from .supernet._supernet import Supernet, load_supernet
from .training._processes import accelerator


def deployed(supernet: Supernet, row: Rows, *, floating: bool = False, how: Quantization | None = None) -> Deployed:
    """The network of ``row`` (shape ``(genes,)``) as it is shipped: extracted, calibrated, folded, quantised.

    Args:
        supernet: its weights.
        row: which one.
        floating: all of it in fp32 instead.
        how: as of :func:`deploy`.
    """
    network, images = extracted(supernet, row)
    blocks = supernet.space.blocks(row)
    return deploy(network, [replace(block, precision="fp32") for block in blocks] if floating else blocks, images, how)


def extracted(supernet: Supernet, row: Rows) -> tuple[nn.Sequential, torch.Tensor]:
    """The network of a row, calibrated, and the images that quantisers are chosen on, where there is the most power to compute."""
    images = supernet.calibration().to(accelerator())
    return supernet.extract(row, None if supernet.settled else images).to(images.device), images


def accuracy(network: Deployed, data: Data, split: str, most: int | None = None, batch: int | None = None) -> float:
    """Share of images that a deployed network gets right.

    Args:
        network: what to evaluate.
        data: the images.
        split: ``"train"``, ``"val"`` or ``"test"``.
        most: evaluate on this many images only, the first of the split.
        batch: images at a time; where left out 50 on a CPU, whose caches are small, and 250 on a GPU.
    """
    right = total = 0
    where = network.device
    batch = batch or (50 if where.type == "cpu" else 250)
    with torch.inference_mode():
        for x, y in data.batches(split, batch, most):
            right += int((network(data.normalize(x.to(where))).argmax(dim=1) == y.to(where)).sum())
            total += len(y)
    return right / total


def evaluate(
    architecture: Architecture,
    *,
    weights: PathLike | Supernet,
    data: PathLike | tuple[str, PathLike] | Data,
    split: str = "test",
    images: int | None = None,
    how: Quantization | None = None,
) -> float:
    """Accuracy of one architecture at its precisions, with the weights it has in the supernet.

    Args:
        architecture: the network.
        weights: the supernet or its file.
        data: the images (:func:`load_data`).
        split: ``"train"``, ``"val"`` or ``"test"``.
        images: evaluate on this many images only, the first of the split.
        how: how it is quantised, as of :func:`deploy`.

    Returns:
        Between 0 and 1.

    Raises:
        UnknownName: there is no such split.
        FileError: the weights cannot be used; WrongSpace where they are of another space.
        Unsupported: a precision that is neither fp32 nor quantised.
    """
    supernet = load_supernet(weights, architecture.space)
    return accuracy(deployed(supernet, architecture.genes, how=how), load_data(data).normalized(supernet.normalize), split, images)
