"""Scores of many sub-networks, kept in files, and the predictor that is fitted to them."""

from __future__ import annotations

from collections.abc import Callable
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
from ..errors import InvalidInput, check_count, check_seed
from ..scores._executor import ScoreOnWorkers
from ..scores._predictor import LEAST, Predictor
from ..spaces._genes import Rows
from ..spaces._keys import row_of_hex
from ..spaces._load import load_space
from ..spaces._space import SearchSpace
from ._evaluate import accuracy, deployed
from .data._images import Data, same_data
from .data._load import load_data
from .quantization._quantize import Quantization
from .quantization._tune import tuned
from .supernet._deploy import Deployed
from .supernet._supernet import Supernet, load_supernet
from .training._phases import ordered

FORMAT = "hwsearch-scores"
VERSION = 1
_USUAL = Quantization()
_OLDEST: dict[str, Any] = {"floating": False, "tuning": 0, "quantization": asdict(_USUAL)}
"""What the first files did not say."""
_DRAWN = 64
"""Random networks are drawn so many at a time, so that more samples begin with the same ones."""
_POOL = 2000
"""Out of so many random networks the next ones are chosen."""
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scoring:
    """Evaluates networks on the validation images: rows, shape ``(n, genes)``, to accuracies, shape ``(n,)``.

    It travels to the workers of an executor. Files travel light: a worker opens them once, and objects go along with every task.

    Attributes:
        space: whose rows these are.
        weights: the supernet or its file.
        data: the images (:func:`load_data`).
        images: how many at most.
        floating: whether all is evaluated in fp32, whatever the precisions of the row.
        tuning: steps of quantisation-aware fine-tuning that each network gets first.
        how: how the networks are quantised.
        stamp: tells the content of weights and images apart, so that a worker opens files again that have changed.
    """

    space: SearchSpace
    weights: PathLike | Supernet
    data: PathLike | tuple[str, PathLike] | Data
    images: int
    floating: bool = False
    tuning: int = 0
    how: Quantization = _USUAL
    stamp: str = ""
    chunk: ClassVar[int] = 1
    """Networks of a task: they are evaluated one by one anyway."""

    def __call__(self, X: Rows) -> Scores:
        """The accuracies of rows."""
        supernet, data = self._opened
        data = data.normalized(supernet.normalize)
        return np.array([accuracy(self._network(supernet, data, row), data, "val", self.images) for row in X])

    def _network(self, supernet: Supernet, data: Data, row: Rows) -> Deployed:
        if self.tuning:
            return tuned(supernet, row, data, self.tuning, self.how)
        return deployed(supernet, row, floating=self.floating, how=self.how)

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
            "quantization": asdict(_USUAL if self.floating else self.how),
        }


_OPEN: dict[tuple[str, str, str, str], tuple[Supernet, Data]] = {}
"""The files that this process has open: those that were asked for last."""


