"""ProxylessNAS: weights and architecture are trained in turn, on the device's own costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .._files._writing import PathLike
from .._types import Rows
from ..costs._metrics import Metric
from ..errors import InvalidInput, check_seed
from ..spaces._load import load_space
from ..spaces._space import Architecture, SearchSpace
from .data._images import Data, DataLike
from .data._load import load_data
from .supernet._supernet import Supernet
from .training._arguments import HAPPENED, as_json
from .training._losses import Losses, of_labels
from .training._maps import Forward
from .training._paths import Alphas, Expected, Paths, of_two, reinforced
from .training._phases import PHASES
from .training._processes import computing_on, processes
from .training._recipe import Recipe, RecipeLike, recipe_for
from .training._train import Weights, check_fit, complete, suited
from .training._watch import Progress

_IMAGES = 2048
"""Validation images that the architecture is trained on, at most; they are kept in memory."""


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """How much a cost counts beside the loss.

    Example:
        >>> from hwsearch.nn import Tradeoff
        >>> Tradeoff(factor=0.5, target=2.0).reward  # twice the target costs as much as a loss of 1
        False

    Attributes:
        factor: the weight of the expected cost, relative to ``target``, in the loss; 0 for the loss alone.
        target: what the cost should be; the mean of those of the smallest and the largest network if omitted.
        reward: take the reward ``accuracy * (cost / target) ** -factor`` by REINFORCE instead of adding the expected cost.
        rate: of the steps of the architecture parameters.
        warm_up: share of the steps in which weights alone are trained.

    Raises:
        InvalidInput: a number that makes no sense.
    """

    factor: float = 0.1
    target: float | None = None
    reward: bool = False
    rate: float = 0.02
    warm_up: float = 0.25

    def __post_init__(self) -> None:
        target = 1.0 if self.target is None else self.target
        given: tuple[Any, ...] = self.factor, self.rate, self.warm_up, target
        known = all(isinstance(each, Real) and math.isfinite(each) for each in given)
        if not (known and self.factor >= 0 and self.rate > 0 and 0 <= self.warm_up < 1 and target > 0):
            raise InvalidInput(
                f"A trade-off needs finite numbers: factor >= 0, rate > 0, a warm-up between 0 and 1 and a positive target, not {self}."
            )
        for name in ("factor", "target", "rate", "warm_up"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))


STANDARD = Tradeoff()
"""A tenth of the expected cost in the loss, after a quarter of the steps."""


@dataclass(frozen=True)
class Searched:
    """What :func:`proxyless` found.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn import Searched, Supernet
        >>> space = hwsearch.load_space("resnet_digits")
        >>> row = Supernet(space).largest
        >>> found = Searched(space.architecture(row), {"resolution": (0.2, 0.8)}, Supernet(space))
        >>> max(found.probabilities["resolution"])
        0.8

    Attributes:
        best: the network of the most probable values.
        probabilities: for each gene the probability of every value.
        supernet: the trained weights.
    """

    best: Architecture
    probabilities: dict[str, tuple[float, ...]]
    supernet: Supernet


def proxyless(
    space: str | SearchSpace,
    *,
    data: DataLike,
    out: PathLike,
    cost: Metric,
    recipe: RecipeLike = None,
    tradeoff: Tradeoff = STANDARD,
    seed: int = 0,
    progress: Progress = True,
) -> Searched:
    """Search by training: ProxylessNAS (Cai, Zhu and Han, ICLR'19) over the networks of a space.

    Each gene has architecture parameters, whose softmax tells the probability of each of its values. Steps of the weights train one
    sampled network on training images. Steps of the architecture, in turn with them and after a warm-up, compare two sampled networks on
    validation images: the loss is the expected one of the two, by their probabilities relative to each other, and what changes are the
    parameters of the values in which they differ; all other probabilities stay. The expected cost is added, or a reward is multiplied. Only
    one network is in memory at a time. It can be stopped and called again like :func:`hwsearch.train`. Precisions play no part.

    Args:
        space: whose networks, or its name; their weights are shared as in :class:`hwsearch.nn.Supernet`.
        data: the images (:func:`hwsearch.nn.load_data`).
        out: the safetensors file of the weights; what was found is kept in it.
        cost: such as ``hwsearch.metric("latency_ms", space, table)``.
        recipe: how the weights are trained, as for :func:`hwsearch.train`; its ``sandwich``, ``random_networks`` and ``sync_bn`` play no
            part, since one sampled network learns in each step, on one process.
        tradeoff: how much the cost counts.
        seed: of all randomness.
        progress: show a bar with the time left.

    Raises:
        InvalidInput: what :func:`hwsearch.train` refuses; a recipe with several parts or processes, a teacher, phases or a patience; a
            cost of another space, one without an expected value, or one that may be negative.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn import proxyless
        >>> from hwsearch.spaces import Chain, Stage
        >>> toy = Chain("toy", (8,), (8,), (Stage((1, 2), (8, 16), (8, 12)),), classes=10, channels=1).space()
        >>> cost = hwsearch.metric("macs", toy)
        >>> found = proxyless(toy, data="digits", out="toy-paths.safetensors", cost=cost, recipe={"epochs": 1}, progress=False)
        >>> len(found.probabilities) == len(toy.choices)
        True
    """
    seed, space, data = check_seed(seed), load_space(space), load_data(data)
    _check_kinds(cost, tradeoff)
    recipe = suited(replace(recipe_for(data.recipe, recipe), sandwich=True), data, space)
    _check(recipe, cost, space)
    supernet = Supernet(space, seed, recipe.generated)
    check_fit(supernet, data)
    losses = _Alternating(supernet, recipe, tradeoff, cost, data)
    facts = {**data.identity, "train_images": data.count("train"), "seed": seed, "recipe": recipe.document, "allowed": space.allowed}
    facts |= {"tradeoff": asdict(tradeoff), "cost": [cost.name, cost.device, cost.digest]}
    with computing_on(recipe.device):
        outcome = _Found(supernet, losses.paths)
        done = complete(losses, outcome, data, recipe, out=Path(out), facts=as_json(facts), seed=seed, progress=progress)
    losses.paths.alphas = [torch.tensor(values) for values in done.facts[HAPPENED]["alphas"]]
    shares = losses.paths.probabilities()
    told = {choice.name: tuple(each.tolist()) for choice, each in zip(space.choices, shares, strict=True)}
    return Searched(space.architecture(losses.paths.best), told, done)


def _check_kinds(cost: object, tradeoff: object) -> None:
    """A metric and a trade-off, and not what they are made from.

    Raises:
        InvalidInput: they are not.
    """
    if not isinstance(cost, Metric):
        raise InvalidInput(f'cost must be a metric, such as hwsearch.metric("macs", space), not {cost!r}.')
    if not isinstance(tradeoff, Tradeoff):
        raise InvalidInput(f"tradeoff must be a Tradeoff, such as hwsearch.nn.Tradeoff(factor=0.5), not {tradeoff!r}.")


def _check(recipe: Recipe, cost: Metric, space: SearchSpace) -> None:
    """A recipe of one phase without a teacher, and a cost of the space.

    Raises:
        InvalidInput: they are not.
    """
    if cost.space.fingerprint != space.fingerprint:
        raise InvalidInput(
            f"The cost {cost.name!r} is of space {cost.space.name!r}, not of {space.name!r}: hwsearch.metric() makes one for it."
        )
    if recipe.parts > 1 or processes().count > 1 or recipe.teacher is not None or recipe.patience or recipe.phases != PHASES["sandwich"]:
        raise InvalidInput(
            "ProxylessNAS trains all networks at all times, to the end, on one process, in whole batches and without a teacher: leave "
            "phases, patience, parts and teacher out of its recipe."
        )


class _Found(Weights):
    """Weights, and the architecture parameters that were found."""

    def __init__(self, supernet: Supernet, paths: Paths) -> None:
        super().__init__(supernet, supernet)
        self.paths = paths

    def settle(self, data: Data, recipe: Recipe, seed: int, facts: dict[str, Any]) -> Supernet:
        """The supernet, whose facts have what was found."""
        found = [alpha.tolist() for alpha in self.paths.alphas]
        return super().settle(data, recipe, seed, {**facts, HAPPENED: {**facts.get(HAPPENED, {}), "alphas": found}})


class _Alternating(Losses):
    """A sampled network learns from training images; then the architecture from validation images."""

    def __init__(self, supernet: Supernet, recipe: Recipe, tradeoff: Tradeoff, cost: Metric, data: Data) -> None:
        self.space, self.network, self.supernet, self.recipe, self.tradeoff = supernet.space, supernet, supernet, recipe, tradeoff
        self.run, self.paths, self.data = Forward(recipe.amp, recipe.recompute), Paths(supernet.space), data
        self.cost, self.expected = cost, None if tradeoff.reward else Expected(cost, self.paths.held)
        self.target = self._target()
        self.made = torch.zeros(())
        self.warm = tradeoff.warm_up * recipe.epochs * (data.count("train") // recipe.batch)

    def _target(self) -> float:
        """What the cost should be.

        Raises:
            InvalidInput: the cost is infinite throughout, may be negative, or 0 where the reward divides by it, or its mean is no target.
        """
        name, least = self.cost.name, max(total.within(self.paths.held).minimum[0] for total in self.cost.sums)
        if least == math.inf:
            raise InvalidInput(f"The cost {name!r} of every network of the space is infinite: none of them can run there.")
        if least < 0 or (least == 0 and self.tradeoff.reward):
            raise InvalidInput(
                f"The cost {name!r} may be as low as {least:g}; ProxylessNAS takes costs that are not negative, and with reward=True "
                "costs above 0 only: add a number to it."
            )
        if self.tradeoff.target is not None:
            return self.tradeoff.target
        mean = float(np.mean(self.cost(np.stack([self.supernet.smallest, self.supernet.largest]))))
        if not 0 < mean < math.inf:
            raise InvalidInput(
                f"The cost {name!r} of the smallest and the largest network is {mean:g} on average, which is no target: name one, "
                "Tradeoff(target=...)."
            )
        return mean

    def memory(self) -> dict[str, torch.Tensor]:
        """The architecture, and how many steps were made."""
        return {**self.paths.memory(), "made": self.made}

    def __call__(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Make a step of the architecture, and yield the loss of the weights of a network."""
        choosing, drawing = rng.spawn(2)
        self.made += 1
        if float(self.made) > self.warm:
            self._choose(choosing)
        self.supernet.activate(self.paths.sample(drawing))
        yield of_labels(self.recipe, self.run(self.supernet, x), y)

    @cached_property
    def _batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Validation images, as ``uint8``, and their labels, in batches of equal size up to one image: batch norms go by each of them."""
        images, labels = (torch.cat(each) for each in zip(*self.data.batches("val", self.recipe.batch, _IMAGES), strict=True))
        count = math.ceil(len(images) / self.recipe.batch)
        return list(zip(images.tensor_split(count), labels.tensor_split(count), strict=True))

    def _choose(self, rng: np.random.Generator) -> None:
        """One step of the architecture."""
        rows = self.paths.sample(rng), self.paths.sample(rng)
        images, labels = self._batches[int(rng.integers(len(self._batches)))]
        judged = [self._judged(row, images, labels) for row in rows]
        self.paths.step(rows, partial(self._loss, rows, judged), self.tradeoff.rate)

    def _loss(self, rows: tuple[Rows, Rows], judged: Sequence[tuple[float, float]], alphas: Alphas) -> torch.Tensor:
        """What a step of the architecture makes smaller, by the losses and accuracies of two networks."""
        factor = self.tradeoff.factor
        if self.expected is None:
            costs = self.cost(np.stack(rows)) / self.target
            with np.errstate(over="ignore", invalid="ignore"):
                rewards = np.where(np.isfinite(costs), [right for _, right in judged] * costs**-factor, 0.0)
            return reinforced(self.paths, rows, rewards.tolist(), alphas)
        added = factor / self.target * self.expected(self.paths.probabilities(alphas))
        return of_two(self.paths, rows, [loss for loss, _ in judged], alphas) + added

    @torch.no_grad()
    def _judged(self, row: Rows, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
        """Loss and accuracy of a network on images, whose batch norms go by these."""
        self.supernet.activate(row)
        device = next(self.supernet.parameters()).device
        logits = self.run(self.supernet, self.data.normalize(images.to(device))).cpu()
        return float(F.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).float().mean())
