"""The lineage, side by side: each strategy on the same network, limit and score, with at most the same number of scores.

    OMP_NUM_THREADS=1 python benchmarks/lineage.py BENCH DATA [--cifar DIR] [--methods amc ...] [--scores 200] [--seeds 0 1] [--out DIR]

DATA is the folder of published data. BENCH is one of:

- macro: NAS-Bench-Macro, all 6,561 networks trained; the score is the mean accuracy of three trainings, the limit the median of the MACs of
  all networks. What counts is how many networks within the limit are truly better than the one found.
- apq: APQ's space with its table of BitFusion, at the latency that is a quarter of the way from the least to that of the largest network.
  No accuracy of APQ's networks is public, so a stand-in is searched: the logarithm of the multiply-accumulates of each layer less what its
  bits lose of them. It is a sum, so the optimum is proven by ``exact``, and what counts is how far below it a strategy ends.
- bits: HAWQ-V3's table of ResNet-50 on a T4: least sensitivity at the latency that is 40 % of the way from all 4 to all 8 bits; the optimum
  is proven too.
- resnet56: ResNet-56 of CIFAR-10 (weights in DATA, images in DIR), the widths within its blocks, at most half of its multiply-accumulates,
  before any training, with 60 scores, and AMC's agent with 150, too. Channels go by the L1 norm of their weights. The score is the accuracy
  of the network repaired quickly: layer after layer by least squares on REPAIRED training images, judged on JUDGED others. The best
  network of each strategy is then repaired as ``hwsearch.extract`` does, on FINAL training images, and has the accuracy of all 10,000 test
  images, which no choice looks at. Policies by hand need no scores: ``uniform`` keeps the same share in every block, ``deep`` cuts late
  blocks more, ``shallow`` early ones.
- guaranteed, guaranteed-half (100 scores): the same network and widths with AMC's reward for networks that lose no accuracy,
  -error x log(parameters), without a limit, as in the paper, and with at most half of the parameters. The network has learned the training
  images by heart, so that an error on them is near 0 and its product says nothing of parameters: the error is that on UNSEEN of the test
  images, of the network repaired on REPAIRED_MORE training images. The answer is repaired on FINAL, and has the accuracy of the other test
  images, which no choice looks at. ``lineage_taught.py`` trains it. Known before the run, from three networks by hand: quickly repaired at
  half of the parameters they lose 5 to 8 points, so that without a limit the reward is not expected to halve them.
- resnet20-bitops-4, resnet20-bitops-3, resnet20-size-4, resnet20-size-3: the bits of ResNet-20 of CIFAR-10, 2 to 8 for the weights and 2 to
  8 for the feature maps of each residual block, stem and classifier at 8; at most the BitOps of the network whose blocks have 4 or 3 bits
  throughout, or its size, where all feature maps have 8 bits, which cost no size. The score is the accuracy of the network quantised after
  training on TELLING of the 5,000 training images that hwsearch never trains on (the published network did), quantisers chosen on
  CALIBRATED others. The answer of each strategy and ``uniform``, the network that the limit is taken from, have the accuracy of all 10,000
  test images, which no choice looks at, with quantisers chosen on the same images.

The strategies stand in ``lineage_ways.py``. One ends earlier when it proposes nothing new: ``surrogate`` when it is done by its own rule,
agents after 100 steps, as is their default, or after ten steps for each score. (At first they had ten idle steps for each score, in which
an agent whose noise is gone decides for one network again and again, and learns after each step all the same. That took five times as long;
on ``macro`` it brought AMC's agent a few better networks.)
Every score is kept, so that a run that was stopped goes on where it was. Each line of DIR/lineage-BENCH-SCORES.jsonl says what was found,
after how many scores and CPU-seconds, of the search and of its scores, the best score had risen, and what counts;
DIR/lineage-BENCH-SCORES.json holds them all once the run has ended.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from lineage_ways import ways

import hwsearch
from hwsearch import interop, metric
from hwsearch._files._writing import Journal, write_atomic
from hwsearch.algorithms import Guaranteed, Problem
from hwsearch.costs import Metric
from hwsearch.networks import Block
from hwsearch.spaces import SpaceBuilder

REPAIRED, JUDGED, FINAL = 48, 250, 600
"""Training images that a score repairs on and judges on, and that the answer is repaired on."""
REPAIRED_MORE, UNSEEN = 150, 500
"""Training images that a score of ``guaranteed`` repairs on, and test images that it judges on."""
CALIBRATED, TELLING = 64, 500
"""Training images that quantisers are chosen on, and that judge a choice of bits."""
HAND = ("uniform", "deep", "shallow")
RESNET20 = tuple(f"resnet20-{what}-{bits}" for what in ("bitops", "size") for bits in (4, 3))

Score = Callable[[np.ndarray], Any]


@dataclass
class Kept:
    """A score that is kept in a journal: what it gave once is not computed again.

    Attributes:
        score: rows -> scores.
        journal: of rows and scores.
        most: scores after which the best no longer counts.
        problem: whose limits a network has to meet to be the best; those of a first stage are wider.
        start: CPU-seconds of this process before the search.
        course: each new score, -inf of networks beyond the limits, and the CPU-seconds of search and scores until then.
        replayed: CPU-seconds of those scores that were asked for and kept by an earlier run.
    """

    score: Score
    journal: Journal
    most: int
    problem: Problem
    known: dict[bytes, tuple[float, float]] = field(default_factory=dict)
    asked: set[bytes] = field(default_factory=set)
    start: float = field(default_factory=time.process_time)
    replayed: float = 0.0
    course: list[tuple[float, float]] = field(default_factory=list)
    best: tuple[float, list[int]] = (-np.inf, [])

    def __post_init__(self) -> None:
        self.known = {bytes.fromhex(line["row"]): (line["score"], line["seconds"]) for line in self.journal}

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Scores, shape ``(n,)``."""
        found = []
        for row in X:
            key = row.tobytes()
            new = key not in self.asked
            self.asked.add(key)
            if key not in self.known:
                start = time.process_time()
                value = float(self.score(row[None])[0])
                self.known[key] = value, time.process_time() - start
                self.journal.append({"row": key.hex(), "score": value, "seconds": round(self.known[key][1], 4)})
            elif new:
                self.replayed += self.known[key][1]
            value = self.known[key][0]
            if new and len(self.course) < self.most:
                counts = value if (self.problem.costs(row[None]) <= 1.0).all() else -np.inf
                self.course.append((counts, self.seconds))
                self.best = max(self.best, (counts, row.tolist()))
            found.append(value)
        return np.array(found)

    @property
    def seconds(self) -> float:
        """CPU-seconds of the search and its scores so far, those of an earlier run included."""
        return time.process_time() - self.start + self.replayed


