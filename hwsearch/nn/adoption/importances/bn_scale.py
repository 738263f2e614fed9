"""Importance as the scale of normalisations."""

from __future__ import annotations

import torch

from .._evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """Magnitudes of the scales of normalisations (Liu et al., Network slimming, 2017); 0 in groups without any."""
    found = {}
    for group in evidence.groups:
        scales = [rows.abs().sum(1) for name, rows in evidence.weights(group, group.follow) if name.endswith("weight")]
        found[group.id] = sum(scales, torch.zeros(group.width)).numpy()
    return found
