"""ThiNet (Luo, Wu and Lin, ICCV'17): channels go one after the other, those first whose sum changes the next layer least."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._evidence import Evidence, Scores
from .._responses import responses
from .reconstruction import convex


def score(evidence: Evidence) -> Scores:
    """Mean square of what the removed units added together to the layers that read them, greedily the least; needs images, no labels.

    A unit's score is what its removal adds to that when all with less have gone; made to rise, so that units go in that order.
    """
    return {group: _greedy(moments) for group, moments in responses(evidence).items()}


def _greedy(moments: Any) -> Any:
    width = len(moments)
    added, left = np.zeros(width), np.ones(width, dtype=bool)
    order, costs = [], []
    for _ in range(width):
        cost = np.where(left, 2 * added + moments.diagonal(), np.inf)
        unit = int(np.argmin(cost))
        order.append(unit)
        costs.append(float(cost[unit]))
        left[unit] = False
        added += moments[unit]
    scores = np.zeros(width)
    scores[order] = convex(costs)
    return scores
