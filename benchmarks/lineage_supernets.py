"""ProxylessNAS and MetaPruning beside the sandwich rule, on NAS-Bench-Macro, where the truth of all 6,561 networks is known.

    OMP_NUM_THREADS=1 python benchmarks/lineage_supernets.py MACRO CIFAR --size 16 --images 20000 --amp bf16

MACRO is nas-bench-macro_cifar10.json, CIFAR the folder that holds cifar-10-batches-py.

The protocol, written down before its first run:

- All ways train the same supernet, in which the two bottlenecks of a layer share weights, on --images of the 45,000 training images of
  CIFAR-10, scaled to --size px, in batches of 128, at a rate that begins at 0.1 and falls to zero as a cosine. The published accuracies are
  of 32 px and of networks that were trained alone; fewer pixels are a stand-in that costs less.
- *proxyless*: ``hwsearch.nn.proxyless`` with its standard trade-off of multiply-accumulates, whose target is the median of all networks.
- *free*: ``hwsearch.nn.proxyless`` by the loss alone, without a cost.
- *sandwich*: the largest, the smallest and two random networks a step; then evolution, which scores --scores networks, each on 500
  validation images, and takes the best of those with at most as many multiply-accumulates as *proxyless*'s answer of that seed has; and the
  same once more without a limit.
- *single*: one random network a step, with the same shared weights; then the same evolution.
- *meta*: one random network a step, whose weights are made from its widths (MetaPruning); then the same evolution.
- --epochs says how long each way trains, so that training and search together take about as long as ProxylessNAS. No figure below was
  looked at to choose them. CPU-seconds of both are told.
- *better*: of the networks with at most as many multiply-accumulates as the answer has, how many are truly better (mean of three published
  trainings), as a share of them. 0.02 is the aim. *by MACs*: the same for the network of most multiply-accumulates, as a floor.
- *rank*: how many of all 6,561 networks are truly better, as a share; that of the largest network is 0.0030.
- *order*: Kendall's tau between the truth and the accuracy of NETWORKS random networks with the weights, on 500 validation images; the
  same for their multiply-accumulates. It is not counted as time.

Changed when the first two seeds of *proxyless* and *sandwich* were known: the sandwich, which adds up the gradients of four networks,
ended at chance at this rate; its gradients, and those of *single* and *meta*, are clipped to a length of 1. *free*, *rank* and the searches
without a limit were added, since *proxyless* ended far below the target of its cost. *free* was trained for 12 epochs as well when its
answers after 4 were known.

Trainings go on where they were stopped, and their seconds add up; what has ended is in DIR/lineage-supernets.jsonl.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from spent import counted

import hwsearch
from hwsearch import interop, metric
from hwsearch._files._writing import Journal
from hwsearch.algorithms import Evolution
from hwsearch.nn import ArrayData, Supernet, SupernetScore, Tradeoff, load_data, proxyless, train

EPOCHS = {"proxyless": 4, "free": 4, "sandwich": 1, "single": 4, "meta": 2}
RECIPES: dict[str, dict[str, Any]] = {
    "proxyless": {},
    "free": {},
    "sandwich": {"random_networks": 2, "clip": 1.0},
    "single": {"sandwich": False, "random_networks": 1, "clip": 1.0},
    "meta": {"generated": True, "sandwich": False, "random_networks": 1, "clip": 1.0},
}
NETWORKS = 60
JUDGING = 500


class Bench:
    """The space, its truth, the images, and what has been measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        known = interop.nasbench_macro(options.macro)
        self.options, self.space = options, hwsearch.load_space("nasbench_macro", size=options.size)
        self.X = np.concatenate(list(self.space.enumerate()))
        self.true, self.cost = np.asarray(known.score("mean_acc")(self.X)), metric("macs", self.space)
        self.macs = self.cost(self.X)
        data = load_data(("cifar10", options.cifar))
        assert isinstance(data, ArrayData)
        self.data = replace(data, train_x=data.train_x[: options.images], train_y=data.train_y[: options.images])
        self.out = options.out / f"lineage-supernets-{options.size}-{options.images}"
        self.journal = Journal(self.out / "lineage-supernets.jsonl")
        self.done = {(line["way"], line["epochs"], line["seed"]): line for line in self.journal}

    def run(self, way: str, epochs: int, seed: int) -> dict[str, Any]:
        """Train one way with one seed, search, and judge."""
        name = f"{way}-{epochs}-{seed}"
        recipe = {"epochs": epochs, "batch": 128, "learning_rate": 0.1, "amp": self.options.amp, **RECIPES[way]}
        file = self.out / f"{name}.safetensors"
        with counted(self.out / f"{name}.seconds.json") as spent:
            if way in ("proxyless", "free"):
                tradeoff = Tradeoff(target=float(np.median(self.macs))) if way == "proxyless" else Tradeoff(factor=0.0)
                found = proxyless(self.space, data=self.data, out=file, cost=self.cost, recipe=recipe, tradeoff=tradeoff, seed=seed)
                rows, supernet = [found.best.genes], found.supernet
            else:
                supernet = train(self.space, data=self.data, out=file, recipe=recipe, seed=seed)
            training = spent()
        start = time.process_time()
        if way not in ("proxyless", "free"):
            limit = float(self.cost(self.answer(seed)[None])[0])
            rows = [self.search(supernet, limits, seed) for limits in ({"macs": limit}, {})]
        searching = (time.process_time() - start) / len(rows)
        told = {"way": way, "epochs": epochs, "seed": seed, "training": round(training), "searching": round(searching)}
        unlimited = {"without a limit": self.judged(rows[1])} if len(rows) > 1 else {}
        return {**told, **self.judged(rows[0]), **unlimited, **self.order(supernet)}

    def answer(self, seed: int) -> np.ndarray:
        """What ProxylessNAS has found with a seed."""
        rows = [line["row"] for (way, _, other), line in self.done.items() if way == "proxyless" and other == seed]
        if not rows:
            raise SystemExit("The limit of the others is what ProxylessNAS has found: run proxyless first.")
        return np.array(rows[-1], dtype=np.uint8)

    def search(self, supernet: Supernet, limits: dict[str, float], seed: int) -> np.ndarray:
        """The best network that evolution finds with the weights."""
        score = SupernetScore(self.space, supernet, self.data, images=JUDGING)
        algorithm = Evolution(population=12, islands=1, parents=6, alone=1, steps=10**6)
        run = hwsearch.Run(evaluations=self.options.scores, progress=False)
        return hwsearch.search(self.space, algorithm, predictor=score, limits=limits, seed=seed, run=run).best.genes

    def judged(self, row: np.ndarray) -> dict[str, Any]:
        """How good a network truly is."""
        place = int(np.flatnonzero((self.X == row).all(axis=1))[0])
        rivals = self.true[self.macs <= self.macs[place]]
        dearest = self.true[self.macs == self.macs[self.macs <= self.macs[place]].max()].max()
        shares = {"better": float((rivals > self.true[place]).mean()), "by MACs": float((rivals > dearest).mean())}
        shares["rank"] = float((self.true > self.true[place]).mean())
        facts = {"row": row.tolist(), "accuracy": float(self.true[place]), "macs": float(self.macs[place])}
        return {**facts, "rivals": len(rivals), "best": float(rivals.max()), **shares}

    def order(self, supernet: Supernet) -> dict[str, Any]:
        """How well weights order networks."""
        some = np.random.default_rng(0).choice(len(self.X), NETWORKS, replace=False)
        found = SupernetScore(self.space, supernet, self.data, images=JUDGING)(self.X[some])
        orders = {"order": kendalltau(found, self.true[some]), "order by MACs": kendalltau(self.macs[some], self.true[some])}
        return {"mean": float(found.mean()), **{name: float(each.statistic) for name, each in orders.items()}}


def main() -> None:
    """Run what has not been run yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("macro", type=Path)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--ways", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--epochs", nargs="+", default=[], metavar="WAY=EPOCHS", help=f"other than {EPOCHS}")
    parser.add_argument("--size", type=int, default=32, help="of the images, px")
    parser.add_argument("--images", type=int, default=45000, help="training images")
    parser.add_argument("--scores", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--amp", default=None, help="the number format of the training, such as bf16")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    epochs = EPOCHS | {way: int(number) for way, number in (each.split("=") for each in options.epochs)}
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    for seed in options.seeds:
        for way in options.ways:
            key = way, epochs[way], seed
            if key not in bench.done:
                bench.done[key] = bench.run(*key)
                bench.journal.append(bench.done[key])
            print(bench.done[key], flush=True)


if __name__ == "__main__":
    main()
