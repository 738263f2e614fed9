"""Learning curves: how many trained networks a predictor needs, by kind of predictor, on published accuracies.

    python benchmarks/predictors.py DATA --out benchmark-output/predictors

DATA holds nb201/nb201.csv.gz (NAS-Bench-201: 15,625 networks, CIFAR-10) and ofa/mbv3_w10_imagenet_top1_{a,b}.csv (ImageNet top-1 of
Once-for-All MobileNetV3 sub-networks). Each figure is the median over the seeds of the pairwise accuracy on networks that the
predictor was not fitted on: the share of pairs that it orders rightly (ties in truth left out).
"""

from __future__ import annotations

import argparse
import ast
import csv
import time
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch import interop
from hwsearch.scores import KINDS, Predictor

SIZES = (25, 50, 100, 200, 400)
HELD_OUT = 1000
"""At most so many networks are held out."""


def nasbench(folder: Path) -> tuple[hwsearch.SearchSpace, np.ndarray, np.ndarray]:
    """NAS-Bench-201: all cells with their CIFAR-10 test accuracy, percent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", interop.ForeignDataWarning)
        benchmark = interop.nasbench201(folder / "nb201" / "nb201.csv.gz")
    X = np.concatenate(list(benchmark.space.enumerate()))
    y = np.asarray(benchmark.score("acc_cifar10")(X))
    return benchmark.space, X[~np.isnan(y)], y[~np.isnan(y)]


def once_for_all(folder: Path) -> tuple[hwsearch.SearchSpace, np.ndarray, np.ndarray]:
    """Once-for-All's MobileNetV3 at width 1.0: evaluated sub-networks of two searches, each once, with their ImageNet top-1, percent."""
    space = hwsearch.load_space("ofa_mobilenetv3", width=1.0)
    found: dict[bytes, tuple[np.ndarray, float]] = {}
    for name in ("a", "b"):
        with open(folder / "ofa" / f"mbv3_w10_imagenet_top1_{name}.csv", newline="") as file:
            for line in csv.DictReader(file):
                row = interop.ofa_architecture(ast.literal_eval(line["Sub-network"]), space).genes
                found.setdefault(bytes(row), (row, float(line["Top-1 Acc (%)"])))
    rows, scores = zip(*found.values(), strict=True)
    return space, np.stack(rows), np.array(scores)


def main() -> None:
    """Measure, print and draw the curves."""
    parser = argparse.ArgumentParser(description="Pairwise accuracy against the number of training networks.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/predictors"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (title, load) in zip(
        axes, (("NAS-Bench-201, CIFAR-10", nasbench), ("Once-for-All MobileNetV3, ImageNet", once_for_all)), strict=True
    ):
        space, X, y = load(options.data)
        shown = Table(title=f"{title}: pairwise accuracy on held-out networks ({len(X):,} networks, median of {len(options.seeds)} seeds)")
        for heading in ("predictor", *map(str, SIZES), "CPU-s to fit at the last"):
            shown.add_column(heading, justify="right")
        for kind in KINDS:
            curve, seconds = [], 0.0
            for size in SIZES:
                found = []
                for seed in options.seeds:
                    order = np.random.default_rng(seed).permutation(len(X))
                    kept, held = order[:size], order[SIZES[-1] :][:HELD_OUT]
                    before = time.process_time()
                    predictor = Predictor.fit(space, X[kept], y[kept], kind=kind, seed=seed)
                    seconds = time.process_time() - before
                    found.append(predictor.score(X[held], y[held]).pairwise_accuracy)
                curve.append(float(np.median(found)))
            shown.add_row(kind, *(f"{value:.1%}" for value in curve), f"{seconds:.1f}")
            axis.plot(SIZES, curve, marker="o", label=kind)
        console.print(shown)
        axis.set(title=title, xlabel="training networks", xscale="log", xticks=SIZES, xticklabels=SIZES)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("pairwise accuracy, held out")
    axes[0].legend(frameon=False)
    figure.savefig(options.out / "learning-curves.svg")


if __name__ == "__main__":
    main()
