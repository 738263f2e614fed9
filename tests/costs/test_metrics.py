"""Metrics and limits: two roads to one number, exact minima, and clear refusals."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsearch
from hwsearch.costs._limits import Limit, check_limits, prove_feasible
from hwsearch.costs._metrics import METRICS, Metric, metric, values_of
from hwsearch.devices import LatencyTable
from hwsearch.errors import Infeasible, InvalidInput, InvalidLimit, MissingBlocks, UnknownName
from hwsearch.networks import Block
from hwsearch.spaces import SearchSpace, TableSum, _tables

BY_HAND: dict[str, Callable[[tuple[Block, ...], LatencyTable], float]] = {
    "latency_ms": lambda blocks, table: table.predict(blocks),
    "energy_mj": lambda blocks, table: table.costs(blocks, "energy_mj").sum(),
    "macs": lambda blocks, table: sum(block.macs for block in blocks),
    "bitops": lambda blocks, table: sum(block.bitops for block in blocks),
    "params": lambda blocks, table: sum(block.params for block in blocks),
    "size_mb": lambda blocks, table: sum(block.weight_bytes for block in blocks) / 1e6,
    "peak_memory_mb": lambda blocks, table: max(block.activation_bytes for block in blocks) / 1e6,
}


@pytest.mark.parametrize("name", METRICS)
def test_two_roads(name: str, digits: SearchSpace, roofline_table: LatencyTable, rng: np.random.Generator) -> None:
    """The compiled metric equals the sum (or maximum) over the network's blocks."""
    compiled = metric(name, digits, roofline_table)
    X = digits.sample(200, rng)
    for row, value in zip(X, compiled(X), strict=True):
        assert value == pytest.approx(BY_HAND[name](digits.blocks(row), roofline_table), rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_the_lower_bound_is_the_least_and_is_reached(name: str, toy: SearchSpace, roofline_table: LatencyTable) -> None:
    for space in (toy, toy.restrict({"*.precision": ["fp32"], "stage1.depth": [2]})):
        compiled = metric(name, space, roofline_table)
        least = min(compiled(X).min() for X in space.enumerate())
        assert compiled.lower_bound == pytest.approx(least, rel=1e-12)
        assert compiled.minimum is not None
        assert compiled(compiled.minimum[None])[0] == pytest.approx(least, rel=1e-12)
        values = space.decode(compiled.minimum)
        assert space is toy or (values["stage1.depth"] == 2 and values["stem.precision"] == "fp32")


def test_several_metrics_at_once_are_the_same_as_one_by_one(
    digits: SearchSpace, roofline_table: LatencyTable, rng: np.random.Generator
) -> None:
    compiled = [metric(name, digits, roofline_table) for name in METRICS]
    X = digits.sample(9000, rng)
    together = values_of(compiled, X)
    assert together.shape == (9000, len(METRICS))
    for column, entry in enumerate(compiled):
        assert np.array_equal(together[:, column], entry(X))
    assert values_of(compiled, X[:0]).shape == (0, len(METRICS))


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], list[_tables.Table]]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    found: list[_tables.Table] = []
    for _ in range(draw(st.integers(1, 8))):
        genes = draw(st.lists(st.integers(0, len(sizes) - 1), unique=True, max_size=3))
        found.append(_tables.table(genes, rng.integers(-9, 10, size=[sizes[gene] for gene in genes]).astype(float)))
    return sizes, found


@settings(max_examples=150, deadline=None)
@given(problem=tables(), peak=st.booleans())
def test_elimination_finds_what_enumeration_finds(problem: tuple[list[int], list[_tables.Table]], peak: bool) -> None:
    sizes, entries = problem
    op = np.maximum if peak else np.add
    everything = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1).reshape(-1, len(sizes))

    def total(some: tuple[_tables.Table, ...] | list[_tables.Table]) -> np.ndarray:
        return op.reduce([array[tuple(everything[:, gene] for gene in genes)] * np.ones(len(everything)) for genes, array in some])

    value, chosen = _tables.minimise(entries, op)
    totals = total(entries)
    assert value == totals.min()
    at = np.array([chosen.get(gene, 0) for gene in range(len(sizes))])
    assert totals[(everything == at).all(axis=1)][0] == value
    assert np.array_equal(total(_tables.fold(entries, op, most=16)), totals)


