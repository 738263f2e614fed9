"""A residual network of CIFAR-10 at half of its measured fp32 latency: widths, branches and bits chosen together, the file run.

    python benchmarks/adopt_joint.py WEIGHTS DATA --out benchmark-output

WEIGHTS and DATA are as for ``adopt_cifar.py``.

Protocol, written down before its run. The network is adopted with kernels in fp32 or int8; its table is measured on this machine, and its
score is the expected squared change of the outputs, of units, branches and bits, told from SCORED training images without labels and
added up. The limit is SHARE of the latency that the whole network in fp32 measures. The exact search chooses; what it finds is repaired
by least squares on REPAIRED training images, mirrored and moved, written in its bits, and measured in turns with the whole network. Where
it measures slower than SHARE, the limit is tightened by that ratio and it is searched again, at most three times. Beside it stand, at the
same predicted latency: uniform widths in the precision that scores best, and the best in int8 by multiply-accumulates
(``hwsearch.searching.by_macs``). Accuracy is that of the files on all 10,000 test images, which no choice looks at. With --epochs the
searched network is trained as in ``adopt_distill.py``, then two epochs rounded, and its last weights written.

Tables, scores and files stay in the folder; a stopped run goes on there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from adopt_cifar import REPAIRED, SCORED, cifar, drawn, load_network, moved

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.nn import Deployment, evaluate_file
from hwsearch.nn.adoption import additive
from hwsearch.profiling import Effort

TRIES = 3


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--share", type=float, default=0.5, help="of the measured latency in fp32")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--amp", default=None, help="the number format of the training, such as bf16")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    out, share = options.out / f"adopt-joint-{options.depth}", options.share
    out.mkdir(parents=True, exist_ok=True)
    data = cifar(options.data)
    network = load_network(options.weights / f"resnet{options.depth}.npz", options.depth)
    space = hwsearch.adopt(network, torch.zeros(2, 3, 32, 32), precisions=("fp32", "int8"))
    seconds: dict[str, float] = {}

    def timed(name: str, start: float) -> None:
        seconds[name] = round(time.process_time() - start, 1)
        print(name, seconds[name], flush=True)

    start = time.process_time()
    table = hwsearch.profile(space, out=out / "table.json", effort=Effort(checks=12, fits=18), progress=False)
    timed("profile", start)
    images = moved(drawn(data, 0)[0][:REPAIRED], 0)
    if (out / "score.npz").exists():
        score = hwsearch.load_predictor(out / "score.npz", space)
    else:
        start, few = time.process_time(), images[:SCORED]
        score = additive(space, "reconstruction", images=few)
        score.save(out / "score.npz")
        timed("score", start)

    def written(name: str, architecture: hwsearch.Architecture | None, precision: Any = None) -> Path:
        path: Path = out / f"{name}.onnx"
        if not path.exists():
            cut = network if architecture is None else hwsearch.extract(score.space.architecture(architecture.genes), data=images)
            hwsearch.export(cut, out=path, data=data, precision=precision)
        return path

    whole = written("fp32", None, "fp32")
    limit = share * hwsearch.measure(whole, rounds=10).latency_ms
    for attempt in range(1 + TRIES):
        problem = hwsearch.Problem.of(score.space, predictor=score, device=table, limits={"latency_ms": limit})
        start = time.process_time()
        found = hwsearch.search(problem, "exact")
        timed("search", start)
        path = written(f"searched-{limit:.4f}", found.best)
        dense, cut = hwsearch.measure([whole, path], rounds=10)
        ratio = cut.latency_ms / dense.latency_ms
        print(attempt, found.status.name, limit, ratio, found.best, flush=True)
        if ratio <= share:
            break
        limit *= share / ratio
    eight = score.space.restrict({"precision": ["int8"]})
    counted = hwsearch.Problem.of(eight, predictor=score, device=table, limits={"latency_ms": limit})
    files = {
        "whole, fp32": whole,
        "whole, int8": written("int8", None, "int8"),
        "searched": path,
        "uniform": written(f"uniform-{limit:.4f}", hwsearch.searching.uniform(problem)),
        "by MACs": written(f"macs-{limit:.4f}", hwsearch.searching.by_macs(counted, "exact")),
    }
    if options.epochs:
        recipe = {"epochs": options.epochs, "batch": 128, "learning_rate": 0.05, "amp": options.amp, "keep": "last"}
        start = time.process_time()
        hwsearch.finish(found, data=data, out=out / f"finished-{limit:.4f}", recipe=recipe, deployment=Deployment(tuning=2))
        timed("finish", start)
        files["searched, trained"] = out / f"finished-{limit:.4f}" / "best.onnx"
    rows = [
        {"file": name, "accuracy": round(100 * evaluate_file(each, data=data), 2), "latency_ms": run.latency_ms, "spread_ms": run.spread_ms}
        for (name, each), run in zip(files.items(), hwsearch.measure(list(files.values()), rounds=10), strict=True)
    ]
    facts = {
        "device": table.device.name,
        "table": table.error(),
        "limit_ms": limit,
        "status": found.status.name,
        "seconds": seconds,
        "rows": rows,
    }
    write_atomic(options.out / f"adopt-joint-{options.depth}-{share:g}.json", json.dumps(facts, indent=1).encode())
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
