"""The zoo: what ``hwsearch.load_example`` reads, trained and measured here.

    python benchmarks/zoo.py digits
    python benchmarks/zoo.py cifar10 --folder CIFAR

A supernet is trained, a predictor fitted to networks of it that are evaluated in int8 as this CPU computes it, and every block is measured
in ONNX Runtime on this CPU. The largest and the smallest network are evaluated on the test images, in fp32, with the weights of the
supernet. One thread; stop it whenever you like: the same call goes on where it was. The files go to ``zoo/NAME``. ``digits`` are the images
of ``make demo`` (``examples/harder_digits.py``), which take no download; ``CIFAR`` is the folder that holds ``cifar-10-batches-py``.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.nn import ArrayData, Quantization, Sampling, evaluate, load_data

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from harder_digits import harder_digits

ZOO = Path(__file__).parent.parent / "zoo"


@dataclass(frozen=True)
class Entry:
    """How an example is made.

    Attributes:
        space: its search space, and to which values genes are restricted.
        sizes: the same.
        recipe: of the training; the number of epochs is among it.
        networks, images: that the predictor is fitted to.
        about: what its images are.
    """

    space: str
    sizes: dict[str, list[int]]
    recipe: dict[str, object]
    networks: int
    images: int
    about: str


DIGITS = (
    "digits of scikit-learn made harder (examples/harder_digits.py), 16 px: 10,764 images to train, 3,000 to validate, 12,000 to test, "
    "made of 897, 300 and 600 scanned digits"
)
CIFAR = "CIFAR-10 (Krizhevsky 2009) at 24 px: 45,000 images to train, 5,000 to validate, 10,000 to test"
ENTRIES = {
    "digits": Entry("resnet_digits", {}, {"like": "digits", "epochs": 3, "random_networks": 1}, 300, 3000, DIGITS),
    "cifar10": Entry(
        "resnet_cifar_wide",
        {"resolution": [16, 20, 24]},
        {"epochs": 12, "batch": 64, "learning_rate": 0.1, "random_networks": 1, "amp": None},
        60,
        1500,
        CIFAR,
    ),
}


def trained(space: hwsearch.SearchSpace, data: ArrayData, out: Path, recipe: dict[str, object]) -> float:
    """Train the supernet; returns the CPU-minutes that it took, over all calls."""
    spent, weights = out / "seconds.txt", out / "supernet.safetensors"
    seconds, start = float(spent.read_text()) if spent.exists() else 0.0, time.process_time()
    if not weights.exists():
        try:
            hwsearch.train(space, data=data, out=weights, recipe=recipe, seed=0)
        finally:
            seconds += time.process_time() - start
            write_atomic(spent, str(seconds).encode())
    return seconds / 60


def accuracies(space: hwsearch.SearchSpace, data: ArrayData, weights: Path) -> dict[str, float]:
    """Of the largest and the smallest network in fp32 on the test images."""
    ends = {"largest": [allowed[-1] for allowed in space.allowed], "smallest": [allowed[0] for allowed in space.allowed]}
    networks = {name: space.architecture(np.array(row, dtype=np.uint8)).at_precision("fp32") for name, row in ends.items()}
    return {name: round(evaluate(network, weights=weights, data=data), 4) for name, network in networks.items()}


def main() -> None:
    """Train, fit, measure, evaluate, and write the files."""
    parser = argparse.ArgumentParser(description="Make an example of the zoo.")
    parser.add_argument("name", choices=sorted(ENTRIES))
    parser.add_argument("--folder", type=Path, help="for cifar10: holds cifar-10-batches-py")
    parser.add_argument("--out", type=Path, help="where it works (default: benchmark-output/zoo/NAME)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    entry, out = ENTRIES[options.name], options.out or Path("benchmark-output/zoo") / options.name
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was spent is noted
    weights, fitted, measured = (out / name for name in ("supernet.safetensors", "predictor.npz", "table.json"))
    space = hwsearch.load_space(entry.space).restrict(entry.sizes)
    data = harder_digits(0) if options.name == "digits" else load_data("cifar10", options.folder)
    assert isinstance(data, ArrayData)
    minutes = trained(space, data, out, entry.recipe)
    table = hwsearch.profile(space, backend="onnxruntime", out=measured)
    sampling = Sampling(networks=entry.networks, images=entry.images, quantization=Quantization().on(table.device))
    predictor = hwsearch.fit_predictor(space, weights=weights, data=data, out=fitted, sampling=sampling)
    device, versions = table.device, f"torch {torch.__version__}, Python {platform.python_version()}"
    card = {
        "format": "hwsearch-example",
        "version": 1,
        "space": space.name,
        "sizes": entry.sizes,
        "data": entry.about,
        "test_accuracy": accuracies(space, data, weights),
        "predictor": str(predictor.report),
        "device": f"{device.hardware} ({device.facts.get('flags', '')}), ONNX Runtime {device.runtime_version}, one thread",
        "trained": f"{entry.recipe['epochs']} epochs, {minutes:.0f} CPU-minutes ({versions})",
        "command": f"python benchmarks/zoo.py {options.name}{'' if options.folder is None else ' --folder CIFAR'}",
    }
    (ZOO / options.name).mkdir(parents=True, exist_ok=True)
    for file in (weights, fitted, measured):
        write_atomic(ZOO / options.name / file.name, file.read_bytes())
    write_atomic(ZOO / options.name / "card.json", (json.dumps(card, indent=1) + "\n").encode())
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
