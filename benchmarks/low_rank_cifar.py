"""Low rank beside channels, and both together, on a trained residual network of CIFAR-10, at equal measured latency and without training.

    python benchmarks/low_rank_cifar.py WEIGHTS DATA --ways tucker spatial --limits 0.7 --out benchmark-output

WEIGHTS holds resnet20.npz and resnet56.npz, DATA the folder cifar-10-batches-py, as for ``adopt_cifar.py``.

Protocol, written down before its run. The convolutions of the residual blocks are written as products (``low_rank``) and the network is
adopted, so that widths and ranks are genes of one space; all branches stay. One table is measured of it by ONNX Runtime, one thread and
batch 1. Scores come from SCORED training images with their labels: what is lost with each channel and with each rank by "taylor", and which
ones go first by "reconstruction". The same search (memetic, one seed) looks at three parts of the space: channels
alone, ranks alone, and both, under the same limits of the latency that the table predicts, as shares of that of the whole network. Each
network that is found is repaired on REPAIRED training images by least squares, judged on 5,000 test images, and its file is measured,
all in turns. With --by macs multiply-accumulates are limited, and no table is measured. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hwsearch
from hwsearch._files._writing import Journal, write_atomic
from hwsearch.costs import metric
from hwsearch.nn import ArrayData, load_data
from hwsearch.nn.adoption import additive, importance, low_rank
from hwsearch.profiling import Effort

SCORED, REPAIRED, JUDGED = 300, 800, 5000
PARTS: dict[str, tuple[str, ...]] = {"channels": ("depth", "rank"), "ranks": ("depth", "width"), "both": ("depth",)}
"""Parts of the space, each with the roles of the genes that keep their largest values."""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--ways", nargs="+", default=["tucker", "spatial"])
    parser.add_argument("--limits", type=float, nargs="+", default=[0.7])
    parser.add_argument("--by", choices=["latency_ms", "macs"], default="latency_ms", help="what is limited")
    parser.add_argument("--budget", default="5m", help="time for each latency table")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [run(options, way) for way in options.ways]
    write_atomic(options.out / f"low-rank-{options.depth}.json", json.dumps(found, indent=1).encode())


def run(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """All networks of one way of writing layers as products."""
    cifar: Any = import_module("adopt_cifar")
    data = load_data(("cifar10", options.data))
    assert isinstance(data, ArrayData)
    module = cifar.load_network(options.weights / f"resnet{options.depth}.npz", options.depth)
    images, labels = cifar.drawn(data, 0)
    judged = torch.as_tensor(data.test_x[:JUDGED]), torch.as_tensor(data.test_y[:JUDGED])
    space = hwsearch.adopt(low_rank(module, way, layers=["layer*"]), images[:2])
    stem = f"low-rank-{options.depth}-{way}"
    journal = Journal(options.out / f"{stem}.partial.jsonl")
    done = {(line["part"], line["limit"]): line for line in journal}
    table = None
    if options.by == "latency_ms":
        table = hwsearch.profile(space, out=options.out / f"{stem}.table.json", effort=Effort(budget=options.budget), progress=False)
    scores = [importance(space, name, images[:SCORED], labels[:SCORED]) for name in ("taylor", "reconstruction")]
    score = additive(space, scores[0], order=scores[1])
    whole = float(metric(options.by, space, table)(space.row()[None])[0])
    files = [hwsearch.export(space.whole, data=images[:2], out=options.out / f"{stem}.onnx")]
    for part, fixed in PARTS.items():
        narrow = space.restrict({choice.name: [choice.values[-1]] for choice in space.choices if choice.role in fixed})
        for share in options.limits:
            file = options.out / f"{stem}-{part}-{share}.onnx"
            files.append(file)
            if (part, share) in done:
                continue
            start, limits = time.process_time(), {options.by: share * whole}
            best = hwsearch.search(narrow, "memetic", predictor=score, device=table, limits=limits, seed=0).best
            plan = space.plan(best.genes)
            network = space.extract(*plan, scores[1], images=images[:REPAIRED])
            hwsearch.export(network, data=images[:2], out=file)
            cut = [choice.role for choice in space.choices if best.values().get(choice.name, choice.values[-1]) != choice.values[-1]]
            line = {
                "part": part,
                "limit": share,
                "accuracy": cifar.accuracy(network, *judged),
                "limited": float(metric(options.by, space, table)(best.genes[None])[0]),
                "mmacs": round(space.macs(*plan) / 1e6, 2),
                "cut": {role: cut.count(role) for role in ("width", "rank")},
                "seconds": round(time.process_time() - start),
            }
            done[part, share] = line
            journal.append(line)
            print(way, line, flush=True)
    measured = [round(each.latency_ms, 4) for each in hwsearch.measure(files, rounds=20)]
    keys = [(part, share) for part in PARTS for share in options.limits]
    rows = [done[key] | {"latency_ms": each} for key, each in zip(keys, measured[1:], strict=True)]
    dense = {"latency_ms": measured[0], "limited": whole, "accuracy": cifar.accuracy(module, *judged)}
    found = {
        "way": way,
        "whole": dense | {"mmacs": round(space.macs() / 1e6, 2)},
        "by": options.by,
        "error": None if table is None else str(table.error()),
        "rows": rows,
    }
    print(json.dumps(found), flush=True)
    return found


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
