"""ResNet50 at 224 px, made smaller for one device: the comparisons of docs/resnet50-mlperf.md.

    python benchmarks/resnet50.py table SPACE --backend onnxruntime --batch 1 --budget 5m --out TABLE
    python benchmarks/resnet50.py terms --device TABLE --predictor PREDICTOR
    python benchmarks/resnet50.py record --device TABLE --predictor PREDICTOR
    python benchmarks/resnet50.py across --device TABLE TABLE --predictor PREDICTOR
    python benchmarks/resnet50.py measure RESULT RESULT
    python benchmarks/resnet50.py export RESULT NETWORK --out MODEL
    python benchmarks/resnet50.py in-place RESULT NETWORK --backend onnxruntime
    python benchmarks/resnet50.py picture --out docs/images/resnet50-mlperf.png

PREDICTOR is Once-for-All's published accuracy predictor of ResNet-50 (resnet50_acc_predictor.pth). The commands with a predictor choose
networks and write them to benchmarks/results/; measure measures all networks of each of these files in turns, and adds what it found.
What is measured has random weights: the time of a network does not depend on them.
"""

from __future__ import annotations

import argparse
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hwsearch
from hwsearch import Architecture, LatencyTable, SearchSpace
from hwsearch.backends import load_backend
from hwsearch.backends._onnx import _graph as onnx_graph
from hwsearch.interop import OfaScore, ofa_predictor, ofa_resnet50_score
from hwsearch.networks import Block
from hwsearch.searching import quantized_in_place
from hwsearch.spaces import Chain, Stage
from hwsearch.spaces.library import ofa_resnet50, resnet50

RESULTS = Path(__file__).parent / "results"
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""Depth, inner width and stride of the stages of ResNet50."""
MACS = 1.648e9
"""Of the network that won the open division of MLPerf Inference v0.7."""
REPORTED = {
    "MLPerf v0.7 open: A100, T4, A100 at batch 1": [(2.48, 1.84), (2.48, 2.09), (2.48, 1.24)],
    "Intel's searched ResNet50s, OpenVINO": [(2.95, 2.55), (2.13, 1.89), (1.69, 1.43)],
    "HALP on a Titan V": [(2.10, 1.60), (3.68, 2.5)],
}
"""MAC ratios and speed-ups as their authors report them."""
RECORD = 0.8096
"""Predicted for Once-for-All's network of 1.2 GMACs, whose published accuracy is 77.1 %."""
REACH = 0.05
"""How far beyond the published widths Once-for-All's predictor is believed."""


