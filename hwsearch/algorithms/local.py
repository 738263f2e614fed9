"""Local: the exhaustive neighbourhoods of the best rows; what finishes every other algorithm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..spaces._space import SearchSpace

if TYPE_CHECKING:
    from ._problem import Problem


@dataclass(frozen=True)
class LocalState:
    """The rows that local search stands on.

    Attributes:
        X: the best feasible rows met, best first, shape ``(k, genes)``.
        scores: of them, shape ``(k,)``.
        searched: whether a row's neighbourhood was evaluated, shape ``(k,)``.
        step: steps taken.
    """

    X: Rows
    scores: Values
    searched: npt.NDArray[np.bool_]
    step: int = 0


@dataclass(frozen=True)
class Local:
    """Hill climbing from several rows at once, over every change of one gene or two.

    Each step evaluates the whole neighbourhood of the best row whose neighbourhood is not known yet. When all of the best rows'
    are, the best one is optimal within any two genes.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import Local
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> result = hwsearch.search(problem, Local(starts=2, samples=100, steps=10))
        >>> result.history[-1]["best_score"] > result.history[0]["best_score"]
        True

    Attributes:
        starts: rows to stand on.
        samples: random rows to begin with if nothing is known.
        pairs: the most two-gene changes of one step; a random part of them if there are more.
        steps: the most steps of a search.
    """

    name: ClassVar[str] = "local"
    starts: int = 4
    samples: int = 1024
    pairs: int = 8192
    steps: int = 200

    def init(self, problem: Problem) -> LocalState:
        """The state before the first step, standing nowhere."""
        empty = np.empty((0, len(problem.space.choices)), dtype=np.uint8)
        return LocalState(empty, np.empty(0), np.empty(0, dtype=np.bool_))

    def stand(self, state: LocalState, X: Rows, scores: Values) -> LocalState:
        """Go on from the best of what it stood on and of rows evaluated elsewhere (NaN scores: infeasible)."""
        known = ~np.isnan(scores)
        pool, values = np.concatenate([state.X, X[known]]), np.concatenate([state.scores, scores[known]])
        searched = np.concatenate([state.searched, np.zeros(int(known.sum()), dtype=np.bool_)])
        order = np.argsort(-values, kind="stable")[: self.starts]
        return replace(state, X=pool[order], scores=values[order], searched=searched[order])

    def ask(self, state: LocalState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, LocalState]:
        """The neighbourhood of the best row that was not searched yet; seeds and random rows at first."""
        waiting = np.flatnonzero(~state.searched)
        if not len(waiting):
            return np.concatenate([problem.seeds, problem.space.sample(self.samples, rng)]), state
        row = state.X[waiting[0]]
        searched = state.searched.copy()
        searched[waiting[0]] = True
        near = np.concatenate([problem.space.neighbours(row), two_changes(problem.space, row, self.pairs, rng)])
        return near, replace(state, searched=searched)

    def tell(self, state: LocalState, X: Rows, scores: Values, costs: Values) -> LocalState:
        """Stand on the best rows."""
        return replace(self.stand(state, X, scores), step=state.step + 1)

    def done(self, state: LocalState) -> bool:
        """Whether the neighbourhoods of all rows it stands on are known."""
        return len(state.X) > 0 and bool(state.searched.all())


def two_changes(space: SearchSpace, row: Rows, most: int, rng: np.random.Generator) -> Rows:
    """Rows that differ from ``row`` (shape ``(genes,)``) in two genes, counting those that the first change makes active.

    Args:
        space: whose row it is.
        row: a canonical row.
        most: the most rows; a random choice of them if there are more.
        rng: for that choice.

    Returns:
        Canonical rows, shape ``(m, genes)``; some may repeat or differ in fewer genes.
    """
    row = space.awake(row[None])[0]
    changes = np.array([(gene, value) for gene, allowed in enumerate(space.allowed) for value in allowed if value != row[gene]])
    if len(changes) < 2:
        return np.empty((0, len(row)), dtype=np.uint8)
    first, second = np.triu_indices(len(changes), 1)
    apart = changes[first, 0] != changes[second, 0]
    first, second = first[apart], second[apart]
    if len(first) > most:
        some = np.sort(rng.choice(len(first), size=most, replace=False))
        first, second = first[some], second[some]
    X = np.repeat(row[None], len(first), axis=0)
    every = np.arange(len(X))
    for index in (first, second):
        X[every, changes[index, 0]] = changes[index, 1]
    return space.canonical(X)
