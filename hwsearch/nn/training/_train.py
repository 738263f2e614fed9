"""Training a supernet, or a single network, which is a supernet of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
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
from ._loop import HAPPENED, Facts, Training, as_json, earlier, forget, learn, same_arguments
from ._losses import Losses, Sandwich
from ._phases import phases_for
from ._processes import accelerator, computing_on, processes
from ._recipe import Recipe, RecipeLike, recipe_for
from ._watch import Progress

_STATISTICS = 4096
"""Images that settle the batch norms of a network that is alone."""


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
    recipe = suited(recipe_for(data.name, recipe), data, space)
    supernet = Supernet(space, seed)
    _check_fit(supernet, data)
    facts = {**data.identity, "train_images": data.count("train"), "seed": seed, "recipe": recipe.document, "allowed": space.allowed}
    if weights is not None:
        weights = load_supernet(weights, space)
        supernet.inherit(weights)
        if space.size == 1:
            supernet.reorder()
        facts["weights"] = weights.digest
    teacher = None if recipe.teacher is None else load_supernet(recipe.teacher, space)
    if teacher is not None:
        facts["teacher"] = teacher.digest
    for source in (teacher, weights):
        data = data.normalized(source.normalize if isinstance(source, Supernet) else None)
    with computing_on(recipe.device):
        losses = Sandwich(supernet, recipe, None if teacher is None else teacher.extract(teacher.largest).to(accelerator()))
        return complete(losses, supernet, data, recipe, out=Path(out), facts=as_json(facts), seed=seed, progress=progress)


def suited(recipe: Recipe, data: Data, space: SearchSpace) -> Recipe:
    """The recipe with no more images a step than there are, with a part at least for each process, and with the phases that differ.

    Raises:
        InvalidInput: the processes cannot share out the parts evenly.
    """
    count = processes().count
    batch, phases = min(recipe.batch, data.count("train")), phases_for(recipe.phases, space)
    recipe = replace(recipe, batch=batch, parts=max(recipe.parts, count), phases=phases)
    if recipe.parts % count:
        raise InvalidInput(f"{count} processes cannot share out a batch in {recipe.parts} parts evenly: choose a multiple of {count}.")
    return replace(recipe, class_weights=_class_weights(recipe, data))


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


def complete(
    losses: Losses, supernet: Supernet, data: Data, recipe: Recipe, *, out: Path, facts: Facts, seed: int, progress: Progress
) -> Supernet:
    """Train to the end and write the supernet that results; or read it, if ``out`` exists already.

    Args:
        losses: of the network to train: the supernet, or the plain network of the only row it has.
        supernet: the weights to write.
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
            done = Supernet.load(out, supernet.space)
            same_arguments(done.facts, facts, out)
            forget(partial)
            return done
        if not partial.exists():
            data.check(team, progress=bool(progress))
        title = f"training {supernet.space.name}"
        training = Training(losses, data, recipe, seed, team)
        happened = learn(training, partial, facts, title=title, progress=progress)
        facts = {**facts, HAPPENED: happened} if happened else facts
        supernet.normalize, supernet.facts, supernet.images = data.normalize, facts, data.calibration_images(seed)
        _conclude(losses, supernet, data, recipe, seed)
        if training.best is not None:
            if team.first:
                supernet.save(out.with_suffix(f".last{out.suffix}"))
            weights_file.fill(dict(supernet.named_parameters()), training.best, out)
            _conclude(losses, supernet, data, recipe, seed)
        if team.first:
            supernet.save(out)
            forget(partial)
        team.wait()
        return supernet


def _conclude(losses: Losses, supernet: Supernet, data: Data, recipe: Recipe, seed: int) -> None:
    """Leave in a supernet what was trained: of a single network also its batch-norm statistics."""
    if losses.network is not supernet:
        assert isinstance(losses.network, nn.Sequential)
        supernet.settle(losses.network)
    elif supernet.space.size == 1:
        network = supernet.extract(supernet.largest, supernet.calibration()).to(accelerator())
        calibrate_bn(network, _varied(data, recipe.batch, seed))
        supernet.settle(network.cpu())


def _varied(data: Data, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Thousands of training images, varied as in training, for the batch-norm statistics of a network that is alone."""
    order = np.random.default_rng([seed, 0xB0]).permutation(data.count("train"))[:_STATISTICS]
    shares = [(step, 0xB0, order[step * batch : (step + 1) * batch]) for step in range(max(1, len(order) // batch))]
    for images, _ in data.training(shares, seed):
        yield data.normalize(images.to(accelerator()))


def _check_fit(supernet: Supernet, data: Data) -> None:
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
