"""The whole road once: profile, train, fit, search, export, and check on the device.

    python examples/demo.py                                   digits made harder: a few minutes on 2 cores
    python examples/demo.py --data cifar10 DIR                CIFAR-10; DIR holds cifar-10-batches-py

Stop it whenever you like: run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from harder_digits import sources
from rich import box
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch.nn import ArrayData, Quantization, Sampling, SupernetVerifier, load_data, resize
from hwsearch.reports import Compared, front_figure, independent_images, paired_gain, write_report

SPACES = {"digits": "resnet_digits", "cifar10": "resnet_cifar"}
RECIPES: dict[str, dict[str, object]] = {"digits": {"like": "digits", "epochs": 3, "random_networks": 1}, "cifar10": {}}
NAMES = ("dense", "uniform", "scaled", "searched")
"""The largest network; uniform widths at full depth and resolution; uniform widths at whatever depth and resolution suit them best; and the
one that the search found."""
SHARE = 0.6
"""The networks to compare with are chosen at this share of the latency that the dense network has at its fastest precision."""
MARGIN = 0.98
"""The search keeps this share of what the uniform-width network was measured to take, since measurements differ by a per cent or two."""


@dataclass(frozen=True)
class Task:
    """What one run of the demonstration is about.

    Attributes:
        space: where to search.
        data: the images.
        source: where every process finds them.
        sources: what each test image was made of, shape ``(n,)``: images of one source are not independent.
        recipe: how to train.
        samples: sub-networks that the predictor learns from.
        seed: of everything random.
        out: the folder of what is made.
    """

    space: hwsearch.SearchSpace
    data: ArrayData
    source: tuple[str, str]
    sources: npt.NDArray[np.int64]
    recipe: dict[str, object]
    samples: int
    seed: int
    out: Path

    @classmethod
    def of(cls, name: str, folder: Path | None, *, epochs: int | None, samples: int, seed: int, out: Path) -> Task:
        """The task of a name: ``"digits"`` or ``"cifar10"``."""
        source = (f"{Path(__file__).with_name('harder_digits.py')}:harder_digits", str(seed)) if name == "digits" else (name, str(folder))
        data = load_data(source)
        assert isinstance(data, ArrayData)
        made_of = sources("test") if name == "digits" else np.arange(len(data.test_y))
        recipe = {**RECIPES[name], **({} if epochs is None else {"epochs": epochs})}
        return cls(hwsearch.load_space(SPACES[name]), data, source, made_of, recipe, samples, seed, out)


@dataclass(frozen=True)
class Found:
    """What a run found.

    Attributes:
        networks, files: as :data:`NAMES` says, and their exported files.
        limit: of the search, ms.
        result: of the search.
        measured: latencies of the files, measured in turns.
    """

    networks: tuple[hwsearch.Architecture, ...]
    files: tuple[Path, ...]
    limit: float
    result: hwsearch.SearchResult
    measured: Sequence[hwsearch.profiling.Measurement]


def arguments() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(description="Find, export and measure a fast network for this CPU.")
    parser.add_argument("--data", choices=sorted(SPACES), default="digits", help="the images (default: digits)")
    parser.add_argument("folder", nargs="?", type=Path, help="the folder that holds cifar-10-batches-py, for --data cifar10")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: a good number for the data)")
    parser.add_argument("--samples", type=int, default=200, help="sub-networks that the predictor learns from (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random, the digits included (default: 0)")
    parser.add_argument("--out", type=Path, help="the folder of what is made (default: demo-output/DATA)")
    options = parser.parse_args()
    if options.data == "cifar10" and options.folder is None:
        parser.error("--data cifar10 needs the folder of the images: --data cifar10 DIR")
    return options


def train_and_fit(task: Task, device: hwsearch.devices.Device, console: Console) -> tuple[Path, hwsearch.Predictor]:
    """Train the supernet and fit its accuracy predictor, with int8 as this CPU computes it."""
    console.rule("2  train: one supernet, all sub-networks")
    weights = task.out / "supernet.safetensors"
    hwsearch.train(task.space, data=task.data, out=weights, recipe=task.recipe, seed=task.seed)
    console.rule("3  predict: accuracy of any sub-network, at its precisions")
    sampling = Sampling(networks=task.samples, images=3000, quantization=Quantization().on(device))
    predictor = hwsearch.fit_predictor(
        task.space,
        weights=weights,
        data=task.source,
        out=task.out / "predictor.npz",
        sampling=sampling,
        seed=task.seed,
        executor=partial(ProcessPoolExecutor, 2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)),
    )
    console.print(str(predictor.report), highlight=False)
    return weights, predictor


def search(task: Task, table: hwsearch.LatencyTable, weights: Path, predictor: hwsearch.Predictor, console: Console) -> Found:
    """Choose the best uniform width, search within its measured latency, and measure the exported files in turns.

    Where the searched network measures slower than the uniform one all the same, the limit is tightened and the search goes on.
    """
    console.rule("4  search: architecture, widths and bit-widths together")
    dense = hwsearch.searching.dense(task.space)
    fastest = min(table.predict(hwsearch.searching.dense(task.space, precision).blocks()) for precision in table.precisions)
    problem = hwsearch.Problem.of(task.space, limits={"latency_ms": SHARE * fastest}, device=table, predictor=predictor)
    others = (dense, hwsearch.searching.uniform(problem), hwsearch.searching.scaled(problem))
    files = tuple(task.out / f"{name}.onnx" for name in NAMES)
    for network, file in zip(others, files, strict=False):
        hwsearch.export(network, weights=weights, out=file)
    tighter = MARGIN * hwsearch.measure(files[:2], rounds=40, table=table)[1].latency_ms
    for _ in range(3):
        limit = tighter
        console.print(f"the limit is {MARGIN:.0%} of what the best uniform-width network takes: {limit:.4f} ms", highlight=False)
        result = hwsearch.search(
            task.space,
            device=table,
            predictor=predictor,
            limits={"latency_ms": limit},
            seed=task.seed,
            verify=hwsearch.Verify(SupernetVerifier(weights, task.data), networks=12),
            run=hwsearch.Run(state=task.out / "search", progress=True),
        )
        hwsearch.export(result.best, weights=weights, out=files[-1])
        measured = hwsearch.measure(files, rounds=40, table=table)
        if measured[-1].latency_ms <= measured[1].latency_ms:
            break
        tighter = limit * MARGIN * measured[1].latency_ms / measured[-1].latency_ms
    result.save(task.out / "result.json")
    return Found((*others, result.best), files, limit, result, measured)


def right(model: Path, network: hwsearch.Architecture, data: ArrayData) -> npt.NDArray[np.bool_]:
    """Which test images a model file gets right in ONNX Runtime, shape ``(n,)``."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = resize(data.normalize(data.test_x), int(network.values()["resolution"])).contiguous().numpy()
    guesses = [int(np.argmax(session.run(None, {"input": image[None]})[0])) for image in images]
    return np.asarray(np.array(guesses) == data.test_y.numpy())


