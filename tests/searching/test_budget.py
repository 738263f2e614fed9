"""A budget of evaluations: counted exactly, kept, and spent well."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch import Run, SearchSpace
from hwsearch._files import _reading, _writing
from hwsearch.algorithms import NSGA2, Surrogate, hypervolume
from hwsearch.errors import EvaluationsFailed, InvalidInput
from hwsearch.searching import Status, explore
from hwsearch.searching._loop import narrowed
from hwsearch.spaces._keys import row_keys
from hwsearch.testing import best_of, example_space, rugged

LIMITS = {"time": 3.0}


class Counting:
    """A score that counts how often it is computed, and may fail or stop at some of these times."""

    def __init__(self, space: SearchSpace, at: int = 0, error: BaseException | None = None) -> None:
        self.score, self.at, self.error = rugged(space), at, error
        self.rows: list[np.ndarray] = []

    def __call__(self, X: np.ndarray) -> np.ndarray:
        self.rows.extend(X)
        if self.error is not None and len(self.rows) == self.at:
            raise self.error
        return self.score(X)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return example_space()


@pytest.mark.parametrize("algorithm", [None, "random", "nsga2", "evolution"])
def test_exactly_the_budget_is_spent_and_none_of_it_beyond_the_limits(space: SearchSpace, algorithm: str | None) -> None:
    score = Counting(space)
    result = hwsearch.search(space, algorithm, predictor=score, limits=LIMITS, run=Run(evaluations=33))
    assert len(score.rows) == 33
    assert len(np.unique(row_keys(np.array(score.rows)))) == 33
    assert (hwsearch.metric("time", space)(np.array(score.rows)) <= 3.0).all()
    assert result.history[-1]["feasible"] == 33
    assert result.status is Status.BUDGET_SPENT
    assert result.best_score == pytest.approx(rugged(space)(np.array(score.rows)).max())


def test_a_budget_beyond_the_space_ends_when_everything_was_evaluated() -> None:
    tiny = SearchSpace.from_tables({"a": (1, 2, 3), "b": (1, 2, 3)}, {"size": [(["a", "b"], np.arange(9.0).reshape(3, 3))]})
    score = Counting(tiny)
    result = hwsearch.search(tiny, predictor=score, limits={"size": 6.0}, run=Run(evaluations=100))
    assert len(score.rows) == 7
    assert result.best_score == best_of(tiny, rugged(tiny), {"size": 6.0})


def test_a_budget_must_be_a_whole_number(space: SearchSpace) -> None:
    with pytest.raises(InvalidInput, match="evaluations"):
        hwsearch.search(space, predictor=rugged(space), run=Run(evaluations=0))
    with pytest.raises(InvalidInput, match="evaluations"):
        hwsearch.search(space, predictor=rugged(space), run=Run(evaluations=10), verify=hwsearch.Verify(object()))  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", [3, 29])
def test_a_search_that_was_stopped_goes_on_bit_for_bit_and_repeats_only_what_it_was_in_the_middle_of(
    space: SearchSpace, tmp_path: Path, stop: int
) -> None:
    once = hwsearch.search(space, predictor=rugged(space), limits=LIMITS, seed=5, run=Run(evaluations=40))
    run = Run(evaluations=40, state=tmp_path / "state.npz")
    first, second = Counting(space, stop, KeyboardInterrupt()), Counting(space)
    with pytest.raises(KeyboardInterrupt):
        hwsearch.search(space, predictor=first, limits=LIMITS, seed=5, run=run)
    again = hwsearch.search(space, predictor=second, limits=LIMITS, seed=5, run=run)
    assert len(first.rows) == stop
    assert len(second.rows) == 41 - stop
    np.testing.assert_array_equal(first.rows[-1], second.rows[0])
    np.testing.assert_array_equal(again.front.X, once.front.X)
    assert again.history == once.history
    more = Counting(space)
    hwsearch.search(space, predictor=more, limits=LIMITS, seed=5, run=Run(evaluations=45, state=tmp_path / "state.npz"))
    assert len(more.rows) == 5


def test_a_budget_is_counted_through_kill_9(tmp_path: Path) -> None:
    """The score writes down each of its calls, and kills the process in the middle of the seventh and of the eleventh."""
    program = f"""
import os, signal, hwsearch
from hwsearch.testing import example_space, rugged
space = example_space()
def score(X):
    with open({str(tmp_path / "calls")!r}, "a+") as file:
        file.write(bytes(X[0]).hex() + "\\n")
        file.seek(0)
        calls = len(file.readlines())
    if calls in (7, 11):
        os.kill(os.getpid(), signal.SIGKILL)
    return rugged(space)(X)
