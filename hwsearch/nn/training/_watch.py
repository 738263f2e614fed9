"""What a training tells on the way: losses, accuracies, rates and times, on screen, in a CSV file, in TensorBoard, to a function."""

from __future__ import annotations

import copy
import csv
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from ..._files._reading import guarded, parse_text, read_bytes
from ..._files._writing import PathLike, check_writable, write_atomic
from ...errors import InvalidInput, MissingDependency, check_count
from ...spaces._genes import Rows
from ..data._images import Data
from ..supernet import _weights_file as weights_file
from ..supernet._supernet import Supernet
from ._losses import Losses
from ._processes import Processes
from ._recipe import Recipe

Metric = Callable[[torch.Tensor, torch.Tensor], Any]
"""A metric of the user's: from logits, shape ``(n, classes)``, and labels, shape ``(n,)``, to a number."""
Told = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How a training is watched: in the place of ``progress=True``.

    After each epoch this is told: ``epoch``, ``step``, ``loss`` (of the largest network, the mean over the epoch), ``learning_rate``,
    ``images_per_second``, ``seconds`` and ``seconds_left``; and ``val_largest``, ``val_large``, ``val_small`` and ``val_smallest``, the
    accuracies of the largest network, of two in between and of the smallest one on validation images, in floating point.

    Attributes:
        csv: a file to write, a row an epoch. A training that goes on goes on with its rows.
        tensorboard: a folder for TensorBoard, where the package is installed.
        callback: called with a dictionary of what is told.
        images: validation images that each of the four networks is evaluated on; 0 for none.
        metrics: further metrics of the largest network on these images, by name: functions of logits and labels.
        bar: show a bar with the time left, and a line an epoch, on a terminal or in a notebook.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn import Watch
        >>> from hwsearch.spaces import Chain, Stage
        >>> toy = Chain("toy", (8,), (8,), (Stage((1, 2), (8, 16), (8, 12)),), classes=10, channels=1).space()
        >>> rows = []
        >>> watch = Watch(csv="log.csv", callback=rows.append, images=100, bar=False)
        >>> supernet = hwsearch.train(toy, data="digits", out="toy-watch.safetensors", recipe={"epochs": 1}, progress=watch)
        >>> sorted(rows[0])[:3], 0 <= rows[0]["val_smallest"] <= 1
        (['epoch', 'images_per_second', 'learning_rate'], True)
    """

    csv: PathLike | None = None
    tensorboard: PathLike | None = None
    callback: Callable[[Told], object] | None = None
    images: int = 1000
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    bar: bool = True

    def __post_init__(self) -> None:
        check_count("images", self.images, least=0)
        if self.callback is not None and not callable(self.callback):
            raise InvalidInput(f"callback must be a function of a dictionary, not {self.callback!r}.")
        if self.csv is not None:
            check_writable(self.csv)
        if self.tensorboard is not None:
            _summary_writer()

    def __bool__(self) -> bool:
        return self.bar


Progress = bool | Watch
"""Whether a bar is shown; or how a training is watched."""


class Followed(Protocol):
    """What a log sees of a training; see :class:`hwsearch.nn.training._loop.Training`."""

    losses: Losses
    data: Data
    recipe: Recipe
    seed: int
    team: Processes
    step: int
    steps: int
    steps_per_epoch: int
    device: torch.device
    parameters: dict[str, nn.Parameter]
    average: dict[str, torch.Tensor]
    optimizer: Optimizer
    facts: dict[str, Any]


class Log:
    """Follows a training from epoch to epoch.

    Args:
        training: which one; it may have made steps already.
        watch: what is told of it.
        patience: stop after this many epochs in a row without a better mean accuracy of the networks that are evaluated; 0 for never.
        kept: the file that keeps the best weights, so that a training that was stopped finds them again.

    Attributes:
        best: the weights of the best epoch so far, by name; ``None`` without patience.
        best_score, best_epoch: its accuracy, and which it was.
    """

    def __init__(self, training: Followed, watch: Watch, patience: int, kept: Path) -> None:
        self.training, self.watch, self.patience, self.kept = training, watch, patience, kept
        self.best: dict[str, torch.Tensor] | None = None
        self.best_score, self.best_epoch = -1.0, 0
        self.losses: list[float] = []
        self.began, self.at = time.monotonic(), training.step
        self.rows = [row for row in _rows(watch.csv) if int(row["step"]) <= training.step] if watch.csv and training.team.first else []
        if patience and training.step and kept.exists():
            tensors, header = weights_file.read(kept, weights_file.CHECKPOINT_FORMAT, training.losses.space)
            with guarded(kept, "state of a training"):
                self.best = {name: tensors[f"weight.{name}"] for name in training.parameters}
                self.best_score, self.best_epoch = float(header["score"]), int(header["epoch"])
        self.writer = None if watch.tensorboard is None or not training.team.first else _summary_writer()(str(watch.tensorboard))

    def seen(self, loss: float) -> bool:
        """Note a step; after the last one of an epoch, tell what there is to tell.

        Returns:
            Whether it makes sense to go on.
        """
        training = self.training
        self.losses.append(loss)
        if training.step % training.steps_per_epoch and training.step != training.steps:
            return True
        epoch = -(-training.step // training.steps_per_epoch)
        validated = self._validated()
        if training.team.first:
            self._tell({**self._pace(epoch), **validated})
        self.losses.clear()
        return self._improved(epoch, validated)

    def _pace(self, epoch: int) -> Told:
        """How far the training is, how fast, and how long it still takes."""
        training, now = self.training, time.monotonic()
        made = training.step - self.at
        spent = now - self.began
        return {
            "epoch": epoch,
            "step": training.step,
            "loss": float(np.mean(self.losses)),
            "learning_rate": float(training.optimizer.param_groups[0]["lr"]),
            "images_per_second": made * training.recipe.batch / max(spent, 1e-9),
            "seconds": spent,
            "seconds_left": spent / max(1, made) * (training.steps - training.step),
        }

    def _validated(self) -> dict[str, float]:
        """Accuracies of up to four networks, and the metrics of the largest one; of the first process, for all."""
        training, watch = self.training, self.watch
        if not watch.images or not isinstance(training.losses.network, Supernet):
            return {}
        names = _networks(training.losses.network)
        told = dict.fromkeys([f"val_{name}" for name in names], 0.0)
        if training.team.first:
            images = training.data.normalize(training.data.calibration_images(training.seed).to(training.device))
            with averaged(training):
                for name, row in names.items():
                    network = training.losses.network.extract(row, images)
                    metrics = watch.metrics if name == "largest" else {}
                    told |= {f"val_{metric}": value for metric, value in self._judged(network, name, metrics).items()}
        if self.patience:
            shared = torch.tensor([told[f"val_{name}"] for name in names], dtype=torch.float64, device=training.device)
            training.team.add_up([shared])
            told |= dict(zip((f"val_{name}" for name in names), shared.tolist(), strict=True))
        return told

    def _judged(self, network: torch.nn.Module, name: str, metrics: Mapping[str, Metric]) -> dict[str, float]:
        """The accuracy of a network, and metrics of the user's."""
        training = self.training
        outputs, labels = [], []
        with torch.inference_mode():
            for x, y in training.data.batches("val", 250, self.watch.images):
                outputs.append(network(training.data.normalize(x.to(training.device))).cpu())
                labels.append(y)
        logits, wanted = torch.cat(outputs), torch.cat(labels)
        found = {name: float((logits.argmax(dim=1) == wanted).float().mean())}
        return found | {metric: float(function(logits, wanted)) for metric, function in metrics.items()}

    def _tell(self, told: Told) -> None:
        """Pass on what there is to tell."""
        watch = self.watch
        self.rows.append({name: str(value) for name, value in told.items()})
        if watch.csv is not None:
            write_atomic(watch.csv, _text(self.rows).encode(), sync=False)
        if self.writer is not None:
            for name, value in told.items():
                self.writer.add_scalar(name, value, told["step"])
            self.writer.flush()
        if watch.callback is not None:
            watch.callback(dict(told))
        if watch.bar and sys.stderr.isatty():
            accuracies = "".join(f", {name} {value:.4f}" for name, value in told.items() if name.startswith("val_"))
            sys.stderr.write(
                f"epoch {told['epoch']}: loss {told['loss']:.4f}{accuracies}, learning rate {told['learning_rate']:.3g}, "
                f"{told['images_per_second']:,.0f} images/s, {told['seconds_left']:,.0f} s left\n"
            )

    def _improved(self, epoch: int, validated: Mapping[str, float]) -> bool:
        """Keep the best weights, if there is patience; false once it is at its end."""
        if not self.patience or not validated:
            return True
        score = float(
            np.mean([validated[f"val_{name}"] for name in ("largest", "large", "small", "smallest") if f"val_{name}" in validated])
        )
        if score > self.best_score:
            with averaged(self.training):
                self.best = {name: copy.deepcopy(parameter.detach()) for name, parameter in self.training.parameters.items()}
            self.best_score, self.best_epoch = score, epoch
            if self.training.team.first:
                tensors = {f"weight.{name}": tensor for name, tensor in self.best.items()}
                document = {"training": self.training.facts, "score": score, "epoch": epoch}
                space = self.training.losses.space
                weights_file.write(self.kept, weights_file.CHECKPOINT_FORMAT, space, tensors, document, sync=False)
        return epoch - self.best_epoch < self.patience

    def close(self) -> None:
        """Finish writing."""
        if self.writer is not None:
            self.writer.close()


