"""Finished: a network that was trained, quantised, exported and measured, and how good it turned out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from ._reading import read_document
from ._store import PathLike, write_atomic
from .errors import CorruptFile, WrongSpace
from .space import Architecture, SearchSpace
from .spaces import load_space

FORMAT = "hwsearch-finished"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a finished network's file says in plain values."""

    weights: str
    model: str
    tuned: bool
    accuracy: float
    float_accuracy: float
    latency_ms: float
    spread_ms: float
    device: str
    macs: int
    params: int
    size_mb: float
    simulated_accuracy: float | None = None
    teacher_accuracy: float | None = None
    teacher_ms: float | None = None
    data: str | None = None


@dataclass(frozen=True, kw_only=True)
class Finished(_Facts):
    """A finished network.

    Attributes:
        architecture: what it is.
        weights, model: names of the files of its weights and of the model, in the folder where this stands.
        tuned: whether its weights were fine-tuned at its precisions; otherwise calibrating alone was better on validation images.
        accuracy: share of the test images that the model file gets right, run in its runtime; as evaluated in torch for TensorRT.
        simulated_accuracy: the same, as evaluated in torch; ``None`` in files of older versions.
        float_accuracy: the same in floating point.
        latency_ms, spread_ms: measured, by the protocol of the latency tables.
        device: where.
        macs, params: multiply-accumulates of one image, and parameters as trained.
        size_mb: of the model file.
        teacher_accuracy, teacher_ms: of the teacher in fp32; ``None`` without one.
        data: name and fingerprint of the images; ``None`` in files of the first versions.
    """

    architecture: Architecture

    def save(self, path: PathLike) -> Path:
        """Write it as JSON, whole or not at all."""
        document = {"format": FORMAT, "version": VERSION, **vars(self), "architecture": self.architecture.document()}
        write_atomic(path, msgspec.json.format(msgspec.json.encode(document)) + b"\n")
        return Path(path)


def load_finished(path: PathLike, space: SearchSpace | None = None) -> Finished:
    """Read what :meth:`Finished.save` wrote.

    Args:
        path: the JSON file.
        space: the space it must belong to; found by its name where left out.

    Raises:
        FileError: the file cannot be read.
        CorruptFile, NewerVersion: it is not one that this hwsearch can read.
        WrongSpace: it belongs to another space.
    """
    document = read_document(path, "finished network", format=FORMAT, version=VERSION)
    try:
        where = space or load_space(str(document["architecture"]["space"]))
        architecture = Architecture.from_document(document["architecture"], where, path)
        return Finished(architecture=architecture, **vars(msgspec.convert(document, _Facts)))
    except (CorruptFile, WrongSpace):
        raise
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise CorruptFile(f"{path} is not a whole finished network: {error}.") from error
