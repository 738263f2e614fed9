"""Commands that train and deliver: train, fit-predictor, export, finish."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..reports import _terminal
from ..reports._formats import describe, find_architecture
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
    Epochs,
    Found,
    LogFile,
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


@app.command(epilog="Example: hwsearch fit-predictor resnet_cifar --weights supernet.safetensors --data cifar10 ~/data --out predictor.npz")
def fit_predictor(
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
        console.print(_terminal.predictor(run(networks, data=where, out=out, seed=seed, progress=not quiet), out))
        return
    pool = partial(ProcessPoolExecutor, workers, mp_context=multiprocessing.get_context("spawn")) if workers > 1 else None
    quantization = STANDARD if device is None else STANDARD.on(find_table(device).device)
    sampling = Sampling(networks=samples, floating=floating, tuning=tuning, rounds=rounds, quantization=quantization)
    run(networks, weights=weights, data=where, out=out, sampling=sampling, seed=seed, executor=pool, progress=not quiet)
    console.print(describe(out))


@app.command(epilog="Example: hwsearch export result.json --weights supernet.safetensors --out best.onnx")
def export(
    architecture: Found,
    weights: Weights = Path("supernet.safetensors"),
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
        from ..nn.quantization._coded import save_coded

        path = out or Path("best.npz")
        save_coded(find_architecture(architecture), weights=weights, out=path, bits=bits)
        console.print(describe(path))
        return
    from ..nn._export import export as run

    out = out or Path("best.onnx")
    number: Any = int(batch) if batch is not None and batch.isdigit() else batch
    path = run(find_architecture(architecture), weights=weights, out=out, backend=backend, precision=precision, batch=number)
    console.print(f"{path}: {Path(path).stat().st_size:,} bytes", highlight=False)


@app.command(epilog="Example: hwsearch finish result.json --data ~/imagenet --weights supernet.safetensors --out finished")
def finish(
    architecture: Found,
    data_dir: DataDir = None,
    data: DataName = "digits",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write, or to go on in.")] = Path("finished"),
    weights: Annotated[
        Path | None,
        typer.Option("--weights", "-w", help="A supernet to inherit from, or torchvision:NAME.", show_default="from scratch"),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", "-t", help="Weights whose largest network teaches besides the labels.", show_default=False)
    ] = None,
    epochs: Epochs = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images a step.", show_default=False)] = None,
    tuning: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning at its precisions.")] = 1,
    backend: BackendName = "onnxruntime",
    changes: Changes = None,
    log: LogFile = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a network alone, quantise, export and measure it. A stopped run continues from its last step."""
    from ..nn._finish import Deployment
    from ..nn._finish import finish as run

    network = find_architecture(architecture)
    run(
        network,
        data=images(data, data_dir),
        out=out,
        weights=_known(weights, network.space),
        recipe=settings(changes) | given(epochs=epochs, batch=batch, teacher=teacher),
        deployment=Deployment(backend=backend, tuning=tuning),
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
