"""What torch.compile gains in training: the largest network of `resnet_cifar` beside itself compiled, on one core.

    python benchmarks/compiling.py

Steps (forward and backward, 64 images) and forward passes alone, as a teacher makes them, are made in turns, compiled and not; of each the
least processor time of ten counts. The time of the first compiled step is that of compiling.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch.nn import Supernet

TURNS = 10


Network = Callable[[torch.Tensor], torch.Tensor]


def spent(work: Callable[[Network], None], network: Network) -> float:
    """Processor time of some work with a network, s."""
    start = time.process_time()
    work(network)
    return time.process_time() - start


def main() -> None:
    """Measure both and print the ratios."""
    argparse.ArgumentParser(description="Training and evaluating a network, compiled and not.").parse_args()
    torch.set_num_threads(1)
    supernet = Supernet(hwsearch.load_space("resnet_cifar"))
    x = torch.randn(64, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (64,))
    network = supernet.extract(supernet.largest, x)
    compiled = torch.compile(network)

    def learn(run: Network) -> None:
        torch.autograd.backward(F.cross_entropy(run(x), y))

    def teach(run: Network) -> None:
        with torch.no_grad():
            run(x)

    table = Table("work", "compiling (CPU s)", "eager (CPU s)", "compiled (CPU s)", "ratio", title=f"torch {torch.__version__}, 64 images")
    for name, work, train in (("a training step", learn, True), ("a teacher's forward pass", teach, False)):
        network.train(train)
        first = spent(work, compiled)
        pairs = [(spent(work, network), spent(work, compiled)) for _ in range(TURNS)]
        eager, fast = (min(times) for times in zip(*pairs, strict=True))
        table.add_row(name, f"{first:.0f}", f"{eager:.3f}", f"{fast:.3f}", f"{eager / fast:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
