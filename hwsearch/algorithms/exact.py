"""Exact: the proven optimum of a score that is a sum of tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .._types import Rows, Values
from ..errors import InvalidInput
from ._additive import additive
from ._milp import Program

if TYPE_CHECKING:
    from ._problem import Problem


@dataclass(frozen=True)
class ExactState:
    """The state of an exact search.

    Attributes:
        bound: no row within the limits has a higher score.
        slack: a score that is no further below the bound counts as optimal.
        step: steps taken.
    """

    bound: float = float("inf")
    slack: float = 0.0
    step: int = 0


@dataclass(frozen=True)
class Exact:
    """The best row within the limits and the proof that there is no better one, in a single step.

    The score must be a sum of tables: a :class:`~hwsearch.costs.Metric` (importance, or ``-metric("sensitivity", space)``), a linear
    :class:`~hwsearch.Predictor`, or any callable with an attribute ``tables``. Genes are folded away as far as that makes the problem
    smaller, and what is left is solved as a mixed integer program.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import Exact
        >>> space = hwsearch.load_space("resnet_digits")
        >>> weights = hwsearch.metric("params", space)  # the most weights within a million multiply-accumulates
        >>> result = hwsearch.search(space, Exact(), predictor=weights, limits={"macs": 1e6})
        >>> result.status.name, result.gap
        ('OPTIMAL', 0.0)

    Attributes:
        gap: how far, as a fraction of the range of scores, the answer may be from the bound.
        seconds: when to stop with the best row so far; the bound holds all the same.
    """

    name: ClassVar[str] = "exact"
    gap: float = 1e-6
    seconds: float = 120.0

    @property
    def steps(self) -> int:
        """One step is enough."""
        return 1

    def init(self, problem: Problem) -> ExactState:
        """The state before the step.

        Raises:
            InvalidInput: the score is no sum of tables.
        """
        if additive(problem.score, problem.space) is None:
            raise InvalidInput(
                "The algorithm 'exact' needs a score that is a sum of tables: a metric, a linear predictor, or a callable with an "
                f"attribute 'tables'; {problem.score!r} is none. The algorithm 'hybrid' takes any score."
            )
        return ExactState()

    def ask(self, state: ExactState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, ExactState]:
        """The optimum.

        Raises:
            Infeasible: proven; no row of the space meets the limits.
        """
        budgets = np.array([limit.at_most for limit in problem.limits if not limit.metric.peak])
        program = compiled(problem)
        found = program.solve(budgets, gap=self.gap, seconds=self.seconds)
        rows = problem.seeds if found.row is None else found.row[None]
        return rows, replace(state, bound=found.bound, slack=program.slack(self.gap))

    def tell(self, state: ExactState, X: Rows, scores: Values, costs: Values) -> ExactState:
        """Only counts the step."""
        return replace(state, step=state.step + 1)

    def done(self, state: ExactState) -> bool:
        """After the first step."""
        return state.step > 0


def compiled(problem: Problem) -> Program:
    """The problem as a program; problems that differ in nothing but how tight the limits on sums are share the work."""
    parts = (problem.space, problem.score, *(limit.metric for limit in problem.limits))
    peaks = tuple(limit.at_most for limit in problem.limits if limit.metric.peak)
    key = ("program", *map(id, parts), *peaks)
    if key not in problem.shared:
        tables = additive(problem.score, problem.space)
        assert tables is not None  # checked by init
        problem.shared[key] = (Program.compile(problem.space, tables, problem.limits), parts)  # which keeps these ids from being reused
    program: Program = problem.shared[key][0]
    return program
