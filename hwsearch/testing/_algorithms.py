"""What every plug-in must do, as checks to run in its tests: :func:`check_algorithm`, :func:`check_backend`, :func:`check_verifier`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .._types import Rows, Score
from ..algorithms._problem import Problem
from ..algorithms.base import Algorithm
from ..costs._metrics import metric
from ..errors import Infeasible
from ..searching._loop import result, step
from ..searching._state import SearchState, init, load_state, save_state
from ..searching.verify._verifier import Verifier
from ..spaces._genes import Choice
from ..spaces._keys import row_keys
from ..spaces._space import SearchSpace
from ._backends import check_backend as check_backend


def check_algorithm(make: Callable[[], Algorithm], *, steps: int = 4, additive: bool = False) -> None:
    """Check that a search algorithm keeps the promises of :class:`~hwsearch.algorithms.base.Algorithm`.

    An algorithm must be repeatable bit for bit, continue from a saved state as if it had never stopped, stay within the allowed
    values, accept answers about fewer rows than it asked for, and work with any number of limits, in tiny and in restricted spaces.

    Args:
        make: makes the algorithm, preferably a small one (tens of rows a step).
        steps: steps of each trial.
        additive: whether it takes additive scores only.

    Raises:
        AssertionError: a promise is broken; the message says which.

    Example:
        >>> from hwsearch.algorithms import RandomSearch
        >>> from hwsearch.testing import check_algorithm
        >>> check_algorithm(lambda: RandomSearch(population=20), steps=2)
    """
    algorithm = make()
    _promise(bool(algorithm.name) and algorithm.steps >= 1, "an algorithm has a name and a number of steps")
    _promise(repr(make()) == repr(algorithm), "algorithms with the same hyper-parameters look the same")
    for problem in problems(additive=additive):
        once = _run(problem, make(), steps)
        _promise(_same(once, _run(problem, make(), steps)), f"the same seed gives the same search, bit for bit ({problem.space.name})")
        _promise(
            _same(once, _resumed(problem, make, steps)), f"a search goes on from its file as if it had never stopped ({problem.space.name})"
        )
        _check_rows(problem, once)
        found = result(once)
        for limit in problem.limits:
            _promise(found.values[limit.metric.name] <= limit.at_most, f"the answer meets {limit}")
        _promise(found.bound is None or found.bound >= found.best_score - 1e-9, "no score is above the bound")
    _check_deaf(make, additive)


def check_verifier(verifier: Verifier, space: SearchSpace) -> None:
    """Check that a verifier keeps the promises of :class:`~hwsearch.searching.Verifier`.

    Example:
        >>> import numpy as np
        >>> from hwsearch.testing import check_verifier, example_space
        >>> class Mine:  # a verifier that forgot to measure
        ...     name = "my test bench"
        ...     def score(self, X):
        ...         return X.mean(axis=1)
        ...     def latency_ms(self, X):
        ...         return np.zeros(len(X))
        >>> check_verifier(Mine(), example_space())
        Traceback (most recent call last):
            ...
        AssertionError: Broken promise: every row has a positive latency.

    Args:
        verifier: evaluates and measures networks of the space; a handful of each are asked for.
        space: whose rows it takes.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    X = space.sample(3, np.random.default_rng(0))
    _promise(bool(verifier.name), "a verifier has a name")
    scores, latencies = np.asarray(verifier.score(X), dtype=np.float64), np.asarray(verifier.latency_ms(X), dtype=np.float64)
    _promise(scores.shape == (3,) and np.isfinite(scores).all(), "every row has a finite score")
    _promise(latencies.shape == (3,) and np.isfinite(latencies).all() and (latencies > 0).all(), "every row has a positive latency")
    alone = [float(np.asarray(verifier.score(row[None]))[0]) for row in X[::-1]]
    _promise(np.allclose(alone, scores[::-1], atol=1e-6), "a score depends on its network alone")


def problems(*, additive: bool = False) -> Iterator[Problem]:
    """Small problems with zero, one and many limits, in a whole, a restricted, a tiny and a single-network space.

    Example:
        >>> from hwsearch.testing import problems
        >>> [(problem.space.name, len(problem.limits)) for problem in problems()]
        [('example', 0), ('example', 1), ('example', 3), ('example', 1), ('tiny2', 0), ('tiny1', 0)]
    """
    space = example_space()
    score = metric("worth", space) if additive else rugged(space)
    for limits in ({}, {"time": 9.0}, {"time": 9.0, "size": 12.0, "peak_memory_mb": 0.95}):
        yield Problem.of(space, predictor=score, limits=limits)
    narrow = space.restrict({"depth": [2], "width1": [16, 32], "kernel*": [3, 7]})
    yield Problem.of(narrow, predictor=metric("worth", narrow) if additive else rugged(narrow), limits={"time": 12.0})
    for values in ((1, 2), (1,)):
        tiny = SearchSpace.from_tables({"only": values}, {"worth": [(["only"], np.arange(len(values)))]}, name=f"tiny{len(values)}")
        yield Problem.of(tiny, predictor=metric("worth", tiny) if additive else rugged(tiny))


