"""Joint search against stages: architecture, then widths, then bits, each the best given the ones before.

    python benchmarks/joint_vs_staged.py DIR --road benchmark-output/cifar10 --bitfusion bitfusion_lut.json

DIR holds cifar-10-batches-py, and the road the supernets of benchmarks/cifar_road.py. All ways have the same supernet, the same scored
networks to fit the same kind of predictor on, the same limits and the same number of networks to evaluate. docs/joint-vs-staged.md is
the protocol. Every evaluation is kept as it is done, so a stopped run goes on where it was; results.json grows by one seed of a device
at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

import hwsearch
from hwsearch._store import Journal, write_atomic
from hwsearch.algorithms import load_algorithm
from hwsearch.algorithms._pareto import hypervolume
from hwsearch.blocks import Layer, Precision
from hwsearch.device import Device, Protocol, Row
from hwsearch.interop import apq_table
from hwsearch.nn import Data, Supernet, evaluate, load_data, score_samples
from hwsearch.space import Rows
from hwsearch.spaces.resnet_cifar import CHAIN

LEVELS = (0.7, 0.5, 0.35, 0.25)
"""Latency limits, as shares of the largest network's latency at its fastest precision."""
FLOOR = 0.5
"""The accuracy from which hypervolumes are counted; their other corner is the highest limit."""
EACH = 3
"""Networks that a way has evaluated at a level and turn."""
TURNS = 2
IMAGES = 1000
"""Validation images of an evaluation; the two best of a level are compared on all 5,000."""
SAMPLES = 120
"""Random networks that the predictors of all ways begin with."""

WAYS = {"joint": ("o", "#0072b2"), "staged": ("^", "#d55e00"), "once": ("v", "#009e73")}
"""The ways, and how they are drawn: everything at once; in stages, nine ways; in stages, the middle one of these alone."""

Feasible = tuple[Rows, np.ndarray]
"""Rows within a limit and their predicted scores."""


@dataclass(frozen=True)
class Bench:
    """One device and one seed: what all ways are given."""

    space: hwsearch.SearchSpace
    table: hwsearch.LatencyTable
    finest: str
    seed: int

    def climb(self, space: hwsearch.SearchSpace, predictor: hwsearch.Predictor, limit: float) -> Feasible:
        """What a search meets within a limit in a part of the space; nothing where the limit cannot be met there."""
        try:
            problem = hwsearch.problem(space, predictor=predictor, device=self.table, limits={"latency_ms": limit})
        except hwsearch.Infeasible:
            return np.empty((0, len(space.choices)), dtype=np.uint8), np.empty(0)
        algorithm = load_algorithm(None, problem)
        state = hwsearch.start(problem, algorithm, self.seed)
        for _ in range(algorithm.steps):
            if algorithm.done(state.algorithm) or len(state.X) >= problem.space.size:
                break
            state = hwsearch.advance(problem, algorithm, state)
        met = ~np.isnan(state.scores)
        return state.X[met], state.scores[met]

    def joint(self, predictor: hwsearch.Predictor, limit: float) -> Feasible:
        """Everything at once."""
        return self.climb(self.space, predictor, limit)

    def staged(self, predictor: hwsearch.Predictor, limit: float) -> Feasible:
        """In stages, nine ways at once: all that the last stage of any of them met goes into the choice."""
        found = [self.stages(predictor, limit, share, pruned) for share in (1 / 3, 2 / 3, 1) for pruned in (1.0, 1.6, 2.6)]
        X, first = np.unique(np.concatenate([rows for rows, _ in found]), axis=0, return_index=True)
        return X, np.concatenate([scores for _, scores in found])[first]

    def once(self, predictor: hwsearch.Predictor, limit: float) -> Feasible:
        """In stages, the middle way of the nine alone."""
        return self.stages(predictor, limit, 2 / 3, 1.6)

    def stages(self, predictor: hwsearch.Predictor, limit: float, share: float, pruned: float) -> Feasible:
        """Depths and resolution at full width and the finest precision; then widths; then bits.

        The first two stages have to stay within more than the limit, since the next ones make the network faster.

        Args:
            predictor: of scores.
            limit: on latency, ms.
            share: how much of what bits can bring is counted upon, as an exponent.
            pruned: how many times faster widths are counted upon to make it.
        """
        widths = {choice.name: choice.values[-1:] for choice in self.space.choices if "out" in choice.name or "mid" in choice.name}
        start = self.space.restrict({**widths, "*precision": [self.finest]})
        slow, fast = (self.table.predict(hwsearch.dense(self.space, name).blocks()) for name in (self.finest, self.fastest))
        quantised = (slow / fast) ** share
        X, y = self.climb(start, predictor, limit * quantised * pruned)
        if len(X):
            values = self.space.decode(X[np.argmax(y)])
            architecture = {name: [value] for name, value in values.items() if name not in widths}
            X, y = self.climb(self.space.restrict(architecture), predictor, limit * quantised)
        if len(X):
            values = self.space.decode(X[np.argmax(y)])
            narrowed = {name: [value] for name, value in values.items() if not name.endswith("precision")}
            X, y = self.climb(self.space.restrict(narrowed), predictor, limit)
        return X, y

    @property
    def fastest(self) -> str:
        """The precision at which the largest network is fastest."""
        return min(self.table.precisions, key=lambda name: self.table.predict(hwsearch.dense(self.space, name).blocks()))


