"""Metrics fitted to whole networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch.costs import Metric, fit_metric
from hwsearch.costs._limits import Limit, prove_feasible
from hwsearch.costs._metrics import metric
from hwsearch.errors import InvalidInput, WrongSpace
from hwsearch.spaces import SearchSpace


def test_it_finds_an_additive_cost_and_bounds_it(digits: SearchSpace, rng: np.random.Generator) -> None:
    macs = metric("macs", digits)
    X, Z = digits.sample(120, rng), digits.sample(300, rng)
    fitted, report = fit_metric("latency_ms", digits, X, 0.05 + macs(X) * 2e-7)
    np.testing.assert_allclose(fitted(Z), 0.05 + macs(Z) * 2e-7, rtol=0.01)
    assert report.mean_abs < 0.01
    assert report.spearman > 0.999
    assert fitted.minimum is not None
    assert fitted(fitted.minimum[None])[0] == pytest.approx(fitted.lower_bound)
    with pytest.raises(hwsearch.Infeasible):
        prove_feasible([Limit(fitted, fitted.lower_bound * 0.99)])


def test_it_limits_a_search(digits: SearchSpace, rng: np.random.Generator) -> None:
    macs, params = metric("macs", digits), metric("params", digits)
    X = digits.sample(120, rng)
    fitted, _ = fit_metric("latency_ms", digits, X, 0.05 + macs(X) * 2e-7)
    most = float(np.median(fitted(X)))
    result = hwsearch.search(digits, predictor=params, metrics=[fitted], limits={"latency_ms": most}, run=hwsearch.Run(steps=8))
    assert result.values["latency_ms"] == fitted(result.best.genes[None])[0] <= most
    swept = hwsearch.sweep(digits, predictor=params, metrics=[fitted], limits={"latency_ms": [most, 1.2 * most]}, run=hwsearch.Run(steps=8))
    assert swept[0].best_score <= swept[1].best_score
    with pytest.raises(WrongSpace, match="latency_ms"):
        hwsearch.search("resnet_cifar", predictor=lambda X: np.zeros(len(X)), metrics=[fitted], limits={"latency_ms": most})


@pytest.fixture(scope="module")
def bent(digits: SearchSpace) -> tuple[Metric, hwsearch.costs.FitReport]:
    """What is fitted to a device on which small networks are bound by launches and large ones by arithmetic."""
    X = digits.sample(300, np.random.default_rng(0))
    return fit_metric("latency_ms", digits, X, bent_cost(digits, X))


def bent_cost(space: SearchSpace, X: np.ndarray) -> np.ndarray:
    """The larger of two sums over blocks."""
    launches = Metric.of_blocks("launches", space, lambda block: 0.3)
    return np.maximum(launches(X), 2e-6 * metric("macs", space)(X))


def test_a_cost_that_is_the_larger_of_two_sums_is_fitted_as_one(digits: SearchSpace, bent: tuple[Metric, hwsearch.costs.FitReport]) -> None:
    fitted, report = bent
    Z = digits.sample(500, np.random.default_rng(1))
    assert len(fitted.parts) == report.sums == 2
    assert report.mean_abs < 0.02
    assert np.abs(fitted(Z) / bent_cost(digits, Z) - 1).mean() < 0.02
    assert fitted(Z).tolist() == np.max([part(Z) for part in fitted.parts], axis=0).tolist()
    assert fitted.lower_bound <= fitted(Z).min()
    assert "larger of two" in str(report)
    X = digits.sample(300, np.random.default_rng(0))
    assert fit_metric("ms", digits, X, 0.05 + metric("macs", digits)(X) * 2e-7)[1].sums == 1, "an additive cost stays one sum"


@pytest.mark.parametrize("algorithm", ["exact", "memetic", "hybrid", "nsga2"])
def test_a_maximum_limits_searches_and_proofs_as_two_limits(
    digits: SearchSpace, bent: tuple[Metric, hwsearch.costs.FitReport], algorithm: str
) -> None:
    """Every search keeps it, it is told as one limit, and an exact search proves its optimum, the same at each point of a sweep."""
    fitted, _ = bent
    Z = digits.sample(2000, np.random.default_rng(2))
    latency, params = fitted(Z), metric("params", digits)(Z)
    most = float(np.quantile(latency, 0.3))
    problem = hwsearch.Problem.of(digits, predictor=metric("params", digits), metrics=[fitted], limits={"latency_ms": most})
    result = hwsearch.search(problem, algorithm, run=hwsearch.Run(steps=None if algorithm == "exact" else 12))
    assert result.limits == {"latency_ms": most}
    assert result.values["latency_ms"] == fitted(result.best.genes[None])[0] <= most
    assert result.best_score >= np.quantile(params[latency <= most], 0.9)
    if algorithm == "exact":
        assert result.status is hwsearch.searching.Status.OPTIMAL
        assert result.best_score >= params[latency <= most].max()
        assert hwsearch.sweep(problem, {"latency_ms": [most, 2 * most]}, "exact")[0].best_score == result.best_score
        with pytest.raises(hwsearch.Infeasible, match=r"^latency_ms <= \S+ cannot"):
            problem.within({"latency_ms": 0.99 * fitted.lower_bound})
    other = problem.having(problem.score, [Metric.largest_of("latency_ms", [*fitted.parts, fitted.parts[0]])])
    assert [limit.at_most for limit in other.limits] == [most] * 3


def test_the_largest_of_metrics_needs_sums_of_one_space_and_unit(digits: SearchSpace) -> None:
    macs, peak, size = (metric(name, digits) for name in ("macs", "peak_memory_mb", "size_mb"))
    for metrics, words in (([], "at least one"), ([peak, size], "each a sum"), ([macs, size], "units")):
        with pytest.raises(InvalidInput, match=words):
            Metric.largest_of("cost", metrics)
    with pytest.raises(InvalidInput, match="largest of 2 sums"):
        -Metric.largest_of("cost", [macs, metric("params", digits)])


def test_the_cheapest_by_the_larger_of_two_sums(digits: SearchSpace, bent: tuple[Metric, hwsearch.costs.FitReport]) -> None:
    fitted, _ = bent
    params = metric("params", digits)
    enough = float(np.median(params(digits.sample(200, np.random.default_rng(3)))))
    found = hwsearch.cheapest(digits, "latency_ms", enough, predictor=params, metrics=[fitted], run=hwsearch.Run(steps=12))
    assert found.best_score >= enough
    assert found.values["latency_ms"] == fitted(found.best.genes[None])[0]


def test_measurements_that_make_no_sense_are_refused(digits: SearchSpace, rng: np.random.Generator) -> None:
    X = digits.sample(40, rng)
    for rows, costs, words in ((X[:10], np.ones(10), "at least 30"), (X, np.ones(39), r"shape \(40,\)"), (X, np.zeros(40), "positive")):
        with pytest.raises(InvalidInput, match=words):
            fit_metric("latency_ms", digits, rows, costs)


@pytest.mark.parametrize(
    ("device", "error", "rank"),
    [("titan_rtx_64_ms", 0.01, 0.99), ("titan_rtx_32_ms", 0.01, 0.99), ("2080ti_64_ms", 0.026, 0.97), ("2080ti_32_ms", 0.075, 0.8)],
)
def test_200_measured_networks_predict_4800_others_on_real_gpus(data_folder: Path, device: str, error: float, rank: float) -> None:
    """Batch 32 and 64, medians over random choices of the 200; at batch 1 the published latencies are dominated by noise."""
    with np.load(data_folder / "ofa" / "mbv3_gpu_latencies.npz") as archive:
        data = dict(archive)
    space = hwsearch.load_space("ofa_mobilenetv3", width=1.0, resolutions=tuple(int(r) for r in np.unique(data["r"])))
    X, measured = rows_of(space, data), data[device]
    errors, ranks, reports = [], [], []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(X))
        fitted, report = fit_metric("latency_ms", space, X[order[:200]], measured[order[:200]])
        rest, truth = fitted(X[order[200:]]), measured[order[200:]]
        errors.append(float(np.abs(rest / truth - 1).mean()))
        ranks.append(np.corrcoef(np.argsort(np.argsort(rest)), np.argsort(np.argsort(truth)))[0, 1])
        reports.append(report)
    assert np.median(errors) < error
    assert np.median(ranks) > rank
    assert np.median([report.mean_abs for report in reports]) < 1.5 * error
    if device == "2080ti_32_ms":
        assert {report.sums for report in reports} == {2}, "small networks are bound by launches there, and large ones by arithmetic"


def rows_of(space: SearchSpace, data: dict[str, np.ndarray]) -> np.ndarray:
    """The published networks (kernels, expand ratios, depths, resolutions) as rows."""
    X = np.zeros((len(data["r"]), len(space.choices)), dtype=np.uint8)
    for gene, choice in enumerate(space.choices):
        stage, _, rest = choice.name.partition(".")
        number = int(stage.removeprefix("stage")) - 1 if rest else 0
        if not rest:
            values = data["r"]
        elif rest == "depth":
            values = data["d"][:, number]
        else:
            block, _, what = rest.partition(".")
            values = data["ks" if what == "kernel" else "e"][:, 4 * number + int(block.removeprefix("block")) - 1]
        X[:, gene] = np.searchsorted(choice.values, values)
    return space.canonical(X)


def test_intervals_of_a_fitted_metric_and_limits_on_it_hold_as_often_as_they_say(digits: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    X, Z = digits.sample(400, rng), digits.sample(2000, rng)

    def measured(X: np.ndarray) -> np.ndarray:
        return (0.05 + metric("macs", digits)(X) * 2e-7) * np.exp(0.1 * rng.normal(size=len(X)))

    fitted, report = fit_metric("latency_ms", digits, X, measured(X), holdout=0.5)
    truth = measured(Z)
    low, high = report.interval(0.9)
    assert 0.85 < np.mean((low * fitted(Z) <= truth) & (truth <= high * fitted(Z))) < 0.95
    assert report.coverage == pytest.approx(0.9, abs=0.08)
    assert "inside the 90 % interval" in str(report)
    assert 0.92 < np.mean(truth <= report.safe(fitted, 0.95)(Z)) < 0.98
    with pytest.raises(InvalidInput, match="probability"):
        report.safe(fitted, 1.0)


def test_a_report_without_ratios_says_that_it_knows_no_intervals(digits: SearchSpace) -> None:
    report = hwsearch.costs.FitReport(fitted=40, held_out=10, mean_abs=0.02, spearman=0.9)
    with pytest.raises(InvalidInput, match="no ratios"):
        report.safe(metric("macs", digits), 0.95)
    with pytest.raises(InvalidInput, match="no ratios"):
        report.interval()
