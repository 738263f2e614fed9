"""Scores of many networks of a supernet, kept in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .._files._lock import claim
from .._files._reading import check_header, check_same, guarded, is_number, read_arrays
from .._files._writing import Journal, PathLike, write_arrays
from .._progress import progress as show_progress
from ..errors import InvalidInput
from ..scores._executor import ScoreOnWorkers
from ..spaces._genes import Rows
from ..spaces._keys import row_of_hex
from ..spaces._load import load_space
from ..spaces._space import SearchSpace
from ._evaluate import accuracy, deployed
from ._sampling import floats
from .data._images import Data, DataLike, same_data
from .data._load import load_data
from .quantization._quantize import STANDARD, Quantization
from .quantization._tune import tuned
from .supernet._deploy import Deployed
from .supernet._supernet import Supernet, WeightsLike, load_supernet

FORMAT = "hwsearch-scores"
VERSION = 1
_OLDEST: dict[str, Any] = {"floating": False, "tuning": 0, "quantization": asdict(STANDARD)}
"""What the first files did not say."""
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SupernetScore:
    """The accuracy that networks have with the weights of a trained supernet, on validation images.

    It is called with rows, shape ``(n, genes)``, and returns accuracies between 0 and 1, shape ``(n,)``, so it is a score like any other,
    if a slow one; :func:`hwsearch.fit_predictor` fits a fast one to it. It can travel to the workers of an executor; give it files then,
    which a worker opens once, whereas a supernet or images in memory travel with every task.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.nn import SupernetScore, make_data
        >>> images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
        >>> data = make_data("mine", (images, np.arange(100) % 10))
        >>> supernet = hwsearch.train("resnet_digits", data=data, out="score.safetensors", recipe={"epochs": 1}, progress=False)
        >>> score = SupernetScore(supernet.space, supernet, data)
        >>> score(supernet.space.sample(2, np.random.default_rng(0))).shape
        (2,)

    Attributes:
        space: of the networks; it may be given by its name.
        weights: the supernet or its file.
        data: the images (:func:`hwsearch.nn.load_data`).
        images: how many validation images to evaluate on at most.
        floating: whether to evaluate all networks in fp32, whatever their precisions.
        tuning: steps of quantisation-aware fine-tuning that each network gets first; 0 for calibration alone.
        quantization: how the networks are quantised. ``Quantization().on(table.device)`` gives ``int8`` weights as many bits as the
            arithmetic of that device carries; by default they have 8.
        stamp: of the content of weights and images, so that a worker opens files again that have changed.

    Raises:
        InvalidInput: fewer than one image, fewer than no steps, or tuning in floating point.
    """

    space: SearchSpace
    weights: WeightsLike
    data: DataLike
    images: int = 2000
    floating: bool = False
    tuning: int = 0
    quantization: Quantization = STANDARD
    stamp: str = ""
    chunk: ClassVar[int] = 1
    """Networks of a task: they are evaluated one by one anyway."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", load_space(self.space))
        if self.images < 1 or self.tuning < 0 or (self.floating and self.tuning):
            raise InvalidInput(
                f"images must be at least 1, and tuning at least 0 (and 0 in floating point), not {self.images} and {self.tuning}."
            )

    def __call__(self, X: Rows) -> Scores:
        """The accuracies of rows."""
        supernet, data = self._opened
        data = data.normalized(supernet.normalize)
        return np.array([accuracy(self._network(supernet, data, row), data, "val", self.images) for row in X])

    def _network(self, supernet: Supernet, data: Data, row: Rows) -> Deployed:
        if self.tuning:
            return tuned(supernet, row, data, self.tuning, self.quantization)
        return deployed(supernet, row, floating=self.floating, quantization=self.quantization)

    @property
    def _opened(self) -> tuple[Supernet, Data]:
        """The weights and the images."""
        if isinstance(self.weights, Supernet) or isinstance(self.data, Data):
            return load_supernet(self.weights, self.space), load_data(self.data)
        key = (str(self.weights), str(self.data), self.space.fingerprint, self.stamp)
        if key not in _OPEN:
            _OPEN.clear()
            _OPEN[key] = load_supernet(self.weights, self.space), load_data(self.data)
        return _OPEN[key]

    def header(self, supernet: Supernet, data: Data) -> dict[str, Any]:
        """What a file of its scores begins with, where these are the weights and the images."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "space": self.space.name,
            "fingerprint": self.space.fingerprint,
            "weights": supernet.digest,
            **data.identity,
            "images": self.images,
            "floating": self.floating,
            "tuning": self.tuning,
            "quantization": asdict(STANDARD if self.floating else self.quantization),
        }


_OPEN: dict[tuple[str, str, str, str], tuple[Supernet, Data]] = {}
"""The files that this process has open: those that were asked for last."""


def score_networks(
    score: SupernetScore,
    X: npt.ArrayLike,
    *,
    out: PathLike,
    executor: Executor | Callable[[], Executor] | None = None,
    progress: bool = True,
) -> Scores:
    """Score networks and keep the scores in a file.

    Networks that are in ``out`` already are not evaluated again; the others are added to it. Each result is appended to
    ``<out>.partial.jsonl``, and a call that was stopped is continued by the same call.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.nn import SupernetScore, make_data, sample_networks, score_networks
        >>> images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
        >>> data = make_data("mine", (images, np.arange(100) % 10))
        >>> supernet = hwsearch.train("resnet_digits", data=data, out="kept.safetensors", recipe={"epochs": 1}, progress=False)
        >>> score, X = SupernetScore(supernet.space, supernet, data), sample_networks(supernet.space, 3)
        >>> first, again = (score_networks(score, X, out="kept.npz", progress=False) for _ in range(2))  # once evaluated, once read
        >>> bool((first == again).all())
        True

    Args:
        score: what evaluates them. In floating point precisions make no difference, so :func:`hwsearch.nn.floats` of the rows are kept.
        X: the networks, shape ``(n, genes)``; :func:`hwsearch.nn.sample_networks` draws some.
        out: the npz file to write or to complete: ``X`` (networks, genes), ``accuracy`` (networks,) and a JSON ``header``.
        executor: evaluates the networks on its workers, or a function that makes one. Networks whose worker died are evaluated again.
        progress: show a bar with the time left.

    Returns:
        Their accuracies, shape ``(n,)``.

    Raises:
        InvalidInput: ``out`` holds scores by other weights, images or arguments.
        CorruptFile, NewerVersion: ``out`` exists and is no such file.
        WorkersLost: workers died at every try.
    """
    space, supernet, opened = score.space, load_supernet(score.weights, score.space), load_data(score.data)
    header, target = score.header(supernet, opened), Path(out)
    stamp = f"{header['weights']} {header['data_fingerprint']}"
    score = replace(score, weights=supernet, data=opened) if executor is None else replace(score, stamp=stamp)
    rows = space.canonical(space.check(X))
    keys = [bytes(row) for row in (floats(space, rows) if score.floating else rows)]
    with claim(target):
        journal = Journal(f"{out}.partial.jsonl")
        done = known_scores(target, journal, header, space)
        new = [key for key in dict.fromkeys(keys) if key not in done]
        if new and not any(True for _ in journal):
            journal.append(header)
        with show_progress("scoring networks", len(new), progress) as advance:
            for key, value in _scored(score, new, executor):
                done[key] = value
                journal.append({"row": key.hex(), "accuracy": value})
                advance(1)
        if journal.path.exists():
            write_arrays(target, header, {"X": _rows(list(done)), "accuracy": np.array(list(done.values()))})
            journal.remove()
        return np.array([done[key] for key in keys])


def _rows(keys: list[bytes]) -> Rows:
    """The rows of which these are the bytes, shape ``(n, genes)``."""
    return np.array([list(key) for key in keys], dtype=np.uint8)


def _scored(score: SupernetScore, keys: list[bytes], executor: Executor | Callable[[], Executor] | None) -> Iterator[tuple[bytes, float]]:
    """Each row and its score, as soon as it is known; several at a time if there are workers."""
    on_workers = None if executor is None else ScoreOnWorkers(score, executor)
    step = 1 if on_workers is None else 8 * on_workers.workers
    try:
        for start in range(0, len(keys), step):
            some = keys[start : start + step]
            yield from zip(some, map(float, (on_workers or score)(_rows(some))), strict=True)
    finally:
        if on_workers is not None:
            on_workers.close()


def _check(header: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Check that scores come from the arguments that are wanted now."""
    check_same(same_data(_OLDEST | header, wanted, path), wanted, path)


