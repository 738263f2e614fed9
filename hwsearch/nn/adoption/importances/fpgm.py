"""Importance as the distance from other units."""

from __future__ import annotations

import torch

from .._evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """Sum of distances to the weights of all other units (He et al., Filter pruning via geometric median, 2019)."""
    return evidence.score_weights(lambda rows: torch.cdist(rows, rows).sum(1))
