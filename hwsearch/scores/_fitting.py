"""From scores of networks to a model of them: on which scale, and of which kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._types import Features, Values
from ..spaces._space import SearchSpace
from ._models import Model, fit_model
from ._process import GaussianProcess
from ._report import pairwise_accuracy
from ._transfer import rounding
from ._warp import Warp

_QUICK: dict[str, dict[str, Any]] = {"trees": {"members": 1, "trees": 120}, "mlp": {"members": 1}}
"""Options with which kinds are compared; those that they are fitted with at last are a little better."""
_MOST = 400
"""Kinds are compared on a random part of the networks if there are more."""
_FEW = 1500
"""If there are more networks, Gaussian processes are not compared: their work grows with the third power of the networks."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """A model of standardised scores, and what makes scores of them again.

    Attributes:
        model: from features to standardised scores.
        mean, scale: undo the standardisation.
        warp: undoes the ranking that came before, if there was one.
    """

    model: Model
    mean: float
    scale: float
    warp: Warp | None = None

    def errors(self, features: Features, y: Values) -> tuple[Values, Values, Values]:
        """True minus predicted values of networks and the predictions' standard deviations, both standardised; and predicted scores."""
        outputs = self.model.each(features)
        mean = outputs.mean(axis=0)
        truth = ((y if self.warp is None else self.warp.forth(y)) - self.mean) / self.scale
        return truth - mean, outputs.std(axis=0), self.back(mean)

    def back(self, values: Values) -> Values:
        """Scores of standardised values, shape as given."""
        values = values * self.scale + self.mean
        return values if self.warp is None else self.warp.back(values)


def fit_scaled(kind: str, space: SearchSpace, features: Features, y: Values, seed: int, options: dict[str, Any]) -> Scaled:
    """Fit a model to scores, shape ``(n,)``; a Gaussian process to their ranks if that orders more of them without having seen them."""
    plain = _fitted(kind, space, features, y, seed, options)
    if kind != "gp" or len(np.unique(y)) < 3:
        return plain
    ranked = _fitted(kind, space, features, y, seed, options, ranked=True)
    return max((plain, ranked), key=lambda each: _order_unseen(each, y))


def _fitted(
    kind: str, space: SearchSpace, features: Features, y: Values, seed: int, options: dict[str, Any], *, ranked: bool = False
) -> Scaled:
    warp, target = Warp.of(y) if ranked else (None, y)
    mean, scale = float(target.mean()), float(target.std()) or 1.0
    return Scaled(fit_model(kind, space, features, (target - mean) / scale, seed, **options), mean, scale, warp)


def _order_unseen(found: Scaled, y: Values) -> float:
    """The share of pairs that a Gaussian process orders correctly if each network is left out in turn."""
    model = found.model
    assert isinstance(model, GaussianProcess)
    target = y if found.warp is None else np.interp(y, found.warp.scores, found.warp.normal)
    return pairwise_accuracy(y, target - found.scale * model.left_out)


@dataclass(frozen=True, eq=False)
class Judged:
    """What models of a kind say of networks that they were fitted without.

    Attributes:
        right: share of pairs that they order correctly.
        errors: true minus predicted values, standardised, shape ``(k,)``.
        std: standard deviations of the predictions, standardised, shape ``(k,)``.
        fold: the fold that each network was left out with, shape ``(k,)``.
    """

    right: float
    errors: Values
    std: Values
    fold: npt.NDArray[np.intp]


def judged(kind: str, space: SearchSpace, features: Features, y: Values, seed: int, folds: int = 4) -> Judged:
    """Fit models of a kind, each without one fold of some of the networks, and see how well they do on it."""
    some = np.random.default_rng([seed, 1]).permutation(len(y))[:_MOST]
    fold = np.arange(len(some)) % folds
    guess, errors, std = np.empty(len(some)), np.empty(len(some)), np.empty(len(some))
    for number in range(folds):
        out, kept = some[fold == number], some[fold != number]
        found = fit_scaled(kind, space, features[kept], y[kept], seed, dict(_QUICK.get(kind, {})))
        here = fold == number
        errors[here], std[here], guess[here] = found.errors(features[out], y[out])
    return Judged(pairwise_accuracy(y[some], guess), errors, std, fold)


def compared(space: SearchSpace, networks: int) -> tuple[str, ...]:
    """The kinds that are compared for that many networks, the one first that is taken if they are equally good.

    Where precisions are chosen these are perceptrons alone, which know how precisions and widths act together
    (:func:`hwsearch.scores._transfer.interplay`).
    """
    if rounding(space) is not None:
        return ("mlp",)
    return ("gp", "trees") if networks <= _FEW else ("mlp", "trees")


def best_kind(space: SearchSpace, features: Features, y: Values, seed: int) -> tuple[str, str, Judged | None]:
    """The kind of model that orders most pairs of networks correctly, each network judged by models that were fitted without it.

    Returns:
        The kind, how it was chosen in words, and what its models say of networks that they were fitted without; nothing of the last two if
        there was no choice.
    """
    kinds = compared(space, len(y))
    if len(kinds) < 2:
        return kinds[0], "", None
    found = {kind: judged(kind, space, features, y, seed) for kind in kinds}
    best = max(found, key=lambda kind: np.nan_to_num(found[kind].right))
    shares = ", ".join(f"{kind} {each.right:.1%}" for kind, each in found.items())
    return best, f"{best} chosen by the pairs ordered in folds: {shares}", found[best]
