"""Training a supernet: the sandwich rule with in-place distillation, resumable at every step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch.optim import SGD

from .._progress import progress as show_progress
from .._store import PathLike, sweep
from ..errors import CorruptFile, InvalidInput
from ..space import Rows, SearchSpace
from ..spaces import load_space
from . import weights_file
from .data import Data, load_data
from .supernet import Supernet


@dataclass(frozen=True)
class Recipe:
    """How a supernet is trained: stochastic gradient descent with Nesterov momentum, a linear warm-up, then half a cosine to zero.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        learning_rate: at the end of the warm-up.
        warm_up: share of all steps.
        momentum: of the optimiser.
        weight_decay: on convolution and linear weights only.
        label_smoothing: for the largest network, which learns from the labels; all others learn from its output.
        random_networks: how many random networks a step, besides the largest and the smallest.
        amp: compute in bfloat16 where torch deems it safe; faster on CPUs and GPUs that have it.

    Raises:
        InvalidInput: a number that makes no sense.
    """

    epochs: int
    batch: int = 64
    learning_rate: float = 0.1
    warm_up: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    random_networks: int = 2
    amp: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.random_networks < 0:
            numbers = f"{self.epochs}, {self.batch} and {self.random_networks}"
            raise InvalidInput(f"A recipe needs epochs >= 1, batch >= 2 and random_networks >= 0, not {numbers}.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InvalidInput(f"learning_rate must be a positive number, not {self.learning_rate}.")
        for name in ("warm_up", "momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 0 and below 1, not {getattr(self, name)}.")
        if not 0 <= self.weight_decay < 1:
            raise InvalidInput(f"weight_decay must be at least 0 and below 1, not {self.weight_decay}.")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of one step out of ``steps``."""
        warm = round(self.warm_up * steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


RECIPES = {"digits": Recipe(epochs=16, batch=32, learning_rate=0.2), "cifar10": Recipe(epochs=12, batch=128, amp=True)}
"""Good recipes by the name of the data; other data begin with that of ``"cifar10"``."""


def train(
    space: str | SearchSpace,
    *,
    data: str | tuple[str, PathLike] | Data,
    out: PathLike,
    recipe: Recipe | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Supernet:
    """Train the supernet of a space, or continue where an earlier call was stopped.

    Each step trains the largest network on the labels, and the smallest and some random networks on the largest one's output: the sandwich
    rule with in-place distillation (Universally Slimmable Networks, ICCV'19, section 3; BigNAS, ECCV'20, section 3.1).

    After every step the state goes to ``<out>.partial``, so a killed training loses at most the step in flight: calling again with the
    same arguments continues it and ends with exactly the weights of an uninterrupted one (on the same machine and number of threads). All
    randomness of a step follows from ``seed`` and the number of the step. Where ``out`` is already the result of these arguments, it is
    read and handed back.

    Args:
        space: the space, or its name.
        data: the images, or their name, or name and folder (:func:`load_data`).
        out: the safetensors file to write.
        recipe: how to train; a good one for the data where left out.
        epochs, batch: instead of the recipe's.
        seed: of all randomness.
        progress: show a bar with the time left.

    Returns:
        The trained supernet.

    Raises:
        InvalidInput: the images do not fit the space, ``out`` was begun or made with other arguments, or training diverged.
        CorruptFile, NewerVersion, WrongSpace: ``out`` or ``<out>.partial`` exists and is not what it should be.
    """
    if seed < 0:
        raise InvalidInput(f"seed must be at least 0, not {seed}.")
    space = load_space(space)
    data = load_data(data)
    recipe = recipe or RECIPES.get(data.name, RECIPES["cifar10"])
    recipe = replace(recipe, epochs=recipe.epochs if epochs is None else epochs, batch=recipe.batch if batch is None else batch)
    recipe = replace(recipe, batch=min(recipe.batch, len(data.train_x)))
    supernet = Supernet(space, seed)
    _check_fit(supernet, data)
    facts = {"data": data.name, "train_images": len(data.train_x), "seed": seed, "recipe": asdict(recipe), "allowed": space.allowed}
    facts = _as_json(facts)
    target, partial = Path(out), Path(f"{out}.partial")
    if target.exists():
        done = Supernet.load(target, space)
        _same_arguments(done.facts, facts, target)
        partial.unlink(missing_ok=True)
        return done
    training = _Training(supernet, data, recipe, seed)
    if partial.exists():
        training.resume(partial, facts)
    steps = training.steps
    with show_progress(f"training {space.name}", steps, progress) as advance:
        advance(training.step)
        while training.step < steps:
            loss = training.advance()
            if not math.isfinite(loss):
                where = f"step {training.step} of {steps}"
                raise InvalidInput(f"Training diverged at {where}: try a smaller learning_rate than {recipe.learning_rate}.")
            training.save(partial, facts)
            advance(1)
    supernet.normalize = data.normalize
    supernet.facts = facts
    supernet.images = data.calibration_images(seed)
    supernet.save(target)
    partial.unlink(missing_ok=True)
    for path in (target, partial):
        sweep(path)
    return supernet


class _Training:
    """What changes from step to step: weights, momentum and the number of the step."""

    def __init__(self, supernet: Supernet, data: Data, recipe: Recipe, seed: int) -> None:
        self.supernet, self.data, self.recipe, self.seed = supernet, data, recipe, seed
        self.step = 0
        self.steps_per_epoch = len(data.train_x) // recipe.batch
        self.steps = recipe.epochs * self.steps_per_epoch
        supernet.train()
        self.parameters = dict(supernet.named_parameters())
        decayed = [p for p in self.parameters.values() if p.ndim > 1]
        others = [p for p in self.parameters.values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, np.random.Generator]:
        """Images and labels of this step, and the generator of its further choices."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.data.train_x)))
        index = self._order[1][place * self.recipe.batch : (place + 1) * self.recipe.batch]
        rng = np.random.default_rng([self.seed, self.step, 1])
        return self.data.normalize(self.data.augmented(index, rng)), self.data.train_y[torch.from_numpy(index)], rng

    def advance(self) -> float:
        """Make one step; the loss of the largest network."""
        recipe, supernet = self.recipe, self.supernet
        x, y, rng = self.batch()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step, self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        logits = self._logits(supernet.largest, x)
        loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        torch.autograd.backward(loss)
        taught = F.softmax(logits.detach(), dim=1)
        for row in (supernet.smallest, *supernet.space.sample(recipe.random_networks, rng)):
            torch.autograd.backward(F.cross_entropy(self._logits(row, x), taught))
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def _logits(self, row: Rows, x: torch.Tensor) -> torch.Tensor:
        self.supernet.activate(row)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.recipe.amp):
            out: torch.Tensor = self.supernet(x)
        return out.float()

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the state, whole or not at all."""
        tensors = {f"weight.{name}": parameter for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        document = {"training": facts, "step": self.step}
        weights_file.write(path, weights_file.CHECKPOINT_FORMAT, self.supernet.space, tensors, document, sync=False)

    def resume(self, path: Path, facts: dict[str, Any]) -> None:
        """Take over the state of an earlier training.

        Raises:
            InvalidInput: it was begun with other arguments.
            CorruptFile: it is not such a state.
        """
        tensors, header = weights_file.read(path, weights_file.CHECKPOINT_FORMAT, self.supernet.space)
        _same_arguments(header.get("training"), facts, path)
        step = header.get("step")
        if not isinstance(step, int) or not 0 <= step <= self.steps:
            raise CorruptFile(f"{path}: its step is {step!r}, and this training has {self.steps}.")
        parts: dict[str, dict[str, torch.Tensor]] = {"weight": {}, "momentum": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        self.supernet.set_parameters(parts["weight"], path)
        for name, momentum in parts["momentum"].items():
            if name not in self.parameters or momentum.shape != self.parameters[name].shape:
                raise CorruptFile(f"{path}: the momentum of {name!r} fits no weight.")
            parameter = self.parameters[name]
            self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        self.step = step


def _check_fit(supernet: Supernet, data: Data) -> None:
    """The images must have the channels, and the labels the classes, of the space.

    Raises:
        InvalidInput: they do not.
    """
    blocks = supernet.space.blocks(supernet.largest)
    channels, classes = blocks[0].cin, blocks[-1].cout
    if data.train_x.shape[1] != channels or data.classes != classes:
        raise InvalidInput(
            f"Space {supernet.space.name!r} takes {channels} channel(s) and tells {classes} classes apart; data {data.name!r} has "
            f"{data.train_x.shape[1]} and {data.classes}."
        )


def _as_json(facts: dict[str, Any]) -> dict[str, Any]:
    """As they will be read back, so that they can be compared."""
    result: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(facts))
    return result


def _same_arguments(found: object, wanted: dict[str, Any], path: Path) -> None:
    if not isinstance(found, dict):
        raise CorruptFile(f"{path} does not say how it was trained.")
    flat = [{**facts, **facts.get("recipe", {}), "recipe": None} for facts in (found, wanted)]
    differing = sorted(key for key in flat[0].keys() | flat[1].keys() if flat[0].get(key) != flat[1].get(key))
    if differing:
        told = ", ".join(f"{key} {flat[0].get(key)!r} there and {flat[1].get(key)!r} here" for key in differing)
        raise InvalidInput(f"{path} comes from other arguments: {told}. Use the same ones, name another file, or delete it.")
