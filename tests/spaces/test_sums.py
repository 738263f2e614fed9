"""Tables over sums of genes: the same as one large table, without the table."""

from __future__ import annotations

import itertools
import pickle
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwsearch import Infeasible, SearchSpace, metric, search
from hwsearch.algorithms import Memetic, _milp
from hwsearch.costs import Metric
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.spaces import Choice, Sum, TableSum


def random_sum(rng: np.random.Generator, sizes: dict[str, int], needs: dict[str, str]) -> Sum[str]:
    """A sum over some genes; one that needs another stands with it."""
    genes = rng.permutation(list(sizes))[: int(rng.integers(1, len(sizes) + 1))].tolist()
    terms = {(needs[gene], gene) if gene in needs else (gene,) for gene in genes}
    unit = int(rng.integers(1, 9))
    return Sum.of({key: unit * rng.integers(0, 5, size=[sizes[gene] for gene in key]) for key in terms}, base=int(rng.integers(-9, 9)))


def random_space(seed: int, costs: tuple[str, ...] = ("cost",)) -> SearchSpace:
    """Up to six genes, some of which need another, with costs over genes and sums."""
    rng = np.random.default_rng(seed)
    sizes = {f"g{index}": int(rng.integers(1, 5)) for index in range(int(rng.integers(2, 7)))}
    needs = {name: "g0" for name in list(sizes)[1:] if rng.random() < 0.25}
    choices = [Choice(name, tuple(range(size)), ("g0", (sizes["g0"] - 1,)) if name in needs else None) for name, size in sizes.items()]
    free = [name for name in sizes if name not in needs]
    tables = {}
    for cost in costs:
        tables[cost] = []
        sums = [random_sum(rng, sizes, needs) for _ in range(int(rng.integers(1, 4)))]
        for _ in range(int(rng.integers(1, 6))):
            axes = [*rng.permutation(free)[: int(rng.integers(0, 3))].tolist(), *rng.permutation(len(sums))[: int(rng.integers(0, 3))]]
            axes = [axis if isinstance(axis, str) else sums[axis] for axis in axes]
            shape = [sizes[axis] if isinstance(axis, str) else len(axis.values) for axis in axes]
            tables[cost].append((axes, rng.integers(0, 9, size=shape)))
    return SearchSpace.from_tables(choices, tables)


def by_hand(space: SearchSpace, tables: TableSum, row: np.ndarray) -> float:
    """What the tables say of a row, its sums added up in Python."""
    total = 0.0
    for axes, array in tables:
        cell = []
        for axis in axes:
            if isinstance(axis, int):
                cell.append(int(row[axis]))
            else:
                added = axis.base + sum(int(term.array[tuple(row[list(term.genes)])]) for term in axis.terms)
                cell.append(axis.values.tolist().index(added))
        total += float(array[tuple(cell)])
    return total


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_cost_over_sums_is_what_adding_up_by_hand_gives(seed: int) -> None:
    """Values, the least one, restrictions, arithmetic and copies of whole numbers, which are exact."""
    space = random_space(seed)
    cost = metric("cost", space)
    X = np.concatenate(list(space.enumerate()))
    expected = np.array([by_hand(space, cost.tables, row) for row in X])
    assert cost(X).tolist() == expected.tolist()
    assert cost.lower_bound == expected.min()
    assert cost.minimum is not None
    assert cost(cost.minimum[None])[0] == expected.min()
    assert (cost.tables + cost.tables * 2 - cost.tables)(X).tolist() == (2 * expected).tolist()
    assert pickle.loads(pickle.dumps(cost.tables))(X).tolist() == expected.tolist(), "sums travel to the workers of an executor"
    rng = np.random.default_rng(seed)
    kept = {choice.name: rng.permutation(choice.values)[: int(rng.integers(1, 4))].tolist() for choice in space.choices}
    narrow = space.restrict(kept)
    inside = Metric("cost", "", narrow, cost.tables)
    assert inside.lower_bound == cost(np.concatenate(list(narrow.enumerate()))).min()
    assert inside.minimum is not None
    assert cost(inside.minimum[None])[0] == inside.lower_bound


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), peak=st.booleans())
def test_what_a_change_of_one_gene_comes_to_is_what_the_changed_row_costs(seed: int, peak: bool) -> None:
    """What memetic search looks up of every change, of sums and maxima, infinite entries among them."""
    space = random_space(seed)
    rng = np.random.default_rng(seed)
    impossible = [(axes, np.where(rng.random(array.shape) < 0.05, np.inf, array)) for axes, array in metric("cost", space).tables]
    tables = TableSum(tuple(impossible), peak)
    X = space.sample(20, rng)
    genes, values = space.changes
    changed = np.repeat(X[:, None], len(genes), axis=1)
    changed[:, np.arange(len(genes)), genes] = values
    expected = tables(changed.reshape(-1, X.shape[1])).reshape(len(X), -1)
    assert tables.changed(X, genes, values).tolist() == expected.tolist()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_genes_that_do_not_count_change_no_sum(seed: int) -> None:
    """Rows that are not canonical cost what their canonical ones do, and so do rows of an inactive gene in a sum."""
    space = random_space(seed)
    X = np.random.default_rng(seed).integers(space.sizes, size=(200, len(space.sizes))).astype(np.uint8)
    cost = metric("cost", space)
    assert cost(X).tolist() == cost(space.canonical(X)).tolist()


