"""What wants a GPU: tables of every runtime that is there, dense networks against searched ones, and a supernet of CIFAR-10.

    python benchmarks/gpu/run.py --out gpu-output --cifar10 DIR

Works for --minutes (9) and ends with code 75 where there is more to do: call it again, or let run_all.sh do so. Each piece is a process of
its own, can be killed, and goes on where it was; a piece that fails is noted and the others go on. OUT then holds

    facts.json          the GPU, its clocks, versions, and which runtimes were found
    tables/             latency tables, their whole-network checks inside
    results/            dense against searched networks, the supernet's accuracies
    logs/               what each piece said
    summary.md          all of it on one page

--dry does the same on a CPU with tiny networks, to try the script.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import hwsearch
from hwsearch import SearchSpace
from hwsearch._files._writing import write_atomic
from hwsearch.backends import Backend, load_backend
from hwsearch.errors import HwsearchError
from hwsearch.profiling import Effort
from hwsearch.spaces import Chain, Stage
from hwsearch.spaces.library import resnet50, resnet_cifar

MORE = 75
MACS_RATIO = 1.648 / 4.089
"""MACs of the network that won the open division of MLPerf Inference v0.7, of those of the dense one."""
INSPUR = {1: 1.24, 256: 1.84}
"""What it gained on an A100 at batch 1 (SingleStream) and in large batches (Offline)."""
RUNTIMES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tensorrt", {}),
    ("onnxruntime-tensorrt", {}),
    ("onnxruntime-cuda", {}),
    ("torch", {"device": "cuda", "mode": "graph"}),
    ("torch", {"device": "cuda", "mode": "compile"}),
)
DRY_RUNTIMES: tuple[tuple[str, dict[str, Any]], ...] = (("onnxruntime", {}), ("torch", {"device": "cpu", "mode": "eager"}))


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        batches: of ``resnet50`` on the first runtime; everything else is measured at the first of these.
        tables: how the tables of the two spaces are made.
        share: of the MACs allowed that a compared network has at least.
        rounds: for whole networks.
        epochs, samples, images: of the supernet, and for its predictor.
    """

    batches: tuple[int, ...] = (1, 8, 64, 256)
    tables: Mapping[str, Effort] = field(default_factory=lambda: {"resnet50": Effort(budget="25m"), "resnet_cifar": Effort(budget="10m")})
    share: float = 0.97
    rounds: int = 40
    epochs: int = 60
    samples: int = 400
    images: int = 2000


_ROUGH = Effort(max_rounds=2, precision=0.5, checks=12, fits=4)
TINY = Scale((1, 2), {"resnet50": _ROUGH, "resnet_cifar": _ROUGH}, 0.85, 2, 2, 24, 100)


