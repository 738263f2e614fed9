"""Every format that hwsearch reads: a whole file of it, as small as can be, and all that is done with such a file once it is read."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from conftest import make_table
from mutants import mutated
from rich.console import Console

import hwsearch
from hwsearch import interop
from hwsearch.algorithms import Problem, load_algorithm
from hwsearch.backends._nvidia._build import Target, load_engine, save_engine
from hwsearch.backends.replay import Recording, Replay
from hwsearch.devices import Check, Protocol
from hwsearch.errors import FileError, HwsearchError
from hwsearch.networks import Block
from hwsearch.profiling import _journal
from hwsearch.profiling import _mlperf as loadgen
from hwsearch.profiling._rounds import Rounds
from hwsearch.profiling.remote import _board
from hwsearch.reports import _terminal
from hwsearch.reports._formats import describe
from hwsearch.scores import Predictor, load_predictor
from hwsearch.searching import Finished, load_finished, load_result, load_state, save_state
from hwsearch.searching.verify._loop import _Memory
from hwsearch.spaces import Chain, Stage

Use = Callable[[Path], object]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: what it is.
        kind: as of :func:`mutants.mutated`.
        file: name of the file, in a folder of its own.
        whole: the content of a whole file.
        use: reads the file at a path and does with it what users do.
        others: whole files that must stand beside it, by name.
    """

    name: str
    kind: str
    file: str
    whole: bytes
    use: Use
    others: tuple[tuple[str, bytes], ...] = ()

    def put(self, folder: Path, content: bytes) -> Path:
        """Write the content, and what must stand beside it."""
        for name, data in self.others:
            (folder / name).write_bytes(data)
        path = folder / self.file
        path.write_bytes(content)
        return path


@cache
def space() -> hwsearch.SearchSpace:
    """A space of few and small blocks."""
    stage = Stage(depths=(1, 2), outs=(8, 16), mids=(4, 8))
    return Chain("tiny", (8,), (8,), (stage,), 4, ("fp32", "int8"), channels=1).space()


@cache
def problem() -> Problem:
    """What the searches here search."""
    predictor = Predictor.fit(space(), _rows(14), _scores_of(_rows(14)), kind="linear")
    return Problem.of(space(), predictor=predictor, device=make_table(space().unique_blocks), limits={"latency_ms": 1e3})


def _scores_of(X: Any) -> Any:
    return np.asarray(X, dtype=np.float64).sum(axis=1) / 100


def _rows(count: int) -> Any:
    return space().sample(count, np.random.default_rng(0))


def _shown(path: Path) -> None:
    """As ``hwsearch show`` prints it."""
    console = Console(file=open(os.devnull, "w", encoding="utf-8"), width=120)  # noqa: SIM115 - closed below
    try:
        console.print(describe(path))
    finally:
        console.file.close()


def _content(folder: Path, write: Callable[[Path], object], name: str) -> bytes:
    write(folder / name)
    return (folder / name).read_bytes()


# -- hwsearch's own files --------------------------------------------------------------------------------------------------


def _use_table(path: Path) -> None:
    table = hwsearch.load_table(path)
    repr(table), table.error(), table.precisions
    for key in table.rows:
        table.lookup(Block.parse(key))
        table.lookup(replace(Block.parse(key), cin=24), interpolate=len(table.rows) > 2)
    table.save(path.with_name("again.json"))
    _shown(path)


def _table(folder: Path) -> bytes:
    table = make_table(space().blocks(_rows(1)[0]))
    keys = tuple(table.rows)
    checks = (Check("fit", keys, 1.0, 0.1), Check("check", keys[:2], 2.0, 0.1), Check("check", keys, 1.5, 0.1))
    return _content(folder, replace(table, spent_s=1.0).calibrate(checks).save, "table.json")


