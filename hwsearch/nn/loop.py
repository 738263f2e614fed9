"""The training loop: one for everything that learns, resumable at every step, on one process or several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch.optim import SGD

from .._progress import progress as show_progress
from .._reading import check_same
from ..errors import CorruptFile, InvalidInput
from . import weights_file
from .images import Data, Share, same_data
from .lesson import Lesson
from .phases import Phase
from .processes import Processes, accelerator
from .recipe import Recipe
from .vision import import_transforms

Facts = dict[str, Any]
_PATIENCE = 20
"""Writing the state may take this part of the time."""


def learn(
    lesson: Lesson,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    partial: Path,
    facts: Facts,
    team: Processes,
    title: str,
    progress: bool = True,
) -> None:
    """Train to the end, from the state in ``partial`` where there is one.

    The state is written there after a step, as often as writing takes at most a twentieth of the time. All randomness of a step follows
    from ``seed`` and the number of the step, so it does not matter at which step a training was stopped.

    Args:
        lesson: what learns, and from which losses; afterwards its parameters are the result.
        data: the images.
        recipe: how.
        seed: of all randomness.
        partial: where the state goes; the caller removes it when the result is safe.
        facts: the arguments, as JSON data; a state of other arguments is refused.
        team: the processes that take part.
        title: of the progress bar.
        progress: show a bar with the time left.

    Raises:
        InvalidInput: training diverged, or ``partial`` was begun with other arguments.
        CorruptFile, NewerVersion, WrongSpace: ``partial`` is not what it should be.
    """
    training = Training(lesson, data, recipe, seed, team)
    if partial.exists():
        training.resume(partial, facts)
    team.wait()
    with show_progress(title, training.steps, progress and team.first) as advance:
        advance(training.step)
        for loss in training:
            if not math.isfinite(loss) or (training.step == training.steps and not training.finite):
                if team.first:  # a state that leads here is of no use, and would be in the way of another try
                    partial.unlink(missing_ok=True)
                where = f"step {training.step} of {training.steps}"
                raise InvalidInput(f"Training diverged at {where}: try a smaller learning_rate than {recipe.learning_rate}.")
            if team.first:
                training.save(partial, facts)
            advance(1)
    training.finish()


class Training:
    """What changes from step to step: weights, their moving average, momentum, the scale of fp16 losses, and the number of the step."""

    def __init__(self, lesson: Lesson, data: Data, recipe: Recipe, seed: int, team: Processes) -> None:
        self.lesson, self.data, self.recipe, self.seed, self.team = lesson, data, recipe, seed, team
        self.step = 0
        self.steps_per_epoch = data.count("train") // recipe.batch
        self.steps = recipe.epochs * self.steps_per_epoch
        self.device = accelerator()
        lesson.network.to(self.device).train()
        self.parameters = dict(lesson.network.named_parameters())
        # Weights of convolutions and linear layers; kernel matrices begin as the identity, and are not drawn to zero.
        decayed = [p for name, p in self.parameters.items() if p.ndim > 1 and "matrices" not in name]
        others = [p for name, p in self.parameters.items() if p.ndim <= 1 or "matrices" in name]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.amp == "fp16")
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if recipe.ema else {}
        self._written, self._cost = -math.inf, 0.0

    @property
    def finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters.values())

    def _shares(self) -> Iterator[Share]:
        """From this step to the last: the parts of each batch that are this process's own."""
        order = (-1, np.empty(0, dtype=np.int64))
        for step in range(self.step, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if order[0] != epoch:
                order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.data.count("train")))
            index = order[1][place * self.recipe.batch : (place + 1) * self.recipe.batch]
            for part, some in enumerate(np.array_split(index, self.recipe.parts)):
                if part % self.team.count == self.team.rank:
                    yield step, part, some

    def __iter__(self) -> Iterator[float]:
        """Make the steps that are left; each yields its first loss, over all parts."""
        recipe, device = self.recipe, self.device
        own = len(range(self.team.rank, recipe.parts, self.team.count))
        batches = self.data.training(self._shares(), self.seed)
        phase: Phase | None = None
        while self.step < self.steps:
            last, (phase, place, _) = phase, recipe.place(self.step, self.steps)
            if phase is not last:
                self._begin(phase, place)
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate(self.step, self.steps)
            told = torch.zeros(1, device=device)
            gradients: dict[str, torch.Tensor] = {}
            for number in range(own):
                self.optimizer.zero_grad(set_to_none=True)
                images, labels = next(batches)
                part = self.team.rank + number * self.team.count
                x, y = self._mixed(self.data.normalize(images.to(device)), labels.to(device), part)
                # Each part runs the same networks: what the losses choose is drawn anew.
                losses = self.lesson.losses(x, y, np.random.default_rng([self.seed, self.step, 0x10]))
                for index, loss in enumerate(losses):
                    torch.autograd.backward(self.scaler.scale(loss / recipe.parts))
                    if index == 0:
                        told += loss.detach() / recipe.parts
                # Parts are added up one by one, as processes do it: so two parts give the same bytes on one process and on two.
                for name, parameter in self.parameters.items():
                    if parameter.grad is not None:
                        parameter.grad = gradients[name] = parameter.grad.add_(gradients[name]) if name in gradients else parameter.grad
            self.team.add_up([told, *gradients.values()])
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.step += 1
            self._follow(place + 1)
            yield float(told)

    def _mixed(self, x: torch.Tensor, y: torch.Tensor, part: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixup or cutmix, where the recipe has them."""
        recipe = self.recipe
        ways = [(name, alpha) for name, alpha in (("MixUp", recipe.mixup), ("CutMix", recipe.cutmix)) if alpha]
        if not ways:
            return x, y
        state = np.random.SeedSequence([self.seed, self.step, part, 0x312]).generate_state(2)
        name, alpha = ways[int(state[0]) % len(ways)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(state[1]))
            mix: Callable[..., tuple[torch.Tensor, torch.Tensor]] = getattr(import_transforms(), name)(
                alpha=alpha, num_classes=self.data.classes
            )
            mixed = mix(x, y)
        return mixed

    @torch.no_grad()
    def _follow(self, age: int) -> None:
        """Draw the moving average, of so many steps, after the weights; young averages follow faster."""
        share = 1 - min(self.recipe.ema, (1 + age) / (10 + age))
        for name, average in self.average.items():
            average.lerp_(self.parameters[name].detach(), share)

    @torch.no_grad()
    def _begin(self, phase: Phase, place: int) -> None:
        """Go on with a phase; at its first step as a training of its own would begin, with the result of the phase before."""
        if place:
            self.lesson.begin(phase, None)
            return
        self._settle()
        self.lesson.begin(phase, self.recipe.place(self.step - 1, self.steps)[0] if self.step else None)
        self.optimizer.state.clear()
        for name, average in self.average.items():
            average.copy_(self.parameters[name])

    @torch.no_grad()
    def _settle(self) -> None:
        """Leave the result in the network."""
        for name, average in self.average.items():
            self.parameters[name].copy_(average)

    def finish(self) -> None:
        """Leave the result in the network, on the CPU."""
        self._settle()
        self.lesson.network.cpu()

    def save(self, path: Path, facts: Facts) -> None:
        """Write the state, whole or not at all, if it is time to."""
        start = time.perf_counter()
        if start - self._written < _PATIENCE * self._cost:
            return
        tensors: weights_file.Tensors = {f"weight.{name}": parameter for name, parameter in self.parameters.items()}
        tensors |= {f"average.{name}": average for name, average in self.average.items()}
        for name, parameter in self.parameters.items():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        document = {"training": facts, "step": self.step, "scaler": self.scaler.state_dict()}
        weights_file.write(path, weights_file.CHECKPOINT_FORMAT, self.lesson.space, tensors, document, sync=False)
        self._written = time.perf_counter()
        self._cost = self._written - start

    def resume(self, path: Path, facts: Facts) -> None:
        """Take over the state of an earlier training.

        Raises:
            InvalidInput: it was begun with other arguments.
            CorruptFile: it is not such a state.
        """
        tensors, header = weights_file.read(path, weights_file.CHECKPOINT_FORMAT, self.lesson.space)
        same_arguments(header.get("training"), facts, path)
        step = header.get("step")
        if not isinstance(step, int) or not 0 <= step <= self.steps:
            raise CorruptFile(f"{path}: its step is {step!r}, and this training has {self.steps}.")
        weights_file.fill(self.parameters, {k[7:]: v for k, v in tensors.items() if k.startswith("weight.")}, path)
        weights_file.fill(self.average, {k[8:]: v for k, v in tensors.items() if k.startswith("average.")}, path)
        for name, parameter in self.parameters.items():
            momentum = tensors.get(f"momentum.{name}")
            if momentum is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter, requires_grad=False)
                weights_file.fill({name: self.optimizer.state[parameter]["momentum_buffer"]}, {name: momentum}, path)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(header.get("scaler") or {})
        self.step = step


def as_json(facts: Facts) -> Facts:
    """As they will be read back, so that they can be compared."""
    result: Facts = msgspec.json.decode(msgspec.json.encode(facts))
    return result


def same_arguments(found: object, wanted: Facts, path: Path) -> None:
    """Check what a file says about how it was trained.

    Raises:
        InvalidInput: with other arguments.
        CorruptFile: it does not say.
    """
    if not isinstance(found, dict):
        raise CorruptFile(f"{path} does not say how it was trained.")
    usual = as_json(asdict(Recipe(epochs=1)))  # what a recipe of an older hwsearch does not name
    found = same_data(found, wanted, path)
    flat = [{**facts, **usual, **facts.get("recipe", {}), "recipe": None} for facts in (found, wanted)]
    check_same(flat[0], dict.fromkeys(flat[0]) | flat[1], path)
