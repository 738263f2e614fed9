"""Accuracy predictor: from a row of genes to the accuracy of its network, in plain numpy.

A predictor reads the one-hot encoding of the active genes, precisions among them (Once-for-All, ICLR'20, section 3.3; APQ, CVPR'20).
It is stored as npz with the fingerprint of its space, and refuses rows of another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files._writing import PathLike, write_arrays
from .._types import Features, Flags, Values
from ..errors import InvalidInput, check_seed
from ..spaces._space import SearchSpace
from ..spaces._tables import Table, TableSum
from ._calibration import Calibration, coverage
from ._fitting import Judged, Scaled, best_kind, fit_scaled, judged
from ._models import MODELS, Model
from ._perceptrons import Perceptrons
from ._process import GaussianProcess
from ._report import Report, pairwise_accuracy
from ._transfer import sources
from ._warp import Warp

FORMAT = "hwsearch-predictor"
VERSION = 3
"""Files of version 1 hold no warp, and Gaussian processes of version 2 a single smooth function."""
KINDS = tuple(MODELS)
"""Kinds of predictor: a linear model with perceptrons on top, a linear model alone, gradient-boosted trees, and a Gaussian process.

Example:
    >>> from hwsearch.scores import KINDS
    >>> KINDS
    ('mlp', 'linear', 'trees', 'gp')
