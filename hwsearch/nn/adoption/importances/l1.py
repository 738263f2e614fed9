"""Importance as the magnitude of weights."""

from __future__ import annotations

from .._evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """Sum of magnitudes of the weights that make a unit (Li et al., Pruning filters for efficient convnets, 2017)."""
    return evidence.score_weights(lambda rows: rows.abs().sum(1))
