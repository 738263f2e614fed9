"""How soon each strategy of ``lineage.py`` comes near the best network: against scores, and against CPU-seconds.

    python benchmarks/lineage_curves.py docs/images/lineage-curves.svg benchmarks/results/lineage-{macro,bits,apq}-100.jsonl

Draws lines of results whose best network is known. A curve is the mean over seeds of what the best score so far lacks to the best of all;
CPU-seconds are those of the search and its scores. A search that has ended keeps what it found.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hwsearch._files._writing import Journal

STYLES: dict[str, tuple[str, str]] = {
    "surrogate": ("#0072B2", "-"),
    "memetic": ("#009E73", "-"),
    "exact": ("#56B4E9", "-"),
    "staged": ("#F0E442", "-"),
    "evolution": ("#E69F00", "-"),
    "hybrid": ("#E69F00", "--"),
    "amc": ("#D55E00", "-"),
    "haq": ("#CC79A7", "-"),
    "optuna": ("#000000", "-"),
    "nsga2": ("#8a94a0", "--"),
    "random": ("#8a94a0", ":"),
}
TITLES = {
    "macro": "NAS-Bench-Macro: accuracy lacking (points)",
    "bits": "bits of ResNet-50: sensitivity too much",
    "apq": "APQ's space: worth lacking",
}


def lacking(rows: list[dict[str, Any]], column: int, places: np.ndarray) -> np.ndarray:
    """The mean over seeds of what is lacking at each place of a column of the courses, shape ``(places,)``; NaN before all have begun."""
    found = []
    for row in rows:
        at, score = (np.array([step[each] for step in row["course"]]) for each in (column, 2))
        last = np.searchsorted(at, places, side="right") - 1
        found.append(np.where(last < 0, np.nan, row["best"] - score[last]))
    return np.asarray(np.maximum(np.mean(found, axis=0), 0.0))


def panel(axes: Axes, rows: list[dict[str, Any]], column: int) -> None:
    """One bench against scores (column 0) or CPU-seconds (column 1)."""
    longest = max(row["scores"] if column == 0 else row["seconds"] for row in rows)
    places = np.arange(1, longest + 1) if column == 0 else np.geomspace(0.01, longest, 600)
    for method, (colour, line) in STYLES.items():
        own = [row for row in rows if row["method"] == method]
        if own:
            axes.plot(places, lacking(own, column, places), color=colour, ls=line, lw=1.4)
    least = min(step for row in rows for _, _, score in row["course"] if (step := row["best"] - score) > 1e-9)
    axes.set_yscale("symlog", linthresh=least)
    axes.set_ylim(bottom=0)
    axes.set_xscale("linear" if column == 0 else "log")
    axes.set_xlabel("scores" if column == 0 else "CPU-seconds")
    axes.grid(alpha=0.3)


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    figure = Figure(figsize=(4.0 * len(options.results), 6.4), layout="constrained")
    all_axes = figure.subplots(2, len(options.results), squeeze=False)
    shown = set()
    for axes, file in zip(all_axes.T, options.results, strict=True):
        rows = list(Journal(file))
        shown |= {row["method"] for row in rows}
        for column, each in enumerate(axes):
            panel(each, rows, column)
        bench = file.stem.split("-")[1]
        axes[0].set_title(TITLES.get(bench, bench), fontsize=10, loc="left")
    lines = [Line2D([], [], color=colour, ls=line, label=method) for method, (colour, line) in STYLES.items() if method in shown]
    figure.legend(handles=lines, loc="outside lower center", ncols=min(6, len(lines)), frameon=False, fontsize=9)
    figure.savefig(options.figure, metadata={"Date": None} if options.figure.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
