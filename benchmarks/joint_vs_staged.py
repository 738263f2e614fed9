"""Joint search against stages: architecture, then widths, then bits, each the best given the ones before.

    python benchmarks/joint_vs_staged.py DIR --weights part.safetensors --bitfusion bitfusion_lut.json

DIR holds cifar-10-batches-py; the weights are those of ``benchmarks/supernet.py train``, and the networks that searches on BitFusion begin
with are scored by ``benchmarks/predictor_transfer.py score`` on the same weights. Both ways have the same scored networks to fit the same
kind of predictor on, the same limits and the same number of networks to evaluate. docs/joint-vs-staged.md is the protocol. Every evaluation
is kept as it is done, so a stopped run goes on where it was; cpu.json and bitfusion.json grow by one seed at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from predictor_transfer import SPACE
from predictor_transfer import cifar as scored
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls
from supernet import PART

import hwsearch
from hwsearch._files._writing import Journal, write_atomic
from hwsearch.algorithms import hypervolume, load_algorithm, nondominated
from hwsearch.devices import Device, Protocol, Row
from hwsearch.interop import apq_table
from hwsearch.networks import Layer, Precision
from hwsearch.nn import Data, Supernet, SupernetScore, evaluate, load_data, sample_networks, score_networks
from hwsearch.spaces import Rows

LEVELS = (0.9, 0.75, 0.6, 0.5, 0.4)
"""Latency limits, as shares of the largest network's latency at its fastest precision."""
FLOOR = 0.7
"""The accuracy from which hypervolumes are counted; their other corner is the highest limit."""
EACH = 2
"""Networks that a way has evaluated at a level and turn."""
TURNS = 3
IMAGES = 2000
"""Validation images of an evaluation."""
POOL, SAMPLES = 240, 160
"""Random networks that are scored, and how many of them the predictors of a seed begin with."""
WAYS = {"joint": ("o", "#0072b2"), "staged": ("^", "#d55e00")}
"""The ways, and how they are drawn."""

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
            problem = hwsearch.Problem.of(space, predictor=predictor, device=self.table, limits={"latency_ms": limit})
        except hwsearch.Infeasible:
            return np.empty((0, len(space.choices)), dtype=np.uint8), np.empty(0)
        algorithm = load_algorithm(None, problem)
        state = hwsearch.init(problem, algorithm, self.seed)
        for _ in range(algorithm.steps):
            if algorithm.done(state.algorithm) or len(state.X) >= problem.space.size:
                break
            state = hwsearch.step(state)
        met = ~np.isnan(state.scores)
        return state.X[met], state.scores[met]

    def joint(self, predictor: hwsearch.Predictor, limit: float) -> Feasible:
        """Everything at once."""
        return self.climb(self.space, predictor, limit)

    def staged(self, predictor: hwsearch.Predictor, limit: float) -> Feasible:
        """In stages, three ways at once: all that the last stage of any of them met goes into the choice."""
        found = [self.stages(predictor, limit, trust) for trust in (1.0, 0.5, 0.0)]
        X, first = np.unique(np.concatenate([rows for rows, _ in found]), axis=0, return_index=True)
        return X, np.concatenate([scores for _, scores in found])[first]

    def stages(self, predictor: hwsearch.Predictor, limit: float, trust: float) -> Feasible:
        """Depths and resolution at full width and the finest precision; then widths; then bits: each the best given the former.

        Args:
            predictor: of scores.
            limit: on latency, ms.
            trust: how much the next stages are counted upon to make the network faster, so that the first two may have more than the
                limit: 1 for 1.6 times by narrower layers and two thirds (of the logarithm) of what bits can bring, 0 for nothing.
        """
        widths = {choice.name: choice.values[-1:] for choice in self.space.choices if "out" in choice.name or "mid" in choice.name}
        precisions = {choice.name for choice in self.space.choices if choice.is_precision}
        slow, fast = (self.table.predict(hwsearch.searching.dense(self.space, name).blocks()) for name in (self.finest, self.fastest))
        faster = (slow / fast) ** (trust * 2 / 3)
        values = self.best(self.space.restrict({**widths, "precision": [self.finest]}), predictor, limit * faster * 1.6**trust)
        architecture = {name: [value] for name, value in values.items() if name not in widths}
        values = self.best(self.space.restrict(architecture), predictor, limit * faster)
        narrowed = {name: [value] for name, value in values.items() if name not in precisions}
        return self.climb(self.space.restrict(narrowed), predictor, limit)

    def best(self, space: hwsearch.SearchSpace, predictor: hwsearch.Predictor, limit: float) -> dict[str, Any]:
        """What a stage hands on: the best network within a limit, or within the first tenths above it that can be met."""
        while not len((found := self.climb(space, predictor, limit))[0]):
            limit *= 1.1
        return self.space.decode(found[0][np.argmax(found[1])])

    @property
    def limits(self) -> list[float]:
        """On latency, ms, highest first."""
        whole = self.table.predict(hwsearch.searching.dense(self.space, self.fastest).blocks())
        return [level * whole for level in LEVELS]

    @property
    def fastest(self) -> str:
        """The precision at which the largest network is fastest."""
        bits = next(choice.values for choice in self.space.choices if choice.is_precision)
        return min(map(str, bits), key=lambda name: self.table.predict(hwsearch.searching.dense(self.space, name).blocks()))


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
    """One way on one device with one seed: the Pareto front, on validation images, of the networks that it has evaluated."""
    own: dict[bytes, Rows] = {}
    for _ in range(TURNS):
        rows = np.concatenate([X, *(row[None] for row in own.values())])
        scores = np.concatenate([y, [judge(row, "val", IMAGES) for row in own.values()]])
        predictor = hwsearch.Predictor.fit(bench.space, rows, scores, seed=bench.seed)
        for limit in bench.limits:
            for row in different(way(predictor, limit), set(own), EACH):
                judge(row, "val", IMAGES)
                own[bytes(row)] = row
    latency = hwsearch.metric("latency_ms", bench.space, bench.table)
    rows = np.stack(list(own.values()))
    ms, validation = latency(rows), np.array([judge(row, "val", IMAGES) for row in rows])
    return [
        {
            "latency_ms": float(ms[one]),
            "validation": float(validation[one]),
            "test": judge(rows[one], "test"),
            "evaluated": len(own),
            "values": bench.space.decode(rows[one]),
        }
        for one in nondominated(np.column_stack([ms, -validation]))
    ]


