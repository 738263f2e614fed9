"""The strategies of ``lineage.py``: each searches a problem, scoring at most a number of networks, and each by one seed.

Those that ask nothing but scores run as they are. ``memetic`` and ``exact`` ask for a score that they can read: the first half of the
scores goes to networks at random within the limits, a predictor is fitted to these (a Gaussian process; a linear model), and the other half
verifies what the search in the predictor found, in four rounds. ``staged`` decides one thing after the other: first all but bits, which
at their highest under limits that are as much higher as all bits at their highest make the largest network costlier than those in the
middle of their range; then the bits of the network found. Both stages are the strategy ``surrogate`` with half of the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import hwsearch
from hwsearch import Predictor, Verify, metric
from hwsearch.algorithms import NSGA2, Algorithm, Evolution, Exact, Hybrid, Memetic, OptunaSearch, Problem, Surrogate
from hwsearch.nn.reinforcement import AMC, HAQ
from hwsearch.searching import explore
from hwsearch.spaces import Rows

ROUNDS = 4
"""Rounds of verification."""

Way = Callable[[Problem, int, int], Any]
"""A strategy: (problem, scores, seed) -> nothing that counts, since the score remembers what it was asked."""


def ways() -> dict[str, Way]:
    """The strategies, by name. Agents begin with as large a share at random as their papers have."""
    return {
        "random": asking(lambda scores: Surrogate(founders=scores)),
        "amc": asking(lambda scores: AMC(warmup=max(1, scores // 8), steps=10 * scores)),
        "haq": asking(lambda scores: HAQ(warmup=max(1, scores // 30), steps=10 * scores)),
        "optuna": asking(lambda scores: OptunaSearch(population=max(1, scores // 10), steps=100)),
        "evolution": asking(lambda scores: Evolution(**_generations(scores))),
        "nsga2": asking(lambda scores: NSGA2(population=max(8, scores // 10), metrics=(), steps=10**6)),
        "hybrid": asking(lambda scores: Hybrid(**_generations(scores), refits=tuple(range(4, 10**3, 2)))),
        "surrogate": asking(lambda scores: Surrogate()),
        "memetic": predicting(Memetic(), "gp"),
        "exact": predicting(Exact(seconds=20.0), "linear"),
        "staged": staged,
    }


def _generations(scores: int) -> dict[str, Any]:
    """What evolution has of few scores: ten generations and more."""
    return {"population": max(8, scores // 10), "islands": 1, "parents": max(4, scores // 20), "alone": 1, "steps": 10**6}


def asking(made: Callable[[int], Algorithm]) -> Way:
    """A strategy that asks for scores of networks only."""

    def way(problem: Problem, scores: int, seed: int) -> None:
        hwsearch.search(problem, made(scores), seed=seed, run=hwsearch.Run(evaluations=scores, progress=False))

    return way


@dataclass
class Asked:
    """Verifies by the score itself."""

    problem: Problem
    name: str = "the score"

    def score(self, X: Rows) -> Any:
        """Scores, shape ``(n,)``."""
        return self.problem.score(X)

    def latency_ms(self, X: Rows) -> Any:
        """Is not verified."""
        raise NotImplementedError


def predicting(algorithm: Algorithm, kind: str) -> Way:
    """A strategy that searches a predictor, and verifies what it found."""

    def way(problem: Problem, scores: int, seed: int) -> None:
        some = scores // 2
        begun = explore(problem, Surrogate(founders=some), seed=seed, run=hwsearch.Run(evaluations=some, progress=False))
        known = ~np.isnan(begun.scores)
        predictor = Predictor.fit(problem.space, begun.X[known], begun.scores[known], kind=kind, seed=seed)
        verify = Verify(Asked(problem), networks=max(1, (scores - some) // ROUNDS), rounds=ROUNDS, tolerance={"score": 1e-9})
        hwsearch.search(problem.having(predictor), algorithm, seed=seed, verify=verify, run=hwsearch.Run(progress=False))

    return way


def staged(problem: Problem, scores: int, seed: int) -> None:
    """First all but bits, then bits."""
    space, table = problem.space, (problem.tables or (None,))[0]
    bits = [choice.name for choice in space.choices if "_bits" in choice.name]
    if not bits or len(bits) == len(space.choices):
        raise SystemExit("Stages are for spaces that have bits and something else.")
    names = dict.fromkeys(limit.metric.name for limit in problem.limits)
    highest = np.array([[allowed[-1] for allowed in space.allowed]], dtype=np.uint8)
    middle = highest.copy()
    for name in bits:
        allowed = space.allowed[space.position[name]]
        middle[0, space.position[name]] = allowed[(len(allowed) - 1) // 2]
    limits = {limit.metric.name: limit.at_most for limit in problem.limits}
    costs = {name: metric(name, space, table)(space.canonical(np.concatenate([highest, middle]))) for name in names}
    wide = {name: limits[name] * float(most / usual) for name, (most, usual) in costs.items()}
    whole = space.restrict({name: [space.choices[space.position[name]].values[-1]] for name in bits})
    first = Problem.of(whole, predictor=problem.score, device=table, limits=wide)
    run = hwsearch.Run(evaluations=scores // 2, progress=False)
    found = hwsearch.search(first, Surrogate(), seed=seed, run=run).best.values()
    kept = {choice.name: [found.get(choice.name, choice.values[-1])] for choice in space.choices if choice.name not in bits}
    second = Problem.of(space.restrict(kept), predictor=problem.score, device=table, limits=limits)
    hwsearch.search(second, Surrogate(), seed=seed, run=replace(run, evaluations=scores - scores // 2))
