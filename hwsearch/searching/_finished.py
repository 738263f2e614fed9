"""Finished: a network that was trained, quantised, exported and measured, and how good it turned out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from .._files._reading import guarded, read_document
from .._files._writing import PathLike, write_atomic
from ..errors import InvalidInput
from ..spaces._load import space_of_file
from ..spaces._space import Architecture, SearchSpace

FORMAT = "hwsearch-finished"
VERSION = 1

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a finished network's file says in plain values."""

    weights: str
    model: str
    tuned: bool
    accuracy: float
    float_accuracy: float
    latency_ms: _Positive
    spread_ms: Annotated[float, msgspec.Meta(ge=0)]
    device: str
    macs: _Count
    params: _Count
    size_mb: _Positive
    simulated_accuracy: float | None = None
    teacher_accuracy: float | None = None
    teacher_ms: _Positive | None = None
    data: str | None = None
    network: str | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        shares = (self.accuracy, self.float_accuracy, self.simulated_accuracy, self.teacher_accuracy)
        if self.metric is None and not all(0 <= each <= 1 for each in shares if each is not None):
            raise InvalidInput(f"Accuracies are shares between 0 and 1, not {shares}.")


@dataclass(frozen=True, kw_only=True)
class Finished(_Facts):
    """A finished network.

    Example:
        >>> import hwsearch
        >>> from hwsearch.searching import Finished, load_finished
        >>> files = {"weights": "best.safetensors", "model": "best.onnx", "tuned": True, "device": "my-cpu"}
        >>> found = {"accuracy": 0.957, "float_accuracy": 0.958, "latency_ms": 0.031, "spread_ms": 0.001}
        >>> done = Finished(architecture=None, **files, **found, macs=900_000, params=40_000, size_mb=0.05, network="mine")
        >>> load_finished(done.save("finished.json")).accuracy
        0.957

    Attributes:
        architecture: what it is; ``None`` for a network of the user's that no search has found, or whose space is not at hand.
        weights, model: names of the files of its weights and of the model, in the folder where this stands.
        tuned: whether its weights were fine-tuned at its precisions; otherwise calibrating alone was better on validation images.
        accuracy: share of the test images that the model file gets right, run in its runtime; as evaluated in torch for TensorRT.
        simulated_accuracy: the same, as evaluated in torch; ``None`` in files of older versions.
        float_accuracy: the same in floating point.
        latency_ms, spread_ms: measured, by the protocol of the latency tables.
        device: where.
        macs, params: multiply-accumulates of one image, and parameters as trained.
        size_mb: of the model file.
        teacher_accuracy, teacher_ms: of the teacher in fp32; ``None`` without one, and the latency of one that is no file of the backend.
        data: name and fingerprint of the images; ``None`` in files of the first versions.
        network: the name of a network of the user's; ``None`` for one of a supernet.
        metric: what stands for accuracy; ``None`` for the share of images that are right.
    """

    architecture: Architecture | None

    def save(self, path: PathLike) -> Path:
        """Write it as JSON, whole or not at all."""
        document = {"format": FORMAT, "version": VERSION, **vars(self)}
        document["architecture"] = None if self.architecture is None else self.architecture.document()
        write_atomic(path, msgspec.json.format(msgspec.json.encode(document)) + b"\n")
        return Path(path)


def load_finished(path: PathLike, space: SearchSpace | None = None) -> Finished:
    """Read what :meth:`Finished.save` wrote.

    Example:
        >>> from hwsearch.searching import Finished, load_finished
        >>> files = {"weights": "best.safetensors", "model": "best.onnx", "tuned": True, "device": "my-cpu"}
        >>> found = {"accuracy": 0.957, "float_accuracy": 0.958, "latency_ms": 0.031, "spread_ms": 0.001}
        >>> done = Finished(architecture=None, **files, **found, macs=900_000, params=40_000, size_mb=0.05, network="mine")
        >>> load_finished(done.save("done.json")) == done
        True

    Args:
        path: the JSON file.
        space: the space it must belong to; found by its name if omitted. That of a network of the user's is not looked for.

    Raises:
        FileError: the file cannot be read.
        CorruptFile, NewerVersion: it is not one that this hwsearch can read.
        WrongSpace: it belongs to another space.
    """
    document = read_document(path, "finished network", format=FORMAT, version=VERSION)
    with guarded(path, "finished network"):
        facts, found = msgspec.convert(document, _Facts), document["architecture"]
        where = space if space is not None or facts.network is not None else space_of_file(found["space"], path)
        architecture = None if found is None or where is None else Architecture.from_document(found, where, path)
        return Finished(architecture=architecture, **vars(facts))