def _predictors(folder: Path) -> Iterator[Format]:
    X = _rows(14)
    y = _scores_of(X) + 0.01 * np.random.default_rng(0).standard_normal(len(X))

    def use(path: Path) -> None:
        found = load_predictor(path, space())
        repr(found), str(found.report), found.tables
        assert np.isfinite(found(_rows(3))).all()
        assert np.isfinite(found.std(_rows(3))).all()

    options: dict[str, dict[str, Any]] = {"mlp": {"hidden": (4,), "members": 2}, "trees": {"trees": 2, "depth": 2, "members": 2}}
    for kind in ("mlp", "linear", "trees", "gp"):
        made = Predictor.fit(space(), X, y, kind=kind, **options.get(kind, {}))
        yield Format(f"predictor {kind}", "npz", "predictor.npz", _content(folder, made.save, "p.npz"), use)


def _result(folder: Path) -> Format:
    from hwsearch.searching import Checked, Round, Verification

    posed = problem()
    found = hwsearch.search(
        space(), predictor=posed.score, device=make_table(space().unique_blocks), limits={"latency_ms": 1e3}, run=hwsearch.Run(steps=2)
    )
    one = Checked(tuple(map(int, found.best.genes)), {"score": 0.5, "latency_ms": 0.1}, {"score": 0.4, "latency_ms": 0.2})
    verified = Verification({"score": 0.005, "latency_ms": 0.1}, (Round((one,), agreed=True),))
    cut = slice(0, 3)
    front = replace(
        found.front, X=found.front.X[cut], scores=found.front.scores[cut], values={n: v[cut] for n, v in found.front.values.items()}
    )
    whole = replace(found, front=front, history=found.history[:3], verification=verified, bound=1.0, cautions=("one",))

    def use(path: Path) -> None:
        result = load_result(path, space())
        repr(result), result._repr_html_(), result.gap, result.tightness, result.to_frame()
        result.save(path.with_name("again.json"))
        console = Console(file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - closed below
        console.print(_terminal.search_result(result, path))
        console.file.close()

    return Format("result", "json", "result.json", _content(folder, whole.save, "r.json"), use)


def _architecture(folder: Path) -> Format:
    made = space().architecture(_rows(1)[0])

    def use(path: Path) -> None:
        found = hwsearch.Architecture.from_json(path, space())
        str(found), repr(found), found.blocks()

    return Format("architecture", "json", "a.json", _content(folder, made.to_json, "a.json"), use)


def _finished(folder: Path) -> Format:
    files, sizes = {"weights": "float.safetensors", "model": "best.onnx"}, {"macs": 1000, "params": 100, "size_mb": 0.1}
    figures = {"accuracy": 0.9, "float_accuracy": 0.91, "teacher_accuracy": 0.95, "latency_ms": 0.5, "spread_ms": 0.01, "teacher_ms": 2.0}
    facts: dict[str, Any] = {**files, **sizes, **figures, "tuned": True, "device": "here"}
    made = Finished(**facts, architecture=space().architecture(_rows(1)[0]))

    def use(path: Path) -> None:
        found = load_finished(path, space())
        assert 0 <= min(found.accuracy, found.float_accuracy) <= max(found.accuracy, found.float_accuracy) <= 1
        assert min(found.latency_ms, found.size_mb, found.macs, found.params) > 0
        found.save(path.with_name("again.json"))

    return Format("finished network", "json", "finished.json", _content(folder, made.save, "f.json"), use)


def _protocol() -> Protocol:
    return Protocol(min_rounds=1, max_rounds=4, sentinel=space().unique_blocks[0].key)


def _header() -> dict[str, Any]:
    return _journal.make_header(hwsearch.backends.Roofline().describe(), _protocol(), "tiny", space().fingerprint, 0)


def _round(number: int) -> dict[str, Any]:
    return {"round": number, "times": {"one": [0.5, 0.1], "two": [0.7 + number, 0.1, 2.0]}, "failed": {"three": "no"}}


def _lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def _profile_journal() -> Format:
    def use(path: Path) -> None:
        def closed() -> Any:
            raise AssertionError("nothing is measured here")

        rounds = Rounds(dict.fromkeys(("one", "two", "three"), closed), closed, _protocol(), 0)
        for record in _journal.resume(hwsearch._files._writing.Journal(path), _header()):  # type: ignore[attr-defined]
            rounds.add(record)
        rounds.pending(), rounds.progress()
        for name, readings in rounds.readings.items():
            if readings:
                row = rounds.row(name)
                assert row.latency_ms > 0
                assert np.isfinite([row.latency_ms, row.spread_ms]).all()

    return Format("profile journal", "jsonl", "t.json.partial.jsonl", _lines(_header(), _round(1), _round(2)), use)


def _plan() -> Format:
    run = {key: value for key, value in _header().items() if key != "device"}
    run |= {"backend": "roofline", "options": {}, "checks": 12, "fits": 4, "blocks": None}
    document = {"format": _board.FORMAT, "version": _board.VERSION, "run": run, "sentinel": "a.onnx.gz", "things": {"one": "b.onnx.gz"}}

    def use(path: Path) -> None:
        with suppress(FileError), redirect_stdout(None):  # its models are not there
            _board.run(path.parent)

    return Format("plan", "json", "plan.json", json.dumps(document).encode(), use)


def _returned() -> Format:
    from hwsearch.profiling import Effort, collect
    from hwsearch.profiling._planning import plan_space
    from hwsearch.profiling._workbench import Here

    backend, blocks = hwsearch.backends.Roofline(), [space().unique_blocks[1]]
    effort = Effort(max_rounds=2, blocks=blocks)
    table = hwsearch.LatencyTable(backend.describe(), effort.protocol(backend.precisions), {})
    run = plan_space(space(), Here(backend), table, effort, 0)
    header = {**run.header} | {
        "backend": "roofline",
        "options": {},
        "energy": "estimated",
        "checks": 12,
        "fits": 0,
        "blocks": [blocks[0].key],
    }
    rounds = [{"round": number, "times": {name: [0.5, 0.1] for name in run.networks}} for number in (1, 2)]

    def use(path: Path) -> None:
        repr(collect(space(), path.parent, out=path.with_name("t.json")))

    return Format("results of jobs", "jsonl", "journal.jsonl", _lines(header, *rounds), use)


def _recording(folder: Path) -> Format:
    block = space().unique_blocks[1]

    def record(path: Path) -> None:
        recorder = Recording(hwsearch.backends.Roofline(), path)
        recorder.framed(block)
        with recorder.open((block,)) as session:
            session.times(2)

    def use(path: Path) -> None:
        found = Replay(path)
        repr(found.describe()), found.precisions
        for network in found.networks:
            with found.open(network) as session:
                assert (session.times(3) > 0).all()
                repr(session.energy_mj)
        if found.supports(block):
            found.framed(block)

    return Format("recording", "jsonl", "r.jsonl", _content(folder, record, "rec.jsonl"), use)


def _verification_journal() -> Format:
    row = bytes(_rows(1)[0]).hex()
    header = {"format": "hwsearch-verification", "version": 1, "space": "tiny", "fingerprint": space().fingerprint, "verifier": "mine"}
    whole = _lines(header, {"name": "score", "values": {row: 0.9}}, {"name": "latency_ms", "values": {row: 0.5}})

    class Mine:
        name = "mine"

    def use(path: Path) -> None:
        memory = _Memory(Mine(), space(), path.with_name("state"))  # type: ignore[arg-type]
        for name, values in memory.known.items():
            for genes, value in values.items():
                space().architecture(np.frombuffer(genes, np.uint8))
                assert np.isfinite(value)
                assert name == "score" or value > 0

    return Format("verification journal", "jsonl", "state.verified.jsonl", whole, use)


def _states(folder: Path) -> Iterator[Format]:
    for name in ("memetic", "evolution", "nsga2", "random", "local"):
        posed = problem()
        method = load_algorithm(name, posed)
        state = hwsearch.init(posed, method, 3)
        for _ in range(2):
            state = hwsearch.step(state)

        def use(path: Path, method: Any = method, posed: Problem = posed) -> None:
            found = load_state(path, posed, method, 3)
            if not method.done(found.memory):
                found = hwsearch.step(found)
            hwsearch.result(found)

        whole = _content(folder, lambda path, s=state: save_state(s, path), "s.npz")  # type: ignore[misc]
        yield Format(f"state {name}", "npz", "state.npz", whole, use)


def _loadgen() -> Format:
    entries = {"result_90.00_percentile_latency_ns": 5e6, "result_validity": "VALID", "result_query_count": 10, "early_stopping_met": True}
    lines = [f":::MLLOG {json.dumps({'key': key, 'value': value})}" for key, value in entries.items()]
    text = "\n".join(lines).encode()
    device = hwsearch.backends.Roofline().describe()

    def use(path: Path) -> None:
        repr(loadgen._read(path.parent, "a.onnx", "SingleStream", True, device))

    return Format("log of LoadGen", "bytes", loadgen._LOG, text, use)


def _engines(folder: Path) -> Iterator[Format]:
    target = Target("10.0", ("86",), "A GPU")
    save_engine(folder / "e.engine", b"plan" * 20, target)
    plan, note = (folder / "e.engine").read_bytes(), (folder / "e.engine.json").read_bytes()
    yield Format("engine", "bytes", "e.engine", plan, lambda path: load_engine(path, target), (("e.engine.json", note),))
    yield Format(
        "engine's note", "json", "e.engine.json", note, lambda path: load_engine(path.with_suffix(""), target), (("e.engine", plan),)
    )


# -- files with weights ----------------------------------------------------------------------------------------------------


def _weights(folder: Path) -> Iterator[Format]:
    import torch

    from hwsearch.nn import Recipe, Supernet, load_coded, load_data, save_coded
    from hwsearch.nn.published._state import read_state
    from hwsearch.nn.training._loop import Training
    from hwsearch.nn.training._losses import Sandwich
    from hwsearch.nn.training._processes import processes

    data = load_data("digits")
    supernet = Supernet(space(), 0)
    supernet.normalize, supernet.images, supernet.facts = data.normalize, data.calibration_images(0)[:4], {"data": "digits", "seed": 0}

    def use_supernet(path: Path) -> None:
        _shown(path)
        found = Supernet.load(path, space())
        found.activate(found.largest)
        with torch.inference_mode():
            found(found.normalize(found.calibration()) if found.normalize else torch.zeros(1, 1, 8, 8))

    yield Format("supernet", "safetensors", "s.safetensors", _content(folder, supernet.save, "s.safetensors"), use_supernet)

    recipe = Recipe(epochs=1, batch=64, ema=0.9)
    training = Training(Sandwich(supernet, recipe, None), data, recipe, 0, processes())
    facts: dict[str, Any] = {"data": "digits", "recipe": {}}
    training.partial, training.facts, training.step = folder / "s.partial", facts, 1
    state = _content(folder, lambda path: training.save(), "s.partial")
    yield Format("training state", "safetensors", "s.partial", state, lambda path: training.resume(path, facts))

    whole = Supernet(space(), 0)
    whole.normalize, whole.images = data.normalize, data.calibration_images(0)[:4]
    row = whole.smallest

    def use_coded(path: Path) -> None:
        found = load_coded(path)
        repr(found)
        with torch.inference_mode():
            found.network(torch.zeros(1, 1, 8, 8))
        found.save(path.with_name("again.npz"))

    coded = _content(folder, lambda path: save_coded(space().architecture(row), weights=whole, out=path), "c.npz")
    yield Format("coded network", "npz", "c.npz", coded, use_coded)
    yield from _scores()

    tensors = {"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3), "b.half": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}

    def use_state(path: Path) -> None:
        for array in read_state(path).values():
            torch.from_numpy(array)
            assert np.isfinite(array).all()

    def saved(value: Any, **options: Any) -> Callable[[Path], None]:
        return lambda path: torch.save(value, path, **options)

    yield Format("checkpoint", "torch", "a.pth", _content(folder, saved({"state_dict": tensors, "epoch": 3}), "a.pth"), use_state)
    yield Format(
        "old checkpoint", "bytes", "a.pth", _content(folder, saved(tensors, _use_new_zipfile_serialization=False), "o.pth"), use_state
    )
    from safetensors.torch import save

    yield Format("foreign safetensors", "safetensors", "a.safetensors", save(tensors), use_state)
    yield from _adopted(folder)


def _adopted(folder: Path) -> Iterator[Format]:
    import torch

    from hwsearch.nn.adoption import load_network, save_adopted

    layers = torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1)
    there = save_adopted(hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(2, 1, 4, 4)), folder / "net")
    document, network = (there / "adopted.json").read_bytes(), (there / "network.safetensors").read_bytes()

    def use_network(path: Path) -> None:
        _shown(path)
        load_network(path)

    yield Format("adopted network", "safetensors", "network.safetensors", network, use_network)
    yield Format("adopted folder", "json", "adopted.json", document, _shown, (("network.safetensors", network),))


