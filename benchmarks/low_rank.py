"""Low rank beside channels, and both together, on trained networks, at equal measured latency and without training.

    python benchmarks/low_rank.py NETWORK FOLDER DATA --ways tucker spatial --limits 0.8 0.6 --out benchmark-output

NETWORK is one of:

- resnet56 (or resnet20): of CIFAR-10; FOLDER holds resnet56.npz, DATA the folder cifar-10-batches-py, as for ``adopt_cifar.py``. The
  convolutions of the residual blocks are written as products; all branches and the channels of residual sums stay, as there.
- vgg: six 3 x 3 convolutions of 32 to 128 channels and three linear layers, two of which have 2,048 units, as VGG ends. It is trained here
  first, EPOCHS times through CIFAR-10 from DATA, and kept in FOLDER. All layers are written as products.
- lite0: EfficientNet-Lite0 (``adopt_imagenet.py`` says which packages it needs); DATA is its folder of photographs, FOLDER is not looked
  at. Its 1 x 1 convolutions and the last layer are written as products (``--ways svd``).

Protocol, written down before its run. The network is adopted with its products, so that widths and ranks are genes of one space. One table
is measured of it by ONNX Runtime, one thread and batch 1. What is lost with each channel and with each rank is told by "reconstruction" on
SCORED training images without labels (128 of the photographs). The same search (memetic, one seed) looks at three parts of the space:
channels alone, ranks alone, and both, under the same limits of the latency that the table predicts, as shares of that of the whole network.
Each network that is found is repaired on REPAIRED training images (200 of the photographs) by least squares, judged on test images (5,000
of CIFAR-10, all photographs), and its file is measured, all in turns. With --by macs multiply-accumulates are limited, and no table is
measured. It goes on where it was stopped.

Trials with ResNet-20 by multiply-accumulates, ``tucker``, 0.7, came before and decided two things. With the channels of residual sums to be
cut as well, channels alone had 86.2 % and not 89.6. With "taylor" as the score, as an earlier protocol had it, both together had 89.5 %,
less than ranks alone (90.7), since it finds widths too cheap beside ranks; with "reconstruction" channels, ranks and both had 89.5, 90.8
and 91.0 %.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hwsearch
from hwsearch._files._writing import Journal, write_atomic
from hwsearch.costs import metric
from hwsearch.nn import ArrayData, load_data
from hwsearch.nn.adoption import additive, importance, load_network, low_rank
from hwsearch.profiling import Effort

SCORED, REPAIRED, JUDGED, EPOCHS = 300, 800, 5000, 6
PARTS: dict[str, tuple[str, ...]] = {"channels": ("depth", "rank"), "ranks": ("depth", "width"), "both": ("depth",)}
"""Parts of the space, each with the roles of the genes that keep their largest values."""


@dataclass(frozen=True)
class Subject:
    """A trained network, training images, what judges, layers that become products, images for the score, whether sums keep channels."""

    module: nn.Module
    images: torch.Tensor
    judge: Callable[[nn.Module], float]
    layers: tuple[str, ...]
    scored: int = SCORED
    sums_stay: bool = False


def cifar_images(folder: Path) -> tuple[torch.Tensor, Callable[[nn.Module], float]]:
    """Training images, and the accuracy on test images in percent."""
    cifar: Any = import_module("adopt_cifar")
    data = load_data(("cifar10", folder))
    assert isinstance(data, ArrayData)
    judged = torch.as_tensor(data.test_x[:JUDGED]), torch.as_tensor(data.test_y[:JUDGED])
    return cifar.drawn(data, 0)[0], lambda network: cifar.accuracy(network, *judged)


def residual(depth: int, weights: Path, folder: Path) -> Subject:
    """A residual network of CIFAR-10."""
    cifar: Any = import_module("adopt_cifar")
    return Subject(cifar.load_network(weights / f"resnet{depth}.npz", depth), *cifar_images(folder), ("layer*",), sums_stay=True)


def vgg(out: Path, folder: Path) -> Subject:
    """A network of VGG's form, trained if it was not yet."""
    layers: list[nn.Module] = []
    torch.manual_seed(0)
    for before, after in ((3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if before == after else []
    layers += [nn.Flatten()]
    for before, after in ((2048, 2048), (2048, 2048)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(2048, 10)).eval()
    if not (out / "vgg" / "finished.json").exists():
        data = load_data(("cifar10", folder)).normalized(hwsearch.nn.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        space = hwsearch.adopt(module, torch.zeros(2, 3, 32, 32))
        recipe: dict[str, Any] = {"epochs": EPOCHS, "batch": 128, "learning_rate": 0.05, "clip": 1.0, "amp": "bf16"}
        hwsearch.finish(space.whole, data=data, out=out / "vgg", recipe=recipe, deployment=hwsearch.nn.Deployment(precision="fp32"))
    module.load_state_dict(load_network(out / "vgg" / "float.safetensors").state_dict(), strict=False)
    return Subject(module, *cifar_images(folder), ("*",))


def photographed(_: Path, folder: Path) -> Subject:
    """EfficientNet-Lite0 and photographs of ten classes."""
    imagenet: Any = import_module("adopt_imagenet")
    data = imagenet.photographs(folder, 200)
    return Subject(imagenet.lite0(), torch.as_tensor(data.normalize(data.train_x)), imagenet.judge_of(data), ("*",), scored=128)


SUBJECTS: dict[str, Callable[[Path, Path], Subject]] = {
    "resnet20": lambda *folders: residual(20, *folders),
    "resnet56": lambda *folders: residual(56, *folders),
    "vgg": vgg,
    "lite0": photographed,
}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(SUBJECTS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--ways", nargs="+", default=["tucker", "spatial"])
    parser.add_argument("--limits", type=float, nargs="+", default=[0.8, 0.6])
    parser.add_argument("--by", choices=["latency_ms", "macs"], default="latency_ms", help="what is limited")
    parser.add_argument("--budget", default="5m", help="time for each latency table")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    subject = SUBJECTS[options.network](options.folder, options.data)
    found = [run(subject, way, options) for way in options.ways]
    write_atomic(options.out / f"low-rank-{options.network}.json", json.dumps(found, indent=1).encode())


def run(subject: Subject, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """All networks of one way of writing layers as products."""
    images = subject.images
    space = hwsearch.adopt(low_rank(subject.module, way, layers=subject.layers), images[:2])
    stem = f"low-rank-{options.network}-{way}"
    journal = Journal(options.out / f"{stem}.partial.jsonl")
    done = {(line["part"], line["limit"]): line for line in journal}
    table = None
    if options.by == "latency_ms":
        table = hwsearch.profile(space, out=options.out / f"{stem}.table.json", effort=Effort(budget=options.budget), progress=False)
    order = importance(space, "reconstruction", images[: subject.scored])
    score = additive(space, order)
    whole = float(metric(options.by, space, table)(space.row()[None])[0])
    within = import_module("adopt_cifar").inner(space) if subject.sums_stay else space.places.groups
    sums = {gene for group, gene in space.places.groups.items() if group not in within}
    files = [hwsearch.export(space.whole, data=images[:2], out=options.out / f"{stem}.onnx")]
    for part, fixed in PARTS.items():
        narrow = space.restrict(
            {choice.name: [choice.values[-1]] for choice in space.choices if choice.role in fixed or choice.name in sums}
        )
        for share in options.limits:
            file = options.out / f"{stem}-{part}-{share}.onnx"
            if (part, share) in done:
                continue
            start, limits = time.process_time(), {options.by: share * whole}
            try:
                best = hwsearch.search(narrow, "memetic", predictor=score, device=table, limits=limits, seed=0).best
            except hwsearch.Infeasible as error:
                done[part, share] = {"part": part, "limit": share, "infeasible": str(error)}
                journal.append(done[part, share])
                continue
            plan = space.plan(best.genes)
            network = space.extract(*plan, order, images=images[:REPAIRED])
            hwsearch.export(network, data=images[:2], out=file)
            cut = [choice.role for choice in space.choices if best.values().get(choice.name, choice.values[-1]) != choice.values[-1]]
            line = {
                "part": part,
                "limit": share,
                "accuracy": subject.judge(network),
                "limited": float(metric(options.by, space, table)(best.genes[None])[0]),
                "mmacs": round(space.macs(*plan) / 1e6, 2),
                "cut": {role: cut.count(role) for role in ("width", "rank")},
                "seconds": round(time.process_time() - start),
            }
            done[part, share] = line
            journal.append(line)
            print(way, line, flush=True)
    keys = [(part, share) for part in PARTS for share in options.limits if "infeasible" not in done[part, share]]
    files += [options.out / f"{stem}-{part}-{share}.onnx" for part, share in keys]
    measured = [round(each.latency_ms, 4) for each in hwsearch.measure(files, rounds=20)]
    rows = [done[key] | {"latency_ms": each} for key, each in zip(keys, measured[1:], strict=True)]
    rows += [done[part, share] for part in PARTS for share in options.limits if "infeasible" in done[part, share]]
    dense = {"latency_ms": measured[0], "limited": whole, "accuracy": subject.judge(subject.module)}
    found = {
        "way": way,
        "whole": dense | {"mmacs": round(space.macs() / 1e6, 2)},
        "by": options.by,
        "error": None if table is None else str(table.error()),
        "rows": rows,
    }
    print(json.dumps(found), flush=True)
    return found


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
