"""Importance as the first-order change of the loss."""

from __future__ import annotations

import torch

from .._evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """First-order change of the loss when a unit is removed, as magnitudes, summed over images (Molchanov et al., 2017)."""
    return evidence.score_derivatives(torch.abs)
