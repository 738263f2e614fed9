"""Importance as the square of weights."""

from __future__ import annotations

from .._evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """Sum of squares of the weights that make a unit."""
    return evidence.score_weights(lambda rows: rows.square().sum(1))
