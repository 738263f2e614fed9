"""Finishing: the network that a search has found is trained in earnest, quantised, exported and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._files._lock import claim
from .._files._writing import PathLike
from ..backends._load import load_backend
from ..backends.base import Backend
from ..errors import InvalidInput
from ..networks._blocks import Block
from ..profiling._measure import measure
from ..searching._finished import Finished, load_finished
from ..searching._result import SearchResult
from ..spaces._space import Architecture
from ._evaluate import accuracy, deployed
from ._export import export
from ._files import evaluate_file
from .data._images import Data
from .data._load import load_data
from .quantization._quantize import Quantization
from .quantization._tune import FINEST, tune
from .supernet._supernet import Supernet, load_supernet
from .training._processes import processes
from .training._recipe import Recipe, recipe_for
from .training._train import train

FINE = 0.25
"""The learning rate of inherited weights, as a share of that of random ones."""


def finish(
    result: SearchResult | Architecture,
    *,
    data: PathLike | tuple[str, PathLike] | Data,
    out: PathLike,
    weights: PathLike | Supernet | None = None,
    teacher: PathLike | Supernet | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    tuning: int = 1,
    how: Quantization | None = None,
    backend: str | Backend = "onnxruntime",
    seed: int = 0,
    progress: bool = True,
) -> Finished:
    """Train the network of a search alone, quantise it, export it, and measure it.

    It begins with what it inherits from ``weights``, or from scratch, and learns from the labels and from the ``teacher``. Then it is
    calibrated and, where it has quantised blocks, fine-tuned at its precisions; of the two what is better on the validation images is
    exported. A call that was stopped is continued by the same call: all that it does is in files in ``out`` as soon as it is done.

    Args:
        result: the result of a search, whose best network is taken, or an architecture.
        data: the images (:func:`hwsearch.nn.load_data`).
        out: the folder to write: ``float.safetensors``, perhaps ``tuned.safetensors``, ``best.onnx`` (``best.engine`` for TensorRT) and
            ``finished.json``.
        weights: the supernet to inherit from, or its file; from scratch where left out.
        teacher: weights of the same space, or their file; their largest network teaches. A finished dense network makes a good one.
        recipe: how; a good one for the data where left out, with a quarter of its learning rate where weights are inherited, and changed
            where a mapping of some fields is given.
        epochs, batch: instead of the recipe's.
        tuning: epochs of quantisation-aware fine-tuning, at a fiftieth of the learning rate; 0 for calibration alone.
        how: how it is quantised, as of :func:`hwsearch.nn.deploy`; whether with zero points, and the most bits of its weights, is for
            the backend to say.
        backend: a backend, or its name, that takes model files.
        seed: of all randomness.
        progress: show bars with the time left.

    Raises:
        InvalidInput: a negative number of epochs, or what :func:`hwsearch.nn.train` refuses.
        Unsupported: the backend takes no model files, or not at these precisions.
        FileError: a file cannot be used.
    """
    architecture = result.best if isinstance(result, SearchResult) else result
    if tuning < 0:
        raise InvalidInput(f"tuning must be at least 0, not {tuning}.")
    device, data, folder = load_backend(backend), load_data(data), Path(out)
    if weights is not None and not isinstance(recipe, Recipe):
        recipe = {"learning_rate": FINE * recipe_for(data.name, None).learning_rate, **(recipe or {})}
    recipe = recipe_for(data.name, recipe, epochs=epochs, batch=batch)
    if teacher is None and recipe.hints:
        raise InvalidInput("Hints are a teacher's: name one (teacher=..., or --teacher), or leave hints out of the recipe.")
    space = architecture.space.alone(architecture.genes)
    expert = None if teacher is None else load_supernet(teacher, space)
    team, summary = processes(), folder / "finished.json"
    with claim(summary if team.first else None):
        trained = train(
            space, data=data, out=folder / "float.safetensors", recipe=recipe, weights=weights, teacher=expert, seed=seed, progress=progress
        )
        data, how = data.normalized(trained.normalize), (how or Quantization()).on(device)
        found = [(folder / "float.safetensors", trained)]
        blocks = architecture.blocks()
        if tuning and any(block.bits.weight_bits <= 8 for block in blocks):
            finest = replace(
                recipe, epochs=tuning, learning_rate=FINEST * recipe.learning_rate, warm_up=0.0, ema=0.0, mixup=0.0, cutmix=0.0, amp=None
            )
            path = folder / "tuned.safetensors"
            found.append((path, tune(trained, data=data, out=path, recipe=finest, teacher=expert, how=how, seed=seed, progress=progress)))
        if not team.first:
            team.wait()
            return load_finished(summary, architecture.space)
        networks = [deployed(one, architecture.genes, how=how) for _, one in found]
        chosen = max(range(len(found)), key=lambda index: accuracy(networks[index], data, "val"))
        path, best = found[chosen]
        model = export(architecture, weights=best, out=folder / ("best.engine" if how.symmetric else "best.onnx"), backend=device, how=how)
        rivals = [] if expert is None else [_fp32(expert.space.blocks(expert.largest))]
        measured = measure([model, *rivals], backend=device, seed=seed, progress=progress)
        simulated = accuracy(networks[chosen], data, "test")
        finished = Finished(
            architecture=architecture,
            weights=path.name,
            model=model.name,
            tuned=chosen == 1,
            accuracy=evaluate_file(model, data=data, backend=device) if device.runs_files else simulated,
            simulated_accuracy=simulated,
            float_accuracy=accuracy(deployed(best, architecture.genes, floating=True), data, "test"),
            latency_ms=measured[0].latency_ms,
            spread_ms=measured[0].spread_ms,
            device=measured[0].device.name,
            macs=sum(block.macs for block in blocks),
            params=sum(block.params for block in blocks),
            size_mb=model.stat().st_size / 1e6,
            teacher_accuracy=accuracy(deployed(expert, expert.largest, floating=True), data, "test") if expert else None,
            teacher_ms=measured[1].latency_ms if expert else None,
            data=data.label,
        )
        finished.save(summary)
        team.wait()
        return finished


def _fp32(blocks: Sequence[Block]) -> list[Block]:
    """The same network in fp32."""
    return [replace(block, precision="fp32") for block in blocks if not block.boundary]
