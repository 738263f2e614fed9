"""The accuracy of model files, found by running them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from .._files._writing import PathLike
from ..backends._load import load_backend
from ..backends.base import Backend
from ..errors import InvalidInput
from ..spaces._space import Architecture
from ._agreement import outputs
from ._export import export
from .data._images import Data, DataLike, Normalize
from .data._load import load_data
from .supernet._plain import resize
from .supernet._supernet import Supernet


def evaluate_file(
    model: PathLike,
    *,
    data: DataLike,
    backend: str | Backend = "onnxruntime",
    split: str = "test",
    images: int | None = None,
) -> float:
    """Accuracy of an exported model file, computed by its runtime on this machine.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.nn import evaluate_file, make_data
        >>> images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
        >>> data = make_data("mine", (images, np.arange(100) % 10))
        >>> supernet = hwsearch.train("resnet_digits", data=data, out="file.safetensors", recipe={"epochs": 1}, progress=False)
        >>> path = hwsearch.export(supernet.space.architecture(supernet.smallest), weights=supernet, out="small.onnx")
        >>> 0 <= evaluate_file(path, data=data) <= 1
        True

    Args:
        model: the file, written by :func:`hwsearch.export`, whose metadata says how images are prepared. Files of modules that were
            exported without images say nothing of mean and deviation; then those of ``data`` are taken.
        data: the images (:func:`hwsearch.nn.load_data`).
        backend: whose runtime runs it: a backend, or its name, that runs model files.
        split: ``"train"``, ``"val"`` or ``"test"``.
        images: evaluate on this many images only, the first of the split.

    Returns:
        Share of the images that it gets right, between 0 and 1.

    Raises:
        FileError: there is no such file, or it is no model file of this backend.
        InvalidInput: the file does not say how its images are prepared, or takes several inputs.
        UnknownName: there is no such split.
        Unsupported: the backend does not run files.
    """
    runtime = load_backend(backend)
    said = runtime.notes(model).get("hwsearch.input")
    if said is None:
        raise InvalidInput(f"{model} does not say how its images are prepared; hwsearch.export writes files that do.")
    facts, images_of = msgspec.json.decode(said), load_data(data)
    if len(facts.get("sizes", [None])) > 1:
        raise InvalidInput(f"{model} takes {len(facts['sizes'])} inputs; only networks of one image are evaluated so.")
    normalize = Normalize(tuple(facts["mean"]), tuple(facts["std"])) if "mean" in facts else images_of.normalize
    batch = facts["batch"] if "batch" in facts else _batch(model)

    def prepared(x: torch.Tensor) -> npt.NDArray[np.float32]:
        pixels = normalize(x) if facts["resolution"] is None else resize(normalize(x), facts["resolution"])
        return np.asarray(pixels.contiguous().numpy())

    run = runtime.runner(str(Path(model)))
    right = total = 0
    for x, y in images_of.batches(split, batch or 50, images):
        (logits,) = outputs(run, [prepared(x)], batch)
        right += int((logits.argmax(axis=1) == np.asarray(y)).sum())
        total += len(y)
    return right / total


def _batch(model: PathLike) -> int | None:
    """How many images an ONNX file takes at once, from the shape of its input; files of earlier versions do not say it."""
    from ..backends._onnx._check import input_shape

    return input_shape(model)[0]


def evaluate_exported(architecture: Architecture, *, weights: Supernet, data: Data, backend: Backend, split: str) -> float:
    """Accuracy of an architecture as the file that :func:`hwsearch.export` writes of it, run by the backend; see :func:`evaluate_file`."""
    with tempfile.TemporaryDirectory() as folder:
        path = export(architecture, weights=weights, out=Path(folder, f"network{backend.suffix}"), backend=backend)
        return evaluate_file(path, data=data.normalized(weights.normalize), backend=backend, split=split)