@contextmanager
def follow(training: Followed, progress: Progress, kept: Path) -> Iterator[Log | None]:
    """What follows a training: nothing if nobody watches and there is no need to validate.

    Args:
        training: which one.
        progress: how it is watched.
        kept: the file of the best weights.
    """
    patience, looks = training.recipe.patience, bool(progress) and sys.stderr.isatty()
    watch = progress if isinstance(progress, Watch) else Watch(images=0, bar=looks)
    if patience and not watch.images:
        watch = replace(watch, images=Watch.images)
    if not patience and not (training.team.first and (looks or isinstance(progress, Watch))):
        yield None
        return
    log = Log(training, watch, patience, kept)
    try:
        yield log
    finally:
        log.close()


@contextmanager
def averaged(training: Followed) -> Iterator[None]:
    """The network has the weights of the result within this block: their moving average, if there is one."""
    kept = {name: training.parameters[name].detach().clone() for name in training.average}
    with torch.no_grad():
        for name, average in training.average.items():
            training.parameters[name].copy_(average)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, before in kept.items():
                training.parameters[name].copy_(before)


def _networks(supernet: Supernet) -> dict[str, Rows]:
    """The largest and the smallest network, and two in between; one if there is no other."""
    if supernet.space.size == 1:
        return {"largest": supernet.largest}
    low, high = supernet.smallest.astype(float), supernet.largest.astype(float)
    between = [np.rint(low + part * (high - low)).astype(np.uint8) for part in (2 / 3, 1 / 3)]
    held = [[min(supernet.held(gene), key=lambda index: abs(index - int(row[gene]))) for gene in range(len(row))] for row in between]
    large, small = supernet.space.canonical(np.array(held, dtype=np.uint8))
    return {"largest": supernet.largest, "large": large, "small": small, "smallest": supernet.smallest}


def _rows(path: PathLike) -> list[dict[str, str]]:
    """The rows of a log that was begun, if there is one."""
    if not Path(path).exists():
        return []
    rows = list(csv.DictReader(io.StringIO(parse_text(read_bytes(path, "log"), path))))
    if any(not str(row.get("step", "")).isdecimal() for row in rows):
        raise InvalidInput(f"{path} is no log of a training: it has no column 'step'. Name another file for csv=.")
    return rows


def _text(rows: list[dict[str, str]]) -> str:
    """Rows as CSV, with the columns of all of them."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _summary_writer() -> Any:
    """TensorBoard's writer.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependency("Watch(tensorboard=...)", "tensorboard", "tensorboard") from error
    return SummaryWriter
