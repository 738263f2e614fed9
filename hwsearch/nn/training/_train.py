"""Training a supernet, or a single network, which is a supernet of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..._files._lock import claim
from ..._files._writing import PathLike
from ...errors import InvalidInput, check_seed
from ...spaces._load import load_space
from ...spaces._space import SearchSpace
from ..data._images import Data
from ..data._load import load_data
from ..supernet._plain import calibrate_bn
from ..supernet._supernet import Supernet, load_supernet
from ._lesson import Lesson, Sandwich
from ._loop import HAPPENED, Facts, as_json, earlier, forget, learn, same_arguments
from ._phases import phases_for
from ._processes import accelerator, processes
from ._recipe import Recipe, recipe_for

_STATISTICS = 4096
"""Images that settle the batch norms of a network that is alone."""


def train(
    space: str | SearchSpace,
    *,
    data: PathLike | tuple[str, PathLike] | Data,
    out: PathLike,
    recipe: Recipe | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    weights: PathLike | Supernet | None = None,
    teacher: PathLike | Supernet | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Supernet:
    """Train the supernet of a space, or continue where an earlier call was stopped.

    Each step trains the largest network on the labels, and the smallest and some random networks on the largest one's output: the sandwich
    rule (:class:`hwsearch.nn.training._lesson.Sandwich`). The recipe's phases say how small networks may be at which time: from the
    beginning, or little by little. A single network is a space of one, ``space.alone(row)``: it learns from the labels, and in the end
    keeps batch-norm statistics of its own.

    While it trains, the state goes to ``<out>.partial``, so a killed training loses a few steps at most: calling again with the same
    arguments continues it and ends with exactly the weights of an uninterrupted one (on the same machine and number of threads). All
    randomness of a step follows from ``seed`` and the number of the step. Where ``out`` is already the result of these arguments, it is
    read and handed back.

    A step whose loss or gradients are not finite is left out and counted. After several of them in a row the training is refused, and a
    state of some time before is kept: the same call with a smaller ``learning_rate``, another ``clip`` or ``amp`` goes on from there.

    Started by ``torchrun``, the processes share out each batch, in the recipe's ``parts``; the first one writes. A GPU is used where torch
    sees one.

    Args:
        space: the space, or its name.
        data: the images, or their name, or name and folder (:func:`load_data`).
        out: the safetensors file to write.
        recipe: how to train; a good one for the data where left out, changed where a mapping of some fields is given.
        epochs, batch: instead of the recipe's.
        weights: a supernet of the same space, or its file, to begin with instead of random weights.
        teacher: weights of the same space, or their file; their largest network teaches besides the labels.
        seed: of all randomness.
        progress: show a bar with the time left.

    Returns:
        The trained supernet.

    Raises:
        InvalidInput: the images do not fit the space, the processes not the recipe's parts, ``out`` was begun or made with other arguments,
            or training diverged.
        CorruptFile, NewerVersion, WrongSpace: a file exists and is not what it should be.
    """
    seed = check_seed(seed)
    space = load_space(space)
    data = load_data(data)
    recipe = recipe_for(data.name, recipe, epochs=epochs, batch=batch)
    recipe = suited(recipe, data, space)
    supernet = Supernet(space, seed)
    _check_fit(supernet, data)
    facts = {**data.identity, "train_images": data.count("train"), "seed": seed, "recipe": asdict(recipe), "allowed": space.allowed}
    if weights is not None:
        weights = load_supernet(weights, space)
        supernet.inherit(weights)
        if space.size == 1:
            supernet.reorder()
        facts["weights"] = weights.digest
    lecturer = None
    if teacher is not None:
        teacher = load_supernet(teacher, space)
        lecturer = teacher.extract(teacher.largest).to(accelerator())
        facts["teacher"] = teacher.digest
    for one in (teacher, weights):
        data = data.normalized(one.normalize if isinstance(one, Supernet) else None)
    lesson = Sandwich(supernet, recipe, lecturer)
    return complete(lesson, supernet, data, recipe, out=Path(out), facts=as_json(facts), seed=seed, progress=progress)


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
    return recipe


def complete(
    lesson: Lesson, supernet: Supernet, data: Data, recipe: Recipe, *, out: Path, facts: Facts, seed: int, progress: bool
) -> Supernet:
    """Teach a lesson to its end and write the supernet that comes of it; or read it, where ``out`` is there already.

    Args:
        lesson: what learns: the supernet, or the plain network of the only row it has.
        supernet: whose weights are written.
        data: the images.
        recipe: how.
        out: the file; the state goes beside it while the training lasts.
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
            data.check(team, progress=progress)
        title = f"training {supernet.space.name}"
        happened = learn(lesson, data, recipe, seed=seed, partial=partial, facts=facts, team=team, title=title, progress=progress)
        facts = {**facts, HAPPENED: happened} if happened else facts
        supernet.normalize, supernet.facts, supernet.images = data.normalize, facts, data.calibration_images(seed)
        if lesson.network is not supernet:
            assert isinstance(lesson.network, nn.Sequential)
            supernet.settle(lesson.network)
        elif supernet.space.size == 1:
            network = supernet.extract(supernet.largest, supernet.calibration()).to(accelerator())
            calibrate_bn(network, _varied(data, recipe.batch, seed))
            supernet.settle(network.cpu())
        if team.first:
            supernet.save(out)
            forget(partial)
        team.wait()
        return supernet


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
            f"{len(data.mean)} and {data.classes}. Ask for load_space(name, classes=...); a Chain of your own takes channels= too."
        )