@settings(max_examples=60, deadline=None)
@given(problem=tables(), peak=st.booleans())
def test_a_table_sum_is_what_its_tables_add_up_to(problem: tuple[list[int], list[_tables.Table]], peak: bool) -> None:
    """Values, minima, restrictions and arithmetic of whole numbers, which are exact."""
    sizes, found = problem
    entries = [(genes, abs(array)) for genes, array in found] if peak else found
    whole = _tables.TableSum(tuple(entries), peak)
    X = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1).reshape(-1, len(sizes)).astype(np.uint8)
    op = np.maximum if peak else np.add
    expected = [float(op.reduce([array[tuple(row[list(genes)])] for genes, array in entries])) for row in X]
    assert whole(X).tolist() == expected
    value, chosen = whole.minimum
    assert chosen is not None
    assert value == min(expected)
    assert whole.within([[size - 1] for size in sizes]).minimum[0] == expected[-1]
    if peak:
        with pytest.raises(InvalidInput, match="only sums of tables can be added"):
            _ = whole + whole
    else:
        assert (whole + whole * 2 - whole)(X).tolist() == [2 * each for each in expected]
        assert (-whole)(X).tolist() == [-each for each in expected]
        assert pickle.loads(pickle.dumps(whole))(X).tolist() == expected, "sums travel to the workers of an executor"


def test_the_search_is_offered_only_precisions_that_the_device_has(digits: SearchSpace, roofline_table: LatencyTable) -> None:
    rows = {key: row for key, row in roofline_table.rows.items() if key.endswith("fp32")}
    table = LatencyTable(roofline_table.device, roofline_table.protocol, rows)
    with pytest.raises(MissingBlocks, match=r"blocks of 'resnet_digits' are not in .*: hwsearch profile resnet_digits --backend"):
        metric("latency_ms", digits, table)
    result = hwsearch.search(digits, predictor=lambda X: X.sum(axis=1), device=table, run=hwsearch.Run(steps=2))
    assert {value for name, value in result.best.values().items() if name.endswith("precision")} == {"fp32"}


def test_unknown_and_unmeasured_metrics_are_refused(digits: SearchSpace) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'latency_ms'"):
        metric("latency", digits)
    with pytest.raises(InvalidInput, match="name a device's latency table"):
        metric("latency_ms", digits)


