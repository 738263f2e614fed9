"""Accuracy of sub-networks at their precisions, and the predictor that is fitted to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .._progress import progress as show_progress
from .._store import Journal, PathLike, check_header, read_arrays, sweep, write_arrays
from ..errors import CorruptFile, InvalidInput
from ..predictor import Predictor
from ..space import Architecture, Rows, SearchSpace
from ..spaces import load_space
from .data import Data, load_data
from .deploy import Deployed, deploy
from .processes import accelerator
from .quantize import Quantization
from .supernet import Supernet, load_supernet

FORMAT = "hwsearch-scores"
VERSION = 1
Scores = npt.NDArray[np.float64]


def deployed(supernet: Supernet, row: Rows, *, floating: bool = False, how: Quantization | None = None) -> Deployed:
    """The network of ``row`` (shape ``(genes,)``) as it is shipped: extracted, calibrated, folded, quantised.

    Args:
        supernet: its weights.
        row: which one.
        floating: all of it in fp32 instead.
        how: as of :func:`deploy`.
    """
    images = supernet.calibration().to(accelerator())
    network = supernet.extract(row, None if supernet.settled else images).to(images.device)
    blocks = supernet.space.blocks(row)
    return deploy(network, [replace(block, precision="fp32") for block in blocks] if floating else blocks, images, how)


def accuracy(network: Deployed, data: Data, split: str, most: int | None = None, batch: int = 250) -> float:
    """Share of images that a deployed network gets right.

    Args:
        network: what to evaluate.
        data: the images.
        split: ``"train"``, ``"val"`` or ``"test"``.
        most: evaluate on this many images only, the first of the split.
        batch: images at a time.
    """
    right = total = 0
    where = network.device
    with torch.inference_mode():
        for x, y in data.batches(split, batch, most):
            right += int((network(data.normalize(x.to(where))).argmax(dim=1) == y.to(where)).sum())
            total += len(y)
    return right / total


def evaluate(
    architecture: Architecture,
    *,
    weights: PathLike | Supernet,
    data: str | tuple[str, PathLike] | Data,
    split: str = "test",
    images: int | None = None,
) -> float:
    """Accuracy of one architecture at its precisions, with the weights it has in the supernet.

    Args:
        architecture: the network.
        weights: the supernet or its file.
        data: the images (:func:`load_data`).
        split: ``"train"``, ``"val"`` or ``"test"``.
        images: evaluate on this many images only, the first of the split.

    Returns:
        Between 0 and 1.

    Raises:
        UnknownName: there is no such split.
        FileError: the weights cannot be used; WrongSpace where they are of another space.
        Unsupported: a precision that is neither fp32 nor quantised.
    """
    supernet = load_supernet(weights, architecture.space)
    return accuracy(deployed(supernet, architecture.genes), load_data(data).normalized(supernet.normalize), split, images)


def score_samples(
    space: str | SearchSpace,
    *,
    weights: PathLike | Supernet,
    data: str | tuple[str, PathLike] | Data,
    out: PathLike,
    samples: int = 300,
    images: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Rows, Scores]:
    """Evaluate random sub-networks on validation images, at their precisions: what a predictor is fitted on.

    The smallest and the largest network at each end of their precisions are among them. Each result is appended to ``<out>.partial.jsonl``;
    calling again continues, and hands back what is in ``out`` where that is already the result of these arguments.

    Args:
        space: the space, or its name.
        weights: the supernet or its file.
        data: the images (:func:`load_data`).
        out: the npz file to write: ``X`` (samples, genes), ``accuracy`` (samples,) and a JSON ``header``.
        samples: how many networks.
        images: how many validation images at most.
        seed: of the random networks.
        progress: show a bar with the time left.

    Returns:
        The rows, shape ``(n, genes)``, and their accuracies, shape ``(n,)``; ``n`` is below ``samples`` where the space is smaller.

    Raises:
        InvalidInput: fewer than one sample or image, a negative seed, or ``out`` comes from other arguments.
        CorruptFile, NewerVersion: ``out`` exists and is no such file.
    """

    space = load_space(space)
    if samples < 1 or images < 1 or seed < 0:
        raise InvalidInput(f"samples and images must be at least 1, and seed at least 0, not {samples}, {images} and {seed}.")
    supernet, data = load_supernet(weights, space), load_data(data)
    rows = sampled(space, samples, seed)
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "space": space.name,
        "fingerprint": space.fingerprint,
        "weights": supernet.digest,
        "data": data.name,
        "images": images,
        "samples": samples,
        "seed": seed,
        "allowed": [list(allowed) for allowed in space.allowed],
    }
    target = Path(out)
    if target.exists():
        return _read(target, header)
    journal = Journal(f"{out}.partial.jsonl")
    done: dict[str, float] = {}
    for number, line in enumerate(journal):
        if number == 0:
            _same(check_header(line, format=FORMAT, version=VERSION, path=journal.path), header, journal.path)
        else:
            done[line["row"]] = float(line["accuracy"])
    if not journal.path.exists() or not journal.path.stat().st_size:
        journal.append(header)
    with show_progress("scoring networks", len(rows), progress) as advance:
        for row in rows:
            key = bytes(row).hex()
            if key not in done:
                done[key] = accuracy(deployed(supernet, row), data, "val", images)
                journal.append({"row": key, "accuracy": done[key]})
            advance(1)
    scores = np.array([done[bytes(row).hex()] for row in rows])
    write_arrays(target, header, {"X": rows, "accuracy": scores})
    journal.remove()
    sweep(target)
    return rows, scores


def sampled(space: SearchSpace, samples: int, seed: int) -> Rows:
    """Different canonical rows: the corners of the space, then random ones, shape ``(at most samples, genes)``."""
    rng = np.random.default_rng(seed)
    precision = np.array([choice.name.endswith("precision") for choice in space.choices])
    ends = np.array([[allowed[0] for allowed in space.allowed], [allowed[-1] for allowed in space.allowed]], dtype=np.uint8)
    corners = [np.where(precision, ends[b], ends[a]).astype(np.uint8) for a in (0, 1) for b in (0, 1)]
    X = np.concatenate([space.canonical(np.array(corners)), space.sample(4 * samples + 64, rng)])
    _, first = np.unique(X, axis=0, return_index=True)
    return X[np.sort(first)][:samples]


def fit_predictor(
    space: str | SearchSpace,
    *,
    weights: PathLike | Supernet,
    data: str | tuple[str, PathLike] | Data,
    out: PathLike,
    samples: int = 300,
    images: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Predictor:
    """Evaluate sub-networks of a supernet and fit an accuracy predictor to them.

    The evaluations are kept in ``<out>.scores.npz`` (see :func:`score_samples`, which also says how a killed call continues).

    Args:
        space: the space, or its name.
        weights: the supernet or its file.
        data: the images (:func:`load_data`).
        out: the npz file of the predictor.
        samples: how many networks to evaluate; at least 10.
        images: how many validation images at most.
        seed: of the networks and of the fit.
        progress: show a bar with the time left.

    Returns:
        The predictor; its ``report`` says how well it did on networks that it was not fitted on.

    Raises:
        InvalidInput, CorruptFile, NewerVersion, WrongSpace: as :func:`score_samples` and :meth:`hwsearch.predictor.Predictor.fit` do.
    """
    space = load_space(space)
    scores = Path(out).with_suffix(".scores.npz")
    X, y = score_samples(space, weights=weights, data=data, out=scores, samples=samples, images=images, seed=seed, progress=progress)
    predictor = Predictor.fit(space, X, y, seed=seed)
    predictor.save(out)
    return predictor


def _read(path: Path, wanted: dict[str, Any]) -> tuple[Rows, Scores]:
    header, arrays = read_arrays(path, "file of scores", format=FORMAT, version=VERSION)
    _same(header, wanted, path)
    try:
        return arrays["X"], arrays["accuracy"]
    except KeyError as error:
        raise CorruptFile(f"{path} has no array {error}.") from error


def _same(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differing:
        told = ", ".join(f"{key} {found.get(key)!r} there and {wanted.get(key)!r} here" for key in differing)
        raise InvalidInput(f"{path} comes from other arguments: {told}. Use the same ones, name another file, or delete it.")
