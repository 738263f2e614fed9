"""The protocol of search algorithms, and random search, its smallest honest implementation.

An algorithm holds hyper-parameters only. Its state is a frozen dataclass of arrays and numbers that is passed in and returned,
so that a search can be stopped, saved and taken up again at any step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from .._types import Rows, Values

if TYPE_CHECKING:
    from ._problem import Problem


class Algorithm(Protocol):
    """What the search loop asks of an algorithm.

    The loop makes rows canonical, drops those that were evaluated before, and tells the algorithm about the others, so an
    algorithm need not remember what it has seen; ``problem.seen`` tells. All randomness comes from the generator given to ``ask``. An
    algorithm with an attribute ``takes_late_answers`` that is true is asked for more while answers to what it asked before are missing,
    where workers would be idle otherwise; it is told about them later.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import RandomState
        >>> class Mine:  # the networks that are worth trying, step by step
        ...     steps = 3
        ...     def init(self, problem):
        ...         return RandomState()
        ...     def ask(self, state, problem, rng):
        ...         return problem.space.sample(100, rng), state
        ...     def tell(self, state, X, scores, costs):
        ...         return RandomState(state.step + 1)
        ...     def done(self, state):
        ...         return False
        >>> result = hwsearch.search("resnet_digits", Mine(), predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> result.values["macs"] <= 1e6
        True
    """

    @property
    def name(self) -> str:
        """The registered name."""

    @property
    def steps(self) -> int:
        """How many steps a search takes if no other number is given."""

    def init(self, problem: Problem) -> Any:
        """The first state.

        Args:
            problem: what is searched; its ``seeds`` are rows worth trying first.

        Returns:
            A frozen dataclass whose fields are arrays, numbers and strings. A field ``bound``, if there is one, is a score that no
            row within the limits beats, proven; it goes into the result. A field ``slack`` beside it says how far below the bound a
            score counts as optimal.
        """

    def ask(self, state: Any, problem: Problem, rng: np.random.Generator) -> tuple[Rows, Any]:
        """What to evaluate next.

        Returns:
            Rows within the allowed values of the problem's space, shape ``(n, genes)``, and the state to be told about them.
        """

    def tell(self, state: Any, X: Rows, scores: Values, costs: Values) -> Any:
        """The state after hearing about new rows.

        Args:
            state: the state that ``ask`` returned.
            X: those asked rows that had not been evaluated before, perhaps none, shape ``(n, genes)``.
            scores: higher is better; NaN if a limit is exceeded, shape ``(n,)``.
            costs: each limited metric as a fraction of its limit (feasible: all at most 1), shape ``(n, limits)``.

        Returns:
            The next state.
        """

    def done(self, state: Any) -> bool:
        """Whether the algorithm expects nothing from more steps."""


def mutation_rates(genes: int, n: int, rng: np.random.Generator) -> Values:
    """Chances of a gene to be redrawn, from one gene a row to a quarter of all, evenly in their logarithm, shape ``(n,)``."""
    return np.exp(rng.uniform(min(np.log(1.0 / genes), np.log(0.25)), np.log(0.25), size=n))


@dataclass(frozen=True)
class RandomState:
    """The state of random search: the steps taken.

    Example:
        >>> import hwsearch
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> hwsearch.step(hwsearch.init(problem, "random")).memory
        RandomState(step=1)
    """

    step: int = 0


@dataclass(frozen=True)
class RandomSearch:
    """Independent uniform samples of the genes: the baseline that every other algorithm has to beat.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import RandomSearch
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1))
        >>> result = hwsearch.search(problem, RandomSearch(population=100, steps=5), run=hwsearch.Run(polish=False))
        >>> [step["evaluated"] for step in result.history]
        [100, 200, 300, 400, 500]

    Attributes:
        population: rows a step.
        steps: steps of a search.
    """

    name: ClassVar[str] = "random"
    takes_late_answers: ClassVar[bool] = True
    population: int = 256
    steps: int = 100

    def init(self, problem: Problem) -> RandomState:
        """The state before the first step."""
        return RandomState()

    def ask(self, state: RandomState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, RandomState]:
        """Uniform samples; in the first step also the problem's seeds."""
        X = problem.space.sample(self.population, rng)
        return (X if state.step else np.concatenate([problem.seeds, X])), state

    def tell(self, state: RandomState, X: Rows, scores: Values, costs: Values) -> RandomState:
        """Only counts the step."""
        return replace(state, step=state.step + 1)

    def done(self, state: RandomState) -> bool:
        """Never: more samples may always be better."""
        return False
