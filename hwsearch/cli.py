"""The command line: each command is one verb of the library, and every one can be stopped and run again."""

from __future__ import annotations

import io
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from . import _registry
from .errors import HwsearchError, InvalidInput, InvalidLimit
from .reports import _terminal

if TYPE_CHECKING:
    from .spaces._genes import Value
    from .spaces._space import SearchSpace

console = Console()
_complaints = Console(stderr=True)


class _Commands(TyperGroup):
    """Commands whose known errors end as one clear message and exit code 1, not as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HwsearchError as error:
            _complaints.print(f"{type(error).__name__}: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            _complaints.print("Stopped. Run the same command again: it goes on where it can (search: with --state).", style="yellow")
            raise typer.Exit(130) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError) or error.filename is not None:
                raise
            _complaints.print(f"Cannot write to standard output: {error.strerror or error}.", style="bold red", markup=False)
            os._exit(1)  # what is left in its buffer would fail again


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Finds the fastest network that is still accurate enough for one given device.",
    epilog="Example: hwsearch profile resnet_digits --out latency_tables/my-cpu.json",
)

Space = Annotated[str, typer.Argument(help="The search space, such as resnet_cifar; see: hwsearch devices.")]
DataDir = Annotated[Path | None, typer.Argument(help="The folder of the images, where --data needs one.", show_default=False)]
DataName = Annotated[
    str, typer.Option("--data", help="The images: digits (comes with scikit-learn), cifar10 or imagefolder with a folder; or a folder.")
]
BackendName = Annotated[str, typer.Option("--backend", help="The runtime; see: hwsearch devices.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal answers.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="How it is trained: NAME=VALUE, such as amp=bf16 or phases=progressive.", show_default=False),
]
Coded = Annotated[bool, typer.Option("--coded", help="The smallest file instead: weights that share a few values, Huffman-coded.")]
Bits = Annotated[int | None, typer.Option(help="Of coded weights, 2 to 8.", show_default="as their precisions have it")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


@app.command(epilog="Example: hwsearch profile resnet_cifar --backend onnxruntime --out latency_tables/my-cpu.json")
def profile(
    space: Space,
    out: Annotated[
        Path | None, typer.Option("--out", "--table", "-o", help="The latency table to write, or to complete.", show_default=False)
    ] = None,
    backend: BackendName = "onnxruntime",
    precision: Annotated[float | None, typer.Option(help="Stop measuring a block at this relative precision.", show_default=False)] = None,
    max_rounds: Annotated[int | None, typer.Option(help="Stop measuring a block after this many rounds.", show_default=False)] = None,
    checks: Annotated[int | None, typer.Option(help="Whole networks that check the table, at least 12.", show_default=False)] = None,
    budget: Annotated[
        str | None, typer.Option(help="Measure a sample for so long at most, such as 20m, and estimate the rest.", show_default=False)
    ] = None,
    error: Annotated[
        float | None, typer.Option(help="Stop within the budget where networks are foretold so well, such as 0.01.", show_default=False)
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images at once; give several for a table each, {batch} in --out.", show_default="1")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="What the runtime is told: NAME=VALUE, such as threads=4.", show_default=False)
    ] = None,
    remote: Annotated[str | None, typer.Option(help="Measure on this board, over ssh: user@host.", show_default=False)] = None,
    python: Annotated[str, typer.Option(help="The Python of that board.")] = "python3",
    timeout: Annotated[
        float | None, typer.Option(help="Give that board up when it says nothing for so many seconds.", show_default="600")
    ] = None,
    emit: Annotated[Path | None, typer.Option(help="Write jobs for a board into this folder, instead.", show_default=False)] = None,
    collect: Annotated[Path | None, typer.Option(help="Make the table of what came back from it, instead.", show_default=False)] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Measure the blocks of SPACE on this machine or on a board, and how well their sums predict whole networks.

    Only what the table does not hold yet is measured, so a stopped run goes on where it was.
    """
    from .backends._load import load_backend

    options = _given(precision=precision, max_rounds=max_rounds, checks=checks)
    if sum(where is not None for where in (remote, emit, collect)) > 1:
        raise InvalidInput("Give one of --remote, --emit and --collect.")
    if (remote or emit or collect) and len(batch or ()) > 1:
        raise InvalidInput("Several batches are for this machine; leave out --remote, --emit and --collect.")
    if (emit or collect) and (budget is not None or error is not None):
        raise InvalidInput("A sample is chosen while it is measured, so --budget and --error need a board that --remote reaches.")
    told = _settings(settings or [])
    if batch and len(batch) == 1:
        told |= {"batch": batch[0]}
    if emit is not None:
        from .devices._table import load_table
        from .profiling.remote._jobs import emit as write

        known = load_table(out) if out is not None and os.path.exists(out) else None
        folder = write(space, emit, backend=load_backend(backend, **told), table=known, seed=seed, progress=not quiet, **options)
        console.print(_terminal.jobs(folder, space) if folder else f"{out} lacks nothing: no jobs to do.", highlight=False, soft_wrap=True)
        return
    if out is None:
        raise InvalidInput("Say where the table goes: --out TABLE.")
    if collect is not None:
        from .profiling.remote._jobs import collect as read

        table = read(space, collect, out=out)
    elif remote is not None:
        from .profiling.remote._ssh import profile_remote

        device = load_backend(backend, **told)
        options |= _given(budget=budget, error=error, timeout_s=timeout)
        table = profile_remote(space, remote, out=out, python=python, backend=device, seed=seed, progress=not quiet, **options)
    else:
        from .profiling._batches import profile_batches

        options |= _given(budget=budget, error=error)
        runtime = load_backend(backend, **told)
        tables = profile_batches(space, batch or (1,), backend=runtime, out=out, seed=seed, progress=not quiet, **options)
        for size, table in tables.items():
            console.print(_terminal.latency_table(table, str(out).replace("{batch}", str(size))))
        return
    console.print(_terminal.latency_table(table, out))


