"""Trained ResNets of CIFAR-10 with few bits: after training, with bits found by search, and after fine-tuning.

    python benchmarks/cifar_resnets.py WEIGHTS DATA --networks 20 56 --tune 20

WEIGHTS holds resnet20.npz and so on (He et al. 2016 with shortcuts A, trained with ImageNet's normalisation), DATA the folder
cifar-10-batches-py. What is done, written down before its first run:

- Accuracy is that on the 10,000 test images. Nothing is chosen on them: quantisers see 512 training images, and the search sees the first
  500 of the last 5,000 training images (which these networks were trained on; hwsearch only holds them out of its own training).
- The stem and the classifier have 8 bits, here and in everything that it is compared with.
- *float*, *int8*, *w4a8*, *int4*: the network as published, and quantised after training with what hwsearch takes by itself.
- *ways*: for the first network, int8 and int4 with each way of choosing ranges and each correction: the mean square error of its logits, as
  a share of their variance, on the images that the search sees.
- *mixed*: one precision a block, weights of 2 to 8 bits, activations of 8, found by an exact search: the size may be that of w4a8, and
  the sum over the blocks is least of how much the logits move (mean square over the 500 images) when that block alone leaves int8.
- *mixed both*, written down after *mixed* had lost and before its own first run: the same with activations of 3 to 8 bits as well; size and
  BitOps may be those of int4.
- *tuned*: quantisation-aware fine-tuning with learned steps on 45,000 training images, a cosine from a rate of 0.002 to zero.
- *taught*, written down later and before its own first run: the same for ``--epochs`` from a rate of ``--rate``, with the network in
  floating point as the teacher (share 0.9 at temperature 4), once for each of ``--seeds``. The last weights count. Written down again when
  batch norms had come to go by the batch while a network is tuned: 2 epochs of w4a4, 4 of w3a3 and 6 of w2a2, all from a rate of 0.01. It
  was the best of 0.002, 0.01 and 0.04 after 100 steps of w2a2 (68.0, 76.0 and 72.2 % of the first 2,500 of the last 5,000 training images).
  Written down when the test accuracy of 4 epochs was known, and before its own run: 7 epochs of w3a3. Written down when that of 6 epochs of
  w2a2 was known, and before its own run: 16 epochs of w2a2 from a rate of 0.02, from the weights that 7 epochs of w3a3 gave (``--start``).
  Written down when maps of few bits had come to be rounded once behind a sum, and before their own runs: 2 epochs of w4a4, 4 of w3a3 and 6
  of w2a2 again, from 0.01 and floats; and when those of w2a2 were known (86.99 %), before its own run: 9 epochs.

What is done already is in results.json and is not done again; a tuning that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.costs import Metric
from hwsearch.interop import cifar_resnet
from hwsearch.nn import Data, Quantization, Recipe, Supernet, load_data, tune
from hwsearch.nn._evaluate import accuracy, deployed
from hwsearch.spaces import TableSum

FEW = (3, 4, 5, 6, 8)
BITS = {
    "mixed": ("w2a8", "w3a8", "w4a8", "w5a8", "w6a8", "int8"),
    "mixed both": tuple(f"w{w}a{a}" for w, a in product(FEW, FEW)),
}
SAME = {"mixed": ("w4a8", ("size_mb",)), "mixed both": ("w4a4", ("size_mb", "bitops"))}
"""The uniform precision that mixed bits are held against, and what they may not have more of."""
RECIPE = Recipe(epochs=1, learning_rate=0.002, batch=128, warm_up=0.0, label_smoothing=0.0, weight_decay=1e-4, amp="bf16")
SEEN = 500


class Bench:
    """What is measured, kept in a file.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.weights, self.out = Path(arguments.weights), Path(arguments.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.data = load_data(("cifar10", arguments.data))
        self.file = self.out / "results.json"
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        self.results = self.read() or {"versions": versions}

    def read(self) -> dict[str, Any]:
        """What has been measured."""
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def network(self, depth: int, *precisions: str) -> Supernet:
        """A published network at a choice of precisions."""
        return cifar_resnet(self.weights / f"resnet{depth}.npz", data=self.data, precisions=precisions)

    def once(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A measurement, unless it is in the file."""
        if name not in self.results:
            start = time.process_time()
            found = measure()
            self.results |= {**self.read(), name: {**found, "cpu_seconds": round(time.process_time() - start, 1)}}
            write_atomic(self.file, json.dumps(self.results, indent=1).encode())
        print(name, self.results[name], flush=True)
        found = self.results[name]
        assert isinstance(found, dict)
        return found

    def test(self, net: Supernet, row: Any) -> dict[str, Any]:
        """Test accuracy and size of a row's network."""
        size = sum(block.weight_bytes for block in net.space.blocks(row)) / 1e6
        return {"accuracy": accuracy(deployed(net, row), self.images(net), "test"), "size_mb": size}

    def images(self, net: Supernet) -> Data:
        """The images as a network wants them."""
        return self.data.normalized(net.normalize)

    def after_training(self, depth: int) -> None:
        """The published network in floating point and at uniform precisions."""
        for precision in ("fp32", "int8", "w4a8", "int4"):
            net = self.network(depth, precision)
            self.once(f"resnet{depth} {precision}", partial(self.test, net, net.largest))

    def ways(self, depth: int) -> None:
        """Each way of choosing ranges and each correction."""
        for precision, ranges, correction in product(("int8", "int4"), ("mse", "percentile", "kl", "minmax"), ("none", "bias", "scale")):
            net = self.network(depth, precision)
            how = Quantization(ranges, correction)

            def measure(net: Supernet = net, how: Quantization = how) -> dict[str, Any]:
                network = deployed(net, net.largest, quantization=how)
                found = logits(network, self.images(net))
                wanted = logits(deployed(net, net.largest, floating=True), self.images(net))
                return {"error": float((found - wanted).square().mean() / wanted.var())}

            self.once(f"resnet{depth} {precision} {ranges} {correction}", measure)

    def mixed(self, depth: int, way: str) -> None:
        """Bits found by search at the size, and perhaps the BitOps, of uniform 4-bit weights."""
        bits, (same, costs) = BITS[way], SAME[way]
        net = self.network(depth, *bits)
        space, images = net.space, self.images(net)
        few = replace_images(net)
        base = logits(deployed(few, space.encode(at(space, bits[-1]))), images)
        genes = [number for number, choice in enumerate(space.choices) if choice.values == bits]
        asked = {gene: f"resnet{depth} {'' if way == 'mixed' else 'both '}sensitivity {space.choices[gene].name}" for gene in genes}
        for gene, question in asked.items():
            name = space.choices[gene].name

            def measure(name: str = name) -> dict[str, Any]:
                rows = [space.encode({**at(space, bits[-1]), name: precision}) for precision in bits]
                return {"moved": [float((logits(deployed(few, row), images) - base).square().mean()) for row in rows]}

            self.once(question, measure)
        tables = tuple(((gene,), np.array(self.results[question]["moved"])) for gene, question in asked.items())
        moved = Metric("moved", "", space, TableSum(tables))
        uniform = space.encode(at(space, same))
        limits = {cost: float(hwsearch.metric(cost, space)(uniform[None])[0]) for cost in costs}
        best = hwsearch.search(space, predictor=-moved, limits=limits, algorithm="exact").best
        chosen = [best.values()[space.choices[gene].name] for gene in genes]
        self.once(f"resnet{depth} {way}", lambda: {**self.test(net, best.genes), "precisions": chosen})

    def tuned(self, depth: int, precision: str) -> None:
        """The same after quantisation-aware fine-tuning; a key of ``BITS`` for the bits that were found."""
        name = f"resnet{depth} {precision}"
        net = self.network(depth, *BITS.get(precision, (precision,)))
        row = net.largest
        if precision in BITS:
            genes = [choice.name for choice in net.space.choices if choice.values == BITS[precision]]
            found = dict(zip(genes, self.results[name]["precisions"], strict=True))
            row = net.space.encode({**at(net.space, BITS[precision][-1]), **found})

        def measure() -> dict[str, Any]:
            out = self.out / f"{name.replace(' ', '-')}.safetensors"
            return {**self.test(tune(net.alone(row), data=self.data, out=out, recipe=RECIPE), row), "epochs": RECIPE.epochs}

        self.once(f"{name} tuned", measure)

    def taught(self, depth: int, precision: str, seed: int, options: argparse.Namespace) -> None:
        """A uniform precision after longer fine-tuning with the network in floating point as the teacher."""
        epochs, rate, start = options.epochs, options.rate, options.start
        name = f"resnet{depth} {precision} taught {epochs} {rate:g} {seed}" + (f" from {Path(start).stem}" if start else "")
        net = self.network(depth, precision)
        if start:
            at_bits, file = start.split("=", 1)
            other = self.network(depth, at_bits)
            begun = Supernet.load(file, other.alone(other.largest).space)
            net.settle(begun.extract(begun.largest))
            net.learned = {}  # the steps of other bits
        teacher = self.network(depth, "fp32")
        recipe = replace(RECIPE, epochs=epochs, learning_rate=rate, teacher=teacher, distill=0.9, temperature=4.0)

        def measure() -> dict[str, Any]:
            out = self.out / f"{name.replace(' ', '-')}.safetensors"
            return self.test(tune(net.alone(net.largest), data=self.data, out=out, recipe=recipe, seed=seed), net.largest)

        self.once(name, measure)


def at(space: hwsearch.SearchSpace, precision: str) -> dict[str, Any]:
    """The values of a network with its blocks at one precision."""
    return {choice.name: precision if precision in choice.values else choice.values[0] for choice in space.choices}


def replace_images(net: Supernet) -> Supernet:
    """The same weights with a quarter of the calibration images, for the many networks that are only compared."""
    few = Supernet(net.space)
    few.settled = True
    few.settle(net.extract(net.largest))
    few.normalize, few.images = net.normalize, net.images[:128]
    return few


def logits(network: Any, data: Data) -> torch.Tensor:
    """What a network makes of the images that the search sees."""
    with torch.inference_mode():
        return torch.cat([network(data.normalize(x)) for x, _ in data.batches("val", 250, SEEN)])


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("data")
    parser.add_argument("--networks", type=int, nargs="+", default=[20, 56])
    parser.add_argument("--tune", type=int, nargs="*", default=[20])
    parser.add_argument("--parts", nargs="+", default=["after_training", "ways", "mixed", "tuned"])
    parser.add_argument("--precisions", nargs="+", default=["int4", "w4a8", *BITS])
    parser.add_argument("--epochs", type=int, default=2, help="of taught")
    parser.add_argument("--rate", type=float, default=0.01, help="the learning rate that taught begins with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of taught")
    parser.add_argument("--start", metavar="PRECISION=FILE", help="the weights that taught begins with, of the same network at other bits")
    parser.add_argument("--out", default="benchmark-output/cifar_resnets")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments)
    for part in arguments.parts:
        if part == "tuned":
            for depth, precision in product(arguments.tune, arguments.precisions):
                bench.tuned(depth, precision)
            continue
        if part == "taught":
            for depth, precision, seed in product(arguments.tune, arguments.precisions, arguments.seeds):
                bench.taught(depth, precision, seed, arguments)
            continue
        for depth in arguments.networks[:1] if part == "ways" else arguments.networks:
            for way in BITS if part == "mixed" else ():
                bench.mixed(depth, way)
            if part != "mixed":
                getattr(bench, part)(depth)


if __name__ == "__main__":
    main()
