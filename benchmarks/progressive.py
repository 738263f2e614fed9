"""Progressive shrinking beside the sandwich rule: the same space, images and arithmetic, on scanned digits.

    python benchmarks/progressive.py --seeds 0 1 2

Both recipes train `resnet_digits`. A step of a phase costs what its networks cost: the multiply-accumulates of the largest and the
smallest one of the phase, and the mean of its random ones. The progressive training gets as many epochs as make both sums equal; the
processor time that each took is printed as well. Accuracies are on the 360 test images: the largest and the smallest network, and the
mean of 20 random ones (the same ones for all), each with its batch norms calibrated.

What is printed also goes to results.json; trainings that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.nn import PHASES, Data, Phase, Recipe, Supernet, evaluate, load_data, load_recipe, train
from hwsearch.nn.training._phases import corner, phases_for

COLUMNS = ("largest", "smallest", "random")


def cost(space: hwsearch.SearchSpace, recipe: Recipe) -> float:
    """Multiply-accumulates of an image, forward, averaged over the steps of a training."""
    macs = hwsearch.metric("macs", space)

    def step(phase: Phase) -> float:
        trained = phase.restrict(space)
        rows = np.stack([corner(trained, -1), corner(trained, 0), *trained.sample(200, np.random.default_rng(0))])
        found = macs(rows)
        others = recipe.random_networks if phase.random_networks is None else phase.random_networks
        return float(found[0] + found[1] + others * found[2:].mean()) if trained.size > 1 else float(found[0])

    phases = phases_for(recipe.phases, space)
    return sum(phase.share * step(phase) for phase in phases) / sum(phase.share for phase in phases)


def accuracies(supernet: Supernet, data: Data, split: str) -> dict[str, float]:
    """Of the largest, the smallest, and random networks in floating point."""
    space = supernet.space.restrict({"precision": ["fp32"]})
    rows = [corner(space, -1), corner(space, 0), *space.sample(20, np.random.default_rng(1))]
    found = [evaluate(space.architecture(row), weights=supernet, data=data, split=split) for row in rows]
    return dict(zip(COLUMNS, (found[0], found[1], mean(found[2:])), strict=True))


def main() -> None:
    """Train both ways and print the comparison."""
    parser = argparse.ArgumentParser(description="Progressive shrinking beside the sandwich rule, at equal arithmetic, on digits.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=16, help="of the sandwich")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/progressive"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    space, data = hwsearch.load_space("resnet_digits"), load_data("digits")
    sandwich = replace(load_recipe("digits"), epochs=options.epochs)
    progressive = replace(sandwich, phases=PHASES["progressive"])
    progressive = replace(progressive, epochs=round(options.epochs * cost(space, sandwich) / cost(space, progressive)))
    results = options.out / "results.json"
    rows: list[dict[str, Any]] = json.loads(results.read_text())["rows"] if results.exists() else []
    for seed in options.seeds:
        for name, recipe in (("sandwich", sandwich), ("progressive", progressive)):
            if any((row["seed"], row["recipe"]) == (seed, name) for row in rows):
                continue
            start = time.process_time()
            supernet = train(space, data=data, out=options.out / f"seed{seed}" / f"{name}.safetensors", recipe=recipe, seed=seed)
            took = time.process_time() - start
            rows.append({"seed": seed, "recipe": name, "epochs": recipe.epochs, "cpu_s": took, **accuracies(supernet, data, options.split)})
            write_atomic(results, json.dumps({"torch": torch.__version__, "rows": rows}, indent=1).encode())
    table = Table(*("recipe", "epochs", "CPU s", *COLUMNS), title=f"digits, {options.split} accuracy (%) by seed, and mean")
    for name in ("sandwich", "progressive"):
        some = [row for row in rows if row["recipe"] == name]
        cells = [", ".join(f"{100 * row[key]:.1f}" for row in some) + f"; {100 * mean(row[key] for row in some):.1f}" for key in COLUMNS]
        table.add_row(name, str(some[0]["epochs"]), ", ".join(f"{row['cpu_s']:.0f}" for row in some), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
