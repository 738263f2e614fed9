"""What the model of costly scores reads of a space that declares the edges of its cell."""

from dataclasses import replace

import numpy as np

import hwsearch
from hwsearch.algorithms import Surrogate
from hwsearch.costs import path_lengths, path_metrics
from hwsearch.searching import explore


def test_a_space_that_declares_its_edges_is_searched_as_if_told_what_lies_on_its_paths():
    space = hwsearch.load_space("nasbench201")
    silent = replace(space, edges={})
    score = lambda X: X.sum(axis=1) + 0.01 * (X @ np.arange(6.0))  # noqa: E731
    run = hwsearch.Run(evaluations=24)

    def evaluated(where, **posing):
        return explore(hwsearch.Problem.of(where, predictor=score, **posing), Surrogate(founders=12), run=run).X

    told = path_metrics(silent, space.edges) + path_lengths(silent, space.edges)
    np.testing.assert_array_equal(evaluated(space), evaluated(silent, metrics=told))
    assert not np.array_equal(evaluated(space), evaluated(silent))
