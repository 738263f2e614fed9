"""Quantisation-aware fine-tuning: a network is trained as it is shipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim import SGD

from ..._files._writing import PathLike
from ...errors import InvalidInput, UnknownName, check_seed
from ...networks._blocks import Block
from ...spaces._genes import Rows
from ...spaces._space import SearchSpace
from .._evaluate import extracted
from ..data._images import Data
from ..supernet._deploy import Deployed, deploy
from ..supernet._plain import Resize
from ..supernet._supernet import Supernet
from ..training._lesson import Lesson, taught
from ..training._loop import as_json
from ..training._processes import accelerator
from ..training._recipe import AMP, Recipe, recipe_for
from ..training._train import complete, suited
from ._folded import Owners, Place, Round, Visit, fold, owners
from ._learned import WEIGHT, Grid, forget, grids
from ._quantize import Quantization

FINEST = 0.02
"""The learning rate of quantisation-aware fine-tuning, as a share of that of random weights."""
WAYS = ("lsq", "pact")


def tune(
    weights: Supernet,
    *,
    data: Data,
    out: PathLike,
    recipe: Recipe,
    teacher: Supernet | None = None,
    way: str = "lsq",
    how: Quantization | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Supernet:
    """Train a network that is alone at its precisions, with the quantisers that it is shipped with.

    The batch norms are folded in with the statistics that the network keeps, feature maps and weights are rounded, and gradients pass the
    rounding as if it were not there, but not the clipping (straight-through estimation, Bengio et al., 2013). Steps are learned with the
    weights, and the result is shipped with them: with ``"lsq"`` those of feature maps and of weights, one an output channel (Esser et al.,
    ICLR'20); with ``"pact"`` those of feature maps alone, from what is clipped (Choi et al., 2018). It can be stopped and called again as
    :func:`hwsearch.nn.train` can.

    Args:
        weights: a trained network, alone in its space.
        data: the images.
        out: the safetensors file to write.
        recipe: how; a small learning rate and few epochs are enough.
        teacher: weights of the same space; their largest network teaches besides the labels.
        way: ``"lsq"`` or ``"pact"``.
        how: how the quantisers are chosen that it begins with, as of :func:`hwsearch.nn.deploy`.
        seed: of all randomness.
        progress: show a bar with the time left.

    Raises:
        InvalidInput: the weights are of several networks, or have no statistics of their own; and as :func:`hwsearch.nn.train` does.
        UnknownName: there is no such way.
    """
    if way not in WAYS:
        raise UnknownName("way of learning steps", way, WAYS)
    how, seed = how or Quantization(), check_seed(seed)
    data = data.normalized(weights.normalize)
    if not weights.settled:
        raise InvalidInput("Only a network that was trained alone can be tuned: train(space.alone(row), ...).")
    recipe = suited(recipe, data, weights.space)
    result = Supernet(weights.space)
    blocks = weights.space.blocks(weights.largest)
    lesson = Tuning(weights.space, weights.extract(weights.largest), blocks, weights.calibration(), recipe, teacher, way, how)
    facts = {**weights.facts, **data.identity, "train_images": data.count("train"), "tuned": weights.digest, "recipe": asdict(recipe)}
    facts |= {"teacher": None if teacher is None else teacher.digest, "seed": seed, "way": way, "how": asdict(how)}
    return complete(lesson, result, data, recipe, out=Path(out), facts=as_json(facts), seed=seed, progress=progress)


class Tuning(Lesson):
    """A plain network learns from the labels, and from the teacher if there is one, while everything is rounded as when it is shipped.

    Args:
        space: of this network alone.
        network: trained, its batch norms calibrated.
        blocks: what it is.
        images: normalised training images to choose the quantisers on, shape ``(n, channels, h, w)``.
        recipe: how.
        teacher, way, how: as for :func:`tune`.
    """

    def __init__(
        self,
        space: SearchSpace,
        network: nn.Sequential,
        blocks: Sequence[Block],
        images: torch.Tensor,
        recipe: Recipe,
        teacher: Supernet | None,
        way: str,
        how: Quantization,
    ) -> None:
        self.space, self.network, self.blocks, self.recipe = space, network, blocks, recipe
        self.plain, self.way, self.weight_bits = network, way, how.weight_bits
        self.shipped = deploy(network, blocks, images, replace(how, correction="none"))
        self.owners = owners(network, blocks)
        forget(network)
        for place, one in self.shipped.quantizers.items():
            setattr(*self.owners[place], Grid(torch.tensor(one.scale), one.zero, one.bits, one.symmetric, way == "lsq"))
        if way == "lsq":
            modules = [module for module in network if not isinstance(module, Resize)]
            for module, folded in zip(modules, self.shipped.blocks, strict=True):
                for part in ("body", "shortcut"):
                    for layer, one in zip(getattr(module, part, ()), getattr(folded, part) or (), strict=False):
                        if one.steps is not None:
                            setattr(layer, WEIGHT, Grid(one.steps, 0, min(folded.block.bits.weight_bits, how.weight_bits)))
        self.teacher = teacher.extract(teacher.largest).to(accelerator()) if teacher is not None else None

    def losses(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """The only loss."""
        network = replace(self.shipped, blocks=fold(self.plain, self.blocks, weight_bits=self.weight_bits, straight=True))
        with torch.autocast(x.device.type, dtype=AMP.get(self.recipe.amp or "bf16"), enabled=self.recipe.amp is not None):
            logits = network.run(x, _Learning(self.owners)).float()
        loss = taught(self.recipe, self.teacher, x, y, logits)
        if self.way == "pact":
            loss = loss + 0.5 * self.recipe.weight_decay * sum(grid.reach.square() for grid in grids(self.plain))
        yield loss


@dataclass
class _Learning(Visit):
    """Maps are rounded by the grids that are learned."""

    owners: Owners

    def grid(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        return getattr(*self.owners[place], None)


def tuned(supernet: Supernet, row: Rows, data: Data, steps: int, how: Quantization | None = None) -> Deployed:
    """The network of a row as it is shipped after a short fine-tuning at its precisions: what a predictor is taught in earnest.

    Args:
        supernet: its weights, which are left as they were.
        row: which one, shape ``(genes,)``.
        data: the images.
        steps: at a fiftieth of the learning rate of the data's recipe, falling to zero. Nothing in them is left to chance. Take 60 or more:
            what is learned begins without the correction of channels that calibration alone makes, and has to catch up with it first.
        how: how its quantisers are chosen, as of :func:`hwsearch.nn.supernet._deploy`.
    """
    how = how or Quantization()
    recipe, data = recipe_for(data.name, {"warm_up": 0.0, "label_smoothing": 0.0}), data.normalized(supernet.normalize)
    (network, images), blocks = extracted(supernet, row), supernet.space.blocks(row)
    lesson = Tuning(supernet.space, network, blocks, images, recipe, None, "lsq", how)
    optimizer = SGD(network.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True)
    order = np.random.default_rng(0).permutation(data.count("train"))
    shares = ((step, 0, order[np.arange(step * recipe.batch, (step + 1) * recipe.batch) % len(order)]) for step in range(steps))
    for step, (x, y) in enumerate(data.training(shares, 0)):
        optimizer.param_groups[0]["lr"] = FINEST * recipe.rate(step, steps)
        optimizer.zero_grad(set_to_none=True)
        for loss in lesson.losses(data.normalize(x.to(images.device)), y.to(images.device), np.random.default_rng(step)):
            torch.autograd.backward(loss)
        if all(bool(torch.isfinite(parameter.grad).all()) for parameter in network.parameters() if parameter.grad is not None):
            optimizer.step()
    return deploy(network, blocks, images, how)
