"""The benches of ``lineage.py``, which says what each is: a space, a score and limits, what counts for an answer, policies by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import hwsearch
from hwsearch import interop, metric
from hwsearch.algorithms import Guaranteed, Problem
from hwsearch.costs import Metric
from hwsearch.networks import Block
from hwsearch.profiling import Effort
from hwsearch.spaces import SpaceBuilder

REPAIRED, JUDGED, FINAL = 48, 250, 600
"""Training images that a score repairs on and judges on, and that the answer is repaired on."""
REPAIRED_MORE, UNSEEN = 150, 500
"""Training images that a score of ``guaranteed`` repairs on, and test images that it judges on."""
CALIBRATED, TELLING = 64, 500
"""Training images that quantisers are chosen on, and that judge a choice of bits."""
FASTER = 0.7
"""Share of the latency of ResNet-56 that ``resnet56-latency`` allows."""
HAND = ("uniform", "deep", "shallow")


@dataclass(frozen=True)
class Bench:
    """A problem that strategies meet.

    Attributes:
        problem: space, score and limits.
        judged: the row that a strategy found -> what counts, for the report.
        hand: policies by hand: the row of each.
        measured: rows that were judged -> milliseconds of the whole network's file and of theirs, if they are measured.
    """

    problem: Problem
    judged: Callable[[np.ndarray], dict[str, Any]]
    hand: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    measured: Callable[[list[np.ndarray]], list[float]] | None = None


def macro(data: Path) -> Bench:
    """NAS-Bench-Macro."""
    known = interop.nasbench_macro(data / "nas_bench_macro" / "nas-bench-macro_cifar10.json")
    X = np.concatenate(list(known.space.enumerate()))
    accuracy, macs = known.score("mean_acc"), metric("macs", known.space)
    limit = float(np.median(macs(X)))
    true = accuracy(X[macs(X) <= limit])

    def judged(row: np.ndarray) -> dict[str, Any]:
        better = int((true > accuracy(row[None])[0]).sum())
        return {"accuracy": float(accuracy(row[None])[0]), "better": better, "of": len(true), "best": float(true.max())}

    return Bench(Problem.of(known.space, predictor=accuracy, limits={"macs": limit}), judged)


def apq(data: Path) -> Bench:
    """APQ's space, with a stand-in for the accuracy."""
    space, table = hwsearch.load_space("apq"), interop.apq_table(data / "apq" / "bitfusion_lut.json")

    def worth(block: Block) -> float:
        lost = float(2.0**-block.bits.weight_bits + 2.0**-block.bits.activation_bits)
        return float(np.log2(1 + block.macs / 1e6)) * (1 - lost)

    latency = metric("latency_ms", space, table)
    most = float(latency(np.array([[size - 1 for size in space.sizes]], dtype=np.uint8))[0])
    limit = latency.lower_bound + 0.25 * (most - latency.lower_bound)
    return proven(space, Metric.of_blocks("worth", space, worth), {"latency_ms": limit}, table)


def bits(data: Path) -> Bench:
    """HAWQ-V3's bits of ResNet-50."""
    space = interop.hawq_table(data / "hawq" / "hawq_v3_t4_lut.json", "resnet50").space()
    latency = metric("latency_ms", space)
    four, eight = (float(latency(np.full((1, len(space.choices)), place, dtype=np.uint8))[0]) for place in (0, 1))
    return proven(space, -metric("sensitivity", space), {"latency_ms": four + 0.4 * (eight - four)}, None)


def proven(space: hwsearch.SearchSpace, score: Metric, limits: dict[str, float], table: hwsearch.LatencyTable | None) -> Bench:
    """A sum as the score, whose optimum is proven, and which strategies do not know to be a sum."""
    best = hwsearch.search(space, predictor=score, device=table, limits=limits, algorithm="exact", run=hwsearch.Run(progress=False))
    rng = np.random.default_rng(0)
    usual = float(np.median(score(space.sample(2000, rng))))

    def judged(row: np.ndarray) -> dict[str, Any]:
        value = float(score(row[None])[0])
        return {"worth": value, "best": best.best_score, "gap": (best.best_score - value) / abs(best.best_score - usual)}

    return Bench(Problem.of(space, predictor=lambda X: score(X), device=table, limits=limits), judged)


