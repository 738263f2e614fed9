"""Importance as the Fisher information."""

from __future__ import annotations

from .._evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """Half the squared derivatives, summed over images: the diagonal of the Fisher information (Liu et al., Group Fisher pruning, 2021)."""
    return evidence.score_derivatives(lambda each: each.square() / 2)