run = hwsearch.Run(evaluations=12, state={str(tmp_path / "state.npz")!r})
hwsearch.search(space, hwsearch.algorithms.NSGA2(population=5), predictor=score, limits={{"time": 6.0}}, run=run)
"""
    codes = [subprocess.run([sys.executable, "-c", program], check=False, timeout=300).returncode for _ in range(3)]
    assert codes == [-9, -9, 0]
    calls = (tmp_path / "calls").read_text().split()
    assert len(calls) == 14
    assert len(set(calls)) == 12
    assert calls[6] == calls[7]
    assert calls[10] == calls[11]


def test_evaluations_that_fail_are_counted_left_out_and_told(space: SearchSpace) -> None:
    class Failing(Counting):
        def __call__(self, X: np.ndarray) -> np.ndarray:
            found = super().__call__(X)
            if len(self.rows) % 5 == 0:
                raise RuntimeError("out of memory")
            return found if len(self.rows) % 7 else np.full(len(X), np.nan)

    score = Failing(space)
    for algorithm in (Surrogate(founders=10), NSGA2(population=10)):
        score.rows.clear()
        result = hwsearch.search(space, algorithm, predictor=score, limits=LIMITS, run=Run(evaluations=30))
        assert len(score.rows) == 30
        assert result.history[-1]["feasible"] == 30 - 6 - 4
        assert result.cautions == ("10 of 30 evaluations failed; the last: RuntimeError: out of memory",)
        assert np.isfinite(result.front.scores).all()


def test_a_score_that_never_works_ends_the_search_and_may_be_mended(space: SearchSpace, tmp_path: Path) -> None:
    def broken(X: np.ndarray) -> np.ndarray:
        raise KeyError("learning_rate")

    run = Run(evaluations=20, state=tmp_path / "state.npz")
    with pytest.raises(EvaluationsFailed, match="All of the first 8 evaluations failed; the last: KeyError: 'learning_rate'"):
        hwsearch.search(space, predictor=broken, limits=LIMITS, run=run)
    score = Counting(space)
    assert not hwsearch.search(space, predictor=score, limits=LIMITS, run=run).cautions
    assert len(score.rows) == 20


def test_no_worker_waits_for_the_slowest(space: SearchSpace) -> None:
    """One evaluation does not end before all others of the budget have."""
    others, lock, done = threading.Event(), threading.Lock(), [0]

    def score(X: np.ndarray) -> np.ndarray:
        with lock:
            done[0] += 1
            mine = done[0]
        if mine == 2:
            assert others.wait(60), "the others waited for the slowest"
        if mine == 30:
            others.set()
        return rugged(space)(X)

    with ThreadPoolExecutor(3) as executor:
        run = Run(evaluations=30, executor=executor)
        state = explore_on(space, score, run, Surrogate(founders=8, batch=2))
    assert state.evaluations == 30
    assert not state.failed.any()
    assert len(np.unique(row_keys(state.X))) == len(state.X)


def explore_on(space: SearchSpace, score: object, run: Run, algorithm: Surrogate) -> hwsearch.searching.SearchState:
    from hwsearch.searching._search import on_workers

    with on_workers(hwsearch.Problem.of(space, predictor=score, limits=LIMITS), run) as problem:  # type: ignore[arg-type]
        return explore(problem, algorithm, run=run)


def test_the_model_finds_the_best_of_thousands_within_fifty_evaluations(space: SearchSpace) -> None:
    best = best_of(space, rugged(space), LIMITS)
    problem = hwsearch.Problem.of(space, predictor=rugged(space), limits=LIMITS)
    small = [hwsearch.search(problem, seed=seed, run=Run(evaluations=50)).best_score for seed in range(2)]
    large = [hwsearch.search(problem, Surrogate(whole=0), seed=seed, run=Run(evaluations=50)).best_score for seed in range(2)]
    blind = hwsearch.search(problem, "random", run=Run(evaluations=50)).best_score
    assert [*small, *large] == pytest.approx([best] * 4)
    assert blind < best - 0.5


def test_the_model_finds_more_of_a_front_than_evolution(space: SearchSpace) -> None:
    problem = hwsearch.Problem.of(space, predictor=rugged(space), limits={"time": 9.0})
    X = np.concatenate(list(space.enumerate()))
    points = np.column_stack([-rugged(space)(X), hwsearch.metric("time", space)(X)])
    worst = points.max(axis=0)

    def share(algorithm: Surrogate | NSGA2) -> float:
        front = hwsearch.search(problem, algorithm, run=Run(evaluations=60)).front
        return hypervolume(np.column_stack([-front.scores, front.values["time"]]), worst) / hypervolume(points[points[:, 1] <= 9.0], worst)

    ours, theirs = share(Surrogate(metrics=("time",))), share(NSGA2(population=15))
    assert ours > 0.99
    assert 1 - ours < 0.5 * (1 - theirs)


def test_networks_of_a_batch_differ(space: SearchSpace) -> None:
    problem = hwsearch.Problem.of(space, predictor=rugged(space), limits=LIMITS)
    state = explore(problem, Surrogate(founders=20, batch=8), run=Run(evaluations=28))
    batch = state.X[20:28]
    apart = (batch[:, None] != batch).sum(axis=2)[np.triu_indices(8, 1)]
    assert apart.min() >= 1
    assert np.median(apart) >= 2


def test_all_points_of_a_sweep_share_one_budget(space: SearchSpace, tmp_path: Path) -> None:
    score = Counting(space)
    run = Run(evaluations=60, state=tmp_path / "state.npz")
    front = hwsearch.sweep(space, {"time": [2.5, 3.0, 4.0]}, predictor=score, run=run)
    assert len(score.rows) == 60
    for result in front:
        assert result.best_score >= best_of(space, rugged(space), result.limits) - 1.0
        assert result.values["time"] <= result.limits["time"]
        assert result.history[-1]["best_score"] == result.best_score


def test_the_cheapest_network_within_a_budget(space: SearchSpace) -> None:
    score = Counting(space)
    enough = best_of(space, rugged(space), LIMITS)
    found = hwsearch.cheapest(space, "time", enough - 0.5, predictor=score, limits={"time": 9.0}, run=Run(evaluations=60))
    assert len(score.rows) == 60
    assert found.best_score >= enough - 0.5
    assert found.values["time"] < 3.3


def test_the_cheapest_within_a_budget_is_the_cheapest_of_all_that_was_evaluated_by_any_algorithm(space: SearchSpace) -> None:
    """Even where the front trades the score against another metric than the cost, as it does by what is limited."""
    tables = {"time": [(["a"], np.arange(4.0)), (["b"], np.arange(4.0))], "size": [(["a"], np.ones(4))]}
    tiny = SearchSpace.from_tables({"a": range(4), "b": range(4)}, tables)
    posed = {"predictor": lambda X: X[:, 0].astype(float), "limits": {"size": 5.0}}
    found = hwsearch.cheapest(tiny, "time", 1.0, "random", run=Run(evaluations=16), **posed)
    assert (found.values["time"], found.best_score) == (1.0, 1.0)
    assert found.limits["time"] == 1.0


def test_a_network_that_a_device_cannot_run_leaves_the_levels_of_a_front_finite(space: SearchSpace) -> None:
    gene = space.choices[0]
    cells = np.arange(float(len(gene.values)))
    cells[-1] = np.inf
    cost = hwsearch.costs.Metric.from_tables("cost", space, [([gene.name], cells)])
    problem = hwsearch.Problem.of(space, predictor=rugged(space), metrics=[cost])
    X = space.sample(50, np.random.default_rng(0))
    assert np.isinf(cost(X)).any()
    goal = Surrogate(metrics=("cost",))._goal(problem, X, rugged(space)(X), np.random.default_rng(0))
    assert np.isfinite(goal.most).all()
    shares, _ = goal.shares(goal.values)
    np.testing.assert_array_equal(shares.sum(axis=1) > 0, cost(X) < goal.most[0])


def test_searches_that_were_kept_before_evaluations_were_counted_go_on(space: SearchSpace, tmp_path: Path) -> None:
    problem = hwsearch.Problem.of(space, predictor=rugged(space), limits=LIMITS)
    path = tmp_path / "state.npz"
    explore(problem, NSGA2(population=10), run=Run(steps=3, state=path, polish=False))
    header, arrays = _reading.read_arrays(path, "search state", format="hwsearch-search", version=1)
    old = {name: array for name, array in arrays.items() if name not in ("waiting", "told", "failure")}
    _writing.write_arrays(path, header, old)
    went_on = explore(problem, NSGA2(population=10), run=Run(steps=5, state=path, polish=False))
    np.testing.assert_array_equal(went_on.X, explore(problem, NSGA2(population=10), run=Run(steps=5, polish=False)).X)


def test_a_search_within_a_budget_may_go_on_without_one(space: SearchSpace, tmp_path: Path) -> None:
    problem = hwsearch.Problem.of(space, predictor=rugged(space), limits=LIMITS)
    path = tmp_path / "state.npz"
    explore(problem, NSGA2(population=10), run=Run(evaluations=13, state=path))
    state = explore(problem, NSGA2(population=10), run=Run(steps=6, state=path, polish=False))
    assert not len(state.waiting)
    assert state.told == len(state.X)
    assert np.isnan(state.scores).sum() == (state.costs > 1).any(axis=1).sum()


def test_a_front_that_holds_nothing_yet_holds_nothing_within_tighter_limits(space: SearchSpace) -> None:
    """The algorithm was asked once, and nothing that it asked for has been answered."""
    problem = hwsearch.Problem.of(space, predictor=rugged(space), limits=LIMITS)
    asked = replace(hwsearch.init(problem, "random"), step=1, history=np.array([[0.0, 0.0, np.nan]]))
    state = narrowed(asked, problem.within({"time": 2.0}))
    np.testing.assert_array_equal(state.history, asked.history)
    found = explore(problem, Surrogate(), run=Run(evaluations=20))
    kept = narrowed(found, problem.within({"time": 2.0}))
    assert 0 < kept.history[-1, 1] < found.history[-1, 1] == 20
    assert kept.history[-1, 2] == np.nanmax(kept.scores)