def known_scores(path: Path, journal: Journal, wanted: dict[str, Any], space: SearchSpace) -> dict[bytes, float]:
    """The scores that a file and the journal beside it hold, by row.

    Args:
        path: of the file; it need not be there.
        journal: of scores that are not in the file yet; it need not be there.
        wanted: what both must begin with.
        space: whose rows they hold.

    Raises:
        CorruptFile, NewerVersion: they are no such files, or hold rows or accuracies that are impossible.
        InvalidInput: they come from other arguments.
    """
    done: dict[bytes, float] = {}
    if path.exists():
        header, arrays = read_arrays(path, "file of scores", format=FORMAT, version=VERSION)
        _check(header, wanted, path)
        with guarded(path, "file of scores"):
            rows = space.check(arrays["X"])
            done = {bytes(row): _accuracy(value) for row, value in zip(rows, arrays["accuracy"].tolist(), strict=True)}
    for number, line in enumerate(journal, start=1):
        where = f"{journal.path}, line {number}"
        if number == 1:
            _check(check_header(line, format=FORMAT, version=VERSION, path=journal.path), wanted, journal.path)
            continue
        with guarded(where, "score"):
            done[row_of_hex(line["row"], space)] = _accuracy(line["accuracy"])
    return done


def _accuracy(value: object) -> float:
    """A share of images, checked."""
    if not is_number(value) or not 0 <= value <= 1:
        raise InvalidInput(f"an accuracy must be from 0 to 1, not {value!r}.")
    return float(value)
