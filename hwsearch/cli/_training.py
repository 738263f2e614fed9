"""Commands that train and deliver: train, proxyless, fit-predictor, export, finish."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._files._writing import check_writable
from ..errors import InvalidInput
from ..reports._formats import describe, find_architecture, is_network
from ._adopting import found_in
from ._app import app, console
from ._options import (
    BackendName,
    Bits,
    Changes,
    Channels,
    Classes,
    Coded,
    DataDir,
    DataName,
    Device,
    Epochs,
    Found,
    LogFile,
    OwnFolder,
    OwnPrecision,
    Quiet,
    Seed,
    Space,
    Weights,
    given,
    named,
    settings,
    watched,
)
from ._options import data as images
from ._options import precision as one_precision

if TYPE_CHECKING:
    from ..spaces._space import Architecture

Samples = Annotated[int, typer.Option(min=10, help="Sub-networks to evaluate at their precisions.")]
Floating = Annotated[
    int, typer.Option(min=0, help="Sub-networks to evaluate in floating point first: cheaper, and then --samples can be fewer.")
]
TuningSteps = Annotated[int, typer.Option(min=0, help="Steps of fine-tuning that each network at its precisions gets first; 60 or more.")]
CarriedBy = Annotated[
    Path | None,
    typer.Option("--device", "-d", help="The latency table of the device: int8 weights as it carries them.", show_default=False),
]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; from the second on, evaluate the networks that the predictor is unsure of.")]


@app.command(epilog="Example: hwsearch train resnet_cifar --data cifar10 ~/data --out supernet.safetensors --epochs 40")
def train(
    space: Space,
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The supernet to write, or to go on training.")] = Path("supernet.safetensors"),
    data: DataName = "digits",
    epochs: Epochs = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step.", show_default=False)] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", help="Begin with a supernet, or with torchvision:NAME.", show_default="random weights")
    ] = None,
    changes: Changes = None,
    log: LogFile = None,
    classes: Classes = None,
    channels: Channels = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train the once-for-all supernet of SPACE. A stopped run continues from its last step."""
    from ..nn.training._train import train as run

    space = named(space, classes, channels)
    recipe = settings(changes) | given(epochs=epochs, batch=batch)
    start = _known(weights, space)
    run(space, data=images(data, data_dir), out=out, recipe=recipe, weights=start, seed=seed, progress=watched(log, quiet))
    console.print(describe(out))


