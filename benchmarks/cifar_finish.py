"""Does the searched network stay ahead when everything is trained properly? Three networks of equal measured latency, trained equally.

    python benchmarks/cifar_road.py DIR --seeds 0 1 2 --epochs 5 --out benchmark-output/cifar10
    python benchmarks/cifar_finish.py DIR --road benchmark-output/cifar10

The protocol, written down before its first run:

- The device is the shipped table of an AMD EPYC with ONNX Runtime, one thread, batch 1. The limit is 40 % of the latency of the
  largest network at its fastest precision.
- For each of three seeds the score is a predictor fitted to the 200 sub-networks that cifar_road.py has evaluated in the supernet of
  that seed. All three networks of a seed are chosen by the same predictor:
  *searched*: the best within the latency limit, everything free;
  *uniform*: the best uniform-width network within the latency limit (hwsearch.searching.uniform);
  *macs*: the best within a limit on MACs only, at fp32 throughout and at int8 throughout; the limit on MACs is raised by bisection as far
  as the network found keeps the latency limit, and of the two precisions the one with the better score is kept.
- Before any training the three are measured in turns. Where the searched one measures slower than one of the others, its limit is
  tightened by that ratio and it is searched again, at most five times.
- *searched as macs*, added after the first results (the searched network had been made faster than both others, and was 6 % faster than
  the one by MACs): the best whose latency is that of the MACs-only network by the table, tightened in the same way until it measures no
  slower than that one alone. So this pair is of equal latency.
- Each is trained from random weights, alone, by the same recipe with the same seed and number of steps; nothing is taken from the
  supernet. It is exported at its precisions (calibrated, not fine-tuned), and the accuracy is that of the file in ONNX Runtime on the
  10,000 test images, which nothing was chosen on.
- The claim to be tested: the mean over the seeds of the searched network's accuracy is higher than each of the other two.

Trainings resume. What is printed also goes to results.json.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from cifar_road import accuracy
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.nn import ArrayData, Recipe, Supernet, SupernetScore, load_data, sample_networks, score_networks, train

LEVEL = 0.4
"""The latency limit, as a share of the largest network's latency at its fastest precision."""
NAMES = ("searched", "uniform", "macs", "searched as macs")


def best(
    space: hwsearch.SearchSpace, table: hwsearch.LatencyTable, predictor: hwsearch.Predictor, limits: dict[str, float], seed: int
) -> hwsearch.Architecture:
    """The best architecture that a search finds within limits."""
    return hwsearch.search(space, device=table, predictor=predictor, limits=limits, seed=seed, run=hwsearch.Run(progress=False)).best


def by_macs(
    space: hwsearch.SearchSpace, table: hwsearch.LatencyTable, predictor: hwsearch.Predictor, limit: float, seed: int
) -> hwsearch.Architecture:
    """The best architecture by MACs alone whose latency happens to keep the limit."""
    found = []
    for precision in table.precisions:
        where = space.restrict({"precision": [precision]})
        macs = hwsearch.metric("macs", where)
        low, high = macs.lower_bound, float(macs(hwsearch.searching.dense(space, precision).genes[None])[0])
        kept = None
        for _ in range(12):
            middle = (low * high) ** 0.5
            one = best(where, table, predictor, {"macs": middle}, seed)
            if table.predict(one.blocks()) <= limit:
                low, kept = middle, one
            else:
                high = middle
        if kept is not None:
            found.append(kept)
    return max(found, key=lambda one: float(predictor(one.genes[None])[0]))


def chosen(
    space: hwsearch.SearchSpace, table: hwsearch.LatencyTable, predictor: hwsearch.Predictor, limit: float, seed: int
) -> tuple[dict[str, hwsearch.Architecture], dict[str, float]]:
    """The networks and their measured latencies, ms."""
    networks = {
        "uniform": hwsearch.searching.uniform(space, limits={"latency_ms": limit}, device=table, predictor=predictor),
        "macs": by_macs(space, table, predictor, limit, seed),
    }
    networks["searched"], measured = no_slower(space, table, predictor, limit, networks, seed)
    networks["searched as macs"], beside = no_slower(
        space, table, predictor, table.predict(networks["macs"].blocks()), {"macs": networks["macs"]}, seed
    )
    return networks, {**measured, "searched as macs": beside["searched"] * measured["macs"] / beside["macs"]}


def no_slower(
    space: hwsearch.SearchSpace,
    table: hwsearch.LatencyTable,
    predictor: hwsearch.Predictor,
    limit: float,
    rivals: Mapping[str, hwsearch.Architecture],
    seed: int,
) -> tuple[hwsearch.Architecture, dict[str, float]]:
    """The best network that measures no slower than its rivals, and the latencies of all, ms, measured in turns."""
    for _ in range(5):
        one = best(space, table, predictor, {"latency_ms": limit}, seed)
        networks = {**rivals, "searched": one}
        found = hwsearch.measure([network.blocks() for network in networks.values()], table=table, rounds=40)
        measured = {name: entry.latency_ms for name, entry in zip(networks, found, strict=True)}
        ratio = measured["searched"] / min(measured[name] for name in rivals)
        if ratio <= 1:
            break
        limit = 0.999 * table.predict(one.blocks()) / ratio
    return one, measured


