"""search(): the best there is, the same every time, and never lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch.algorithms import Evolution, RandomSearch
from hwsearch.algorithms._pareto import nondominated, nondominated_within, pareto
from hwsearch.costs import metric, values_of
from hwsearch.devices import LatencyTable
from hwsearch.errors import CorruptFile, FileError, Infeasible, InvalidInput, InvalidLimit, UnknownName, WrongSpace
from hwsearch.searching import Status, load_result, load_state, save_state
from hwsearch.spaces import SearchSpace


class Rugged:
    """A repeatable score with pairwise interactions, which counts its calls and what it was asked."""

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        self.space = space
        rng = np.random.default_rng(seed)
        width = sum(space.sizes)
        self.linear = np.abs(rng.normal(size=width)) * np.concatenate([np.linspace(0.2, 1, size) for size in space.sizes])
        self.pairs = rng.normal(size=(width, width)) * 0.15
        self.asked: list[bytes] = []

    def __call__(self, X: np.ndarray) -> np.ndarray:
        self.asked += [bytes(row) for row in X]
        features = self.space.features(X).astype(np.float64)
        return features @ self.linear + np.einsum("ni,ij,nj->n", features, self.pairs, features)


@pytest.fixture(scope="module")
def everything(toy: SearchSpace) -> np.ndarray:
    return np.concatenate(list(toy.enumerate()))


def test_evolution_finds_the_exact_optimum_of_an_enumerable_space_for_20_of_20_seeds(
    toy: SearchSpace, roofline_table: LatencyTable, everything: np.ndarray
) -> None:
    assert toy.size >= 10_000
    latency, size = (metric(name, toy, roofline_table) for name in ("latency_ms", "size_mb"))
    limits = {"latency_ms": float(np.quantile(latency(everything), 0.3)), "size_mb": float(np.quantile(size(everything), 0.3))}
    for seed in range(20):
        score = Rugged(toy, seed)
        feasible = everything[(latency(everything) <= limits["latency_ms"]) & (size(everything) <= limits["size_mb"])]
        best = score(feasible).max()
        result = hwsearch.search(toy, predictor=score, device=roofline_table, limits=limits, algorithm="evolution", seed=seed)
        assert result.best_score == pytest.approx(best, rel=1e-12), f"seed {seed}"
        assert score(result.best.genes[None])[0] == pytest.approx(best, rel=1e-12)


def test_limits_are_kept_and_the_predictor_sees_only_feasible_unseen_rows(digits: SearchSpace, roofline_table: LatencyTable) -> None:
    names = ("latency_ms", "energy_mj", "macs", "bitops", "params", "size_mb", "peak_memory_mb")
    metrics = [metric(name, digits, roofline_table) for name in names]
    sample = values_of(metrics, digits.sample(2000, np.random.default_rng(0)))
    limits = dict(zip(names, map(float, np.quantile(sample, 0.4, axis=0)), strict=True))
    score = Rugged(digits)
    result = hwsearch.search(digits, predictor=score, device=roofline_table, limits=limits, seed=1, run=hwsearch.Run(steps=15))
    assert len(score.asked) == len(set(score.asked)) == result.history[-1]["feasible"]
    asked = np.array([list(row) for row in score.asked], dtype=np.uint8)
    assert np.array_equal(asked, digits.canonical(asked))
    assert (values_of(metrics, asked) <= np.array(list(limits.values()))).all()
    assert all(result.values[name] <= most for name, most in limits.items())
    assert all(0 < part <= 1 for part in result.tightness.values())


def test_a_seed_gives_the_same_answer_bit_for_bit_and_another_seed_another_path(digits: SearchSpace, roofline_table: LatencyTable) -> None:
    def run(seed: int) -> hwsearch.SearchResult:
        return hwsearch.search(
            digits, predictor=Rugged(digits), device=roofline_table, limits={"latency_ms": 0.2}, seed=seed, run=hwsearch.Run(steps=8)
        )

    one, two, other = run(3), run(3), run(4)
    assert one.best == two.best
    assert one.best_score == two.best_score
    assert one.history == two.history
    assert np.array_equal(one.front.X, two.front.X)
    assert one.history != other.history


@pytest.mark.parametrize("algorithm", [Evolution(), RandomSearch()])
def test_ten_steps_a_file_and_ten_more_are_twenty_steps(
    algorithm: Evolution | RandomSearch, digits: SearchSpace, roofline_table: LatencyTable, tmp_path: Path
) -> None:
    problem = hwsearch.Problem.of(digits, predictor=Rugged(digits), device=roofline_table, limits={"latency_ms": 0.2, "size_mb": 0.05})
    whole = hwsearch.init(problem, algorithm, seed=5)
    for _ in range(20):
        whole = hwsearch.step(whole)
    half = hwsearch.init(problem, algorithm, seed=5)
    for _ in range(10):
        half = hwsearch.step(half)
    path = tmp_path / "state.npz"
    save_state(half, path)
    half = load_state(path, problem, algorithm, seed=5)
    for _ in range(10):
        half = hwsearch.step(half)
    assert (half.step, half.seed) == (20, 5)
    for name in ("X", "scores", "costs", "seen", "history"):
        np.testing.assert_array_equal(getattr(half, name), getattr(whole, name))


def test_search_goes_on_from_its_state_file(digits: SearchSpace, roofline_table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "state.npz"

    def run(steps: int, state: Path | None = None, **options: object) -> hwsearch.SearchResult:
        given = {"limits": {"latency_ms": 0.2}, "seed": 2, "run": hwsearch.Run(steps=steps, state=state), **options}
        return hwsearch.search(digits, predictor=Rugged(digits), device=roofline_table, **given)

    run(4, path)
    resumed, straight = run(9, path), run(9)
    assert resumed.history == straight.history
    assert resumed.best == straight.best
    with pytest.raises(InvalidInput, match="with seed 2, and this one has 3"):
        run(9, path, seed=3)
    with pytest.raises(InvalidInput, match="limits"):
        run(9, path, limits={"latency_ms": 0.3})
    with pytest.raises(InvalidInput, match="algorithm"):
        run(9, path, algorithm=Evolution(population=10))
    with pytest.raises(InvalidInput, match="another score"):
        hwsearch.search(
            digits, predictor=Rugged(digits, 9), device=roofline_table, limits={"latency_ms": 0.2}, seed=2, run=hwsearch.Run(state=path)
        )
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CorruptFile, match="not a whole search state"):
        run(9, path)


KILLED = """
import sys, time
import numpy as np
import hwsearch
space = hwsearch.load_space("resnet_digits")
weights = np.random.default_rng(0).normal(size=sum(space.sizes))
def score(X):
    time.sleep(0.05)
    return space.features(X) @ weights