def compare(task: Task, table: hwsearch.LatencyTable, found: Found) -> tuple[list[Compared], list[tuple[float, float]]]:
    """The networks beside each other, and the searched one's gain over each of the others on the same images with its standard error."""
    hits = [right(file, network, task.data) for file, network in zip(found.files, found.networks, strict=True)]
    rows = [
        Compared(
            name=name,
            accuracy=float(hit.mean()),
            predicted_ms=table.predict(network.blocks()),
            measured_ms=timed.latency_ms,
            spread_ms=timed.spread_ms,
            macs=sum(block.macs for block in network.blocks()),
            params=sum(block.params for block in network.blocks()),
            size_bytes=os.path.getsize(file),
            images=independent_images(hit, task.sources),
        )
        for name, hit, network, file, timed in zip(NAMES, hits, found.networks, found.files, found.measured, strict=True)
    ]
    return rows, [paired_gain(hits[-1], other, task.sources) for other in hits[:-1]]


def caveats(result: hwsearch.SearchResult, limit: float, rows: Sequence[Compared], gains: Sequence[tuple[float, float]]) -> list[str]:
    """What is to be known of the figures: luck in what was chosen, a limit that was missed, and whether a gain is beyond its noise."""
    *others, searched = rows
    said = [
        f"The searched network was chosen for its accuracy on the validation images, {result.best_score:.2%}; on the test images, which "
        f"chose nothing, it has {searched.accuracy:.2%}. The best of many is partly lucky, so the second is the one to believe."
    ]
    if searched.measured_ms > limit:
        over = searched.measured_ms / limit - 1
        noise = ", which its spread explains" if searched.measured_ms - searched.spread_ms <= limit else ""
        said.append(f"It misses the limit of {limit:.4f} ms by {over:.1%}{noise}.")
    for other, gain in list(zip(others, gains, strict=True))[1:]:
        points, error = 100 * gain[0], 100 * 1.96 * gain[1]
        verdict = "ahead" if points > error else "behind" if points < -error else "neither ahead nor behind beyond the noise"
        time = searched.measured_ms / other.measured_ms
        said.append(
            f"Searched against {other.name} on the same test images: {points:+.2f} points (95 % interval {points - error:+.2f} to "
            f"{points + error:+.2f}), {verdict}, at {time:.1%} of its measured latency."
        )
    return said


def main() -> None:
    """Go the whole road."""
    options = arguments()
    console = Console()
    if options.data == "digits":
        torch.set_num_threads(1)  # networks this small only make threads wait for each other
    out = options.out or Path("demo-output") / options.data
    task = Task.of(options.data, options.folder, epochs=options.epochs, samples=options.samples, seed=options.seed, out=out)
    console.print(f"[bold]{task.space!r} on this CPU, with {task.data.name}[/bold]; everything is kept in {out}")
    console.rule("1  profile: what every block costs on this CPU")
    table = hwsearch.profile(task.space, backend="onnxruntime", out=out / "latency_table.json", seed=task.seed)
    console.print(table)
    weights, predictor = train_and_fit(task, table.device, console)
    found = search(task, table, weights, predictor, console)
    console.print(found.result, highlight=False)
    verified = found.result.verification.networks if found.result.verification else ()
    console.print(
        f"{found.result.status.value} {len(verified)} networks were evaluated on validation images and measured.", highlight=False
    )
    console.print(str(found.result.best), highlight=False)

    console.rule("5  check: the exported files, run and measured in ONNX Runtime")
    rows, gains = compare(task, table, found)
    images, digits = len(task.sources), len(np.unique(task.sources))
    made_of = "" if images == digits else f" made of {digits:,} digits"
    console.print(f"[bold]{task.data.name} on {table.device.name}[/bold], {images:,} test images{made_of}, accuracy with its 95 % interval")
    shown = Table(box=box.SIMPLE_HEAD)
    for title in rows[0].cells():
        shown.add_column(title, justify="left" if title == "network" else "right")
    for one in rows:
        shown.add_row(*one.cells().values())
    console.print(shown)
    for sentence in caveats(found.result, found.limit, rows, gains):
        console.print(sentence, highlight=False)
    front_figure(found.result, rows).savefig(out / "front.png")
    console.print(f"The report, with pictures: {write_report(found.result, table, rows, out / 'report.html')}")


if __name__ == "__main__":
    try:
        main()
    except hwsearch.HwsearchError as error:
        sys.exit(f"{type(error).__name__}: {error}")
