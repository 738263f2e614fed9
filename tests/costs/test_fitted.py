"""Metrics fitted to whole networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch.costs import fit_metric
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


def test_measurements_that_make_no_sense_are_refused(digits: SearchSpace, rng: np.random.Generator) -> None:
    X = digits.sample(40, rng)
    for rows, costs, words in ((X[:10], np.ones(10), "at least 30"), (X, np.ones(39), r"shape \(40,\)"), (X, np.zeros(40), "positive")):
        with pytest.raises(InvalidInput, match=words):
            fit_metric("latency_ms", digits, rows, costs)


@pytest.mark.parametrize(
    ("device", "error", "rank"), [("titan_rtx_64_ms", 0.03, 0.99), ("titan_rtx_32_ms", 0.03, 0.99), ("2080ti_64_ms", 0.03, 0.97)]
)
def test_200_measured_networks_predict_4800_others_on_real_gpus(data_folder: Path, device: str, error: float, rank: float) -> None:
    """Batch 32 and 64; at batch 1, and on the RTX 2080 Ti at 32, the published latencies are dominated by noise."""
    with np.load(data_folder / "ofa" / "mbv3_gpu_latencies.npz") as archive:
        data = dict(archive)
    space = hwsearch.load_space("ofa_mobilenetv3", width=1.0, resolutions=tuple(int(r) for r in np.unique(data["r"])))
    X = rows_of(space, data)
    fitted, report = fit_metric("latency_ms", space, X[:200], data[device][:200])
    rest = fitted(X[200:])
    assert np.abs(rest / data[device][200:] - 1).mean() < error
    assert np.corrcoef(np.argsort(np.argsort(rest)), np.argsort(np.argsort(data[device][200:])))[0, 1] > rank
    assert report.mean_abs < 1.5 * error


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