Way = Callable[[hwsearch.Predictor, float], Feasible]


def different(found: Feasible, known: set[bytes], most: int) -> Iterator[Rows]:
    """The best rows that are not known and differ in at least three genes from each other."""
    chosen: list[Rows] = []
    rows, scores = found
    for row in rows[np.argsort(-scores, kind="stable")]:
        if bytes(row) not in known and all((row != other).sum() >= 3 for other in chosen):
            chosen.append(row)
            yield row
        if len(chosen) == most:
            return


class Judge:
    """Accuracies in the supernet, each asked for once and kept in a journal."""

    def __init__(self, supernet: Supernet, data: Data, path: Path) -> None:
        self.supernet, self.data, self.journal = supernet, data, Journal(path)
        self.known = {(line["row"], line["split"], line["images"]): float(line["accuracy"]) for line in self.journal}

    def __call__(self, row: Rows, split: str, images: int | None = None) -> float:
        """The share of images of a split that the network of a row gets right at its precisions."""
        key = (bytes(row).hex(), split, images)
        if key not in self.known:
            network = self.supernet.space.architecture(row)
            self.known[key] = evaluate(network, weights=self.supernet, data=self.data, split=split, images=images)
            self.journal.append(dict(zip(("row", "split", "images"), key, strict=True)) | {"accuracy": self.known[key]})
        return self.known[key]


def run(bench: Bench, way: Way, judge: Judge, X: Rows, y: np.ndarray) -> list[dict[str, Any]]:
    """One way on one device with one seed: the networks it ends with, one a level that it can meet."""
    limits = [level * bench.table.predict(hwsearch.dense(bench.space, bench.fastest).blocks()) for level in LEVELS]
    own: dict[bytes, Rows] = {}
    for _ in range(TURNS):
        rows = np.concatenate([X, *(row[None] for row in own.values())])
        scores = np.concatenate([y, [judge(row, "val", IMAGES) for row in own.values()]])
        predictor = hwsearch.Predictor.fit(bench.space, rows, scores, seed=bench.seed)
        for limit in limits:
            for row in different(way(predictor, limit), set(own), EACH):
                judge(row, "val", IMAGES)
                own[bytes(row)] = row
    latency = hwsearch.metric("latency_ms", bench.space, bench.table)
    ended = []
    for level, limit in zip(LEVELS, limits, strict=True):
        within = [row for row in own.values() if latency(row[None])[0] <= limit]
        if within:
            short = sorted(within, key=lambda row: judge(row, "val", IMAGES))[-2:]
            best = max(short, key=lambda row: judge(row, "val"))
            ended.append(
                {
                    "level": level,
                    "limit_ms": limit,
                    "latency_ms": float(latency(best[None])[0]),
                    "validation": judge(best, "val"),
                    "test": judge(best, "test"),
                    "evaluated": len(own),
                    "values": bench.space.decode(best),
                }
            )
    return ended


def volume(ended: Sequence[Mapping[str, Any]], limit: float) -> float:
    """The dominated area below the highest limit and above the floor, as a share of all of it."""
    points = np.array([[one["latency_ms"], -one["test"]] for one in ended]).reshape(-1, 2)
    return hypervolume(points, np.array([limit * (1 + 1e-9), -FLOOR])) / (limit * (1 - FLOOR))


# -- the second device -------------------------------------------------------------------------------------------------


