"""How well is a budget of evaluations spent? NAS-Bench-201, its accuracies taken for costly: ours, pymoo's and Optuna's NSGA-II.

    OMP_NUM_THREADS=1 python benchmarks/costly.py DATA [--seeds 5] [--part best] [--out benchmark-output/costly.jsonl]

Two questions. *Fronts*: accuracy against latency; the share of the true front's hypervolume, from the worst accuracy and the worst latency
of all networks, after 1, 2 and 10 % of them. *Best*: the most accurate network within a latency after 100 evaluations; how far below the
true best it is. Limits are quantiles of the latencies. The model was chosen on CIFAR-10 and the Raspberry Pi 4, the first cell; the other
cells judge it. Each row states its settings and its seed; rows that OUT holds are not computed
again. Networks whose latency or accuracy is unknown are impossible. DATA holds nb201/nb201.csv.gz. Peers need the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from search import Counted, optuna, pymoo, trial

import hwsearch
from hwsearch import interop
from hwsearch.algorithms import NSGA2, Algorithm, Problem, RandomSearch, Surrogate, hypervolume
from hwsearch.searching import explore

BUDGETS = {"1 %": 156, "2 %": 312, "10 %": 1562}
POPULATION = {156: 20, 312: 20, 1562: 40}
"""Of evolution, ours and pymoo's, by the budget."""
CELLS = (("cifar10", "raspi4"), ("cifar10", "1080ti_1"), ("cifar100", "eyeriss"), ("cifar100", "gold_6226"))
SHARES = {("cifar10", "raspi4"): 0.3, ("cifar10", "1080ti_1"): 0.8, ("cifar100", "eyeriss"): 0.7, ("cifar100", "gold_6226"): 0.4}
"""The share of networks within the latency limit of each question for the best."""


def ours(algorithm: Algorithm) -> Any:
    """A search of ours as a user runs it, within the budget."""

    def run(problem: Problem, counted: Counted, seed: int) -> None:
        posed = Problem(problem.space, counted, problem.limits, problem.seeds, problem.metrics)
        explore(posed, algorithm, seed=seed, run=hwsearch.Run(evaluations=counted.most))

    return run


def fronts(budget: int) -> dict[str, tuple[Any, str]]:
    """Methods for fronts, with their settings."""
    size = POPULATION[budget]
    surrogate, evolution = Surrogate(metrics=("latency_ms",)), NSGA2(population=size, metrics=("latency_ms",))
    return {
        "hwsearch surrogate": (ours(surrogate), repr(surrogate)),
        "hwsearch nsga2": (ours(evolution), repr(evolution)),
        "hwsearch random": (ours(RandomSearch()), repr(RandomSearch())),
        "pymoo NSGA-II": (pymoo("NSGA2", size, front=True), f"population {size}, integer SBX and PM, duplicates eliminated"),
        "Optuna NSGA-II": (optuna("NSGA-II", front=True), "a study of its own, population 60"),
    }


def bests() -> dict[str, tuple[Any, str]]:
    """Methods for the best network within a limit, with their settings."""
    methods = (Surrogate(), NSGA2(population=20), RandomSearch())
    return {f"hwsearch {each.name}": (ours(each), repr(each)) for each in methods} | {
        "pymoo GA": (pymoo("GA", 20), "population 20, integer SBX and PM, duplicates eliminated"),
    }


def rows(
    data: Path, seeds: int, known: set[tuple[Any, ...]], methods: list[str] | None, parts: list[str] | None
) -> Iterator[dict[str, Any]]:
    """Every row that is not known yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", interop.ForeignDataWarning)
        benchmark = interop.nasbench201(data / "nb201" / "nb201.csv.gz")
    for (accuracy, device), seed in ((cell, seed) for seed in range(seeds) for cell in CELLS):
        space, score = benchmark.with_costs(latency_ms=f"lat_ms.{device}"), benchmark.score(f"acc_{accuracy}")
        X = np.concatenate(list(space.enumerate()))
        points = np.column_stack([-score(X), hwsearch.metric("latency_ms", space)(X)])
        points = points[np.isfinite(points).all(axis=1)]
        worst, full = points.max(axis=0), hypervolume(points, points.max(axis=0))
        limit = float(np.quantile(points[:, 1], SHARES[accuracy, device]))
        questions = [("front", budget, float(worst[1]), fronts(budget)) for part, budget in BUDGETS.items() if not parts or part in parts]
        questions += [("best", 100, limit, bests())] if not parts or "best" in parts else []
        for question, budget, most, ways in questions:
            problem = hwsearch.Problem.of(space, predictor=score, limits={"latency_ms": most})
            for method, (run, settings) in ways.items():
                key = (question, accuracy, device, budget, method, seed)
                if key in known or (methods and method not in methods):
                    continue
                began = time.process_time()
                done = np.concatenate(trial(run, problem, seed, evaluations=budget).points)[:budget]
                best = float(-points[points[:, 1] <= most, 0].min() + done[:, 0].min())
                value = 100 * hypervolume(done, worst) / full if question == "front" else best
                row = dict(zip(("question", "accuracy", "device", "evaluations", "method", "seed"), key, strict=True))
                cpu = round(time.process_time() - began, 1)
                yield {**row, "value": round(float(value), 4), "cpu_s": cpu, "limit_ms": most, "settings": settings}


def main() -> None:
    """Compute what is missing, and print medians."""
    parser = argparse.ArgumentParser(description="How well a budget of evaluations is spent.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--method", action="append", help="such as 'hwsearch surrogate'; all of them if omitted")
    parser.add_argument("--part", action="append", choices=[*BUDGETS, "best"], help="budgets of fronts, or 'best'; all if omitted")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/costly.jsonl"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    names = ("question", "accuracy", "device", "evaluations", "method", "seed")
    for row in rows(options.data, options.seeds, {tuple(row[name] for name in names) for row in found}, options.method, options.part):
        found.append(row)
        with open(options.out, "a") as file:
            file.write(json.dumps(row) + "\n")
    cells = defaultdict(list)
    for row in found:
        cells[tuple(row[name] for name in names[:-1])].append(row["value"])
    for (question, accuracy, device, budget, method), values in sorted(cells.items()):
        met = f"{np.sum(np.array(values) <= 0.1)} of {len(values)} within 0.1" if question == "best" else f"worst {min(values):.2f} %"
        print(f"{question} {accuracy} {device} {budget}: {method} median {np.median(values):.2f}, {met}, {len(values)} seeds")


if __name__ == "__main__":
    main()
