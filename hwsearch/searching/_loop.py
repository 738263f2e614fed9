"""Exploration: the steps of a search, and its result.

A :class:`SearchState` is everything a search has seen; :func:`init` makes the first one and :func:`step` takes one step, so
that a notebook can own the loop, and a saved state goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .._files._lock import claim
from .._progress import progress as progress_bar
from .._types import Values
from ..algorithms._pareto import hypervolume, nondominated
from ..algorithms._problem import Problem
from ..algorithms.base import Algorithm
from ..costs._limits import idle, together
from ..costs._metrics import values_of
from ..errors import EvaluationsFailed, Infeasible, check_count
from ..spaces._keys import contains, row_keys
from ._budget import settled, spend
from ._result import Front, SearchResult, Status
from ._run import ONCE, Run
from ._state import SearchState, finish, init, is_done, load_state, save_state

_MANY = 256
"""Points of a front in three dimensions whose volume is worth waiting for, after each step anew."""


def step(state: SearchState) -> SearchState:
    """Take one step of a search.

    The algorithm proposes rows; those that are new are checked against the limits, and scored if they meet them; the algorithm learns
    the answers.

    Args:
        state: of :func:`hwsearch.init`, or of the step before; it stays as it is.

    Returns:
        The state after the step.

    Example:
        >>> import hwsearch
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> state = hwsearch.step(hwsearch.init(problem, "random"))
        >>> state.step, len(state.X) > 0
        (1, True)
    """
    state = settled(state)
    problem, algorithm = state.problem, state.chooser
    rng = np.random.default_rng([state.seed, state.step])
    asked, memory = algorithm.ask(state.memory, replace(problem, seen=state.seen), rng)
    X = problem.space.canonical(asked)
    keys, first = np.unique(row_keys(X), return_index=True)
    new = ~contains(state.seen, keys)
    order = np.sort(first[new])
    X = X[order]
    scores, costs = problem.evaluate(X)
    seen = np.insert(state.seen, np.searchsorted(state.seen, keys[new]), keys[new])
    all_scores = np.concatenate([state.scores, scores])
    before = state.history[-1] if len(state.history) else (0, 0, np.nan)
    met = scores[~np.isnan(scores)]
    line = [len(all_scores), before[1] + len(met), np.fmax(before[2], met.max() if len(met) else np.nan)]
    return replace(
        state,
        step=state.step + 1,
        memory=algorithm.tell(memory, X, scores, costs),
        X=np.concatenate([state.X, X]),
        scores=all_scores,
        costs=np.concatenate([state.costs, costs]),
        seen=seen,
        history=np.concatenate([state.history, [line]]),
        told=len(all_scores),
        bound=min(state.bound, float(getattr(memory, "bound", np.inf))),
        surrogate_bound=float(getattr(memory, "surrogate_bound", state.surrogate_bound)),
        slack=float(getattr(memory, "slack", state.slack)),
    )


def explore(problem: Problem, algorithm: Algorithm, *, seed: int = 0, run: Run = ONCE) -> SearchState:
    """Take the steps of a search (arguments as of :func:`hwsearch.search`), and hand back all that it has seen.

    Example:
        >>> import hwsearch
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> some = hwsearch.algorithms.RandomSearch(population=50, steps=2)
        >>> state = hwsearch.searching.explore(problem, some, run=hwsearch.Run(polish=False))
        >>> state.X.shape, 0 < state.evaluations < 101  # the others exceed the limit, and have no score
        ((101, 21), True)
    """
    total = algorithm.steps if run.steps is None else run.steps
    check_count("steps", total, least=1)
    now = init(problem, algorithm, seed)
    with claim(run.state):
        if run.state is not None and os.path.exists(run.state):
            now = load_state(run.state, problem, algorithm, now.seed, costly=run.evaluations is not None)
        if run.evaluations is not None:
            return _spent(now, check_count("evaluations", run.evaluations, least=1), run)
        with progress_bar("searching", total, enabled=run.progress) as shown:
            shown(now.step)

            def go(until: float) -> None:
                nonlocal now
                while now.step < until and not is_done(now):
                    now = step(now)
                    if run.state is not None:
                        save_state(now, run.state)
                    shown(1)

            if not now.finishing:
                go(total)
                polish = run.steps is None if run.polish is None else run.polish
                if polish and not np.isnan(now.scores).all() and not _proven(now):
                    now = finish(now)
            if now.finishing:
                go(np.inf)
    return now


def narrowed(state: SearchState, problem: Problem) -> SearchState:
    """The state of a search as that of the same problem with tighter limits: rows that exceed them lose their scores."""
    costs = problem.costs(state.X)
    scores = np.where((costs <= 1.0).all(axis=1), state.scores, np.nan)
    known = np.cumsum([False, *~np.isnan(scores)])
    best = np.fmax.accumulate([np.nan, *scores])
    rows = state.history[:, 0].astype(np.intp)  # that were known after each step
    history = np.column_stack([state.history[:, 0], known[rows], best[rows]])
    return replace(state, problem=problem, scores=scores, costs=costs, history=history)


def _spent(state: SearchState, evaluations: int, run: Run) -> SearchState:
    """Go on within a budget of evaluations, which a state is kept after each of; a state of failures alone is begun anew."""
    if state.evaluations and state.failed.sum() == state.evaluations:
        state = init(state.problem, state.algorithm, state.seed)
    with progress_bar("evaluating", evaluations, enabled=run.progress) as shown:
        shown(state.evaluations)

        def kept(now: SearchState) -> None:
            if run.state is not None:
                save_state(now, run.state)
            shown(1)

        return spend(state, evaluations, np.inf if run.steps is None else run.steps, kept)


def solve(problem: Problem, algorithm: Algorithm, *, seed: int = 0, run: Run = ONCE) -> SearchResult:
    """Search a problem by an algorithm, and hand back the result (arguments as of :func:`hwsearch.search`).

    Example:
        >>> import hwsearch
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> some = hwsearch.algorithms.RandomSearch(population=50, steps=2)
        >>> hwsearch.searching.solve(problem, some).values["macs"] <= 1e6
        True
    """
    return result(explore(problem, algorithm, seed=seed, run=run))


def result(state: SearchState) -> SearchResult:
    """The result of a search at its present state.

    Raises:
        Infeasible: nothing that was evaluated meets the limits.
        EvaluationsFailed: networks within the limits were evaluated, and all of it failed.

    Example:
        >>> import hwsearch
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> state = hwsearch.step(hwsearch.init(problem, "random"))
        >>> hwsearch.result(state).values["macs"] <= 1e6
        True
    """
    problem, algorithm = state.problem, state.algorithm
    feasible, failed = np.flatnonzero(~np.isnan(state.scores)), int(state.failed.sum())
    if failed and not len(feasible):
        raise EvaluationsFailed(f"All of {failed} evaluations failed; the last: {state.failure}")
    if not len(feasible):
        raise Infeasible(_nothing(state))
    scores = state.scores[feasible]
    names = tuple(entry.name for entry in problem.metrics)
    wanted = getattr(algorithm, "metrics", ()) or tuple(dict.fromkeys(limit.metric.name for limit in problem.limits)) or names[:1]
    traded = [problem.metrics[names.index(name)] for name in wanted]
    points = np.column_stack([-scores, values_of(traded, state.X[feasible])])
    volumes = _volumes(points, np.searchsorted(feasible, state.history[:, 0]))
    kept = nondominated(points)
    best = int(kept[0])
    values = values_of(problem.metrics, state.X[feasible][kept])
    front = Front(problem.space, state.X[feasible][kept], scores[kept], dict(zip(names, values.T.copy(), strict=True)))
    exhausted = len(state.X) >= problem.space.size
    done = state.finishing or algorithm.done(state.memory)
    status = Status.EXHAUSTED if exhausted else Status.OPTIMAL if _proven(state) else Status.CONVERGED if done else Status.BUDGET_SPENT
    return SearchResult(
        best=front[0],
        best_score=float(front.scores[0]),
        values={name: float(column[0]) for name, column in front.values.items()},
        limits={limit.metric.name: limit.at_most for limit in problem.limits},
        status=status,
        front=front,
        history=tuple(
            {
                "step": number + 1,
                "evaluated": int(line[0]),
                "feasible": int(line[1]),
                "best_score": None if np.isnan(line[2]) else float(line[2]),
                "hypervolume": None if volumes is None else volumes[number],
            }
            for number, line in enumerate(state.history)
        ),
        seed=state.seed,
        provenance={"algorithm": repr(algorithm), **problem.sources},
        bound=state.bound if np.isfinite(state.bound) else None,
        surrogate_bound=state.surrogate_bound if np.isfinite(state.surrogate_bound) else None,
        cautions=(
            *problem.cautions(state.X[feasible][best], equals=int((scores == scores[best]).sum()) - 1),
            *([f"{failed} of {state.evaluations} evaluations failed; the last: {state.failure}"] if failed else []),
            *idle(problem.limits),
        ),
    )


def _volumes(points: Values, counts: npt.NDArray[np.intp]) -> list[float] | None:
    """The hypervolume after each step, from the worst corner of everything feasible; ``None`` where it would take long.

    Args:
        points: of the feasible rows in the order of evaluation, lower is better, shape ``(n, costs)``.
        counts: how many of them were known after each step.
    """
    if points.shape[1] > 3:
        return None
    worst = points.max(axis=0)
    volumes, front, before = [], points[:0], 0
    for count in counts:
        front = np.concatenate([front, points[before:count]])
        front, before = front[nondominated(front)], int(count)
        if points.shape[1] > 2 and len(front) > _MANY:
            return None
        volumes.append(hypervolume(front, worst))
    return volumes


def _proven(state: SearchState) -> bool:
    """Whether the best row reaches the bound that the algorithm has proven."""
    known = state.scores[~np.isnan(state.scores)]
    return len(known) > 0 and bool(state.bound - known.max() <= state.slack)


def _nothing(state: SearchState) -> str:
    problem = state.problem
    limits = together(problem.limits) or "no limits"
    if not len(state.X):
        return f"Nothing was evaluated under {limits}; take at least one step."
    worst = state.costs.max(axis=1)
    nearest = int(np.argmin(worst))
    values = values_of([limit.metric for limit in problem.limits], state.X[nearest : nearest + 1])[0]
    found = sorted(zip([limit.metric.name for limit in problem.limits], values.tolist(), strict=True))
    reached = ", ".join(f"{name} {value:.6g}" for name, value in dict(found).items())  # the largest of each name
    return (
        f"None of {len(state.X)} architectures tried meets {limits} (each can be met alone; together this is not proven impossible). "
        f"The nearest has {reached}, {worst[nearest] - 1:.1%} over. Raise a limit, or search with more steps."
    )
