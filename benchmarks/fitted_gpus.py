"""A latency metric fitted to 200 measured networks, on the 4,800 others: Once-for-All's MobileNetV3 on two GPUs.

    python benchmarks/fitted_gpus.py DATA

DATA holds ofa/mbv3_gpu_latencies.npz (measured by the authors of HELP, NeurIPS'21). Medians over five random choices of the 200.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

import hwsearch
from hwsearch import interop
from hwsearch.costs import fit_metric


def main() -> None:
    """Fit, compare and print."""
    parser = argparse.ArgumentParser(description="Fit latency to whole networks on published GPU measurements.")
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    with np.load(options.data / "ofa" / "mbv3_gpu_latencies.npz") as archive:
        data = dict(archive)
    space = hwsearch.load_space("ofa_mobilenetv3", width=1.0, resolutions=tuple(int(r) for r in np.unique(data["r"])))
    settings = zip(data["ks"].tolist(), data["e"].tolist(), data["d"].tolist(), data["r"].tolist(), strict=True)
    X = np.stack([interop.ofa_architecture({"ks": ks, "e": e, "d": d, "r": [r]}, space).genes for ks, e, d, r in settings])
    shown = Table(title="fitted on 200 networks, held out 4,800")
    for title in ("device", "mean error", "Spearman", "two sums"):
        shown.add_column(title, justify="right")
    for name in sorted(key for key in data if key.endswith("_ms")):
        errors, ranks, twice = [], [], 0
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(len(X))
            kept, held = order[:200], order[200:]
            fitted, report = fit_metric("latency_ms", space, X[kept], data[name][kept])
            guess, truth = fitted(X[held]), data[name][held]
            twice += report.sums == 2
            errors.append(float(np.abs(guess / truth - 1).mean()))
            ranks.append(float(spearmanr(guess, truth).statistic))
        shown.add_row(name.removesuffix("_ms"), f"{np.median(errors):.2%}", f"{np.median(ranks):.4f}", f"{twice} of 5")
    Console().print(shown)


if __name__ == "__main__":
    main()
