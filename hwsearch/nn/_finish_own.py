"""Finishing a network of the user's: it is trained with the whole network as its teacher, rounded, exported and measured."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from .._files._lock import claim
from ..backends.base import Backend
from ..errors import InvalidInput, Unsupported, WrongSpace
from ..profiling._measure import measure
from ..searching._finished import Finished, load_finished
from ..spaces._space import Architecture
from ._export_module import export_module
from ._model_file import ModelFile
from .adoption._adopted import Adopted
from .adoption._capture import as_graph
from .adoption._distilled import Distilling, Written
from .adoption._examples import Examples
from .adoption._extract import extract
from .adoption._files import load_network, save_network
from .adoption._judge import Judge, as_inputs, tensors
from .adoption._quantized import begun, planned, quantize, rounds
from .adoption._rounded import Rounded
from .adoption._state import copied, weights_digest
from .adoption._student import Floating, Student
from .adoption._tensor_data import TensorData, as_data
from .data._images import Data
from .quantization._quantize import Quantization
from .quantization._tune import fine_of
from .training._arguments import HAPPENED, as_json
from .training._maps import Inputs
from .training._processes import accelerator, computing_on, processes
from .training._recipe import Recipe, RecipeLike, recipe_for
from .training._teacher import classifies, load_teacher
from .training._train import complete, suited, varied
from .training._watch import Progress

FINE = 0.25
"""The learning rate of weights that are there already, as a share of that of random ones."""
_TAUGHT = {"distill": 0.9, "temperature": 4.0}
"""How much is learned from the whole network, unless the recipe says it."""
Own = Architecture | nn.Module | str | os.PathLike[str]


@dataclass(frozen=True)
class Road:
    """Where a finished network goes: the runtime of its file, and what is rounded on the way.

    Attributes:
        backend: writes, runs and measures the file.
        precision: of all kernels, or of some by their names or patterns; ``None`` for those of the network.
        quantization: how they are quantised.
        tuning: epochs of fine-tuning with everything rounded.
    """

    backend: Backend
    precision: Any
    quantization: Quantization
    tuning: int


def finish_own(
    given: Own, data: Examples, folder: Path, weights: Own | None, recipe: RecipeLike, road: Road, seed: int, progress: Progress
) -> Finished:
    """Finish a network that was cut out of the user's; :func:`hwsearch.finish` describes the arguments and errors."""
    summary, team = folder / "finished.json", processes()
    device = recipe.device if isinstance(recipe, Recipe) else (recipe or {}).get("device")
    with claim(summary if team.first else None), computing_on(device):
        given = load_network(given) if isinstance(given, str | os.PathLike) else given
        opened = as_data(data, _sizes(given))
        network = _start(given, opened, folder, weights)
        road = replace(road, precision=road.precision or _searched(given) or planned(network) or "fp32")
        work = Work.of(network, _whole(given), opened, recipe, road)
        name = given.space.name if isinstance(given, Architecture) else "network"
        frozen = given.space.frozen if isinstance(given, Architecture) and isinstance(given.space, Adopted) else frozenset()
        floating, final, file = work.train(network, folder, name, frozen, seed, progress)
        if team.first:
            architecture = given if isinstance(given, Architecture) else None
            found = work.ship(floating, final, folder / f"best{road.backend.suffix}", seed, progress)
            Finished(architecture=architecture, network=name, weights=file, **found).save(summary)
        team.wait()
        return load_finished(summary, given.space if isinstance(given, Architecture) else None)


def is_own(given: Any) -> bool:
    """Whether this is a network of the user's, and none of a supernet."""
    return isinstance(given, nn.Module | str | os.PathLike) or (isinstance(given, Architecture) and isinstance(given.space, Adopted))


def _start(given: Architecture | nn.Module, data: Data, folder: Path, weights: Own | None) -> fx.GraphModule:
    """The network to train: what was given, or what is cut for an architecture, which is kept in the folder.

    Raises:
        InvalidInput: weights besides a network.
        WrongSpace: the weights are of another network than the architecture.
    """
    if not isinstance(given, Architecture):
        if weights is not None:
            raise InvalidInput("A network brings its weights along: leave out weights, or give the result of the search.")
        return _graph(given, data)
    space, path = given.space, folder / "cut.safetensors"
    assert isinstance(space, Adopted)
    if weights is None and not path.exists():
        network = extract(given, data=data)
        if processes().first:
            save_network(network, path)
        return network
    network = _graph(path if weights is None else weights, data)
    plan, (kept, branches) = network.meta.get("plan") or {}, space.plan(given.genes)
    units = {name: len(each) for name, each in plan.get("keep", {}).items()}
    if plan.get("fingerprint") != space.graph_fingerprint or units != kept or plan.get("branches") != sorted(branches):
        where = path if weights is None else "What was given as weights"
        raise WrongSpace(f"{where} is another network than the result's. Name another folder, or extract the network of this result.")
    return network


