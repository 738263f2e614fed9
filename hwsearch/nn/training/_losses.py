"""The losses of a training step: the sandwich rule for a supernet; a single network is its smallest case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...spaces._space import SearchSpace
from ..supernet import _weights_file as weights_file
from ..supernet._channels import rank_channels
from ..supernet._supernet import Supernet
from ._phases import Phase, corner
from ._recipe import AMP, Recipe

Maps = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Forward:
    """Runs a network as its recipe says: in which numbers, and with which feature maps kept.

    Attributes:
        amp: the number format, or ``None`` for float32.
        recompute: whether feature maps inside blocks are computed again for the backward pass.
    """

    amp: torch.dtype | None = None
    recompute: bool = False

    @classmethod
    def of(cls, recipe: Recipe) -> Forward:
        """As a recipe says."""
        return cls(AMP[recipe.amp] if recipe.amp else None, recipe.recompute)

    def __call__(self, network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, Maps]:
        """Run a supernet or a plain network.

        Args:
            network: its steps are run in order.
            x: normalised images, shape ``(n, channels, h, w)``.

        Returns:
            Logits, float32 of shape ``(n, classes)``, and the last feature map of each size, shape ``(n, c, h, w)``.
        """
        steps: list[Callable[[torch.Tensor], torch.Tensor]] = network.steps() if isinstance(network, Supernet) else list(network.children())
        maps: list[torch.Tensor] = []
        with torch.autocast(x.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            for number, step in enumerate(steps):
                x = self._step(step, x)
                if number and x.ndim == 4:
                    if maps and maps[-1].shape[2:] == x.shape[2:]:
                        maps.pop()
                    maps.append(x)
        return x.float(), maps

    def _step(self, step: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return step(x)
        out: Any = checkpoint(step, x, use_reentrant=False, preserve_rng_state=False)
        return out  # type: ignore[no-any-return]


class Losses(ABC):
    """The losses that a network is trained by.

    Attributes:
        space: the space of the network, or what stands for it in the files of a training.
        network: the network; training changes its parameters.
        judges: whether the result is judged after each epoch, so that the best one is kept in the place of the last one.
    """

    space: weights_file.Named
    network: nn.Module
    judges: bool = False

    @abstractmethod
    def __call__(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Yield the losses of a batch; each is sent backward before the next one is computed, so one network is in memory at a time.

        Args:
            x: normalised images, shape ``(n, channels, h, w)``.
            y: labels, shape ``(n,)``; or the share of each class, shape ``(n, classes)``.
            rng: draws the networks of the step.
        """

    def begin(self, phase: Phase, before: Phase | None) -> None:  # noqa: B027
        """Enter a phase of the recipe; by default the losses are the same in all phases.

        Args:
            phase: the phase of the next steps.
            before: the phase that has just ended; ``None`` if training starts or is continued.
        """

    def judge(self, step: int) -> float:
        """How good the result is now, after a number of steps; larger is better. By default nothing is judged."""
        raise NotImplementedError

    def kept(self) -> dict[str, torch.Tensor]:
        """The tensors that the result consists of; by default the parameters."""
        return dict(self.network.named_parameters())


class Sandwich(Losses):
    """The largest network learns from the labels and from the teacher, if there is one; the smallest and some random ones from the largest.

    This is the sandwich rule with in-place distillation (Universally Slimmable Networks, ICCV'19, section 3; BigNAS, ECCV'20, section 3.1).
    In a space of one network only the loss of that network remains.

    A phase trains only the networks that it frees. Between two phases the channels are put into the order of their importance
    (:func:`hwsearch.nn.supernet._channels.rank_channels`), so that narrower networks begin with the channels that matter.

    A teacher may also give hints: at the end of each feature-map size the mean square over the channels says where the network looks; these
    maps, scaled to length 1, are drawn to the teacher's (attention transfer, Zagoruyko and Komodakis, ICLR'17, section 3.1). They need no
    equal widths, and no layers of their own.

    Args:
        supernet: what learns.
        recipe: how.
        teacher: a plain network in evaluation mode.
    """

    def __init__(self, supernet: Supernet, recipe: Recipe, teacher: nn.Module | None = None) -> None:
        self.space: SearchSpace = supernet.space
        self.network, self.recipe, self.teacher = supernet, recipe, teacher
        self.supernet, self.run = supernet, Forward.of(recipe)
        self.begin(recipe.phases[0], None)

    def __call__(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Yield the loss of the largest network first, then those of the smaller ones."""
        supernet, recipe = self.supernet, self.recipe
        supernet.activate(supernet.largest)
        logits, maps = self.run(supernet, x)
        yield taught(recipe, self.teacher, x, y, logits, maps, self.run)
        if self.trained.size == 1:
            return
        wanted = F.softmax(logits.detach(), dim=1)
        for row in (corner(self.trained, 0), *self.trained.sample(self.others, rng)):
            supernet.activate(row)
            yield F.cross_entropy(self.run(supernet, x)[0], wanted)

    def begin(self, phase: Phase, before: Phase | None) -> None:
        """Choose the networks of the phase; if another phase has ended, first order the channels as far as its networks stay the same."""
        if before is not None:
            rank_channels(self.supernet, before.restrict(self.space))
        self.trained = phase.restrict(self.space)
        self.others = self.recipe.random_networks if phase.random_networks is None else phase.random_networks


def taught(
    recipe: Recipe,
    teacher: nn.Module | None,
    x: torch.Tensor,
    y: torch.Tensor,
    logits: torch.Tensor,
    maps: Maps = (),
    run: Forward | None = None,
) -> torch.Tensor:
    """The loss of a student that learns from the labels and from a teacher, if there is one (Hinton et al., 2015, section 2).

    Args:
        recipe: the shares of labels, teacher and hints.
        teacher: a plain network in evaluation mode.
        x, y: the images and their labels.
        logits, maps: what the student makes of them; without feature maps there are no hints.
        run: how the teacher is run; in float32 if omitted.
    """
    loss = of_labels(recipe, logits, y)
    if teacher is None:
        return loss
    with torch.no_grad():
        wanted, there = (run or Forward())(teacher, x)
    t = recipe.temperature
    soft = t**2 * F.cross_entropy(logits / t, F.softmax(wanted / t, dim=1))
    loss = (1 - recipe.distill) * loss + recipe.distill * soft
    return loss + recipe.hints * hint(maps, there) if recipe.hints and maps else loss


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


def hint(maps: Maps, wanted: Maps) -> torch.Tensor:
    """How far attention maps are from a teacher's: the mean over sizes and images of the squared distance, between 0 and 2.

    Args:
        maps, wanted: feature maps of student and teacher, the same number, shapes ``(n, c, h, w)``; the teacher's are resized
            to the student's.
    """
    distances = []
    for own, other in zip(maps, wanted, strict=True):
        a, b = (each.float().square().mean(dim=1, keepdim=True) for each in (own, other))
        b = F.adaptive_avg_pool2d(b, (a.shape[2], a.shape[3]))
        distances.append((F.normalize(a.flatten(1)) - F.normalize(b.flatten(1))).square().sum(dim=1).mean())
    return torch.stack(distances).mean()
