"""Training a supernet, or a single network, which is a supernet of one."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from .._store import PathLike, sweep
from ..errors import InvalidInput
from ..space import SearchSpace
from ..spaces import load_space
from .data import Data, load_data
from .lesson import Sandwich
from .loop import as_json, learn, same_arguments
from .processes import accelerator, processes
from .recipe import RECIPES, Recipe
from .supernet import Supernet, load_supernet


def train(
    space: str | SearchSpace,
    *,
    data: str | tuple[str, PathLike] | Data,
    out: PathLike,
    recipe: Recipe | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    weights: PathLike | Supernet | None = None,
    teacher: PathLike | Supernet | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Supernet:
    """Train the supernet of a space, or continue where an earlier call was stopped.

    Each step trains the largest network on the labels, and the smallest and some random networks on the largest one's output: the sandwich
    rule (:class:`hwsearch.nn.lesson.Sandwich`). A single network is a space of one, ``space.alone(row)``, and is trained on the labels.

    While it trains, the state goes to ``<out>.partial``, so a killed training loses a few steps at most: calling again with the same
    arguments continues it and ends with exactly the weights of an uninterrupted one (on the same machine and number of threads). All
    randomness of a step follows from ``seed`` and the number of the step. Where ``out`` is already the result of these arguments, it is
    read and handed back.

    Started by ``torchrun``, the processes share out each batch, in the recipe's ``parts``; the first one writes. A GPU is used where torch
    sees one.

    Args:
        space: the space, or its name.
        data: the images, or their name, or name and folder (:func:`load_data`).
        out: the safetensors file to write.
        recipe: how to train; a good one for the data where left out.
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
    if seed < 0:
        raise InvalidInput(f"seed must be at least 0, not {seed}.")
    space = load_space(space)
    data = load_data(data)
    recipe = recipe or RECIPES.get(data.name, RECIPES["cifar10"])
    recipe = replace(recipe, epochs=recipe.epochs if epochs is None else epochs, batch=recipe.batch if batch is None else batch)
    team = processes()
    recipe = replace(recipe, batch=min(recipe.batch, data.count("train")), parts=max(recipe.parts, team.count))
    if recipe.parts % team.count:
        raise InvalidInput(
            f"{team.count} processes cannot share out a batch in {recipe.parts} parts evenly: choose a multiple of {team.count}."
        )
    supernet = Supernet(space, seed)
    _check_fit(supernet, data)
    facts = {"data": data.name, "train_images": data.count("train"), "seed": seed, "recipe": asdict(recipe), "allowed": space.allowed}
    if weights is not None:
        weights = load_supernet(weights, space)
        supernet.inherit(weights)
        facts["weights"] = weights.digest
    lecturer = None
    if teacher is not None:
        teacher = load_supernet(teacher, space)
        lecturer = teacher.extract(teacher.largest).to(accelerator())
        facts["teacher"] = teacher.digest
    facts = as_json(facts)
    target, partial = Path(out), Path(f"{out}.partial")
    team.wait()
    if target.exists():
        done = Supernet.load(target, space)
        same_arguments(done.facts, facts, target)
        partial.unlink(missing_ok=True)
        return done
    lesson = Sandwich(supernet, recipe, lecturer)
    title = f"training {space.name}"
    learn(lesson, data, recipe, seed=seed, partial=partial, facts=facts, team=team, title=title, progress=progress)
    supernet.normalize = data.normalize
    supernet.facts = facts
    supernet.images = data.calibration_images(seed)
    if team.first:
        supernet.save(target)
        partial.unlink(missing_ok=True)
        for path in (target, partial):
            sweep(path)
    team.wait()
    return supernet


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
            f"{len(data.mean)} and {data.classes}."
        )
