"""Predicted against measured latency on fresh random networks, which had no part in making the table.

python benchmarks/fresh_networks.py resnet_cifar latency_tables/my-cpu.json

Latencies are put in proportion to the table's sentinel, which is measured along: what is compared is the network, not how fast the
machine happens to be today. On another device than the table's nothing is printed but why.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from hwsearch.devices import Check, load_table
from hwsearch.profiling import measure
from hwsearch.spaces import load_space

EACH = 20


def main() -> None:
    """Measure 20 networks of each precision and 20 mixed ones, and print the table's error on them."""
    parser = argparse.ArgumentParser(description="Predicted against measured latency on fresh random networks.")
    parser.add_argument("space", help="the search space")
    parser.add_argument("table", help="its latency table of this machine")
    parser.add_argument("--seed", type=int, default=1234, help="of the networks; not the seed that the table was profiled with")
    options = parser.parse_args()
    space, table = load_space(options.space), load_table(options.table)
    rng = np.random.default_rng(options.seed)
    choices = [*([precision] for precision in table.precisions), list(table.precisions)]
    networks = [space.blocks(row) for keep in choices for row in space.restrict({"precision": keep}).sample(EACH, rng)]
    measured = measure(networks, table=table, progress=True)
    checks = tuple(
        Check("check", tuple(block.key for block in network), one.latency_ms, one.spread_ms, table.predict(network))
        for network, one in zip(networks, measured, strict=True)
    )
    for what, value in replace(table, checks=checks).error().items():
        print(f"{what:<16} {value:.4f}")


if __name__ == "__main__":
    main()