def choose(space: hwsearch.SearchSpace, table: hwsearch.LatencyTable, data: ArrayData, road: Path, out: Path, seed: int) -> None:
    """Choose and measure the networks of one seed, once."""
    if (out / "chosen.json").exists():
        return
    supernet = Supernet.load(road / "supernet.safetensors", space)
    X, score = sample_networks(space, 200, seed), SupernetScore(space, supernet, data, images=1000)
    y = score_networks(score, X, out=road / "predictor.scores.npz", progress=False)
    predictor = hwsearch.Predictor.fit(space, X, y, seed=seed)
    full = min(table.predict(hwsearch.searching.dense(space, precision).blocks()) for precision in table.precisions)
    networks, measured = chosen(space, table, predictor, LEVEL * full, seed)
    out.mkdir(parents=True, exist_ok=True)
    document = {
        name: {
            "architecture": one.document(),
            "limit_ms": LEVEL * full,
            "table_ms": table.predict(one.blocks()),
            "measured_ms": measured[name],
            "predicted_accuracy": float(predictor(one.genes[None])[0]),
            "macs": sum(block.macs for block in one.blocks()),
            "params": sum(block.params for block in one.blocks()),
        }
        for name, one in networks.items()
    }
    write_atomic(out / "chosen.json", json.dumps(document, indent=1).encode())


def finish(space: hwsearch.SearchSpace, data: ArrayData, out: Path, seed: int, name: str, recipe: Recipe) -> dict[str, Any]:
    """Train one network alone; its test accuracies, in float and as exported."""
    facts = json.loads((out / "chosen.json").read_text())[name]
    one = hwsearch.Architecture.from_document(facts.pop("architecture"), space, out / "chosen.json")
    weights = train(space.alone(one.genes), data=data, out=out / f"{name}.safetensors", recipe=recipe, seed=seed)
    model = hwsearch.export(one, weights=weights, out=out / f"{name}.onnx")
    return {
        "seed": seed,
        "network": name,
        **facts,
        "float_accuracy": hwsearch.evaluate(one.at_precision("fp32"), weights=weights, data=data),
        "accuracy": accuracy(model, one, data),
    }


def main() -> None:
    """Run all seeds and print the comparison."""
    parser = argparse.ArgumentParser(description="Searched, uniform and MACs-only networks on CIFAR-10, trained equally.")
    parser.add_argument("folder", type=Path, help="holds cifar-10-batches-py")
    parser.add_argument("--road", type=Path, default=Path("benchmark-output/cifar10"), help="what cifar_road.py has left")
    parser.add_argument("--table", type=Path, default=Path("latency_tables/amd-epyc-onnxruntime.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--choose", action="store_true", help="choose and measure the networks, and stop")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/cifar-finish"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    space, table = hwsearch.load_space("resnet_cifar"), hwsearch.load_table(options.table)
    data = load_data("cifar10", options.folder)
    assert isinstance(data, ArrayData)
    recipe = Recipe(epochs=options.epochs, batch=128, learning_rate=0.2, label_smoothing=0.0, amp="bf16")
    for seed in options.seeds:
        choose(space, table, data, options.road / f"seed{seed}", options.out / f"seed{seed}", seed)
    if options.choose:
        return
    rows = []
    for seed in options.seeds:
        for name in NAMES:
            rows.append(finish(space, data, options.out / f"seed{seed}", seed, name, recipe))
            console.print(rows[-1])
    facts = {"device": table.device.hardware, "runtime": table.device.runtime_version, "python": platform.python_version()}
    document = {**facts, "torch": torch.__version__, "level": LEVEL, "epochs": options.epochs, "rows": rows}
    write_atomic(options.out / "results.json", json.dumps(document, indent=1).encode())
    shown = Table(title=f"CIFAR-10 test accuracy after {options.epochs} epochs alone, at equal measured latency, {table.device.hardware}")
    for title in ("network", "measured ms", "MACs (M)", "params (k)", "accuracy", "float", "mean accuracy", "standard deviation"):
        shown.add_column(title, justify="right")
    for name in NAMES:
        some = [row for row in rows if row["network"] == name]
        for row in some:
            cells = [f"{row['measured_ms']:.4f}", f"{row['macs'] / 1e6:.1f}", f"{row['params'] / 1e3:.0f}", f"{row['accuracy']:.2%}"]
            shown.add_row(name, *cells, f"{row['float_accuracy']:.2%}")
        found = np.array([row["accuracy"] for row in some]).tolist()
        spread = f"{stdev(found):.2%}" if len(found) > 1 else ""
        shown.add_row(name, "", "", "", "", "", f"{mean(found):.2%}", spread, end_section=True)
    console.print(shown)


if __name__ == "__main__":
    main()
