"""The whole road once: profile, train, fit, search, export, and check on the device.

    python examples/demo.py                                   scikit-learn's digits: a few minutes on 2 cores
    python examples/demo.py --data cifar10 DIR                CIFAR-10; DIR holds cifar-10-batches-py

Stop it whenever you like: run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich import box
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch.nn import ArrayData, Quantization, Sampling, SupernetVerifier, load_data, resize
from hwsearch.reports import Compared, front_figure, write_report

SPACES = {"digits": "resnet_digits", "cifar10": "resnet_cifar"}


def arguments() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(description="Find, export and measure a fast network for this CPU.")
    parser.add_argument("--data", choices=sorted(SPACES), default="digits", help="the images (default: digits)")
    parser.add_argument("folder", nargs="?", type=Path, help="the folder that holds cifar-10-batches-py, for --data cifar10")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: a good number for the data)")
    parser.add_argument("--samples", type=int, default=300, help="sub-networks that the predictor learns from (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--out", type=Path, help="the folder of what is made (default: demo-output/DATA)")
    options = parser.parse_args()
    if options.data == "cifar10" and options.folder is None:
        parser.error("--data cifar10 needs the folder of the images: --data cifar10 DIR")
    return options


def accuracy(model: Path, resolution: int, data: ArrayData) -> float:
    """The share of test images that a model file gets right in ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = resize(data.normalize(data.test_x), resolution).contiguous().numpy()
    guesses = [int(np.argmax(session.run(None, {"input": image[None]})[0])) for image in images]
    return float(np.mean(np.array(guesses) == data.test_y.numpy()))


def caveats(result: hwsearch.SearchResult, limit: float, searched: Compared) -> list[str]:
    """What is to be known of the figures: how an accuracy that was chosen differs from one that was not, and a limit that was missed."""
    said = [
        f"The searched network was chosen for its accuracy on the validation images, {result.best_score:.2%}; on the test images, which "
        f"chose nothing, it has {searched.accuracy:.2%}. The best of many is partly lucky, so the second is the one to believe."
    ]
    if searched.measured_ms > limit:
        over = searched.measured_ms / limit - 1
        noise = ", which its spread explains" if searched.measured_ms - searched.spread_ms <= limit else ""
        said.append(f"It misses the limit of {limit:.4f} ms by {over:.1%}{noise}.")
    return said


def main() -> None:
    """Go the whole road."""
    options = arguments()
    console = Console()
    out = options.out or Path("demo-output") / options.data
    data = load_data(options.data, options.folder)
    assert isinstance(data, ArrayData)
    space = hwsearch.load_space(SPACES[options.data])
    if options.data == "digits":
        torch.set_num_threads(1)  # networks this small only make threads wait for each other
    weights, table_file, seed = out / "supernet.safetensors", out / "latency_table.json", options.seed
    console.print(f"[bold]{space!r} on this CPU, with {data.name}[/bold]; everything is kept in {out}")

    console.rule("1  profile: what every block costs on this CPU")
    table = hwsearch.profile(space, backend="onnxruntime", out=table_file, seed=seed)
    console.print(table)

    console.rule("2  train: one supernet, all sub-networks")
    recipe = {} if options.epochs is None else {"epochs": options.epochs}
    hwsearch.train(space, data=data, out=weights, recipe=recipe, seed=seed)

    console.rule("3  predict: accuracy of any sub-network, at its precisions")
    quantization = Quantization().on(table.device)  # int8 as this CPU computes it
    file, sampling = out / "predictor.npz", Sampling(networks=options.samples, quantization=quantization)
    predictor = hwsearch.fit_predictor(space, weights=weights, data=data, out=file, sampling=sampling, seed=seed)
    console.print(str(predictor.report), highlight=False)

    console.rule("4  search: architecture, widths and bit-widths together")
    dense = hwsearch.searching.dense(space)
    fastest = min(table.predict(hwsearch.searching.dense(space, precision).blocks()) for precision in table.precisions)
    uniform = hwsearch.searching.uniform(space, limits={"latency_ms": fastest / 3}, device=table, predictor=predictor)
    files = [out / f"{name}.onnx" for name in ("dense", "uniform", "searched")]
    for network, file in zip((dense, uniform), files, strict=False):
        hwsearch.export(network, weights=weights, out=file)
    limit = hwsearch.measure(files[:2], rounds=40, table=table)[1].latency_ms
    console.print(f"the limit is what the best uniform-width network takes at a third of the dense one's fastest latency: {limit:.4f} ms")
    result = hwsearch.search(
        space,
        device=table,
        predictor=predictor,
        limits={"latency_ms": limit},
        seed=seed,
        verify=hwsearch.Verify(SupernetVerifier(weights, data), networks=16),
        run=hwsearch.Run(progress=True),
    )
    result.save(out / "result.json")
    console.print(result, highlight=False)
    verified = result.verification.networks if result.verification else ()
    console.print(f"{result.status.value} {len(verified)} networks were evaluated on validation images and measured.", highlight=False)
    searched = result.best
    console.print(str(searched), highlight=False)
    hwsearch.export(searched, weights=weights, out=files[2])
    measured = hwsearch.measure(files, rounds=40, table=table)

    console.rule("5  check: the exported files, run and measured in ONNX Runtime")
    comparison = [
        Compared(
            name=file.stem,
            accuracy=accuracy(file, int(network.values()["resolution"]), data),
            predicted_ms=table.predict(network.blocks()),
            measured_ms=timed.latency_ms,
            spread_ms=timed.spread_ms,
            macs=sum(block.macs for block in network.blocks()),
            params=sum(block.params for block in network.blocks()),
            size_bytes=os.path.getsize(file),
            images=len(data.test_y),
        )
        for network, file, timed in zip((dense, uniform, searched), files, measured, strict=True)
    ]
    console.print(f"[bold]{data.name} on {table.device.name}[/bold], accuracy on {len(data.test_y):,} test images, with its 95 % interval")
    shown = Table(box=box.SIMPLE_HEAD)
    for title in comparison[0].cells():
        shown.add_column(title, justify="left" if title == "network" else "right")
    for one in comparison:
        shown.add_row(*one.cells().values())
    console.print(shown)
    for sentence in caveats(result, limit, comparison[2]):
        console.print(sentence, highlight=False)
    front_figure(result, comparison).savefig(out / "front.png")
    page = write_report(result, table, comparison, out / "report.html")
    console.print(f"The report, with pictures: {page}")


if __name__ == "__main__":
    try:
        main()
    except hwsearch.HwsearchError as error:
        sys.exit(f"{type(error).__name__}: {error}")
