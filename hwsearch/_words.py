"""Tables and results as rows of text, for the terminal and for the report alike."""

from __future__ import annotations

from .result import SearchResult
from .table import LatencyTable

LIMIT_TITLES = ("metric", "value", "limit", "used")


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


def error_facts(table: LatencyTable) -> dict[str, str]:
    """How well a table predicts whole networks that it was not fitted on."""
    error = table.error()
    if not error["networks"]:
        return {"held-out networks": "none, so the error of this table is unknown"}
    kinds = {f"mean error, {name.removeprefix('mean_abs_')}": value for name, value in error.items() if name.startswith("mean_abs_")}
    percent = {"mean absolute error": error["mean_abs"], **kinds, "largest error": error["max_abs"]}
    return {
        "held-out networks": f"{error['networks']:.0f}",
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


def status(result: SearchResult) -> str:
    """How a search ended, how far its answer is proven to be from the best, and why its score should not be taken at its word."""
    proven = [] if result.gap is None else [f"Gap: {result.gap:.3%}."]
    return " ".join([result.status.value, *proven, *(f"Caution: {caution}" for caution in result.cautions)])