@app.command(epilog="Example: hwsearch train resnet_cifar --data cifar10 ~/data --out supernet.safetensors --epochs 40")
def train(
    space: Space,
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The supernet to write, or to go on training.")] = Path("supernet.safetensors"),
    data: DataName = "digits",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step.", show_default=False)] = None,
    changes: Changes = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train the once-for-all supernet of SPACE. A stopped run goes on from its last step."""
    from .nn.training._train import train as run

    options = _given(epochs=epochs, batch=batch)
    run(space, data=_data(data, data_dir), out=out, recipe=_settings(changes or []), seed=seed, progress=not quiet, **options)
    console.print(_terminal.file(out))


@app.command(epilog="Example: hwsearch fit-predictor resnet_cifar --weights supernet.safetensors --data cifar10 ~/data --out predictor.npz")
def fit_predictor(
    space: Space,
    data_dir: DataDir = None,
    weights: Annotated[Path, typer.Option("--weights", "-w", help="The trained supernet.")] = Path("supernet.safetensors"),
    out: Annotated[Path, typer.Option("--out", "-o", help="The predictor to write.")] = Path("predictor.npz"),
    data: DataName = "digits",
    samples: Annotated[int, typer.Option(min=10, help="Sub-networks to evaluate at their precisions.")] = 300,
    floating: Annotated[
        int, typer.Option(min=0, help="Sub-networks to evaluate in floating point first: cheaper, and then --samples can be fewer.")
    ] = 0,
    tuning: Annotated[
        int, typer.Option(min=0, help="Steps of fine-tuning that each network at its precisions gets first; 60 or more.")
    ] = 0,
    device: Annotated[
        Path | None,
        typer.Option("--device", "-d", help="The latency table of the device: int8 weights as it carries them.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="After the first of so many rounds, evaluate where the predictor is in doubt.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that evaluate.")] = 1,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit the accuracy predictor of SPACE on sub-networks of its supernet, evaluated at their precisions."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from .algorithms._problem import find_table
    from .nn._samples import fit_predictor as run
    from .nn.quantization._quantize import Quantization

    where = _data(data, data_dir)
    pool = partial(ProcessPoolExecutor, workers, mp_context=multiprocessing.get_context("spawn")) if workers > 1 else None
    how = None if device is None else Quantization().on(find_table(device).device)
    options: dict[str, Any] = {"samples": samples, "floating": floating, "tuning": tuning, "rounds": rounds, "seed": seed, "executor": pool}
    run(space, weights=weights, data=where, out=out, how=how, progress=not quiet, **options)
    console.print(_terminal.file(out))


@app.command(
    epilog="Example: hwsearch search resnet_cifar ~/data --device latency_tables/my-cpu.json --predictor predictor.npz"
    " --limit latency_ms=1.5 --limit size_mb=0.4 --verify 8 --weights supernet.safetensors --data cifar10 --out result.json"
)
def search(
    space: Space,
    data_dir: DataDir = None,
    predictor: Annotated[Path, typer.Option("--predictor", "-p", help="The accuracy predictor.")] = Path("predictor.npz"),
    device: Annotated[Path | None, typer.Option("--device", "-d", help="The latency table of the device.", show_default=False)] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", "-l", help="METRIC=NUMBER; give as many as needed.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The result to write.")] = Path("result.json"),
    algorithm: Annotated[str | None, typer.Option(help="How to search; see: hwsearch devices.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the algorithm.", show_default=False)] = None,
    verify: Annotated[
        int, typer.Option(min=0, help="Evaluate and measure so many of the best networks, learn, and search again until it agrees.")
    ] = 0,
    weights: Annotated[Path, typer.Option("--weights", "-w", help="The trained supernet, to verify scores in.")] = Path(
        "supernet.safetensors"
    ),
    data: DataName = "digits",
    tolerance: Annotated[
        list[str] | None,
        typer.Option(help="score=0.005, latency_ms=0.03: what is verified, and how closely it must agree.", show_default=False),
    ] = None,
    coded: Annotated[bool, typer.Option("--coded", help="size_mb is that of the coded file, by the codes of --weights.")] = False,
    bits: Bits = None,
    state: Annotated[
        Path | None, typer.Option(help="Where to keep the search while it runs, to go on after a stop.", show_default=False)
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Search SPACE for the most accurate network within the limits: architecture, channels and bit-widths together."""
    from .searching._run import Run
    from .searching._search import search as run

    metrics = []
    if coded:
        from .nn.quantization._coded import coded_size
        from .nn.supernet._supernet import Supernet

        metrics.append(coded_size(Supernet.load(weights, space), bits))
    result = run(
        space,
        algorithm,
        device=device,
        predictor=predictor,
        metrics=metrics,
        limits=_numbers("--limit", limit or [], "latency_ms=1.5"),
        seed=seed,
        verify=_verify(verify, tolerance, weights, _data(data, data_dir)),
        run=Run(steps=steps, state=state, progress=not quiet),
    )
    result.save(out)
    console.print(_terminal.file(out))


@app.command(
    epilog="Example: hwsearch compress resnet50 --device latency_tables/my-cpu.json --predictor resnet50_acc_predictor.pth"
    " --macs 0.40 --params 0.44 --out compressed"
)
def compress(
    space: Space,
    device: Annotated[Path, typer.Option("--device", "-d", help="The latency table of the device.")],
    predictor: Annotated[
        Path, typer.Option("--predictor", "-p", help="The accuracy predictor, or the published one of Once-for-All's ResNet-50 (.pth).")
    ] = Path("predictor.npz"),
    macs: Annotated[
        float | None, typer.Option(help="Most MACs: a fraction of the dense network's, or a count.", show_default=False)
    ] = None,
    params: Annotated[float | None, typer.Option(help="Most parameters, likewise.", show_default=False)] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Most milliseconds of the searched networks.", show_default=False)] = None,
    score: Annotated[
        float | None, typer.Option(help="Least score; that of the uniform-width network if left out.", show_default=False)
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="GENE=VALUE[,VALUE]: what stays; GENE may be a pattern.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the networks and their comparison.")] = Path("compressed"),
    precision: Annotated[str, typer.Option(help="Of every block.")] = "int8",
    edges: Annotated[bool, typer.Option("--edges", help="Search only widths at the edges of the device's stairs.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the networks too: this machine is the device.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each search.", show_default=False)] = None,
    seed: Seed = 0,
) -> None:
    """Make the largest network of SPACE smaller for one device, beside uniform widths and a search by MACs alone."""
    from .interop import ofa_resnet50_score
    from .searching._compress import compress as run
    from .searching._run import Run
    from .spaces._load import load_space

    where = load_space(space)
    targets = _given(macs=macs, params=params, latency_ms=latency_ms)
    found = run(
        where.restrict(_frozen(freeze, where)) if freeze else where,
        targets,
        device=device,
        predictor=ofa_resnet50_score(predictor, where, reach=0.05) if predictor.suffix == ".pth" else predictor,
        edges=edges,
        score=score,
        precision=precision,
        seed=seed,
        run=Run(steps=steps),
    )
    found = found.measured(seed=seed) if measure else found
    path = found.save(out)
    console.print(_terminal.compression(found))
    console.print(f"Written to {path.parent}. {found.best.name!r} is the network to train, and to export.", highlight=False, soft_wrap=True)