class Run:
    """One run of the script: where it writes, and what it takes.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.dry, self.cifar10 = Path(options.out), options.dry, options.cifar10
        self.scale, self.found = TINY if options.dry else Scale(), self.out / "facts.json"

    def pieces(self) -> dict[str, Callable[[], object]]:
        """Everything there is to do, in order; what to do depends on the runtimes that the first piece has found."""
        found: dict[str, Callable[[], object]] = {"facts": self.facts}
        if not self.found.exists():
            return found
        names = list(self.runtimes)
        for number, name in enumerate(names):
            for batch in self.scale.batches if number == 0 else self.scale.batches[:1]:
                for space in self.scale.tables if batch == self.scale.batches[0] else ["resnet50"]:
                    found[f"profile-{space}-{name}-b{batch}"] = partial(self.profile, space, name, batch)
                found[f"compare-{name}-b{batch}"] = partial(self.compare, name, batch)
        if names and (self.cifar10 or self.dry):
            found |= {"train": self.train, "fit-predictor": self.fit_predictor, "deploy": partial(self.deploy, names[0])}
        return found | {"summary": self.summary}

    # -- pieces --------------------------------------------------------------------------------------------------------

    @property
    def runtimes(self) -> dict[str, Any]:
        """Label -> name and options of the runtimes that were found."""
        found: dict[str, Any] = json.loads(self.found.read_text())["runtimes"]
        return found

    def facts(self) -> None:
        """What is here."""
        runtimes, absent = {}, {}
        for name, options in DRY_RUNTIMES if self.dry else RUNTIMES:
            label = "-".join([name, *([options["mode"]] if "mode" in options else [])])
            try:
                device = load_backend(name, **options).describe()
                runtimes[label] = {"name": name, "options": options, "version": device.runtime_version, "facts": dict(device.facts)}
            except HwsearchError as error:
                absent[label] = str(error)
        gpu = ""
        if shutil.which("nvidia-smi"):
            gpu = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, check=False).stdout
        facts = {"dry": self.dry, "python": platform.python_version(), "hwsearch": hwsearch.__version__, "runtimes": runtimes}
        write_json(self.found, {**facts, "absent": absent, "nvidia-smi": gpu.splitlines()})
        print(f"runtimes: {', '.join(runtimes) or 'none'}", *(f"{name}: {why}" for name, why in absent.items()), sep="\n")

    def backend(self, label: str, batch: int) -> Backend:
        """A runtime at a batch."""
        return load_backend(self.runtimes[label]["name"], **self.runtimes[label]["options"], batch=batch)

    def space(self, name: str, precisions: Sequence[str]) -> SearchSpace:
        """A space in the precisions that a runtime has."""
        if self.dry:
            return tiny(name, 3 if name == "resnet50" else 1, tuple(precisions))
        return resnet50.build(precisions=tuple(precisions)) if name == "resnet50" else cifar(tuple(precisions))

    def table_path(self, space: str, label: str, batch: int) -> Path:
        """Where a table is."""
        return self.out / "tables" / f"{space}-{label}-b{batch}.json"

    def profile(self, space: str, label: str, batch: int) -> None:
        """A latency table."""
        backend = self.backend(label, batch)
        wanted = ("fp32", "fp16", "int8") if space == "resnet50" else ("fp32", "int8")
        precisions = [name for name in wanted if name in backend.precisions]
        out = self.table_path(space, label, batch)
        print(hwsearch.profile(self.space(space, precisions), backend=backend, out=out, progress=False, effort=self.scale.tables[space]))

    def compare(self, label: str, batch: int) -> None:
        """Dense networks against the fastest one with the MACs and weights of the original."""
        table = hwsearch.load_table(self.table_path("resnet50", label, batch))
        space = self.space("resnet50", [name for name in ("fp32", "fp16", "int8") if name in table.precisions])
        macs = hwsearch.metric("macs", space)
        whole = hwsearch.searching.dense(space, table.precisions[0])
        most = MACS_RATIO * macs(whole.genes[None])[0]
        kept = {choice.name: choice.values[-1:] for choice in space.choices if choice.name.endswith(("resolution", ".depth"))}
        networks = {f"dense {name}": hwsearch.searching.dense(space, name).blocks() for name in space_precisions(space)}
        for name, where in (("searched, its depths and resolution kept", space.restrict(kept)), ("searched", space)):
            found = hwsearch.cheapest(
                where, "latency_ms", self.scale.share * most, predictor=macs, device=table, limits={"macs": most}, seed=0
            )
            networks[name] = found.best.blocks()
        measured = hwsearch.measure(list(networks.values()), backend=self.backend(label, batch), rounds=self.scale.rounds, table=table)
        rows = [
            {
                "network": name,
                "macs": sum(block.macs for block in blocks),
                "params": sum(block.params for block in blocks),
                "predicted_ms": table.predict(blocks, interpolate=True),
                "measured_ms": one.latency_ms,
                "spread_ms": one.spread_ms,
                "images_per_s": 1e3 * batch / one.latency_ms,
            }
            for (name, blocks), one in zip(networks.items(), measured, strict=True)
        ]
        document = {"runtime": label, "batch": batch, "device": asdict(table.device), "table_error": table.error(), "networks": rows}
        write_json(self.out / "results" / f"compare-{label}-b{batch}.json", document)
        for row in rows:
            print(row)

    @property
    def data(self) -> Any:
        """The images."""
        return "digits" if self.dry else ("cifar10", self.cifar10)

    @property
    def trained_space(self) -> SearchSpace:
        """The space of the supernet."""
        return self.space("resnet_cifar", ("fp32", "int8"))

    def train(self) -> None:
        """The supernet; its state is on disk every few steps."""
        recipe = {"epochs": self.scale.epochs}
        hwsearch.train(self.trained_space, data=self.data, out=self.out / "supernet.safetensors", recipe=recipe, progress=False)

    def fit_predictor(self) -> None:
        """Its predictor."""
        sampling = hwsearch.nn.Sampling(networks=self.scale.samples, images=self.scale.images)
        given, out = self.out / "supernet.safetensors", self.out / "predictor.npz"
        predictor = hwsearch.fit_predictor(self.trained_space, weights=given, data=self.data, out=out, sampling=sampling, progress=False)
        print(predictor.report)

    def deploy(self, label: str) -> None:
        """The searched network against uniform widths at a few latencies: accuracy on test images, latency on the device."""
        space, weights = self.trained_space, self.out / "supernet.safetensors"
        table = hwsearch.load_table(self.table_path("resnet_cifar", label, self.scale.batches[0]))
        predictor = hwsearch.load_predictor(self.out / "predictor.npz", space)
        usable = space.restrict({"*precision": table.precisions})
        largest = min(table.predict(hwsearch.searching.dense(usable, name).blocks(), interpolate=True) for name in space_precisions(usable))
        networks = {}
        for level in (0.8, 0.6):
            limits = {"latency_ms": level * largest}
            try:
                networks[f"uniform {level}"] = hwsearch.searching.uniform(usable, limits=limits, device=table, predictor=predictor)
                found = hwsearch.search(usable, device=table, predictor=predictor, limits=limits, run=hwsearch.Run(progress=False))
                networks[f"searched {level}"] = found.best
            except hwsearch.Infeasible as error:
                print(error)
        blocks = [network.blocks() for network in networks.values()]
        backend = self.backend(label, self.scale.batches[0])
        measured = hwsearch.measure(blocks, backend=backend, rounds=self.scale.rounds, table=table) if blocks else []
        rows = [
            {
                "network": name,
                "test_accuracy": hwsearch.evaluate(network, weights=weights, data=self.data, split="test"),
                "measured_ms": one.latency_ms,
                "spread_ms": one.spread_ms,
            }
            for (name, network), one in zip(networks.items(), measured, strict=True)
        ]
        write_json(self.out / "results" / "deploy.json", {"runtime": label, "device": asdict(table.device), "networks": rows})

    def summary(self) -> None:
        """One page."""
        lines = ["# What was measured", ""]
        if self.dry:
            lines += ["**A dry run on a CPU with tiny networks: no figure here means anything.**", ""]
        for path in sorted((self.out / "tables").glob("*.json")):
            lines.append(f"- `tables/{path.name}`: {hwsearch.load_table(path)!r}")
        lines += ["", "| runtime | batch | network | GMACs | M weights | ms | images/s | against dense | Inspur, A100 |", "|---" * 9 + "|"]
        for path in sorted((self.out / "results").glob("compare-*.json")):
            document = json.loads(path.read_text())
            slow = min(row["measured_ms"] for row in document["networks"] if row["network"].startswith("dense"))
            for row in document["networks"]:
                searched = row["network"].startswith("searched")
                theirs = f"{INSPUR[document['batch']]:.2f}x" if searched and not self.dry and document["batch"] in INSPUR else ""
                cells = [document["runtime"], document["batch"], row["network"], f"{row['macs'] / 1e9:.3f}", f"{row['params'] / 1e6:.2f}"]
                cells += [f"{row['measured_ms']:.4f}", f"{row['images_per_s']:,.0f}", f"{slow / row['measured_ms']:.2f}x", theirs]
                lines.append(f"| {' | '.join(map(str, cells))} |")
        deployed = self.out / "results" / "deploy.json"
        if deployed.exists():
            lines += ["", f"| {'digits' if self.dry else 'CIFAR-10'} network | test accuracy | ms |", "|---|---|---|"]
            for row in json.loads(deployed.read_text())["networks"]:
                lines.append(f"| {row['network']} | {row['test_accuracy']:.2%} | {row['measured_ms']:.4f} |")
        failed = sorted((self.out / "failed").glob("*.txt"))
        lines += ["", "Failed:", *(f"- {path.stem}: {path.read_text().strip()}" for path in failed)] if failed else []
        write_atomic(self.out / "summary.md", ("\n".join(lines) + "\n").encode())
        print("\n".join(lines))


def tiny(name: str, channels: int, precisions: tuple[str, ...]) -> SearchSpace:
    """A space for dry runs."""
    stages = (Stage((1, 2), (8, 16), (8, 16, 24)), Stage((1,), (16, 32), (8, 16, 24), stride=2))
    return Chain(name, (8,), (8,), stages, 10, channels=channels, precisions=precisions).space()


def cifar(precisions: tuple[str, ...]) -> SearchSpace:
    """The space ``resnet_cifar`` in some precisions."""
    return replace(resnet_cifar.CHAIN, precisions=precisions).space()


def space_precisions(space: SearchSpace) -> list[str]:
    """The precisions that every block may have."""
    genes = [choice.values for choice in space.choices if choice.is_precision]
    return [str(name) for name in (genes[0] if genes else ("fp32",)) if all(name in values for values in genes)]


def write_json(path: Path, document: object) -> None:
    """Write a document, whole or not at all."""
    write_atomic(path, json.dumps(document, indent=1).encode() + b"\n")


def finish(command: list[str], log: Path, until: float) -> int | None:
    """Run a piece with its words in a log; ``None`` where it was stopped because the time was up."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        try:
            return process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return None
        except BaseException:
            process.kill()
            process.wait()
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Do pieces until the time is up; 75 where there is more to do, 1 where a piece has failed."""
    parser = argparse.ArgumentParser(description="Everything that wants a GPU, in pieces.")
    parser.add_argument("--out", type=Path, default=Path("gpu-output"))
    parser.add_argument("--cifar10", type=Path, help="holds cifar-10-batches-py; without it no supernet is trained")
    parser.add_argument("--minutes", type=float, default=9.0, help="how long to work before handing back")
    parser.add_argument("--dry", action="store_true", help="tiny networks on the CPU, to try the script")
    parser.add_argument("--only", help="do this piece, here and now")
    options = parser.parse_args(arguments)
    run = Run(options)
    if options.only:
        run.pieces()[options.only]()
        return 0
    until = time.monotonic() + 60 * options.minutes
    done, failed = run.out / "done", run.out / "failed"
    while True:
        left = [name for name in run.pieces() if not (done / name).exists() and not (failed / f"{name}.txt").exists()]
        if not left:
            return 1 if failed.exists() else 0
        name = left[0]
        command = [sys.executable, __file__, "--out", str(run.out), "--only", name]
        command += [*(["--dry"] if run.dry else []), *(["--cifar10", str(run.cifar10)] if run.cifar10 else [])]
        print(f"{time.strftime('%H:%M:%S')} {name} ({len(left)} pieces left)", flush=True)
        log = run.out / "logs" / f"{name}.log"
        code = finish(command, log, until)
        if code is None:
            return MORE
        if code:
            write_atomic(failed / f"{name}.txt", (log.read_text().strip().splitlines() or ["it said nothing"])[-1].encode())
        else:
            write_atomic(done / name, b"")


if __name__ == "__main__":
    sys.exit(main())
