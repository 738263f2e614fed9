"""How long the algorithm ``exact`` takes against the same program handed to HiGHS as it stands, in one process.

    OMP_NUM_THREADS=1 python benchmarks/exact_speed.py --count 24

Random programs of 10 to 80 groups of up to 17 widths: worth adds up over groups, latency over pairs of groups that follow each other (and
some that are further apart; in every third program over a random tree and as many random pairs again as half the groups), and in every
second program size is limited as well. The bare program has a binary variable for each width of
each group and a continuous one for each pair of widths of each pair of groups; it is solved with the same gap. Seconds are CPU-seconds from
the tables to the answer. A word is false if ``exact`` calls an answer optimal that is worse than that of HiGHS by more than the gap and
meets the limits.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

import hwsearch
from hwsearch.algorithms._quiet import quiet

GAP = 1e-6
"""Of both, relative: to the range of the worth for ``exact``, to the worth for HiGHS."""


@dataclass
class Instance:
    """Groups with the worth of their widths, and for each cost tables over pairs of groups."""

    sizes: list[int]
    worth: list[np.ndarray]
    pairs: list[tuple[int, int]]
    costs: dict[str, list[np.ndarray]]
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def limits(self) -> dict[str, float]:
        """Shares of what the widest network costs."""
        return {name: self.shares[name] * sum(float(array[-1, -1]) for array in arrays) for name, arrays in self.costs.items()}

    def space(self) -> hwsearch.SearchSpace:
        """The same as a space with its costs."""
        names = [f"g{index}" for index in range(len(self.sizes))]
        tables = {
            name: [([names[a], names[b]], array) for (a, b), array in zip(self.pairs, arrays, strict=True)]
            for name, arrays in self.costs.items()
        }
        tables["worth"] = [([name], values) for name, values in zip(names, self.worth, strict=True)]
        return hwsearch.SearchSpace.from_tables({name: range(size) for name, size in zip(names, self.sizes, strict=True)}, tables)


def instance(seed: int) -> Instance:
    """A random program, always the same of a seed."""
    rng = np.random.default_rng([16, seed])
    groups = int(rng.integers(10, 81))
    most = int(rng.integers(4, 18))
    sizes = [int(rng.integers(max(2, most // 2), most + 1)) for _ in range(groups)]
    full = [int(rng.choice([64, 128, 256, 512])) for _ in range(groups)]
    widths = [np.ceil(width * np.arange(1, size + 1) / size) for width, size in zip(full, sizes, strict=True)]
    worth = []
    for width, values in zip(full, widths, strict=True):
        order = np.sort(rng.pareto(2.0, width) + 0.05)[::-1]
        worth.append(float(rng.lognormal(0.0, 0.7)) * np.cumsum(order)[values.astype(int) - 1] / order.sum())
    pairs = [(index, index + 1) for index in range(groups - 1)]
    pairs += [(index, index + 3) for index in range(0, groups - 3, 4) if rng.random() < 0.5]
    if seed % 3 == 2:
        tree = {(int(rng.integers(index)), index) for index in range(1, groups)}
        more = {(int(min(pair)), int(max(pair))) for pair in rng.integers(groups, size=(groups // 2, 2)) if pair[0] != pair[1]}
        pairs = sorted(tree | more)
    area = 10.0 ** rng.uniform(0, 2, size=len(pairs))
    tiles = [np.multiply.outer(np.ceil(widths[a] / 16), np.ceil(widths[b] / 16)) for a, b in pairs]
    costs = {"latency_ms": [0.01 + 1e-4 * each * tile for each, tile in zip(area, tiles, strict=True)]}
    shares = {"latency_ms": float(rng.uniform(0.25, 0.75))}
    if seed % 2:
        costs["size_mb"] = [np.multiply.outer(widths[a], widths[b]) * 4e-6 for a, b in pairs]
        shares["size_mb"] = float(rng.uniform(0.3, 0.8))
    return Instance(sizes, worth, pairs, costs, shares)


def bare(made: Instance) -> tuple[float, float]:
    """The best worth by HiGHS alone, and its CPU-seconds."""
    began = time.process_time()
    starts = np.cumsum([0, *made.sizes])
    singles, columns = int(starts[-1]), int(starts[-1])
    objective = [-np.concatenate(made.worth)]
    spent = {name: [np.zeros(singles)] for name in made.costs}
    rows, cols, values, low, high = [], [], [], [], []
    count = 0

    def add(index: np.ndarray, factor: np.ndarray, lower: float, upper: float) -> None:
        nonlocal count
        rows.append(np.full(len(index), count))
        cols.append(index)
        values.append(factor)
        low.append(lower)
        high.append(upper)
        count += 1

    for start, size in zip(starts, made.sizes, strict=False):
        add(start + np.arange(size), np.ones(size), 1.0, 1.0)
    for place, (a, b) in enumerate(made.pairs):
        shape = made.sizes[a], made.sizes[b]
        index = columns + np.arange(shape[0] * shape[1]).reshape(shape)
        for group, lines in ((a, index), (b, index.T)):
            for option, line in enumerate(lines):
                add(np.append(line, starts[group] + option), np.append(np.ones(len(line)), -1.0), 0.0, 0.0)
        for name, arrays in made.costs.items():
            spent[name].append(arrays[place].ravel())
        columns += index.size
    objective.append(np.zeros(columns - singles))
    for name, most in made.limits.items():
        add(np.arange(columns), np.concatenate(spent[name]) / most, -np.inf, 1.0)
    matrix = coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=(count, columns)).tocsr()
    whole = (np.arange(columns) < singles).astype(np.intp)
    with quiet():
        found = milp(
            np.concatenate(objective),
            integrality=whole,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, low, high),
            options={"mip_rel_gap": GAP, "time_limit": 120},
        )
    return (-np.inf if found.x is None else -float(found.fun)), time.process_time() - began


def ours(made: Instance) -> tuple[hwsearch.SearchResult | None, float, float]:
    """The result of ``exact``, its CPU-seconds, and the range of the worth."""
    space = made.space()
    began = time.process_time()
    try:
        found = hwsearch.search(space, predictor=hwsearch.metric("worth", space), limits=made.limits, algorithm="exact")
    except hwsearch.Infeasible:
        found = None
    return found, time.process_time() - began, sum(float(np.ptp(values)) for values in made.worth)


def main() -> None:
    """Print a line for each program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    worst = 0.0
    for seed in range(options.first, options.first + options.count):
        made = instance(seed)
        theirs, base = bare(made)
        found, seconds, spread = ours(made)
        score = -np.inf if found is None else found.best_score
        word = "infeasible" if found is None else found.status.name
        false = "" if theirs - score <= 2 * GAP * (spread + abs(theirs)) else f"  FALSE: HiGHS has {theirs:.9g}"
        ratio = seconds / max(base, 1e-3)
        worst = max(worst, ratio if base > 0.2 else 0.0)
        size = f"{len(made.sizes)} groups of up to {max(made.sizes)}, {len(made.costs)} limits"
        print(f"{seed}: {size}: {score:.6f} {word}, bare {base:.2f} s, exact {seconds:.2f} s, ratio {ratio:.2f}{false}", flush=True)
    print(f"worst ratio of programs that HiGHS takes more than 0.2 s for: {worst:.2f}")


if __name__ == "__main__":
    main()
