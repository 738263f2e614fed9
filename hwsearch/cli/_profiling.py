"""Commands that measure: profile, measure, bench."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import InvalidInput
from ..reports import _terminal
from ._app import app, console
from ._options import BackendName, Channels, Classes, Device, Quiet, Seed, Space, given, named, settings

if TYPE_CHECKING:
    from ..profiling._workbench import Workbench

Out = Annotated[Path | None, typer.Option("--out", "--table", "-o", help="The latency table to write, or to complete.", show_default=False)]
Precision = Annotated[float | None, typer.Option(help="Stop measuring a block at this relative precision.", show_default=False)]
MaxRounds = Annotated[int | None, typer.Option(help="Stop measuring a block after this many rounds.", show_default=False)]
Checks = Annotated[int | None, typer.Option(help="Whole networks that check the table, at least 12.", show_default=False)]
Budget = Annotated[
    str | None, typer.Option(help="Measure a sample for at most this long, such as 20m, and estimate the rest.", show_default=False)
]
Error = Annotated[
    float | None,
    typer.Option(help="Stop within the budget once networks are predicted with this relative error, such as 0.01.", show_default=False),
]
Batch = Annotated[
    list[int] | None, typer.Option(min=1, help="Images at once; give several for a table each, {batch} in --out.", show_default="1")
]
RuntimeSettings = Annotated[
    list[str] | None, typer.Option("--set", help="Options of the runtime: NAME=VALUE, such as threads=4.", show_default=False)
]
WaitForCalm = Annotated[
    str | None,
    typer.Option("--wait-for-calm", help="Wait for up to this long, such as 10m, for a calm machine.", show_default=False),
]
Remote = Annotated[str | None, typer.Option(help="Measure on this board, over ssh: user@host.", show_default=False)]
BoardPython = Annotated[str, typer.Option("--python", help="The Python of that board.")]
Timeout = Annotated[float | None, typer.Option(help="Give up that board after this many silent seconds.", show_default="600")]
Emit = Annotated[Path | None, typer.Option(help="Write jobs for a board into this folder, instead.", show_default=False)]
Collect = Annotated[Path | None, typer.Option(help="Make the table of what came back from it, instead.", show_default=False)]


@app.command(epilog="Example: hwsearch profile resnet_cifar --backend onnxruntime --out latency_tables/my-cpu.json")
def profile(
    space: Space,
    out: Out = None,
    backend: BackendName = "onnxruntime",
    precision: Precision = None,
    max_rounds: MaxRounds = None,
    checks: Checks = None,
    budget: Budget = None,
    error: Error = None,
    batch: Batch = None,
    wait: WaitForCalm = None,
    changes: RuntimeSettings = None,
    remote: Remote = None,
    python: BoardPython = "python3",
    timeout: Timeout = None,
    emit: Emit = None,
    collect: Collect = None,
    classes: Classes = None,
    channels: Channels = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Measure the blocks of SPACE on this machine or on a board, and how well their sums predict whole networks.

    Only what the table does not hold yet is measured, so a stopped run continues where it was.
    """
    from ..backends._load import load_backend
    from ..profiling._effort import Effort

    space = named(space, classes, channels)
    if sum(place is not None for place in (remote, emit, collect)) > 1:
        raise InvalidInput("Give one of --remote, --emit and --collect.")
    if (remote or emit or collect) and len(batch or ()) > 1:
        raise InvalidInput("Several batches are for this machine; leave out --remote, --emit and --collect.")
    if (emit or collect) and (budget is not None or error is not None):
        raise InvalidInput("A sample is chosen while it is measured, so --budget and --error need a board that --remote reaches.")
    effort = Effort(**given(precision=precision, max_rounds=max_rounds, checks=checks, budget=budget, error=error, wait_s=_seconds(wait)))
    options: dict[str, Any] = {"effort": effort, "seed": seed, "progress": not quiet}
    runtime = settings(changes)
    if batch and len(batch) == 1:
        runtime["batch"] = batch[0]
    if emit is not None:
        _emit(space, emit, out, backend=load_backend(backend, **runtime), **options)
    elif out is None:
        raise InvalidInput("Say where the table goes: --out TABLE.")
    elif collect is not None:
        from ..profiling.remote._jobs import collect as collect_results

        console.print(_terminal.latency_table(collect_results(space, collect, out=out), out))
    else:
        from ..profiling.remote import _ssh

        device = load_backend(backend, **runtime)
        if remote is not None:
            board = _ssh.Remote(_ssh.Board(remote, python, **given(timeout_s=timeout)), device)
            _there(space, board, out, **options)
        else:
            _here(space, batch or [1], out, backend=device, **options)


