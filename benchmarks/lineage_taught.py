"""What training makes of a network that ``lineage.py`` found: ResNet-56 of CIFAR-10 with AMC's reward for networks that lose no accuracy.

    OMP_NUM_THREADS=1 python benchmarks/lineage_taught.py DATA CIFAR FOUND --epochs 8 --out benchmark-output

DATA and CIFAR are as for ``lineage.py``; FOUND holds the lines of its ``guaranteed-half``, of which --method and --seed name one.

Protocol, written down before its run. The network is repaired as ``lineage.py`` repairs the answers, and trained as in
``adopt_distill.py`` with the whole network as its teacher, but for fewer epochs from a lower learning rate: that many epochs fit into
half an hour. The last weights are kept. The accuracy is that of the ONNX file, run on the test images that no choice looked at
(all but the UNSEEN ones that judged the search), and the whole network has its own on the same images.

After 8 and 16 epochs had lost 0.57 and 0.53 points, and before a third run, the number of epochs and the rate of ``adopt_distill.py`` were
chosen for that: 20 and 0.05.

It goes on where it was stopped; seconds before a stop are counted.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from adopt_cifar import cifar
from lineage_benches import unseen, whole_cost, widths56
from spent import counted

import hwsearch
from hwsearch import metric
from hwsearch._files._writing import Journal, write_atomic
from hwsearch.nn.adoption import load_network, save_network


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("found", type=Path)
    parser.add_argument("--method", default="amc")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--amp", default=None, help="the number format of the training, such as bf16")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    name = f"lineage-taught-{options.method}-{options.seed}-{options.epochs}-{options.rate:g}"
    folder = options.out / name
    space, _, _, mending = widths56(options.data, options.cifar)
    line = next(each for each in Journal(options.found) if (each["method"], each["seed"]) == (options.method, options.seed))
    row, cut = np.array(line["row"], dtype=np.uint8), folder / "repaired.safetensors"
    if not cut.exists():
        save_network(space.extract(*space.plan(row), images=(mending,)), cut)
    data = cifar(options.cifar)
    _, others = unseen(len(data.test_x))
    data = replace(data, test_x=data.test_x[others], test_y=data.test_y[others])
    recipe = {"epochs": options.epochs, "batch": 128, "learning_rate": options.rate, "amp": options.amp, "keep": "last"}
    with counted(folder / "seconds.json") as spent:
        done = hwsearch.finish(cut, data=data, out=folder, recipe=recipe | {"teacher": space.network})
        seconds = round(spent())
    left = {f"{each} left": round(float(metric(each, space)(row[None])[0]) / whole_cost(space, each), 4) for each in ("params", "macs")}
    found = {
        "before training": line["test"],
        "accuracy": done.accuracy,
        "teacher": done.teacher_accuracy,
        **left,
        "seconds": seconds,
    }
    found["curve"] = load_network(folder / "float.safetensors").meta["facts"]["happened"]["curve"]
    write_atomic(options.out / f"{name}.json", json.dumps(found, indent=1).encode())
    print(found)


if __name__ == "__main__":
    main()
