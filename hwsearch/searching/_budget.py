"""A budget of evaluations: searches whose score takes minutes or hours.

Networks are priced before they are scored, and those within the limits wait in the state until a worker is free. Each is scored alone and
kept as soon as it is known, so that a search that was killed repeats only what it was in the middle of. An algorithm is asked for more
when nothing waits, and is told before that what has become known since.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import replace
from typing import Any

import numpy as np

from .._types import Rows, Values
from ..algorithms._problem import numbers
from ..algorithms.base import Algorithm
from ..errors import EvaluationsFailed, WorkersLost
from ..scores._executor import ScoreOnWorkers
from ..spaces._keys import contains, row_keys
from ._state import SearchState, is_done

_TRIED = 8
"""If the score fails for all of the first networks, these many, it is the score that is broken."""


def spend(state: SearchState, evaluations: int, steps: float, kept: Callable[[SearchState], None]) -> SearchState:
    """Go on until the score was computed a number of times, or nothing is left to be evaluated.

    Args:
        state: where to begin; what waits in it is evaluated first.
        evaluations: how often the score may be computed in all, with what the state has spent already.
        steps: how often the algorithm may be asked in all.
        kept: is called with the state after each evaluation.

    Returns:
        The last state.

    Raises:
        EvaluationsFailed: the score failed for all of the first networks.
        WorkersLost: workers died again and again.
    """
    score = state.problem.score
    workers = score if isinstance(score, ScoreOnWorkers) else ScoreOnWorkers(score, _Here())
    flying: dict[Future[Any], Rows] = {}
    barren, lost = 0, 0
    try:
        while True:
            while len(flying) < workers.workers and state.evaluations + len(flying) < evaluations:
                if len(flying) < len(state.waiting):
                    row = _grounded(state.waiting, flying)
                    flying[workers.submit(row[None])] = row
                elif _may_ask(state, steps, idle=not flying) and barren < state.chooser.steps:
                    state = proposed(state)
                    barren = 0 if len(state.waiting) > len(flying) else barren + 1
                else:
                    break
            if not flying:
                return state
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                row = flying.pop(future)
                if workers.is_lost(future):
                    lost = _mourned(lost + 1, workers)
                    continue
                state, lost = answered(state, row, *_outcome(future)), 0
                _check_score_works(state, future)
                kept(state)
    finally:
        for future in flying:
            future.cancel()


def proposed(state: SearchState) -> SearchState:
    """The state after telling the algorithm what is new and asking it for rows, those within the limits waiting to be evaluated."""
    state = informed(state)
    problem = state.problem
    taken = np.sort(np.concatenate([state.seen, row_keys(state.waiting)]))
    asked, memory = state.chooser.ask(state.memory, replace(problem, seen=taken), np.random.default_rng([state.seed, state.step]))
    X = problem.space.canonical(asked)
    keys, first = np.unique(row_keys(X), return_index=True)
    X = X[np.sort(first[~contains(taken, keys)])]
    met = (problem.costs(X) <= 1.0).all(axis=1)
    state = replace(state, step=state.step + 1, memory=memory, waiting=np.concatenate([state.waiting, X[met]]))
    return _with_rows(
        replace(state, history=np.concatenate([state.history, np.zeros((1, 3))])), X[~met], np.full(int((~met).sum()), np.nan)
    )


def answered(state: SearchState, row: Rows, score: float, failure: str = "") -> SearchState:
    """The state that knows the score of a row that waited, shape ``(genes,)``; a NaN has failed, for the reason given."""
    left = state.waiting[(state.waiting != row).any(axis=1)]
    return _with_rows(replace(state, waiting=left, failure=failure or state.failure), row[None], np.array([score]))


def informed(state: SearchState) -> SearchState:
    """The state whose algorithm has been told about every row."""
    new = slice(state.told, None)
    if not len(state.X[new]):
        return state
    memory = state.chooser.tell(state.memory, state.X[new], state.scores[new], state.costs[new])
    return replace(state, memory=memory, told=len(state.X))


def settled(state: SearchState) -> SearchState:
    """The state in which nothing waits, and whose algorithm knows everything: where a search without a budget can go on."""
    while len(state.waiting):
        row = state.waiting[0]
        scores, _ = state.problem.evaluate(row[None])
        state = answered(state, row, float(scores[0]))
    return informed(state)


def _with_rows(state: SearchState, X: Rows, scores: Values) -> SearchState:
    """The state with rows more, the last line of its history brought up to date."""
    keys = row_keys(X)
    order = np.argsort(keys)
    every = np.concatenate([state.scores, scores])
    known = every[~np.isnan(every)]
    history = state.history.copy()
    history[-1] = len(every), len(known), known.max() if len(known) else np.nan
    return replace(
        state,
        X=np.concatenate([state.X, X]),
        scores=every,
        costs=np.concatenate([state.costs, state.problem.costs(X)]),
        seen=np.insert(state.seen, np.searchsorted(state.seen, keys[order]), keys[order]),
        history=history,
    )


def _may_ask(state: SearchState, steps: float, *, idle: bool) -> bool:
    """Whether the algorithm can be asked for more now."""
    ready = idle or takes_late_answers(state.chooser)
    left = len(state.X) + len(state.waiting) < state.problem.space.size
    return ready and left and state.step < steps and not is_done(informed(state))


def takes_late_answers(algorithm: Algorithm) -> bool:
    """Whether an algorithm can be asked for more before it knows everything that it asked for."""
    return bool(getattr(algorithm, "takes_late_answers", False))


def _grounded(waiting: Rows, flying: dict[Future[Any], Rows]) -> Rows:
    """The first row that waits and is not being evaluated, shape ``(genes,)``."""
    keys = row_keys(waiting)
    taken = np.sort(row_keys(np.array(list(flying.values()), dtype=np.uint8).reshape(-1, waiting.shape[1])))
    row: Rows = waiting[int(np.argmin(contains(taken, keys)))]
    return row


def _outcome(future: Future[Any]) -> tuple[float, str]:
    """The score of an evaluation; or NaN, and what went wrong."""
    try:
        found = numbers(future.result())
    except Exception as error:
        return np.nan, f"{type(error).__name__}: {error}"
    if found.shape != (1,) or not np.isfinite(found).all():
        return np.nan, f"the score was {found.tolist()}, where one finite number was expected"
    return float(found[0]), ""


def _mourned(lost: int, workers: ScoreOnWorkers) -> int:
    """How many evaluations in a row were lost with their workers.

    Raises:
        WorkersLost: too many for it to be bad luck.
    """
    if lost >= workers.tries * workers.workers:
        raise WorkersLost(
            f"Workers died again and again: {lost} evaluations in a row were lost. Look at their memory. What was evaluated before is in "
            "the state file, if there is one; the same call goes on from there."
        )
    return lost


def _check_score_works(state: SearchState, future: Future[Any]) -> None:
    """Give up a search whose score never worked.

    Raises:
        EvaluationsFailed: it failed for all of the first networks.
    """
    if state.evaluations == _TRIED and state.failed.sum() == _TRIED:
        raise EvaluationsFailed(f"All of the first {_TRIED} evaluations failed; the last: {state.failure}") from future.exception()


class _Here(Executor):
    """Computes at once, in the thread that submits."""

    _max_workers = 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The finished future of a call."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