def score_networks(
    space: str | SearchSpace,
    X: npt.ArrayLike,
    *,
    weights: PathLike | Supernet,
    data: PathLike | tuple[str, PathLike] | Data,
    out: PathLike,
    images: int = 2000,
    floating: bool = False,
    tuning: int = 0,
    how: Quantization | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    progress: bool = True,
) -> Scores:
    """Evaluate networks on validation images, at their precisions, and keep what was found.

    Networks that are in ``out`` already are not evaluated again; the others are added to it. Each result is appended to
    ``<out>.partial.jsonl``, and a call that was stopped is continued by the same call.

    Args:
        space: the space, or its name.
        X: the networks, shape ``(n, genes)``.
        weights: the supernet or its file.
        data: the images (:func:`load_data`).
        out: the npz file to write or to complete: ``X`` (networks, genes), ``accuracy`` (networks,) and a JSON ``header``.
        images: how many validation images at most.
        floating: evaluate all in fp32 instead, where precisions make no difference: :func:`floats` of the rows are kept.
        tuning: steps of quantisation-aware fine-tuning that each network gets first; 0 for calibration alone.
        how: how the networks are quantised, as of :func:`hwsearch.nn.deploy`. ``Quantization().on(table.device)`` gives ``int8`` weights as
            many bits as the arithmetic of the device carries for which they are scored; without it they have 8.
        executor: spreads the networks over its workers (or a function that makes one); give it files and not objects. Workers that die
            are replaced as far as the executor can.
        progress: show a bar with the time left.

    Returns:
        Their accuracies, shape ``(n,)``.

    Raises:
        InvalidInput: fewer than one image, fewer than no steps, tuning in floating point, or ``out`` comes from other arguments.
        CorruptFile, NewerVersion: ``out`` exists and is no such file.
        WorkersLost: workers died at every try.
    """
    space = load_space(space)
    if images < 1 or tuning < 0 or (floating and tuning):
        raise InvalidInput(f"images must be at least 1, and tuning at least 0 (and 0 in floating point), not {images} and {tuning}.")
    supernet, opened, target = load_supernet(weights, space), load_data(data), Path(out)
    scoring = Scoring(space, weights, data, images, floating, tuning, how or _USUAL)
    header = scoring.header(supernet, opened)
    if executor is None:
        scoring = replace(scoring, weights=supernet, data=opened)
    else:
        scoring = replace(scoring, stamp=f"{header['weights']} {header['data_fingerprint']}")
    rows = space.canonical(space.check(X))
    rows = floats(space, rows) if floating else rows
    with claim(target):
        journal = Journal(f"{out}.partial.jsonl")
        done = known_scores(target, journal, header, space)
        asked = [bytes(row) for row in rows]
        new = [key for key in dict.fromkeys(asked) if key not in done]
        if new and not any(True for _ in journal):
            journal.append(header)
        spread = ScoreOnWorkers(scoring, executor) if executor is not None else None
        at_once = 1 if spread is None else 8 * spread.workers
        try:
            with show_progress("scoring networks", len(new), progress) as advance:
                for start in range(0, len(new), at_once):
                    some = new[start : start + at_once]
                    for key, value in zip(some, (spread or scoring)(np.array([list(key) for key in some], dtype=np.uint8)), strict=True):
                        done[key] = float(value)
                        journal.append({"row": key.hex(), "accuracy": done[key]})
                    advance(len(some))
        finally:
            if spread is not None:
                spread.close()
        if journal.path.exists():
            X, found = np.array([list(key) for key in done], dtype=np.uint8), np.array(list(done.values()))
            write_arrays(target, header, {"X": X, "accuracy": found})
            journal.remove()
        return np.array([done[key] for key in asked])


def score_samples(
    space: str | SearchSpace,
    *,
    weights: PathLike | Supernet,
    data: PathLike | tuple[str, PathLike] | Data,
    out: PathLike,
    samples: int = 300,
    images: int = 2000,
    seed: int = 0,
    floating: bool = False,
    tuning: int = 0,
    how: Quantization | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    progress: bool = True,
) -> tuple[Rows, Scores]:
    """Evaluate random sub-networks on validation images, at their precisions: what a predictor is fitted on.

    The smallest and the largest network at each end of their precisions are among them. With more samples the same networks come first,
    so ``out`` can be completed.

    Args:
        samples: how many networks.
        seed: of the random networks.
        space, weights, data, out, images, floating, tuning, how, executor, progress: as for :func:`score_networks`.

    Returns:
        The rows, shape ``(n, genes)``, and their accuracies, shape ``(n,)``; ``n`` is below ``samples`` where the space is smaller.

    Raises:
        InvalidInput: fewer than one sample, or a negative seed; and as :func:`score_networks` does.
        CorruptFile, NewerVersion, WorkersLost: as :func:`score_networks` does.
    """
    space = load_space(space)
    samples, seed = check_count("samples", samples, least=1), check_seed(seed)
    rows = sampled(space, samples, seed, floating)
    options: dict[str, Any] = {"images": images, "floating": floating, "tuning": tuning, "executor": executor, "progress": progress}
    return rows, score_networks(space, rows, weights=weights, data=data, out=out, how=how, **options)


def precisions(space: SearchSpace) -> npt.NDArray[np.bool_]:
    """Which genes choose precisions, shape ``(genes,)``."""
    return np.array([choice.is_precision for choice in space.choices])


def floats(space: SearchSpace, X: Rows) -> Rows:
    """The rows with every precision at its finest value: the same row where the same network is meant in floating point."""
    finest = np.array([values[-1] for values in ordered(replace(space, allowed=()))], dtype=np.uint8)
    return space.canonical(np.where(precisions(space), finest, X))


