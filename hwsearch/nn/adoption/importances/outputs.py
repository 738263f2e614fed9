"""Importance as the first-order change of outputs."""

from __future__ import annotations

from .._evidence import Evidence, Scores
from . import fisher


def score(evidence: Evidence) -> Scores:
    """Expected squared change of the network's outputs when a unit is removed, to first order; needs no labels.

    It is the Fisher information for a random projection of all outputs, drawn anew for each image. Unlike a loss, outputs do not go flat
    on images that the network was trained on.
    """
    return fisher.score(evidence.of_outputs())