def example_space(seed: int = 0) -> SearchSpace:
    """A space of 2,457 networks given as tables, with a gene that others need and the costs time, size, peak_memory_mb and worth.

    Example:
        >>> import hwsearch
        >>> from hwsearch.testing import example_space
        >>> hwsearch.costs.available(example_space())
        ('time', 'size', 'peak_memory_mb', 'worth')
    """
    rng = np.random.default_rng(seed)
    choices = [Choice("depth", (1, 2, 3))]
    for layer in range(1, 4):
        needs = ("depth", tuple(depth for depth in (1, 2, 3) if depth >= layer)) if layer > 1 else None
        choices += [Choice(f"width{layer}", (8, 16, 32), needs), Choice(f"kernel{layer}", (3, 5, 7), needs)]
    choices.append(Choice("bits", (2, 4, 8)))
    tables: dict[str, list[tuple[list[str], npt.NDArray[np.float64]]]] = {}
    for name in ("time", "size", "peak_memory_mb", "worth"):
        tables[name] = [(["bits"], np.sort(rng.random(3)))]
        for layer in range(1, 4):
            genes = ["depth", f"width{layer}", f"kernel{layer}", "bits"]
            grown = rng.random((3, 3, 3, 3))
            if name != "peak_memory_mb":
                grown = 0.25 * np.cumsum(np.cumsum(grown, axis=1), axis=2)
            grown *= (np.arange(1, 4) >= layer)[:, None, None, None]
            tables[name].append((genes, grown))
    return SearchSpace.from_tables(choices, tables, name="example")


class rugged:
    """A repeatable score that is no sum of tables, since every pair of genes interacts; it knows its gradient.

    Example:
        >>> import hwsearch
        >>> from hwsearch.testing import best_of, example_space, rugged
        >>> space = example_space()
        >>> found = hwsearch.search(space, "evolution", predictor=rugged(space), run=hwsearch.Run(steps=10))
        >>> found.best_score <= best_of(space, rugged(space), {})
        True
    """

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        width = sum(space.sizes)
        self.space, self.linear, self.pairs = space, rng.normal(size=width), 0.3 * rng.normal(size=(width, width))

    def __call__(self, X: Rows) -> npt.NDArray[np.float64]:
        """Scores, shape ``(n,)``."""
        features = self.space.features(X).astype(np.float64)
        result: npt.NDArray[np.float64] = features @ self.linear + np.einsum("ni,ij,nj->n", features, self.pairs, features)
        return result

    def gradient(self, X: Rows) -> npt.NDArray[np.float32]:
        """Their derivatives by the features, shape ``(n, features)``."""
        return (self.linear + self.space.features(X) @ (self.pairs + self.pairs.T)).astype(np.float32)


def best_of(space: SearchSpace, score: Score, limits: Mapping[str, float]) -> float:
    """The best score within limits, by looking at every network of a small space.

    Example:
        >>> import hwsearch
        >>> from hwsearch.testing import best_of, example_space, rugged
        >>> space = example_space()
        >>> found = hwsearch.search(space, "local", predictor=rugged(space), limits={"time": 9.0})
        >>> abs(found.best_score - best_of(space, rugged(space), {"time": 9.0})) < 1e-9
        True

    Raises:
        Infeasible: no network meets them.
    """
    X = np.concatenate(list(space.enumerate()))
    for name, most in limits.items():
        X = X[metric(name, space)(X) <= most]
    if not len(X):
        raise Infeasible(f"No network of {space.name!r} meets {dict(limits)}.")
    return float(np.max(np.asarray(score(X))))


def _run(problem: Problem, algorithm: Algorithm, steps: int, seed: int = 3) -> SearchState:
    state = init(problem, algorithm, seed)
    while state.step < steps and not algorithm.done(state.memory):
        state = step(state)
    return state


def _resumed(problem: Problem, make: Callable[[], Algorithm], steps: int, seed: int = 3) -> SearchState:
    """The same search, saved and loaded again after every step."""
    state = init(problem, make(), seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.npz")
        while state.step < steps and not make().done(state.memory):
            save_state(step(state), path)
            state = load_state(path, problem, make(), seed)
    return state


def _same(one: SearchState, two: SearchState) -> bool:
    def equal(a: object, b: object) -> bool:
        return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")

    own = all(equal(getattr(one.memory, f.name), getattr(two.memory, f.name)) for f in fields(one.memory))
    return own and all(equal(getattr(one, name), getattr(two, name)) for name in ("X", "scores", "costs", "history", "step"))


def _check_rows(problem: Problem, state: SearchState) -> None:
    space = problem.space
    _promise(len(state.X) > 0, "something is asked for")
    _promise(len(np.unique(row_keys(state.X))) == len(state.X), "no row is scored twice")
    active = space.active(state.X)
    for gene, allowed in enumerate(space.allowed):
        used = state.X[active[:, gene], gene]
        _promise(np.isin(used, allowed).all(), f"gene {space.choices[gene].name!r} keeps to its allowed values in {space.name!r}")
    over = (state.costs > 1).any(axis=1)
    _promise(np.array_equal(np.isnan(state.scores), over), "rows are scored if and only if they meet the limits")


def _check_deaf(make: Callable[[], Algorithm], additive: bool) -> None:
    """An algorithm is told about fewer rows than it asked for, or about none, and goes on."""
    space = example_space()
    problem = Problem.of(space, predictor=metric("worth", space) if additive else rugged(space), limits={"time": 9.0})
    algorithm, rng = make(), np.random.default_rng(0)
    state = algorithm.init(problem)
    for turn in range(3):
        asked, state = algorithm.ask(state, problem, rng)
        _promise(asked.ndim == 2 and asked.shape[1] == len(space.choices) and asked.dtype == np.uint8, "ask returns rows, uint8 (n, genes)")
        X = space.canonical(asked)[: len(asked) // 2 if turn else 0]
        state = algorithm.tell(state, X, *problem.evaluate(X))


def _promise(kept: object, promise: str) -> None:
    if not kept:
        raise AssertionError(f"Broken promise: {promise}.")


__all__ = ["best_of", "check_algorithm", "check_backend", "check_verifier", "example_space", "problems", "rugged"]
