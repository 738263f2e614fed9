"""Tables and results as rows of text, for the terminal and for the report alike."""

from __future__ import annotations

import numpy as np

from ..devices._table import LatencyTable
from ..searching._result import SearchResult
from ..searching.verify._records import Checked

LIMIT_TITLES = ("metric", "value", "limit", "used")
_VERIFIED = {
    "score": ("score", "{:.4f}".format, "{:.4f}".format, "{:+.4f}".format),
    "latency_ms": ("ms", "{:.4g}".format, "{:.4g}".format, "{:+.1%}".format),
}
"""How the figures of a verified network are written: what they are, foretold, measured, and the error."""


def _figures(one: Checked, name: str) -> tuple[float, float, float]:
    return one.predicted[name], one.measured[name], one.error(name)


def device_facts(table: LatencyTable) -> dict[str, str]:
    """Where a table was measured."""
    device = table.device
    return {
        "device": device.name,
        "hardware": device.hardware,
        "runtime": f"{device.runtime} {device.runtime_version}",
        "threads": str(device.threads),
        "batch": str(device.batch),
        **device.facts,
    }


def noisy_blocks(table: LatencyTable) -> str:
    """How many blocks of a table were not measured well enough, and what their share in all latency is."""
    share = sum(table.rows[key].latency_ms for key in table.noisy) / sum(row.latency_ms for row in table.rows.values())
    return (
        f"{len(table.noisy)} of {len(table.rows)} blocks are noisy: their standard error is above 3 %. They have {share:.1%} of the sum of "
        "all latencies. If that is much, measure into another file while the device does nothing else, or with more rounds."
    )


def error_facts(table: LatencyTable) -> dict[str, str]:
    """How well a table predicts whole networks that it was not fitted on."""
    error = table.error()
    if not error["networks"]:
        return {"held-out networks": "none, so the error of this table is unknown"}
    kinds = {f"mean error, {name.removeprefix('mean_abs_')}": value for name, value in error.items() if name.startswith("mean_abs_")}
    percent = {"mean absolute error": error["mean_abs"], **kinds, "largest error": error["max_abs"]}
    noisy = {}
    if "noisy" in error:
        noisy["noisy among them"] = f"{error['noisy']:.0f}: the device was busy, and part of their error is that of the measurement"
    if "calm_mean_abs" in error:
        percent["mean error of the others"] = error["calm_mean_abs"]
    return {
        "held-out networks": f"{error['networks']:.0f}",
        **noisy,
        **{name: f"{value:.1%}" for name, value in percent.items()},
        "rank correlation": f"{error['spearman']:.3f}",
    }


def limit_rows(result: SearchResult) -> list[tuple[str, str, str, str]]:
    """Each metric of the answer with its limit and how tight that is; limited metrics first."""
    rows = []
    for name in sorted(result.values, key=lambda name: name not in result.limits):
        limited = name in result.limits
        most = f"{result.limits[name]:,.6g}" if limited else ""
        used = f"{result.tightness[name]:.1%}" if limited else ""
        rows.append((name, f"{result.values[name]:,.6g}", most, used))
    return rows


def front_rows(result: SearchResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Titles and rows of up to ten networks from all over the front: score, and the metrics that were limited."""
    front = result.front
    shown = [name for name in front.values if name in result.limits] or list(front.values)[:1]
    some = np.unique(np.linspace(0, len(front) - 1, 10).astype(int))
    rows = [(f"{front.scores[index]:.4f}", *(f"{front.values[name][index]:,.4g}" for name in shown)) for index in some]
    return ("score", *shown), rows


def verification_rows(result: SearchResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Titles and rows of what was verified: a row a network, by round, the answer of its search first; nothing where nothing was."""
    if result.verification is None:
        return (), []
    names = [name for name in _VERIFIED if name in result.verification.tolerance]
    rows = []
    for number, turn in enumerate(result.verification.rounds, start=1):
        for place, one in enumerate(turn.networks):
            cells = [words(value) for name in names for words, value in zip(_VERIFIED[name][1:], _figures(one, name), strict=True)]
            chosen = one.genes == tuple(map(int, result.best.genes))
            rows.append((f"{number}", "foretold best" if place == 0 else "", *cells, "the answer" if chosen else ""))
    titles = [f"{_VERIFIED[name][0]} {which}" for name in names for which in ("foretold", "measured", "error")]
    return ("round", "", *titles, ""), rows


def status(result: SearchResult) -> str:
    """How a search ended, how far its answer is proven to be from the best, and why its score should not be taken at its word."""
    proven = [] if result.gap is None else [f"Gap: {result.gap:.3%}."]
    return " ".join([result.status.value, *proven, *(f"Caution: {caution}" for caution in result.cautions)])
