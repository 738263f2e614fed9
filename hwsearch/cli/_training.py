"""Commands that train and deliver: train, fit-predictor, export, finish."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..reports import _terminal
from ..reports._formats import describe, find_architecture
from ._app import app, console
from ._options import BackendName, Bits, Changes, Coded, DataDir, DataName, Epochs, Found, Quiet, Seed, Space, Weights, given, settings
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
    changes: Changes = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train the once-for-all supernet of SPACE. A stopped run continues from its last step."""
    from ..nn.training._train import train as run

    recipe = settings(changes) | given(epochs=epochs, batch=batch)
    run(space, data=images(data, data_dir), out=out, recipe=recipe, seed=seed, progress=not quiet)
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
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit the accuracy predictor of SPACE on sub-networks of its supernet, evaluated at their precisions.

    The networks of a folder of hwsearch adopt are cut and repaired instead; they need no supernet and no samples.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from ..algorithms._problem import find_table
    from ..nn._fit import Sampling
    from ..nn._fit import fit_predictor as run
    from ..nn.quantization._quantize import STANDARD
    from ..spaces._load import load_space

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
        Path | None, typer.Option("--weights", "-w", help="The supernet to inherit from; from scratch if omitted.", show_default=False)
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", "-t", help="Weights whose largest network teaches besides the labels.", show_default=False)
    ] = None,
    epochs: Epochs = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images a step.", show_default=False)] = None,
    tuning: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning at its precisions.")] = 1,
    backend: BackendName = "onnxruntime",
    changes: Changes = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a network alone, quantise, export and measure it. A stopped run continues from its last step."""
    from ..nn._finish import Deployment
    from ..nn._finish import finish as run

    run(
        find_architecture(architecture),
        data=images(data, data_dir),
        out=out,
        weights=weights,
        recipe=settings(changes) | given(epochs=epochs, batch=batch, teacher=teacher),
        deployment=Deployment(backend=backend, tuning=tuning),
        seed=seed,
        progress=not quiet,
    )
    console.print(describe(out / "finished.json"))
