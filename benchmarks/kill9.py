"""kill -9 at random moments: nothing is lost but the step in flight, and what is finished in the end is what an uninterrupted run makes.

    python benchmarks/kill9.py [--kills 100] [--pairs 20] [--only profile search ...]

Each verb (profile, train, fit-predictor, finish, search) runs in a process of its own that is killed at a random moment of its work and
started again, until it has been killed so many times in all; each time that it reaches its end, its results are compared with those of
a run that nobody disturbed, and the next begins anew. Then pairs of processes write one output at once: the loser must be told why, and
the output must be whole. Latencies differ from run to run, so the devices here are analytic ones; of ``finish`` all but its latencies is
compared.
Exits with 1 where anything was lost or damaged.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BEGIN = """
import sys
import numpy as np
import hwsearch
from hwsearch.spaces import Chain, Stage
def stage(*, stride=1, kind="basic"):
    return Stage(depths=(1, 2), outs=(8, 16), mids=(4, 8), stride=stride, kind=kind)
space = Chain("small", (8,), (8,), (stage(), stage(stride=2, kind="bottleneck")), 10, ("fp32", "int8"), channels=1).space()
folder, given = sys.argv[1:3]
quiet = {"progress": False}
"""
_READY = "print('ready', flush=True)\n"


@dataclass(frozen=True)
class Verb:
    """What is killed.

    Attributes:
        program: its arguments are the folder of its output and the folder of its input; it prints ``ready`` when its work begins.
        output: the file that two processes fight for.
        result: what must be equal to an uninterrupted run, from the folder.
        needs: the verbs whose results it reads.
    """

    program: str
    output: str
    result: Callable[[Path], object]
    needs: tuple[str, ...] = ()


def _bytes(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).read_bytes() for name in names]


def _json(name: str, *without: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        document = json.loads((folder / name).read_bytes())
        return {key: value for key, value in document.items() if key not in without}

    return read


VERBS = {
    "profile": Verb(
        f"{_READY}effort = hwsearch.profiling.Effort(precision=1e-9, max_rounds=40)\n"
        "hwsearch.profile(space, backend='roofline', out=f'{folder}/t.json', effort=effort, **quiet)",
        "t.json",
        _bytes("t.json"),
    ),
    "train": Verb(
        f"from hwsearch.nn import train\n{_READY}train(space, data='digits', out=f'{{folder}}/w.safetensors', "
        "recipe=dict(epochs=2), **quiet)",
        "w.safetensors",
        _bytes("w.safetensors"),
    ),
    "fit-predictor": Verb(
        "from hwsearch.nn import Sampling, fit_predictor\n"
        f"{_READY}fit_predictor(space, weights=f'{{given}}/w.safetensors', data='digits', out=f'{{folder}}/p.npz', "
        "sampling=Sampling(networks=40, images=200), **quiet)",
        "p.npz",
        _bytes("p.npz", "p.scores.npz"),
        ("train",),
    ),
    "finish": Verb(
        "from hwsearch.nn import finish\n"
        "row = space.sample(1, np.random.default_rng(5))[0]\n"
        f"{_READY}finish(space.architecture(row), data='digits', out=folder, weights=f'{{given}}/w.safetensors', "
        "recipe=dict(epochs=2), **quiet)",
        "finished.json",
        lambda folder: [_bytes("float.safetensors", "best.onnx")(folder), _json("finished.json", "latency_ms", "spread_ms")(folder)],
        ("train",),
    ),
    "search": Verb(
        "table = hwsearch.load_table(f'{given}/t.json')\n"
        "score = hwsearch.load_predictor(f'{given}/p.npz', space)\n"
        f"{_READY}hwsearch.search(space, device=table, predictor=score, limits={{'latency_ms': 0.03}}, algorithm='evolution', "
        "run=hwsearch.Run(steps=40, state=f'{folder}/state.npz')).save(f'{folder}/r.json')",
        "state.npz",
        _json("r.json", "provenance"),
        ("profile", "train", "fit-predictor"),
    ),
}


def _start(verb: Verb, folder: Path, given: Path) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", _BEGIN + verb.program, str(folder), str(given)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"it did not begin: {process.communicate()[1]}")


def _undisturbed(verb: Verb, folder: Path, given: Path) -> float:
    """Run a verb to its end; returns how long its work took, in seconds."""
    folder.mkdir()
    process = _start(verb, folder, given)
    _ready(process)
    began = time.monotonic()
    said = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"it failed undisturbed: {said}")
    return time.monotonic() - began


def killed(verb: Verb, place: Path, given: Path, kills: int, rng: np.random.Generator) -> tuple[int, int, list[str]]:
    """Kill a verb so many times; returns the kills, the runs that reached their end, and what was wrong."""
    lasts, wanted = _undisturbed(verb, place / "whole", given), None
    wanted = verb.result(place / "whole")
    done, runs, wrong = 0, 0, []
    while done < kills:
        runs += 1
        folder = place / f"run{runs}"
        folder.mkdir()
        while True:
            process = _start(verb, folder, given)
            _ready(process)
            try:
                said = process.communicate(timeout=None if done == kills else rng.uniform(0.0, lasts))[1]
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                done += 1
                print(f"{done} kills in {runs} runs", file=sys.stderr, flush=True)
                continue
            break
        if process.returncode:
            wrong.append(f"run {runs}: {said.strip().splitlines()[-1]}")
        elif verb.result(folder) != wanted:
            wrong.append(f"run {runs}: its results are not those of an undisturbed run")
        if left := [path.name for path in folder.iterdir() if path.name.endswith((".tmp", ".lock", ".partial.jsonl", ".partial"))]:
            wrong.append(f"run {runs}: it leaves {', '.join(left)}")
    return done, runs, wrong


def paired(verb: Verb, place: Path, given: Path, wanted: object, pairs: int) -> tuple[int, list[str]]:
    """Start a verb twice at once on one output; returns how often one was refused with the reason, and what was wrong."""
    refused, wrong = 0, []
    for number in range(pairs):
        folder = place / f"pair{number}"
        folder.mkdir()
        both = [_start(verb, folder, given) for _ in range(2)]
        for process in both:
            _ready(process)
        ended = [(process.communicate()[1], process.returncode) for process in both]
        losers = [said for said, code in ended if code]
        refused += len(losers)
        for said in losers:
            if "InUse: " not in said or "is being written by process" not in said:
                wrong.append(f"pair {number}: {said.strip().splitlines()[-1]}")
        if len(losers) == 2 or verb.result(folder) != wanted:
            wrong.append(f"pair {number}: its results are not those of an undisturbed run")
    return refused, wrong


def main() -> None:
    """Kill, and let pairs compete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="of each verb")
    parser.add_argument("--pairs", type=int, default=20, help="of each verb")
    parser.add_argument("--only", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, faults = np.random.default_rng(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        given = place / "given"
        given.mkdir()
        for before in [each for each in VERBS if any(each in VERBS[chosen].needs for chosen in options.only)]:
            made = place / f"given-{before}"
            _undisturbed(VERBS[before], made, given)
            for path in made.iterdir():
                path.rename(given / path.name)
        for chosen in options.only:
            verb, own = VERBS[chosen], place / chosen
            own.mkdir()
            done, runs, wrong = killed(verb, own, given, options.kills, rng)
            refused, more = paired(verb, own, given, verb.result(own / "whole"), options.pairs)
            faults += len(wrong) + len(more)
            print(
                f"{chosen}: killed {done} times in {runs} runs, {options.pairs} pairs of which {refused} processes were refused", flush=True
            )
            print(*(f"    {one}" for one in wrong + more), sep="\n", end="\n" * bool(wrong + more), flush=True)
    print(f"{faults} faults")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
