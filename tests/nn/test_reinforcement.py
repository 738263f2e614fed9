"""AMC and HAQ: agents behind the protocol of algorithms."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

import hwsearch
from hwsearch import SearchSpace, metric
from hwsearch.algorithms import CompressionEnv, Problem, load_algorithm
from hwsearch.errors import Infeasible, InvalidInput
from hwsearch.nn.reinforcement import AMC, HAQ, Agent, Learning
from hwsearch.nn.reinforcement._agent import _noisy, _spread
from hwsearch.nn.reinforcement._learner import Learner, _Memory
from hwsearch.searching import load_result
from hwsearch.testing import check_algorithm, example_space, rugged

torch.set_num_threads(1)
QUICK = Learning(units=(24, 24), batch=16)
SMALL: dict[str, Callable[[], Agent]] = {
    "amc": lambda: AMC(warmup=8, population=2, learning=QUICK),
    "haq": lambda: HAQ(warmup=8, population=2, learning=QUICK),
}


@pytest.mark.parametrize("name", SMALL)
def test_an_agent_keeps_the_contract_of_algorithms(name: str) -> None:
    check_algorithm(SMALL[name], steps=3)


def test_the_settings_are_those_of_the_papers() -> None:
    amc, haq = load_algorithm("amc"), load_algorithm("haq")
    assert isinstance(amc, AMC)
    assert isinstance(haq, HAQ)
    assert (amc.warmup, amc.warmup + amc.steps - 1, amc.noise, amc.decay, amc.memory, amc.population) == (100, 800, 0.5, 0.95, 100, 1)
    assert (haq.warmup, haq.warmup + haq.steps - 1, haq.noise, haq.decay, haq.memory, haq.population) == (20, 600, 0.5, 0.99, 128, 1)
    assert amc.learning == haq.learning == Learning((300, 300), 1e-4, 1e-3, 64, 1.0, 0.01, 0.5)


def target(space: SearchSpace, wanted: float = 0.6) -> Callable[[np.ndarray], np.ndarray]:  # type: ignore[type-arg]
    """A score that is best where every gene stands at that share of its values."""
    middle = wanted * (np.array(space.sizes) - 1)
    return lambda X: -np.abs((X - middle) / (np.array(space.sizes) - 1)).mean(axis=1)


@pytest.mark.parametrize("name", ["amc", "haq"])
def test_an_agent_learns(name: str) -> None:
    """The networks that it decides at last are far better than those that it decides at random, within the same limit."""
    space = SearchSpace.from_tables(
        {f"layer{layer}.mid": tuple(range(8, 72, 8)) for layer in range(6)},
        {"time": [([f"layer{layer}.mid"], np.arange(8.0)) for layer in range(6)]},
    )
    problem = Problem.of(space, predictor=target(space), limits={"time": 30.0})
    algorithm = AMC(warmup=60, steps=160) if name == "amc" else HAQ(warmup=60, steps=160, decay=0.97)
    state = hwsearch.init(problem, algorithm)
    for _ in range(120):
        state = hwsearch.step(state)
    first, late = state.memory.X[:40], state.memory.scores[state.memory.networks[-6 * 20 :: 6]]
    at_random = problem.score(first)
    assert np.mean(late) > np.mean(at_random) + 1.5 * np.std(at_random)


def test_a_reward_belongs_to_all_decisions_of_its_network_and_less_their_average() -> None:
    problem = Problem.of(example_space(), predictor=rugged(example_space()), limits={"time": 9.0})
    state = hwsearch.init(problem, AMC(warmup=10, learning=QUICK))
    state = hwsearch.step(hwsearch.step(state))
    memory = state.memory
    ends = np.flatnonzero(memory.memory[:, -1])
    assert len(ends) == 10  # those of the second step are learned from in the third
    for first, last in zip([0, *(ends[:-1] + 1)], ends, strict=True):
        assert len(set(memory.rewards[first : last + 1])) == 1
        assert memory.rewards[first] * memory.spread == pytest.approx(state.scores[memory.networks[first]])
    recent = _Memory(memory.memory, memory.rewards, float("nan"), 0.5, np.random.default_rng(0))
    assert float(recent.sample(64).rewards.mean()) == pytest.approx(0.0, abs=1e-5)  # it begins with the mean of the first batch
    before = recent.average
    drawn = recent.sample(64)
    assert recent.average == pytest.approx(0.5 * (before + float(drawn.rewards.mean()) + recent.average), rel=1e-4)


@pytest.mark.parametrize(("scale", "zero"), [(1.0, 1000.0), (1e-4, -0.1)])
def test_the_unit_and_the_zero_of_a_score_change_nothing(scale: float, zero: float) -> None:
    space = example_space()
    problem = Problem.of(space, predictor=rugged(space), limits={"time": 9.0})
    algorithm = AMC(warmup=8, noise=0.05, learning=Learning(units=(24, 24), actor_rate=0.01, critic_rate=0.01, batch=16))
    given = hwsearch.init(problem, algorithm)
    other = hwsearch.init(problem.having(lambda X: scale * rugged(space)(X) + zero), algorithm)
    for _ in range(20):
        given, other = hwsearch.step(given), hwsearch.step(other)
    assert np.array_equal(given.X, other.X)


def test_a_score_that_is_always_the_same_is_no_reward_to_divide_by() -> None:
    assert _spread(np.full(100, 0.1)) == 0.0
    assert _spread(1e-9 * np.arange(3.0)) == pytest.approx(1e-9 * np.sqrt(2 / 3))


def test_networks_without_a_score_are_rewarded_less_than_any_with_one_and_by_their_own_excess() -> None:
    """However late the worst score comes, and in whatever order networks beyond the limits do."""
    problem = Problem.of(example_space(), predictor=rugged(example_space()), limits={"time": 9.0})
    agent = AMC(warmup=10, learning=QUICK)
    state, X = agent.init(problem), problem.space.sample(6, np.random.default_rng(0))
    told = [(np.nan, 1.0), (np.nan, 3.0), (np.nan, 2.0), (np.nan, 1.1), (-4.0, 1.0), (2.0, 1.0)]
    for row, (score, cost) in zip(X, told, strict=True):
        state = agent.tell(state, row[None], np.array([score]), np.array([[cost]]))
    rewards = replace(state, networks=np.arange(6)).rewards
    assert rewards.tolist() == pytest.approx([-5.0, -7.0, -6.0, -5.1, -4.0, 2.0])


def test_the_bench_of_the_lineage_has_both_agents_and_says_which_methods_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import lineage

    assert {"amc", "haq"} <= set(lineage.ways())
    with pytest.raises(SystemExit):
        lineage.main(["macro", "nowhere", "--methods", "amcc"])
    assert "invalid choice: 'amcc'" in capsys.readouterr().err


def test_noise_is_a_truncated_normal_that_narrows(rng: np.random.Generator) -> None:
    wide = _noisy(np.full(4000, 0.9), 0.5, rng)
    assert 0.0 <= wide.min() < 0.05
    assert 0.95 < wide.max() <= 1.0
    assert np.mean(wide) < 0.65  # cut off and drawn again, not clipped to the edge
    assert (wide == 1.0).mean() < 0.01
    assert np.std(_noisy(np.full(4000, 0.5), 0.5 * 0.95**40, rng)) == pytest.approx(0.5 * 0.95**40, rel=0.1)


def test_an_agent_is_one_array_and_learns_on_from_it(rng: np.random.Generator) -> None:
    problem = Problem.of(example_space(), predictor=rugged(example_space()))
    env = CompressionEnv(problem)
    lines = rng.random((50, 2 * len(env.features) + 2)).astype(np.float32)
    lines[:, -1] = np.arange(50) % 5 == 4
    rewards = rng.random(50)
    one, two = Learner(env, QUICK, 1), Learner(env, QUICK, 2)
    one.learn(lines, rewards, 0.0, 7, np.random.default_rng(1))
    two.load(one.state(), 7)
    assert np.array_equal(one.state(), two.state())
    for learner in (one, two):
        learner.learn(lines, rewards, 0.3, 7, np.random.default_rng(2))
    assert np.array_equal(one.state(), two.state())
    assert np.array_equal(one.act(lines[:, : len(env.features)]), two.act(lines[:, : len(env.features)]))
    with pytest.raises(InvalidInput, match="Begin the search anew"):
        two.load(one.state()[:-1], 14)


def test_limits_that_cannot_be_met_are_refused_and_a_state_of_other_settings_too(tmp_path: Path) -> None:
    space = example_space()
    with pytest.raises(Infeasible):
        hwsearch.search(space, predictor=rugged(space), limits={"time": 1e-6}, algorithm="amc")
    run = hwsearch.Run(steps=2, state=tmp_path / "state.npz")
    hwsearch.search(space, predictor=rugged(space), algorithm=SMALL["amc"](), run=run)
    with pytest.raises(InvalidInput, match="algorithm"):
        hwsearch.search(space, predictor=rugged(space), algorithm=SMALL["haq"](), run=run)


def test_an_agent_without_new_ideas_is_done_also_within_a_budget_of_evaluations() -> None:
    space = SearchSpace.from_tables({"only.mid": (8, 16, 24)}, {})
    found = hwsearch.search(
        space,
        predictor=lambda X: X.sum(axis=1),
        algorithm=AMC(warmup=12, decay=0.5, patience=10, learning=QUICK),
        run=hwsearch.Run(evaluations=100, progress=False),
    )
    assert found.best_score == 2
    assert len(found.history) < 40


KILLED = """
import json, sys, time
import hwsearch
from hwsearch.nn.reinforcement import AMC, Learning
from hwsearch.testing import example_space, rugged

