"""ResNet50, compressed for this CPU the MLPerf way: table, search, training, int8, export, and the measured speed-up.

    python examples/resnet50_mlperf.py IMAGENET --predictor resnet50_acc_predictor.pth
    python examples/resnet50_mlperf.py --toy            the same road with a small network and scanned digits, in minutes

IMAGENET is a folder of images with the subfolders train and val. The predictor is Once-for-All's published one of ResNet-50; the scores
that it gives are predictions, and no network of this recipe has an accuracy before it is trained. Start it under torchrun to train on
several GPUs. Stop it whenever you like: run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch.backends import differences, load_backend
from hwsearch.errors import MissingDependency
from hwsearch.nn import Deployment
from hwsearch.searching import quantized_in_place, revert_slower

console = Console()


def arguments() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(description="Compress ResNet50 for this CPU.")
    parser.add_argument("images", nargs="?", type=Path, help="the folder of ImageNet")
    parser.add_argument("--predictor", type=Path, help="Once-for-All's resnet50_acc_predictor.pth")
    parser.add_argument("--toy", action="store_true", help="resnet_digits on scikit-learn's digits instead")
    parser.add_argument("--backend", default="onnxruntime", help="onnxruntime or openvino (default: onnxruntime)")
    parser.add_argument("--macs", type=float, default=0.403, help="of the dense network's (default: 0.403, which is 1.648 GMACs)")
    parser.add_argument("--params", type=float, default=0.442, help="of the dense network's (default: 0.442, which is 11.3 million)")
    parser.add_argument("--budget", default=None, help="how long to measure for the table (default: 20m)")
    parser.add_argument("--epochs", type=int, help="of training the dense and the compressed network")
    parser.add_argument("--out", type=Path, default=Path("resnet50-output"), help="the folder of what is made")
    parser.add_argument("--full-length", action="store_true", help="let LoadGen run for MLPerf's ten minutes a network")
    options = parser.parse_args()
    if not options.toy and (options.images is None or options.predictor is None):
        parser.error("name the folder of ImageNet and --predictor, or try it with --toy")
    return options


def score_of(space: hwsearch.SearchSpace, options: argparse.Namespace) -> Callable[[np.ndarray], np.ndarray]:
    """What tells better networks from worse ones before any is trained."""
    if not options.toy:
        return hwsearch.interop.ofa_resnet50_score(options.predictor, space, reach=0.05)
    params = hwsearch.metric("params", space)

    def stand_in(X: np.ndarray) -> np.ndarray:
        """More parameters, better network: enough to walk the road, and no more."""
        return np.log(params(X))

    return stand_in


def show_compression(found: hwsearch.searching.Compression) -> None:
    """The dense network, what people do without a table, and what was searched."""
    table = Table("network", "GMACs", "params (M)", "score", "latency (ms)", "MAC ratio", "speed-up", "a MAC ratio", box=box.SIMPLE)
    for row in found.rows():
        numbers = [f"{row['macs'] / 1e9:.4g}", f"{row['params'] / 1e6:.4g}", f"{row['score']:.4f}", f"{row['latency_ms']:.3f}"]
        ratios = [f"{row[name]:.2f}" for name in ("mac_ratio", "speedup", "speedup_per_mac_ratio")]
        table.add_row(row["name"], *numbers, *ratios)
    console.print(table)


def main() -> None:
    """Go the whole road."""
    options = arguments()
    out = options.out
    space = hwsearch.load_space("resnet_digits" if options.toy else "resnet50")
    data = "digits" if options.toy else ("imagefolder", options.images)
    epochs = options.epochs or (2 if options.toy else None)
    device = load_backend(options.backend)

    console.rule("1  what the blocks cost on this CPU")
    effort = hwsearch.profiling.Effort(budget=options.budget or ("20s" if options.toy else "20m"))
    table = hwsearch.profile(space, backend=device, out=out / "table.json", effort=effort)
    console.print(repr(table))

    console.rule("2  two stages, one joint search, and two baselines")
    targets = {"macs": options.macs, "params": options.params}
    found = hwsearch.compress(
        space, targets, device=table, predictor=score_of(space, options), run=hwsearch.Run(steps=20 if options.toy else None)
    ).measured()
    found.save(out)
    show_compression(found)
    winner, dense = found.best.architecture, found["dense"].architecture
    console.print(f"{found.best.name!r} goes on:\n{winner}")

    console.rule("3  is every int8 block faster than in fp32, where it stands?")
    checked = quantized_in_place(winner, backend=device, rounds=4 if options.toy else 20)
    for one in checked:
        verdict = "slower than fp32: reverted" if one.slower else "kept"
        console.print(f"{one.gene}: {one.quantized_ms:.3f} ms in int8, {one.float_ms:.3f} ms in fp32, {verdict}")
    winner = revert_slower(winner, checked)

    console.rule("4  trained from scratch, the dense network as its teacher; quantised, exported")
    recipe = {} if epochs is None else {"epochs": epochs}
    deployment = Deployment(backend=options.backend, tuning=0 if options.toy else 1)
    hwsearch.finish(dense, data=data, out=out / "dense", recipe=recipe, deployment=deployment)
    recipe["teacher"] = out / "dense" / "float.safetensors"
    finished = hwsearch.finish(winner, data=data, out=out / "compressed", recipe=recipe, deployment=deployment)
    console.print(repr(finished))
    models = [out / "dense" / "best.onnx", out / "compressed" / "best.onnx"]
    for model, architecture in zip(models, (dense, winner), strict=True):
        lost = differences(model, architecture.blocks())
        console.print(f"{model}: {lost or 'every width and precision is in the file'}")
        if lost:
            raise SystemExit("The export lost a decision.")

    console.rule("5  measured")
    whole, small = hwsearch.measure(models, backend=device, rounds=6 if options.toy else 20)
    console.print(
        f"{whole.latency_ms:.3f} ms dense, {small.latency_ms:.3f} ms compressed: {whole.latency_ms / small.latency_ms:.2f} times as fast"
    )
    try:
        for scenario in ("SingleStream", "Offline"):
            benched = hwsearch.bench(models, scenario=scenario, backend=device, out=out / "bench", short=not options.full_length)
            for bench in benched:
                console.print(f"{scenario}: {bench.model} {bench.figure:.4g} {bench.unit}, {bench.verdict} ({bench.stamp})")
    except MissingDependency as error:
        console.print(f"No run of LoadGen: {error}")


if __name__ == "__main__":
    main()
