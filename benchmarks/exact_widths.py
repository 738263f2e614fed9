"""How long the algorithm ``exact`` takes to prove the best widths of networks that users bring, and what ``memetic`` finds in them.

    python benchmarks/exact_widths.py resnet50 densenet121

Each network of torchvision is adopted, and every group of channels that can be cut becomes a gene with up to 16 widths in steps of 8 (of 4
in a DenseNet, whose layers write 32 channels). A kernel is a table over the channels that it reads and those that it makes; in a DenseNet
what it reads is a sum of up to 25 widths. Latencies are those of a roofline with overheads and channels rounded up to 8, sizes are
counted, and importances are drawn at random, heavy-tailed and sorted, as measured ones are. Latency is limited to 60 % of the whole
network's and size to 65 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

import hwsearch
from hwsearch.nn.adoption._groups import Extent, Kernel
from hwsearch.nn.data._vision import import_torchvision
from hwsearch.spaces import Sum

Axes = list["str | Sum[str]"]


def widths(width: int, step: int, most: int = 16) -> tuple[int, ...]:
    """Up to ``most`` widths that are multiples of a step, and the full width."""
    steps = max(1, width // step)
    kept = np.unique(np.ceil(np.linspace(0, steps, min(most, steps) + 1)[1:]).astype(int))
    return (*(int(each) * step for each in kept[:-1]), width)


def axis(extent: Extent | None, genes: Mapping[str, Sequence[int]], whole: Mapping[str, int]) -> tuple[Axes, np.ndarray]:
    """What an extent is an axis over (nothing if no gene changes it), and the channels at each place of that axis."""
    if extent is None:
        return [], np.array([1])
    fixed = extent.fixed + sum(each * whole[name] for name, each in extent.parts if name not in genes)
    parts = {name: each * np.array(genes[name]) for name, each in extent.parts if name in genes}
    if not parts:
        return [], np.array([fixed])
    if len(parts) == 1:
        ((name, adds),) = parts.items()
        return [name], fixed + adds
    total = Sum.of({(name,): adds for name, adds in parts.items()}, base=fixed)
    return [total], total.values


def program(
    groups: Mapping[str, tuple[int, bool]], kernels: Sequence[Kernel], weights: Mapping[str, int], step: int, seed: int = 0
) -> hwsearch.SearchSpace:
    """A network's widths as a space with the costs ``latency_ms``, ``size_mb`` and ``importance``.

    Args:
        groups: units of each group of channels, and whether it can be cut.
        kernels: the operations that multiply, of an adopted network at 64 pixels; latencies are for 224.
        weights: the numbers in each weight, by name.
        step: of widths.
        seed: of importances.
    """
    rng = np.random.default_rng(seed)
    whole = {name: width for name, (width, _) in groups.items()}
    genes = {name: widths(width, step) for name, (width, free) in groups.items() if free and width > step}
    tables: dict[str, list[tuple[Axes, np.ndarray]]] = {"latency_ms": [], "size_mb": [], "importance": []}
    for kernel in kernels:
        (reads, cin), (makes, cout) = axis(kernel.into, genes, whole), axis(kernel.out, genes, whole)
        area = weights.get(kernel.name, 0) / (kernel.into(whole) * kernel.out(whole)) if kernel.into and kernel.out else 0.0
        size = area * np.multiply.outer(cin, cout)
        positions = kernel.count / max(area, 1.0) * ((224 / 64) ** 2 if kernel.op.startswith("conv") else 1.0)
        moved = 4.0 * (size + positions * np.add.outer(cin, cout))
        macs = positions * area * np.multiply.outer(-(-cin // 8) * 8.0, -(-cout // 8) * 8.0)
        shape = [len(values) for values, axes in ((cin, reads), (cout, makes)) if axes]
        tables["latency_ms"].append(([*reads, *makes], (0.004 + np.maximum(macs / 5e7, moved / 2e7)).reshape(shape)))
        tables["size_mb"].append(([*reads, *makes], (4e-6 * size).reshape(shape)))
    for name, values in genes.items():
        order = np.sort(rng.pareto(2.0, whole[name]) + 0.05)[::-1]
        tables["importance"].append(([name], float(rng.lognormal(0.0, 0.7)) * np.cumsum(order)[np.array(values) - 1] / order.sum()))
    return hwsearch.SearchSpace.from_tables(genes, tables, name="widths")


def solved(space: hwsearch.SearchSpace, algorithm: str, shares: tuple[float, float] = (0.6, 0.65)) -> tuple[hwsearch.SearchResult, float]:
    """The result of a search for the most important channels within limits, and its CPU seconds."""
    full = np.array([[size - 1 for size in space.sizes]], dtype=np.uint8)
    limits = {
        name: share * float(hwsearch.metric(name, space)(full)[0]) for name, share in zip(("latency_ms", "size_mb"), shares, strict=True)
    }
    start = time.process_time()
    found = hwsearch.search(space, predictor=hwsearch.metric("importance", space), limits=limits, algorithm=algorithm)
    return found, time.process_time() - start


def main() -> None:
    """Print a line for each network and algorithm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.networks:
        module = import_torchvision().models.get_model(name).eval()
        adopted = hwsearch.adopt(module, torch.randn(1, 3, 64, 64))
        groups = {group.id: (group.width, group.searchable) for group in adopted.groups}
        weights = {each: parameter.numel() for each, parameter in module.named_parameters()}
        space = program(groups, adopted.kernels, weights, 4 if name.startswith("densenet") else 8, options.seed)
        print(f"{name}: {len(space.choices)} genes, {space.rounded_size} networks", flush=True)
        for algorithm in ("exact", "memetic"):
            found, seconds = solved(space, algorithm)
            gap = "" if found.bound is None else f", {(found.bound - found.best_score) / found.bound:.2e} below the bound"
            print(f"  {algorithm}: {found.best_score:.6f}{gap}, {found.status.name}, {seconds:.1f} CPU s", flush=True)


if __name__ == "__main__":
    main()