space = example_space()
score = rugged(space)

def slow(X):
    time.sleep(float(sys.argv[2]))
    return score(X)

result = hwsearch.search(
    space, predictor=slow, limits={"time": 9.0}, algorithm=AMC(warmup=8, learning=Learning(units=(24, 24), batch=16)),
    run=hwsearch.Run(steps=12, state=sys.argv[1], progress=False),
)
open(sys.argv[1] + ".found.json", "w").write(json.dumps([result.best.genes.tolist(), list(map(dict, result.history))]))
"""


def test_a_killed_search_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    def started(name: str, wait: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / name), wait], cwd=ROOT)

    assert started("whole", "0").wait() == 0
    process = started("killed", "0.5")
    while not (tmp_path / "killed").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.6)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.found.json").exists()
    assert started("killed", "0").wait() == 0
    assert (tmp_path / "whole.found.json").read_text() == (tmp_path / "killed.found.json").read_text()


def test_an_adopted_network_is_searched_by_both_agents() -> None:
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    space = hwsearch.adopt(nn.Sequential(*layers, nn.Linear(24, 10)).eval(), torch.randn(2, 3, 16, 16))
    half = 0.5 * float(metric("macs", space)(np.array([[size - 1 for size in space.sizes]], dtype=np.uint8))[0])
    for algorithm in SMALL.values():
        result = hwsearch.search(
            space, predictor=lambda X: X.sum(axis=1), limits={"macs": half}, algorithm=algorithm(), run=hwsearch.Run(steps=4)
        )
        assert result.values["macs"] <= half
    env = CompressionEnv(Problem.of(space, predictor=lambda X: X.sum(axis=1), limits={"macs": half}))
    seen, _ = env.reset()
    assert seen[env.features.index("channels_out")] > 0.0


def test_amc_from_the_shell(tmp_path: Path, roofline_table: hwsearch.LatencyTable) -> None:
    table, predictor, out = tmp_path / "table.json", tmp_path / "predictor.npz", tmp_path / "result.json"
    roofline_table.save(table)
    space = hwsearch.load_space("resnet_digits")
    X = space.sample(60, np.random.default_rng(0))
    hwsearch.Predictor.fit(space, X, X.mean(axis=1), kind="linear").save(predictor)
    command = ["search", "resnet_digits", "-d", str(table), "-p", str(predictor), "-l", "latency_ms=0.2", "--algorithm", "amc"]
    done = subprocess.run(
        [sys.executable, "-m", "hwsearch", *command, "--steps", "3", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = load_result(out)
    assert found.values["latency_ms"] <= 0.2
    assert "AMC" in str(found.provenance["algorithm"]) or "amc" in str(found.provenance["algorithm"])