"""

LEAST = 10
"""A predictor is fitted to this number of networks or more."""
_CHUNK = 1024
"""Rows predicted at once: what a layer makes of them stays in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """A fitted accuracy predictor.

    Example:
        >>> import hwsearch, numpy as np
        >>> space = hwsearch.load_space("resnet_digits")
        >>> X = space.sample(60, np.random.default_rng(0))
        >>> predictor = hwsearch.Predictor.fit(space, X, 0.9 + X.mean(axis=1) / 100, kind="linear")
        >>> least, most = predictor.interval(X)  # where the true scores of nine networks in ten lie
        >>> bool((least <= predictor(X)).all() and (predictor(X) <= most).all())
        True

    Attributes:
        space: the space that it was fitted for, whose one-hot features it reads.
        model: from features to standardised scores.
        mean, scale: undo the standardisation: score = mean + scale x what the model says.
        report: quality on held-out networks; ``None`` if it was not measured.
        seen: which values of genes the networks that it was fitted on had, shape ``(features,)``; ``None`` if that is not known.
        data: name and fingerprint of the images that the scores were found on; ``None`` if that is not known.
        weight_bits: the most bits that quantised weights had when the scores were found, 8 or what a device without exact products of 8
            bits carries; ``None`` if that is not known.
        warp: undoes the ranking of scores that the model was fitted to; ``None`` if they were not ranked.
        calibration: how far predictions are off; ``None`` if it was not measured.
    """

    space: SearchSpace
    model: Model = field(repr=False)
    mean: float
    scale: float
    report: Report | None = None
    seen: Flags | None = field(default=None, repr=False)
    data: str | None = None
    weight_bits: int | None = None
    warp: Warp | None = field(default=None, repr=False)
    calibration: Calibration | None = field(default=None, repr=False)

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
        rows = self.space.check(X)
        parts = [self._standard(self.space.features(rows[start : start + _CHUNK])) for start in range(0, len(rows), _CHUNK)]
        return self._scaled.back(np.concatenate([*parts, np.empty(0)]))

    def std(self, X: npt.ArrayLike) -> Values:
        """Standard deviation of the prediction of each row, in units of the score, shape ``(n,)``.

        That over the ensemble, or that of the Gaussian process; 0 for a single model, which cannot tell.
        """
        return self._each(X)[1]

    def interval(self, X: npt.ArrayLike, confidence: float = 0.9) -> tuple[Values, Values]:
        """The least and the most that the score of each row is likely to be, each of shape ``(n,)``.

        Args:
            X: rows, shape ``(n, genes)``.
            confidence: the share of networks like those that the predictor was fitted on whose scores lie between.

        Raises:
            InvalidInput: a confidence outside (0, 1), or a predictor whose errors are not known.
        """
        if not 0 < confidence < 1:
            raise InvalidInput(f"confidence must be between 0 and 1, not {confidence}.")
        if self.calibration is None:
            raise InvalidInput("It is not known how far this predictor is off. Predictors that Predictor.fit() returns know it.")
        mean, std = self._outputs(X)
        reach = self.calibration.reach(std, confidence)
        return self._scaled.back(mean - reach), self._scaled.back(mean + reach)

    def gradient(self, X: npt.ArrayLike) -> Features | None:
        """How the score of each row changes with each feature, to first order, shape ``(n, features)``.

        ``None`` if the model has no gradient: trees.
        """
        rows = self.space.check(X)
        if not isinstance(self.model, Perceptrons | GaussianProcess):
            return None
        found = np.empty((len(rows), sum(self.space.sizes)), dtype=np.float32)
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            features = self.space.features(rows[part])
            found[part] = self.model.gradient(features)
            if self.warp is not None:
                found[part] *= self.warp.slope(self._standard(features) * self.scale + self.mean)[:, None]
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

        Example:
            >>> import hwsearch, numpy as np
            >>> space, rng = hwsearch.load_space("resnet_digits"), np.random.default_rng(0)
            >>> known, pool = space.sample(60, rng), space.sample(500, rng)
            >>> predictor = hwsearch.Predictor.fit(space, known, known.mean(axis=1), kind="gp")
            >>> len(set(predictor.choose(pool, 10, known)))  # to be evaluated next, for a better predictor
            10

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

    @property
    def _scaled(self) -> Scaled:
        return Scaled(self.model, self.mean, self.scale, self.warp)

    def _standard(self, features: Features) -> Values:
        """What the model says of features, standardised, shape ``(n,)``."""
        return self.model.mean(features) if isinstance(self.model, GaussianProcess) else self.model.each(features).mean(axis=0)

    def _each(self, X: npt.ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation of the scores."""
        mean, deviation = self._outputs(X)
        back = self._scaled.back
        if self.warp is None:
            return back(mean), deviation * self.scale
        return back(mean), (back(mean + deviation) - back(mean - deviation)) / 2

    def _outputs(self, X: npt.ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation over the members, standardised."""
        rows = self.space.check(X)
        mean, deviation = np.empty(len(rows)), np.empty(len(rows))
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            outputs = self.model.each(self.space.features(rows[part]))
            mean[part] = outputs.mean(axis=0)
            deviation[part] = outputs.std(axis=0)
        return mean, deviation

    @property
    def tables(self) -> TableSum | None:
        """The tables whose sum a linear predictor is, so that its optimum can be proven; ``None`` with an ensemble on top."""
        if not isinstance(self.model, Perceptrons) or self.model.members or self.warp is not None:
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
        return Report(
            held_out=len(truth),
            fitted=fitted,
            kendall_tau=float(kendalltau(truth, guess).statistic),
            pairwise_accuracy=pairwise_accuracy(truth, guess),
            rmse=float(np.sqrt(np.mean((truth - guess) ** 2))),
        )

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        kind: str | None = None,
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
            kind: one of :data:`KINDS`; if omitted, what orders most unseen networks, or ``"mlp"`` with precisions, a base or options.
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
        seed = check_seed(seed)
        choice, known = "", None
        if kind is None and not options and base is None:
            kind, choice, known = best_kind(space, space.features(rows), target, seed)
        kind = kind or "mlp"
        if kind == "gp" and known is None:
            known = judged(kind, space, space.features(rows), target, seed)
        if base is not None:
            options["base"] = _base_model(base, space, kind)
        order = np.random.default_rng(seed).permutation(len(rows))
        held, kept = np.split(order, [max(2, round(len(rows) * holdout))])
        trial = _fitted(space, rows[kept], target[kept], kind, seed, options)
        report, errors, std = _judgement(trial, rows[held], target[held], known)
        upon = 0 if base is None or base.report is None else base.report.fitted + base.report.held_out
        found = _fitted(space, rows[order], target[order], kind, seed, options)
        report = replace(report, fitted=len(kept), choice=choice, base=upon)
        return replace(found, report=report, calibration=Calibration.of(errors, std))

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
        if self.warp is not None:
            arrays |= {"warp.normal": self.warp.normal, "warp.scores": self.warp.scores}
        if self.calibration is not None:
            header["floor"] = self.calibration.floor
            arrays["errors"] = self.calibration.errors
        write_arrays(path, header, arrays)
        return Path(path)


def _fitted(space: SearchSpace, rows: npt.NDArray[np.uint8], y: Values, kind: str, seed: int, options: dict[str, Any]) -> Predictor:
    """A predictor without a report."""
    features = space.features(rows)
    found = fit_scaled(kind, space, features, y, seed, options)
    return Predictor(space, found.model, found.mean, found.scale, seen=np.asarray(features.any(axis=0)), warp=found.warp)


def _judgement(trial: Predictor, rows: npt.NDArray[np.uint8], y: Values, known: Judged | None) -> tuple[Report, Values, Values]:
    """How well a predictor does on networks that were held out; and errors of predictions, with their standard deviations, standardised."""
    report = trial.score(rows, y)
    errors, std, _ = trial._scaled.errors(trial.space.features(rows), y)
    if known is not None:
        errors, std = known.errors, known.std
        report = replace(report, coverage=coverage(errors, std, known.fold))
    return report, errors, std


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