@cache
def widths56(data: Path, cifar: Path) -> tuple[Any, Any, np.ndarray, Any]:
    """ResNet-56 of CIFAR-10 with the widths within its blocks as genes; the images, an order of them, and those that repair."""
    import torch
    from adopt_cifar import load_network, moved, normalized

    from hwsearch.nn import ArrayData, load_data
    from hwsearch.nn.adoption import adopt, importance

    torch.set_num_threads(1)
    module = load_network(data / "cifar_resnets" / "resnet56.npz", 56)
    images = load_data(("cifar10", cifar))
    assert isinstance(images, ArrayData)
    whole = adopt(module, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), step=2)
    order = np.random.default_rng(0).permutation(len(images.train_x))
    between = [choice.name for choice in whole.choices if choice.name == "conv1.width" or choice.name.endswith(".conv2.width")]
    largest = {choice.name: [choice.values[-1]] for choice in whole.choices if choice.name in between or choice.role == "depth"}
    scores = importance(whole, "l1")
    space = whole.restrict(largest).knowing({group: np.asarray(scores[group], dtype=np.float64) for group in whole.places.groups})
    return space, images, order, moved(normalized(images.train_x[order[:FINAL]]), 0)


def repaired(space: Any, row: np.ndarray, mending: Any) -> Any:
    """A network repaired quickly."""
    from hwsearch.nn.adoption._repair import Repair

    return Repair(space.cut(*space.plan(row)), (mending,), samples=(2000, 6), rounds=0, tuned=False).run()


def resnet56(data: Path, cifar: Path, out: Path, limited: str, share: float) -> Bench:
    """ResNet-56 of CIFAR-10 within a share of a cost; for latency, ``out`` keeps the table and the files that are measured."""
    import torch
    from adopt_cifar import accuracy

    space, images, order, mending = widths56(data, cifar)
    held = order[-JUDGED:]
    others, labels = torch.as_tensor(images.train_x[held]), torch.as_tensor(images.train_y[held])
    table = None
    if limited == "latency_ms":
        table = hwsearch.profile(space, out=out / "lineage-resnet56.table.json", effort=Effort(budget="5m"), progress=False)

    def score(X: np.ndarray) -> np.ndarray:
        return np.array([accuracy(repaired(space, row, mending[:REPAIRED]), others, labels) for row in X])

    def judged(row: np.ndarray) -> dict[str, Any]:
        cut = space.extract(*space.plan(row), images=(mending,))
        right = accuracy(cut, torch.as_tensor(images.test_x), torch.as_tensor(images.test_y))
        if table is not None:
            hwsearch.export(cut, data=mending[:2], out=file(row))
        cost = {name: float(metric(name, space, table)(row[None])[0]) for name in dict.fromkeys(("macs", limited))}
        return {"test": right, **cost}

    def file(row: np.ndarray) -> Path:
        return out / f"lineage-resnet56-{row.tobytes().hex()}.onnx"

    def measured(rows: list[np.ndarray]) -> list[float]:
        largest = out / "lineage-resnet56.onnx"
        hwsearch.export(space.whole, data=mending[:2], out=largest)
        return [each.latency_ms for each in hwsearch.measure([largest, *map(file, rows)], rounds=20)]

    problem = Problem.of(space, predictor=score, device=table, limits={limited: share * whole_cost(space, limited, table)})
    hand = {policy: partial(by_hand, problem, policy) for policy in HAND}
    return Bench(problem, judged, hand, None if table is None else measured)


def guaranteed(data: Path, cifar: Path, share: float | None) -> Bench:
    """ResNet-56 of CIFAR-10 with AMC's reward for networks that lose no accuracy."""
    import torch
    from adopt_cifar import accuracy

    space, images, _, mending = widths56(data, cifar)
    (shown, labels), (others, truth) = (
        (torch.as_tensor(images.test_x[some]), torch.as_tensor(images.test_y[some])) for some in unseen(len(images.test_x))
    )
    params = metric("params", space)

    def right(X: np.ndarray) -> np.ndarray:
        return np.array([accuracy(repaired(space, row, mending[:REPAIRED_MORE]), shown, labels) / 100 for row in X])

    def judged(row: np.ndarray) -> dict[str, Any]:
        cut = space.extract(*space.plan(row), images=(mending,))
        cost = {name: float(metric(name, space)(row[None])[0]) / whole_cost(space, name) for name in ("params", "macs")}
        return {"test": accuracy(cut, others, truth), **{f"{name} left": round(left, 4) for name, left in cost.items()}}

    limits = {} if share is None else {"params": share * whole_cost(space, "params")}
    problem = Problem.of(space, predictor=Guaranteed(right, params), metrics=(params,), limits=limits)
    return Bench(problem, judged, {policy: partial(by_hand, problem, policy) for policy in ("uniform", "deep") if limits})