def _graph(given: Own, data: Data) -> fx.GraphModule:
    """A graph of its own: of a file, or of a module, which is captured unless it was before."""
    if isinstance(given, str | os.PathLike):
        return load_network(given)
    assert isinstance(given, nn.Module)
    example = as_inputs(data.normalize(data.calibration_images(0)))
    return copied(as_graph(given, [each[:2] for each in example]))


def _sizes(given: Architecture | nn.Module) -> list[Sequence[int]]:
    """The sizes of the inputs of a network; empty ones where they are not known, one of which stands for a module that was not adopted."""
    if isinstance(given, Architecture):
        assert isinstance(given.space, Adopted)
        return [each.shape[1:] for each in given.space.inputs]
    if not isinstance(given, fx.GraphModule):
        return [()]
    if "plan" in given.meta:
        return [each["size"] for each in given.meta["plan"]["inputs"]]
    return [()] * sum(bool(node.meta.get("given", True)) for node in given.graph.find_nodes(op="placeholder"))


def _searched(given: Own) -> dict[str, str]:
    """The precisions that a search has chosen, by the names of weights; empty if it has chosen none."""
    return given.space.bits(given.genes) if isinstance(given, Architecture) and isinstance(given.space, Adopted) else {}


def _whole(given: Own) -> nn.Module | None:
    """The whole network, where it is known."""
    return given.space.whole if isinstance(given, Architecture) and isinstance(given.space, Adopted) else None


def _check_stages(recipe: Recipe, network: fx.GraphModule, plain: fx.GraphModule) -> None:
    """Refuse feature maps that are gone once a network is rounded.

    Raises:
        InvalidInput: a stage is named after an operation that then is part of another one.
    """
    there, left = ({node.name for node in each.graph.nodes} for each in (network, plain))
    gone = [name for name in recipe.stages or () if name in there - left]
    if gone and recipe.distillations:
        raise InvalidInput(
            f"The recipe's stages {gone} become part of the layers before them when the network is rounded, as batch norms do. Name the "
            "operations behind them, such as activations."
        )


