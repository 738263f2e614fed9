"""What the algorithm ``exact`` proves, against looking at every network of random small problems.

    python benchmarks/proofs.py --count 1000

Costs are whole or real, near-ties (about 3e8, and different by up to 200) or of every size; a limit is often exactly what some network
costs. A word is false if a problem is called infeasible that is not, if a network is better than the proven bound, if the answer is
beyond a limit, or if it is called optimal and is not. Half of the problems are solved without folding genes away first, so that the solver
has to prove what folding would have shown.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass

import numpy as np

import hwsearch
from hwsearch.algorithms import _factors as _options


@dataclass(frozen=True, eq=False)
class Instance:
    """A random problem: its score and its limits are sums of tables that the space brings along."""

    space: hwsearch.SearchSpace
    limits: dict[str, float]

    def solve(self, algorithm: str = "exact") -> hwsearch.SearchResult:
        """Search it, the score with the sign of a cost."""
        return hwsearch.search(self.space, predictor=-hwsearch.metric("loss", self.space), limits=self.limits, algorithm=algorithm)


def instance(seed: int) -> Instance:
    """A problem of 3 to 8 genes with 1 to 3 limits, always the same of a seed."""
    rng = np.random.default_rng([20261129, seed])
    genes = {f"g{index}": range(int(rng.integers(2, 5))) for index in range(int(rng.integers(3, 9)))}
    scopes = [[name] for name in genes] + [list(pair) for pair in itertools.combinations(genes, 2) if rng.random() < 0.3]
    names = [f"cost{index}" for index in range(int(rng.integers(1, 4)))]
    kind = rng.integers(4)

    def numbers(shape: tuple[int, ...]) -> np.ndarray:
        if kind == 0:
            return rng.integers(0, 4, size=shape).astype(float)
        if kind == 1:
            return 3e8 + rng.integers(0, 201, size=shape)
        if kind == 2:
            return np.asarray(rng.random(shape))
        return np.asarray(10.0 ** rng.uniform(-9, 3, size=shape))

    tables = {name: [(scope, numbers(tuple(len(genes[gene]) for gene in scope))) for scope in scopes] for name in ["loss", *names]}
    space = hwsearch.SearchSpace.from_tables(genes, tables)
    known = space.sample(3, rng)
    limits = {}
    for name in names:
        values = hwsearch.metric(name, space)(known)
        limits[name] = float(values[0] if rng.random() < 0.7 else values.min())
        if rng.random() < 0.2:
            limits[name] = float(np.nextafter(limits[name], 0.0))
    return Instance(space, limits)


def false_word(problem: Instance, *, fold: bool = True) -> str | None:
    """What the search says of a problem that looking at every network contradicts; ``None`` if nothing."""
    most, _options.MOST_JOINED = _options.MOST_JOINED, _options.MOST_JOINED if fold else 0
    try:
        found = problem.solve()
    except hwsearch.Infeasible:
        found = None
    finally:
        _options.MOST_JOINED = most
    X = np.concatenate(list(problem.space.enumerate()))
    scores = -hwsearch.metric("loss", problem.space)(X)
    met = np.all([hwsearch.metric(name, problem.space)(X) <= limit for name, limit in problem.limits.items()], axis=0)
    best = scores[met].max() if met.any() else None
    if found is None:
        return None if best is None else f"called infeasible, and {met.sum()} networks meet the limits"
    if best is None:
        return "an answer, and no network meets the limits"
    if any(found.values[name] > limit for name, limit in problem.limits.items()):
        return "the answer is beyond a limit"
    if found.bound is None or best > found.bound:
        return f"bound {found.bound!r}, and a network has {best!r}"
    if found.status is not hwsearch.searching.Status.OPTIMAL:
        return f"{found.status.name}, not proven"
    spread = float(np.ptp(scores))
    if best - found.best_score > 2e-6 * spread:
        return f"called optimal at {found.best_score!r}, and a network has {best!r}"
    return None


def main() -> None:
    """Print every false word, and how many there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    wrong = 0
    for seed in range(count):
        problem = instance(seed)
        said = false_word(problem, fold=seed % 2 == 0)
        if said is not None:
            wrong += 1
            print(f"problem {seed} ({problem.limits}): {said}", flush=True)
    print(f"{count} problems, {wrong} false words")


if __name__ == "__main__":
    main()
