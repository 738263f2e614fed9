"""Predicted against measured latency on fresh random networks: python benchmarks/fresh_networks.py SPACE TABLE [SEED]."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from hwsearch.device import Check
from hwsearch.profile import measure_many
from hwsearch.spaces import load_space
from hwsearch.table import load_table

EACH = 20


def main(name: str, path: str, seed: int = 1234) -> None:
    """Measure 20 networks of each precision and 20 mixed ones, and print the table's error on them."""
    space, table = load_space(name), load_table(path)
    rng = np.random.default_rng(seed)
    choices = [*([precision] for precision in table.precisions), list(table.precisions)]
    networks = [space.blocks(row) for keep in choices for row in space.restrict({"*precision": keep}).sample(EACH, rng)]
    measured = measure_many(networks, progress=True)
    checks = tuple(
        Check("check", tuple(block.key for block in network), one.latency_ms, one.spread_ms, table.predict(network))
        for network, one in zip(networks, measured, strict=True)
    )
    for what, value in replace(table, checks=checks).error().items():
        print(f"{what:<16} {value:.4f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