def answers(front: Sequence[Mapping[str, Any]], limits: Sequence[float]) -> list[float]:
    """Test accuracy of what a way thinks best within each limit, on validation images; nan where it meets none."""
    within = [[one for one in front if one["latency_ms"] <= limit] for limit in limits]
    return [max(some, key=lambda one: one["validation"])["test"] if some else np.nan for some in within]


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
    rows = {hwsearch.networks.Block.parse(key): row.latency_ms for key, row in known.rows.items()}
    pointwise = [block for block in rows if block.kind == "conv" and block.groups == 1 and block.kernel == 1 and block.cout != 1280]
    A = np.array([terms(block.graph.layers[0], block.bits) for block in pointwise])
    y = np.array([rows[block] for block in pointwise])
    shapes = [(block.cin, block.cout, block.size) for block in pointwise]
    each = sorted(set(shapes))
    held = {each[index] for index in np.random.default_rng(0).permutation(len(each))[: len(each) // 5]}
    out = np.array([shape in held for shape in shapes])

    def fitted(some: np.ndarray) -> np.ndarray:
        unit = A.max(axis=0)
        found: np.ndarray = nnls(A[some] / unit / y[some, None], np.ones(int(some.sum())))[0]
        return np.asarray(found / unit)

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
    """Draw the fronts of all seeds: test accuracy against latency."""
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    for axes, (name, document) in zip(figure.subplots(1, len(documents), squeeze=False)[0], documents.items(), strict=True):
        for way, (marker, colour) in WAYS.items():
            for number, seed in enumerate(document["seeds"]):
                points = [(one["latency_ms"], 100 * one["test"]) for one in seed[way]]
                axes.plot(*np.transpose(points), marker=marker, color=colour, alpha=0.6, lw=0.8, label=None if number else way)
        axes.set(xlabel=f"latency (ms), {name}", ylabel="CIFAR-10 test accuracy (%)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the seeds on both devices and print the comparison."""
    parser = argparse.ArgumentParser(description="Joint search against stages, on CIFAR-10.")
    parser.add_argument("folder", type=Path, help="holds cifar-10-batches-py")
    parser.add_argument("--weights", type=Path, required=True, help="what benchmarks/supernet.py train wrote")
    parser.add_argument("--table", type=Path, default=Path("latency_tables/amd-epyc-onnxruntime.json"))
    parser.add_argument("--bitfusion", type=Path, required=True, help="APQ's bitfusion_lut.json")
    parser.add_argument("--transfer", type=Path, default=Path("benchmark-output/predictor-transfer"), help="of predictor_transfer.py score")
    parser.add_argument("--devices", nargs="+", choices=("cpu", "bitfusion"), default=["cpu", "bitfusion"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/joint-vs-staged"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    data, console = load_data("cifar10", options.folder), Console()
    for name in options.devices:
        device(name, options, data)
    shown = Table("device", "seed", *WAYS, title="Hypervolume on test images")
    documents = {name: json.loads((options.out / f"{name}.json").read_text()) for name in options.devices}
    for name, document in documents.items():
        volumes = [seed["hypervolume"] for seed in document["seeds"]]
        for seed in document["seeds"]:
            shown.add_row(name, str(seed["seed"]), *(f"{seed['hypervolume'][way]:.4f}" for way in WAYS))
        shown.add_row(name, "mean", *(f"{mean(one[way] for one in volumes):.4f}" for way in WAYS))
        joint, staged = (np.concatenate([answers(seed[way], document["limits_ms"]) for seed in document["seeds"]]) for way in WAYS)
        both = ~np.isnan(joint + staged)
        ahead = f"joint is ahead at {(joint > staged).sum()} of {both.sum()} limits that both meet"
        console.print(f"{name}: {ahead}, in the mean {joint[both].mean():.4f} against {staged[both].mean():.4f}")
    console.print(shown)
    picture(documents, options.out / "joint-vs-staged.png")


def device(name: str, options: argparse.Namespace, data: Data) -> None:
    """All seeds on a device."""
    document: dict[str, Any] = {"levels": LEVELS, "floor": FLOOR}
    if name == "cpu":
        space, table, finest = hwsearch.load_space("resnet_cifar").restrict(PART), hwsearch.load_table(options.table), "fp32"
        X, score = sample_networks(space, POOL), SupernetScore(space, options.weights, data, images=IMAGES)
        pool = (X, score_networks(score, X, out=options.out / "cpu.scores.npz"))
    else:
        space, finest, (X, y, *_) = SPACE, "w8a8", scored(options.transfer).fit
        pool = X[:POOL], y[:POOL]
        table, document["fit"] = bitfusion(options.bitfusion, space)
        print("BitFusion, fitted:", document["fit"])
    supernet = Supernet.load(options.weights, space)
    judge = Judge(supernet, data, options.out / f"{name}.jsonl")
    document["seeds"] = []
    for seed in options.seeds:
        some = np.random.default_rng(seed).permutation(len(pool[1]))[:SAMPLES]
        bench = Bench(space, table, finest, seed)
        fronts = {way: run(bench, getattr(bench, way), judge, pool[0][some], pool[1][some]) for way in WAYS}
        volumes = {way: volume(fronts[way], bench.limits[0]) for way in WAYS}
        document["limits_ms"] = bench.limits
        document["seeds"].append({"seed": seed, "hypervolume": volumes, **fronts})
        print(name, seed, volumes, flush=True)
        write_atomic(options.out / f"{name}.json", json.dumps(document, indent=1).encode())


if __name__ == "__main__":
    main()
