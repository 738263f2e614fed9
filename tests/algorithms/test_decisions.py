"""Networks decided gene by gene: what agents see and do, and that no network exceeds a limit."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import hwsearch
from hwsearch import SearchSpace, interop, metric
from hwsearch.algorithms import CompressionEnv, Guaranteed, Problem
from hwsearch.algorithms._decisions import Decisions, play
from hwsearch.algorithms._to_go import CostToGo
from hwsearch.costs import Metric
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.spaces import Choice, Sum
from hwsearch.testing import example_space, rugged

MEASURED = ("latency_ms", "energy_mj")
METRICS = (*MEASURED, "macs", "bitops", "params", "size_mb", "peak_memory_mb")


def posed(space: SearchSpace, table: hwsearch.LatencyTable, shares: dict[str, float]) -> Problem:
    """A problem whose limits leave that share of the way from the least to the most."""
    bounds = {name: metric(name, space, table if name in MEASURED else None) for name in shares}
    limits = {
        name: bound.lower_bound + shares[name] * (metric_of_largest(space, bound) - bound.lower_bound) for name, bound in bounds.items()
    }
    return Problem.of(space, predictor=lambda X: X.sum(axis=1), device=table, limits=limits)


def metric_of_largest(space: SearchSpace, cost: Metric) -> float:
    return float(cost(np.array([[size - 1 for size in space.sizes]], dtype=np.uint8))[0])


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("wall", ["clip", "lower"])
def test_10_000_random_networks_meet_the_limit(
    name: str, wall: str, digits: SearchSpace, roofline_table: hwsearch.LatencyTable, rng: np.random.Generator
) -> None:
    problem = posed(digits, roofline_table, {name: 0.3})
    rows, _, _ = play(Decisions(problem, wall), 10_000, lambda seen: rng.random(len(seen)))
    costs = problem.costs(rows)
    assert len(rows) == 10_000
    assert costs.max() <= 1.0
    assert len(np.unique(rows, axis=0)) > 200
    free = digits.sample(10_000, rng)
    assert (problem.costs(free) <= 1.0).mean() < 0.9  # the limit is one that random networks exceed


def test_several_limits_hold_together(digits: SearchSpace, roofline_table: hwsearch.LatencyTable, rng: np.random.Generator) -> None:
    problem = posed(digits, roofline_table, {"latency_ms": 0.4, "size_mb": 0.3, "peak_memory_mb": 0.6})
    for wall in ("clip", "lower"):
        rows, _, _ = play(Decisions(problem, wall), 2_000, lambda seen: rng.random(len(seen)))
        assert problem.costs(rows).max() <= 1.0
        assert len(np.unique(rows, axis=0)) > 200


@pytest.mark.parametrize("name", ["time", "peak_memory_mb"])
def test_what_can_still_become_is_what_looking_at_every_completion_finds(name: str, rng: np.random.Generator) -> None:
    space = example_space().restrict({"width1": [8, 32], "depth": [1, 3]})
    cost = metric(name, space)
    sizes = tuple(map(len, space.allowed))
    to_go = CostToGo(cost.tables.within(space.allowed), sizes)
    every = np.concatenate(list(space.enumerate()))
    awake, values = space.awake(every), cost(every)
    assert to_go.lowest == values.min()
    for row in every[rng.integers(len(every), size=30)]:
        places = np.array([[allowed.index(index) for allowed, index in zip(space.allowed, space.awake(row[None])[0], strict=True)]])
        now = np.array([to_go.lowest])
        for gene in range(len(sizes)):
            after = to_go.after(gene, places.astype(np.uint8), now)
            if space.active(row[None])[0, gene]:
                like = (awake[:, :gene] == space.awake(row[None])[:, :gene]).all(axis=1)
                wanted = [values[like & (awake[:, gene] == index)].min() for index in space.allowed[gene]]
                assert after[0].tolist() == wanted
            now = after[:, places[0, gene]]
        assert now[0] == cost(row[None])[0]


def test_channels_that_genes_add_up_to_are_taken_apart(rng: np.random.Generator) -> None:
    """Costs over sums of genes, as of what reads a concatenation, are met as exactly as others."""
    widths = dict.fromkeys("abcd", (8, 16, 24))
    joint, two = Sum.of(widths, base=3), Sum.of({"a": widths["a"], "c": widths["c"]})
    tables = {"time": [([joint], joint.values**1.5), (["b", two], rng.random((3, len(two)))), (["d"], [1.0, 0.5, 2.0])]}
    space = SearchSpace.from_tables(widths, tables)
    cost = metric("time", space)
    limit = float(cost.lower_bound * 1.5)
    problem = Problem.of(space, predictor=lambda X: X.sum(axis=1), limits={"time": limit})
    rows, _, _ = play(Decisions(problem), 2_000, lambda seen: rng.random(len(seen)))
    assert cost(rows).max() <= limit
    every = np.concatenate(list(space.enumerate()))
    assert len(np.unique(rows, axis=0)) == (cost(every) <= limit).sum()  # and none within the limit is out of reach


def test_actions_are_clipped_no_further_than_the_limit_asks() -> None:
    space = SearchSpace.from_tables({"first.mid": (8, 16, 24, 32), "second.mid": (8, 16)}, {
        "time": [(["first.mid"], [1.0, 2.0, 3.0, 4.0]), (["second.mid"], [1.0, 2.0])]
    })  # fmt: skip
    problem = Problem.of(space, predictor=lambda X: X.sum(axis=1), limits={"time": 4.0})
    env = CompressionEnv(problem)
    env.reset()
    env.step(np.ones(1))
    assert env.gene == "second.mid"
    _, reward, done, _, told = env.step(np.ones(1))
    assert done
    assert space.decode(told["row"]) == {"first.mid": 24, "second.mid": 8}
    assert reward == told["score"] == problem.score(told["row"][None])[0]


def test_widths_are_at_least_what_is_asked_for_and_bits_in_equal_parts() -> None:
    space = SearchSpace.from_tables([Choice("a.mid", (10, 50, 60)), Choice("a.weight_bits", (2, 4, 6, 8))], {})
    plan = Decisions(Problem.of(space, predictor=lambda X: X.sum(axis=1)))
    for actions, wanted in (((0.0, 0.0), (10, 2)), ((0.45, 0.3), (50, 4)), ((0.9, 0.74), (60, 6)), ((1.0, 1.0), (60, 8))):
        walk = plan.start()
        for action in actions:
            walk.act(np.array([action]))
        assert tuple(space.decode(walk.rows()[0]).values()) == wanted


@pytest.mark.parametrize("values", [(8, 16), (8, 16, 24), (10, 50, 60), (96, 128, 160, 192, 224)])
def test_each_width_comes_up_at_random_the_least_as_often_as_the_next(values: tuple[int, ...], rng: np.random.Generator) -> None:
    space = SearchSpace.from_tables([Choice("a.mid", values)], {})
    rows, _, _ = play(Decisions(Problem.of(space, predictor=lambda X: X.sum(axis=1))), 10_000, lambda seen: rng.random(len(seen)))
    steps = np.diff([2 * values[0] - values[1], *values])
    assert np.bincount(rows[:, 0], minlength=len(values)) / 10_000 == pytest.approx(steps / steps.sum(), abs=0.03)


def test_a_network_beyond_the_limits_has_less_reward_than_any_that_was_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace.from_tables({"first.mid": (8, 16), "second.mid": (8, 16)}, {"time": [(["first.mid"], [1.0, 2.0])]})
    problem = Problem.of(space, predictor=lambda X: X.sum(axis=1) - 4.0, limits={"time": 2.0})
    answers = iter([(-4.0, 1.0), (-2.0, 1.0), (np.nan, 1.1), (np.nan, 3.0)])

    def evaluate(self: Problem, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        score, cost = next(answers)
        return np.array([score]), np.array([[cost]])

    monkeypatch.setattr(Problem, "evaluate", evaluate)
    env, rewards = CompressionEnv(problem), []
    for _ in range(4):
        env.reset()
        env.step(np.ones(1))
        rewards.append(env.step(np.ones(1))[1])
    assert rewards[:2] == [-4.0, -2.0]
    assert rewards[3] < rewards[2] < min(rewards[:2])


def test_an_agent_sees_the_layer_and_the_course_of_the_costs(digits: SearchSpace, roofline_table: hwsearch.LatencyTable) -> None:
    problem = posed(digits, roofline_table, {"macs": 0.5})
    env = CompressionEnv(problem)
    seen, _ = env.reset()
    assert seen[env.features.index("reduced_0")] == 0.0
    place, lines = {name: env.features.index(name) for name in env.features}, {}
    while (gene := env.gene) is not None:
        lines[gene] = seen
        assert seen.min() >= 0.0
        assert seen.max() <= 1.0
        seen, *_ = env.step(np.array([0.4]))
    inner = [gene for gene in lines if gene.endswith(".mid")]
    bits = [gene for gene in lines if gene.endswith("precision")]
    assert all(lines[gene][place["of_weights"]] == lines[gene][place["of_maps"]] == 1.0 for gene in bits)
    assert all(lines[gene][place["of_weights"]] == 0.0 < lines[gene][place["share_0"]] for gene in inner)
    assert lines[inner[-1]][place["channels_out"]] > lines[inner[0]][place["channels_out"]]
    assert lines[inner[-1]][place["size"]] < lines[inner[0]][place["size"]]
    saved = [line[place["reduced_0"]] for line in lines.values()]
    assert saved == sorted(saved)
    assert saved[-1] > 0.3


def test_a_depthwise_layer_is_told() -> None:
    space = hwsearch.load_space("apq")
    plan = Decisions(Problem.of(space, predictor=lambda X: X.sum(axis=1)))
    lines = {space.choices[gene].name: line for gene, line in zip(plan.genes, plan._standing, strict=True)}
    depthwise, maps = plan.features.index("depthwise"), plan.features.index("of_maps")
    assert lines["stage2.block1.depthwise.weight_bits"][depthwise] == 1.0
    assert lines["stage2.block1.pointwise.weight_bits"][depthwise] == 0.0
    assert lines["stage2.block1.depthwise.weight_bits"][maps] == 0.0
    assert lines["stage2.block1.depthwise.activation_bits"][maps] == 1.0


def test_haq_takes_bits_down_from_the_last_layer_to_the_first_until_the_limit_holds(data_folder: Path) -> None:
    """On HAQ's own table: from 8 bits everywhere, its walk ends at the first network within the limit."""
    table = interop.haq_table(data_folder / "haq" / "qmobilenetv2_imagenet100_batch16_latency_table.npy")
    space = table.space().restrict({"*_bits": list(range(2, 9))})
    cycles = metric("cycles", space)
    whole = metric_of_largest(space, cycles)
    problem = Problem.of(space, predictor=lambda X: X.sum(axis=1), limits={"cycles": 0.6 * whole})
    rows, _, _ = play(Decisions(problem, "lower"), 1, lambda seen: np.ones(len(seen)))
    assert 0.59 < cycles(rows)[0] / whole <= 0.6
    found = [int(value) for value in space.decode(rows[0]).values()]
    assert set(found) <= set(range(min(found), min(found) + 2))  # no layer is two bits ahead of another
    assert found == sorted(found, reverse=True)  # the last ones were taken down last bit first
    more = rows.copy()
    more[0, [value == min(found) for value in found].index(True)] += 1
    assert cycles(more)[0] > 0.6 * whole


