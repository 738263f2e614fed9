"""At equal accuracy, whose cut networks are faster when they are measured: Torch-Pruning's or ours.

    python -m venv against && against/bin/pip install ".[torch,onnxruntime]" torch-pruning==1.6.1
    against/bin/python benchmarks/adopt_latency_against.py WEIGHTS DATA --out benchmark-output

WEIGHTS holds resnet20.npz to resnet56.npz and DATA the folder cifar-10-batches-py, as for ``adopt_cifar.py``. With --photographs FOLDER,
EfficientNet-Lite0 is a fifth network (``adopt_imagenet.py`` says which packages and which folder it needs).

Protocol, written down before its run. Both tools get the same training images: IMAGES of them, seed 0, with their labels.

- Torch-Pruning: group magnitude (L2) and group Taylor importance, each with uniform, global and isomorphic ratios, channels rounded to
  multiples of 8, at the ratios RATIOS; the classifier's last layer is ignored, and so are layers without which the tool fails.
- Ours: a latency table of the network by ONNX Runtime, a predictor fitted without training on half of the images and judged on the others
  (one width a gene and eight networks), and the exact search at LIMITS, shares of the latency of the dense network that the table predicts.
  For EfficientNet-Lite0 such a fit takes an hour: it has the expected squared change of the outputs for units and branches, told without
  labels and added up, in its place. For ResNet-20 that was tried first, and beat 18 of 18 networks unrepaired, 12 of 18 repaired.
- Each cut network twice: as it is cut, and repaired by our least squares, Torch-Pruning's too: the same channels are cut by our means,
  which have to give the same accuracy as its own network.
- Accuracy is that of images that nothing was chosen on. Latency is measured by ONNX Runtime with one thread and batch 1, all files of a
  network in turns in one run.

A network of Torch-Pruning is beaten where one of ours is at least as accurate and faster, or where ours lie below it on the line between
the two of ours that are next to it in accuracy. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hwsearch
from hwsearch._files._writing import Journal, write_atomic
from hwsearch.nn import ArrayData
from hwsearch.nn.adoption import Adopted, Probing, additive

IMAGES, JUDGED = 1000, 5000
RATIOS = (0.2, 0.35, 0.5)
LIMITS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
Plan = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A trained network, training images with labels, images that judge, layers that Torch-Pruning cannot cut here, and our score."""

    name: str
    module: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    judge: Callable[[nn.Module], float]
    ignored: tuple[str, ...]
    fitted: bool

    @property
    def example(self) -> torch.Tensor:
        """Two images."""
        return self.images[:2]


def residual(weights: Path, folder: Path, depth: int) -> Subject:
    """A residual network of CIFAR-10. Torch-Pruning fails at its shortcuts, which pad channels, so sums keep theirs."""
    cifar: Any = import_module("adopt_cifar")
    data = hwsearch.nn.load_data(("cifar10", folder))
    assert isinstance(data, ArrayData)
    module = cifar.load_network(weights / f"resnet{depth}.npz", depth)
    order = np.random.default_rng(0).permutation(len(data.train_x))[:IMAGES]
    images, labels = cifar.normalized(data.train_x[order]), torch.as_tensor(data.train_y[order])
    judged = torch.as_tensor(data.test_x[:JUDGED]), torch.as_tensor(data.test_y[:JUDGED])
    ignored = ("linear", "conv1", *(name for name, _ in module.named_modules() if name.endswith(".conv2")))
    return Subject(f"ResNet-{depth}", module, images, labels, lambda network: cifar.accuracy(network, *judged), ignored, fitted=True)


def photographed(folder: Path) -> Subject:
    """EfficientNet-Lite0, judged on photographs of ten classes among its thousand."""
    imagenet: Any = import_module("adopt_imagenet")
    data = imagenet.photographs(folder)
    images, labels = (torch.as_tensor(each) for each in (data.normalize(data.train_x), data.train_y))
    return Subject("EfficientNet-Lite0", imagenet.lite0(), images, labels, imagenet.judge_of(data), ("_fc",), fitted=False)


