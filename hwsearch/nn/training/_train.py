"""Training a supernet, or a single network, which is a supernet of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from ..._files._lock import claim
from ..._files._writing import PathLike
from ...errors import InvalidInput, check_seed
from ...spaces._load import load_space
from ...spaces._space import SearchSpace
from ..data._images import Data, DataLike
from ..data._load import load_data
from ..supernet import _weights_file as weights_file
from ..supernet._plain import calibrate_bn
from ..supernet._supernet import Supernet, WeightsLike, load_supernet
from ._arguments import HAPPENED, Facts, as_json, same_arguments
from ._loop import Training, earlier, forget, learn, moved
from ._losses import Losses, Sandwich
from ._phases import PHASES, phases_for
from ._processes import accelerator, computing_on, processes
from ._recipe import Recipe, RecipeLike, recipe_for
from ._teacher import Teacher, Teaching, load_teacher
from ._watch import Progress

_STATISTICS = 4096
"""Images that settle the batch norms of a network that is alone."""
T = TypeVar("T")


def train(
    space: str | SearchSpace,
    *,
    data: DataLike,
    out: PathLike,
    recipe: RecipeLike = None,
    weights: WeightsLike | None = None,
    seed: int = 0,
    progress: Progress = True,
) -> Supernet:
    """Train the supernet of a space, or continue where an earlier call was stopped.

    Each step trains the largest network on the labels, and the smallest and some random networks on the largest one's output: the sandwich
    rule. A single network is a space of one, ``space.alone(row)``; it learns from the labels. ``torchrun`` shares batches over processes.

    The state goes to ``<out>.partial``: the same call continues a killed training, and ends with exactly the weights of an uninterrupted
    one (on the same machine and number of threads). If ``out`` already is the result of these arguments, it is read and returned.

    Args:
        space: the space, or its name.
        data: the images (:func:`hwsearch.nn.load_data`).
        out: the safetensors file to write.
        recipe: how to train: a :class:`hwsearch.nn.Recipe`, or some of its fields, which then change the good recipe for the data.
        weights: a supernet of the same space, or its file, to begin with; random weights if omitted.
        seed: of all randomness.
        progress: show a bar with the time left; a :class:`hwsearch.nn.Watch` also tells losses, accuracies and rates, and writes them down.

    Returns:
        The trained supernet.

    Raises:
        InvalidInput: images that do not fit the space, other arguments than ``out`` was made with, or a training that diverged.
        CorruptFile, NewerVersion, WrongSpace: a file exists and is not what it should be.

    Example:
        >>> import hwsearch
        >>> from hwsearch.spaces import Chain, Stage
        >>> toy = Chain("toy", (8,), (8,), (Stage((1, 2), (8, 16), (8, 12)),), classes=10, precisions=("fp32", "int8"), channels=1).space()
        >>> supernet = hwsearch.train(toy, data="digits", out="toy.safetensors", recipe={"epochs": 1}, progress=False)
    """
    seed, space, data = check_seed(seed), load_space(space), load_data(data)
    recipe = suited(recipe_for(data.recipe, recipe), data, space)
    supernet = Supernet(space, seed, recipe.generated)
    check_fit(supernet, data)
    facts = {**data.identity, "train_images": data.count("train"), "seed": seed, "recipe": recipe.document, "allowed": space.allowed}
    if weights is not None:
        weights = load_supernet(weights, space)
        supernet.inherit(weights)
        if space.size == 1:
            supernet.reorder()
        facts["weights"] = weights.digest
    teacher = load_teacher(recipe.teacher, space)
    if teacher is not None:
        facts["teacher"] = teacher.digest
        data = data.normalized(teacher.normalize)
    data = data.normalized(weights.normalize if isinstance(weights, Supernet) else None)
    with computing_on(recipe.device):
        losses = Sandwich(supernet, recipe, teaching_of(teacher, recipe, data, seed))
        outcome = Weights(supernet, supernet)
        return complete(losses, outcome, data, recipe, out=Path(out), facts=as_json(facts), seed=seed, progress=progress)


def teaching_of(teacher: Teacher | None, recipe: Recipe, data: Data, seed: int) -> Teaching | None:
    """What is learned from a teacher, if there is one, on normalised images."""
    if teacher is None:
        return None
    example = data.normalize(data.calibration_images(seed)[:2])
    return Teaching(teacher.network(data.normalize), recipe, (example,))


def suited(recipe: Recipe, data: Data, space: SearchSpace | None) -> Recipe:
    """The recipe with no more images a step than there are, with a part at least for each process, and with the phases that differ.

    Args:
        recipe: how to train.
        data: the images.
        space: the networks to train; ``None`` for a network that has none.

    Raises:
        InvalidInput: the processes cannot share out the parts evenly, or the recipe of a supernet has a metric or a sparsity, or hints
            and no teacher.
    """
    if space is not None and recipe.metric is not None:
        raise InvalidInput("A metric is for networks of your own (hwsearch.adopt, then finish); leave it out of this recipe.")
    if space is not None and recipe.keep != "best":
        raise InvalidInput(
            "keep is for networks of your own (hwsearch.adopt, then finish); without patience the last weights are kept anyway."
        )
    if space is not None:
        recipe.check_teacher()
    if recipe.sparsity is not None and space is not None and space.size > 1:
        raise InvalidInput(
            "The networks of a supernet share their weights, so these cannot be zero for one of them: train one network, "
            "space.alone(row), or finish it with this sparsity."
        )
    _check_rule(recipe, space)
    count = processes().count
    batch = min(recipe.batch, data.count("train"))
    phases = recipe.phases[:1] if space is None else phases_for(recipe.phases, space)
    recipe = replace(recipe, batch=batch, parts=max(recipe.parts, count), phases=phases)
    if recipe.parts % count:
        raise InvalidInput(f"{count} processes cannot share out a batch in {recipe.parts} parts evenly: choose a multiple of {count}.")
    if recipe.sync_bn and recipe.parts > count:
        raise InvalidInput(
            f"With sync_bn each process runs one part of a batch, and {count} process(es) are to run {recipe.parts}. Leave out parts, or "
            f"start {recipe.parts} processes (torchrun --nproc-per-node {recipe.parts})."
        )
    return replace(recipe, class_weights=_class_weights(recipe, data))


def _check_rule(recipe: Recipe, space: SearchSpace | None) -> None:
    """What makes no sense together in a recipe without the sandwich, or with weights that are made.

    Raises:
        InvalidInput: it does not make sense.
    """
    if recipe.sandwich and not recipe.generated:
        return
    if space is None or space.size == 1:
        raise InvalidInput("sandwich=False and generated=True are for supernets: a single network has neither; leave them out.")
    if recipe.generated and recipe.phases != PHASES["sandwich"]:
        raise InvalidInput("Weights that are made from widths have no channels to put in order between phases: leave the phases out.")
    networks = [phase.random_networks for phase in recipe.phases]
    if not recipe.sandwich and (recipe.teacher is not None or 0 in [recipe.random_networks if each is None else each for each in networks]):
        raise InvalidInput("Without the sandwich random networks learn, at least one a step, from the labels alone: leave the teacher out.")


def _class_weights(recipe: Recipe, data: Data) -> Sequence[float] | None:
    """The weight of each class in the loss; with ``"balanced"`` inversely to how many training images it has, 1 on average over them.

    Raises:
        InvalidInput: there are more or fewer than classes, or a class that is to be balanced has no images.
    """
    weights = recipe.class_weights
    if isinstance(weights, str):
        counts = np.bincount(data.labels("train"), minlength=data.classes)
        if not counts.all():
            raise InvalidInput(f"Class {int(counts.argmin())} of data {data.name!r} has no training images, so it cannot be balanced.")
        return tuple((counts.sum() / (data.classes * counts)).tolist())
    if weights is not None and len(weights) != data.classes:
        raise InvalidInput(f"class_weights has {len(weights)} numbers, and data {data.name!r} has {data.classes} classes.")
    return weights


class Outcome(ABC, Generic[T]):
    """What a training results in, and the file of it.

    Attributes:
        name: of what is trained, for the progress bar.
    """

    name: str

    @abstractmethod
    def read(self, path: Path) -> tuple[T, Facts]:
        """The result in a file, and the facts that it was written with.

        Raises:
            FileError: the file cannot be used.
        """

    @abstractmethod
    def settle(self, data: Data, recipe: Recipe, seed: int, facts: Facts) -> T:
        """The result, once the training is over.

        Args:
            data: the images.
            recipe: how it was trained.
            seed: of all randomness.
            facts: the arguments, and what happened on the way, as JSON data.
        """

    @abstractmethod
    def write(self, result: T, path: Path) -> None:
        """Write the result, whole or not at all."""


class Weights(Outcome[Supernet]):
    """A supernet, into which the weights come that were trained.

    Args:
        supernet: the weights to write.
        network: what was trained: the supernet, or the plain network of the only row that it has.
    """

    def __init__(self, supernet: Supernet, network: nn.Module) -> None:
        self.name, self.supernet, self.network = supernet.space.name, supernet, network

    def read(self, path: Path) -> tuple[Supernet, Facts]:
        """The supernet in a file."""
        done = Supernet.load(path, self.supernet.space)
        return done, done.facts

    def settle(self, data: Data, recipe: Recipe, seed: int, facts: Facts) -> Supernet:
        """The supernet with what it has to know of its images; one of a single network with its batch-norm statistics."""
        supernet = self.supernet
        supernet.normalize, supernet.facts, supernet.images = data.normalize, facts, data.calibration_images(seed)
        if self.network is not supernet:
            assert isinstance(self.network, nn.Sequential)
            supernet.settle(self.network)
        elif supernet.space.size == 1:
            network = supernet.extract(supernet.largest, supernet.calibration()).to(accelerator())
            calibrate_bn(network, varied(data, recipe.batch, seed))
            supernet.settle(network.cpu())
        return supernet

    def write(self, result: Supernet, path: Path) -> None:
        """Write it as safetensors."""
        result.save(path)


def complete(
    losses: Losses, outcome: Outcome[T], data: Data, recipe: Recipe, *, out: Path, facts: Facts, seed: int, progress: Progress
) -> T:
    """Train to the end and write what results; or read it, if ``out`` exists already.

    Args:
        losses: of the network to train.
        outcome: what results, and how it is read and written.
        data: the images.
        recipe: how to train.
        out: the file; the state lies beside it while the training lasts.
        facts: the arguments, as JSON data.
        seed: of all randomness.
        progress: show a bar with the time left.

    Raises:
        InvalidInput, CorruptFile, NewerVersion, WrongSpace: as :func:`train` does.
    """
    team, partial = processes(), Path(f"{out}.partial")
    with claim(out if team.first else None, partial, *earlier(partial)):
        team.wait()
        if out.exists():
            done, found = outcome.read(out)
            same_arguments(found, facts, out)
            forget(partial)
            return done
        if not partial.exists():
            data.check(team, progress=bool(progress))
        training = Training(losses, data, recipe, seed, team)
        happened = learn(training, partial, facts, title=f"training {outcome.name}", progress=progress)
        facts = {**facts, HAPPENED: happened} if happened else facts
        result = outcome.settle(data, recipe, seed, facts)
        if training.best is not None:
            if team.first:
                outcome.write(result, out.with_suffix(f".last{out.suffix}"))
            learned = dict(losses.network.named_parameters())
            weights_file.fill(learned, {name: training.best[name] for name in learned}, out)
            result = outcome.settle(data, recipe, seed, facts)
        if team.first:
            outcome.write(result, out)
            forget(partial)
        team.wait()
        return result


def varied(data: Data, batch: int, seed: int) -> Iterator[Any]:
    """Thousands of training images, varied and normalised as in training, for the batch-norm statistics of a network that is alone."""
    order = np.random.default_rng([seed, 0xB0]).permutation(data.count("train"))[:_STATISTICS]
    shares = [(step, 0xB0, order[step * batch : (step + 1) * batch]) for step in range(max(1, len(order) // batch))]
    for images, _ in data.training(shares, seed):
        yield data.normalize(moved(images, accelerator()))


def check_fit(supernet: Supernet, data: Data) -> None:
    """The images must have the channels, and the labels the classes, of the space.

    Raises:
        InvalidInput: they do not.
    """
    blocks = supernet.space.blocks(supernet.largest)
    channels, classes = blocks[0].cin, blocks[-1].cout
    if len(data.mean) != channels or data.classes != classes:
        raise InvalidInput(
            f"Space {supernet.space.name!r} takes {channels} channel(s) and tells {classes} classes apart; data {data.name!r} has "
            f"{len(data.mean)} and {data.classes}. Name them with the space: --classes {data.classes} --channels {len(data.mean)} in "
            f"the shell, load_space(name, classes={data.classes}, channels={len(data.mean)}) in Python."
        )