@app.command(epilog="Example: hwsearch export result.json --weights supernet.safetensors --out best.onnx")
def export(
    architecture: Annotated[Path, typer.Argument(help="A search result (its best network), or an architecture file.")],
    weights: Annotated[Path, typer.Option("--weights", "-w", help="The trained supernet.")] = Path("supernet.safetensors"),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The model file or engine to write.", show_default="best.onnx, or best.npz")
    ] = None,
    backend: BackendName = "onnxruntime",
    precision: Annotated[
        str | None, typer.Option(help="Of all blocks, such as fp16, instead of what was searched.", show_default=False)
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Images at once, or open for any number; 1 if omitted.", metavar="N|open", show_default=False)
    ] = None,
    coded: Coded = False,
    bits: Bits = None,
) -> None:
    """Write a network as a model file or an engine, calibrated on the training images that the supernet carries."""
    if coded:
        from .nn.quantization._coded import save_coded

        path = out or Path("best.npz")
        save_coded(_terminal.architecture(architecture), weights=weights, out=path, bits=bits)
        console.print(_terminal.file(path))
        return
    from .nn._export import export as run

    out = out or Path("best.onnx")
    number: Any = int(batch) if batch is not None and batch.isdigit() else batch
    path = run(_terminal.architecture(architecture), weights=weights, out=out, backend=backend, precision=precision, batch=number)
    console.print(f"{path}: {Path(path).stat().st_size:,} bytes", highlight=False)