def _emit(space: str, folder: Path, out: Path | None, **options: Any) -> None:
    """Write jobs for a board: whatever the table, if there is one already, does not hold yet."""
    from ..devices._table import load_table
    from ..profiling.remote._jobs import emit

    known = load_table(out) if out is not None and os.path.exists(out) else None
    written = emit(space, folder, table=known, **options)
    text = _terminal.jobs(written, space) if written else f"{out} lacks nothing: no jobs to do."
    console.print(text, highlight=False, soft_wrap=True)


def _there(space: str, board: Workbench, out: Path, **options: Any) -> None:
    """Measure on a board that ssh reaches."""
    from ..profiling._profile import profile

    console.print(_terminal.latency_table(profile(space, backend=board, out=out, **options), out))


def _here(space: str, batches: list[int], out: Path, **options: Any) -> None:
    """Measure on this machine, a table for each batch size."""
    from ..profiling._batches import profile_batches

    for size, table in profile_batches(space, batches, out=out, **options).items():
        console.print(_terminal.latency_table(table, str(out).replace("{batch}", str(size))))


@app.command(epilog="Example: hwsearch measure best.onnx other.onnx --backend onnxruntime")
def measure(
    models: Annotated[list[Path], typer.Argument(help="Model files; several are measured in turns, so they can be compared.")],
    backend: BackendName = "onnxruntime",
    rounds: Annotated[int | None, typer.Option(min=2, help="Rounds, spread over time.", show_default=False)] = None,
    device: Device = None,
    wait: WaitForCalm = None,
    quiet: Quiet = False,
) -> None:
    """Measure the latency of model files on this machine, by the protocol of the latency tables.

    With --device latencies are as that table was measured, whatever this machine does else now: comparable with its predictions.
    """
    from ..algorithms._parts import find_table
    from ..profiling._measure import measure as run

    table_there = None if device is None else find_table(device)
    measured = run(models, backend=backend, table=table_there, progress=not quiet, **given(rounds=rounds, wait_s=_seconds(wait)))
    table = Table("model", "latency (ms)", "spread (ms)", "rounds", title=f"on {measured[0].device.name}")
    for model, reading in zip(models, measured, strict=True):
        table.add_row(str(model), f"{reading.latency_ms:.4f}", f"{reading.spread_ms:.4f}", str(reading.rounds))
    console.print(table)
    if measured[0].machine:
        console.print(f"meanwhile: {measured[0].machine}", highlight=False, soft_wrap=True)


def _seconds(text: str | None) -> float | None:
    """A length of time, such as ``10m``."""
    from ..profiling._effort import seconds

    return None if text is None else seconds(text)


@app.command(epilog="Example: hwsearch bench dense.onnx best.onnx --scenario SingleStream --backend openvino --out bench")
def bench(
    models: Annotated[
        list[Path], typer.Argument(help="ONNX files; several are measured one after the other, and compared with the first.")
    ],
    scenario: Annotated[str, typer.Option(help="SingleStream, MultiStream, Offline or Server.")] = "SingleStream",
    backend: BackendName = "onnxruntime",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of LoadGen's log files.")] = Path("bench"),
    target_qps: Annotated[float | None, typer.Option(help="Images a second that Server sends.", show_default=False)] = None,
    short: Annotated[bool, typer.Option("--short", help="Seconds instead of ten minutes; stamped as non-compliant.")] = False,
) -> None:
    """Measure model files in the manner of MLPerf Inference, with its LoadGen and its rules for ResNet50: an MLPerf-style measurement."""
    from ..profiling._mlperf import bench as run

    found = run(models, scenario=scenario, backend=backend, out=out, short=short, target_qps=target_qps)
    first = found[0]
    table = Table("model", f"{first.what} ({first.unit})", "speed-up", "LoadGen", "queries", title=f"{scenario} on {first.device.name}")
    for model in found:
        verdict = model.verdict + (f": {model.reason}" if model.reason else "")
        table.add_row(model.model, f"{model.figure:.4g}", f"{model.speedup(first):.2f}", verdict, str(model.queries))
    console.print(table)
    console.print(f"{first.stamp}. Logs: {out}", highlight=False, soft_wrap=True)