# -- the two tools -----------------------------------------------------------------------------------------------------


def theirs(subject: Subject, importance: str, way: str, ratio: float) -> tuple[nn.Module, dict[str, Any]]:
    """A network cut by Torch-Pruning, and the channels that are left of each of its layers."""
    tp: Any = import_module("torch_pruning")
    cut = copy.deepcopy(subject.module).eval()
    layers = {name: layer for name, layer in cut.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    left = {name: np.arange(layer.weight.shape[0]) for name, layer in layers.items()}
    names = {id(layer): name for name, layer in layers.items()}
    score = {"L2": tp.importance.GroupMagnitudeImportance, "Taylor": tp.importance.GroupTaylorImportance}[importance]
    pruner = tp.pruner.BasePruner(
        cut,
        subject.example,
        importance=score(),
        global_pruning=way != "uniform",
        isomorphic=way == "isomorphic",
        pruning_ratio=ratio,
        round_to=8,
        ignored_layers=[layers[name] for name in subject.ignored],
    )
    if importance == "Taylor":
        for k in range(0, len(subject.images), 100):
            nn.functional.cross_entropy(cut(subject.images[k : k + 100]), subject.labels[k : k + 100]).backward()
    for group in pruner.step(interactive=True):
        for dependency, gone in group:
            name = names.get(id(dependency.target.module))
            if name is not None and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                left[name] = np.delete(left[name], sorted(set(gone)))
        group.prune()
    return cut, left


def planned(space: Adopted, left: dict[str, Any]) -> Plan:
    """The same channels as a plan of ours."""
    plan = {}
    for group in space.groups:
        for weight, each in group.opened:
            found = left.get(weight.removesuffix(".weight"))
            if group.searchable and each == 1 and found is not None and space.network.get_parameter(weight).shape[0] == group.width:
                plan[group.id] = found
                break
    return plan


def ours(subject: Subject, out: Path) -> tuple[Adopted, Callable[[float], hwsearch.SearchResult]]:
    """What searches at a share of the dense network's latency."""
    space = hwsearch.adopt(subject.module, subject.example)
    table = hwsearch.profile(space, backend="onnxruntime", out=out / f"{subject.name}.table.json", progress=False)
    if subject.fitted:
        few, data = Probing(widths=1, networks=8, images=IMAGES // 2, held_out=IMAGES // 2), [(subject.images, subject.labels)]
        score = hwsearch.fit_predictor(space, data=data, out=out / f"{subject.name}.score.npz", sampling=few, progress=False)
    else:
        score = additive(space, "reconstruction", images=subject.images)
    found = score.space
    assert isinstance(found, Adopted)
    dense = float(hwsearch.metric("latency_ms", found, table)(found.row()[None])[0])

    def search(share: float) -> hwsearch.SearchResult:
        return hwsearch.search(found, "exact", predictor=score, device=table, limits={"latency_ms": share * dense})

    return found, search


# -- what is written down ----------------------------------------------------------------------------------------------


def run(subject: Subject, out: Path, *, repairs: tuple[bool, ...], limits: tuple[float, ...], ratios: tuple[float, ...]) -> None:
    """All networks of one subject: cut, repaired, judged, written; then measured in turns."""
    journal = Journal(out / f"{subject.name}.partial.jsonl")
    done = {row["case"]: row for row in journal}

    space, search = ours(subject, out)

    def note(case: str, tool: str, plan: Callable[[], tuple[Plan, tuple[str, ...]]], *, repaired: bool) -> None:
        if case in done:
            return
        start = time.process_time()
        keep, branches = plan()
        made = space.extract(keep, branches, images=subject.images if repaired else None)
        hwsearch.export(made, out=out / f"{subject.name}-{case}.onnx", data=subject.images[:16])
        done[case] = {"case": case, "tool": tool, "repaired": repaired, "accuracy": subject.judge(made)}
        done[case] |= {"macs": space.macs({name: len(units) for name, units in keep.items()}, branches)}
        done[case] |= {"seconds": round(time.process_time() - start)}
        journal.append(done[case])
        print(subject.name, done[case], flush=True)

    def found(share: float) -> tuple[Plan, tuple[str, ...]]:
        keep, branches = space.plan(search(share).best.genes)
        return dict(space.choose(keep)), branches

    def taken(importance: str, way: str, share: float) -> tuple[Plan, tuple[str, ...]]:
        network, left = theirs(subject, importance, way, share)
        keep = planned(space, left)
        agree(network, space.extract(keep), subject.example)
        return keep, ()

    note("dense", "dense", lambda: ({}, ()), repaired=False)
    for repaired in repairs:
        ending = "-repaired" if repaired else ""
        for share in limits:
            note(f"ours-{share:g}{ending}", "ours", partial(found, share), repaired=repaired)
        for kind, way, share in product(("L2", "Taylor"), ("uniform", "global", "isomorphic"), ratios):
            case = f"theirs-{kind}-{way}-{share:g}{ending}"
            note(case, f"{kind}, {way}", partial(taken, kind, way, share), repaired=repaired)
    files = [out / f"{subject.name}-{case}.onnx" for case in done]
    for row, each in zip(done.values(), hwsearch.measure(files), strict=True):
        row |= {"latency_ms": each.latency_ms, "spread_ms": each.spread_ms}
    write_atomic(out / f"{subject.name}.json", json.dumps(summary(list(done.values())), indent=1).encode())


def agree(network: nn.Module, same: nn.Module, images: torch.Tensor) -> None:
    """Check that two networks are one."""
    with torch.no_grad():
        theirs, ours = network(images), same(images)
    if not torch.allclose(theirs, ours, rtol=1e-3, atol=1e-3 * float(theirs.abs().max())):
        raise SystemExit("The channels that Torch-Pruning left are not those that were cut here.")


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many of Torch-Pruning's networks are beaten, with and without repair."""
    result: dict[str, Any] = {"rows": rows}
    for repaired in (False, True):
        mine = [row for row in rows if row["tool"] == "dense" or (row["tool"] == "ours" and row["repaired"] == repaired)]
        other = [row for row in rows if row["tool"] not in ("ours", "dense") and row["repaired"] == repaired]
        if other:
            ratios = [ratio(row, mine) for row in other]
            name = "repaired" if repaired else "unrepaired"
            result[name] = {"networks": len(other), "beaten": sum(each < 1 for each in ratios), "latency": float(np.median(ratios))}
            print(name, result[name], flush=True)
    return result


def ratio(row: dict[str, Any], mine: list[dict[str, Any]]) -> float:
    """Our latency at the accuracy of a network, relative to its own: of the fastest that is as accurate, or on the line between two."""
    front: list[dict[str, Any]] = []
    for each in sorted(mine, key=lambda one: one["latency_ms"]):
        if not front or each["accuracy"] > front[-1]["accuracy"]:
            front.append(each)
    at = np.interp(row["accuracy"], [each["accuracy"] for each in front], [each["latency_ms"] for each in front])
    return float(at) / float(row["latency_ms"])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--depths", type=int, nargs="*", default=[20, 32, 44, 56])
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--repairs", nargs="+", choices=["no", "yes"], default=["no", "yes"])
    parser.add_argument("--limits", type=float, nargs="+", default=LIMITS)
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path(__file__).parent))
    options.out.mkdir(parents=True, exist_ok=True)
    cases = {"repairs": tuple(each == "yes" for each in options.repairs), "limits": options.limits, "ratios": options.ratios}
    for depth in options.depths:
        run(residual(options.weights, options.data, depth), options.out, **cases)
    if options.photographs:
        run(photographed(options.photographs), options.out, **cases)


if __name__ == "__main__":
    main()
