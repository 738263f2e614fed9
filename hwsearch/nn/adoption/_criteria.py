"""Ways of telling which units matter, each a small function; :func:`~hwsearch.nn.adoption.criterion` registers more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...errors import InvalidInput
from ._importance import Evidence, Loss, Scores, criterion


@criterion("l1")
def l1(evidence: Evidence) -> Scores:
    """Sum of magnitudes of the weights that make a unit (Li et al., Pruning filters for efficient convnets, 2017)."""
    return _of_weights(evidence, lambda rows: rows.abs().sum(1))


@criterion("l2")
def l2(evidence: Evidence) -> Scores:
    """Sum of squares of the weights that make a unit."""
    return _of_weights(evidence, lambda rows: rows.square().sum(1))


@criterion("fpgm")
def fpgm(evidence: Evidence) -> Scores:
    """Sum of distances to the weights of all other units (He et al., Filter pruning via geometric median, 2019)."""
    return _of_weights(evidence, lambda rows: torch.cdist(rows, rows).sum(1))


@criterion("lamp")
def lamp(evidence: Evidence) -> Scores:
    """Square of the weights of a unit, divided by those of all units that are no smaller (Lee et al., Layer-adaptive sparsity, 2021)."""

    def relative(rows: torch.Tensor) -> torch.Tensor:
        squares, order = rows.square().sum(1).sort()
        return (squares / squares.flip(0).cumsum(0).flip(0))[order.argsort()]

    return _of_weights(evidence, relative)


@criterion("bn_scale")
def bn_scale(evidence: Evidence) -> Scores:
    """Magnitudes of the scales of normalisations (Liu et al., Network slimming, 2017); 0 in groups without any."""
    found = {}
    for group in evidence.groups:
        scales = [rows.abs().sum(1) for name, rows in evidence.weights(group, group.follow) if name.endswith("weight")]
        found[group.id] = sum(scales, torch.zeros(group.width)).numpy()
    return found


@criterion("taylor")
def taylor(evidence: Evidence) -> Scores:
    """First-order change of the loss when a unit is removed, as magnitudes, summed over images (Molchanov et al., 2017)."""
    return _of_derivatives(evidence, torch.abs)


@criterion("fisher")
def fisher(evidence: Evidence) -> Scores:
    """Half the squared derivatives, summed over images: the diagonal of the Fisher information (Liu et al., Group Fisher pruning, 2021)."""
    return _of_derivatives(evidence, lambda each: each.square() / 2)


@criterion("hessian")
def hessian(evidence: Evidence) -> Scores:
    """Half the diagonal of the Hessian of the loss by factors on units, at least 0 (LeCun et al., Optimal brain damage, 1990)."""
    found = evidence.curvatures(torch.Generator().manual_seed(0))
    return {name: each.clamp_min(0).numpy() / 2 for name, each in found.items()}


@criterion("variance")
def variance(evidence: Evidence) -> Scores:
    """Variance over images and positions of what is read of a unit, summed over its readers: what does not vary, a bias can stand for."""
    if evidence.images is None:
        raise InvalidInput("This criterion looks at activations: give images.")
    flow = evidence.adopted.analysis.flow
    sums: dict[tuple[str, str, int], torch.Tensor] = {}
    places: dict[tuple[str, str, int], np.ndarray[Any, Any]] = {}
    looked = replace(evidence, targets=torch.zeros(len(evidence.images[0])), loss=projected())
    for _, reads in looked.reads():
        for read in reads:
            key = (read.reader, read.node, read.dim)
            rows = read.value.double().movedim(read.dim, 0).flatten(1)
            places[key] = read.units
            sums[key] = sums.get(key, torch.zeros(())) + torch.stack(
                [torch.full((len(rows),), rows.shape[1]), rows.sum(1), rows.square().sum(1)]
            )
    total = np.zeros(len(flow.atoms))
    for key, (n, first, second) in sums.items():
        np.add.at(total, places[key], (second / n - (first / n).square()).clamp_min(0).numpy())
    return {group.id: total[group.units] for group in evidence.groups}


@criterion("outputs")
def outputs(evidence: Evidence) -> Scores:
    """Expected squared change of the network's outputs when a unit is removed, to first order; needs no labels.

    It is the Fisher criterion of a random projection of all outputs, drawn anew for each image. Unlike a loss, outputs do not go flat on
    images that the network was trained on.
    """
    if evidence.images is None:
        raise InvalidInput("This criterion looks at outputs: give images.")
    return fisher(replace(evidence, targets=torch.zeros(len(evidence.images[0])), loss=projected()))


def projected() -> Loss:
    """A loss whose derivatives have the second moments of all outputs' together: a random projection, drawn anew for each image."""
    generator = torch.Generator().manual_seed(0)

    def loss(found: Sequence[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        noises = (torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in found)
        return torch.stack([(each * noise).sum() for each, noise in zip(found, noises, strict=True)]).sum()

    return loss


def _of_weights(evidence: Evidence, score: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
    found = {}
    for group in evidence.groups:
        parts = group.opened or group.read
        found[group.id] = sum((score(rows) for _, rows in evidence.weights(group, parts)), torch.zeros(group.width)).numpy()
    return found


def _of_derivatives(evidence: Evidence, score: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
    total = {group.id: torch.zeros(group.width, dtype=torch.float64) for group in evidence.groups}
    for derivatives in evidence.sensitivities():
        for name, each in derivatives.items():
            total[name] += score(each).sum(0)
    return {name: each.numpy() for name, each in total.items()}
