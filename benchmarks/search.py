"""How good is the search? Ours, Optuna's and pymoo's on the same problems, one process and one thread.

    OMP_NUM_THREADS=1 python benchmarks/search.py [--data FOLDER] [--seeds 3] [--seconds 5] [--out benchmarks/search]

Prints tables and writes OUT.json and OUT.png. Needs the extras ``bench`` and ``interop`` and, but for the pruning problem, the published
data (Once-for-All's Note10 table and predictor, NAS-Bench-201).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from instances import pruned_resnet

import hwsearch
from hwsearch import metric
from hwsearch.algorithms import NSGA2, Algorithm, Problem, RandomSearch, hypervolume
from hwsearch.searching import solve, sweep

warnings.simplefilter("ignore")


ASKED = {15.0: 78.78, 20.0: 80.77, 25.0: 82.18, 30.0: 83.16, 33.0: 83.46}
"""Predicted top-1 that a search should reach at each limit of the Note10, ms: 0.02 below the best that was known when this was written."""


class Spent(Exception):
    """The budget is spent."""


class Counted:
    """A score that keeps the best it gave, and ends a search whose CPU-seconds or evaluations are spent."""

    def __init__(self, problem: Problem, seconds: float = np.inf, evaluations: int = 10**9) -> None:
        self.problem, self.score = problem, problem.score
        self.seconds, self.most = seconds, evaluations
        self.began, self.count, self.best = time.process_time(), 0, -np.inf
        self.points: list[np.ndarray] = []

    @property
    def spent(self) -> float:
        """CPU-seconds so far."""
        return time.process_time() - self.began

    def gradient(self, X: np.ndarray) -> np.ndarray | None:
        """Those of the score, where it knows them."""
        known = getattr(self.score, "gradient", None)
        return None if known is None else known(X)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Score and count."""
        y = np.asarray(self.score(X))
        self.count += len(y)
        self.best = max(self.best, float(y.max(initial=-np.inf)))
        self.points.append(np.column_stack([-y, self.problem.metrics[0](X)]))
        if self.spent > self.seconds or self.count >= self.most:
            raise Spent
        return y


def ours(algorithm: Algorithm) -> Callable[[Problem, Counted, int], None]:
    """Our own loop, as a user runs it."""

    def run(problem: Problem, counted: Counted, seed: int) -> None:
        posed = Problem(problem.space, counted, problem.limits, problem.seeds, problem.metrics)
        if counted.most < 10**9:
            state = hwsearch.init(posed, algorithm, seed)
            while True:
                state = hwsearch.step(state)
        solve(posed, algorithm, seed=seed)

    return run


def pymoo(name: str, population: int, *, front: bool = False) -> Callable[[Problem, Counted, int], None]:
    """A genetic algorithm of pymoo with its operators for whole numbers and limits as its constraints."""

    def run(problem: Problem, counted: Counted, seed: int) -> None:
        from pymoo.algorithms.moo.nsga2 import NSGA2 as Many
        from pymoo.algorithms.soo.nonconvex.ga import GA as One
        from pymoo.core.problem import Problem as Theirs
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
        from pymoo.operators.sampling.rnd import IntegerRandomSampling
        from pymoo.optimize import minimize

        space = problem.space

        class Same(Theirs):  # type: ignore[misc]  # it has no types
            def __init__(self) -> None:
                top = np.array(space.sizes) - 1
                super().__init__(n_var=len(top), n_obj=1 + front, n_ieq_constr=len(problem.limits), xl=0, xu=top, vtype=int)

            def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
                rows = space.canonical(X.astype(np.uint8))
                costs = problem.costs(rows)
                feasible = (costs <= 1).all(axis=1)
                score = np.full(len(rows), 0.0)
                if feasible.any():
                    score[feasible] = -counted(rows[feasible])
                out["F"] = np.column_stack([score, problem.metrics[0](rows)]) if front else score
                out["G"] = costs - 1.0

        repair = RoundingRepair()
        moves = {
            "sampling": IntegerRandomSampling(),
            "crossover": SBX(prob=0.9, eta=3, vtype=float, repair=repair),
            "mutation": PM(eta=3, vtype=float, repair=repair),
        }
        method = (Many if name == "NSGA2" else One)(pop_size=population, eliminate_duplicates=True, **moves)
        minimize(Same(), method, ("n_gen", 10**6), seed=seed, verbose=False)

    return run