def sampled(space: SearchSpace, samples: int, seed: int, floating: bool = False) -> Rows:
    """Different canonical rows: the corners of the space, then random ones, shape ``(at most samples, genes)``; as :func:`floats` if so."""
    rng = np.random.default_rng(seed)
    ends = np.array([[values[end] for values in ordered(space)] for end in (0, -1)], dtype=np.uint8)
    corners = [np.where(precisions(space), ends[b], ends[a]).astype(np.uint8) for a in (0, 1) for b in (1, 0)]
    X = space.canonical(np.array(corners))
    for _ in range(-(-4 * samples // _DRAWN) + 1):
        X = np.concatenate([X, space.sample(_DRAWN, rng)])
        _, first = np.unique(floats(space, X) if floating else X, axis=0, return_index=True)
        if len(first) >= samples:
            break
    X = X[np.sort(first)][:samples]
    return floats(space, X) if floating else X


def fit_predictor(
    space: str | SearchSpace,
    *,
    weights: PathLike | Supernet,
    data: PathLike | tuple[str, PathLike] | Data,
    out: PathLike,
    samples: int = 300,
    images: int = 2000,
    seed: int = 0,
    floating: int = 0,
    tuning: int = 0,
    how: Quantization | None = None,
    rounds: int = 1,
    executor: Executor | Callable[[], Executor] | None = None,
    progress: bool = True,
) -> Predictor:
    """Evaluate sub-networks of a supernet and fit an accuracy predictor to them.

    The evaluations are kept beside ``out``: in ``predictor.scores.npz`` and ``predictor.floating.npz`` for a ``predictor.npz`` (see
    :func:`score_networks`, which also says how a killed call continues).

    Args:
        space: the space, or its name.
        weights: the supernet or its file.
        data: the images (:func:`load_data`).
        out: the npz file of the predictor.
        samples: how many networks to evaluate at their precisions; at least 10.
        images: how many validation images at most.
        seed: of the networks and of the fit.
        floating: how many to evaluate in floating point besides, for a predictor upon which that of quantised networks is fitted. They are
            cheaper, and those at their precisions can be fewer (APQ, CVPR'20, section 3.3).
        tuning: steps of quantisation-aware fine-tuning that each network at its precisions gets first.
        how: how they are quantised, as for :func:`score_networks`; ``Quantization().on(table.device)`` for the device that is searched for.
        rounds: after the first of so many rounds, each asks for the networks that the predictor so far is least sure of
            (:meth:`hwsearch.Predictor.choose`); with one, all are random.
        executor: as for :func:`score_networks`.
        progress: show a bar with the time left.

    Returns:
        The predictor; its ``report`` says how well it did on networks that it was not fitted on.

    Raises:
        InvalidInput, CorruptFile, NewerVersion, WrongSpace, WorkersLost: as :func:`score_networks` and
            :meth:`hwsearch.scores.Predictor.fit` do.
    """
    space, seed = load_space(space), check_seed(seed)
    if rounds < 1 or -(-samples // rounds) < LEAST or 0 != floating < LEAST:
        raise InvalidInput(
            f"Each of {rounds} rounds needs {LEAST} of the {samples} samples or more, and a base {LEAST} networks in floating point or "
            f"more (0 for none), not {floating}."
        )
    opened = load_data(data)
    options: dict[str, Any] = {"weights": weights, "data": data if executor else opened, "images": images}
    options |= {"executor": executor, "progress": progress}
    base = None
    if floating:
        X, y = score_samples(space, out=Path(out).with_suffix(".floating.npz"), samples=floating, seed=seed, floating=True, **options)
        base = Predictor.fit(space, X, y, seed=seed)
    X, y = sampled(space, -(-samples // rounds), seed), np.empty(0)
    for number in range(1, rounds + 1):
        y = score_networks(space, X, out=Path(out).with_suffix(".scores.npz"), tuning=tuning, how=how, **options)
        predictor = Predictor.fit(space, X, y, seed=seed, base=base)
        if number < rounds:
            known = {bytes(row) for row in X}
            pool = np.array([row for row in sampled(space, _POOL, seed + number) if bytes(row) not in known])
            if not len(pool):
                break
            wanted = -(-samples * (number + 1) // rounds) - len(X)
            X = np.concatenate([X, pool[predictor.choose(pool, wanted, X)]])
    predictor = replace(predictor, data=opened.label, weight_bits=(how or _USUAL).weight_bits)
    predictor.save(out)
    return predictor


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
