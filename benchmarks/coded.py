"""How small the file of a network becomes, what it costs in accuracy, and how near the estimate of its size is.

    python benchmarks/coded.py DIR --road benchmark-output/cifar10

DIR holds cifar-10-batches-py, and the road the supernets of benchmarks/cifar_road.py. The largest network of a supernet, all int8, is
coded with codebooks of 8 to 2 bits and evaluated on the 10,000 test images; files of random networks are compared with
:func:`hwsearch.nn.coded_size`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch.nn import Supernet, coded_size, load_coded, load_data, save_coded
from hwsearch.nn.score import accuracy, deployed


def main() -> None:
    """Code networks and print what became of them."""
    parser = argparse.ArgumentParser(description="Size and accuracy of coded networks, on CIFAR-10.")
    parser.add_argument("folder", type=Path, help="holds cifar-10-batches-py")
    parser.add_argument("--road", type=Path, default=Path("benchmark-output/cifar10"), help="what benchmarks/cifar_road.py wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", type=int, default=6, help="random networks whose files are compared with the estimate")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/coded"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("cifar10", options.folder)
    supernet = Supernet.load(options.road / f"seed{options.seed}" / "supernet.safetensors", "resnet_cifar")
    space, path = supernet.space, options.out / "coded.npz"
    largest = hwsearch.dense(space, "int8")
    plain = 4 * sum(block.params for block in largest.blocks())
    shown = Table("weights", "bytes", "of fp32", "bits a weight", "accuracy", "estimate", title=f"the largest network of {space.name}")
    for name, floating in (("fp32", True), ("int8", False)):
        right = accuracy(deployed(supernet, largest.genes, floating=floating), data, "test")
        size = plain if floating else sum(block.weight_bytes for block in largest.blocks())
        shown.add_row(name, f"{size:,}", f"{size / plain:.1%}", "", f"{right:.2%}", "")
    for bits in (8, 5, 4, 3, 2):
        save_coded(largest, weights=supernet, out=path, bits=bits)
        coded, size = load_coded(path), path.stat().st_size
        off = float(coded_size(supernet, bits)(largest.genes[None])[0]) * 1e6 / size - 1
        right = accuracy(coded.network, data, "test")
        shown.add_row(f"{bits}-bit codebooks", f"{size:,}", f"{size / plain:.1%}", f"{coded.mean_bits:.2f}", f"{right:.2%}", f"{off:+.1%}")
    errors = []
    for bits in (8, 5, 3):
        estimate = coded_size(supernet, bits)
        for row in space.sample(options.networks, np.random.default_rng(options.seed)):
            save_coded(space.architecture(row), weights=supernet, out=path, bits=bits)
            errors.append(float(estimate(row[None])[0]) * 1e6 / path.stat().st_size - 1)
    off = np.abs(errors)
    Console().print(shown, f"estimates of {len(errors)} random files: off by {off.mean():.1%} on average, {off.max():.1%} at most")


if __name__ == "__main__":
    main()
