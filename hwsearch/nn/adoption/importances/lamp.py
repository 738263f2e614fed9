"""Importance as the share of a unit in the weights that are left."""

from __future__ import annotations

import torch

from .._evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """Square of the weights of a unit, divided by those of all units that are no smaller (Lee et al., Layer-adaptive sparsity, 2021)."""
    return evidence.score_weights(_share)


def _share(rows: torch.Tensor) -> torch.Tensor:
    squares, order = rows.square().sum(1).sort()
    return (squares / squares.flip(0).cumsum(0).flip(0))[order.argsort()]
