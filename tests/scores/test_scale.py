"""Many limits, many devices, many workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch import SearchSpace, metric
from hwsearch.algorithms import Evolution, RandomSearch
from hwsearch.errors import Infeasible, InvalidInput, InvalidLimit, UnknownName, WorkersLost
from hwsearch.scores._executor import ScoreOnWorkers
from hwsearch.searching import Status, sweep
from hwsearch.testing import best_of, example_space, rugged

SPAWN = multiprocessing.get_context("spawn")


class Deadly:
    """A costly score whose worker dies, the first time that it comes to a certain row (always, without a flag to remember it by)."""

    def __init__(self, flag: Path | None) -> None:
        self.flag = flag

    def __call__(self, X: np.ndarray) -> np.ndarray:
        if (X[:, 0] == 2).any() and (self.flag is None or not self.flag.exists()):
            if self.flag is not None:
                self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return X.astype(float) @ np.arange(X.shape[1])


class Failing:
    def __call__(self, X: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("the score itself is wrong")


def test_a_killed_worker_costs_a_retry_and_not_the_search(tmp_path: Path) -> None:
    space, algorithm = example_space(), RandomSearch(population=20, steps=2)
    plain = hwsearch.search(space, predictor=Deadly(Path(__file__)), algorithm=algorithm, run=hwsearch.Run(polish=False))
    with ProcessPoolExecutor(2, mp_context=SPAWN) as pool:
        result = hwsearch.search(
            space, predictor=Deadly(tmp_path / "died"), algorithm=algorithm, run=hwsearch.Run(polish=False, executor=pool)
        )
    assert (tmp_path / "died").exists()
    assert result.best == plain.best
    assert result.history == plain.history


def test_a_row_that_always_kills_ends_the_search_with_a_reason() -> None:
    with pytest.raises(WorkersLost, match="died 4 times"):
        hwsearch.search(
            example_space(),
            predictor=Deadly(None),
            algorithm=RandomSearch(population=8, steps=1),
            run=hwsearch.Run(executor=lambda: ProcessPoolExecutor(1, mp_context=SPAWN)),
        )


def test_a_failing_score_is_not_taken_for_a_lost_worker() -> None:
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError, match="score itself"):
        hwsearch.search(example_space(), predictor=Failing(), run=hwsearch.Run(executor=pool))


def test_threads_give_the_same_search() -> None:
    space = example_space()
    algorithm = Evolution(population=64, steps=6)
    plain = hwsearch.search(space, predictor=rugged(space), limits={"time": 6.0}, algorithm=algorithm)
    with ThreadPoolExecutor(2) as pool:
        spread = hwsearch.search(space, predictor=rugged(space), limits={"time": 6.0}, algorithm=algorithm, run=hwsearch.Run(executor=pool))
    assert spread.best == plain.best


@pytest.fixture(scope="module")
def fitted() -> hwsearch.Predictor:
    space = example_space()
    X = space.sample(200, np.random.default_rng(0))
    return hwsearch.Predictor.fit(space, X, rugged(space)(X), members=2, hidden=(8,))


def test_an_executor_changes_nothing_of_a_search(fitted: hwsearch.Predictor) -> None:
    """A predictor keeps its gradient and its standard deviation, so that algorithm, answer, history and cautions stay the same."""
    for options in ({}, {"algorithm": "memetic"}):
        plain = hwsearch.search(fitted.space, predictor=fitted, limits={"time": 6.0}, **options)  # type: ignore[arg-type]
        with ThreadPoolExecutor(3) as pool:
            spread = hwsearch.search(fitted.space, predictor=fitted, limits={"time": 6.0}, run=hwsearch.Run(executor=pool), **options)  # type: ignore[arg-type]
        assert "Memetic" in str(spread.provenance["algorithm"])
        assert (spread.best, spread.best_score) == (plain.best, plain.best_score)
        assert (spread.history, spread.cautions, spread.provenance) == (plain.history, plain.cautions, plain.provenance)
        assert np.array_equal(spread.front.scores, plain.front.scores)


def test_an_executor_keeps_the_tables_of_a_score_and_the_proof() -> None:
    space = SearchSpace.from_tables({"a": (0, 1, 2)}, {"cost": [(["a"], [2.0, 1.0, 3.0])]})
    with ThreadPoolExecutor(2) as pool:
        found = hwsearch.search(space, predictor=-metric("cost", space), algorithm="exact", run=hwsearch.Run(executor=pool))
    assert found.bound == found.best_score == -1.0


def test_tasks_do_not_depend_on_the_number_of_workers() -> None:
    """Libraries may round batches of other lengths otherwise, so the lengths are always the same ones."""
    told = []
    for workers in (1, 3):
        lengths: list[int] = []

        def score(X: np.ndarray, lengths: list[int] = lengths) -> np.ndarray:
            lengths.append(len(X))
            return X.sum(axis=1).astype(float)

        with ThreadPoolExecutor(workers) as pool:
            hwsearch.search(
                example_space(),
                predictor=score,
                algorithm=RandomSearch(population=37, steps=2),
                run=hwsearch.Run(polish=False, executor=pool),
            )
        told.append(sorted(lengths))
    assert told[0] == told[1]


def test_a_sweep_gives_each_point_what_a_search_of_its_own_would() -> None:
    space = example_space()
    worth, values = metric("worth", space), [3.0, 4.0, 5.0, 6.0, 8.0]
    swept = sweep(space, predictor=worth, limits={"time": [*values, 1e-6], "size": 9.0}, algorithm="exact")
    assert [result.limits["time"] for result in swept] == values
    for result, most in zip(swept, values, strict=True):
        assert result.best_score == pytest.approx(best_of(space, worth, {"time": most, "size": 9.0}))
        assert result.status is Status.OPTIMAL
    assert [point["time"] for point, _ in swept.infeasible] == [1e-6]
    assert "cannot be met" in swept.infeasible[0][1]
    frame = swept.to_frame()
    assert list(frame["time <="]) == values
    assert frame["score"].is_monotonic_increasing


def test_looser_points_of_a_sweep_are_never_worse() -> None:
    space = example_space(1)
    swept = sweep(space, predictor=rugged(space), limits={"time": np.linspace(2.0, 8.0, 7)}, algorithm=RandomSearch(population=16, steps=1))
    scores = [result.best_score for result in swept]
    assert scores == sorted(scores)
    with pytest.raises(InvalidInput, match="at least one value"):
        sweep(space, predictor=rugged(space), limits={"time": []})
    with pytest.raises(Infeasible):
        sweep(space, predictor=rugged(space), limits={"time": [1e-6, 2e-6]})


def test_several_devices_limit_the_worst_of_them_or_their_weighted_sum(
    toy: SearchSpace, roofline_table: hwsearch.LatencyTable, tmp_path: Path
) -> None:
    from dataclasses import replace

    one = roofline_table
    slow = {key: replace(row, latency_ms=3 * row.latency_ms if "int8" in key else row.latency_ms) for key, row in one.rows.items()}
    other = replace(one, device=replace(one.device, name="other"), rows=slow)
    X = np.concatenate(list(toy.enumerate()))
    first, second = metric("latency_ms", toy, one)(X), metric("latency_ms", toy, other)(X)
    most = float(np.quantile(np.maximum(first, second), 0.2))
    score = rugged(toy)
    algorithm = Evolution(population=256)
    worst = hwsearch.search(toy, predictor=score, device=[one, other], limits={"latency_ms": most}, algorithm=algorithm)
    assert worst.best_score == pytest.approx(np.max(np.asarray(score(X))[np.maximum(first, second) <= most]))
    assert set(worst.limits) == {f"latency_ms[{one.device.name}]", "latency_ms[other]"}
    mean = hwsearch.search(toy, predictor=score, device=[one, other], weights=[0.5, 0.5], limits={"latency_ms": most}, algorithm=algorithm)
    assert mean.best_score == pytest.approx(np.max(np.asarray(score(X))[(first + second) / 2 <= most]))
    named = {"latency_ms[other]": most}
    alone = hwsearch.search(toy, predictor=score, device=[one, other], limits=named, algorithm=algorithm)
    assert alone.best_score == pytest.approx(np.max(np.asarray(score(X))[second <= most]))
    with pytest.raises(InvalidInput, match="weights"):
        hwsearch.search(toy, predictor=score, device=[one, other], weights=[1.0], limits={"latency_ms": most})
    with pytest.raises(InvalidInput, match="names"):
        hwsearch.search(toy, predictor=score, device=[one, one], limits={"latency_ms": most})


def test_any_lookup_table_problem_is_a_space(tmp_path: Path) -> None:
    tables = {"watts": [(["a", "b"], [[1.0, 2.0], [3.0, 4.0], [5.0, np.inf]])], "worth": [(["a"], [0.0, 1.0, 2.0]), (["b"], [0.0, 5.0])]}
    space = SearchSpace.from_tables({"a": (1, 2, 3), "b": ("x", "y")}, tables, name="bench")
    result = hwsearch.search(space, predictor=metric("worth", space), limits={"watts": 4.0})
    assert result.best.values() == {"a": 2, "b": "y"}
    assert result.values["watts"] == 4.0
    changed = SearchSpace.from_tables({"a": (1, 2, 3), "b": ("x", "y")}, {**tables, "worth": [(["a"], [0.0, 1.0, 2.5])]}, name="bench")
    assert changed.fingerprint != space.fingerprint
    with pytest.raises(UnknownName, match="watts"):
        hwsearch.search(space, predictor=metric("worth", space), limits={"wats": 4.0})
    with pytest.raises(InvalidLimit, match="never negative"):
        hwsearch.search(space, predictor=metric("worth", space), limits={"watts": -4.0})
    with pytest.raises(Infeasible, match="lower than 1"):
        hwsearch.search(space, predictor=metric("worth", space), limits={"watts": 0.5})


@pytest.mark.parametrize(
    ("table", "error", "match"),
    [
        ((["a"], [1.0, 2.0]), InvalidInput, "shape"),
        ((["a", "a"], np.ones((3, 3))), InvalidInput, "twice"),
        ((["c"], [1.0, 2.0]), InvalidInput, "also name 'a'"),
        ((["z"], [1.0]), UnknownName, "'z'"),
        ((["a"], [1.0, np.nan, 2.0]), InvalidInput, "NaN"),
    ],
)
def test_tables_that_make_no_sense_are_refused(table: tuple[list[str], np.ndarray], error: type[Exception], match: str) -> None:
    choices = [hwsearch.spaces.Choice("a", (1, 2, 3)), hwsearch.spaces.Choice("c", (0, 1), ("a", (2, 3)))]
    with pytest.raises(error, match=match):
        SearchSpace.from_tables(choices, {"cost": [table]})


def test_inactive_genes_cost_nothing_of_their_own() -> None:
    choices = [hwsearch.spaces.Choice("a", (1, 2)), hwsearch.spaces.Choice("c", (0, 1), ("a", (2,)))]
    space = SearchSpace.from_tables(choices, {"cost": [(["a", "c"], [[1.0, 99.0], [2.0, 3.0]])]})
    assert list(metric("cost", space)(np.array([[0, 0], [0, 1], [1, 1]]))) == [1.0, 1.0, 3.0]


@pytest.mark.parametrize("most", [float("nan"), [6.0, float("nan")], -1.0, [6.0, -1.0], "6", ["6"], 10**400, [10**400], None, [[6.0]]])
def test_a_sweep_refuses_limits_that_are_none(most: object) -> None:
    with pytest.raises(InvalidLimit):
        sweep(example_space(), predictor=rugged(example_space()), limits={"time": most}, run=hwsearch.Run(steps=1))  # type: ignore[dict-item]


def test_a_score_on_workers_offers_what_searches_ask_of_scores_and_nothing_else() -> None:
    score = ScoreOnWorkers(rugged(example_space()), ThreadPoolExecutor(1))
    X = example_space().sample(3, np.random.default_rng(0))
    assert np.array_equal(score.gradient(X), rugged(example_space()).gradient(X))
    assert (score.std, score.extrapolates, score.tables, score.report) == (None,) * 4
    assert not hasattr(score, "pairs"), "an attribute of the score inside"
    score.close()
