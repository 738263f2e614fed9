"""What there is to say of a latency table, for the terminal and for the report alike."""

from __future__ import annotations

from ..devices._table import LatencyTable


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
