"""The losses of a training step: the sandwich rule for a supernet; a single network is its smallest case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...spaces._space import SearchSpace
from ..supernet import _weights_file as weights_file
from ..supernet._channels import rank_channels
from ..supernet._elastic import ElasticNorm
from ..supernet._supernet import Supernet
from ._maps import Forward, Stages
from ._phases import Phase, corner
from ._processes import ALONE, Processes
from ._recipe import Recipe
from ._teacher import Teaching


class Losses(ABC):
    """The losses that a network is trained by.

    Attributes:
        space: the space of the network, or what stands for it in the files of a training.
        network: the network; training changes its parameters.
        judges: whether the result is judged after each epoch, so that the best one is kept in the place of the last one.
        helpers: modules that only the losses need, such as those of hints: learned with the network, and no part of the result.
    """

    space: weights_file.Named
    network: nn.Module
    judges: bool = False
    helpers: nn.Module | None = None

    @abstractmethod
    def __call__(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Yield the losses of a batch; each is sent backward before the next one is computed, so one network is in memory at a time.

        Args:
            x: normalised images, shape ``(n, channels, h, w)``.
            y: labels, shape ``(n,)``; or the share of each class, shape ``(n, classes)``.
            rng: draws the networks of the step.
        """

    def share(self, team: Processes) -> None:
        """Have batch norms go by the images of all these processes from now on."""
        for module in self.network.modules():
            if isinstance(module, ElasticNorm):
                module.team = team

    @contextmanager
    def together(self, team: Processes, synced: bool) -> Iterator[None]:
        """Within this block batch norms go by the images of all processes if ``synced``, and by those of this one again after it."""
        if synced:
            self.share(team)
        try:
            yield
        finally:
            self.share(ALONE)

    def begin(self, phase: Phase, before: Phase | None) -> None:  # noqa: B027
        """Enter a phase of the recipe; by default the losses are the same in all phases.

        Args:
            phase: the phase of the next steps.
            before: the phase that has just ended; ``None`` if training starts or is continued.
        """

    def memory(self) -> dict[str, torch.Tensor]:
        """What the losses change themselves from step to step, by name, on the CPU; by default nothing.

        A training keeps these tensors with its state, as they were before the step that is being made, and fills them when it goes on.
        """
        return {}

    def judge(self, step: int) -> float:
        """How good the result is now, after a number of steps; larger is better. By default nothing is judged."""
        raise NotImplementedError

    def kept(self) -> dict[str, torch.Tensor]:
        """The tensors that the result consists of; by default the parameters."""
        return dict(self.network.named_parameters())


class Sandwich(Losses):
    """The largest network learns from the labels and from the teacher, if there is one; the smallest and some random ones from the largest.

    This is the sandwich rule with in-place distillation (Universally Slimmable Networks, ICCV'19, section 3; BigNAS, ECCV'20, section 3.1).
    In a space of one network only the loss of that network remains. If the recipe has no sandwich, random networks learn from labels alone.

    A phase trains only the networks that it frees. Between two phases the channels are put into the order of their importance
    (:func:`hwsearch.nn.supernet._channels.rank_channels`), so that narrower networks begin with the channels that matter.

    Args:
        supernet: what learns.
        recipe: how.
        teaching: what the largest network learns from a teacher besides.
    """

    def __init__(self, supernet: Supernet, recipe: Recipe, teaching: Teaching | None = None) -> None:
        self.space: SearchSpace = supernet.space
        self.network, self.recipe, self.teaching = supernet, recipe, teaching
        self.supernet, self.run = supernet, Forward(recipe.amp, recipe.recompute)
        if teaching is not None:
            supernet.activate(supernet.largest)
            teaching.meet(lambda inputs, stages: self.run(supernet, inputs[0], stages))
            self.helpers = teaching.helpers
        self.begin(recipe.phases[0], None)

    def __call__(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Yield the loss of the largest network first, then those of the smaller ones; or those of random networks alone."""
        supernet, recipe = self.supernet, self.recipe
        if not recipe.sandwich:
            for row in self.trained.sample(self.others, rng):
                supernet.activate(row)
                yield of_labels(recipe, self.run(supernet, x), y)
            return
        supernet.activate(supernet.largest)
        stages = None if self.teaching is None else self.teaching.stages()
        logits = self.run(supernet, x, stages)
        yield taught(recipe, self.teaching, x, y, logits, stages)
        if self.trained.size == 1:
            return
        wanted = F.softmax(logits.detach(), dim=1)
        for row in (corner(self.trained, 0), *self.trained.sample(self.others, rng)):
            supernet.activate(row)
            yield F.cross_entropy(self.run(supernet, x), wanted)

    def begin(self, phase: Phase, before: Phase | None) -> None:
        """Choose the networks of the phase; if another phase has ended, first order the channels as far as its networks stay the same."""
        if before is not None:
            rank_channels(self.supernet, before.restrict(self.space))
        self.trained = phase.restrict(self.space)
        self.others = self.recipe.random_networks if phase.random_networks is None else phase.random_networks


def taught(
    recipe: Recipe, teaching: Teaching | None, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor, stages: Stages | None
) -> torch.Tensor:
    """The loss of a student that learns from the labels, and from a teacher if there is one.

    Args:
        recipe: the share of the teacher.
        teaching: what is learned from it.
        x, y: the images and their labels.
        logits, stages: what the student makes of them.
    """
    loss = of_labels(recipe, logits, y)
    if teaching is None:
        return loss
    return (1 - recipe.distill) * loss + teaching((x,), [logits], stages)


def of_labels(recipe: Recipe, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss of the labels: cross-entropy, with smoothed labels and weighted classes where the recipe says so, or the recipe's own.

    Args:
        recipe: what it says.
        logits: shape ``(n, classes)``.
        y: labels, shape ``(n,)``; or the share of each class, shape ``(n, classes)``.
    """
    if recipe.loss is not None:
        return recipe.loss(logits, y)
    weights = recipe.class_weights
    balance = None if weights is None or isinstance(weights, str) else torch.tensor(list(weights), dtype=logits.dtype, device=logits.device)
    return F.cross_entropy(logits, y, weight=balance, label_smoothing=recipe.label_smoothing)
