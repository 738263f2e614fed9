"""What lies on the paths of a cell, and what a model of a costly score makes of it."""

from __future__ import annotations

import numpy as np
import pytest

import hwsearch
from hwsearch import SearchSpace
from hwsearch.algorithms._acquisition import Belief, Candidates, Goal
from hwsearch.costs import Metric, path_lengths, path_metrics
from hwsearch.errors import InvalidInput, UnknownName

EDGES = {f"node{node}.from{source}": (source, node) for node in (1, 2, 3) for source in range(node)}


def test_operations_are_counted_once_for_each_path_that_passes_something_on(rng: np.random.Generator) -> None:
    """Against products of adjacency matrices: the paths to an edge times the paths from it."""
    space = hwsearch.load_space("nasbench201")
    X = space.sample(300, rng)
    metrics = {metric.name: metric(X) for metric in path_metrics(space, EDGES)}
    kinds = space.choices[0].values[1:]
    assert list(metrics) == ["paths", *(f"paths_{kind}" for kind in kinds)]
    for number, values in enumerate(space.decode(row) for row in X):
        linked = np.zeros((4, 4))
        for name, ends in EDGES.items():
            linked[ends] = values[name] != "none"
        ways = np.eye(4) + linked + linked @ linked + linked @ linked @ linked
        expected = {"paths": ways[0, 3]} | {f"paths_{kind}": 0.0 for kind in kinds}
        for name, (source, target) in EDGES.items():
            if values[name] != "none":
                expected[f"paths_{values[name]}"] += ways[0, source] * ways[target, 3]
        assert {name: metrics[name][number] for name in expected} == expected


def test_paths_are_counted_by_their_length_and_by_how_often_an_operation_lies_on_them(rng: np.random.Generator) -> None:
    """Against walking every path of every cell; skips make no path longer."""
    space = hwsearch.load_space("nasbench201")
    X = space.sample(200, rng)
    metrics = {metric.name: metric(X) for metric in path_lengths(space, EDGES)}

    def walked(values: dict[str, object], node: int) -> list[list[object]]:
        if node == 3:
            return [[]]
        onward = [(name, ends[1]) for name, ends in EDGES.items() if ends[0] == node and values[name] != "none"]
        return [[values[name], *rest] for name, target in onward for rest in walked(values, target)]

    for number, values in enumerate(space.decode(row) for row in X):
        paths = walked(dict(values), 0)
        for length in range(4):
            lengths = [sum(operation != "skip_connect" for operation in path) for path in paths]
            assert metrics[f"paths_of_{length}"][number] == lengths.count(length)
            for kind in space.choices[0].values[1:]:
                assert metrics[f"paths_of_{length}_{kind}"][number] == [path.count(kind) for path in paths].count(length)


def test_a_model_that_reads_paths_orders_networks_better_than_one_of_genes_alone(rng: np.random.Generator) -> None:
    """Forty networks whose score is what lies on their paths, and a shortcut, on a scale of its own; pairs of 2,000 others."""
    space = hwsearch.load_space("nasbench201")
    paths = (*path_metrics(space, EDGES), *path_lengths(space, EDGES))
    X = np.unique(space.sample(2500, rng), axis=0)[rng.permutation(2000)]
    short = next(metric for metric in paths if metric.name == "paths_of_0")(X) > 0
    y = np.tanh(0.3 * paths[3](X) + 0.1 * paths[2](X) + 0.5 * short)
    right = []
    for metrics in ((), paths):
        belief = Belief.of(space, metrics, X[:40], y[:40], 0)
        mean = Candidates(belief, Goal.of((), np.empty(0), np.empty((0, 0)), X[:40], y[:40]), X[40:]).mean
        first, second = rng.integers(len(mean), size=(2, 20_000))
        apart = y[40:][first] != y[40:][second]
        right.append(float(((mean[first] > mean[second]) == (y[40:][first] > y[40:][second]))[apart].mean()))
    assert 1 - right[1] < 0.75 * (1 - right[0])


def test_a_metric_that_most_networks_have_none_of_is_read_as_a_number() -> None:
    """And not only as whether a network has some."""
    space = SearchSpace.from_tables({"count": range(5)}, {})
    metric = Metric.from_tables("count", space, [(["count"], [0.0, 0.0, 0.0, 1.0, 3.0])])
    X = np.arange(5, dtype=np.uint8)[:, None]
    belief = Belief.of(space, (metric,), X, np.array([0.0, 0.1, 0.2, 0.5, 0.9]), 0)
    none, *_, one, three = belief.inputs(X)[:, -1]
    assert three - one > 0.1 * (one - none) > 0


def test_edges_that_make_no_cell_are_refused() -> None:
    space = hwsearch.load_space("nasbench201")
    with pytest.raises(UnknownName, match=r"node1\.from9"):
        path_metrics(space, {"node1.from9": (0, 1)})
    with pytest.raises(InvalidInput, match="one input and one output"):
        path_metrics(space, {"node1.from0": (0, 1), "node2.from0": (0, 2)})
    with pytest.raises(InvalidInput, match="circle"):
        path_metrics(space, {"node1.from0": (0, 1), "node2.from1": (1, 2), "node3.from2": (2, 1), "node3.from0": (1, 3)})
    with pytest.raises(InvalidInput, match=r"Edge 'node1.from0' must lead from one node to another"):
        path_metrics(space, {"node1.from0": 3})  # type: ignore[dict-item]
    with pytest.raises(InvalidInput, match="Operations must be a list"):
        path_metrics(space, EDGES, without="none")
    with pytest.raises(UnknownName, match="zeroize"):
        path_metrics(space, EDGES, without=("zeroize",))


def test_operations_that_are_numbers_are_counted_like_words() -> None:
    space = SearchSpace.from_tables({"edge": range(3)}, {})
    paths, *kinds = path_metrics(space, {"edge": (0, 1)}, without=(0,))
    assert [metric.name for metric in kinds] == ["paths_1", "paths_2"]
    assert paths(np.arange(3, dtype=np.uint8)[:, None]).tolist() == [0.0, 1.0, 1.0]


def test_cells_of_too_many_paths_are_refused_before_all_of_them_are_listed() -> None:
    """Thirty nodes, each joined to all before: more than a hundred million paths."""
    edges = {f"{source}to{node}": (source, node) for node in range(1, 30) for source in range(node)}
    space = SearchSpace.from_tables(dict.fromkeys(edges, ("none", "conv")), {})
    with pytest.raises(InvalidInput, match="too many or too long paths"):
        path_metrics(space, edges)


def test_two_metrics_of_one_name_are_refused() -> None:
    """A limit by that name would mean either of them."""
    space = hwsearch.load_space("nasbench201")
    metrics = path_metrics(space, EDGES)
    with pytest.raises(InvalidInput, match="Two metrics are called 'paths'"):
        hwsearch.Problem.of(space, predictor=lambda X: X.sum(axis=1), metrics=(*metrics, metrics[0]))