def _scores() -> Iterator[Format]:
    from hwsearch._files._writing import Journal
    from hwsearch.nn import _scores as samples

    header = {"format": samples.FORMAT, "version": 1, "space": "tiny", "fingerprint": space().fingerprint, "weights": "w", "data": "d"}
    header |= {"images": 10, "floating": False, "tuning": 0}
    rows = _rows(3)

    def use(path: Path) -> None:
        target = path.with_name("scores.npz")
        for key, value in samples.known_scores(target, Journal(f"{target}.partial.jsonl"), header, space()).items():
            space().architecture(np.frombuffer(key, np.uint8))
            assert 0 <= value <= 1

    lines = _lines(header, *({"row": bytes(row).hex(), "accuracy": 0.5} for row in rows))
    yield Format("journal of scores", "jsonl", "scores.npz.partial.jsonl", lines, use)
    from hwsearch._files._writing import write_arrays

    def write(path: Path) -> None:
        write_arrays(path, header, {"X": rows, "accuracy": np.array([0.1, 0.2, 0.3])})

    import tempfile

    with tempfile.TemporaryDirectory() as place:
        yield Format("file of scores", "npz", "scores.npz", _content(Path(place), write, "scores.npz"), use)


# -- files from elsewhere --------------------------------------------------------------------------------------------------