@app.command(epilog="Example: hwsearch proxyless resnet_cifar ~/data --data cifar10 --device table.json --architecture best.json")
def proxyless(
    space: Space,
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The weights to write, or to go on training.")] = Path("paths.safetensors"),
    architecture: Annotated[Path, typer.Option("--architecture", help="Where the network that is found goes.")] = Path("best.json"),
    data: DataName = "digits",
    device: Device = None,
    cost: Annotated[str, typer.Option(help="What counts beside the loss.", show_default="latency_ms with --device, or else macs")] = "",
    factor: Annotated[float, typer.Option(min=0, help="The weight of the expected cost, relative to --target, in the loss.")] = 0.1,
    target: Annotated[float | None, typer.Option(help="What the cost should be.", show_default="the middle of the space")] = None,
    reward: Annotated[bool, typer.Option("--reward", help="A reward of accuracy and cost, by REINFORCE, instead.")] = False,
    epochs: Epochs = None,
    changes: Changes = None,
    classes: Classes = None,
    channels: Channels = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Search SPACE by training, as ProxylessNAS does: weights and architecture in turn. A stopped run continues."""
    from ..costs._metrics import metric
    from ..nn._proxyless import Tradeoff
    from ..nn._proxyless import proxyless as run
    from ..spaces._load import load_space

    if architecture.resolve() == out.resolve():
        raise InvalidInput(f"--architecture and --out both name {out}: the weights and the network need a file each.")
    check_writable(architecture)
    networks = load_space(named(space, classes, channels))
    found = run(
        networks,
        data=images(data, data_dir),
        out=out,
        cost=metric(cost or ("macs" if device is None else "latency_ms"), networks, device),
        recipe=settings(changes) | given(epochs=epochs),
        tradeoff=Tradeoff(factor=factor, target=target, reward=reward),
        seed=seed,
        progress=not quiet,
    )
    found.best.to_json(architecture)
    console.print(f"{found.best}\nWritten to {architecture}; its weights, which others share, to {out}.", markup=False, highlight=False)


@app.command(epilog="Example: hwsearch fit-predictor resnet_cifar --weights supernet.safetensors --data cifar10 ~/data --out predictor.npz")
def fit_predictor(
    ctx: typer.Context,
    space: Space,
    data_dir: DataDir = None,
    weights: Weights = Path("supernet.safetensors"),
    out: Annotated[Path, typer.Option("--out", "-o", help="The predictor to write.")] = Path("predictor.npz"),
    data: DataName = "digits",
    samples: Samples = 300,
    floating: Floating = 0,
    tuning: TuningSteps = 0,
    device: CarriedBy = None,
    rounds: Rounds = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that evaluate.")] = 1,
    classes: Classes = None,
    channels: Channels = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit the accuracy predictor of SPACE on sub-networks of its supernet, evaluated at their precisions.

    The networks of a folder of hwsearch adopt are cut and repaired instead; they need no supernet and no samples.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from ..algorithms._parts import find_table
    from ..nn._fit import Sampling
    from ..nn._fit import fit_predictor as run
    from ..nn.quantization._quantize import STANDARD
    from ..spaces._load import load_space

    space = named(space, classes, channels)
    where, networks = images(data, data_dir), load_space(space)
    if networks.learns_alone:
        _refuse_given(ctx, networks.name, ("weights", "samples", "floating", "tuning", "device", "rounds", "workers"))
        run(networks, data=where, out=out, seed=seed, progress=not quiet)
        console.print(describe(out, networks))
        return
    pool = partial(ProcessPoolExecutor, workers, mp_context=multiprocessing.get_context("spawn")) if workers > 1 else None
    quantization = STANDARD if device is None else STANDARD.on(find_table(device).device)
    sampling = Sampling(networks=samples, floating=floating, tuning=tuning, rounds=rounds, quantization=quantization)
    run(networks, weights=weights, data=where, out=out, sampling=sampling, seed=seed, executor=pool, progress=not quiet)
    console.print(describe(out))


def _refuse_given(ctx: typer.Context, name: str, options: Iterable[str]) -> None:
    """Refuse options that were written on the command line, but are for supernets.

    Raises:
        InvalidInput: one was.
    """
    written = [each for each in options if str(getattr(ctx.get_parameter_source(each), "name", "")) == "COMMANDLINE"]
    if written:
        told = ", ".join(f"--{each}" for each in written)
        raise InvalidInput(f"{told}: for supernets only. {name!r} is a network of your own, which is cut and repaired; leave it out.")


@app.command(epilog="Example: hwsearch export result.json --weights supernet.safetensors --out best.onnx")
def export(
    architecture: Found,
    data_dir: DataDir = None,
    weights: Weights = Path("supernet.safetensors"),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The model file or engine to write.", show_default="best.onnx, or best.npz")
    ] = None,
    space: OwnFolder = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Of a network of your own: images to repair and calibrate on.", show_default=False)
    ] = None,
    backend: BackendName = "onnxruntime",
    precision: OwnPrecision = None,
    batch: Annotated[
        str | None, typer.Option(help="Images at once, or open for any number; 1 if omitted.", metavar="N|open", show_default=False)
    ] = None,
    coded: Coded = False,
    bits: Bits = None,
) -> None:
    """Write a network as a model file or an engine.

    Networks of a supernet are calibrated on the training images that it carries. A network of your own is what hwsearch extract or finish
    wrote, or a search result with --space, which is extracted and repaired first; --data is needed for int8.
    """
    from ..nn._export import export as run

    own = _own(architecture, space)
    if coded and own is None:
        from ..nn.quantization._coded import save_coded

        path = out or Path("best.npz")
        save_coded(find_architecture(architecture), weights=weights, out=path, bits=bits)
        console.print(describe(path))
        return
    out = out or Path("best.onnx")
    number: Any = int(batch) if batch is not None and batch.isdigit() else batch
    chosen = one_precision(precision)
    if own is None:
        path = run(find_architecture(architecture), weights=weights, out=out, backend=backend, precision=chosen, batch=number)
    else:
        if coded:
            raise InvalidInput("--coded writes networks of a supernet; leave it out for a network of your own.")
        where = None if data is None else images(data, data_dir)
        path = run(_extracted(own, where), out=out, backend=backend, data=where, precision=chosen, batch=number)
    console.print(f"{path}: {Path(path).stat().st_size:,} bytes", highlight=False)


def _own(path: Path, space: Path | None) -> Path | Architecture | None:
    """A network of the user's: its file, or its architecture in the folder ``space``; ``None`` for one of a supernet."""
    if path.suffix == ".safetensors" and is_network(path):
        if space is not None:
            raise InvalidInput(f"{path} brings its network along: leave out --space.")
        return path
    return None if space is None else found_in(space, path)


def _extracted(own: Path | Architecture, data: Any) -> Any:
    """The network of the user's as a torch module."""
    from ..nn.adoption._extract import extract
    from ..nn.adoption._files import load_network

    return load_network(own) if isinstance(own, Path) else extract(own, data=data)


@app.command(epilog="Example: hwsearch finish result.json ~/imagenet --data imagefolder --weights supernet.safetensors --out finished")
def finish(
    architecture: Found,
    data_dir: DataDir = None,
    data: DataName = "digits",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write, or to go on in.")] = Path("finished"),
    space: OwnFolder = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            "-w",
            help="A supernet to inherit from, or torchvision:NAME; or what hwsearch extract wrote.",
            show_default="from scratch, or extracted",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher",
            "-t",
            help="Weights whose largest network teaches besides the labels; of a network of your own its file or folder.",
            show_default="none, or the whole network of --space",
        ),
    ] = None,
    epochs: Epochs = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images a step.", show_default=False)] = None,
    tuning: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning at its precisions.")] = 1,
    backend: BackendName = "onnxruntime",
    precision: OwnPrecision = None,
    changes: Changes = None,
    log: LogFile = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a network alone, quantise, export and measure it. A stopped run continues from its last step.

    A network of your own (a search result with --space, or the file of hwsearch extract with --teacher) learns from the whole network,
    and from the labels; --set distill=1 leaves labels out.
    """
    from ..nn._finish import Deployment
    from ..nn._finish import finish as run

    network = _own(architecture, space) or find_architecture(architecture)
    run(
        network,
        data=images(data, data_dir),
        out=out,
        weights=weights if isinstance(network, Path) else _known(weights, network.space),
        recipe=settings(changes) | given(epochs=epochs, batch=batch, teacher=teacher),
        deployment=Deployment(backend=backend, tuning=tuning, precision=one_precision(precision)),
        seed=seed,
        progress=watched(log, quiet),
    )
    console.print(describe(out / "finished.json"))


def _known(weights: Path | None, space: Any) -> Any:
    """Weights to begin with: the file of a supernet, or a trained network of torchvision that is the largest of the space."""
    if weights is None or not str(weights).startswith("torchvision:"):
        return weights
    from ..nn.published._dense import pretrained

    return pretrained(space, str(weights))
