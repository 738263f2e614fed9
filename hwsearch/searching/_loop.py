"""Exploration: the steps of a search, and its result.

A :class:`SearchState` is everything a search has seen; :func:`start` makes the first one and :func:`advance` takes one step, so
that a notebook can own the loop, and a saved state goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .._files import _reading, _writing
from .._files._lock import claim
from .._progress import progress as progress_bar
from ..algorithms._pareto import hypervolume, nondominated
from ..algorithms._problem import Problem
from ..algorithms.base import Algorithm
from ..algorithms.local import Local
from ..costs._metrics import evaluate
from ..errors import Infeasible, InvalidInput, WrongSpace, check_count, check_seed
from ..spaces._space import Rows, contains, row_keys
from ._result import Front, SearchResult, Status
from ._states import check_state

Values = npt.NDArray[np.float64]

FORMAT = "hwsearch-search"
VERSION = 1


@dataclass(frozen=True, eq=False)
class SearchState:
    """Everything that a search has seen.

    Attributes:
        seed: of the search; step ``t`` draws from a generator seeded by ``(seed, t)``.
        step: steps taken.
        algorithm: the state of the algorithm, or of the local search that finishes its work.
        finishing: whether it is the latter.
        bound: a score that no architecture within the limits beats, as far as the algorithm has proven one; infinite otherwise.
        surrogate_bound: the same of the algorithm's surrogate of the score.
        slack: a score that is no further below the bound counts as optimal.
        X: every row evaluated, shape ``(m, genes)``.
        scores: NaN where a limit is exceeded, shape ``(m,)``.
        costs: limited metrics as fractions of their limits, shape ``(m, limits)``.
        seen: hashes of the rows, sorted, shape ``(m,)``.
        history: for each step the rows evaluated so far, those of them that met the limits, and the best score, shape ``(step, 3)``.
    """

    seed: int
    step: int
    algorithm: Any
    X: Rows
    scores: Values
    costs: Values
    seen: npt.NDArray[np.uint64]
    history: Values
    finishing: bool = False
    bound: float = np.inf
    surrogate_bound: float = np.inf
    slack: float = 0.0


_PROBED = 8
"""Networks that are scored again when a search goes on, to see that the score is still the same."""
_MANY = 256
"""Points of a front in three dimensions whose volume is worth waiting for, after each step anew."""
_KEPT = ("step", "X", "scores", "costs", "seen", "history", "finishing", "bound", "surrogate_bound", "slack")
"""What a state file holds besides the algorithm's own state."""


def start(problem: Problem, algorithm: Algorithm, seed: int = 0) -> SearchState:
    """The state before the first step."""
    return SearchState(
        seed=check_seed(seed),
        step=0,
        algorithm=algorithm.init(problem),
        X=np.empty((0, len(problem.space.choices)), dtype=np.uint8),
        scores=np.empty(0),
        costs=np.empty((0, len(problem.limits))),
        seen=np.empty(0, dtype=np.uint64),
        history=np.empty((0, 3)),
    )


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


def finish(problem: Problem, state: SearchState) -> SearchState:
    """Hand the best rows to :class:`~hwsearch.algorithms.local.Local`, with which :func:`advance` is to go on from here."""
    local = Local()
    return replace(state, algorithm=local.stand(local.init(problem), state.X, state.scores), finishing=True)


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


def save_state(state: SearchState, path: _writing.PathLike, problem: Problem, algorithm: Algorithm) -> None:
    """Keep a search in an npz file, written whole or not at all."""
    arrays = {name: np.asarray(getattr(state, name)) for name in _KEPT}
    arrays |= {f"algorithm.{entry.name}": np.asarray(getattr(state.algorithm, entry.name)) for entry in fields(state.algorithm)}
    header = _identity(problem, algorithm, state.seed)
    _writing.write_arrays(path, header, arrays)


def load_state(path: _writing.PathLike, problem: Problem, algorithm: Algorithm, seed: int) -> SearchState:
    """Take up a search that :func:`save_state` kept.

    Raises:
        CorruptFile, NewerVersion: it is not a search that this hwsearch can read.
        WrongSpace: it searched another space.
        InvalidInput: it had other limits, another seed, device or algorithm.
    """
    header, arrays = _reading.read_arrays(path, "search state", format=FORMAT, version=VERSION)
    wanted = msgspec.json.decode(msgspec.json.encode(_identity(problem, algorithm, seed)))
    if header.get("fingerprint") != wanted["fingerprint"]:
        raise WrongSpace(f"{path} is a search of space {header.get('space')!r}, not of {problem.space.name!r}.")
    for name, value in wanted.items():
        if header.get(name) != value:
            raise InvalidInput(
                f"{path} is a search with {name} {header.get(name)!r}, and this one has {value!r}. Use another state file, or remove it."
            )
    with _reading.guarded(path, "search state"):
        known: dict[str, Any] = {name: array if array.ndim else array.item() for name, array in arrays.items()}
        own = {name.removeprefix("algorithm."): value for name, value in known.items() if name.startswith("algorithm.")}
        first = start(problem, algorithm, seed)
        first = finish(problem, first) if known["finishing"] else first
        found = replace(first, algorithm=replace(first.algorithm, **own), **{name: known[name] for name in _KEPT})
        check_state(found, first, problem)
    _check_score(found, problem, path)
    return found


def _identity(problem: Problem, algorithm: Algorithm, seed: int) -> dict[str, Any]:
    """What must be the same for a search to go on."""
    probe = problem.space.sample(8, np.random.default_rng(0))
    return {
        "format": FORMAT,
        "version": VERSION,
        "space": problem.space.name,
        "fingerprint": problem.space.fingerprint,
        "seed": seed,
        "algorithm": repr(algorithm),
        "limits": {limit.metric.name: limit.at_most for limit in problem.limits},
        "probe": [float(np.float32(value)) for value in evaluate(problem.metrics, probe).ravel()],
    }


def _check_score(state: SearchState, problem: Problem, path: _writing.PathLike) -> None:
    """Refuse a state whose scores, as far as a few of them tell, are not those of the problem.

    Raises:
        InvalidInput: they are of another score.
    """
    some = np.flatnonzero(~np.isnan(state.scores))[:_PROBED]
    if len(some):
        now = np.asarray(problem.score(state.X[some]), dtype=np.float64)
        if now.shape != some.shape or not np.allclose(now, state.scores[some], rtol=1e-5, atol=1e-8):
            raise InvalidInput(
                f"{path} is a search by another score: what has {state.scores[some[0]]:.6g} there has {now.flat[0]:.6g} here. Use another "
                "state file, or remove it."
            )


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
