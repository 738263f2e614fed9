"""Accuracy predictor: from a row of genes to the accuracy of its network, in plain numpy.

The model reads the one-hot encoding of the active genes, precisions among them (Once-for-All, ICLR'20, section 3.3; APQ,
CVPR'20): a linear model plus the mean of an ensemble of small perceptrons fitted to what the linear model leaves. It is stored
as npz with the fingerprint of its space, and refuses rows of another one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ._store import PathLike, read_arrays, write_arrays
from .errors import CorruptFile, InvalidInput, WrongSpace, require
from .space import Rows, SearchSpace

Values = npt.NDArray[np.float64]
Layers = tuple[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]], ...]

FORMAT = "hwsearch-predictor"
VERSION = 1


@dataclass(frozen=True)
class Report:
    """How well a predictor did on networks that it was not fitted on.

    Attributes:
        held_out: number of those networks.
        fitted: number of networks it was fitted on for this report.
        kendall_tau: rank correlation, 1 is perfect.
        pairwise_accuracy: share of pairs of networks that it orders rightly.
        rmse: root mean square error, in units of the score (accuracy: 0.01 is one point).
    """

    held_out: int
    fitted: int
    kendall_tau: float
    pairwise_accuracy: float
    rmse: float

    def __str__(self) -> str:
        return (
            f"Kendall tau {self.kendall_tau:.3f}, pairwise accuracy {self.pairwise_accuracy:.1%}, RMSE {self.rmse:.4f} "
            f"on {self.held_out} held-out networks (fitted on {self.fitted})"
        )


@dataclass(frozen=True, eq=False)
class Predictor:
    """A fitted accuracy predictor.

    Attributes:
        space: the space that it was fitted for, whose one-hot features it reads.
        linear: weights of the features and, last, the intercept, shape ``(features + 1,)``.
        members: a stack of layers ``(weight (in, out), bias (out,))`` with ReLUs between, for each member of the ensemble; perhaps none.
        mean, scale: undo the standardisation of the target.
        report: quality on held-out networks; ``None`` where it was not measured.
    """

    space: SearchSpace
    linear: npt.NDArray[np.float32] = field(repr=False)
    members: tuple[Layers, ...] = field(repr=False)
    mean: float
    scale: float
    report: Report | None = None

    @property
    def fingerprint(self) -> str:
        """Of the space that it was fitted for."""
        return self.space.fingerprint

    def __repr__(self) -> str:
        return f"<Predictor for {self.space.name!r}: {self.report or 'quality unknown'}>"

    def __call__(self, X: npt.ArrayLike) -> Values:
        """Predicted scores of the rows ``X`` (shape ``(n, genes)``), shape ``(n,)``."""
        result: Values = self.each(X).mean(axis=0)
        return result

    def each(self, X: npt.ArrayLike) -> Values:
        """The prediction with each member of the ensemble alone, shape ``(members, n)``; their spread is a measure of doubt."""
        features = self.space.features(self.space.canonical(self.space.check(X)))
        base = features @ self.linear[:-1] + self.linear[-1]
        outputs = np.repeat(base[None].astype(np.float64), max(1, len(self.members)), axis=0)
        for output, layers in zip(outputs, self.members, strict=False):
            hidden = features
            for depth, (weight, bias) in enumerate(layers):
                hidden = hidden @ weight + bias
                if depth < len(layers) - 1:
                    np.maximum(hidden, 0.0, out=hidden)
            output += hidden[:, 0]
        return outputs * self.scale + self.mean

    def score(self, X: npt.ArrayLike, y: npt.ArrayLike, fitted: int = 0) -> Report:
        """Compare with known scores.

        Args:
            X: rows, shape ``(n, genes)``.
            y: their scores, shape ``(n,)``.
            fitted: on how many other networks it was fitted, for the report.
        """
        from scipy.stats import kendalltau

        truth = np.asarray(y, dtype=np.float64)
        guess = self(X)
        upper = np.triu_indices(len(truth), 1)
        real = np.sign(truth[upper[0]] - truth[upper[1]])
        same = real == np.sign(guess[upper[0]] - guess[upper[1]])
        told = real != 0
        return Report(
            held_out=len(truth),
            fitted=fitted,
            kendall_tau=float(kendalltau(truth, guess).statistic),
            pairwise_accuracy=float(same[told].mean()) if told.any() else float("nan"),
            rmse=float(np.sqrt(np.mean((truth - guess) ** 2))),
        )

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        seed: int = 0,
        hidden: Sequence[int] = (64, 64),
        members: int = 5,
        holdout: float = 0.2,
    ) -> Predictor:
        """Fit a predictor.

        The quality is measured first: fitted without a random share of the rows, then scored on it. The predictor that is returned is
        fitted on all rows.

        Args:
            space: whose rows ``X`` holds.
            X: networks, shape ``(n, genes)``, at least 10.
            y: their scores, shape ``(n,)``, finite.
            seed: of the split and the ensemble.
            hidden: widths of the hidden layers; none gives a linear model.
            members: of the ensemble.
            holdout: share of the rows that the report is made on.

        Raises:
            InvalidInput: wrong shapes, too few rows, scores that are not finite, or a holdout outside (0, 1).
            MissingDependency: scikit-learn is not installed.
        """
        rows = space.canonical(space.check(X))
        target = np.asarray(y, dtype=np.float64)
        if target.shape != (len(rows),):
            raise InvalidInput(f"y must have the shape ({len(rows)},), one score a row of X, not {target.shape}.")
        if len(rows) < 10:
            raise InvalidInput(f"A predictor needs at least 10 networks to fit and judge, and {len(rows)} were given.")
        if not np.isfinite(target).all():
            raise InvalidInput(f"y holds {int((~np.isfinite(target)).sum())} scores that are not finite.")
        if not 0 < holdout < 1:
            raise InvalidInput(f"holdout must be between 0 and 1, not {holdout}.")
        order = np.random.default_rng(seed).permutation(len(rows))
        cut = max(2, round(len(rows) * holdout))
        held, kept = order[:cut], order[cut:]

        def fitted(some: npt.NDArray[np.intp], report: Report | None) -> Predictor:
            mean, scale = float(target[some].mean()), float(target[some].std()) or 1.0
            return cls(space, *_fit(space, rows[some], (target[some] - mean) / scale, seed, hidden, members), mean, scale, report)

        trial = fitted(kept, None)
        return fitted(order, trial.score(rows[held], target[held], fitted=len(kept)))

    def save(self, path: PathLike) -> Path:
        """Write the predictor as npz, whole or not at all."""
        arrays: dict[str, npt.NDArray[Any]] = {"linear": self.linear}
        for number, layers in enumerate(self.members):
            for depth, (weight, bias) in enumerate(layers):
                arrays[f"member{number}.weight{depth}"] = weight
                arrays[f"member{number}.bias{depth}"] = bias
        header = {
            "format": FORMAT,
            "version": VERSION,
            "space": self.space.name,
            "fingerprint": self.fingerprint,
            "layers": [len(layers) for layers in self.members],
            "mean": self.mean,
            "scale": self.scale,
            "report": self.report,
        }
        write_arrays(path, header, arrays)
        return Path(path)


def load_predictor(path: PathLike, space: SearchSpace | None = None) -> Predictor:
    """Read a predictor.

    Args:
        path: an npz file written by :meth:`Predictor.save`.
        space: the space it must belong to; found by its name where left out.

    Raises:
        FileError: the file cannot be read.
        CorruptFile, NewerVersion: it is not a predictor that this hwsearch can read.
        WrongSpace: it belongs to another space.
    """
    header, arrays = read_arrays(path, "predictor", format=FORMAT, version=VERSION)
    if space is None:
        from .spaces import load_space

        space = load_space(str(header.get("space")))
    if header.get("fingerprint") != space.fingerprint:
        raise WrongSpace(
            f"{path} predicts for space {header.get('space')!r} ({header.get('fingerprint')}), not for {space.name!r} "
            f"({space.fingerprint}). Fit one for this space with: hwsearch fit-predictor"
        )
    try:
        linear = arrays["linear"]
        members = tuple(
            tuple((arrays[f"member{number}.weight{d}"], arrays[f"member{number}.bias{d}"]) for d in range(depth))
            for number, depth in enumerate(header["layers"])
        )
        report = msgspec.convert(header["report"], Report | None)
        mean, scale = float(header["mean"]), float(header["scale"])
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise CorruptFile(f"{path}: its header and its arrays do not fit together: {error}.") from error
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise CorruptFile(f"{path} holds weights that are not finite.")
    features = sum(space.sizes)
    for layers in (((linear[:-1, None], linear[-1:]),), *members):
        width = features
        for weight, bias in layers:
            if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                raise CorruptFile(f"{path}: a layer has the shape {weight.shape}, where {width} inputs were expected.")
            width = weight.shape[1]
    return Predictor(space, linear, members, mean, scale, report)


def _steps(space: SearchSpace) -> npt.NDArray[np.float32]:
    """The matrix that turns a gene's one-hot encoding into steps: ``features @ steps`` is 1 at each value up to the chosen one.

    Choices are ordered (wider, deeper), so a step's weight is what going one value up brings; it is learned from far fewer networks than a
    weight for every value. The matrix is folded into the first layer, so a stored predictor reads the plain one-hot encoding.
    """
    total = sum(space.sizes)
    matrix = np.zeros((total, total), dtype=np.float32)
    start = 0
    for size in space.sizes:
        matrix[start : start + size, start : start + size] = np.tri(size, dtype=np.float32)
        start += size
    return matrix


def _fit(
    space: SearchSpace, X: Rows, y: Values, seed: int, hidden: Sequence[int], members: int
) -> tuple[npt.NDArray[np.float32], tuple[Layers, ...]]:
    """A ridge regression of standardised scores, and perceptrons fitted to what it leaves; all read one-hot features."""
    linear_model = require("sklearn.linear_model", feature="Fitting a predictor", extra="torch")
    neural_network = require("sklearn.neural_network", feature="Fitting a predictor", extra="torch")
    steps = _steps(space)
    features = (space.features(X) @ steps).astype(np.float64)
    ridge = linear_model.RidgeCV(np.logspace(-2, 3, 16)).fit(features, y)
    linear = np.concatenate([steps @ ridge.coef_, [ridge.intercept_]]).astype(np.float32)
    rest = y - ridge.predict(features)
    unit = float(rest.std()) or 1.0
    stacks = []
    for index in range(members if hidden else 0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stopping at max_iter is the regularisation, not a failure
            model = neural_network.MLPRegressor(
                hidden_layer_sizes=tuple(hidden), alpha=1.0, solver="lbfgs", max_iter=300, random_state=seed + index
            ).fit(features, rest / unit)
        weights = [weight.astype(np.float32) for weight in model.coefs_]
        biases = [bias.astype(np.float32) for bias in model.intercepts_]
        weights[0] = steps @ weights[0]
        weights[-1], biases[-1] = weights[-1] * np.float32(unit), biases[-1] * np.float32(unit)
        stacks.append(tuple(zip(weights, biases, strict=True)))
    return linear, tuple(stacks)