def unseen(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Which test images judge the search of ``guaranteed``, and which no choice looks at."""
    order = np.random.default_rng(1).permutation(images)
    return order[:UNSEEN], order[UNSEEN:]


def whole_cost(space: Any, name: str, table: hwsearch.LatencyTable | None = None) -> float:
    """What the largest network costs."""
    largest = np.array([[allowed[-1] for allowed in space.allowed]], dtype=np.uint8)
    return float(metric(name, space, table)(largest)[0])


def resnet20(data: Path, cifar: Path, limited: str, same: int) -> Bench:
    """The bits of ResNet-20 of CIFAR-10."""
    import torch

    from hwsearch.interop import cifar_resnet
    from hwsearch.nn import load_data
    from hwsearch.nn._evaluate import accuracy, deployed

    torch.set_num_threads(1)
    images, few = load_data(("cifar10", cifar)), tuple(range(2, 9))
    pairs = tuple(f"w{weights}a{maps}" for weights in few for maps in few)
    net = cifar_resnet(data / "cifar_resnets" / "resnet20.npz", data=images, precisions=pairs)
    net.images = net.images[:CALIBRATED]
    images = images.normalized(net.normalize)
    places = [gene for gene, choice in enumerate(net.space.choices) if choice.values == pairs]
    usual = {choice.name: choice.values[0] for choice in net.space.choices}
    builder, at = SpaceBuilder(), 0
    for block in net.space.blocks(net.space.encode(usual)):
        if block.kind in ("quantize", "dequantize"):
            continue  # they cost neither size nor BitOps
        if block.precision == "int8":
            builder.fixed(block.kind, block)
            continue
        name = net.space.choices[places[at]].name.removesuffix(".precision")
        bits = {each: builder.knob(f"{name}.{each}", few) for each in ("weight_bits", "activation_bits")}
        builder.slot(name, bits, partial(at_bits, block))
        at += 1
    space = builder.space("resnet20_bits")
    if limited == "size_mb":
        space = space.restrict({"*.activation_bits": [8]})
    maps = 8 if limited == "size_mb" else same
    uniform = space.encode({choice.name: same if choice.name.endswith(".weight_bits") else maps for choice in space.choices})

    def network(row: np.ndarray) -> Any:
        values = space.decode(row)
        chosen = {}
        for gene in places:
            stem = net.space.choices[gene].name.removesuffix(".precision")
            chosen[f"{stem}.precision"] = f"w{values[f'{stem}.weight_bits']}a{values[f'{stem}.activation_bits']}"
        return deployed(net, net.space.encode(usual | chosen))

    def score(X: np.ndarray) -> np.ndarray:
        return np.array([100 * accuracy(network(row), images, "val", TELLING) for row in X])

    def judged(row: np.ndarray) -> dict[str, Any]:
        return {"test": round(100 * accuracy(network(row), images, "test"), 2), "limited": float(metric(limited, space)(row[None])[0])}

    limits = {limited: float(metric(limited, space)(uniform[None])[0])}
    return Bench(Problem.of(space, predictor=score, limits=limits), judged, {"uniform": lambda: uniform})


def at_bits(block: Block, weight_bits: int, activation_bits: int) -> tuple[Block, ...]:
    """A block at other bits."""
    return (replace(block, precision=f"w{weight_bits}a{activation_bits}"),)


def by_hand(problem: Problem, policy: str) -> np.ndarray:
    """The largest network of a policy within the limits."""
    space = problem.space
    genes = [gene for gene, allowed in enumerate(space.allowed) if len(allowed) > 1]
    places = np.linspace(0.0, 1.0, len(genes))
    slope = {"uniform": np.ones(len(genes)), "deep": 2 * places, "shallow": 2 * (1 - places)}[policy]
    for cut in np.linspace(0.0, 1.0, 400):
        row = np.array([allowed[-1] for allowed in space.allowed], dtype=np.uint8)
        for gene, each in zip(genes, 1.0 - cut * slope, strict=True):
            values = np.array([float(space.choices[gene].values[index]) for index in space.allowed[gene]])
            row[gene] = space.allowed[gene][int(np.abs(values - each * values[-1]).argmin())]
        if (problem.costs(row[None]) <= 1.0).all():
            return row
    raise SystemExit(f"The policy {policy!r} cannot meet the limits.")


BENCHES: dict[str, Callable[[Path, Path, Path], Bench]] = {
    "macro": lambda data, cifar, out: macro(data),
    "apq": lambda data, cifar, out: apq(data),
    "bits": lambda data, cifar, out: bits(data),
    "resnet56": lambda data, cifar, out: resnet56(data, cifar, out, "macs", 0.5),
    "resnet56-latency": lambda data, cifar, out: resnet56(data, cifar, out, "latency_ms", FASTER),
    "guaranteed": lambda data, cifar, out: guaranteed(data, cifar, None),
    "guaranteed-half": lambda data, cifar, out: guaranteed(data, cifar, 0.5),
    "resnet20-bitops-4": lambda data, cifar, out: resnet20(data, cifar, "bitops", 4),
    "resnet20-bitops-3": lambda data, cifar, out: resnet20(data, cifar, "bitops", 3),
    "resnet20-size-4": lambda data, cifar, out: resnet20(data, cifar, "size_mb", 4),
    "resnet20-size-3": lambda data, cifar, out: resnet20(data, cifar, "size_mb", 3),
}
"""By name: (folder of published data, folder of CIFAR-10, folder for tables and files) -> the bench."""
