"""Which predictor orders networks best, ours or that of a library? And do intervals hold? Published accuracies, few networks.

    OMP_NUM_THREADS=1 python benchmarks/predictors_against.py DATA [--seeds 5] [--only hwsearch] [--out benchmark-output/predictors.jsonl]

Ours is ``hwsearch.Predictor.fit(space, X, y)`` without further arguments. The others read one-hot genes, their settings are in the code
below. Each is fitted to 50, 100 or 300 random networks, and orders the pairs of 1,000 others. For ours the share of these 1,000 inside
the 90 % interval is counted too. DATA holds nb201/nb201.csv.gz, nas_bench_macro/ and ofa/. Rows that OUT holds are not computed again.
Others that are not installed are left out: scikit-learn comes with the extra ``torch``, the rest with none.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from predictors import once_for_all

import hwsearch
from hwsearch import interop
from hwsearch.scores._report import pairwise_accuracy

SIZES = (50, 100, 300)
HELD_OUT = 1000
Data = tuple[hwsearch.SearchSpace, np.ndarray, np.ndarray]


def tabular(benchmark: interop.Benchmark, column: str) -> Data:
    """All networks of a benchmark whose score is known, with it."""
    X = np.concatenate(list(benchmark.space.enumerate()))
    y = np.asarray(benchmark.score(column)(X))
    return benchmark.space, X[np.isfinite(y)], y[np.isfinite(y)]


def problems(folder: Path) -> dict[str, Data]:
    """The published accuracies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", interop.ForeignDataWarning)
        cells = interop.nasbench201(folder / "nb201" / "nb201.csv.gz")
        macro = interop.nasbench_macro(folder / "nas_bench_macro" / "nas-bench-macro_cifar10.json")
    return {
        "NAS-Bench-201, CIFAR-10": tabular(cells, "acc_cifar10"),
        "NAS-Bench-201, CIFAR-100": tabular(cells, "acc_cifar100"),
        "NAS-Bench-Macro, CIFAR-10": tabular(macro, "mean_acc"),
        "Once-for-All MobileNetV3, ImageNet": once_for_all(folder),
    }


def others(seed: int) -> dict[str, Any]:
    """Regressors of other libraries."""
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    found: dict[str, Any] = {
        "one-hot GP": GaussianProcessRegressor(ConstantKernel() * RBF(1.0) + WhiteKernel(0.1), normalize_y=True),
        "random forest": RandomForestRegressor(300, random_state=seed),
        "gradient boosting": GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, max_depth=3, subsample=0.7, random_state=seed),
    }
    more: dict[str, tuple[str, str, dict[str, Any]]] = {
        "LightGBM": ("lightgbm", "LGBMRegressor", {"num_leaves": 15, "min_child_samples": 5, "n_jobs": 1, "verbose": -1}),
        "XGBoost": ("xgboost", "XGBRegressor", {"max_depth": 4, "subsample": 0.7, "n_jobs": 1}),
        "CatBoost": ("catboost", "CatBoostRegressor", {"verbose": False, "thread_count": 1, "allow_writing_files": False}),
    }
    boosted = {"n_estimators": 300, "learning_rate": 0.05}  # but for CatBoost, which chooses the rate, and makes 1,000 trees
    for name, (module, kind, settings) in more.items():
        if find_spec(module):
            usual = {} if name == "CatBoost" else boosted
            found[name] = getattr(import_module(module), kind)(random_state=seed, **usual, **settings)
    return found


def rows(
    posed: dict[str, Data], sizes: list[int], seeds: int, known: set[tuple[Any, ...]], only: list[str] | None
) -> Iterator[dict[str, Any]]:
    """Every row that is not known yet."""
    for (problem, (space, X, y)), seed, size in ((each, seed, size) for each in posed.items() for seed in range(seeds) for size in sizes):
        order = np.random.default_rng(seed).permutation(len(X))
        kept, held = order[:size], order[-HELD_OUT:]
        for name, model in ({"hwsearch": None} | others(seed)).items():
            if (problem, size, name, seed) in known or (only and name not in only):
                continue
            began, more = time.process_time(), {}
            if model is None:
                predictor = hwsearch.Predictor.fit(space, X[kept], y[kept], seed=seed)
                guess = predictor(X[held])
                low, high = predictor.interval(X[held])
                more = {"kind": predictor.model.kind, "inside": float(((low <= y[held]) & (y[held] <= high)).mean())}
            else:
                guess = model.fit(space.features(X[kept]), y[kept]).predict(space.features(X[held]))
            right = 100 * pairwise_accuracy(y[held], np.asarray(guess))
            row = {"problem": problem, "networks": size, "predictor": name, "seed": seed, "right": round(right, 2)}
            yield {**row, **more, "cpu_s": round(time.process_time() - began, 2)}


def main() -> None:
    """Compute what is missing, and print means."""
    parser = argparse.ArgumentParser(description="Which predictor orders networks best?")
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--problem", action="append", help="such as 'NAS-Bench-201, CIFAR-100'; all of them if omitted")
    parser.add_argument("--only", action="append", help="such as hwsearch or CatBoost; all of them if omitted")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/predictors.jsonl"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(row["problem"], row["networks"], row["predictor"], row["seed"]) for row in found}
    posed = problems(options.data)
    if wrong := set(options.problem or ()) - set(posed):
        parser.error(f"there is no problem {min(wrong)!r}, only {', '.join(map(repr, posed))}")
    posed = {name: data for name, data in posed.items() if options.problem is None or name in options.problem}
    for row in rows(posed, options.networks, options.seeds, known, options.only):
        found.append(row)
        with open(options.out, "a") as file:
            file.write(json.dumps(row) + "\n")
    cells: dict[Any, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        cells[row["problem"], row["networks"]][row["predictor"]].append(row)
    for (problem, size), own in cells.items():
        means = {name: float(np.mean([row["right"] for row in some])) for name, some in own.items()}
        print(f"{problem}, {size} networks: " + ", ".join(f"{name} {value:.2f}" for name, value in means.items()))
        inside = [row["inside"] for row in own["hwsearch"] if "inside" in row]
        if inside:
            best = max((value for name, value in means.items() if name != "hwsearch"), default=float("nan"))
            kinds = sorted({row["kind"] for row in own["hwsearch"]})
            print(f"    ahead by {means['hwsearch'] - best:+.2f}; {np.mean(inside):.1%} inside 90 % intervals; {', '.join(kinds)}")


if __name__ == "__main__":
    main()
