"""Finishing: the network that a search has found is trained, quantised, exported and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from .._files._lock import claim
from .._files._writing import PathLike
from ..backends.base import Backend
from ..errors import InvalidInput, check_seed
from ..networks._blocks import Block
from ..profiling._measure import measure
from ..searching._finished import Finished, load_finished
from ..searching._result import SearchResult
from ..spaces._genes import Rows
from ..spaces._space import Architecture
from ._evaluate import accuracy, deployed
from ._export import export, load_writer
from ._files import evaluate_file
from ._finish_own import FINE, Road, finish_own, is_own
from .adoption._examples import Examples
from .adoption._judge import Judge
from .data._images import Data, DataLike
from .data._load import load_data
from .quantization._quantize import STANDARD, Quantization
from .quantization._tune import fine_of, tune
from .supernet._supernet import Supernet, WeightsLike
from .training._processes import processes
from .training._recipe import Recipe, RecipeLike, recipe_for
from .training._teacher import Teacher, load_teacher
from .training._train import train
from .training._watch import Progress


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """For which runtime a network is finished, and how it is quantised for it.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn import Deployment
        >>> network = hwsearch.load_space("resnet_digits").restrict({"resolution": [8], "*.depth": [1]})
        >>> rough = Deployment(tuning=0)  # calibrated at its precisions, and not fine-tuned
        >>> how = {"recipe": {"epochs": 1}, "deployment": rough, "progress": False}
        >>> hwsearch.finish(hwsearch.searching.dense(network, "int8"), data="digits", out="rough", **how).tuned
        False

    Attributes:
        backend: a backend that writes model files, or its name.
        quantization: how the network is quantised; the backend decides about zero points, and about the most bits of weights.
        tuning: epochs of quantisation-aware fine-tuning, at a fiftieth of the learning rate; 0 for calibration alone.
        precision: of the kernels of a network of your own, as :func:`hwsearch.export` takes it; what the search chose if omitted.

    Raises:
        InvalidInput: a negative number of epochs.
        Unsupported: weights with codebooks.
    """

    backend: str | Backend = "onnxruntime"
    quantization: Quantization = STANDARD
    tuning: int = 1
    precision: str | Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.tuning < 0:
            raise InvalidInput(f"tuning must be at least 0, not {self.tuning}.")
        self.quantization.check_linear("Networks are finished with")


ON_CPU = Deployment()
"""A file for ONNX Runtime, after one epoch of fine-tuning."""


def finish(
    result: SearchResult | Architecture | nn.Module | PathLike,
    *,
    data: DataLike | Examples,
    out: PathLike,
    weights: WeightsLike | nn.Module | None = None,
    recipe: RecipeLike = None,
    deployment: Deployment = ON_CPU,
    seed: int = 0,
    progress: Progress = True,
) -> Finished:
    """Train the network of a search, quantise it, export it, and measure it.

    A network of a supernet begins with the weights that it inherits, or from scratch, and learns from the labels and from the recipe's
    teacher, if there is one. Then it is calibrated and, if it has quantised blocks, fine-tuned at its precisions; whichever of the two is
    better on the validation images is exported.

    A network of your own (of :func:`hwsearch.adopt`) is extracted and repaired, and learns from the whole network, and from labels if
    there are any. It is judged after each epoch, and the best weights are kept. If the search or ``deployment`` has kernels in int8, it
    is fine-tuned rounded as in its file. Each stage is kept in ``out``, so the same call goes on after one that was stopped.

    Args:
        result: the result of a search, whose best network is taken, or an architecture; or a network of your own: what
            :func:`hwsearch.extract` returned, its file, or any module.
        data: the images (:func:`hwsearch.nn.load_data`). A network of your own also takes what :func:`hwsearch.extract` does, all of which
            is kept in memory as it is, with targets or without; a tenth is held out to choose weights on, another one to judge them.
        out: the folder to write: ``float.safetensors``, perhaps ``tuned.safetensors``, the model file ``best`` (``best.onnx``, or
            ``best.engine`` for TensorRT) and ``finished.json``. :func:`hwsearch.nn.adoption.load_network` reads networks of your own.
        weights: the supernet to inherit from, or its file; from scratch if omitted. Of a network of your own, the extracted network.
        recipe: how to train: a :class:`hwsearch.nn.Recipe`, or fields that change the good one for the data, whose learning rate is a
            quarter if weights are inherited. A finished dense network is a good ``teacher``; your own has the whole one already.
        deployment: for which runtime, and how the network is quantised for it.
        seed: of all randomness.
        progress: show bars with the time left; a :class:`hwsearch.nn.Watch` is told of the first training.

    Raises:
        InvalidInput: what :func:`hwsearch.train` refuses; labels that are no classes of the network; nothing to learn from.
        Unsupported: the backend takes no model files, or not at these precisions.
        FileError: a file cannot be used; WrongSpace if it is of another network.

    Example:
        >>> import hwsearch
        >>> from hwsearch.spaces import Chain, Stage
        >>> toy = Chain("toy", (8,), (8,), (Stage((1, 2), (8, 16), (8, 12)),), classes=10, precisions=("fp32", "int8"), channels=1).space()
        >>> network = toy.architecture(hwsearch.nn.Supernet(toy).smallest)
        >>> done = hwsearch.finish(network, data="digits", out="finished", recipe={"epochs": 1}, progress=False)
        >>> done.model
        'best.onnx'
    """
    given = result.best if isinstance(result, SearchResult) else result
    if is_own(given):
        return finish_own(given, cast("Examples", data), Path(out), weights, recipe, _road(deployment), check_seed(seed), progress)
    if not isinstance(given, Architecture):
        raise InvalidInput(f"finish takes the result of a search, an architecture or a torch module, not {type(given).__name__}.")
    if deployment.precision is not None:
        raise InvalidInput("A network of a supernet has its precisions from the search; architecture.at_precision gives it others.")
    return _of_supernet(given, load_data(cast("DataLike", data)), Path(out), weights, recipe, deployment, check_seed(seed), progress)


def _road(deployment: Deployment) -> Road:
    """Where a network of the user's goes."""
    writer = load_writer(deployment.backend)
    return Road(writer, deployment.precision, deployment.quantization.on(writer), deployment.tuning)


