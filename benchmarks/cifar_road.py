"""The claim of the README on real images: the searched network against the uniform-width one at the same measured latency.

    python benchmarks/cifar_road.py DIR --seeds 0 1 2 --epochs 5 --out benchmark-output/cifar10

DIR holds cifar-10-batches-py. For every seed a supernet is trained and a predictor fitted; the table is measured once. At each
latency level the uniform-width network is chosen, exported and measured, and its measured latency is the limit. The search verifies
its answer: eight networks a round are evaluated on all validation images and measured, and correct the predictions. Where the exported
file measures slower than the uniform one, the limit is tightened and the search goes on. Accuracies are of the exported files in ONNX
Runtime on the 10,000 test images, which nothing was chosen on. Trainings, scores and verifications resume; what is printed also goes to
results.json. (The committed results are of an earlier protocol: two rounds of eight candidates a level, judged on some validation images
at first.)
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import numpy as np
import onnxruntime
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.nn import ArrayData, SupernetScore, SupernetVerifier, load_data, resize, sample_networks, score_networks

LEVELS = (0.6, 0.4, 0.25)
"""Latency levels, as shares of the largest network's latency at its fastest precision."""


def accuracy(model: Path, architecture: hwsearch.Architecture, data: ArrayData) -> float:
    """The share of test images that a model file gets right in ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    right = 0
    for x, y in zip(data.test_x.split(1000), data.test_y.split(1000), strict=True):
        images = resize(data.normalize(x), int(architecture.values()["resolution"])).contiguous().numpy()
        right += sum(
            int(np.argmax(session.run(None, {"input": image[None]})[0]) == label) for image, label in zip(images, y.tolist(), strict=True)
        )
    return right / len(data.test_y)


def road(
    seed: int, data: ArrayData, table: hwsearch.LatencyTable, out: Path, epochs: int, samples: int, images: int
) -> Iterator[dict[str, float]]:
    """One seed: a supernet, a predictor, and one comparison a level."""
    space = hwsearch.load_space("resnet_cifar")
    weights = out / "supernet.safetensors"
    supernet = hwsearch.train(space, data=data, out=weights, recipe={"epochs": epochs}, seed=seed)
    X = sample_networks(space, samples, seed)
    y = score_networks(SupernetScore(space, supernet, data, images=images), X, out=out / "predictor.scores.npz")
    predictor = hwsearch.Predictor.fit(space, X, y, seed=seed)
    full = min(table.predict(hwsearch.searching.dense(space, precision).blocks()) for precision in table.precisions)
    uniforms = [
        hwsearch.searching.uniform(space, limits={"latency_ms": level * full}, device=table, predictor=predictor) for level in LEVELS
    ]
    plain_files = [
        hwsearch.export(one, weights=supernet, out=out / f"uniform-{level}.onnx") for one, level in zip(uniforms, LEVELS, strict=True)
    ]
    limits = [one.latency_ms for one in hwsearch.measure(plain_files, table=table, rounds=40)]
    for level, uniform, plain_file, limit in zip(LEVELS, uniforms, plain_files, limits, strict=True):
        files = [plain_file, out / f"searched-{level}.onnx"]
        for _ in range(4):
            result = hwsearch.search(
                space,
                device=table,
                predictor=predictor,
                limits={"latency_ms": limit},
                seed=seed,
                verify=hwsearch.Verify(SupernetVerifier(supernet, data)),
                run=hwsearch.Run(state=out / "search"),
            )
            hwsearch.export(result.best, weights=supernet, out=files[1])
            plain, ours = hwsearch.measure(files, table=table, rounds=40)
            if ours.latency_ms <= plain.latency_ms:
                break
            limit *= 0.995 * plain.latency_ms / ours.latency_ms
        found, verified = result.best, result.verification
        found.to_json(out / f"searched-{level}.json")
        yield {
            "seed": seed,
            "level": level,
            "uniform_accuracy": accuracy(files[0], uniform, data),
            "searched_accuracy": accuracy(files[1], found, data),
            "no_slower": ours.latency_ms <= plain.latency_ms,
            "uniform_ms": plain.latency_ms,
            "searched_ms": ours.latency_ms,
            "searched_predicted_ms": table.predict(found.blocks()),
            "validation_accuracy": result.best_score,
            "uniform_validation_accuracy": hwsearch.evaluate(uniform, weights=supernet, data=data, split="val"),
            "uniform_macs": float(hwsearch.metric("macs", space)(uniform.genes[None])[0]),
            "searched_macs": float(hwsearch.metric("macs", space)(found.genes[None])[0]),
            "evaluated": len(verified.networks) if verified else 0,
            "rounds": len(verified.rounds) if verified else 0,
            "agreed": bool(verified and verified.agreed),
            "kendall_tau": predictor.report.kendall_tau if predictor.report else float("nan"),
            "pairwise_accuracy": predictor.report.pairwise_accuracy if predictor.report else float("nan"),
        }


def picture(rows: list[dict[str, float]], path: Path) -> None:
    """Draw accuracy against measured latency: every seed as a dot, means as lines."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, marker, colour in (("searched", "o", "#0072b2"), ("uniform", "^", "#009e73")):
        points = [(row[f"{name}_ms"], 100 * row[f"{name}_accuracy"]) for row in rows]
        axes.scatter([x for x, _ in points], [y for _, y in points], marker=marker, color=colour, alpha=0.4, s=28)
        means = [np.mean([p for p, row in zip(points, rows, strict=True) if row["level"] == level], axis=0) for level in LEVELS]
        axes.plot(*np.transpose(np.array(means)), marker=marker, color=colour, label=f"{name}, mean and single seeds")
    axes.set(xlabel="measured latency (ms), ONNX Runtime, one thread", ylabel="CIFAR-10 test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run all seeds and print the comparison."""
    parser = argparse.ArgumentParser(description="Searched against uniform-width networks on CIFAR-10, at equal measured latency.")
    parser.add_argument("folder", type=Path, help="holds cifar-10-batches-py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200, help="networks that the predictor learns from")
    parser.add_argument("--images", type=int, default=1000, help="validation images that each of them is scored on")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/cifar10"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    data = load_data("cifar10", options.folder)
    assert isinstance(data, ArrayData)
    table = hwsearch.profile("resnet_cifar", backend="onnxruntime", out=options.out / "latency_table.json")
    console.print(table, table.error())
    facts = {"device": table.device.hardware, "runtime": table.device.runtime_version, "python": platform.python_version()}
    document = {**facts, "epochs": options.epochs, "samples": options.samples, "images": options.images, "table_error": table.error()}
    rows: list[dict[str, float]] = []
    for seed in options.seeds:
        for row in road(seed, data, table, options.out / f"seed{seed}", options.epochs, options.samples, options.images):
            rows.append(row)
            console.print(row)
            write_atomic(options.out / "results.json", json.dumps({**document, "rows": rows}, indent=1).encode())
    shown = Table(title=f"CIFAR-10 test accuracy at equal measured latency, {table.device.hardware}, one thread, batch 1")
    for title in ("latency level", "seed", "uniform", "searched", "gain", "uniform ms", "searched ms", "MACs searched / uniform"):
        shown.add_column(title, justify="right")
    for level in LEVELS:
        some = [row for row in rows if row["level"] == level]
        for row in some:
            gain = row["searched_accuracy"] - row["uniform_accuracy"]
            slower = "" if row["no_slower"] else " (searched is slower)"
            cells = [f"{row['uniform_accuracy']:.2%}", f"{row['searched_accuracy']:.2%}", f"{gain:+.2%}{slower}"]
            times = [f"{row['uniform_ms']:.4f}", f"{row['searched_ms']:.4f}", f"{row['searched_macs'] / row['uniform_macs']:.2f}"]
            shown.add_row(f"{level:.0%}", f"{row['seed']:.0f}", *cells, *times)
        gains = [row["searched_accuracy"] - row["uniform_accuracy"] for row in some]
        shown.add_row(f"{level:.0%}", "mean", "", "", f"{mean(gains):+.2%}", "", "", "", end_section=True)
    console.print(shown)
    picture(rows, options.out / "cifar10.png")


if __name__ == "__main__":
    main()
