"""The supernet: how fast it trains, switches and is evaluated, how good it gets on CIFAR-10, and whether it ranks networks rightly.

    python benchmarks/supernet.py speed
    python benchmarks/supernet.py train DIR --data CIFAR
    python benchmarks/supernet.py rank DIR --data CIFAR --weights DIR/part.safetensors
    python benchmarks/supernet.py agree DIR --data CIFAR --weights benchmark-output/cifar10/seed0/supernet.safetensors

``CIFAR`` is the folder that holds ``cifar-10-batches-py``. One thread; trainings resume. Figures are CPU-seconds, medians over rounds in
which everything that is compared takes its turn; they go to ``benchmarks/results/supernet-*.json``.

- ``speed``, space ``resnet_cifar``: a sandwich step (largest, smallest, two random networks) against plain steps of the same four networks,
  extracted; what :meth:`Supernet.activate` costs; evaluation of extracted and of quantised networks.
- ``train``: a supernet of the part of ``resnet_cifar`` in ``PART``; its largest and its smallest network in fp32 on the 10,000 test images.
- ``rank``: 20 networks of that part, one at random out of each twentieth of its range of MACs; their accuracy with the weights of that
  supernet, and trained from random weights alone for ``--epochs`` at another learning rate; both in fp32 on the 5,000 validation images.
- ``agree``: random networks of mixed precisions: accuracy on the 10,000 test images as the supernet's evaluation has it and as the exported
  file has it in ONNX Runtime; latency by the shipped table and as measured.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from cifar_road import accuracy
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau, spearmanr

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.costs import metric
from hwsearch.nn import ArrayData, Recipe, Supernet, evaluate, load_data, train

RESULTS = Path(__file__).parent / "results"
PART = {"resolution": (28, 32), "stem.out": (16,), "stage*.depth": (2, 3)} | {
    f"stage{stage}.{name}": tuple(factor * width for width in widths)
    for stage, factor in ((1, 1), (2, 2), (3, 4))
    for name, widths in (("out", (12, 16)), ("block*.mid", (12, 16, 24)))
}
"""12 to 61 MMACs: as wide a range as Once-for-All's."""
RECIPE = Recipe(epochs=28, batch=128, parts=2, learning_rate=0.2, random_networks=1, amp="bf16")
NETWORKS = 20
ALONE = Recipe(epochs=2, batch=128, learning_rate=0.3, amp="bf16")
TABLE = Path(__file__).parent.parent / "latency_tables" / "amd-epyc-onnxruntime.json"

app = typer.Typer(add_completion=False, help=__doc__)
Data = Annotated[Path, typer.Option(help="the folder that holds cifar-10-batches-py")]


@app.callback()
def main() -> None:
    """One thread, whatever the machine has."""
    torch.set_num_threads(1)


