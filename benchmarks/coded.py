"""How small the file of a trained network becomes, and what it costs in accuracy.

    python benchmarks/coded.py DIR --weights resnet20.npz

DIR holds cifar-10-batches-py; the weights are those of a residual network that was trained for CIFAR-10, as
:func:`hwsearch.interop.cifar_resnet` reads them. With its feature maps in int8 it is coded with codebooks of 8 to 2 bits and evaluated on
the 10,000 test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hwsearch.interop import cifar_resnet
from hwsearch.nn import load_coded, load_data, save_coded
from hwsearch.nn._evaluate import accuracy, deployed


def main() -> None:
    """Code a network and print what became of it."""
    parser = argparse.ArgumentParser(description="Size and accuracy of a coded network, on CIFAR-10.")
    parser.add_argument("folder", type=Path, help="holds cifar-10-batches-py")
    parser.add_argument("--weights", type=Path, required=True, help="a trained ResNet of CIFAR-10, such as resnet20.npz")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/coded"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_data(("cifar10", options.folder))
    net = cifar_resnet(options.weights, data=data, precisions=("int8",))
    data, network, path = data.normalized(net.normalize), net.space.architecture(net.largest), options.out / "coded.npz"
    plain = 4 * sum(block.params for block in network.blocks())
    shown = Table("weights", "bytes", "of fp32", "bits a weight", "accuracy", title=f"{net.space.name}, feature maps in int8")
    for name, floating in (("fp32", True), ("int8", False)):
        right = accuracy(deployed(net, network.genes, floating=floating), data, "test")
        size = plain if floating else sum(block.weight_bytes for block in network.blocks())
        shown.add_row(name, f"{size:,}", f"{size / plain:.1%}", "", f"{right:.2%}")
    for bits in (8, 5, 4, 3, 2):
        save_coded(network, weights=net, out=path, bits=bits)
        coded, size = load_coded(path), path.stat().st_size
        right = accuracy(coded.network, data, "test")
        shown.add_row(f"{bits}-bit codebooks", f"{size:,}", f"{size / plain:.1%}", f"{coded.mean_bits:.2f}", f"{right:.2%}")
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
