"""Predictor transfer: pairwise accuracy on quantised networks with and without a base in floating point, by number of quantised networks.

    python benchmarks/predictor_transfer.py score DATA --weights supernet.safetensors --out benchmark-output/predictor-transfer
    python benchmarks/predictor_transfer.py curves nasbench --data PUBLISHED --out benchmark-output/predictor-transfer
    python benchmarks/predictor_transfer.py curves cifar --out benchmark-output/predictor-transfer

``score`` evaluates networks of the part of ``resnet_cifar`` that ``benchmarks/supernet.py train`` trains, with 4, 6 or 8 bits for the
weights and for the activations of each block (APQ's choices), all of them at random: in floating point, at their precisions to fit on, and
at their precisions on more images to be tested on. The weights are that supernet; precisions play no part in them. It can be stopped and
called again, and asked for more.

``curves`` fits predictors to random subsets, and to networks that a predictor chose one round after the other. ``nasbench`` takes published
accuracies in the place of scores: NAS-Bench-201 in floating point and as int8 after training (PUBLISHED/nb201/nb201.csv.gz), as log-odds,
since int8 destroys some of its networks. What was fitted is kept in OUT, and a call that was stopped goes on.

Pairwise accuracy is the share of pairs that are ordered rightly, ties in truth left out. For comparison: what the truth would reach where
each network's score had been found on as many images of its own. All networks see the same images here, which takes part of the noise away
from their differences, so a predictor may reach more.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from supernet import PART

import hwsearch
from hwsearch import interop
from hwsearch._files._reading import read_arrays
from hwsearch._files._writing import Journal
from hwsearch.scores import Predictor
from hwsearch.spaces.library.resnet_cifar import CHAIN

SIZES = (25, 50, 100, 200, 300)
ROUND = 25
"""So many networks are chosen at once, and the first of them at random."""
BITS = tuple(f"w{weights}a{activations}" for weights in (4, 6, 8) for activations in (4, 6, 8))
SPACE = replace(CHAIN, name="resnet_cifar_bits", precisions=BITS).space().restrict(PART)
IMAGES = {"floating": 500, "fit": 2000, "test": 5000}
WAYS = ("alone", "upon a base", "upon a base, chosen")


@dataclass(frozen=True)
class Pairs:
    """Networks and their scores.

    Attributes:
        space: of the networks.
        floating: rows and scores in floating point.
        fit, test: rows and scores of quantised networks, to fit on and to test on.
        images: that the scores of ``test`` were found on; 0 where they are not of this benchmark's making.
    """

    space: hwsearch.SearchSpace
    floating: tuple[np.ndarray, np.ndarray]
    fit: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    images: int = 0


def score(options: argparse.Namespace) -> None:
    """Evaluate the networks, a part of each kind at a time, so that there is always something to look at."""
    from hwsearch.nn import SupernetScore, load_data, sample_networks, score_networks

    space, data = SPACE, load_data("cifar10", options.data)
    mixed = sample_networks(space, 4 + options.test + options.fit, 1)
    rows = {
        "floating": sample_networks(space, options.floating, 0, floating=True),
        "test": mixed[4 : 4 + options.test],
        "fit": np.concatenate([mixed[:4], mixed[4 + options.test :]]),
    }
    for part in range(1, 5):
        for kind, X in rows.items():
            accuracy = SupernetScore(space, options.weights, data, images=IMAGES[kind], floating=kind == "floating")
            score_networks(accuracy, X[: len(X) * part // 4], out=options.out / f"{kind}.npz")


def cifar(folder: Path) -> Pairs:
    """What :func:`score` has found so far, and written to a folder."""
    found = {}
    for kind in IMAGES:
        _, arrays = read_arrays(folder / f"{kind}.npz", "file of scores", format="hwsearch-scores", version=1)
        found[kind] = (arrays["X"], arrays["accuracy"])
    return Pairs(SPACE, found["floating"], found["fit"], found["test"], IMAGES["test"])


def nasbench(published: Path) -> Pairs:
    """NAS-Bench-201 in floating point and as int8 after training, in log-odds; 1,000 networks for the base, 300 to fit, 1,000 to test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", interop.ForeignDataWarning)
        benchmark = interop.nasbench201(published / "nb201" / "nb201.csv.gz")
    X = np.concatenate(list(benchmark.space.enumerate()))
    both = np.stack([benchmark.score(f"esp_{kind}_c10_s777")(X) for kind in ("fp32", "int8")]) / 100
    X, both = X[~np.isnan(both).any(axis=0)], both[:, ~np.isnan(both).any(axis=0)].clip(0.02, 0.98)
    floating, quantised = np.log(both / (1 - both))
    order = np.random.default_rng(0).permutation(len(X))
    a, b, c = order[:1000], order[1000 : 1000 + 4 * SIZES[-1]], order[-1000:]
    return Pairs(benchmark.space, (X[a], floating[a]), (X[b], quantised[b]), (X[c], quantised[c]))


def truth(y: np.ndarray, images: int, seed: int = 0) -> float:
    """Pairwise accuracy of the true scores, against scores found on so many images of each network's own.

    The scores are found again, in a binomial draw about themselves shrunk to the spread that is left without such noise.
    """
    noise = float(np.mean(y * (1 - y) / images))
    shrunk = y.mean() + (y - y.mean()) * np.sqrt(max(0.0, 1 - noise / y.var()))
    rng = np.random.default_rng(seed)
    return float(np.mean([pairwise(rng.binomial(images, shrunk) / images, shrunk) for _ in range(50)]))


