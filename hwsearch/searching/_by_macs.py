"""What a search finds that counts multiply-accumulates in the place of measuring, brought down to the same latency."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import numpy as np

from ..algorithms._problem import Posing, Problem
from ..algorithms.base import Algorithm
from ..errors import Infeasible, InvalidInput
from ..spaces._space import Architecture, SearchSpace
from ._cheapest import named
from ._search import search

_SEARCHES = 10
"""Limits on multiply-accumulates that are tried."""


def by_macs(
    problem: Problem | str | SearchSpace, algorithm: str | Algorithm | None = None, *, seed: int = 0, **posing: Unpack[Posing]
) -> Architecture:
    """The best network by a limit on multiply-accumulates alone that keeps the limits on latency: what people do without a table.

    The limit on multiply-accumulates is halved between networks that are too slow and networks that are fast enough, ten searches in
    all, which know nothing of latency; limits on other metrics hold in each.

    Example:
        >>> import hwsearch
        >>> from hwsearch.profiling import Effort
        >>> narrow = hwsearch.load_space("resnet_digits").restrict({"resolution": [8], "precision": ["int8"]})
        >>> few = Effort(max_rounds=1, checks=12, fits=12)
        >>> table = hwsearch.profile(narrow, backend="roofline", out="narrow.json", effort=few, progress=False)
        >>> problem = hwsearch.Problem.of(narrow, predictor=lambda X: X.sum(axis=1), device=table, limits={"latency_ms": 0.03})
        >>> bool(hwsearch.metric("latency_ms", narrow, table)(hwsearch.searching.by_macs(problem).genes[None])[0] <= 0.03)
        True

    Args:
        problem: as in :func:`hwsearch.search`, with a limit on a latency.
        algorithm, seed: of each of the searches.

    Raises:
        InvalidInput: there is no limit on a latency.
        Infeasible: no network that was found so keeps the limits.
    """
    posed = Problem.of(problem, **posing)
    measured = [limit for limit in posed.limits if limit.metric.name.startswith("latency_ms")]
    if not measured:
        raise InvalidInput("Networks found by counting are compared at a latency, and none is limited. Name limits={'latency_ms': ...}.")
    others = tuple(limit for limit in posed.limits if limit not in measured and limit.metric.name != "macs")
    counting = replace(posed, limits=others, shared={})
    macs = named(posed, "macs")
    whole = np.array([allowed[-1] for allowed in posed.space.allowed], dtype=np.uint8)
    low, high = 0.0, float(macs(whole[None])[0])
    best: tuple[float, Architecture] | None = None
    for _ in range(_SEARCHES):
        middle = (low + high) / 2
        try:
            found = search(counting.within({"macs": middle}), algorithm, seed=seed)
        except Infeasible:
            low = middle
            continue
        if all(limit.ratio(limit.metric(found.best.genes[None]))[0] <= 1 for limit in measured):
            low = middle
            if best is None or found.best_score > best[0]:
                best = found.best_score, found.best
        else:
            high = middle
    if best is None:
        raise Infeasible(f"No network that was found by counting keeps {' and '.join(map(str, measured))}. Raise the limit.")
    return best[1]
