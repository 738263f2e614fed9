"""From scratch or from the supernet? The same searched network, trained equally long from random and from inherited weights.

    python benchmarks/cifar_road.py DIR --seeds 0 1 2 --epochs 5 --out benchmark-output/cifar10
    python benchmarks/scratch_or_finetune.py DIR --road benchmark-output/cifar10

For every seed the network that cifar_road.py has found at 40 % of the largest network's latency is finished twice by hwsearch.finish, with
the largest network of its supernet as the teacher of both: from random weights at the recipe's learning rate, and from the weights it
inherits at a quarter of it. Beside them stands the network as the supernet has it, not trained any further. Accuracies are on the 10,000
test images, at the network's precisions (calibrated, not fine-tuned at them). Trainings resume; what is printed also goes to results.json.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.nn import Deployment, load_data

LEVEL = 0.4
NAMES = ("inherited", "fine-tuned", "from scratch")


def compare(folder: Path, road: Path, out: Path, seed: int, epochs: int) -> dict[str, float]:
    """The three accuracies of one seed."""
    space, data = hwsearch.load_space("resnet_cifar"), load_data("cifar10", folder)
    network, supernet = hwsearch.Architecture.from_json(road / f"searched-{LEVEL}.json", space), road / "supernet.safetensors"
    found: dict[str, float] = {"seed": seed, "inherited": hwsearch.evaluate(network, weights=supernet, data=data)}
    for name, weights in zip(NAMES[1:], (supernet, None), strict=True):
        finished = hwsearch.finish(
            network,
            data=data,
            out=out / name.replace(" ", "-"),
            weights=weights,
            recipe={"amp": "bf16", "epochs": epochs, "batch": 128, "teacher": supernet},
            deployment=Deployment(tuning=0),
            seed=seed,
            progress=False,
        )
        found |= {name: finished.accuracy, f"{name}, float": finished.float_accuracy}
    return found


def main() -> None:
    """Run all seeds and print the comparison."""
    parser = argparse.ArgumentParser(description="The same network on CIFAR-10, trained from scratch and from the weights of the supernet.")
    parser.add_argument("folder", type=Path, help="holds cifar-10-batches-py")
    parser.add_argument("--road", type=Path, default=Path("benchmark-output/cifar10"), help="what cifar_road.py has left")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/scratch-or-finetune"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    rows = []
    for seed in options.seeds:
        rows.append(compare(options.folder, options.road / f"seed{seed}", options.out / f"seed{seed}", seed, options.epochs))
        console.print(rows[-1])
        document = {"python": platform.python_version(), "torch": torch.__version__, "epochs": options.epochs, "rows": rows}
        write_atomic(options.out / "results.json", json.dumps(document, indent=1).encode())
    shown = Table(title=f"CIFAR-10 test accuracy after {options.epochs} epochs, int8 or mixed precisions")
    for title in ("weights", "accuracy by seed", "mean"):
        shown.add_column(title)
    for name in NAMES:
        shown.add_row(name, ", ".join(f"{row[name]:.2%}" for row in rows), f"{mean(row[name] for row in rows):.2%}")
    console.print(shown)


if __name__ == "__main__":
    main()