def grid(least: float, most: float, count: int) -> tuple[int, ...]:
    """Multiples of 8, at most so many, evenly between two widths."""
    first, last = -int(-least // 8), int(most // 8)
    return tuple(sorted({8 * round(step) for step in np.linspace(first, last, min(count, last - first + 1))}))


def fine(precision: str = "int8") -> SearchSpace:
    """The part of the space ``resnet50`` in which Once-for-All's predictor is at home, at 224 px and one precision, on a finer grid."""
    stages = []
    for depth, inner, stride in STAGES:
        out = 4 * inner
        depths = tuple(range(max(2, depth - 2), depth + 1))
        mids = tuple(sorted({inner, *grid(0.62 * 0.19 * out, 0.36 * out, 8)}))
        stages.append(Stage(depths, grid(0.62 * out, out, 7), mids, stride, "bottleneck"))
    stem = Stage(1, grid(40, 64, 4), (), 2, "conv", 7, name="stem")
    pool = Stage(1, None, (), 2, "maxpool", name="pool")
    return Chain("resnet50", (224,), (), (stem, pool, *stages), 1000, (precision,), head_precisions=(precision,)).space()


SPACES: dict[str, Callable[[], SearchSpace]] = {
    "fine": fine,
    "ofa": lambda: ofa_resnet50.build(precisions=("int8",)),
    "resnet50": lambda: hwsearch.load_space("resnet50"),
}


def scaled(fraction: float, precision: str = "int8") -> list[Block]:
    """ResNet50 with all widths at a fraction, rounded to multiples of 8."""
    at: dict[str, Any] = {"precision": precision}

    def width(full: int) -> int:
        return max(8, 8 * round(full * fraction / 8))

    cin, size = width(64), 56
    blocks = [] if precision == "fp32" else [Block("quantize", 3, 3, 224, **at)]
    blocks += [Block("conv", 3, cin, 224, (), 7, 2, **at), Block("maxpool", cin, cin, 112, (), 3, 2, **at)]
    for depth, inner, stride in STAGES:
        for number in range(depth):
            step = stride if number == 0 else 1
            blocks.append(Block("bottleneck", cin, width(4 * inner), size, (width(inner),) * 2, 3, step, **at))
            cin, size = blocks[-1].cout, blocks[-1].out_size
    return [*blocks, Block("head", cin, 1000, size, **at)]


def uniform(macs: float) -> list[Block]:
    """The widest network of uniform widths within so many MACs."""
    fractions = np.linspace(1.0, 0.3, 701)
    return next(network for network in map(scaled, fractions) if sum(block.macs for block in network) <= macs)


@dataclass
class AtLeast:
    """A score that counts only where a metric is at least so much: rows below get less than every score, the lower the further away."""

    score: OfaScore
    metric: hwsearch.costs.Metric
    least: float

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Scores of rows, shape ``(n,)``."""
        missing = np.maximum(1 - self.metric(X) / self.least, 0.0)
        return np.where(missing > 0, -missing, self.score(X))


def placed(network: Sequence[Block]) -> Architecture:
    """A network of plain bottlenecks in a space of all widths that are multiples of 8 (too large to lower)."""
    space = resnet50.build(mids=200, outs=200)
    values: dict[str, int | float | str] = {"resolution": 224, "stem.precision": "int8", "head.precision": "int8"}
    stage, number = 0, 0
    for block in network:
        if block.kind == "conv":
            values["stem.out"] = block.cout
        if block.kind == "bottleneck":
            stage, number = (stage + 1, 1) if block.cin != block.cout or block.stride > 1 else (stage, number + 1)
            name = f"stage{stage}"
            values |= {f"{name}.depth": number, f"{name}.out": block.cout, f"{name}.block{number}.precision": "int8"}
            values |= {f"{name}.block{number}.mid{index}": mid for index, mid in enumerate(block.mids, start=1)}
    return space.architecture(space.encode(values))


def score_of(network: Sequence[Block], predictor: Path) -> float:
    """The predicted score of a network of plain bottlenecks."""
    found = placed(network)
    return float(ofa_resnet50_score(predictor, found.space, reach=REACH)(found.genes[None])[0])


def entry(network: Sequence[Block], score: float, tables: Sequence[LatencyTable]) -> dict[str, object]:
    """A network as it goes into a result: its blocks, and what is known of it before it is measured."""
    counted = {"macs": sum(block.macs for block in network), "params": sum(block.params for block in network), "score": score}
    predicted = {table.device.runtime: table.predict(network, interpolate=True) for table in tables}
    return {**counted, "predicted_ms": predicted, "blocks": [block.key for block in network]}


def terms(tables: Sequence[LatencyTable], options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """On the terms of MLPerf v0.7's record, and free of them; beside uniform widths and a search by MACs alone."""
    (table,) = tables
    space = fine()
    score = ofa_resnet50_score(options.predictor, space, reach=REACH)
    space = space.restrict(score.values)
    kept = space.restrict({f"stage{stage}.depth": [depth] for stage, (depth, _, _) in enumerate(STAGES, start=1)})
    bounds, window = {"macs": MACS, "params": 11.3e6}, AtLeast(score, hwsearch.metric("params", space), 10.3e6)
    plain = uniform(MACS)
    floor = score_of(plain, options.predictor)
    paper = hwsearch.search(kept, predictor=window, limits=bounds, seed=options.seed, run=hwsearch.Run(steps=options.steps))
    known = {"device": table, "seed": options.seed, "run": hwsearch.Run(steps=options.steps)}
    same = hwsearch.cheapest(kept, "latency_ms", floor, predictor=window, limits=bounds, **known)
    high = hwsearch.cheapest(kept, "latency_ms", paper.best_score - 1e-4, predictor=window, limits=bounds, **known)
    free = hwsearch.cheapest(space, "latency_ms", same.best_score, predictor=score, limits={"macs": MACS}, **known)
    whole = scaled(1.0)
    return {
        "dense": entry(whole, score_of(whole, options.predictor), tables),
        "uniform": entry(plain, floor, tables),
        "macs only": entry(paper.best.blocks(), paper.best_score, tables),
        "a: searched, at the score of uniform": entry(same.best.blocks(), same.best_score, tables),
        "a: searched, at the score of macs only": entry(high.best.blocks(), high.best_score, tables),
        "b: searched, free": entry(free.best.blocks(), free.best_score, tables),
    }


def record(tables: Sequence[LatencyTable], options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """In Once-for-All's own space: the least latency, and the fewest MACs, at the score of its network of 1.2 GMACs."""
    (table,) = tables
    space = SPACES["ofa"]()
    score = ofa_predictor(options.predictor, space)
    known = {"predictor": score, "seed": options.seed, "run": hwsearch.Run(steps=options.steps)}
    fast = hwsearch.cheapest(space, "latency_ms", RECORD, device=table, **known)
    small = hwsearch.cheapest(space, "macs", RECORD, **known)
    whole = scaled(1.0)
    return {
        "dense": entry(whole, score_of(whole, options.predictor), []),
        "fewest MACs": entry(small.best.blocks(), small.best_score, tables),
        "searched": entry(fast.best.blocks(), fast.best_score, tables),
    }


def across(tables: Sequence[LatencyTable], options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """For each of two runtimes the fastest network at one score, to be measured on both."""
    space = fine(options.precision)
    score = ofa_resnet50_score(options.predictor, space, reach=REACH)
    space = space.restrict(score.values)
    floor = score_of(uniform(MACS), options.predictor)
    whole = scaled(1.0, options.precision)
    found = {"dense": entry(whole, score_of(whole, options.predictor), tables)}
    for table in tables:
        fast = hwsearch.cheapest(
            space, "latency_ms", floor, predictor=score, device=table, seed=options.seed, run=hwsearch.Run(steps=options.steps)
        )
        found[f"searched for {table.device.runtime}"] = entry(fast.best.blocks(), fast.best_score, tables)
    return found


def measure(path: Path, rounds: int, batch: int | None) -> None:
    """Measure the networks of a result in turns on each of its devices, and write what was found beside them.

    At another batch than that of the table that they were chosen by, it goes to a file of its own.
    """
    document = json.loads(path.read_text())
    if batch is not None:
        path = path.with_stem(f"{path.stem}-at-batch{batch}")
        for place in document["devices"]:
            place["batch"] = batch
        for network in document["networks"].values():
            network["predicted_ms"] = {}
            network.pop("measured", None)
    networks = {name: [Block.parse(key) for key in network["blocks"]] for name, network in document["networks"].items()}
    for place in document["devices"]:
        backend = load_backend(place["runtime"], threads=place["threads"], batch=place["batch"])
        found = hwsearch.measure(list(networks.values()), backend=backend, rounds=rounds)
        whole = found[0].latency_ms
        for network, one in zip(document["networks"].values(), found, strict=True):
            ratio = document["networks"]["dense"]["macs"] / network["macs"]
            network.setdefault("measured", {})[place["runtime"]] = {
                "latency_ms": one.latency_ms,
                "spread_ms": one.spread_ms,
                "rounds": one.rounds,
                "speedup": whole / one.latency_ms,
                "mac_ratio": ratio,
                "speedup_per_mac_ratio": whole / one.latency_ms / ratio,
            }
    write(path, document)


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a result, and show it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    for name, network in document["networks"].items():
        print(name, {key: value for key, value in network.items() if key != "blocks"})
    print(path)


def in_place(name: str, network: str, options: argparse.Namespace) -> None:
    """What each int8 block of a network of a result brings where it stands."""
    keys = json.loads((RESULTS / f"{name}.json").read_text())["networks"][network]["blocks"]
    backend = load_backend(options.backend, batch=options.batch or 1)
    found = quantized_in_place(placed([Block.parse(key) for key in keys]), backend=backend, rounds=options.rounds)
    for one in found:
        print(f"{one.gene}: {one.quantized_ms:.3f} ms in int8, {one.float_ms:.3f} ms with this part in fp32, slower: {one.slower}")
    document = {"device": asdict(backend.describe()), "network": network, "parts": [asdict(one) | {"slower": one.slower} for one in found]}
    (RESULTS / f"resnet50-in-place-{options.backend}-b{options.batch or 1}.json").write_text(json.dumps(document, indent=1) + "\n")


def picture(path: Path) -> None:
    """Speed-up against MAC ratio: what others report, and what was measured here."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.8))
    for label, points in REPORTED.items():
        across, up = zip(*points, strict=True)
        axes.scatter(across, up, label=label, marker="x", s=40)
    for file in sorted(RESULTS.glob("resnet50-*.json")):
        document = json.loads(file.read_text())
        if "networks" not in document:
            continue
        for place in document["devices"]:
            found = [one["measured"][place["runtime"]] for one in document["networks"].values() if "measured" in one][1:]
            label = f"here: {file.stem.removeprefix('resnet50-')}, {place['runtime']}, batch {place['batch']}"
            axes.scatter([one["mac_ratio"] for one in found], [one["speedup"] for one in found], label=label, s=40)
    axes.axline((1, 1), slope=1, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="dense MACs / MACs", ylabel="speed-up over the dense network", xlim=(1, 4), ylim=(1, 4))
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "terms", "record", "across", "measure", "export", "in-place", "picture"))
    parser.add_argument("names", nargs="*", help="of a space, of results, or of a result and a network in it")
    parser.add_argument("--device", nargs="+", help="latency tables")
    parser.add_argument("--predictor", type=Path, help="Once-for-All's published predictor of ResNet-50")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--batch", type=int, help="images at once (default: 1; when measuring, that of the table)")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="int8", help="of the networks that are searched for two runtimes")
    parser.add_argument("--budget", default="5m", help="how long to measure for a table")
    parser.add_argument("--error", type=float, default=0.005, help="at which a table is good enough before its time is up")
    parser.add_argument("--rounds", type=int, default=16, help="of measuring networks")
    parser.add_argument("--steps", type=int, default=100, help="of each search, without the local search behind it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.what == "table":
        backend = load_backend(options.backend, batch=options.batch or 1)
        effort = hwsearch.profiling.Effort(budget=options.budget, error=options.error, checks=12, fits=18)
        table = hwsearch.profile(SPACES[options.names[0]](), backend=backend, out=options.out, effort=effort)
        print(table, table.error())
    elif options.what == "measure":
        for name in options.names:
            measure(RESULTS / f"{name}.json", options.rounds, options.batch)
    elif options.what == "in-place":
        name, network = options.names
        in_place(name, network, options)
    elif options.what == "picture":
        picture(options.out)
    elif options.what == "export":
        name, network = options.names
        keys = json.loads((RESULTS / f"{name}.json").read_text())["networks"][network]["blocks"]
        options.out.write_bytes(onnx_graph.build([Block.parse(key) for key in keys]).SerializeToString())
    else:
        tables = [hwsearch.load_table(path) for path in options.device]
        networks = {"terms": terms, "record": record, "across": across}[options.what](tables, options)
        first = tables[0].device
        suffix = f"-{options.precision}" if options.what == "across" else f"-{first.runtime}-b{first.batch}"
        document = {"devices": [asdict(table.device) for table in tables], "predictor": options.predictor.name, "seed": options.seed}
        write(options.out or RESULTS / f"resnet50-{options.what}{suffix}.json", {**document, "networks": networks})


if __name__ == "__main__":
    main()
