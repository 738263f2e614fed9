"""Exploration: the steps of a search, and its result.

A :class:`SearchState` is everything a search has seen; :func:`start` makes the first one and :func:`advance` takes one step, so
that a notebook can own the loop, and a saved state goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .._files import _writing
from .._files._lock import claim
from .._progress import progress as progress_bar
from ..algorithms._pareto import hypervolume, nondominated
from ..algorithms._problem import Problem
from ..algorithms.base import Algorithm
from ..algorithms.local import Local
from ..costs._metrics import evaluate
from ..errors import Infeasible, check_count, check_seed
from ..spaces._space import contains, row_keys
from ._result import Front, SearchResult, Status
from ._state import SearchState, finish, load_state, save_state, start

Values = npt.NDArray[np.float64]


_MANY = 256
"""Points of a front in three dimensions whose volume is worth waiting for, after each step anew."""


def advance(problem: Problem, algorithm: Algorithm, state: SearchState) -> SearchState:
    """One step: ask -> canonical, unseen rows -> limits -> predictor -> tell."""
    rng = np.random.default_rng([state.seed, state.step])
    asked, own = algorithm.ask(state.algorithm, replace(problem, seen=state.seen), rng)
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
    return SearchState(
        seed=state.seed,
        step=state.step + 1,
        algorithm=algorithm.tell(own, X, scores, costs),
        X=np.concatenate([state.X, X]),
        scores=all_scores,
        costs=np.concatenate([state.costs, costs]),
        seen=seen,
        history=np.concatenate([state.history, [line]]),
        finishing=state.finishing,
        bound=min(state.bound, float(getattr(own, "bound", np.inf))),
        surrogate_bound=float(getattr(own, "surrogate_bound", state.surrogate_bound)),
        slack=float(getattr(own, "slack", state.slack)),
    )


def solve(
    posed: Problem,
    method: Algorithm,
    *,
    seed: int = 0,
    steps: int | None = None,
    polish: bool | None = None,
    state: _writing.PathLike | None = None,
    progress: bool = False,
    sources: Mapping[str, object] | None = None,
) -> SearchResult:
    """Search a problem that is posed already; everything else is as in :func:`hwsearch.search`."""
    now = explore(posed, method, seed=seed, steps=steps, polish=polish, state=state, progress=progress)
    return conclude(posed, method, now, **(sources or {}))


def explore(
    posed: Problem,
    method: Algorithm,
    *,
    seed: int = 0,
    steps: int | None = None,
    polish: bool | None = None,
    state: _writing.PathLike | None = None,
    progress: bool = False,
) -> SearchState:
    """Take the steps of a search (arguments as of :func:`hwsearch.search`), and hand back all that it has seen."""
    total = method.steps if steps is None else steps
    check_count("steps", total, least=1)
    seed = check_seed(seed)
    now = start(posed, method, seed)
    with claim(state):
        if state is not None and os.path.exists(state):
            now = load_state(state, posed, method, seed)
        with progress_bar("searching", total, enabled=progress) as shown:
            shown(now.step)

            def go(by: Algorithm, until: float) -> None:
                nonlocal now
                while now.step < until and not by.done(now.algorithm) and len(now.X) < posed.space.size:
                    now = advance(posed, by, now)
                    if state is not None:
                        save_state(now, state, posed, method)
                    shown(1)

            if not now.finishing:
                go(method, total)
                if (steps is None if polish is None else polish) and not np.isnan(now.scores).all() and not _proven(now):
                    now = finish(posed, now)
            if now.finishing:
                go(Local(), np.inf)
    return now


def conclude(problem: Problem, algorithm: Algorithm, state: SearchState, **sources: object) -> SearchResult:
    """The result of a search at its present state.

    Args:
        problem: what was searched.
        algorithm: by what.
        state: how far it got.
        **sources: where the parts came from, for the record; paths are kept as they were given.

    Raises:
        Infeasible: nothing that was evaluated meets the limits.
    """
    feasible = np.flatnonzero(~np.isnan(state.scores))
    if not len(feasible):
        raise Infeasible(_nothing(problem, state))
    scores = state.scores[feasible]
    names = tuple(entry.name for entry in problem.metrics)
    wanted = getattr(algorithm, "metrics", ()) or [limit.metric.name for limit in problem.limits] or names[:1]
    traded = [problem.metrics[names.index(name)] for name in wanted]
    points = np.column_stack([-scores, evaluate(traded, state.X[feasible])])
    volumes = _volumes(points, np.searchsorted(feasible, state.history[:, 0]))
    kept = nondominated(points)
    best = int(kept[0])
    values = evaluate(problem.metrics, state.X[feasible][kept])
    front = Front(problem.space, state.X[feasible][kept], scores[kept], dict(zip(names, values.T.copy(), strict=True)))
    exhausted = len(state.X) >= problem.space.size
    done = state.finishing or algorithm.done(state.algorithm)
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
                "step": step + 1,
                "evaluated": int(line[0]),
                "feasible": int(line[1]),
                "best_score": None if np.isnan(line[2]) else float(line[2]),
                "hypervolume": None if volumes is None else volumes[step],
            }
            for step, line in enumerate(state.history)
        ),
        seed=state.seed,
        provenance={"algorithm": repr(algorithm), **{name: _source(value) for name, value in sources.items()}},
        bound=state.bound if np.isfinite(state.bound) else None,
        surrogate_bound=state.surrogate_bound if np.isfinite(state.surrogate_bound) else None,
        cautions=problem.cautions(state.X[feasible][best], equals=int((scores == scores[best]).sum()) - 1),
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


def _nothing(problem: Problem, state: SearchState) -> str:
    together = " and ".join(map(str, problem.limits)) or "no limits"
    if not len(state.X):
        return f"Nothing was evaluated under {together}; take at least one step."
    worst = state.costs.max(axis=1)
    nearest = int(np.argmin(worst))
    values = evaluate([limit.metric for limit in problem.limits], state.X[nearest : nearest + 1])[0]
    reached = ", ".join(f"{limit.metric.name} {value:.6g}" for limit, value in zip(problem.limits, values, strict=True))
    return (
        f"None of {len(state.X)} architectures tried meets {together} (each can be met alone; together this is not proven impossible). "
        f"The nearest has {reached}, {worst[nearest] - 1:.1%} over. Raise a limit, or search with more steps."
    )


def _source(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, Path) else repr(value)