@app.command(epilog="Example: hwsearch finish result.json --data ~/imagenet --weights supernet.safetensors --out finished")
def finish(
    architecture: Annotated[Path, typer.Argument(help="A search result (its best network), or an architecture file.")],
    data_dir: DataDir = None,
    data: DataName = "digits",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write, or to go on in.")] = Path("finished"),
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", help="The supernet to inherit from; from scratch without it.", show_default=False)
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", "-t", help="Weights whose largest network teaches besides the labels.", show_default=False)
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images a step.", show_default=False)] = None,
    tuning: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning at its precisions.")] = 1,
    backend: BackendName = "onnxruntime",
    changes: Changes = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a network alone, quantise, export and measure it. A stopped run goes on from its last step."""
    from .nn._finish import finish as run

    run(
        _terminal.architecture(architecture),
        data=_data(data, data_dir),
        out=out,
        weights=weights,
        teacher=teacher,
        recipe=_settings(changes or []),
        tuning=tuning,
        backend=backend,
        seed=seed,
        progress=not quiet,
        **_given(epochs=epochs, batch=batch),
    )
    console.print(_terminal.file(out / "finished.json"))


@app.command(epilog="Example: hwsearch measure best.onnx other.onnx --backend onnxruntime")
def measure(
    models: Annotated[list[Path], typer.Argument(help="Model files; several are measured in turns, so they can be compared.")],
    backend: BackendName = "onnxruntime",
    rounds: Annotated[int | None, typer.Option(min=2, help="Rounds, spread over time.", show_default=False)] = None,
) -> None:
    """Measure the latency of model files on this machine, by the protocol of the latency tables."""
    from .profiling._profile import measure_many

    measured = measure_many(models, backend=backend, **_given(rounds=rounds))
    table = Table("model", "latency (ms)", "spread (ms)", "rounds", title=f"on {measured[0].device.name}")
    for model, one in zip(models, measured, strict=True):
        table.add_row(str(model), f"{one.latency_ms:.4f}", f"{one.spread_ms:.4f}", str(one.rounds))
    console.print(table)


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
    from .profiling._mlperf import bench as run

    found = run(models, scenario=scenario, backend=backend, out=out, short=short, target_qps=target_qps)
    first = found[0]
    table = Table("model", f"{first.what} ({first.unit})", "speed-up", "LoadGen", "queries", title=f"{scenario} on {first.device.name}")
    for one in found:
        verdict = one.verdict + (f": {one.reason}" if one.reason else "")
        table.add_row(one.model, f"{one.figure:.4g}", f"{one.speedup(first):.2f}", verdict, str(one.queries))
    console.print(table)
    console.print(f"{first.stamp}. Logs: {out}", highlight=False, soft_wrap=True)


@app.command("import", epilog="Example: hwsearch import ofa-latency note10 --out latency_tables/note10.json")
def import_(
    kind: Annotated[str, typer.Argument(help="apq-table, ofa-architecture, ofa-latency, ofa-predictor or tfnas-table.")],
    file: Annotated[Path, typer.Argument(help="The foreign file, or the folder of files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    space: Annotated[str, typer.Option(help="The search space of a predictor or an architecture.")] = "ofa_mobilenetv3",
    resolution: Annotated[int | None, typer.Option(help="Input resolution of an architecture, px.", show_default=False)] = None,
) -> None:
    """Turn what other projects have measured, trained or found into files of hwsearch, and say what is wrong with it."""
    from . import interop

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", interop.ForeignDataWarning)
        interop.convert(kind, file, out, space=space, resolution=resolution)
    for warning in caught:
        _complaints.print(str(warning.message), style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(_terminal.file(out))


@app.command(epilog="Example: hwsearch show latency_tables/my-cpu.json")
def show(
    file: Annotated[Path, typer.Argument(help="A latency table, architecture, search result, predictor or supernet.")],
    plot: Annotated[
        Path | None, typer.Option(help="Of a latency table: draw its best measured staircase into this file.", show_default=False)
    ] = None,
) -> None:
    """Print any file of hwsearch in words."""
    console.print(_terminal.file(file))
    if plot is not None:
        from .devices._table import load_table
        from .reports._report import staircase_figure

        staircase_figure(load_table(file)).savefig(plot)
        console.print(f"{plot}: {plot.stat().st_size:,} bytes", highlight=False)


@app.command(epilog="Example: hwsearch devices --tables latency_tables")
def devices(tables: Annotated[Path, typer.Option(help="The folder of latency tables.")] = Path("latency_tables")) -> None:
    """List the backends, search spaces and algorithms that are here, and the devices that were profiled."""
    console.print(
        _terminal.backends(),
        _terminal.spaces(),
        f"algorithms: {', '.join(_registry.names('algorithm'))}",
        _terminal.tables(tables),
    )


def main() -> None:
    """Run the command line; the entry point of ``hwsearch``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show the name of a device shows the rest
    app()


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the library knows the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def _verify(networks: int, tolerance: list[str] | None, weights: Path, data: Any) -> Any:
    """What a search verifies: scores in the supernet and latencies on this machine, as far as the tolerance names them.

    Raises:
        InvalidInput: a tolerance is given, and no network is to be verified.
    """
    if not networks:
        if tolerance:
            raise InvalidInput("--tolerance needs --verify, the number of networks to verify a round.")
        return None
    from .searching.verify._verifier import DeviceVerifier, Verify

    close = _numbers("--tolerance", tolerance, "score=0.005") if tolerance else None
    if close is not None and "score" not in close:
        return Verify(DeviceVerifier(), networks, tolerance=close)
    from .nn._verifier import SupernetVerifier

    return Verify(SupernetVerifier(weights, data), networks, tolerance=close)


def _data(name: str, folder: Path | None) -> str | tuple[str, Path]:
    return name if folder is None else (name, folder)


def _frozen(texts: list[str], space: SearchSpace) -> dict[str, list[Value]]:
    """Read ``GENE=VALUE[,VALUE]`` texts; values are those of the genes that are written so.

    Raises:
        InvalidInput: a text of another form.
    """
    frozen: dict[str, list[Value]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals:
            raise InvalidInput(f"--freeze {text}: expected GENE=VALUE, such as stage1.depth=3.")
        wanted = values.split(",")
        frozen[name] = [value for choice in space.choices for value in choice.values if str(value) in wanted]
    return frozen


def _settings(texts: list[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts; values are numbers where they look like them.

    Raises:
        InvalidInput: a text of another form.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"--set {text}: expected NAME=VALUE, such as threads=4.")
        found[name] = next((kind(value) for kind in (int, float) if _is(kind, value)), {"true": True, "false": False}.get(value, value))
    return found


def _is(kind: type, text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _numbers(option: str, texts: list[str], example: str) -> dict[str, float]:
    """Read ``METRIC=NUMBER`` texts.

    Raises:
        InvalidLimit: a text of another form, or a number that is none.
        InvalidInput: a metric that is named twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not equals:
            raise InvalidLimit(f"{option} {text}: expected METRIC=NUMBER, such as {example}.")
        if name in found:
            raise InvalidInput(f"{option} {name} is given twice.")
        try:
            found[name] = float(number)
        except ValueError:
            raise InvalidLimit(f"{option} {text}: {number!r} is not a number.") from None
    return found


if __name__ == "__main__":
    main()