def test_the_environment_is_one_of_gymnasium(digits: SearchSpace, roofline_table: hwsearch.LatencyTable) -> None:
    env = CompressionEnv(posed(digits, roofline_table, {"latency_ms": 0.3}))
    assert isinstance(env, gymnasium.Env)
    check_env(env, skip_render_check=True)
    env.reset()
    assert "resolution" in env.render()


def test_the_environment_says_what_went_wrong(digits: SearchSpace, roofline_table: hwsearch.LatencyTable) -> None:
    problem = posed(digits, roofline_table, {"macs": 0.5})
    with pytest.raises(UnknownName, match="wall 'lowre'"):
        CompressionEnv(problem, wall="lowre")
    env = CompressionEnv(problem)
    env.reset()
    with pytest.raises(InvalidInput, match="One action from 0 to 1"):
        env.step(np.array([np.nan]))
    while env.gene is not None:
        env.step(np.zeros(1))
    with pytest.raises(InvalidInput, match="reset"):
        env.step(np.zeros(1))


def test_guaranteed_finds_smaller_networks_of_nearly_the_same_accuracy() -> None:
    space = example_space()
    accuracy = rugged(space)
    every = np.concatenate(list(space.enumerate()))
    low, high = accuracy(every).min(), accuracy(every).max()

    def share(X: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return 0.5 + 0.49 * (accuracy(X) - low) / (high - low)

    free = [choice for choice in space.choices if choice.needs is None]
    size = Metric.from_tables("bytes", space, [([choice.name], 10.0 ** np.arange(len(choice.values))) for choice in free])
    best = every[share(every).argmax()]
    found = every[Guaranteed(share, size)(every).argmax()]
    assert size(found[None])[0] <= size(best[None])[0]
    assert share(found[None])[0] > 0.97
    with pytest.raises(InvalidInput, match="divide percentages by 100"):
        Guaranteed(lambda X: 100 * share(X), size)(every)
    with pytest.raises(InvalidInput, match="smaller unit"):
        Guaranteed(share, metric("time", space))(every)