def _interop(folder: Path) -> Iterator[Format]:
    def use_table(read: Callable[[Path], hwsearch.LatencyTable]) -> Use:
        def use(path: Path) -> None:
            table = read(path)
            assert all(row.latency_ms > 0 for row in table.rows.values())
            repr(table), interop.problems(table)
            table.save(path.with_name("again.json"))

        return use

    entry = {"latency": 0.1, "energy": 0.2}
    apq = {"head": entry, "tail": entry, "(16, 32, 8, 3, 1, 1, 1)-W4A8": entry, "(16, 16, 8, 1, 1, 0, 1)-W8A8": entry}
    yield Format("table of APQ", "json", "apq.json", json.dumps(apq).encode(), use_table(interop.apq_table))

    widths = {str(width): 0.1 + 0.01 * width * width for width in (8, 16, 24, 32)}
    tfnas = {"base": 1.5, "MBInvertedResBlock_112_16_0_24_k3_s2_relu": widths, "MBInvertedResBlock_56_24_24_40_k5_s1_swish": widths}
    yield Format("table of TF-NAS", "json", "t.json", json.dumps(tfnas).encode(), use_table(interop.tfnas_table))

    shape = "expand:72-kernel:3-stride:1-idskip:1-se:0-hs:0"
    layers = {
        "Conv-input:160x160x3-output:80x80x16": 0.5,
        f"expanded_conv-input:40x40x24-output:40x40x24-{shape}": 0.2,
        "AvgPool2D-input:5x5x960-output:1x1x960": 0.1,
        "Conv_2-input:1x1x960-output:1x1x1280": 0.1,
        "Logits-input:1x1x1280-output:1000": 0.1,
    }
    text = "".join(f"{key}: {{count: 10, mean: {mean}, std: 0.01}}\n" for key, mean in layers.items()).encode()
    yield Format("table of Once-for-All", "yaml", "160_lookup_table.yaml", text, use_table(lambda path: interop.ofa_latency(path.parent)))

    yield from _ofa(folder)

    cycles = np.arange(1, 1 + 2 * 4 * 4).reshape(2, 4, 4).astype(np.float64)
    layers_of = {"parameters": [1.0, 2.0], "bops": [3.0, 4.0], "latency_int4": [0.1, 0.2], "latency_int8": [0.2, 0.3]}
    layers_of |= {"Hutchinson_trace": [1.0, 2.0], "delta_weights_4bit_square": [0.1, 0.1], "delta_weights_8bit_square": [0.01, 0.01]}

    def use_layers(read: Callable[[Path], interop.LayerTable]) -> Use:
        def use(path: Path) -> None:
            made = read(path).space()
            X = made.sample(4, np.random.default_rng(0))
            for cost in made.costs:
                values = hwsearch.metric(cost, made)(X)
                assert (values >= 0).all()

        return use

    yield Format(
        "table of HAQ", "npy", "haq.npy", _content(folder, lambda path: np.save(path, cycles), "haq.npy"), use_layers(interop.haq_table)
    )
    whole = json.dumps({"resnet18": layers_of}).encode()
    yield Format("table of HAWQ", "json", "hawq.json", whole, use_layers(lambda path: interop.hawq_table(path, "resnet18")))

    def use_benchmark(read: Callable[[Path], interop.Benchmark], cost: str) -> Use:
        def use(path: Path) -> None:
            found = read(path)
            for array in found.columns.values():
                assert not np.isinf(array).any()
            if cost in found.columns:
                found.score(cost)(found.space.sample(3, np.random.default_rng(0)))
                found.with_costs(latency_ms=cost)

        return use

    names = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
    cells = ["|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*edges) for edges in itertools.product(names, repeat=6)]
    table = "\r\n".join(["arch,acc", *(f"{cell},{index % 100}" for index, cell in enumerate(cells))]).encode()
    use = use_benchmark(interop.nasbench201, "acc")
    yield Format("NAS-Bench-201", "csv.gz", "nb201.csv.gz", gzip.compress(table, 1, mtime=0), use)
    macro = {
        "".join(map(str, key)): {"test_acc": [90, 91, 92], "mean_acc": 91.0, "std": 0.5, "params": 10, "flops": 20}
        for key in itertools.product(range(3), repeat=8)
    }
    yield Format("NAS-Bench-Macro", "json", "macro.json", json.dumps(macro).encode(), use_benchmark(interop.nasbench_macro, "mean_acc"))


def _ofa(folder: Path) -> Iterator[Format]:
    import torch
    from small_resnets import weights

    from hwsearch.nn.published._ofa import OfaSupernet
    from hwsearch.spaces.library import ofa_mobilenetv3

    def stage(name: str, out: int, kind: str, kernel: int = 1) -> Stage:
        return Stage(1, out, stride=1, kind=kind, kernel=kernel, activation="hswish", name=name)

    elastic = Stage(depths=(1, 2), outs=8, stride=2, kind="mbconv", kernel=(3, 5), expands=(3, 4), excited=True, activation="relu")
    stages = (stage("stem", 8, "conv", 3), stage("first", 8, "separable", 3), elastic, stage("final", 16, "conv"))
    small = Chain("ofa_mobilenetv3_tiny", (32,), (), stages, 10, (), mix=8, mix_activation="hswish", by_resolution=True).space()
    supernet = OfaSupernet(small)

    def use_supernet(path: Path) -> None:
        from hwsearch.nn.published._ofa import ofa_supernet

        ofa_supernet(path, small)

    def saved(value: Any) -> Callable[[Path], None]:
        return lambda path: torch.save(value, path)

    yield Format("supernet of Once-for-All", "torch", "o.pth", _content(folder, saved(supernet.published()), "o.pth"), use_supernet)

    mobile = ofa_mobilenetv3.build(1.0, (160, 176))
    rng = np.random.default_rng(0)
    layers = {"0.weight": rng.normal(size=(4, 128)), "0.bias": np.zeros(4), "2.weight": rng.normal(size=(1, 4)), "base_acc": np.ones(1)}
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in layers.items()}

    def use_predictor(path: Path) -> None:
        found = interop.ofa_predictor(path, mobile)
        assert np.isfinite(found(mobile.sample(2, rng))).all()

    yield Format("predictor of Once-for-All", "torch", "p.pth", _content(folder, saved(state), "p.pth"), use_predictor)
    architecture = mobile.architecture(mobile.sample(1, rng)[0])

    def use_architecture(path: Path) -> None:
        str(interop.ofa_architecture(path, mobile, 160))

    for name, document in (("setting", interop.ofa_setting(architecture)), ("network", interop.ofa_config(architecture))):
        yield Format(f"{name} of Once-for-All", "json", "net.config", json.dumps(document).encode(), use_architecture)

    def use_cifar(path: Path) -> None:
        repr(interop.cifar_resnet(path))

    def write(path: Path) -> None:
        np.savez(path, **weights(1))  # type: ignore[arg-type]

    yield Format("ResNet of CIFAR-10", "npz", "r.npz", _content(folder, write, "r.npz"), use_cifar)


