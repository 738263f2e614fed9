"""How long does the default search take to the best network known? Once-for-All's MobileNetV3 on a Note10, twelve limits.

    OMP_NUM_THREADS=1 python benchmarks/time_to_optimum.py DATA [--seeds 20] [--workers 2] [--out benchmark-output/time-to-optimum.jsonl]

Each row is a search as a user runs it: its limit and seed, the best score, CPU-seconds of the process, networks within the limit that were
scored (all of them distinct), and the CPU-seconds that the predictor's own matrix products take for as many rows in the same batches, which
are run right after it. Rows that OUT holds are not computed again. The best known is the best of KNOWN and of all rows. ``--workers`` runs
so many limits once more on 1, 2 and 3 workers, and says whether these three found the same, bit for bit.
DATA holds Once-for-All's Note10 table and predictor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import hwsearch
from hwsearch.interop import ofa_latency, ofa_predictor

KNOWN = {
    15: 78.8,
    18: 80.143,
    20: 80.7898,
    22: 81.3783,
    24: 82.0703,
    25: 82.2225,
    26: 82.4488,
    28: 82.8191,
    30: 83.187,
    33: 83.5455,
    36: 83.9337,
    42: 84.6171,
}
"""Predicted top-1 of the best networks that were known when this was written, at limits in ms."""
LIMITS = (15, 18, 20, 22, 24, 25, 26, 28, 30, 33, 36, 42)
CLOSE = 0.002
"""Points by which a score may differ from the best known, which is written with four digits at most."""


class Noted:
    """A predictor that notes how many rows it is asked for at once."""

    def __init__(self, predictor: hwsearch.Predictor) -> None:
        self.predictor = predictor
        self.scored: list[int] = []
        self.climbed: list[int] = []

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """The scores."""
        self.scored.append(len(X))
        return np.asarray(self.predictor(X))

    def gradient(self, X: np.ndarray) -> np.ndarray | None:
        """The gradient."""
        self.climbed.append(len(X))
        return self.predictor.gradient(X)

    def products(self) -> float:
        """CPU-seconds of the bare matrix products of all that was asked."""
        model: Any = self.predictor.model
        weights = [weight for weight, _ in model.members[0]]
        rng = np.random.default_rng(0)
        batches = {n: rng.random((n, len(weights[0])), dtype=np.float32) for n in {*self.scored, *self.climbed}}
        ends = {n: np.ones((n, weights[-1].shape[1]), dtype=np.float32) for n in set(self.climbed)}
        began = time.process_time()
        for lots, back in ((self.scored, False), (self.climbed, True)):
            for n in lots:
                hidden = batches[n]
                for weight in weights:
                    hidden = hidden @ weight
                if back:
                    slope = ends[n]
                    for weight in reversed(weights):
                        slope = slope @ weight.T
        return time.process_time() - began


def searched(space: hwsearch.SearchSpace, score: Any, table: Any, limit: float, seed: int, **how: Any) -> Any:
    """A search as a user runs it."""
    return hwsearch.search(space, predictor=score, device=table, limits={"latency_ms": limit}, seed=seed, **how)


def main() -> None:
    """Compute what is missing, and print what each limit took."""
    parser = argparse.ArgumentParser(description="Time to the best network known.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0, help="limits that are searched on workers, too")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/time-to-optimum.jsonl"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(row["limit_ms"], row["seed"]) for row in rows}
    space = hwsearch.load_space("ofa_mobilenetv3")
    table = ofa_latency(options.data / "ofa" / "note10")
    predictor = ofa_predictor(options.data / "ofa" / "mbv3_acc_predictor.pth", space)
    for seed, limit in ((seed, limit) for seed in range(options.seeds) for limit in LIMITS if (limit, seed) not in known):
        noted = Noted(predictor)
        began = time.process_time()
        found = searched(space, noted, table, limit, seed)
        cpu = time.process_time() - began
        row = {"limit_ms": limit, "seed": seed, "best": round(100 * found.best_score, 4), "cpu_s": round(cpu, 3)}
        row |= {"networks": found.history[-1]["feasible"], "products_cpu_s": round(noted.products(), 3)}
        rows.append(row)
        with open(options.out, "a") as file:
            file.write(json.dumps(row) + "\n")
    cells = defaultdict(list)
    for row in rows:
        cells[row["limit_ms"]].append(row)
    print("limit | best known | found by | median CPU-s | most CPU-s | networks a CPU-s | times the products")
    for limit, own in sorted(cells.items()):
        best = max(KNOWN[limit], *(row["best"] for row in own))
        met = sum(row["best"] >= best - CLOSE for row in own)
        spent = np.array([row["cpu_s"] for row in own])
        rate = float(np.median(np.array([row["networks"] for row in own]) / spent))
        times = float(np.median(spent / np.array([row["products_cpu_s"] for row in own])))
        line = f"{limit} ms | {best:.4f} | {met} of {len(own)} | {np.median(spent):.2f} | {spent.max():.2f} | {rate:,.0f} | {times:.2f}"
        print(line, flush=True)
    for limit in LIMITS[: options.workers]:
        answers = []
        for workers in (1, 2, 3):
            with ThreadPoolExecutor(workers) as pool:
                answers.append(searched(space, predictor, table, limit, 0, run=hwsearch.Run(executor=pool)))
        same = all(one.best == answers[0].best and one.history == answers[0].history for one in answers)
        print(f"{limit} ms on 1, 2 and 3 workers: {'the same' if same else 'NOT the same'}, {100 * answers[0].best_score:.4f}", flush=True)


if __name__ == "__main__":
    main()
