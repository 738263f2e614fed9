"""Scores that are sums over what is removed, so that the best network within limits can be proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..._types import Values
from ...backends._load import load_backend
from ...errors import InvalidInput
from ...scores._perceptrons import Perceptrons
from ...scores._predictor import Predictor
from ..quantization._quantize import STANDARD, Quantization
from ._evidence import Scores
from ._importance import importance
from ._proof import Replay, stays
from ._quantized import quantize
from ._run import execute

if TYPE_CHECKING:
    from ._adopted import Adopted


def additive(
    space: Adopted,
    scores: Scores | str,
    branches: Mapping[str, float] | None = None,
    order: Scores | None = None,
    bits: Mapping[str, float] | None = None,
    images: torch.Tensor | tuple[torch.Tensor, ...] | None = None,
) -> Predictor:
    """A score that is minus the importance of all that a network lacks.

    It is a linear predictor, so ``algorithm="exact"`` proves its optimum. Its space knows the importances, so networks that are found with
    it keep the units that matter most.

    Args:
        space: the adopted network.
        scores: importance of each unit of each group, as from :func:`~hwsearch.nn.adoption.importance`, or the name of one.
        branches: importance of each searchable branch as a whole, as from :func:`branch_importance`; those that are not there count as much
            as all units together.
        order: another importance, which says which units of a group go first, while ``scores`` says only how much the first, the second
            and so on cost, as in :func:`~hwsearch.nn.adoption.allocate`.
        bits: what is lost where a region of kernels is in int8, by its gene, as from :func:`bits_importance`; nothing if omitted.
        images: example inputs, without labels, that everything is told from which is not given, bits as :func:`hwsearch.export` has them
            for ONNX Runtime on this machine. With the name ``"reconstruction"`` all of it is then a change of what the network computes, so
            units, branches and bits are weighed on one scale.

    Raises:
        InvalidInput: a group that is searched at several widths is not among the scores, or does not have that number of units; or the
            importance of a name needs images.

    Example:
        >>> import hwsearch
        >>> import torch
        >>> from hwsearch.nn.adoption import additive, importance
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> space = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> score = additive(space, importance(space, "l1"))
        >>> best = hwsearch.search(space, "exact", predictor=score, limits={"params": 700}).best
        >>> best.values()
        {'0.width': 8}
        >>> additive(space, "reconstruction", images=torch.randn(16, 3, 8, 8))
        <Predictor ... for 'Sequential': ...>
    """
    if isinstance(scores, str):
        scores = importance(space, scores, images)
    weight_bits = None
    if images is not None:
        branches = branch_importance(space, images) if branches is None else branches
        if bits is None and space.places.regions:
            quantization = STANDARD.on(load_backend("onnxruntime"))
            bits, weight_bits = bits_importance(space, images, quantization), quantization.weight_bits
    known = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    first = known if order is None else {name: np.asarray(values, dtype=np.float64) for name, values in order.items()}
    for group in space.places.groups:
        if group not in known or group not in first:
            raise InvalidInput(f"There is no importance of the units of group {group}.")
    learned = space.knowing({name: first[name] for name in space.places.groups})
    lost = _lost(space, known, branches or {}, bits or {})
    weights = np.concatenate([*(lost[choice.name] for choice in space.choices), [0.0]])
    return Predictor(learned, Perceptrons(-weights.astype(np.float32)), 0.0, 1.0, weight_bits=weight_bits)


def _lost(space: Adopted, known: Mapping[str, Values], branches: Mapping[str, float], bits: Mapping[str, float]) -> dict[str, Values]:
    """What is lost at each value of each gene."""
    everything = sum(float(values.sum()) for values in known.values())
    lost: dict[str, Values] = {}
    for group, gene in space.places.groups.items():
        removed = np.concatenate([[0.0], np.cumsum(np.sort(known[group]))])
        kept = np.array(space.choices[space.position[gene]].values, dtype=np.int64)
        lost[gene] = removed[len(known[group]) - kept]
    for branch, gene in space.places.branches.items():
        lost[gene] = np.array([branches.get(branch, everything), 0.0])
    for gene in space.places.regions:
        values = space.choices[space.position[gene]].values
        lost[gene] = np.array([0.0 if value == "fp32" else bits.get(gene, 0.0) for value in values])
    return lost


def branch_importance(space: Adopted, images: torch.Tensor | tuple[torch.Tensor, ...]) -> dict[str, float]:
    """The mean squared change of the network's outputs when a branch is removed, summed over outputs, for each searchable branch.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import branch_importance
        >>> class Residual(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv = torch.nn.Conv2d(8, 8, 3, padding=1)
        ...     def forward(self, x):
        ...         return x + self.conv(x)
        >>> images = torch.randn(4, 8, 8, 8)
        >>> space = hwsearch.adopt(torch.nn.Sequential(Residual(), Residual()), images[:1])
        >>> {branch: lost > 0 for branch, lost in branch_importance(space, images).items()}
        {'b0': True, 'b1': True}

    Args:
        space: the adopted network.
        images: example inputs.
    """
    inputs = space.checked((images,) if isinstance(images, torch.Tensor) else images)
    found = {branch.id: 0.0 for branch in space.branches if branch.searchable}
    for start in range(0, len(inputs[0]), space.batch):
        run = Replay(space.network, tuple(each[start : start + space.batch] for each in inputs))
        for branch in space.branches:
            if branch.searchable:
                changed = run.again({}, stays([branch]))
                found[branch.id] += sum(float((a - b).square().sum()) for a, b in zip(run.outputs, changed, strict=True))
    return {branch: total / len(inputs[0]) for branch, total in found.items()}


def bits_importance(
    space: Adopted, images: torch.Tensor | tuple[torch.Tensor, ...], quantization: Quantization = STANDARD
) -> dict[str, float]:
    """The mean squared change of the network's outputs when a region is in int8, summed over outputs, by the gene of its precision.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import bits_importance
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> images = torch.randn(16, 3, 8, 8)
        >>> space = hwsearch.adopt(torch.nn.Sequential(*layers), images[:1], precisions=("fp32", "int8"))
        >>> {gene: lost > 0 for gene, lost in bits_importance(space, images).items()}
        {'0.precision': True, '2.precision': True}

    Args:
        space: the adopted network.
        images: example inputs.
        quantization: how kernels are quantised.
    """
    inputs = space.checked((images,) if isinstance(images, torch.Tensor) else images)
    fitted = space.at_once(inputs)
    parts = [tuple(each[start : start + space.batch] for each in inputs) for start in range(0, len(inputs[0]), space.batch)]
    wanted = [execute(space.network, part) for part in parts]
    found = {}
    for gene, region in space.places.regions.items():
        if "int8" in space.choices[space.position[gene]].values:
            network = quantize(space.network, fitted, dict.fromkeys(region.weights, "int8"), quantization)
            pairs = [pair for part, right in zip(parts, wanted, strict=True) for pair in zip(execute(network, part), right, strict=True)]
            found[gene] = sum(float((a - b).square().sum()) for a, b in pairs) / len(inputs[0])
    return found