@dataclass(frozen=True)
class Bench:
    """A problem that strategies meet.

    Attributes:
        problem: space, score and limits.
        judged: the row that a strategy found -> what counts, for the report.
        hand: policies by hand: the row of each.
    """

    problem: Problem
    judged: Callable[[np.ndarray], dict[str, Any]]
    hand: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict)


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


def resnet56(data: Path, cifar: Path) -> Bench:
    """ResNet-56 of CIFAR-10 within half of its multiply-accumulates."""
    import torch
    from adopt_cifar import accuracy

    space, images, order, mending = widths56(data, cifar)
    held = order[-JUDGED:]
    others, labels = torch.as_tensor(images.train_x[held]), torch.as_tensor(images.train_y[held])

    def score(X: np.ndarray) -> np.ndarray:
        return np.array([accuracy(repaired(space, row, mending[:REPAIRED]), others, labels) for row in X])

    def judged(row: np.ndarray) -> dict[str, Any]:
        cut = space.extract(*space.plan(row), images=(mending,))
        right = accuracy(cut, torch.as_tensor(images.test_x), torch.as_tensor(images.test_y))
        return {"test": right, "macs": float(metric("macs", space)(row[None])[0])}

    problem = Problem.of(space, predictor=score, limits={"macs": 0.5 * whole_cost(space, "macs")})
    return Bench(problem, judged, {policy: partial(by_hand, problem, policy) for policy in HAND})


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