result = hwsearch.search(space, predictor=score, limits={"macs": 2.0e6}, seed=7, run=hwsearch.Run(steps=40, state=sys.argv[1]))
result.save(sys.argv[2])
"""


def _stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.slow
def test_kill_9_ten_times_loses_at_most_the_step_in_flight(tmp_path: Path) -> None:
    def command(state: Path, result: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", KILLED, str(state), str(result)])

    straight, survivor, state = tmp_path / "straight.json", tmp_path / "survivor.json", tmp_path / "state.npz"
    assert command(tmp_path / "other.npz", straight).wait() == 0
    chance = random.Random(1)
    reached = [0]
    for kill in range(10):
        process, before, deadline = command(state, survivor), _stamp(state), time.monotonic() + 60
        # Two of ten at any moment from the start of the process; the others while it searches.
        while kill % 5 and _stamp(state) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1 if kill % 5 else 0.8))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the search ended before it was killed"
        if state.exists():
            with np.load(state) as archive:  # whole, whenever the process was killed
                reached.append(len(archive["history"]))
    assert reached == sorted(reached), "a step that was on disk is lost"
    assert len(set(reached)) >= 9
    assert command(state, survivor).wait() == 0
    one, two = load_result(straight), load_result(survivor)
    assert one.best == two.best
    assert one.history == two.history


def test_a_state_file_costs_no_scores_but_a_few_when_the_search_goes_on(digits: SearchSpace, tmp_path: Path) -> None:
    def scored(steps: int, state: Path | None = None) -> int:
        score = Rugged(digits)
        hwsearch.search(digits, RandomSearch(population=32), predictor=score, run=hwsearch.Run(steps=steps, state=state))
        return len(score.asked)

    first = scored(5, state=tmp_path / "state.npz")
    assert first == scored(5)
    assert first + scored(10, state=tmp_path / "state.npz") == scored(10) + 8


def test_ask_and_tell_are_public(toy: SearchSpace, roofline_table: LatencyTable) -> None:
    """A notebook can own the loop."""
    problem = hwsearch.Problem.of(toy, predictor=Rugged(toy), device=roofline_table, limits={"latency_ms": 0.15})
    algorithm = Evolution(population=40)
    state = algorithm.init(problem)
    best = -np.inf
    for step in range(10):
        asked, state = algorithm.ask(state, problem, np.random.default_rng(step))
        X = toy.canonical(asked)
        scores, costs = problem.evaluate(X)
        state = algorithm.tell(state, X, scores, costs)
        best = max(best, np.nanmax(scores, initial=-np.inf))
    assert state.best == best
    assert state.step == 10


def test_evolution_beats_random_search_on_a_large_space(digits: SearchSpace, roofline_table: LatencyTable) -> None:
    def best(algorithm: Evolution | RandomSearch, seed: int) -> float:
        limits = {"latency_ms": 0.15}
        result = hwsearch.search(
            digits,
            predictor=Rugged(digits),
            device=roofline_table,
            limits=limits,
            algorithm=algorithm,
            seed=seed,
            run=hwsearch.Run(polish=False),
        )
        return result.best_score

    found = [best(Evolution(population=256), seed) - best(RandomSearch(population=256, steps=120), seed) for seed in range(3)]
    assert min(found) > 0


def test_an_exhausted_space_is_said_to_be(toy: SearchSpace) -> None:
    tiny = toy.restrict({"*.precision": ["fp32"], "*.mid*": [8], "resolution": [8]})
    result = hwsearch.search(tiny, predictor=lambda X: X.sum(axis=1), algorithm=Evolution(patience=500), run=hwsearch.Run(steps=500))
    assert result.status is Status.EXHAUSTED
    assert "Every architecture" in result.status.value
    assert result.history[-1]["evaluated"] == tiny.size


def test_statuses_say_what_to_do(digits: SearchSpace) -> None:
    result = hwsearch.search(digits, predictor=Rugged(digits), run=hwsearch.Run(steps=2))
    assert result.status is Status.BUDGET_SPENT
    assert "more steps" in result.status.value


def test_the_front_is_what_nothing_else_beats(digits: SearchSpace, roofline_table: LatencyTable, rng: np.random.Generator) -> None:
    result = hwsearch.search(
        digits, predictor=Rugged(digits), device=roofline_table, limits={"latency_ms": 0.3}, run=hwsearch.Run(steps=10)
    )
    scores, latency = result.front.scores, result.front.values["latency_ms"]
    assert scores[0] == result.best_score
    assert result.front[0] == result.best
    assert (np.diff(scores) < 0).all()
    assert (np.diff(latency) < 0).all()
    frame = result.front.to_frame()
    assert list(frame["score"]) == list(scores)
    assert {"latency_ms", "macs", "stage1.depth", "stage1.block1.mid"} <= set(frame.columns)
    points = rng.integers(0, 6, size=(200, 3)).astype(float)
    kept = points[nondominated(points)]
    for point in points:
        assert (kept <= point).all(axis=1).any()
    for index, point in enumerate(kept):
        assert not (np.delete(kept, index, axis=0) <= point).all(axis=1).any()
    pairs = points[:, :2]
    assert {tuple(p) for p in pairs[pareto(pairs[:, 0], pairs[:, 1])]} == {tuple(p) for p in pairs[nondominated(pairs)]}


def test_the_front_of_three_costs_is_found_among_very_many(rng: np.random.Generator) -> None:
    for values in (3, 40, 10**6):
        points = rng.integers(0, values, size=(300, 3)).astype(float)
        order = np.lexsort(points.T[::-1])
        alone = [index for place, index in enumerate(order) if not any((points[other] <= points[index]).all() for other in order[:place])]
        assert nondominated(points).tolist() == alone
        more = np.column_stack([points, rng.integers(0, values, size=300)])
        order = np.lexsort(more.T[::-1])
        assert nondominated(more).tolist() == [
            index for place, index in enumerate(order) if not any((more[other] <= more[index]).all() for other in order[:place])
        ]
    sphere = np.abs(rng.normal(size=(100_000, 3)))
    sphere = 1 - sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
    assert len(nondominated(sphere)) == len(sphere), "none beats another; comparing each with each takes many minutes"


def test_options_are_compared_within_their_groups_only(rng: np.random.Generator) -> None:
    """Groups of one, of a few, and of more than are looked at together, of which each is what it is alone."""
    groups = np.concatenate([np.full(size, number) for number, size in enumerate([1, 1, 5, 5, 5, 40, 96, 97, 1500])])
    points = rng.integers(0, 30, size=(len(groups), 3)).astype(float)
    order = rng.permutation(len(groups))
    groups, points = groups[order], points[order]
    alone = [np.flatnonzero(groups == number)[nondominated(points[groups == number])] for number in range(9)]
    assert nondominated_within(groups, points).tolist() == sorted(np.concatenate(alone).tolist())


def test_results_survive_a_file(digits: SearchSpace, toy: SearchSpace, roofline_table: LatencyTable, tmp_path: Path) -> None:
    result = hwsearch.search(digits, predictor=Rugged(digits), device=roofline_table, limits={"latency_ms": 0.3}, run=hwsearch.Run(steps=3))
    path = result.save(tmp_path / "result.json")
    loaded = load_result(path)
    assert loaded.best == result.best
    assert (loaded.best_score, loaded.values, loaded.limits, loaded.status) == (
        result.best_score,
        result.values,
        result.limits,
        result.status,
    )
    assert loaded.history == result.history
    assert np.array_equal(loaded.front.X, result.front.X)
    assert repr(loaded) == repr(result)
    page = loaded._repr_html_()
    assert "<td>0.3</td>" in page
    assert "stage1" in page
    with pytest.raises(WrongSpace):
        load_result(path, toy)
    text = path.read_text()
    path.write_text(text.replace('"front"', '"frond"'))
    with pytest.raises(CorruptFile, match="front"):
        load_result(path)
    path.write_text(text[:-30])
    with pytest.raises(CorruptFile):
        load_result(path)


def test_infeasible_limits_are_answered_before_anything_is_evaluated(digits: SearchSpace, roofline_table: LatencyTable) -> None:
    score = Rugged(digits)
    least = metric("latency_ms", digits, roofline_table).lower_bound
    with pytest.raises(Infeasible, match=f"faster than {least:.6g} ms"):
        hwsearch.search(digits, predictor=score, device=roofline_table, limits={"latency_ms": least / 2})
    assert not score.asked


def test_limits_that_nothing_was_found_for_name_the_nearest(digits: SearchSpace) -> None:
    least = metric("macs", digits).lower_bound
    problem = hwsearch.Problem.of(digits, predictor=Rugged(digits), limits={"macs": least})
    unlucky, algorithm = replace(problem, seeds=problem.seeds[:0]), RandomSearch(population=4)
    state = hwsearch.step(hwsearch.init(unlucky, algorithm))
    with pytest.raises(Infeasible, match=r"None of 4 architectures tried meets macs <= .* The nearest has macs .*% over"):
        hwsearch.result(state)
    with pytest.raises(Infeasible, match="take at least one step"):
        hwsearch.result(hwsearch.init(unlucky, algorithm))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"problem": "resnet_cifra"}, UnknownName, "Did you mean 'resnet_cifar'"),
        ({"algorithm": "evolutoin"}, UnknownName, "Did you mean 'evolution'"),
        ({"predictor": 3}, InvalidInput, "predictor must be"),
        ({"predictor": "absent.npz"}, FileError, "Cannot read predictor absent.npz"),
        ({"predictor": lambda X: np.zeros((len(X), 2))}, InvalidInput, "one score a row"),
        ({"predictor": lambda X: np.full(len(X), np.nan)}, InvalidInput, "not finite"),
        ({"run": hwsearch.Run(steps=0)}, InvalidInput, "at least 1"),
        ({"seed": -1}, InvalidInput, "at least 0"),
        ({"seed": 1.0}, InvalidInput, "at least 0"),
        ({"seed": 10**400}, InvalidInput, "at most"),
        ({"predictor": lambda X: np.array(["high"] * len(X))}, InvalidInput, "real number"),
        ({"predictor": lambda X: [None] * (len(X) - 1) + ["high"]}, InvalidInput, "no array of numbers"),
        ({"predictor": lambda X: X.sum(axis=1) * 1j}, InvalidInput, "complex128"),
        ({"limits": {"macs": 10**400}}, InvalidLimit, "infinite"),
        ({"limits": {"macs": -(10**400)}}, InvalidLimit, "infinite"),
        ({"limits": {"latency_ms": 1.0}}, InvalidInput, "name a device's latency table"),
        ({"device": "absent"}, FileError, "absent"),
    ],
)
def test_bad_input_is_refused_with_the_reason(options: dict[str, object], error: type[Exception], words: str) -> None:
    arguments = {"problem": "resnet_digits", "predictor": lambda X: X.sum(axis=1), "run": hwsearch.Run(steps=1), **options}
    with pytest.raises(error, match=words):
        hwsearch.search(**arguments)  # type: ignore[arg-type]


def test_the_uniform_baseline_has_equal_fractions_and_meets_the_limits(digits: SearchSpace, roofline_table: LatencyTable) -> None:
    dense = hwsearch.searching.dense(digits)
    latency = metric("latency_ms", digits, roofline_table)
    most = float(latency(dense.genes[None])[0])
    for share in (1.0, 0.6, 0.3):
        limits = {"latency_ms": most * share}
        network = hwsearch.searching.uniform(digits, limits=limits, predictor=lambda X: X.sum(axis=1), device=roofline_table)
        values = network.values()
        assert latency(network.genes[None])[0] <= most * share
        assert len({value for name, value in values.items() if name.endswith("precision")}) == 1
        searched = hwsearch.search(digits, predictor=lambda X: X.sum(axis=1), device=roofline_table, limits=limits)
        assert searched.best_score >= network.genes.sum()
    assert hwsearch.searching.dense(digits).values()["stage3.out"] == 48
    for baseline in (hwsearch.searching.uniform, hwsearch.searching.scaled):
        with pytest.raises(Infeasible):
            baseline(digits, limits={"latency_ms": 1e-6}, predictor=lambda X: X.sum(axis=1), device=roofline_table)


def test_the_scaled_baseline_gives_up_depth_and_resolution_where_that_is_better(digits: SearchSpace, roofline_table: LatencyTable) -> None:
    """Uniform widths keep them full as long as any width is within the limit."""
    wide = [choice.name for choice in digits.choices].index("stage1.out")
    widest = lambda X: X[:, wide].astype(float)  # noqa: E731
    limits = {"latency_ms": 0.5 * roofline_table.predict(hwsearch.searching.dense(digits).blocks())}
    posed = {"limits": limits, "predictor": widest, "device": roofline_table}
    uniform, scaled = hwsearch.searching.uniform(digits, **posed), hwsearch.searching.scaled(digits, **posed)
    assert uniform.values()["resolution"] == 16 > scaled.values()["resolution"]
    assert uniform.values()["stage1.depth"] == 2 > scaled.values()["stage1.depth"]
    assert uniform.values()["stage1.out"] < scaled.values()["stage1.out"]
    assert roofline_table.predict(scaled.blocks()) <= limits["latency_ms"]


def test_seeds_of_numpy_are_seeds(digits: SearchSpace, tmp_path: Path) -> None:
    plain, same = (hwsearch.search(digits, predictor=Rugged(digits), seed=seed, run=hwsearch.Run(steps=2)) for seed in (3, np.int64(3)))
    assert plain.best == same.best
    assert load_result(same.save(tmp_path / "r.json"), digits).seed == 3


def test_every_verb_refuses_what_is_no_seed(digits: SearchSpace, rng: np.random.Generator) -> None:
    X = digits.sample(40, rng)
    score = Rugged(digits)
    verbs = (
        lambda seed: hwsearch.search(digits, predictor=score, seed=seed, run=hwsearch.Run(steps=1)),
        lambda seed: hwsearch.sweep(digits, predictor=score, limits={"macs": [1e9]}, seed=seed, run=hwsearch.Run(steps=1)),
        lambda seed: hwsearch.init(hwsearch.Problem.of(digits, predictor=score), RandomSearch(), seed),
        lambda seed: hwsearch.cheapest(digits, "macs", 0.0, predictor=score, seed=seed, run=hwsearch.Run(steps=1)),
        lambda seed: hwsearch.measure([digits.blocks(X[0])], backend="roofline", rounds=1, seed=seed),
        lambda seed: hwsearch.profile(digits, backend="roofline", out="no.json", seed=seed),
        lambda seed: hwsearch.Predictor.fit(digits, X, score(X), seed=seed),
        lambda seed: hwsearch.costs.fit_metric("ms", digits, X, np.ones(len(X)), seed=seed),
    )
    for verb in verbs:
        for seed in (-1, np.int64(-1), 0.5, "3", True, None):
            with pytest.raises(InvalidInput, match="seed must be a whole number of at least 0"):
                verb(seed)


def test_an_unknown_metric_is_told_each_known_one_once(digits: SearchSpace) -> None:
    with pytest.raises(UnknownName) as caught:
        hwsearch.search(digits, predictor=Rugged(digits), limits={"latency": 1.0})
    assert str(caught.value).count("params") == 1
