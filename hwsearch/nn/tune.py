"""Quantisation-aware fine-tuning: a network is trained as it is shipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .._store import PathLike
from ..blocks import Block
from ..errors import InvalidInput
from ..space import SearchSpace
from .data import Data
from .deploy import Place, Round, deploy, fold
from .lesson import Lesson, taught
from .loop import as_json
from .processes import accelerator
from .recipe import Recipe
from .supernet import Supernet
from .train import complete, suited


def tune(
    weights: Supernet,
    *,
    data: Data,
    out: PathLike,
    recipe: Recipe,
    teacher: Supernet | None = None,
    symmetric: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Supernet:
    """Train a network that is alone at its precisions, with the quantisers that it is shipped with.

    The batch norms are folded in with the statistics that the network keeps, feature maps and weights are rounded, and gradients pass the
    rounding as if it were not there, but not the clipping (straight-through estimation, Bengio et al., 2013). It can be stopped and called
    again as :func:`hwsearch.nn.train` can.

    Args:
        weights: a trained network, alone in its space.
        data: the images.
        out: the safetensors file to write.
        recipe: how; a small learning rate and few epochs are enough.
        teacher: weights of the same space; their largest network teaches besides the labels.
        symmetric: quantisers without zero points, as :class:`hwsearch.nn.Deployed` has them.
        seed: of all randomness.
        progress: show a bar with the time left.

    Raises:
        InvalidInput: the weights are of several networks, or have no statistics of their own; and as :func:`hwsearch.nn.train` does.
    """
    if not weights.settled:
        raise InvalidInput("Only a network that was trained alone can be tuned: train(space.alone(row), ...).")
    recipe = suited(recipe, data, weights.space)
    result = Supernet(weights.space)
    blocks = weights.space.blocks(weights.largest)
    lesson = Tuning(weights.space, weights.extract(weights.largest), blocks, weights.calibration(), recipe, teacher, symmetric)
    facts = {**weights.facts, "tuned": weights.digest, "recipe": asdict(recipe), "seed": seed}
    if teacher is not None:
        facts["teacher"] = teacher.digest
    if symmetric:
        facts["symmetric"] = True
    return complete(lesson, result, data, recipe, out=Path(out), facts=as_json(facts), seed=seed, progress=progress)


class Tuning(Lesson):
    """A plain network learns from the labels, and from the teacher if there is one, while everything is rounded as when it is shipped.

    Args:
        space: of this network alone.
        network: trained, its batch norms calibrated.
        blocks: what it is.
        images: normalised training images to choose the quantisers on, shape ``(n, channels, h, w)``.
        recipe: how.
        teacher, symmetric: as for :func:`tune`.
    """

    def __init__(
        self,
        space: SearchSpace,
        network: nn.Sequential,
        blocks: Sequence[Block],
        images: torch.Tensor,
        recipe: Recipe,
        teacher: Supernet | None,
        symmetric: bool,
    ) -> None:
        self.space, self.network, self.blocks, self.recipe = space, network, blocks, recipe
        self.plain = network
        self.shipped = deploy(network, blocks, images, symmetric)
        self.teacher = teacher.extract(teacher.largest).to(accelerator()) if teacher is not None else None

    def losses(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """The only loss."""
        network = replace(self.shipped, blocks=fold(self.plain, self.blocks, straight=True))
        yield taught(self.recipe, self.teacher, x, y, network.run(x, self._at))

    def _at(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        quantizer = self.shipped.quantizers.get(place)
        return quantizer.straight if quantizer else None
