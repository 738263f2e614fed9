"""The training loop: one for everything that learns, resumable at every step, on one process or several."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from ..._files._reading import guarded
from ..._progress import progress as show_progress
from ...errors import CorruptFile, InvalidInput
from ..data._images import Data, Share
from ..data._streamed import augmented
from ..supernet import _weights_file as weights_file
from ._arguments import Facts, as_json, same_arguments
from ._best import Best
from ._blending import blended
from ._losses import Losses
from ._optimizers import make_optimizer
from ._phases import Phase
from ._processes import Processes, accelerator
from ._recipe import Recipe
from ._thinning import Thinning
from ._watch import Progress, follow

_PATIENCE = 20
"""Writing takes at most 1/20 of the time."""
_SEVERAL = 5
"""After this many steps in a row without finite losses and gradients a training has diverged."""
_SEVERAL_SCALED = 30
"""The same if losses are scaled: finding the scale takes such steps."""
_APART = 20
"""Earlier states are 1/20 of the steps apart."""
_STATE = {"momentum_buffer": "momentum"}
"""What an optimiser keeps of a parameter -> what it is called in a file, if that is another name."""
_BUFFERS = {name: buffer for buffer, name in _STATE.items()}
_OWN = ("weight", "average", "best", "stays", "memory")
"""What else a file has of a parameter."""
_FREE = ("learning_rate", "clip", "amp")
"""What may be changed of a recipe when a training goes on."""


class SkippedWarning(UserWarning):
    """Steps of a training were skipped."""


class ChangedWarning(UserWarning):
    """A training goes on with another recipe than it began with."""


def learn(training: Training, partial: Path, facts: Facts, *, title: str, progress: Progress = True) -> Facts:
    """Train to the end, from the state in ``partial`` if there is one.

    Args:
        training: what is trained; afterwards its network is the result.
        partial: where the state goes; the caller removes it when the result is safe.
        facts: the arguments, as JSON data; a state of other arguments is refused.
        title: of the progress bar.
        progress: show a bar with the time left; or a :class:`Watch`.

    Returns:
        What happened on the way, if anything: how many steps were skipped (``skipped``), at which step the recipe was changed to what
        (``changes``), and how good the result was at which step (``curve``).

    Raises:
        InvalidInput: training diverged, or ``partial`` was begun with other arguments.
        CorruptFile, NewerVersion, WrongSpace: ``partial`` is not what it should be.
    """
    team = training.team
    training.keep_in(partial, facts)
    team.wait()
    synced = training.losses.together(team, training.recipe.sync_bn)
    shown = show_progress(title, training.steps, bool(progress) and team.first)
    with synced, follow(training, progress, Path(f"{partial}.best")) as log, shown as advance:
        advance(training.step)
        for loss in training:
            if training.diverged:
                raise InvalidInput(training.advice())
            advance(1)
            if log is not None and not log.seen(loss):
                break
    training.finish()
    training.best = None if log is None else log.best
    if team.first and training.skipped and not training.scaler.is_enabled():  # which finds its scale so
        warnings.warn(
            f"{training.skipped} of {training.steps} steps were skipped, since their losses or gradients were not finite.",
            SkippedWarning,
            stacklevel=2,
        )
    happened = {"skipped": training.skipped, "changes": training.changes, "curve": training.judged.document}
    return {name: value for name, value in happened.items() if value}


def earlier(partial: Path) -> list[Path]:
    """The files of earlier states, the oldest one first."""
    return [Path(f"{partial}.2"), Path(f"{partial}.1")]


def forget(partial: Path) -> None:
    """Remove all states of a training."""
    for path in (partial, *earlier(partial), Path(f"{partial}.best")):
        path.unlink(missing_ok=True)


class Training:
    """A training under way: weights, their moving average, momentum, the scale of fp16 losses, and the number of the step.

    The state is written after a step, as often as writing takes at most a twentieth of the time. All randomness of a step follows from
    the seed and the number of the step, so it does not matter at which step a training was stopped.

    A step whose loss or gradients are not finite changes no weights. After several of them in a row the training has diverged: an earlier
    state is put back, from which another call goes on with another learning rate, clipping or number format.

    Args:
        losses: of the network to train.
        data: the images.
        recipe: how to train.
        seed: of all randomness.
        team: the processes that take part.

    Attributes:
        step, steps: the number of steps that were made, and of all steps.
        skipped, in_a_row: how many steps changed nothing, since losses or gradients were not finite; and how many of the last ones did.
        changes: at which steps the recipe was changed, and to what.
        best: the weights of the best epoch, once the training is over; ``None`` if the last ones are to be taken.
        judged: the best result so far, where the losses judge it.
        partial, facts: where states are written, ``None`` in all processes but the first, and what they say of the arguments.
    """

    def __init__(self, losses: Losses, data: Data, recipe: Recipe, seed: int, team: Processes) -> None:
        self.losses, self.data, self.recipe, self.seed, self.team = losses, data, recipe, seed, team
        self.step = self.skipped = self.in_a_row = 0
        self.changes: list[Facts] = []
        self.steps_per_epoch = data.count("train") // recipe.batch
        self.steps = recipe.epochs * self.steps_per_epoch
        self.device = accelerator()
        losses.network.to(self.device).train()
        self.parameters = dict(losses.network.named_parameters())
        if losses.helpers is not None:
            losses.helpers.to(self.device)
            self.parameters |= {f"helpers.{name}": each for name, each in losses.helpers.named_parameters()}
        # Weights of convolutions and linear layers; kernel matrices begin as the identity, and are not drawn to zero.
        decayed = [p for name, p in self.parameters.items() if p.ndim > 1 and "matrices" not in name]
        others = [p for name, p in self.parameters.items() if p.ndim <= 1 or "matrices" in name]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = make_optimizer(recipe.optimizer, groups, recipe.learning_rate, recipe.momentum, recipe.optimizer_options)
        self.thinning = Thinning(recipe.sparsity, losses.network, self.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.amp == "fp16")
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if recipe.ema else {}
        self.best: dict[str, torch.Tensor] | None = None
        self.judged = Best()
        self.partial: Path | None = None
        self.facts: Facts = {}
        self._memory: weights_file.Tensors = {}
        self._written, self._cost, self._saved, self._kept = -math.inf, 0.0, 0, 0

    @property
    def finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters.values())

    @property
    def diverged(self) -> bool:
        """Whether it makes no sense to go on."""
        several = _SEVERAL_SCALED if self.scaler.is_enabled() else _SEVERAL
        return self.in_a_row >= several or (self.step == self.steps and not self.finite)

    def advice(self) -> str:
        """What to do about a training that diverged; the oldest state takes the place of the newest."""
        kept = ""
        if self.partial is not None and self.partial.exists():
            for path in [path for path in earlier(self.partial) if path.exists()][:1]:
                os.replace(path, self.partial)
            kept = f" {self.partial} keeps an earlier state, from which this call goes on; delete it to start anew."
        return (
            f"Training diverged: losses, gradients or weights were not finite in {max(1, self.in_a_row)} step(s) in a row, the last of "
            f"them step {self.step} of {self.steps}. Call again with a smaller learning_rate than {self.recipe.learning_rate:g}, with "
            f"gradients clipped more (clip, now {self.recipe.clip:g}), or in another number format (amp, now {self.recipe.amp!r}).{kept}"
        )

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
        batches = augmented(self.data.training(self._shares(), self.seed), self._shares(), recipe.augment, self.seed)
        phase: Phase | None = None
        while self.step < self.steps:
            self._judge()
            last, (phase, place, _) = phase, recipe.place(self.step, self.steps)
            if phase is not last:
                self._begin(phase, place)
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate(self.step, self.steps)
            self._memory = {f"memory.{name}": each.clone() for name, each in self.losses.memory().items()}
            told = torch.zeros(1, device=device)
            gradients: dict[str, torch.Tensor] = {}
            for number in range(own):
                self.optimizer.zero_grad(set_to_none=True)
                images, labels = next(batches)
                part = self.team.rank + number * self.team.count
                drawn = [self.seed, self.step, part, 0x312]
                x, y = blended(recipe, self.data.classes, self.data.normalize(moved(images, device)), labels.to(device), drawn)
                # Each part runs the same networks: what the losses choose is drawn anew.
                for index, loss in enumerate(self.losses(x, y, np.random.default_rng([self.seed, self.step, 0x10]))):
                    torch.autograd.backward(self.scaler.scale(loss / recipe.parts))
                    if index == 0:
                        told += loss.detach() / recipe.parts
                # Parts are added up one by one, as processes do it: so two parts give the same bytes on one process and on two.
                for name, parameter in self.parameters.items():
                    if parameter.grad is not None:
                        parameter.grad = gradients[name] = parameter.grad.add_(gradients[name]) if name in gradients else parameter.grad
            self.team.add_up([told, *gradients.values()])
            self.scaler.unscale_(self.optimizer)
            norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in self._gradients()])))
            good = math.isfinite(told.item()) and math.isfinite(norm)
            if good:
                if place:  # a phase begins once, with the result of the one before
                    self.save()
                self._change(norm)
                self._follow(place + 1)
                self.thinning.after(self.average)
            self.scaler.update()
            self.step += 1
            self.skipped += not good
            self.in_a_row = 0 if good else self.in_a_row + 1
            yield told.item()

    @torch.no_grad()
    def _judge(self) -> None:
        """At the end of an epoch, and before the first one: keep the result as it is now if the losses judge it the best so far."""
        due = self.losses.judges and self.thinning.settled(self.step, self.steps)
        if self.step % self.steps_per_epoch or self.step in self.judged.curve or not due:
            return
        held = {name: parameter.detach().clone() for name, parameter in self.parameters.items()} if self.average else {}
        self._settle()
        self.judged.look(self.step, self.losses.judge(self.step), self.losses.kept())
        for name, parameter in held.items():
            self.parameters[name].copy_(parameter)

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]

    def _change(self, norm: float) -> None:
        """Change the weights by their gradients, clipped."""
        if self.recipe.clip and norm > self.recipe.clip:
            for gradient in self._gradients():
                gradient.mul_(self.recipe.clip / norm)
        self.thinning.before(self.step, self.steps)
        self.scaler.step(self.optimizer)

    @torch.no_grad()
    def _follow(self, age: int) -> None:
        """Move the average towards the weights; an average of few steps (``age``) follows faster."""
        share = 1 - min(self.recipe.ema, (1 + age) / (10 + age))
        for name, average in self.average.items():
            average.lerp_(self.parameters[name].detach(), share)

    @torch.no_grad()
    def _begin(self, phase: Phase, place: int) -> None:
        """Go on with a phase; at its first step as a training of its own would begin, with the result of the phase before."""
        if place:
            self.losses.begin(phase, None)
            return
        self._settle()
        self.losses.begin(phase, self.recipe.place(self.step - 1, self.steps)[0] if self.step else None)
        self.optimizer.state.clear()
        for name, average in self.average.items():
            average.copy_(self.parameters[name])

    @torch.no_grad()
    def _settle(self) -> None:
        """Leave the result in the network."""
        for name, average in self.average.items():
            self.parameters[name].copy_(average)

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the result in the network, on the CPU: the last weights, or the best ones where the losses judge them."""
        self._judge()
        self._settle()
        if self.recipe.keep == "best":
            self.judged.put(self.losses.kept())
        self.losses.network.cpu()

    def keep_in(self, partial: Path, facts: Facts) -> None:
        """Go on from the state in a file, if there is one; the first process writes its states there from now on.

        Raises:
            InvalidInput, CorruptFile, NewerVersion, WrongSpace: as :meth:`resume`.
        """
        if partial.exists():
            self.resume(partial, facts)
        if self.team.first:
            self.partial, self.facts = partial, facts

    def save(self) -> None:
        """Write the state, whole or not at all, if it is time to; now and then another one that stays longer.

        It is asked for before a step changes the weights, when they have given finite losses and gradients once more: what is kept is good.
        """
        start = time.perf_counter()
        late = start - self._written >= _PATIENCE * self._cost
        if self.partial is None or self.step == self._saved or not late or not self.finite:
            return
        tensors: weights_file.Tensors = {f"weight.{name}": parameter for name, parameter in self.parameters.items()}
        tensors |= {f"average.{name}": average for name, average in self.average.items()}
        for name, parameter in self.parameters.items():
            for what, value in self.optimizer.state[parameter].items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{_STATE.get(what, what)}.{name}"] = value
        tensors |= self.judged.named | self.thinning.named | self._memory
        document = {"training": self.facts, "step": self.step, "scaler": self.scaler.state_dict(), "curve": self.judged.document}
        document |= {"skipped": self.skipped, "changes": self.changes}
        weights_file.write(self.partial, weights_file.CHECKPOINT_FORMAT, self.losses.space, tensors, document, sync=False)
        if self.step - self._kept >= self.steps / _APART:
            older, newer = earlier(self.partial)
            if newer.exists():
                os.replace(newer, older)
            weights_file.write(newer, weights_file.CHECKPOINT_FORMAT, self.losses.space, tensors, document, sync=False)
            self._kept = self.step
        self._saved, self._written = self.step, time.perf_counter()
        self._cost = self._written - start

    def resume(self, path: Path, facts: Facts) -> None:
        """Take over the state of an earlier training, which may have had another learning rate, clipping or number format.

        Raises:
            InvalidInput: it was begun with other arguments.
            CorruptFile: it is not such a state.
        """
        tensors, header = weights_file.read(path, weights_file.CHECKPOINT_FORMAT, self.losses.space)
        same_arguments(header.get("training"), facts, path, free=_FREE)
        step = header.get("step")
        if not isinstance(step, int) or not 0 <= step <= self.steps:
            raise CorruptFile(f"{path}: its step is {step!r}, and this training has {self.steps}.")
        weights_file.fill(self.parameters, {k[7:]: v for k, v in tensors.items() if k.startswith("weight.")}, path)
        weights_file.fill(self.average, {k[8:]: v for k, v in tensors.items() if k.startswith("average.")}, path)
        weights_file.fill(self.losses.memory(), {k[7:]: v for k, v in tensors.items() if k.startswith("memory.")}, path)
        for name, parameter in self.parameters.items():
            for key in [key for key in tensors if key.endswith(f".{name}") and key not in {f"{own}.{name}" for own in _OWN}]:
                what, value = key.removesuffix(f".{name}"), tensors[key]
                if "." in what:
                    continue  # of another parameter, whose name ends like this one
                if value.shape not in (parameter.shape, torch.Size([])):
                    raise CorruptFile(f"{path}: {key!r} has the shape {tuple(value.shape)}, and {tuple(parameter.shape)} was expected.")
                kept = value.clone() if value.ndim == 0 else value.to(parameter.device, parameter.dtype, copy=True)
                self.optimizer.state[parameter][_BUFFERS.get(what, what)] = kept
        with guarded(path, "state of a training"):
            if self.scaler.is_enabled() and header.get("scaler"):
                self.scaler.load_state_dict(header["scaler"])
            self.skipped, self.changes = int(header.get("skipped", 0)), [dict(one) for one in header.get("changes", [])]
            self.judged = Best.read(tensors, header.get("curve", []), self.losses.kept())
            self.thinning.read(tensors)
        self.step = self._saved = self._kept = step
        self._note({**as_json(Recipe(epochs=1).document), **header["training"].get("recipe", {})}, path)

    def _note(self, before: Facts, path: Path) -> None:
        """Write down what is changed of a recipe when the training goes on."""
        changed = {name: getattr(self.recipe, name) for name in _FREE if getattr(self.recipe, name) != before[name]}
        if changed:
            self.changes.append({"step": self.step, **changed})
            told = ", ".join(f"{name} {value!r} instead of {before[name]!r}" for name, value in changed.items())
            warnings.warn(f"The training in {path} goes on from step {self.step} with {told}.", ChangedWarning, stacklevel=2)


def moved(tensors: Any, device: torch.device) -> Any:
    """A tensor, or several in tuples or lists, on a device."""
    return tree_map(lambda each: each.to(device), tensors)
