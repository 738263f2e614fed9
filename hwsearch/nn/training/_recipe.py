"""Recipe: how a supernet or a single network is trained."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real
from types import NoneType
from typing import Any

import torch
from torch import nn

from ..._registry import find, names
from ...errors import InvalidInput, UnknownName, check_count
from ..data._streamed import Augment
from ..pruning._sparsity import Sparsity
from ..supernet._supernet import WeightsLike
from ._amp import AMP
from ._optimizers import Loss, check_schedule, make_optimizer, rate_of
from ._phases import PHASES, Phase

KEEP = ("best", "last")

_KINDS: dict[str, tuple[str, Any]] = {
    "int": ("a whole number", Integral),
    "float": ("a number", Real),
    "bool": ("true or false", bool),
    "str": ("a name", str),
    "Mapping[str, Any]": ("a dictionary of options", Mapping),
    "tuple[Phase, ...]": ("a tuple of Phase, or the name of one that is known", tuple),
    "WeightsLike | nn.Module | None": ("a supernet, a module, or a file", (str, os.PathLike, nn.Module, NoneType)),
    "Sequence[float] | str | None": ("a number for each class, or 'balanced'", (str, Iterable, NoneType)),
}
"""By the annotation of a field of a recipe: what it may be, in words and as types."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: if not told otherwise by stochastic gradient descent with Nesterov momentum, a linear warm-up, then half a
    cosine to zero.

    Example:
        >>> from hwsearch.nn import Recipe
        >>> Recipe(epochs=30, optimizer="adamw", learning_rate=0.002, label_smoothing=0.1).epochs
        30
        >>> Recipe(epochs=0)
        Traceback (most recent call last):
            ...
        hwsearch.errors.InvalidInput: A recipe needs epochs >= 1, batch >= 2 and random_networks >= 0, not 0, 64 and 2.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        learning_rate: at the end of the warm-up.
        warm_up: share of the steps of each phase.
        momentum: of the optimiser.
        weight_decay: on convolution and linear weights only.
        clip: the greatest norm of all gradients together; longer ones are scaled down to it. 0 for not at all.
        label_smoothing: for the largest network, which learns from the labels; all others learn from its output.
        random_networks: how many random networks a step, besides the largest and the smallest; none if there is one network only.
        sandwich: whether the largest and the smallest network learn in every step, and random ones from the largest; if not, random
            networks learn alone, each from the labels.
        generated: whether the weights of a supernet are made from the widths of each layer by a small network (MetaPruning), instead of
            being the first channels of shared ones. The last bias of that network holds the weights that the layer begins with; like all
            biases it is not decayed.
        amp: compute in ``"bf16"`` or ``"fp16"`` where torch deems it safe (fp16 with its losses scaled); faster if there is hardware for
            it. On a CPU that has no instructions for bf16 numbers stay float32.
        parts: the number of parts in which a step's images are run, each normalised by itself: one after the other, which takes less
            memory, or on the processes of ``torchrun``. The result does not depend on how many processes there are.
        ema: the result is the moving average of the weights with this decay, after a warm-up; 0 for the last weights.
        recompute: keep no feature maps inside blocks for the backward pass, and compute them again: less memory, a third more time.
        mixup, cutmix: the images of a batch are mixed in pairs (Zhang et al., ICLR'18; Yun et al., ICCV'19), their share drawn from a
            beta distribution with this parameter; 0 for not at all. If both are given, a coin decides.
        teacher: weights of the same space or another one, whose largest network teaches besides the labels; or any torch module, which
            takes the images as the student does; or the file or the folder of either. Without one the network learns from the labels
            alone, a network of your own from the whole network.
        metric: of a network of your own: a function from a module to a number that is larger for better ones. It tells after each epoch
            which weights to keep; the accuracy on validation images if omitted.
        keep: of a network of your own: the ``"best"`` weights by that judgement, or the ``"last"`` ones. Say the last where a network has
            learned the images that it is judged by before it was cut: what it knows of them by heart looks better than what it learns.
        distill: with a teacher, the share of its output in the loss; the labels have the rest.
        temperature: at which the teacher's and the student's outputs are compared (Hinton et al., 2015, section 2).
        hints: with a teacher, what is learned of its feature maps, and the weight of each in the loss: of ``"features"``, ``"attention"``,
            ``"distances"`` and ``"angles"`` (:mod:`hwsearch.nn.training.distillations`), or of your own. A number is the weight of
            ``"attention"``.
        stages: whose feature maps are compared: names of the network's stages and of the teacher's that belong to them. If omitted, the
            last map of each size.
        phases: which networks may be trained when: all at all times (:data:`hwsearch.nn.PHASES` has ``"sandwich"``), or ever smaller ones
            (``"progressive"``). Each phase is a training of its own that begins with the result of the one before: it has its own
            warm-up, momentum and moving average. Of phases that follow each other and train the same networks, the first counts.
        sparsity: how many weights of a single network become zero while it learns, in which pattern
            (:class:`hwsearch.nn.pruning.Sparsity`); ``None`` for none. The network is judged once the whole share is zero.
        optimizer, optimizer_options: ``"sgd"``, or the name of an optimiser of torch, such as ``"AdamW"``, and what it takes besides the
            learning rate and the weight decay.
        schedule, schedule_options: of the learning rate after the warm-up: ``"cosine"``, ``"linear"`` (to zero), ``"constant"``, or the
            name of a schedule of torch, such as ``"MultiStepLR"``, and what it takes, counted in steps.
        class_weights: the weight of each class in the loss of the labels; or ``"balanced"``, so that rare classes weigh as much as others.
        augment: varies batches of training images besides what the data does: a function from ``uint8`` images of shape
            ``(n, channels, height, width)`` to the same.
        loss: the loss of the labels, a function of logits and labels, in the place of cross-entropy; of a network of your own a function
            of what it returns and the targets.
        patience: stop after this many epochs in a row without a better accuracy on the validation images, the mean of the largest, the
            smallest and two networks between. The result is then that of the best epoch, and the last weights are kept beside it; 0 for
            never.
        device: where to compute: ``"cuda"``, ``"mps"``, ``"xpu"`` or ``"cpu"``; if omitted, on a GPU that CUDA knows, if there is one.
        sync_bn: on several processes, each of which runs one part, batch norms go by the whole batch and not by each part alone: worth its
            messages where a part has few images. Augmentation aside, two processes then learn what one does with that batch in one part.

    Raises:
        InvalidInput: a number that makes no sense.
    """

    epochs: int
    batch: int = 64
    learning_rate: float = 0.1
    warm_up: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 0.0
    label_smoothing: float = 0.1
    random_networks: int = 2
    sandwich: bool = True
    generated: bool = False
    amp: str | None = None
    parts: int = 1
    ema: float = 0.0
    recompute: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    distill: float = 0.5
    temperature: float = 1.0
    hints: float | Mapping[str, float] = 0.0
    stages: Mapping[str, str] | None = None
    phases: tuple[Phase, ...] = PHASES["sandwich"]
    teacher: WeightsLike | nn.Module | None = None
    sparsity: Sparsity | None = None
    optimizer: str = "sgd"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "cosine"
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    class_weights: Sequence[float] | str | None = None
    augment: Augment | None = None
    loss: Loss | None = None
    patience: int = 0
    metric: Callable[[nn.Module], float] | None = None
    keep: str = "best"
    device: str | None = None
    sync_bn: bool = False

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.epochs < 1 or self.batch < 2 or self.random_networks < 0:
            numbers = f"{self.epochs}, {self.batch} and {self.random_networks}"
            raise InvalidInput(f"A recipe needs epochs >= 1, batch >= 2 and random_networks >= 0, not {numbers}.")
        if not 1 <= self.parts <= self.batch // 2:
            raise InvalidInput(f"parts must be at least 1, and leave 2 images a part; {self.parts} parts of {self.batch} images do not.")
        for name in ("learning_rate", "temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidInput(f"{name} must be a positive number, not {getattr(self, name)}.")
        for name in ("warm_up", "momentum", "label_smoothing", "ema", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 0 and below 1, not {getattr(self, name)}.")
        for name in ("mixup", "cutmix", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InvalidInput(f"{name} must be a number of at least 0, not {getattr(self, name)}.")
        if not 0 <= self.distill <= 1:
            raise InvalidInput(f"distill must be between 0 and 1, not {self.distill}.")
        if self.amp is not None and self.amp not in AMP:
            raise UnknownName("amp", self.amp, AMP)
        if self.sparsity is not None and not isinstance(self.sparsity, Sparsity):
            raise InvalidInput(f"sparsity must be a hwsearch.nn.pruning.Sparsity, not {self.sparsity!r}.")
        if not (self.phases and all(isinstance(phase, Phase) for phase in self.phases)):
            raise InvalidInput(f"phases must be one Phase or more, not {self.phases!r}.")
        self._check_names()

    def _check_kinds(self) -> None:
        """Check that each field is of the kind that its annotation says.

        Raises:
            InvalidInput: one is not.
        """
        for each in fields(self):
            value = getattr(self, each.name)
            told, fits = _KINDS.get(str(each.type), ("", object))
            if not isinstance(value, fits) or (isinstance(value, bool) and fits in (Integral, Real)):
                raise InvalidInput(f"{each.name} of a recipe must be {told}, not {value!r}.")

    def _check_names(self) -> None:
        """Check what is told by names, and what is new since version 0.1.

        Raises:
            InvalidInput, UnknownName: they make no sense.
        """
        check_count("patience", self.patience, least=0)
        if self.keep not in KEEP:
            raise UnknownName("keep", self.keep, KEEP)
        check_schedule(self.schedule, self.schedule_options)
        make_optimizer(self.optimizer, [{"params": [torch.zeros(1)]}], self.learning_rate, self.momentum, self.optimizer_options)
        for name, weight in self.distillations.items():
            find("distillation", name)
            if not 0 <= weight < math.inf:
                raise InvalidInput(f"The weight of the hints {name!r} must be a number of at least 0, not {weight}.")
        weights = self.class_weights
        if isinstance(weights, str):
            if weights != "balanced":
                raise UnknownName("class_weights", weights, ["balanced"])
        elif weights is not None and not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise InvalidInput(f"class_weights must be finite numbers of at least 0, one a class, or 'balanced', not {weights}.")
        for name, of in (("loss", "logits and labels"), ("augment", "images"), ("metric", "a module")):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise InvalidInput(f"{name} must be a function of {of}, not {getattr(self, name)!r}.")

    @property
    def distillations(self) -> dict[str, float]:
        """What is learned of the teacher's feature maps: weights by name, without those that are 0."""
        hints = self.hints if isinstance(self.hints, Mapping) else {"attention": self.hints}
        return {name: weight for name, weight in hints.items() if weight}

    def check_teacher(self) -> None:
        """Check that hints have somebody to come from.

        Raises:
            InvalidInput: there are hints, and no teacher.
        """
        if self.distillations and self.teacher is None:
            raise InvalidInput("Hints come from a teacher. Name one in the recipe (teacher=..., or --teacher), or leave hints out of it.")

    @property
    def document(self) -> dict[str, Any]:
        """The recipe as plain data, for files: functions by their names; a teacher is told by the digest of its weights instead."""
        plain = replace(self, teacher=None, loss=None, augment=None, metric=None)  # since asdict copies what objects hold, if it can
        told = {name: value for name, value in asdict(plain).items() if name not in ("teacher", "device")}
        for name in ("hints", "stages"):
            told[name] = dict(told[name]) if isinstance(told[name], Mapping) else told[name]
        for name in ("loss", "augment", "metric"):
            own = getattr(self, name)
            told[name] = None if own is None else getattr(own, "__qualname__", type(own).__qualname__)
        return told

    def place(self, step: int, steps: int) -> tuple[Phase, int, int]:
        """Where one step out of ``steps`` stands: its phase, its number in the phase, and how many steps the phase has."""
        shares = [phase.share for phase in self.phases]
        ends = [round(steps * sum(shares[: number + 1]) / sum(shares)) for number in range(len(shares))]
        number = bisect_right(ends, step)
        start = ends[number - 1] if number else 0
        return self.phases[number], step - start, ends[number] - start

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of one step out of ``steps``."""
        phase, step, steps = self.place(step, steps)
        highest, warm = phase.rate * self.learning_rate, round(self.warm_up * steps)
        if step < warm:
            return highest * (step + 1) / warm
        return highest * rate_of(self.schedule, self.schedule_options, step - warm, max(1, steps - warm))


RecipeLike = Recipe | Mapping[str, Any] | None
"""A recipe, or the fields that are to differ from the good recipe for the data, or ``None`` for that recipe itself."""


def load_recipe(name: str) -> Recipe:
    """The good recipe of a name: ``"digits"``, ``"cifar10"``, ``"imagefolder"`` (for ImageNet and folders of its size), ``"photographs"``
    (for smaller folders), or one that is registered or announced.

    Raises:
        UnknownName: there is none of that name.
        InvalidInput: what was registered or announced is no recipe.

    Example:
        >>> from hwsearch.nn import load_recipe
        >>> load_recipe("digits").epochs
        16
    """
    found = find("recipe", name)
    if not isinstance(found, Recipe):
        raise InvalidInput(f"The recipe {name!r} must be a hwsearch.nn.Recipe, not {found!r}.")
    return found


def recipe_for(data: str, recipe: RecipeLike) -> Recipe:
    """The recipe to train by.

    Args:
        data: the name of the data; if there is no recipe of that name, data begin with that of ``"cifar10"``.
        recipe: another recipe, or the fields to change in the good one; phases may be given by their name, hints and stages as in
            ``"attention:1,features:0.5"``, a sparsity as :meth:`hwsearch.nn.pruning.Sparsity.parse` reads it, and ``like`` names
            another recipe to begin with.

    Raises:
        UnknownName: a field that recipes do not have, or phases or a recipe of no such name.
        InvalidInput: a value that makes no sense.
    """
    given = {} if recipe is None or isinstance(recipe, Recipe) else dict(recipe)
    like = given.pop("like", data if data in names("recipe") else "cifar10")
    known = [each.name for each in fields(Recipe)]
    for name in given:
        if name not in known:
            raise UnknownName("field of a recipe", name, [*known, "like"])
    if isinstance(given.get("phases"), str):
        if given["phases"] not in PHASES:
            raise UnknownName("phases", given["phases"], PHASES)
        given["phases"] = PHASES[given["phases"]]
    for name, kind in (("hints", float), ("stages", str)):
        if isinstance(given.get(name), str):
            given[name] = _pairs(name, given[name], kind)
    if isinstance(given.get("sparsity"), str | Real):
        given["sparsity"] = Sparsity.parse(str(given["sparsity"]))
    try:
        return replace(recipe if isinstance(recipe, Recipe) else load_recipe(like), **given)
    except TypeError as error:
        raise InvalidInput(f"The recipe cannot be read: {error} in {given}.") from error


def _pairs(name: str, text: str, kind: type[Any]) -> dict[str, Any]:
    """Read ``"a:1,b:2"``; a number that is missing is 1.

    Raises:
        InvalidInput: it has another form.
    """
    pairs = [each.partition(":") for each in text.split(",")]
    try:
        return {key: kind(value if colon or kind is str else 1) for key, colon, value in pairs}
    except ValueError as error:
        raise InvalidInput(f"{name} are names with numbers, such as attention:1,features:0.5, not {text!r}.") from error
