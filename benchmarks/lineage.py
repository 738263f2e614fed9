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
- resnet56-latency: the same, but within FASTER of the latency that a table of the whole network has, which ONNX Runtime measures first with
  one thread and batch 1. The files of all answers are measured at the end, in turns with that of the whole network.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from lineage_benches import BENCHES, HAND, Bench
from lineage_ways import ways

from hwsearch._files._writing import Journal, write_atomic
from hwsearch.algorithms import Problem

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
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cifar", type=Path, help="the folder that holds cifar-10-batches-py, for all but tables")
    parser.add_argument("--methods", nargs="+", choices=[*ways(), *HAND], help="all that the bench has, if omitted")
    parser.add_argument("--scores", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args(arguments)
    ended = Journal(options.out / f"lineage-{options.bench}-{options.scores}.jsonl")
    done = {(line["method"], line["seed"]) for line in ended}
    bench = BENCHES[options.bench](options.data, options.cifar, options.out)
    known = [*ways(), *bench.hand] if options.bench == "apq" else [way for way in (*ways(), *bench.hand) if way != "staged"]
    for method in options.methods or known:
        if method not in known:
            parser.error(f"{method} is not for {options.bench}, which has {', '.join(known)}.")
    for seed in options.seeds:
        for method in options.methods or known:
            if (method, seed) not in done and not (method in HAND and seed):
                ended.append(run(bench, method, options.scores, seed, options.out, options.bench))
    rows = sorted(ended, key=lambda line: (line["method"], line["seed"]))
    told = {"bench": options.bench, "scores": options.scores, "rows": rows}
    if bench.measured is not None:
        told["whole_ms"], *each = bench.measured([np.array(line["row"], dtype=np.uint8) for line in rows])
        told["measured_ms"] = [round(ms, 4) for ms in each]
    write_atomic(options.out / f"lineage-{options.bench}-{options.scores}.json", json.dumps(told, indent=1).encode())


if __name__ == "__main__":
    main()
