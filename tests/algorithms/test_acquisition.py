"""What a model of a costly score makes of its beliefs: which network is worth evaluating next."""

import numpy as np
import pytest
from scipy.stats import norm

import hwsearch
from hwsearch.algorithms import hypervolume
from hwsearch.algorithms._acquisition import Belief, Candidates, Goal


@pytest.fixture(name="known")
def known_networks():
    space = hwsearch.load_space("nasbench201")
    X = space.sample(60, np.random.default_rng(0))
    return space, X, X.sum(axis=1) + 0.1 * X[:, 0]


def test_of_one_metric_the_worth_of_a_score_is_the_volume_it_adds(known):
    space, X, y = known
    cost = hwsearch.costs.Metric.from_tables(
        "cost", space, [(("node1.from0", "node2.from0"), np.add.outer(np.arange(5.0), 7.0 * np.arange(5.0)))]
    )
    X, y, new, score = X[:-1], y[:-1], X[-1:], y.max() - 0.5
    most = np.array([30.0])
    goal = Goal.of((cost,), most, np.empty((0, 1)), X, y)
    shares, best = goal.shares(cost(new)[:, None])
    gained = float((shares[0] * np.maximum(score - best, 0.0)).sum())
    points = np.column_stack([-y, cost(X)])
    corner = np.array([-y.min(), 30.0])
    more = np.vstack([points, [-score, float(cost(new)[0])]])
    assert gained == pytest.approx(hypervolume(more, corner) - hypervolume(points, corner))
    assert (goal.having(cost(new), score).shares(cost(new)[:, None])[1] >= y.min()).all()


def test_the_worth_of_the_best_score_is_its_expected_improvement(known):
    space, X, y = known
    belief = Belief.of(space, (), X[:40], y[:40], 0)
    goal = Goal.of((), np.empty(0), np.empty((0, 0)), X[:40], y[:40])
    found = Candidates(belief, goal, X[40:])
    spread = np.sqrt(found.variance + found.noise)
    z = (float(belief.normal(y[:40].max(keepdims=True))[0]) - found.mean) / spread
    expected = spread * (norm.pdf(z) - z * norm.sf(z))
    assert np.corrcoef(found.worth(), expected)[0, 1] > 0.9999


def test_rows_far_below_the_best_are_still_told_apart(known):
    space, X, y = known
    belief = Belief.of(space, (), X[:40], y[:40], 0)
    goal = Goal.of((), np.empty(0), np.empty((0, 0)), X[:40], np.where(y[:40] == y[:40].max(), 10 * y.max(), y[:40]))
    found = Candidates(belief, goal, X[40:])
    found.variance[:] = found.noise = 1e-9
    best = int(found.mean.argmax())
    assert found.take(1).tolist() == [best]
