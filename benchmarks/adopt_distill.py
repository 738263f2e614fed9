"""A cut network of CIFAR-10, trained with the whole network as its teacher.

    python benchmarks/adopt_distill.py WEIGHTS DATA --epochs 20 --amp bf16 --out benchmark-output

WEIGHTS and DATA are as for ``adopt_cifar.py``, whose row "searched" is what training begins with (seed 0).

Protocol, written down before its run. The network is trained on 45,000 training images, mirrored and moved, by stochastic gradient descent
of one learning rate falling to zero, towards the outputs of the whole network (share 0.9 at temperature 4) and the labels. The last
weights are kept, not the best: the whole network has learned all 50,000 images, so that the cut one knows the 5,000 training images that
are left by heart before it is trained (98.2 % of them), and nothing that it learns anew looks as good on them. The accuracy is that of all
10,000 test images, which no choice looks at, of the ONNX file that was run. What is written besides is the curve on the 5,000 images, and
CPU-seconds.

It goes on where it was stopped; seconds before a stop are counted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from adopt_cifar import REPAIRED, cifar, drawn, moved, scores_of, subject
from spent import counted

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.nn import Deployment
from hwsearch.nn.adoption import allocate, load_network, save_network


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--share", type=float, default=0.5, help="of the multiply-accumulates")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--amp", default=None, help="the number format of the training, such as bf16")
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = f"adopt-distill-{options.depth}-{options.share:g}-{options.epochs}-{options.precision}"
    folder = options.out / name
    data = cifar(options.data)
    _, adopted = subject(options.weights, options.depth)
    cut = folder / "repaired.safetensors"
    if not cut.exists():
        taylor, order = (scores_of(options.weights, options.data, options.depth, 0, each) for each in ("taylor", "reconstruction"))
        keep = allocate(adopted, taylor, options.share * adopted.macs(), order=order)
        save_network(adopted.extract(keep, images=moved(drawn(data, 0)[0][:REPAIRED], 0)), cut)
    recipe = {"epochs": options.epochs, "batch": 128, "learning_rate": options.rate, "amp": options.amp, "keep": "last"}
    recipe["teacher"] = adopted.network
    with counted(folder / "seconds.json") as spent:
        done = hwsearch.finish(cut, data=data, out=folder, recipe=recipe, deployment=Deployment(precision=options.precision))
        seconds = round(spent())
    facts = load_network(folder / "float.safetensors").meta["facts"]
    found = {"accuracy": done.accuracy, "in float": done.float_accuracy, "teacher": done.teacher_accuracy, "macs": done.macs}
    found |= {"epochs": options.epochs, "seconds": seconds, "curve": facts["happened"]["curve"]}
    write_atomic(options.out / f"{name}.json", json.dumps(found, indent=1).encode())
    print(found)


if __name__ == "__main__":
    main()
