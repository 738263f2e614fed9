"""Accuracy predictor: from a row of genes to the accuracy of its network, in plain numpy.

A predictor reads the one-hot encoding of the active genes, precisions among them (Once-for-All, ICLR'20, section 3.3; APQ, CVPR'20).
It is stored as npz with the fingerprint of its space, and refuses rows of another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .._files._reading import guarded, read_arrays
from .._files._writing import PathLike, write_arrays
from .._types import Features, Flags, Values
from ..errors import CorruptFile, InvalidInput, UnknownName, WrongSpace, check_seed
from ..spaces._space import SearchSpace
from ..spaces._tables import Table, TableSum
from ._models import MODELS, Model, fit_model
from ._perceptrons import Perceptrons
from ._transfer import sources

FORMAT = "hwsearch-predictor"
VERSION = 1
KINDS = tuple(MODELS)
"""Kinds of predictor: a linear model with perceptrons on top, a linear model alone, gradient-boosted trees, and a Gaussian process."""

LEAST = 10
"""A predictor is fitted to this number of networks or more."""
_CHUNK = 1024
"""Rows predicted at once: what a layer makes of them stays in the processor's cache."""


@dataclass(frozen=True)
class Report:
    """How well a predictor did on networks that it was not fitted on.

    Attributes:
        held_out: number of those networks.
        fitted: number of networks it was fitted on for this report.
        kendall_tau: rank correlation, 1 is perfect.
        pairwise_accuracy: share of pairs of networks that it orders correctly.
        rmse: root mean square error, in units of the score (accuracy: 0.01 is one point).
        base: number of networks that its base was fitted on; 0 without one.
    """

    held_out: int
    fitted: int
    kendall_tau: float
    pairwise_accuracy: float
    rmse: float
    base: int = 0

    def __str__(self) -> str:
        base = f", upon a base of {self.base}" if self.base else ""
        return (
            f"Kendall tau {self.kendall_tau:.3f}, pairwise accuracy {self.pairwise_accuracy:.1%}, RMSE {self.rmse:.4f} "
            f"on {self.held_out} held-out networks (fitted on {self.fitted}{base})"
        )