def pairwise(truth: np.ndarray, guess: np.ndarray) -> float:
    """Share of pairs that ``guess`` orders as ``truth`` does, where that tells them apart."""
    upper = np.triu_indices(len(truth), 1)
    real = np.sign(truth[upper[0]] - truth[upper[1]])
    return float((real == np.sign(guess[upper[0]] - guess[upper[1]]))[real != 0].mean())


Done = dict[tuple[str, int, int], float]
"""Pairwise accuracy by way, number of quantised networks, and seed."""


def fits(pairs: Pairs, base: Predictor, kind: str, seed: int, done: Done) -> Iterator[tuple[str, int, Predictor]]:
    """Predictors of each way and size, where they are not done."""
    X, y = pairs.fit
    order = np.random.default_rng(seed).permutation(len(X))
    sizes = [size for size in SIZES if size <= len(X)]
    for way, on in zip(WAYS, (None, base), strict=False):
        for size in sizes:
            if (way, size, seed) not in done:
                yield way, size, Predictor.fit(pairs.space, X[order[:size]], y[order[:size]], kind=kind, seed=seed, base=on)
    sizes = [size for size in sizes if 2 * size <= len(X)]  # to choose means to leave something
    known = order[:ROUND]
    while any((WAYS[2], size, seed) not in done for size in sizes if size >= len(known)):
        predictor = Predictor.fit(pairs.space, X[known], y[known], kind=kind, seed=seed, base=base)
        if len(known) in sizes:
            yield WAYS[2], len(known), predictor
        left = np.setdiff1d(order, known)
        known = np.concatenate([known, left[predictor.choose(X[left], ROUND, X[known])]])


def curves(options: argparse.Namespace) -> None:
    """Fit, print and draw."""
    pairs = cifar(options.out) if options.what == "cifar" else nasbench(options.data)
    journal = Journal(options.out / f"{options.what}-{options.kind}.jsonl")
    done: Done = {(line["way"], line["size"], line["seed"]): line["pairwise"] for line in journal}
    base = Predictor.fit(pairs.space, *pairs.floating, kind=options.kind)
    for seed in options.seeds:
        for way, size, predictor in fits(pairs, base, options.kind, seed, done):
            if (way, size, seed) not in done:
                done[way, size, seed] = pairwise(pairs.test[1], predictor(pairs.test[0]))
                journal.append({"way": way, "size": size, "seed": seed, "pairwise": done[way, size, seed]})
    summary = {
        "floating": len(pairs.floating[0]),
        "fit": len(pairs.fit[0]),
        "test": len(pairs.test[0]),
        "base_report": str(base.report),
        "base_alone": pairwise(pairs.test[1], base(pairs.test[0])),
        "truth": truth(pairs.test[1], pairs.images) if pairs.images else None,
        "pairwise": {way: {size: [done[k] for k in sorted(done) if k[:2] == (way, size)] for size in SIZES} for way in WAYS},
    }
    (options.out / f"{options.what}-{options.kind}.json").write_text(json.dumps(summary, indent=1) + "\n")
    show(options, summary)


def show(options: argparse.Namespace, summary: dict[str, Any]) -> None:
    """The table and the figure."""
    shown = Table(
        title=f"{options.what}, {options.kind}: pairwise accuracy on {summary['test']} quantised networks, mean (least) of the seeds"
    )
    for heading in ("predictor", *map(str, SIZES)):
        shown.add_column(heading, justify="right")
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axis = figure.subplots()
    for way in WAYS:
        found = {size: values for size in SIZES if (values := summary["pairwise"][way][size])}
        cells = (f"{np.mean(found[size]):.1%} ({min(found[size]):.1%})" if size in found else "" for size in SIZES)
        shown.add_row(way, *cells)
        axis.plot(list(found), [np.mean(values) for values in found.values()], marker="o", label=way)
    axis.axhline(summary["base_alone"], linestyle=":", color="grey", label="base alone")
    Console().print(shown, f"base alone {summary['base_alone']:.1%}, truth {summary['truth']}, base: {summary['base_report']}")
    axis.set(xlabel="quantised networks to fit on", ylabel="pairwise accuracy", xscale="log", xticks=SIZES, xticklabels=SIZES)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(options.out / f"{options.what}-{options.kind}.svg")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Predictor transfer from floating point to quantised networks.")
    commands = parser.add_subparsers(required=True)
    scoring, fitting = commands.add_parser("score"), commands.add_parser("curves")
    scoring.add_argument("data", type=Path)
    scoring.add_argument("--weights", type=Path, required=True)
    for name, count in (("floating", 600), ("fit", 300), ("test", 200)):
        scoring.add_argument(f"--{name}", type=int, default=count)
    scoring.set_defaults(run=score)
    fitting.add_argument("what", choices=("cifar", "nasbench"))
    fitting.add_argument("--data", type=Path)
    fitting.add_argument("--kind", choices=("mlp", "linear"), default="mlp")
    fitting.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    fitting.set_defaults(run=curves)
    for one in (scoring, fitting):
        one.add_argument("--out", type=Path, default=Path("benchmark-output/predictor-transfer"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.run(options)


if __name__ == "__main__":
    main()