def test_a_sum_takes_the_place_of_an_array_over_all_its_genes() -> None:
    widths = {f"layer{index}.width": (4, 8, 12) for index in range(5)}
    total = Sum.of(widths, base=16)
    assert total.values.tolist() == list(range(36, 77, 4))
    rate = np.sqrt(total.values)
    dense = np.sqrt(16 + np.array([sum(each) for each in itertools.product(*widths.values())])).reshape([3] * 5)
    short = SearchSpace.from_tables(widths, {"cost": [([total], rate)]})
    long = SearchSpace.from_tables(widths, {"cost": [(list(widths), dense)]})
    X = np.concatenate(list(short.enumerate()))
    assert metric("cost", short)(X).tolist() == metric("cost", long)(X).tolist()
    assert metric("cost", short).lower_bound == metric("cost", long).lower_bound


def test_the_fingerprint_tells_sums_apart() -> None:
    widths = {"a": (8, 16), "b": (8, 16)}

    def space(parts: dict[str | tuple[str, ...], tuple[int, ...]], base: int = 0) -> SearchSpace:
        return SearchSpace.from_tables(widths, {"cost": [([Sum.of(parts, base)], [0.0, 1.0])]})

    spaces = [space({"a": (8, 16)}), space({"b": (8, 16)}), space({"a": (0, 16)}), space({"a": (8, 16)}, base=1)]
    prints = [each.fingerprint for each in spaces]
    assert len(set(prints)) == 4
    again = space({"a": (8, 16)})
    metric("cost", again)(again.sample(3, np.random.default_rng(0)))
    assert again.fingerprint == prints[0]


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({}, "at least one gene"),
        ({"a": (8.5, 16)}, "whole numbers"),
        ({"a": 8}, "one axis"),
        ({("a", "a"): [[1, 2], [3, 4]]}, "different genes"),
        ({"a": list(range(70_000))}, "more than 65,536 different values"),
    ],
)
def test_sums_that_make_no_sense_are_refused(parts: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        Sum.of(parts)  # type: ignore[arg-type]


def test_sums_that_do_not_fit_the_space_are_refused() -> None:
    choices = [Choice("on", (0, 1)), Choice("a", (8, 16), needs=("on", (1,)))]
    for parts, error, match in (
        ({"b": (8, 16)}, UnknownName, "gene of a sum of 'cost'"),
        ({"a": (8, 16)}, InvalidInput, "must also name 'on'"),
        ({("on", "a"): [[0, 0, 0], [8, 16, 24]]}, InvalidInput, r"must have the shape \(2, 2\)"),
    ):
        total = Sum.of(parts)
        with pytest.raises(error, match=match):
            SearchSpace.from_tables(choices, {"cost": [([total], np.zeros(len(total)))]})


def test_sums_that_become_equal_stay_apart_in_no_table() -> None:
    """Two sums of a table that agree wherever a search may go: only what stands on the diagonal can be."""
    narrow, wide = Sum.of({"a": (8, 16), "b": (0, 1)}), Sum.of({"a": (8, 24), "b": (0, 1)})
    space = SearchSpace.from_tables({"a": (0, 1), "b": (0, 1)}, {"cost": [([narrow, wide], np.arange(16.0).reshape(4, 4)[::-1])]})
    cost = metric("cost", space)
    inside = Metric("cost", "", space.restrict({"a": [0]}), cost.tables)
    assert inside.lower_bound == min(cost(np.array([[0, 0], [0, 1]], dtype=np.uint8))) == 9.0


def test_a_branch_that_is_absent_adds_nothing() -> None:
    choices = [Choice("on", (0, 1)), Choice("a", (8, 16), needs=("on", (1,))), Choice("b", (8, 16))]
    channels = Sum.of({("on", "a"): [[0, 0], [8, 16]], "b": (8, 16)})
    space = SearchSpace.from_tables(choices, {"channels": [([channels], channels.values)]})
    cost = metric("channels", space)
    assert [float(cost(space.encode(values)[None])[0]) for values in ({"on": 0, "b": 8}, {"on": 1, "a": 16, "b": 8})] == [8.0, 24.0]
    assert cost.lower_bound == 8.0


@pytest.mark.parametrize("large", [0, 10_000], ids=["core", "whole"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
@example(seed=59)  # no options of all tables agree
def test_the_proven_best_network_over_sums_is_the_best_of_all(large: int, seed: int) -> None:
    """One or two limits, perhaps a peak, over genes that need others and a restricted space; also by way of bounds and a core."""
    rng = np.random.default_rng(seed)
    space = random_space(seed, ("worth", "one", "two", "peak_memory_mb"))
    space = space.restrict({choice.name: rng.permutation(choice.values)[: int(rng.integers(1, 5))].tolist() for choice in space.choices})
    X = np.concatenate(list(space.enumerate()))
    names = [name for name in ("one", "two", "peak_memory_mb") if rng.random() < 0.6]
    limits = {name: float(rng.choice(metric(name, space)(X))) for name in names}
    met = np.ones(len(X), dtype=np.bool_)
    for name, most in limits.items():
        met &= metric(name, space)(X) <= most
    worth = metric("worth", space)
    with patch.object(_milp, "LARGE", large):
        if not met.any():
            with pytest.raises(Infeasible):
                search(space, predictor=worth, limits=limits, algorithm="exact")
            return
        found = search(space, predictor=worth, limits=limits, algorithm="exact")
    assert found.best_score == worth(X[met]).max()
    assert found.bound == pytest.approx(found.best_score, rel=1e-5, abs=1e-5)


def dense_net(layers: int, values: int) -> SearchSpace:
    """Layers that each read what all layers before them write, and one that reads them all."""
    rng = np.random.default_rng(0)
    genes = {f"layer{number:02}": tuple(8 * (index + 1) for index in range(values)) for number in range(layers)}
    tables: dict[str, list[tuple[list[str | Sum[str]], np.ndarray]]] = {"latency_ms": [], "size_mb": [], "worth": []}
    for number, (name, widths) in enumerate(genes.items()):
        before = Sum.of({**dict(list(genes.items())[:number]), name: [0] * values}, base=64)
        work = np.multiply.outer(widths, before.values).astype(float)
        tables["latency_ms"].append(([name, before], np.ceil(work / 512)))
        tables["size_mb"].append(([name, before], work))
        tables["worth"].append(([name], np.cumsum(np.sort(rng.pareto(2.0, values))[::-1])))
    total = Sum.of(dict(genes), base=64)
    tables["size_mb"].append(([total], 10.0 * total.values))
    return SearchSpace.from_tables(genes, tables, name="dense")


def test_the_widths_of_a_dense_net_are_proven_and_climbed_to() -> None:
    """A small one, each of whose readers depends on all layers before it."""
    space = dense_net(12, 4)
    full = np.full((1, 12), 3, dtype=np.uint8)
    limits = {name: share * float(metric(name, space)(full)[0]) for name, share in (("latency_ms", 0.5), ("size_mb", 0.6))}
    worth = metric("worth", space)
    with patch.object(_milp, "LARGE", 100):
        proven = search(space, predictor=worth, limits=limits, algorithm="exact")
    climbed = search(space, predictor=worth, limits=limits, algorithm=Memetic(climbers=40, parents=40, founders=200, steps=20))
    assert proven.status.name == "OPTIMAL"
    assert climbed.best_score <= proven.best_score
    assert climbed.best_score >= 0.99 * proven.best_score
    assert all(proven.values[name] <= most for name, most in limits.items())
