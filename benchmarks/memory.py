"""What gradient checkpointing and parts cost and save: ResNet-50 at 224 px, one training step on one core.

    python benchmarks/memory.py --figure docs/images/memory.svg

Every point is a process of its own that makes two steps of the training loop on random images: `recompute` off and on, the batch in 1, 2
and 4 parts. Memory is the peak of the process beyond what it held before the first step (weights are held, momentum and gradients are
not), with glibc told to give back what is freed, so that holes in its heap do not count; time is the processor time of the second step.
What is printed also goes to results.json; points that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.nn import Recipe, Supernet, make_data
from hwsearch.nn.training._loop import Training
from hwsearch.nn.training._losses import Sandwich
from hwsearch.nn.training._processes import Processes

PARTS = (1, 2, 4)
PIXELS = 224
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


def held() -> float:
    """What this process holds, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def most_held() -> float:
    """The most that it has held so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(batch: int, recompute: bool, parts: int) -> dict[str, Any]:
    """Memory and time of one configuration, in this process."""
    torch.set_num_threads(1)
    space = hwsearch.load_space("resnet50", resolutions=(PIXELS,), precisions=("fp32",), mids=2, outs=2)
    supernet = Supernet(space.alone(Supernet(space).largest))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(2 * batch, 3, PIXELS, PIXELS), dtype=np.uint8), np.arange(2 * batch) % 1000
    data = make_data("random", images, images, images)
    recipe = Recipe(epochs=1, batch=batch, parts=parts, recompute=recompute, learning_rate=1e-3)
    training, before, spent = Training(Sandwich(supernet, recipe), data, recipe, 0, Processes()), held(), 0.0
    start = time.process_time()
    for _ in training:
        spent, start = time.process_time() - start, time.process_time()
    return {"recompute": recompute, "parts": parts, "memory_mb": most_held() - before, "cpu_s": spent}


def draw(points: list[dict[str, Any]], batch: int, path: Path) -> None:
    """Memory against time."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for recompute, label in ((False, "feature maps kept"), (True, "recomputed")):
        some = [point for point in points if point["recompute"] == recompute]
        memory, spent = [point["memory_mb"] / 1024 for point in some], [point["cpu_s"] for point in some]
        axes.plot(spent, memory, "o-", label=label)
        for x, y, point in zip(spent, memory, some, strict=True):
            axes.annotate(f"{point['parts']} part{'s' * (point['parts'] > 1)}", (x, y), xytext=(5, 5), textcoords="offset points")
    axes.set(xlabel="processor time of a step (s)", ylabel="peak memory (GB)", title=f"ResNet-50, {PIXELS} px, {batch} images a step")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.15)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Measure all configurations, print and draw them."""
    parser = argparse.ArgumentParser(description="Memory against time of a training step: gradient checkpointing and parts.")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--figure", type=Path, default=Path("benchmark-output/memory/memory.svg"))
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/memory"))
    parser.add_argument("--one", nargs=2, type=int, metavar=("RECOMPUTE", "PARTS"), help="measure one configuration, print it as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.batch, bool(options.one[0]), options.one[1])))
        return
    results = options.out / "results.json"
    points: list[dict[str, Any]] = json.loads(results.read_text())["points"] if results.exists() else []
    for recompute in (0, 1):
        for parts in PARTS:
            if not any((point["recompute"], point["parts"]) == (recompute, parts) for point in points):
                command = [sys.executable, __file__, "--batch", str(options.batch), "--one", str(recompute), str(parts)]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **GIVE_BACK})
                points.append(json.loads(done.stdout))
                write_atomic(results, json.dumps({"torch": torch.__version__, "batch": options.batch, "points": points}, indent=1).encode())
    table = Table("feature maps", "parts", "peak memory (MB)", "CPU s a step", title=f"ResNet-50, {PIXELS} px, batch {options.batch}")
    for point in points:
        kept = "recomputed" if point["recompute"] else "kept"
        table.add_row(kept, str(point["parts"]), f"{point['memory_mb']:,.0f}", f"{point['cpu_s']:.1f}")
    Console().print(table)
    draw(points, options.batch, options.figure)


if __name__ == "__main__":
    main()