def _own(folder: Path) -> Iterator[Format]:
    yield Format("table", "json", "table.json", _table(folder), _use_table)
    yield from _predictors(folder)
    yield _result(folder)
    yield _architecture(folder)
    yield _finished(folder)
    yield _profile_journal()
    yield _plan()
    yield _returned()
    yield _recording(folder)
    yield _verification_journal()
    yield from _states(folder)
    yield _loadgen()
    yield from _engines(folder)


WINGS: dict[str, Callable[[Path], Iterator[Format]]] = {"own": _own, "weights": _weights, "foreign": _interop}
"""All formats: those of hwsearch itself, those with weights, and those of others. Each is called with a folder to work in."""


@dataclass(frozen=True)
class Fault:
    """What a damaged file did that it must not do.

    Attributes:
        format: which format it was of.
        number: of the mutant.
        error: what came out instead of an HwsearchError.
    """

    format: str
    number: int
    error: Exception

    def __str__(self) -> str:
        last = traceback.extract_tb(self.error.__traceback__)[-1]
        package = str(Path(hwsearch.__file__).parent)
        inside = [frame for frame in traceback.extract_tb(self.error.__traceback__) if frame.filename.startswith(package)]
        frame = (inside or [last])[-1]
        return f"{self.format} #{self.number}: {self.error!r:.200} at {Path(frame.filename).name}:{frame.lineno}"


def faults(format: Format, folder: Path, numbers: Iterable[int], seed: int = 0) -> Iterator[Fault]:
    """Read mutants of a format, and tell which of them did what no file may do.

    Args:
        format: the format.
        folder: to write them in.
        numbers: of the mutants; each follows from the format, its number and the seed alone.
        seed: of the mutants.
    """
    for number in numbers:
        place = folder / str(number)
        place.mkdir()
        rng = np.random.default_rng([seed, number, *format.name.encode()])
        path = format.put(place, mutated(format.kind, format.whole, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", interop.ForeignDataWarning)
                format.use(path)
        except HwsearchError:
            pass
        except Exception as error:
            yield Fault(format.name, number, error)
            continue
        shutil.rmtree(place)
