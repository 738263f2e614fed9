"""Importance as what a bias cannot stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .._evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """Variance over images and positions of what is read of a unit, summed over its readers: what does not vary, a bias can stand for."""
    flow = evidence.adopted.analysis.flow
    sums: dict[tuple[str, str, int], torch.Tensor] = {}
    places: dict[tuple[str, str, int], np.ndarray[Any, Any]] = {}
    for _, reads in evidence.of_outputs().reads():
        for read in reads:
            key = (read.reader, read.node, read.dim)
            rows = read.value.double().movedim(read.dim, 0).flatten(1)
            places[key] = read.units
            sums[key] = sums.get(key, torch.zeros(())) + torch.stack(
                [torch.full((len(rows),), rows.shape[1]), rows.sum(1), rows.square().sum(1)]
            )
    total = np.zeros(len(flow.atoms))
    for key, (n, first, second) in sums.items():
        np.add.at(total, places[key], (second / n - (first / n).square()).clamp_min(0).numpy())
    return {group.id: total[group.units] for group in evidence.groups}
