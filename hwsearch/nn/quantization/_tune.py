"""Quantisation-aware fine-tuning: a network is trained as it is shipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim import SGD

from ..._files._writing import PathLike
from ...errors import InvalidInput, UnknownName, check_seed
from ...spaces._genes import Rows
from .._evaluate import Extracted
from ..data._images import Data, DataLike
from ..data._load import load_data
from ..pruning._sparsity import Sparsity
from ..supernet._deploy import Deployed, deploy
from ..supernet._plain import Resize
from ..supernet._supernet import Supernet
from ..training._amp import mixed
from ..training._arguments import Facts, as_json
from ..training._losses import Losses, taught
from ..training._maps import Stages
from ..training._processes import processes
from ..training._recipe import Recipe, recipe_for
from ..training._teacher import Teaching, load_teacher
from ..training._train import Weights, complete, suited, teaching_of
from ..training._watch import Progress
from ._folded import FoldedBlock, Owners, Place, Round, Visit, fold, owners, slope
from ._learned import LEAST, WEIGHT, Grid, forget, grids
from ._quantize import STANDARD, Quantization

FINEST = 0.02
"""The learning rate of quantisation-aware fine-tuning, as a share of that of random weights."""
LIVE = 0.8
"""The share of the steps in which batch norms go by the batch; in the others they are as they are shipped."""
WAYS = ("lsq", "pact")


def tune(
    weights: Supernet,
    *,
    data: DataLike,
    out: PathLike,
    recipe: Recipe,
    way: str = "lsq",
    quantization: Quantization = STANDARD,
    seed: int = 0,
    progress: Progress = True,
) -> Supernet:
    """Train a network that is alone at its precisions, with the quantisers that it is shipped with.

    Maps and weights are rounded, and gradients pass the rounding as if it were not there, but not the clipping (straight-through, Bengio et
    al., 2013). In the first four fifths of the steps batch norms go by the batch, and their statistics follow; in the last fifth these are
    folded in as they are, and what is trained is to the last bit what is shipped (Krishnamoorthi, 2018). Steps are learned with the
    weights, and shipped: with ``"lsq"`` those of maps and of weights, one an output channel (Esser et al., ICLR'20); with ``"pact"`` those
    of maps alone, from what is clipped (Choi et al., 2018). It can be stopped and called again as :func:`hwsearch.nn.train` can.

    Args:
        weights: a trained network, alone in its space.
        data: the images, or their name, or name and folder (:func:`hwsearch.nn.load_data`).
        out: the safetensors file to write.
        recipe: how to train; a small learning rate and few epochs are enough.
        way: ``"lsq"`` or ``"pact"``.
        quantization: how the quantisers are chosen that it begins with.
        seed: of all randomness.
        progress: show a bar with the time left.

    Raises:
        InvalidInput: the weights are of several networks, or lack statistics; patience, device or ``sync_bn``; and as ``train`` does.
        UnknownName: there is no such way.
        Unsupported: weights with codebooks.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn import Recipe, Supernet, tune
        >>> from hwsearch.spaces import Chain, Stage
        >>> toy = Chain("toy", (8,), (8,), (Stage((1,), (8,), (8,)),), classes=10, precisions=("int4",), channels=1).space()
        >>> alone = toy.alone(Supernet(toy).largest)
        >>> trained = hwsearch.train(alone, data="digits", out="toy-alone.safetensors", recipe={"epochs": 1}, progress=False)
        >>> fine = Recipe(epochs=1, learning_rate=0.004)
        >>> tuned = tune(trained, data="digits", out="toy-tuned.safetensors", recipe=fine, progress=False)
    """
    if way not in WAYS:
        raise UnknownName("way of learning steps", way, WAYS)
    seed, data = check_seed(seed), load_data(data).normalized(weights.normalize)
    if not weights.settled:
        raise InvalidInput("Only a network that was trained alone can be tuned: train(space.alone(row), ...).")
    recipe = suited(recipe, data, weights.space)
    result = Supernet(weights.space)
    teacher = load_teacher(recipe.teacher, weights.space)
    if recipe.patience or recipe.device or recipe.sync_bn:
        raise InvalidInput("Tuning has neither patience nor a device of its own nor sync_bn: leave them out of its recipe.")
    batches = round(LIVE * recipe.epochs * (data.count("train") // recipe.batch)) * (recipe.parts // processes().count)
    taken, teaching = Extracted.of(weights, weights.largest), teaching_of(teacher, recipe, data, seed)
    losses = Tuning(taken, recipe, teaching, way, quantization, batches)
    facts = {**weights.facts, **data.identity, "train_images": data.count("train"), "tuned": weights.digest, "recipe": recipe.document}
    facts |= {"teacher": None if teacher is None else teacher.digest, "seed": seed, "way": way, "how": asdict(quantization)}
    return complete(losses, _Tuned(result, losses), data, recipe, out=Path(out), facts=as_json(facts), seed=seed, progress=progress)


class Tuning(Losses):
    """A plain network learns from the labels, and from the teacher if there is one, while everything is rounded as when it is shipped.

    Args:
        taken: the network to train.
        recipe: how to train.
        teaching: what is learned from a teacher besides.
        way, quantization: as for :func:`tune`.
        batches: so many batches are normalised by their own statistics, and the statistics that are kept follow them; after that these
            are folded in as they are.
    """

    def __init__(
        self,
        taken: Extracted,
        recipe: Recipe,
        teaching: Teaching | None = None,
        way: str = "lsq",
        quantization: Quantization = STANDARD,
        batches: int = 0,
    ) -> None:
        quantization.check_linear("Tuning learns the steps of")
        self.space, self.network, self.blocks = taken.space, taken.network, taken.blocks
        self.recipe, self.teaching = recipe, teaching
        self.plain, self.way, self.quantization = taken.network, way, quantization
        self.shipped = deploy(self.plain, self.blocks, taken.images, quantization)
        rounded = fold(self.plain, self.blocks, quantization)
        self.owners = owners(self.plain, self.blocks)
        forget(self.plain)
        for place, quantizer in self.shipped.quantizers.items():
            grid = Grid(torch.tensor(quantizer.scale), quantizer.zero, quantizer.bits, quantizer.symmetric, way == "lsq")
            setattr(*self.owners[place], grid)
        if way == "lsq":
            with torch.no_grad():
                self._learn_weight_steps(rounded)
        self.norms = {name: norm for name, norm in self.plain.named_modules() if isinstance(norm, nn.BatchNorm2d)}
        kept = ("running_mean", "running_var")
        self.statistics = {f"{name}.{each}": getattr(norm, each) for name, norm in self.norms.items() for each in kept}
        self.batches, self.made = batches, torch.zeros((), dtype=torch.int64)
        if teaching is not None:
            teaching.meet(lambda inputs, stages: self._run(inputs[0], stages))
            self.helpers = teaching.helpers

    def _learn_weight_steps(self, rounded: tuple[FoldedBlock, ...]) -> None:
        """Give the layers whose weights are rounded steps that are learned, for weights without their batch norms."""
        modules = [module for module in self.plain if not isinstance(module, Resize)]
        for module, folded in zip(modules, rounded, strict=True):
            for part in ("body", "shortcut"):
                for layer, shipped in zip(getattr(module, part, ()), getattr(folded, part) or (), strict=False):
                    if shipped.steps is not None:
                        setattr(layer, WEIGHT, Grid(shipped.steps, 0, min(folded.block.bits.weight_bits, self.quantization.weight_bits)))
        for grid, norm in self._normed():
            grid.step.div_(slope(norm).abs().clamp_min(LEAST))

    def _normed(self) -> Iterator[tuple[Grid, nn.BatchNorm2d]]:
        """The grids of weights that a batch norm is folded into, each with that norm."""
        for layer in self.plain.modules():
            grid, norm = getattr(layer, WEIGHT, None), getattr(layer, "norm", None)
            if isinstance(grid, Grid) and isinstance(norm, nn.BatchNorm2d):
                yield grid, norm

    def memory(self) -> dict[str, torch.Tensor]:
        """How many batches were seen, and the statistics of the batch norms."""
        return {"batches": self.made, **self.statistics}

    @torch.no_grad()
    def settle(self) -> None:
        """Make the steps of weights those of the weights that are shipped, their batch norms folded in."""
        for grid, norm in self._normed():
            grid.step.copy_(grid.folded(slope(norm)))

    def __call__(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Yield the only loss."""
        live = bool(self.made < self.batches)
        before = [each.clone() for each in self.statistics.values()] if live else []
        for norm in self.norms.values():
            norm.train(live)
        self.made += 1
        stages = None if self.teaching is None else self.teaching.stages()
        logits = self._run(x, stages)
        loss = taught(self.recipe, self.teaching, x, y, logits, stages)
        if self.way == "pact":
            loss = loss + 0.5 * self.recipe.weight_decay * sum(grid.reach.square() for grid in grids(self.plain))
        yield loss
        if live:  # after it was sent backward, which reads the statistics
            self._keep(before)

    @torch.no_grad()
    def _keep(self, before: Iterable[torch.Tensor]) -> None:
        """Have all processes keep the mean of their statistics, and those that were there before in the place of what is no number."""
        team, found = processes(), list(self.statistics.values())
        for own, old in zip(found, before, strict=True):
            own.copy_(torch.where(torch.isfinite(own), own, old) / team.count)
        team.add_up(found)

    def _run(self, x: torch.Tensor, stages: Stages | None) -> torch.Tensor:
        """The logits, everything rounded."""
        network = replace(self.shipped, blocks=fold(self.plain, self.blocks, self.quantization, straight=True))
        names = [name for name, module in self.plain.named_children() if not isinstance(module, Resize)]
        with mixed(x.device.type, self.recipe.amp):
            return network.run(x, _Learning(self.owners, names, stages)).float()


class _Tuned(Weights):
    """A network that was tuned.

    Args:
        supernet: the weights to write.
        losses: it was tuned by.
    """

    def __init__(self, supernet: Supernet, losses: Tuning) -> None:
        super().__init__(supernet, losses.network)
        self.losses = losses

    def settle(self, data: Data, recipe: Recipe, seed: int, facts: Facts) -> Supernet:
        """The supernet, with steps as they are shipped."""
        self.losses.settle()
        return super().settle(data, recipe, seed, facts)


@dataclass
class _Learning(Visit):
    """Maps are rounded by the grids that are learned; those that blocks give are noted by the names of the blocks, if they are wanted."""

    owners: Owners
    names: list[str]
    stages: Stages | None

    def leave(self, number: int, y: torch.Tensor) -> None:
        if self.stages is not None:
            self.stages.note(self.names[number], y)

    def grid(self, place: Place, y: torch.Tensor, bits: int, signed: bool) -> Round | None:
        return getattr(*self.owners[place], None)


def fine_of(recipe: Recipe, epochs: int) -> Recipe:
    """How a network is tuned that was trained by this recipe: at a fiftieth of its learning rate, and what became zero stays zero."""
    sparsity = None if recipe.sparsity is None else Sparsity(hold=True)
    fine = replace(recipe, epochs=epochs, learning_rate=FINEST * recipe.learning_rate, sparsity=sparsity)
    return replace(fine, warm_up=0.0, ema=0.0, mixup=0.0, cutmix=0.0, amp=None, sync_bn=False)


def tuned(supernet: Supernet, row: Rows, data: Data, steps: int, quantization: Quantization = STANDARD) -> Deployed:
    """The network of a row as it is shipped after a short fine-tuning at its precisions.

    Args:
        supernet: the weights, which stay as they are.
        row: the network, shape ``(genes,)``.
        data: the images.
        steps: at a fiftieth of the learning rate of the data's recipe, falling to zero; they are deterministic. Take 60 or more: the
            statistics of batch norms have to follow the rounded weights first.
        quantization: how the quantisers are chosen that it begins with.
    """
    recipe, data = recipe_for(data.recipe, {"warm_up": 0.0, "label_smoothing": 0.0}), data.normalized(supernet.normalize)
    taken = Extracted.of(supernet, row)
    network, images = taken.network, taken.images
    losses = Tuning(taken, recipe, quantization=quantization, batches=round(LIVE * steps))
    optimizer = SGD(network.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True)
    order = np.random.default_rng(0).permutation(data.count("train"))
    shares = ((step, 0, order[np.arange(step * recipe.batch, (step + 1) * recipe.batch) % len(order)]) for step in range(steps))
    for step, (x, y) in enumerate(data.training(shares, 0)):
        optimizer.param_groups[0]["lr"] = FINEST * recipe.rate(step, steps)
        optimizer.zero_grad(set_to_none=True)
        for loss in losses(data.normalize(x.to(images.device)), y.to(images.device), np.random.default_rng(step)):
            torch.autograd.backward(loss)
        if all(bool(torch.isfinite(parameter.grad).all()) for parameter in network.parameters() if parameter.grad is not None):
            optimizer.step()
    losses.settle()
    return deploy(network, taken.blocks, images, quantization)