def _of_supernet(
    architecture: Architecture,
    data: Data,
    out: Path,
    weights: Any,
    recipe: RecipeLike,
    deployment: Deployment,
    seed: int,
    progress: Progress,
) -> Finished:
    """Finish a network of a supernet."""
    space = architecture.space.alone(architecture.genes)
    if weights is not None and not isinstance(recipe, Recipe):
        given = dict(recipe or {})
        good = recipe_for(data.recipe, {name: given[name] for name in ("like",) if name in given})
        recipe = {"learning_rate": FINE * good.learning_rate, **given}
    recipe = recipe_for(data.recipe, recipe)
    recipe.check_teacher()
    teacher = load_teacher(recipe.teacher, space)
    work = _Work(architecture, data, out, replace(recipe, teacher=None if teacher is None else teacher.module), deployment, seed, progress)
    team, summary = processes(), work.folder / "finished.json"
    with claim(summary if team.first else None):
        found = work.train(weights)
        if team.first:
            work.ship(found, teacher).save(summary)
        team.wait()
        return load_finished(summary, architecture.space)


class _Work:
    """The stages of :func:`finish`."""

    def __init__(
        self, architecture: Architecture, data: Data, folder: Path, recipe: Recipe, deployment: Deployment, seed: int, progress: Progress
    ) -> None:
        self.architecture, self.data, self.folder, self.recipe = architecture, data, folder, recipe
        self.backend, self.tuning = load_writer(deployment.backend), deployment.tuning
        self.quantization = deployment.quantization.on(self.backend)
        self.seed, self.progress = seed, progress

    def train(self, weights: WeightsLike | None) -> dict[Path, Supernet]:
        """Train the network alone, and tune it if it is quantised; the trained weights by their files."""
        path, data, recipe = self.folder / "float.safetensors", self.data, self.recipe
        alone = self.architecture.space.alone(self.architecture.genes)
        trained = train(alone, data=data, out=path, recipe=recipe, weights=weights, seed=self.seed, progress=self.progress)
        self.data, found = data.normalized(trained.normalize), {path: trained}
        if self.tuning and any(block.bits.weight_bits <= 8 for block in self.architecture.blocks()):
            path = self.folder / "tuned.safetensors"
            found[path] = tune(
                trained,
                data=self.data,
                out=path,
                recipe=fine_of(recipe, self.tuning),
                quantization=self.quantization,
                seed=self.seed,
                progress=bool(self.progress),
            )
        return found

    def ship(self, found: dict[Path, Supernet], teacher: Teacher | None) -> Finished:
        """Export and measure the candidate that is best on the validation images."""
        networks = {path: deployed(one, self.architecture.genes, quantization=self.quantization) for path, one in found.items()}
        path = max(found, key=lambda path: accuracy(networks[path], self.data, "val"))
        best, blocks, backend = found[path], self.architecture.blocks(), self.backend
        out = self.folder / f"best{backend.suffix}"
        model = export(self.architecture, weights=best, out=out, backend=backend, quantization=self.quantization)
        expert = teacher and teacher.module
        rivals = [_fp32(expert.space.blocks(expert.largest))] if isinstance(expert, Supernet) else []
        measured = measure([model, *rivals], backend=backend, seed=self.seed, progress=bool(self.progress))
        simulated = accuracy(networks[path], self.data, "test")
        return Finished(
            architecture=self.architecture,
            weights=path.name,
            model=model.name,
            tuned=path.stem == "tuned",
            accuracy=evaluate_file(model, data=self.data, backend=backend) if backend.runs_files else simulated,
            simulated_accuracy=simulated,
            float_accuracy=self._float_accuracy(best, self.architecture.genes),
            latency_ms=measured[0].latency_ms,
            spread_ms=measured[0].spread_ms,
            device=measured[0].device.name,
            macs=sum(block.macs for block in blocks),
            params=sum(block.params for block in blocks),
            size_mb=model.stat().st_size / 1e6,
            teacher_accuracy=None if teacher is None else self._expert_accuracy(teacher),
            teacher_ms=measured[1].latency_ms if rivals else None,
            data=self.data.label,
        )

    def _float_accuracy(self, weights: Supernet, row: Rows) -> float:
        """Accuracy of a network in floating point on the test images."""
        return accuracy(deployed(weights, row, floating=True), self.data.normalized(weights.normalize), "test")

    def _expert_accuracy(self, teacher: Teacher) -> float:
        """Accuracy of the teacher on the test images."""
        if isinstance(teacher.module, Supernet):
            return self._float_accuracy(teacher.module, teacher.module.largest)
        return Judge(self.data)(teacher.network(), "test")


def _fp32(blocks: Sequence[Block]) -> list[Block]:
    """The same network in fp32."""
    return [replace(block, precision="fp32") for block in blocks if not block.boundary]