@pytest.mark.parametrize(
    ("limits", "error", "words"),
    [
        ({"latency": 1.0}, UnknownName, "latency_ms"),
        ({"macs": -1}, InvalidLimit, "never negative"),
        ({"macs": float("nan")}, InvalidLimit, "NaN"),
        ({"macs": float("inf")}, InvalidLimit, "leave it out"),
        ({"macs": "many"}, InvalidLimit, "'many'"),
        ({"macs": True}, InvalidLimit, "True"),
        ({"macs": None}, InvalidLimit, "None"),
        ([("macs", 1)], InvalidInput, "must map metric names"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        check_limits(limits)  # type: ignore[arg-type]


def test_an_unreachable_limit_names_the_least_reachable_value(toy: SearchSpace, roofline_table: LatencyTable) -> None:
    compiled = metric("latency_ms", toy, roofline_table)
    with pytest.raises(Infeasible, match=rf"faster than {compiled.lower_bound:.6g} ms .*Raise the limit"):
        prove_feasible([Limit(compiled, compiled.lower_bound * 0.999)])
    assert len(prove_feasible([Limit(compiled, compiled.lower_bound)])) == 1
    with pytest.raises(Infeasible, match="macs <= 0"):
        prove_feasible([Limit(metric("macs", toy), 0.0)])


def contradiction() -> SearchSpace:
    """A space where less of one metric means more of another: a wide first layer is followed by a narrow one."""
    from hwsearch.spaces import Choice, Slot

    def lower(width: int) -> tuple[Block, ...]:
        return (Block("conv", 3, width, 32, kernel=3), Block("conv", width, 8, 32, kernel=3, stride=8), Block("head", 8, 72 - width, 4))

    def tail(width: int) -> tuple[Block, ...]:
        return (Block("head", 4000 - 60 * width, 10, 1),)

    return SearchSpace(
        "contradiction", (Choice("width", (8, 16, 32, 64)),), (Slot("body", ("width",), lower), Slot("tail", ("width",), tail))
    )


def test_limits_that_contradict_each_other_are_refused_with_proof() -> None:
    space = contradiction()
    macs, params = metric("macs", space), metric("params", space)
    limits = [Limit(macs, macs.lower_bound * 1.1), Limit(params, params.lower_bound * 1.1)]
    for limit in limits:
        prove_feasible([limit])
    with pytest.raises(Infeasible, match=r"macs <= .* and params <= .* cannot be met together"):
        prove_feasible(limits)


def test_limits_that_can_be_met_together_are_never_refused(
    toy: SearchSpace, roofline_table: LatencyTable, rng: np.random.Generator
) -> None:
    names = ("latency_ms", "size_mb", "peak_memory_mb", "macs", "energy_mj")
    compiled = [metric(name, toy, roofline_table) for name in names]
    for row in toy.sample(30, rng):
        values = values_of(compiled, row[None])[0]
        prove_feasible([Limit(entry, float(value)) for entry, value in zip(compiled, values, strict=True)])


def test_violation_is_relative_to_the_limit(toy: SearchSpace, rng: np.random.Generator) -> None:
    compiled = metric("macs", toy)
    X = toy.sample(50, rng)
    half = Limit(compiled, float(np.median(compiled(X))))
    violation = half.violation(X)
    assert ((violation == 0) == (compiled(X) <= half.at_most)).all()
    assert violation.max() == pytest.approx(compiled(X).max() / half.at_most - 1)


def test_costs_of_ones_own_are_checked(toy: hwsearch.SearchSpace) -> None:
    """What is wrong with a table is said, and never read in silence as something else."""
    first, second = (choice.name for choice in toy.choices[:2])
    n, m = toy.sizes[:2]
    whole = np.arange(n * m, dtype=float).reshape(n, m)
    same = [Metric.from_tables("c", toy, [(names, array)]) for names, array in (([first, second], whole), ([second, first], whole.T))]
    X = toy.sample(50, np.random.default_rng(0))
    np.testing.assert_array_equal(same[0](X), same[1](X))
    np.testing.assert_array_equal(same[0](X), whole[X[:, 0], X[:, 1]])
    with pytest.raises(InvalidInput, match="must have the shape"):
        Metric.from_tables("c", toy, [([first], np.zeros(n + 1))])
    with pytest.raises(InvalidInput, match=r"Genes must ascend.*from_tables"):
        Metric("c", "", toy, TableSum((((1, 0), whole.T),)))
    with pytest.raises(InvalidInput, match=r"Genes must ascend.*from_tables"):
        Metric("c", "", toy, TableSum((((0,), np.zeros(n + 1)),)))
    assert Metric("nothing", "", toy, TableSum(())).lower_bound == 0.0


def test_a_function_is_no_metric(toy: hwsearch.SearchSpace) -> None:
    with pytest.raises(InvalidInput, match=r"metrics\[0\] is .*Metric.of_blocks"):
        hwsearch.search(toy, predictor=lambda X: X.sum(axis=1), metrics=[lambda X: X.sum(axis=1)])  # type: ignore[list-item]


def test_a_cost_of_blocks_is_limited_in_every_search(toy: hwsearch.SearchSpace) -> None:
    integers = Metric.of_blocks("int8_params", toy, lambda block: block.params if block.precision == "int8" else 0)
    X = toy.sample(200, np.random.default_rng(0))
    by_hand = [sum(block.params for block in toy.blocks(row) if block.precision == "int8") for row in X]
    np.testing.assert_array_equal(integers(X), by_hand)
    most = float(np.quantile(by_hand, 0.2))
    found = hwsearch.search(toy, "exact", predictor=hwsearch.metric("params", toy), metrics=[integers], limits={"int8_params": most})
    assert found.values["int8_params"] <= most


def test_the_least_of_tables_that_all_grow_is_known_however_entangled_they_are() -> None:
    """Every pair of 30 genes has a table, too many for one gene after the other to be decided; one that shrinks makes it unknown again."""
    growing = np.add.outer(np.arange(8.0), np.arange(8.0) // 2) + 1.0
    pairs = [((a, b), growing) for a, b in itertools.combinations(range(30), 2)]
    assert TableSum(tuple(pairs)).minimum == (435.0, dict.fromkeys(range(30), 0))
    least, row = TableSum((*pairs, ((0, 1), -9.0 * growing))).minimum
    assert row is None
    assert least == 435.0 - 9.0 * growing.max()