@dataclass(frozen=True, eq=False)
class Predictor:
    """A fitted accuracy predictor.

    Attributes:
        space: the space that it was fitted for, whose one-hot features it reads.
        model: from features to standardised scores.
        mean, scale: undo the standardisation: score = mean + scale x what the model says.
        report: quality on held-out networks; ``None`` if it was not measured.
        seen: which values of genes the networks that it was fitted on had, shape ``(features,)``; ``None`` if that is not known.
        data: name and fingerprint of the images that the scores were found on; ``None`` if that is not known.
        weight_bits: the most bits that quantised weights had when the scores were found, 8 or what a device without exact products of 8
            bits carries; ``None`` if that is not known.
    """

    space: SearchSpace
    model: Model = field(repr=False)
    mean: float
    scale: float
    report: Report | None = None
    seen: Flags | None = field(default=None, repr=False)
    data: str | None = None
    weight_bits: int | None = None

    @property
    def chunk(self) -> int:
        """Rows that it predicts at once; to give it a multiple of these leaves the last bits of its predictions alone."""
        return _CHUNK

    @property
    def fingerprint(self) -> str:
        """Of the space that it was fitted for."""
        return self.space.fingerprint

    def __repr__(self) -> str:
        return f"<Predictor ({self.model.kind}) for {self.space.name!r}: {self.report or 'quality unknown'}>"

    def __call__(self, X: npt.ArrayLike) -> Values:
        """Predicted scores of the rows ``X`` (shape ``(n, genes)``), shape ``(n,)``."""
        return self._each(X)[0]

    def std(self, X: npt.ArrayLike) -> Values:
        """Standard deviation of the prediction of each row, in units of the score, shape ``(n,)``.

        That over the ensemble, or that of the Gaussian process; 0 for a single model, which cannot tell.
        """
        return self._each(X)[1]

    def gradient(self, X: npt.ArrayLike) -> Features | None:
        """How the score of each row changes with each feature, to first order, shape ``(n, features)``.

        ``None`` if the model has no gradient: trees and Gaussian processes.
        """
        rows = self.space.check(X)
        if not isinstance(self.model, Perceptrons):
            return None
        found = np.empty((len(rows), sum(self.space.sizes)), dtype=np.float32)
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            found[part] = self.model.gradient(self.space.features(rows[part]))
        found *= np.float32(self.scale)
        return found

    def extrapolates(self, X: npt.ArrayLike) -> Flags:
        """Which rows hold a value of a gene that no network it was fitted on had, shape ``(n,)``."""
        features = self.space.features(self.space.check(X))
        if self.seen is None:
            return np.zeros(len(features), dtype=np.bool_)
        return np.asarray((features[:, ~self.seen] > 0).any(axis=1))

    def choose(self, X: npt.ArrayLike, count: int, known: npt.ArrayLike | None = None) -> npt.NDArray[np.intp]:
        """Which networks to score next: those that it is least sure of, and that differ most from what is known and from each other.

        One after the other, the network of the greatest product of standard deviation and distance to the nearest known or chosen one
        (a k-centre choice, Sener and Savarese, ICLR'18, weighed by the disagreement of the ensemble).

        Args:
            X: the networks to choose from, shape ``(n, genes)``.
            count: how many.
            known: networks whose scores are known, shape ``(m, genes)``.

        Returns:
            Indices into ``X``, shape ``(min(count, n),)``.

        Raises:
            InvalidInput: rows that do not fit the space.
        """
        rows = self.space.check(X)
        features = self.space.features(rows)
        std = self.std(rows)
        if not std.any():
            std = np.ones(len(rows))
        seen = features[:0] if known is None else self.space.features(self.space.check(known, "known"))
        gap = np.full(len(rows), 2.0 * len(self.space.choices))  # more differences than there can be
        chosen: list[int] = []
        for network in seen:
            gap = np.minimum(gap, np.abs(features - network).sum(axis=1))
        for _ in range(min(count, len(rows))):
            value = std * gap
            value[chosen] = -1.0
            chosen.append(int(value.argmax()))
            gap = np.minimum(gap, np.abs(features - features[chosen[-1]]).sum(axis=1))
        return np.array(chosen, dtype=np.intp)

    def _each(self, X: npt.ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation over the members."""
        rows = self.space.check(X)
        mean, deviation = np.empty(len(rows)), np.empty(len(rows))
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            outputs = self.model.each(self.space.features(rows[part]))
            mean[part] = outputs.mean(axis=0)
            deviation[part] = outputs.std(axis=0)
        return mean * self.scale + self.mean, deviation * self.scale

    @property
    def tables(self) -> TableSum | None:
        """The tables whose sum a linear predictor is, so that its optimum can be proven; ``None`` with an ensemble on top."""
        if not isinstance(self.model, Perceptrons) or self.model.members:
            return None
        weights = self.scale * self.model.linear.astype(np.float64)
        offsets = np.cumsum([0, *self.space.sizes])
        made: list[Table] = [((), np.asarray(self.mean + weights[-1]))]
        for gene, size in enumerate(self.space.sizes):
            line = weights[offsets[gene] : offsets[gene] + size]
            genes = self.space.with_needs([gene])
            cells = np.zeros((math.prod(self.space.sizes[other] for other in genes), len(self.space.sizes)), dtype=np.uint8)
            cells[:, genes] = self.space.cells(genes)
            values = np.where(self.space.active(cells)[:, gene], line[cells[:, gene]], 0.0)
            made.append((genes, values.reshape([self.space.sizes[other] for other in genes])))
        return TableSum(tuple(made))

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
        kind: str = "mlp",
        seed: int = 0,
        holdout: float = 0.2,
        base: Predictor | None = None,
        **options: Any,
    ) -> Predictor:
        """Fit a predictor, perhaps upon another one.

        Its quality is measured on a random share of the rows, held out; the predictor that is returned is fitted on all of them. A base
        fitted on many networks in floating point leaves little more to learn from quantised ones than what their precisions cost
        (APQ, CVPR'20, section 3.3).

        Args:
            space: whose rows ``X`` holds.
            X: networks, shape ``(n, genes)``, at least 10.
            y: their scores, shape ``(n,)``, finite.
            kind: one of :data:`KINDS`.
            seed: of the split and of the model.
            holdout: share of the rows that the report is made on.
            base: a predictor of kind ``"mlp"`` or ``"linear"`` of this space, or of one whose genes are all among this one's. If all
                networks that it was fitted on share a value of a gene, such as a precision, it takes no notice of that gene.
            **options: of the model: ``hidden`` and ``members`` of ``"mlp"``, ``members``, ``trees`` and ``depth`` of ``"trees"``.

        Raises:
            InvalidInput: wrong shapes, too few rows, scores that are not finite, a holdout outside (0, 1), or a base that does not fit.
            UnknownName: no such kind.
            MissingDependency: scikit-learn is not installed.

        Example:
            >>> import hwsearch, numpy as np
            >>> space = hwsearch.load_space("resnet_digits")
            >>> X = space.sample(60, np.random.default_rng(0))
            >>> predictor = hwsearch.Predictor.fit(space, X, X.mean(axis=1), kind="linear")
            >>> predictor(X).shape, predictor.report.held_out
            ((60,), 12)
        """
        rows, target = _networks(space, X, y, holdout)
        features, seed = space.features(rows), check_seed(seed)
        order = np.random.default_rng(seed).permutation(len(rows))
        cut = max(2, round(len(rows) * holdout))
        held, kept = order[:cut], order[cut:]
        if base is not None:
            options["base"] = _base_model(base, space, kind)

        def fitted(some: npt.NDArray[np.intp], report: Report | None) -> Predictor:
            mean, scale = float(target[some].mean()), float(target[some].std()) or 1.0
            standard = (target[some] - mean) / scale
            model = fit_model(kind, space, features[some], standard, seed, **options)
            return cls(space, model, mean, scale, report, np.asarray(features[some].any(axis=0)))

        report = fitted(kept, None).score(rows[held], target[held], fitted=len(kept))
        if base is not None and base.report is not None:
            report = replace(report, base=base.report.fitted + base.report.held_out)
        return fitted(order, report)

    def save(self, path: PathLike) -> Path:
        """Write the predictor as npz, whole or not at all."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "space": self.space.name,
            "fingerprint": self.fingerprint,
            "kind": self.model.kind,
            "mean": self.mean,
            "scale": self.scale,
            "report": self.report,
            "data": self.data,
            "weight_bits": self.weight_bits,
        }
        arrays = {f"model.{name}": array for name, array in self.model.arrays().items()}
        arrays |= {f"learned.{name}": array for name, array in self.space.learned.items()}
        if self.seen is not None:
            arrays["seen"] = self.seen
        write_arrays(path, header, arrays)
        return Path(path)


def _base_model(base: Predictor, space: SearchSpace, kind: str) -> Perceptrons:
    """The model of a predictor, for the features of a space.

    Raises:
        InvalidInput: predictors of that kind cannot be fitted upon it, or it has genes that the space lacks.
    """
    if not isinstance(base.model, Perceptrons) or kind not in ("mlp", "linear"):
        raise InvalidInput(f"Predictors of kind 'mlp' and 'linear' can be fitted upon each other, not {kind!r} upon {base!r}.")
    return base.model.reading(sources(base.space, base.seen, space))


def _networks(space: SearchSpace, X: npt.ArrayLike, y: npt.ArrayLike, holdout: float) -> tuple[npt.NDArray[np.uint8], Values]:
    """Canonical rows and their scores, checked, with the share of them that is held out.

    Raises:
        InvalidInput: wrong shapes, too few rows, scores that are not finite, or a share outside (0, 1).
    """
    rows = space.canonical(space.check(X))
    target = np.asarray(y, dtype=np.float64)
    if target.shape != (len(rows),):
        raise InvalidInput(f"y must have the shape ({len(rows)},), one score a row of X, not {target.shape}.")
    if len(rows) < LEAST:
        raise InvalidInput(f"A predictor needs at least {LEAST} networks to fit and judge, and {len(rows)} were given.")
    if not np.isfinite(target).all():
        raise InvalidInput(f"y holds {int((~np.isfinite(target)).sum())} scores that are not finite.")
    if not 0 < holdout < 1:
        raise InvalidInput(f"holdout must be between 0 and 1, not {holdout}.")
    return rows, target


def load_predictor(path: PathLike, space: SearchSpace | None = None) -> Predictor:
    """Read a predictor.

    Args:
        path: an npz file written by :meth:`Predictor.save`.
        space: the space it must belong to; if omitted, found by its name.

    Raises:
        FileError: the file cannot be read.
        CorruptFile, NewerVersion: it is not a predictor that this hwsearch can read.
        WrongSpace: it belongs to another space.

    Example:
        >>> import hwsearch, numpy as np
        >>> space = hwsearch.load_space("resnet_digits")
        >>> X = space.sample(60, np.random.default_rng(0))
        >>> path = hwsearch.Predictor.fit(space, X, X.mean(axis=1), kind="linear").save("predictor.npz")
        >>> hwsearch.load_predictor(path)(X).shape
        (60,)
    """
    header, arrays = read_arrays(path, "predictor", format=FORMAT, version=VERSION)
    if space is None:
        from ..spaces._load import space_of_file

        space = space_of_file(header.get("space"), path)
    if header.get("fingerprint") != space.fingerprint:
        raise WrongSpace(
            f"{path} predicts for space {header.get('space')!r} ({header.get('fingerprint')}), not for {space.name!r} "
            f"({space.fingerprint}). Fit one for this space with: hwsearch fit-predictor"
        )
    with guarded(path, "predictor"):
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise CorruptFile(f"{path} holds weights that are not finite.")
    features = sum(space.sizes)
    own, learned = (
        {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)} for prefix in ("model.", "learned.")
    )
    seen = arrays.get("seen")
    with guarded(path, "predictor: its header and its arrays do not fit together"):
        kind = str(header["kind"])
        if kind not in MODELS:
            raise UnknownName("kind of predictor", kind, MODELS)
        kept = header["report"]
        if isinstance(kept, dict):  # JSON has no NaN, which is what the quality among equal scores is
            kept = {name: float("nan") if value is None else value for name, value in kept.items()}
        report = msgspec.convert(kept, Report | None)
        mean, scale = float(header["mean"]), float(header["scale"])
        if not (np.isfinite(mean) and 0 < scale < np.inf):
            raise CorruptFile(f"its mean is {mean} and its scale is {scale}, but a finite number and a positive one were expected")
        if seen is not None and (seen.shape != (features,) or seen.dtype != np.bool_):
            raise CorruptFile(f"its list of values seen has the shape {seen.shape}, but {features} were expected")
        data, bits = msgspec.convert((header.get("data"), header.get("weight_bits")), tuple[str | None, int | None])
        predictor = Predictor(
            space.knowing(learned) if learned else space, MODELS[kind].read(own, features), mean, scale, report, seen, data, bits
        )
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            predictor.std(space.sample(8, np.random.default_rng(0)))  # weights that overflow show here
        return predictor