def cpu(work: Callable[[], object]) -> float:
    """The CPU-seconds that one call takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def told(name: str, facts: dict[str, Any]) -> None:
    """Print facts, and keep them."""
    table = Table("what", "figure")
    for key, value in facts.items():
        table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
    facts = {"machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}", **facts}
    write_atomic(RESULTS / f"supernet-{name}.json", (json.dumps(facts, indent=1) + "\n").encode())


@app.command()
def speed(rounds: int = 7, batch: int = 128, amp: str = "bf16") -> None:
    """Training, switching, evaluation."""
    supernet = Supernet("resnet_cifar")
    space = supernet.space
    rng = np.random.default_rng(0)
    rows = [supernet.largest, supernet.smallest, *space.sample(2, rng)]
    x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))
    plain = [supernet.extract(row, x) for row in rows]

    def step(run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp == "bf16"):
            logits = run(x)
        F.cross_entropy(logits.float(), y).backward()

    def sandwich() -> None:
        supernet.train()
        for row in rows:
            supernet.activate(row)
            step(supernet)

    def four() -> None:
        for network in plain:
            step(network.train())

    def look(network: torch.nn.Module) -> None:
        with torch.inference_mode():
            network.eval()(x)

    many = space.sample(200, rng)

    def activate() -> None:
        for row in many:
            supernet.activate(row)

    works: dict[str, Callable[[], object]] = {
        "sandwich": sandwich,
        "four": four,
        "activate": activate,
        "extract": lambda: supernet.extract(rows[2], x),
        "evaluate largest": lambda: look(plain[0]),
        "evaluate random": lambda: look(plain[2]),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            spent = cpu(work)
            if number:  # the first round warms up
                times[name].append(spent)
    typical = {name: median(spent) for name, spent in times.items()}
    ratio = median(a / b for a, b in zip(times["sandwich"], times["four"], strict=True))
    told(
        "speed",
        {
            "sandwich step, images per core-second": batch / typical["sandwich"],
            "four plain steps, images per core-second": batch / typical["four"],
            "sandwich step / four plain steps": ratio,
            "activate, us": typical["activate"] / len(many) * 1e6,
            "extract and calibrate on a batch, ms": typical["extract"] * 1e3,
            "evaluation of the largest, images per core-second": batch / typical["evaluate largest"],
            "evaluation of a random one, images per core-second": batch / typical["evaluate random"],
            "batch": batch,
            "amp": amp,
        },
    )


@app.command("train")
def train_part(folder: Path, data: Data) -> None:
    """How good the largest and the smallest network get."""
    space = hwsearch.load_space("resnet_cifar").restrict(PART)
    images = load_data(("cifar10", data))
    start = time.process_time()
    supernet = train(space, data=images, out=folder / "part.safetensors", recipe=RECIPE)
    spent = (time.process_time() - start) / 60
    facts: dict[str, Any] = {"CPU-minutes of this process": spent, "epochs": RECIPE.epochs}
    for name, row in (("largest", supernet.largest), ("smallest", supernet.smallest)):
        one = space.architecture(row).at_precision("fp32")
        facts |= {
            f"{name}, MMACs": sum(block.macs for block in one.blocks()) / 1e6,
            f"{name}, test accuracy": evaluate(one, weights=supernet, data=images),
        }
    told("train", facts)


def spread(space: hwsearch.SearchSpace, count: int, seed: int) -> list[hwsearch.Architecture]:
    """Networks in fp32, one at random out of each of so many equal parts of the range of MACs, largest last."""
    X = space.sample(20_000, np.random.default_rng(seed))
    macs = metric("macs", space)(X)
    edges = np.linspace(macs.min(), macs.max(), count + 1)[1:-1]
    first = np.unique(np.searchsorted(edges, macs), return_index=True)[1]
    return [space.architecture(row).at_precision("fp32") for row in X[first]]


@app.command()
def rank(folder: Path, data: Data, weights: Annotated[Path, typer.Option(help="of the supernet")], epochs: int = ALONE.epochs) -> None:
    """Whether the supernet ranks networks as training each of them alone does."""
    space = hwsearch.load_space("resnet_cifar").restrict(PART)
    images = load_data(("cifar10", data))
    supernet = Supernet.load(weights, space)
    found = []
    for number, one in enumerate(spread(space, NETWORKS, 20)):
        out = folder / "alone" / f"{number}-{epochs}.safetensors"
        out.parent.mkdir(parents=True, exist_ok=True)
        network = train(space.alone(one.genes), data=images, out=out, recipe=replace(ALONE, epochs=epochs))
        alone, inherited = (evaluate(one, weights=one_or_all, data=images, split="val") for one_or_all in (network, supernet))
        macs = sum(block.macs for block in one.blocks()) / 1e6
        found.append((macs, inherited, alone))
        print(f"{number}: {macs:.1f} MMACs, inherited {inherited:.4f}, alone {alone:.4f}", flush=True)
    sizes, scores, trained = zip(*found, strict=True)
    told(
        "rank",
        {
            "Spearman": float(spearmanr(scores, trained).statistic),
            "Kendall": float(kendalltau(scores, trained).statistic),
            "Spearman of MACs with alone": float(spearmanr(sizes, trained).statistic),
            "networks": NETWORKS,
            "epochs alone": epochs,
            "epochs of the supernet": supernet.facts["recipe"]["epochs"],
            "MMACs, inherited, alone": [list(one) for one in found],
        },
    )


@app.command()
def agree(folder: Path, data: Data, weights: Annotated[Path, typer.Option(help="of the supernet")], networks: int = 6) -> None:
    """Whether what is shipped is what was evaluated, and takes the time that was predicted."""
    space, table = hwsearch.load_space("resnet_cifar"), hwsearch.load_table(TABLE)
    images, supernet = load_data(("cifar10", data)), Supernet.load(weights, space)
    assert isinstance(images, ArrayData)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [space.architecture(row) for row in space.sample(networks, np.random.default_rng(30))]
    files = [hwsearch.export(one, weights=supernet, out=folder / f"{number}.onnx") for number, one in enumerate(chosen)]
    points = []
    for one, file in zip(chosen, files, strict=True):
        points.append((100 * evaluate(one, weights=supernet, data=images), 100 * accuracy(file, one, images)))
        print(f"{file.name}: evaluated {points[-1][0]:.2f} %, in ONNX Runtime {points[-1][1]:.2f} %", flush=True)
    measured = [one.latency_ms for one in hwsearch.measure(files, table=table)]
    times = [(table.predict(one.blocks()), ms) for one, ms in zip(chosen, measured, strict=True)]
    errors = [abs(predicted / ms - 1) for predicted, ms in times]
    told(
        "agree",
        {
            "largest difference of accuracy, points": max(abs(a - b) for a, b in points),
            "mean difference of accuracy, points": sum(abs(a - b) for a, b in points) / networks,
            "mean error of latency, %": 100 * sum(errors) / networks,
            "largest error of latency, %": 100 * max(errors),
            "error of latency that the table states, %": 100 * table.error()["mean_abs"],
            "evaluated, in ONNX Runtime (%)": [list(pair) for pair in points],
            "predicted, measured (ms)": [list(pair) for pair in times],
        },
    )


if __name__ == "__main__":
    app()
