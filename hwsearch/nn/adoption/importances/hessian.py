"""Importance as the curvature of the loss."""

from __future__ import annotations

import torch

from .._evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """Half the diagonal of the Hessian of the loss by factors on units, at least 0 (LeCun et al., Optimal brain damage, 1990)."""
    found = evidence.curvatures(torch.Generator().manual_seed(0))
    return {name: each.clamp_min(0).numpy() / 2 for name, each in found.items()}