def whole_cost(space: Any, name: str) -> float:
    """What the largest network costs."""
    largest = np.array([[allowed[-1] for allowed in space.allowed]], dtype=np.uint8)
    return float(metric(name, space)(largest)[0])


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


def run(bench: Bench, method: str, scores: int, seed: int, out: Path, name: str) -> dict[str, Any]:
    """One strategy with one seed."""
    if method in HAND:
        row = bench.hand[method]()
        told: dict[str, Any] = {"best_score": float(np.asarray(bench.problem.score(row[None]))[0])}
    else:
        kept = Kept(bench.problem.score, Journal(out / f"lineage-{name}-{method}-{scores}-{seed}.jsonl"), scores, bench.problem)
        ways()[method](replace(bench.problem, score=kept), scores, seed)
        row = np.array(kept.best[1], dtype=np.uint8)
        values = [value for value, _ in kept.course]
        rises = [place for place, value in enumerate(values) if value > max(values[:place], default=-np.inf)]
        told = {
            "scores": len(values),
            "best_score": kept.best[0],
            "course": [[place + 1, round(kept.course[place][1], 2), values[place]] for place in rises],
            "seconds": round(kept.seconds, 1),
        }
    found = {"method": method, "seed": seed, "row": row.tolist(), **told, **bench.judged(row)}
    print({key: value for key, value in found.items() if key not in ("row", "course")}, flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", choices=["macro", "apq", "bits", "resnet56", "guaranteed", "guaranteed-half", *RESNET20])
    parser.add_argument("data", type=Path)
    parser.add_argument("--cifar", type=Path, help="the folder that holds cifar-10-batches-py, for all but tables")
    parser.add_argument("--methods", nargs="+", choices=[*ways(), *HAND], help="all that the bench has, if omitted")
    parser.add_argument("--scores", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args(arguments)
    benches: dict[str, Callable[[], Bench]] = {
        "macro": lambda: macro(options.data),
        "apq": lambda: apq(options.data),
        "bits": lambda: bits(options.data),
        "resnet56": lambda: resnet56(options.data, options.cifar),
        "guaranteed": lambda: guaranteed(options.data, options.cifar, None),
        "guaranteed-half": lambda: guaranteed(options.data, options.cifar, 0.5),
        **{
            f"resnet20-{what}-{bits}": partial(resnet20, options.data, options.cifar, metric_of, bits)
            for what, metric_of in (("bitops", "bitops"), ("size", "size_mb"))
            for bits in (4, 3)
        },
    }
    ended = Journal(options.out / f"lineage-{options.bench}-{options.scores}.jsonl")
    done = {(line["method"], line["seed"]) for line in ended}
    bench = benches[options.bench]()
    known = [*ways(), *bench.hand] if options.bench == "apq" else [way for way in (*ways(), *bench.hand) if way != "staged"]
    for method in options.methods or known:
        if method not in known:
            parser.error(f"{method} is not for {options.bench}, which has {', '.join(known)}.")
    for seed in options.seeds:
        for method in options.methods or known:
            if (method, seed) not in done and not (method in HAND and seed):
                ended.append(run(bench, method, options.scores, seed, options.out, options.bench))
    rows = sorted(ended, key=lambda line: (line["method"], line["seed"]))
    text = json.dumps({"bench": options.bench, "scores": options.scores, "rows": rows}, indent=1)
    write_atomic(options.out / f"lineage-{options.bench}-{options.scores}.json", text.encode())


if __name__ == "__main__":
    main()