def terms(layer: Layer, bits: Precision) -> list[float]:
    """What the simulator's time of a layer is made of: passes of the 4-bit multipliers, weights, inputs and outputs moved."""
    passes = -(-bits.weight_bits // 4) * -(-bits.activation_bits // 4)
    return [layer.macs * passes, layer.weights * bits.weight_bits, layer.inputs * bits.activation_bits, layer.outputs]


def bitfusion(file: Path, space: hwsearch.SearchSpace) -> tuple[hwsearch.LatencyTable, dict[str, float]]:
    """A table of APQ's simulator for the blocks of another space: fitted, and its error on a fifth of the shapes held out."""
    known = apq_table(file)
    rows = {hwsearch.Block.parse(key): row.latency_ms for key, row in known.rows.items()}
    pointwise = [block for block in rows if block.kind == "conv" and block.groups == 1 and block.kernel == 1 and block.cout != 1280]
    A = np.array([terms(block.graph.layers[0], block.bits) for block in pointwise])
    y = np.array([rows[block] for block in pointwise])
    shapes = [(block.cin, block.cout, block.size) for block in pointwise]
    each = sorted(set(shapes))
    held = {each[index] for index in np.random.default_rng(0).permutation(len(each))[: len(each) // 5]}
    out = np.array([shape in held for shape in shapes])

    def fitted(some: np.ndarray) -> np.ndarray:
        unit = A.max(axis=0)
        return nnls(A[some] / unit / y[some, None], np.ones(int(some.sum())))[0] / unit

    off = A[out] @ fitted(~out) / y[out] - 1
    rates = fitted(np.ones(len(y), dtype=np.bool_))
    costs = {
        block.key: Row(max(1e-9, float(sum(np.array(terms(layer, block.bits)) @ rates for layer in block.graph.layers))))
        for block in space.unique_blocks
    }
    device = Device("bitfusion-fitted", "analytic", "BitFusion", "fitted", "1")
    facts = {"rows": len(y), "held_out": int(out.sum()), "mean_abs": float(abs(off).mean()), "max_abs": float(abs(off).max())}
    facts["correlation_of_logs"] = float(np.corrcoef(np.log(A[out] @ fitted(~out)), np.log(y[out]))[0, 1])
    return hwsearch.LatencyTable(device, Protocol(min_rounds=1, max_rounds=1, runs=1, warmup=0), costs), facts


def picture(documents: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw test accuracy against latency: every seed as dots, the mean of the seeds at a level as lines."""
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    for axes, (name, document) in zip(figure.subplots(1, len(documents), squeeze=False)[0], documents.items(), strict=True):
        for way, (marker, colour) in WAYS.items():
            ended = [one for seed in document["seeds"] for one in seed[way]]
            axes.scatter(
                [one["latency_ms"] for one in ended], [100 * one["test"] for one in ended], marker=marker, color=colour, alpha=0.35
            )
            means = [
                np.mean([(one["latency_ms"], 100 * one["test"]) for one in ended if one["level"] == level], axis=0)
                for level in LEVELS
                if any(one["level"] == level for one in ended)
            ]
            axes.plot(*np.transpose(means), marker=marker, color=colour, label=f"{way}, mean and single seeds")
        axes.set(xlabel=f"latency (ms), {name}", ylabel="CIFAR-10 test accuracy (%)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the seeds on both devices and print the comparison."""
    parser = argparse.ArgumentParser(description="Joint search against stages, on CIFAR-10.")
    parser.add_argument("folder", type=Path, help="holds cifar-10-batches-py")
    parser.add_argument("--road", type=Path, default=Path("benchmark-output/cifar10"), help="what benchmarks/cifar_road.py wrote")
    parser.add_argument("--table", type=Path, default=Path("latency_tables/amd-epyc-onnxruntime.json"))
    parser.add_argument("--bitfusion", type=Path, required=True, help="APQ's bitfusion_lut.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/joint-vs-staged"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, data = Console(), load_data("cifar10", options.folder)
    bits = replace(CHAIN, name="resnet_cifar_bits", precisions=("int4", "int6", "int8"), head_precisions="int8").space()
    fitted, error = bitfusion(options.bitfusion, bits)
    console.print("BitFusion, fitted:", error)
    devices = {
        "cpu": (hwsearch.load_space("resnet_cifar"), hwsearch.load_table(options.table), "fp32"),
        "bitfusion": (bits, fitted, "int8"),
    }
    documents: dict[str, dict[str, Any]] = {"cpu": {"seeds": []}, "bitfusion": {"fit": error, "seeds": []}}
    shown = Table("device", "seed", *WAYS, title="Hypervolume on test images")
    for name, (space, table, finest) in devices.items():
        for seed in options.seeds:
            folder = options.out / f"seed{seed}"
            supernet, kept = Supernet.load(options.road / f"seed{seed}" / "supernet.safetensors", space), folder / f"{name}.scores.npz"
            X, y = score_samples(space, weights=supernet, data=data, out=kept, samples=SAMPLES, images=IMAGES, seed=seed)
            bench, judge = Bench(space, table, finest, seed), Judge(supernet, data, folder / f"{name}.jsonl")
            ended = {way: run(bench, getattr(bench, way), judge, X, y) for way in WAYS}
            limit = LEVELS[0] * table.predict(hwsearch.dense(space, bench.fastest).blocks())
            volumes = {way: volume(ended[way], limit) for way in ended}
            documents[name]["seeds"].append({"seed": seed, "hypervolume": volumes, **ended})
            console.print(name, seed, volumes)
            shown.add_row(name, str(seed), *(f"{value:.4f}" for value in volumes.values()))
            write_atomic(options.out / "results.json", json.dumps({"levels": LEVELS, "floor": FLOOR, **documents}, indent=1).encode())
    for name, document in documents.items():
        volumes = [seed["hypervolume"] for seed in document["seeds"]]
        shown.add_row(name, "mean", *(f"{mean(one[way] for one in volumes):.4f}" for way in WAYS))
    console.print(shown)
    picture(documents, options.out / "joint-vs-staged.png")


if __name__ == "__main__":
    main()
