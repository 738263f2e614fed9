"""LASSO (He, Zhang and Sun, Channel pruning for accelerating very deep neural networks, ICCV'17): the channels that reconstruct best."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ....errors import require
from .._evidence import Evidence, Scores
from .._responses import responses

_GRID = np.geomspace(1.0, 1e-4, 100)
"""Penalties along the path, relative to the one at which the last unit goes."""
_ROUNDS = 60
"""Bisections of the penalty, after which equal channels are told apart by their coefficients."""


def score(evidence: Evidence) -> Scores:
    """How a LASSO keeps units: each has a coefficient, by which the layers that read it are to give the same; needs images, no labels.

    Of a group whose number of units is given (:attr:`Evidence.widths`), the penalty is doubled until no more are left, and then bisected
    until that number is left. These score at least 1, all others less, which says nothing of one group beside another. Of other groups the
    score is the largest penalty at which a unit is still kept, as a share of the mean square of what its readers give: as much as is lost
    with a unit that adds what no other does, so that groups can be weighed against each other.
    """
    found = {}
    for group, moments in responses(evidence).items():
        number = None if evidence.widths is None else evidence.widths.get(group)
        found[group] = _along(moments) if number is None else _chosen(moments, number)
    return found


def _problem(moments: Any) -> tuple[Any, Any]:
    """A small problem of least squares that has these moments, whose solution without a penalty is 1 everywhere."""
    values, vectors = np.linalg.eigh((moments + moments.T) / 2)
    design = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return design, design @ np.ones(len(moments))


def _chosen(moments: Any, number: int) -> Any:
    """Scores above 1 of exactly so many units."""
    linear = require("sklearn.linear_model", feature="The importance 'lasso'", extra="torch")
    design, wanted = _problem(moments)
    solver = linear.Lasso(alpha=1.0, fit_intercept=False, warm_start=True, max_iter=2000)

    def coefficients(alpha: float) -> Any:
        solver.alpha = alpha
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a coefficient that is not quite there yet is told apart all the same
            solver.fit(design, wanted)
        return np.abs(solver.coef_)

    best = np.ones(len(moments))
    low, high = 0.0, 1e-6 * max(1e-30, float(np.abs(design.T @ wanted).max()) / len(moments))
    while (found := coefficients(high)).astype(bool).sum() > number:
        best, low, high = found, high, 2 * high
    for _ in range(_ROUNDS):
        if found.astype(bool).sum() == number:
            best = found
            break
        middle = (low + high) / 2
        found = coefficients(middle)
        if found.astype(bool).sum() >= number:
            best, low = found, middle
        else:
            high = middle
    size = best * np.sqrt(moments.diagonal()) + 1e-12 * np.sqrt(moments.diagonal())
    order = np.argsort(-size, kind="stable")
    scores = np.zeros(len(moments))
    scores[order] = np.linspace(0.9, 0.0, len(moments))
    scores[order[:number]] += 1.0
    return scores


def _along(moments: Any) -> Any:
    """The largest penalty at which each unit is kept, in units of the sum of the moments."""
    linear = require("sklearn.linear_model", feature="The importance 'lasso'", extra="torch")
    design, wanted = _problem(moments)
    most = max(1e-30, float(np.abs(design.T @ wanted).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alphas, found, _ = linear.lasso_path(design, wanted, alphas=most * _GRID / len(design))
    kept = np.where(found != 0, alphas * len(design), 0.0).max(axis=1)
    return kept + 1e-6 * most * np.sqrt(moments.diagonal()) / max(1e-30, float(np.sqrt(moments.diagonal()).max()))