def optuna(sampler: str, *, front: bool = False) -> Callable[[Problem, Counted, int], None]:
    """A study of Optuna's own by its ask and tell: a whole number for each gene, limits as its constraints, a network beyond them unscored.

    Args:
        sampler: ``"TPE"`` or ``"NSGA-II"``, with its defaults (NSGA-II with 50 networks, for a front with 60).
        front: whether it trades the score against the cost.
    """

    def run(problem: Problem, counted: Counted, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = problem.space

        def over(trial: optuna.trial.FrozenTrial) -> list[float]:
            found: list[float] = trial.user_attrs["over"]
            return found

        method: optuna.samplers.BaseSampler
        if sampler == "TPE":
            method = optuna.samplers.TPESampler(seed=seed, constraints_func=over)
        else:
            method = optuna.samplers.NSGAIISampler(seed=seed, population_size=60 if front else 50, constraints_func=over)
        study = optuna.create_study(directions=["maximize", "minimize"] if front else ["maximize"], sampler=method)
        while True:
            trial = study.ask()
            values = [trial.suggest_int(choice.name, 0, size - 1) for choice, size in zip(space.choices, space.sizes, strict=True)]
            row = space.canonical(np.array([values], dtype=np.uint8))
            costs = problem.costs(row)[0]
            trial.set_user_attr("over", (costs - 1).tolist())
            score = float(counted(row)[0]) if (costs <= 1).all() else 0.0
            study.tell(trial, [score, float(problem.metrics[0](row)[0])] if front else score)
            if counted.spent > counted.seconds:
                raise Spent

    return run


def trial(run: Callable[[Problem, Counted, int], None], problem: Problem, seed: int, **budget: Any) -> Counted:
    """One search within a budget."""
    counted = Counted(problem, **budget)
    with contextlib.suppress(Spent):
        run(problem, counted, seed)
    counted.seconds = counted.spent
    return counted


def note10(data: Path, seeds: int, seconds: float, only: list[str] | None = None) -> list[dict[str, Any]]:
    """Best predicted top-1 within CPU-seconds: Once-for-All's MobileNetV3 on a Note10."""
    from hwsearch.interop import ofa_latency, ofa_predictor

    space = hwsearch.load_space("ofa_mobilenetv3")
    table, predictor = ofa_latency(data / "ofa" / "note10"), ofa_predictor(data / "ofa" / "mbv3_acc_predictor.pth", space)
    methods = {
        "hwsearch memetic": ours(hwsearch.algorithms.load_algorithm("memetic")),
        "hwsearch evolution": ours(hwsearch.algorithms.load_algorithm("evolution")),
        "hwsearch hybrid": ours(hwsearch.algorithms.load_algorithm("hybrid")),
        "hwsearch local": ours(hwsearch.algorithms.load_algorithm("local")),
        "random": ours(RandomSearch(population=2048, steps=10**6)),
        "pymoo GA": pymoo("GA", 100),
        "Optuna TPE": optuna("TPE"),
        "Optuna NSGA-II": optuna("NSGA-II"),
    }
    rows = []
    for most in (15.0, 20.0, 25.0, 30.0, 33.0):
        problem = hwsearch.Problem.of(space, predictor=predictor, device=table, limits={"latency_ms": most})
        for name, run in methods.items():
            everywhere = name in ("hwsearch memetic", "hwsearch evolution")
            if not (most == 25.0 or everywhere) or (only and name.removeprefix("hwsearch ") not in only):
                continue
            done = [trial(run, problem, seed, seconds=seconds) for seed in range(seeds)]
            best = 100 * np.array([one.best for one in done])
            cpu, count = np.median([one.seconds for one in done]), np.median([one.count for one in done])
            row = {
                "problem": f"Note10 {most:g} ms",
                "method": name,
                "median": round(float(np.median(best)), 3),
                "worst": round(best.min(), 3),
                "met": f"{(best >= ASKED[most]).sum()} of {seeds}",
            }
            rows.append(
                {**row, "spread": round(float(np.ptp(best)), 3), "cpu_s": round(cpu, 2), "evaluations_per_cpu_s": round(count / cpu)}
            )
            show(rows[-1])
    return rows


def resnet50(data: Path, seeds: int) -> list[dict[str, Any]]:
    """Best predicted top-1 within MACs: Once-for-All's ResNet-50, the default algorithm as a user runs it."""
    from hwsearch.interop import ofa_predictor

    space = hwsearch.load_space("ofa_resnet50")
    predictor = ofa_predictor(data / "ofa" / "resnet50_acc_predictor.pth", space)
    rows = []
    for most in (600, 900, 1200, 1648, 1800):
        best, cpu = [], []
        for seed in range(seeds):
            began = time.process_time()
            best.append(100 * hwsearch.search(space, predictor=predictor, limits={"macs": most * 1e6}, seed=seed).best_score)
            cpu.append(time.process_time() - began)
        row = {"problem": f"ResNet-50 {most} MMACs", "method": "hwsearch, default", "median": round(float(np.median(best)), 3)}
        rows.append({**row, "worst": round(min(best), 3), "cpu_s": round(float(np.median(cpu)), 2), "most_cpu_s": round(max(cpu), 2)})
        show(rows[-1])
    return rows


def nasbench(data: Path, seeds: int, evaluations: int = 1562) -> list[dict[str, Any]]:
    """Share of the true front's hypervolume after a tenth of all networks: NAS-Bench-201, CIFAR-10 accuracy against Raspberry Pi 4."""
    from hwsearch.interop import nasbench201

    known = nasbench201(data / "nb201" / "nb201.csv.gz")
    space, score = known.with_costs(latency_ms="lat_ms.raspi4"), known.score("acc_cifar10")
    X = np.concatenate(list(space.enumerate()))
    points = np.column_stack([-score(X), metric("latency_ms", space)(X)])
    points = points[np.isfinite(points).all(axis=1)]
    worst = points.max(axis=0)
    problem = hwsearch.Problem.of(space, predictor=score, limits={"latency_ms": float(worst[1])})
    methods = {
        "hwsearch nsga2": ours(NSGA2(population=40, steps=10**6)),
        "random": ours(RandomSearch(population=100, steps=10**6)),
        "pymoo NSGA-II": pymoo("NSGA2", 40, front=True),
        "Optuna NSGA-II": optuna("NSGA-II", front=True),
    }
    rows = []
    for name, run in methods.items():
        done = [trial(run, problem, seed, evaluations=evaluations) for seed in range(seeds)]
        share = [100 * hypervolume(np.concatenate(one.points)[:evaluations], worst) / hypervolume(points, worst) for one in done]
        row = {"problem": "NAS-Bench-201 front", "method": name, "median": round(float(np.median(share)), 2), "worst": round(min(share), 2)}
        cpu = float(np.median([one.seconds for one in done]))
        rows.append(
            {**row, "spread": round(float(np.ptp(share)), 2), "cpu_s": round(cpu, 2), "evaluations_per_cpu_s": round(evaluations / cpu)}
        )
        show(rows[-1])
    return rows


def pruning() -> list[dict[str, Any]]:
    """The proven optimum of channel pruning with removable blocks, and what the others reach."""
    space = pruned_resnet()
    worth, latency = metric("importance", space), metric("latency_ms", space)
    full = float(latency(np.array([[size - 1 for size in space.sizes]], dtype=np.uint8))[0])
    rows = []
    for share in (0.7, 0.55, 0.4, 0.3):
        for name in ("exact", "hybrid", "evolution"):
            began = time.process_time()
            result = hwsearch.search(space, predictor=worth, limits={"latency_ms": share * full}, algorithm=name)
            gap = "" if result.gap is None else f"{result.gap:.1e}"
            row = {"problem": f"pruning at {share:.0%}", "method": f"hwsearch {name}", "median": round(result.best_score, 4), "gap": gap}
            rows.append({**row, "cpu_s": round(time.process_time() - began, 2)})
            show(rows[-1])
    began = time.process_time()
    front = sweep(space, predictor=worth, limits={"latency_ms": (full * np.linspace(0.2, 1.0, 17)).tolist()}, algorithm="exact")
    proven = sum(result.status is hwsearch.searching.Status.OPTIMAL for result in front)
    rows.append(
        {
            "problem": "pruning, 17 points",
            "method": "hwsearch sweep exact",
            "proven": proven,
            "cpu_s": round(time.process_time() - began, 2),
        }
    )
    show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """Print a line."""
    print(" | ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The picture: each method's median, for each problem that peers were tried on."""
    from matplotlib.figure import Figure

    problems = [p for p in dict.fromkeys(row["problem"] for row in rows if "spread" in row) if sum(r["problem"] == p for r in rows) > 2]
    if not problems:
        return
    figure = Figure(figsize=(9, 2.2 * len(problems)), layout="constrained")
    for index, name in enumerate(problems):
        axes = figure.add_subplot(len(problems), 1, index + 1)
        own = [row for row in rows if row["problem"] == name]
        values = [row["median"] for row in own]
        colours = ["#0072B2" if row["method"].startswith("hwsearch") else "#8a94a0" for row in own]
        axes.barh([row["method"] for row in own], values, color=colours)
        axes.set_xlim(min(values) - 0.1 * np.ptp(values) - 1e-3, max(values) + 0.1 * np.ptp(values) + 1e-3)
        axes.invert_yaxis()
        axes.set_title(f"{name}: median of seeds (higher is better)", fontsize=10, loc="left")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run all parts whose data is at hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the published files; only the pruning problem does without them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument(
        "--only", choices=("pruning", "nasbench", "note10", "resnet50"), action="append", help="parts to run; all of them if omitted"
    )
    parser.add_argument("--method", action="append", help="methods to run on the Note10, such as memetic; all of them if omitted")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/search"))
    options = parser.parse_args()
    wanted = options.only or ["pruning", "nasbench", "note10", "resnet50"]
    rows = pruning() if "pruning" in wanted else []
    if options.data is None:
        print("Without --data only the pruning problem is run.")
    else:
        rows += nasbench(options.data, options.seeds) if "nasbench" in wanted else []
        rows += note10(options.data, options.seeds, options.seconds, options.method) if "note10" in wanted else []
        rows += resnet50(options.data, options.seeds) if "resnet50" in wanted else []
    options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
