"""A million random rows scored for latency, MACs and size together: CPU-seconds on one thread.

python benchmarks/metrics.py
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import hwsearch

ROWS = 1_000_000
METRICS = ("latency_ms", "macs", "size_mb")


def main() -> None:
    """Score the rows three times in each space, and print the least time."""
    shown = Table(title=f"{ROWS:,} random rows, {' + '.join(METRICS)}, one thread")
    for title in ("space", "compile (CPU s)", "score (CPU s)", "rows a second"):
        shown.add_column(title, justify="left" if title == "space" else "right")
    for name in ("resnet_digits", "resnet_cifar"):
        with tempfile.TemporaryDirectory() as folder:
            table = hwsearch.profile(name, backend="roofline", out=Path(folder) / "roofline.json", progress=False)
        space = hwsearch.load_space(name)  # a fresh one, so that its lowering is part of the bill
        start = time.process_time()
        metrics = [hwsearch.metric(metric, space, table) for metric in METRICS]
        compiled = time.process_time() - start
        X = space.sample(ROWS, np.random.default_rng(0))
        scored = []
        for _ in range(3):
            start = time.process_time()
            hwsearch.costs.values_of(metrics, X)
            scored.append(time.process_time() - start)
        shown.add_row(name, f"{compiled:.2f}", f"{min(scored):.2f}", f"{ROWS / min(scored):,.0f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