@dataclass(frozen=True)
class Work:
    """Everything that the stages of a network need.

    Attributes:
        data: the images.
        recipe: how the network is trained.
        judge: how good it is.
        road: where its file goes.
    """

    data: Data
    recipe: Recipe
    judge: Judge
    road: Road

    @classmethod
    def of(cls, network: fx.GraphModule, whole: nn.Module | None, data: Data, recipe: RecipeLike, road: Road) -> Work:
        """Settle what is learned from whom.

        Raises:
            InvalidInput: there is nothing to learn from, labels that are no classes of the network, or a recipe that is for supernets.
        """
        given = recipe if isinstance(recipe, Recipe) else dict(recipe or {})
        if isinstance(given, dict):
            like = {name: given[name] for name in ("like",) if name in given}
            given = {"learning_rate": FINE * recipe_for(data.recipe, like).learning_rate, **_TAUGHT, **given}
        chosen = suited(recipe_for(data.recipe, given), data, None)
        if chosen.recompute or chosen.patience:
            raise InvalidInput(
                "recompute and patience are for networks of a supernet; leave them out of this recipe. The best weights are kept."
            )
        found = load_teacher(whole if chosen.teacher is None else chosen.teacher, None)
        teacher = None if found is None else found.network(None if isinstance(data, TensorData) else data.normalize)
        labels = not isinstance(data, TensorData) or data.targets is not None
        if not labels:
            chosen = replace(chosen, distill=1.0)
        if teacher is None and (not labels or chosen.distill == 1):
            raise InvalidInput("There is nothing to learn from: give labels, or a teacher in the recipe, such as the whole network.")
        if teacher is None:
            replace(chosen, teacher=None).check_teacher()
            chosen = replace(chosen, distill=0.0)
        classes = _classes(network, data)
        fits = labels and (0 < data.classes <= classes if isinstance(data, TensorData) else data.classes == classes)
        if not fits and chosen.loss is None and chosen.distill < 1:
            raise InvalidInput(
                f"The targets of the data tell {data.classes} classes apart, the network {classes}. Learn from the whole network alone "
                '(recipe={"distill": 1}), or give a loss of your own (recipe={"loss": ...}).'
            )
        if not fits and teacher is None and chosen.metric is None:
            raise InvalidInput('A metric is missing, which tells how good the network is: recipe={"metric": ...}.')
        return cls(data, chosen, Judge(data, teacher, fits, chosen.metric), road)

    def train(
        self, network: fx.GraphModule, folder: Path, name: str, frozen: Iterable[str], seed: int, progress: Progress
    ) -> tuple[fx.GraphModule, fx.GraphModule, str]:
        """Train in floats, then rounded if a kernel is: the network in floats, the one to ship, and the name of its file."""
        data, recipe, road, still, taught_by = self.data, self.recipe, self.road, frozenset(frozen), self.judge.teacher

        def batches() -> Iterable[Inputs]:
            return (as_inputs(images) for images in varied(data, recipe.batch, seed))

        def learned(student: Student, how: Recipe, file: str, before: fx.GraphModule, **more: Any) -> fx.GraphModule:
            losses = Distilling(student, before, how, self.judge, batches, name)
            facts = {**data.identity, "train_images": data.count("train"), "seed": seed, "recipe": how.document, **more}
            facts |= {"begun_with": weights_digest(before), "teacher": None if taught_by is None else weights_digest(taught_by)}
            watched = progress if isinstance(student, Floating) else bool(progress)  # which is told of the first training
            outcome = Written(student, name)
            return complete(losses, outcome, data, how, out=folder / file, facts=as_json(facts), seed=seed, progress=watched)

        images = as_inputs(data.normalize(data.calibration_images(seed)))
        if road.precision != "fp32":
            plain = begun(network, images, road.precision, road.quantization).network  # what is wrong is told before anything is trained
            if road.tuning:
                _check_stages(recipe, network, plain)
        if not any(each.requires_grad for each in network.parameters()):  # held still for inference; what a space holds still has its names
            for each in network.parameters():
                each.requires_grad_(each.is_floating_point())
        start = copied(network)
        student = Floating(network.to(accelerator()), still, batches())
        floating = learned(student, recipe, "float.safetensors", start)
        if road.precision == "fp32":
            return floating, floating, "float.safetensors"
        if not road.tuning:
            final = quantize(floating, images, road.precision, road.quantization)
            save_network(final, folder / "tuned.safetensors")
            return floating, final, "tuned.safetensors"
        fine = fine_of(recipe, road.tuning)
        rounded = Rounded(floating, images, road.precision, road.quantization, still)
        how = {"precision": road.precision, "weight_bits": road.quantization.weight_bits}
        return floating, learned(rounded, fine, "tuned.safetensors", floating, **how), "tuned.safetensors"

    def ship(self, floating: fx.GraphModule, final: fx.GraphModule, out: Path, seed: int, progress: Progress) -> dict[str, Any]:
        """Export and measure a network; what :class:`Finished` says of it."""
        backend, judge, data = self.road.backend, self.judge, self.data
        images = list(as_inputs(data.normalize(data.calibration_images(seed))))
        source: Any = images if isinstance(data, TensorData) else data

        def export(network: nn.Module, path: Path) -> Path:
            floats = not isinstance(network, fx.GraphModule) or not rounds(network)
            return export_module(network, path, backend, source, backend.batch, "fp32" if floats else None, self.road.quantization)

        model = export(final, out)
        with tempfile.TemporaryDirectory() as folder:
            rivals = []
            if judge.teacher is not None:
                with suppress(Unsupported):  # a teacher from elsewhere need not fit any runtime
                    rivals.append(export(judge.teacher.cpu(), Path(folder, f"teacher{backend.suffix}")))
            measured = measure([model, *rivals], backend=backend, seed=seed, progress=bool(progress))
        simulated = judge(final, "test")
        file = ModelFile(backend, model, backend.batch, final)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            floating(*(each[:1] for each in images))
        curve = (final.meta.get("facts") or {}).get(HAPPENED, {}).get("curve", [])
        best = max(curve, key=lambda each: (self.recipe.keep == "last" or each[1], each[0]))[0] if curve else 0
        return {
            "model": model.name,
            "tuned": bool(best and self.road.tuning) and final is not floating,
            "accuracy": judge(file, "test") if backend.runs_files else simulated,
            "simulated_accuracy": simulated,
            "float_accuracy": judge(floating, "test"),
            "latency_ms": measured[0].latency_ms,
            "spread_ms": measured[0].spread_ms,
            "device": measured[0].device.name,
            "macs": max(1, counter.get_total_flops() // 2),
            "params": sum(each.numel() for each in floating.parameters()),
            "size_mb": model.stat().st_size / 1e6,
            "teacher_accuracy": None if judge.teacher is None else judge(judge.teacher, "test"),
            "teacher_ms": measured[1].latency_ms if rivals else None,
            "data": data.label,
            "metric": judge.name,
        }


def _classes(network: nn.Module, data: Data) -> int:
    """How many classes a network tells apart; 0 if it is no classifier.

    Raises:
        InvalidInput: it does not run on two images of the data.
    """
    inputs = tuple(each[:2] for each in as_inputs(data.normalize(data.calibration_images(0))))
    try:
        with torch.no_grad():
            found = tensors(network(*inputs))
    except RuntimeError as error:
        sizes = [tuple(each.shape) for each in inputs]
        raise InvalidInput(f"The network does not run on two images of the data, of the shapes {sizes}. PyTorch says: {error}") from error
    return found[0].shape[1] if classifies(found) else 0
