"""bench(): model files measured in the manner of MLPerf Inference, by its own load generator.

LoadGen (package ``mlcommons-loadgen``) decides when which query comes, how long a run lasts and whether it is valid; what it is told
are its own rules for ResNet50, which it carries along. Its log files are kept as it wrote them. What comes out is an MLPerf-style
measurement and never an MLPerf result: those are reviewed submissions, and the closed division allows no pruned network.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from .._files._lock import claim
from .._files._reading import guarded, parse_json, read_bytes
from .._files._writing import PathLike, write_atomic
from ..backends._load import load_backend
from ..backends.base import Backend, Session
from ..devices._device import Device
from ..errors import CorruptFile, InvalidInput, UnknownName, require

FORMAT = "hwsearch-bench"
VERSION = 1
_RULES = "resnet50"
"""The model whose rules of MLPerf hold."""
_SHORT_MS, _SHORT_QUERIES = 2000, 64
_LOG = "mlperf_log_detail.txt"
_MARK = ":::MLLOG "
_SAMPLES = 1024
"""Images that a run draws from."""
_FIGURES = {
    "SingleStream": ("90th percentile latency", "ms", "result_90.00_percentile_latency_ns", 1e-6),
    "MultiStream": ("99th percentile latency of 8 images", "ms", "result_99.00_percentile_latency_ns", 1e-6),
    "Offline": ("images per second", "1/s", "result_samples_per_second", 1.0),
    "Server": ("completed images per second", "1/s", "result_completed_samples_per_sec", 1.0),
}
SCENARIOS = tuple(_FIGURES)


@dataclass(frozen=True)
class Bench:
    """What LoadGen found out about one model.

    Example:
        >>> from dataclasses import replace
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.profiling import Bench
        >>> found = {"verdict": "VALID", "reason": "", "shortened": True, "queries": 24576, "duration_s": 2.0, "folder": "bench"}
        >>> figure = {"scenario": "Offline", "what": "images per second", "figure": 500.0, "unit": "1/s"}
        >>> dense = Bench("dense.onnx", device=Roofline().describe(), **found, **figure)
        >>> replace(dense, model="best.onnx", figure=800.0).speedup(dense), dense.stamp
        (1.6, 'MLPerf-style, shortened: non-compliant')

    Attributes:
        model: the file.
        scenario: one of :data:`SCENARIOS`.
        verdict: LoadGen's: ``"VALID"`` or ``"INVALID"``.
        reason: what was not met, in LoadGen's words; empty if it is valid.
        shortened: whether the run was shorter than MLPerf's rules ask for, and so is non-compliant whatever the verdict.
        figure: the scenario's figure of merit, in ``unit``; ``what`` says which it is.
        queries: number that was processed.
        duration_s: how long the run had to take at least.
        device: that was measured.
        folder: LoadGen's log files.
    """

    model: str
    scenario: str
    verdict: str
    reason: str
    shortened: bool
    what: str
    figure: float
    unit: str
    queries: int
    duration_s: float
    device: Device
    folder: str

    @property
    def stamp(self) -> str:
        """What kind of measurement this is, in words."""
        if self.shortened:
            return "MLPerf-style, shortened: non-compliant"
        return "MLPerf-style, at full length; no MLPerf result"

    def speedup(self, other: Bench) -> float:
        """How many times as fast as another model: the ratio of rates, or of latencies the other way round."""
        return other.figure / self.figure if self.unit == "ms" else self.figure / other.figure


def bench(
    models: Sequence[PathLike],
    *,
    scenario: str = "SingleStream",
    backend: str | Backend = "onnxruntime",
    out: PathLike = "bench",
    short: bool = False,
    target_qps: float | None = None,
) -> list[Bench]:
    """Measure model files, one after the other, as MLPerf's LoadGen prescribes.

    Minimum duration (600 s), query counts, percentiles, early stopping and the latency bound of ``Server`` are those of MLPerf for
    ResNet50. Every query runs the model on random numbers, on which the latency does not depend. The log files and a ``bench.json`` with
    the verdict go to ``<out>/<name of the model>/<scenario>/``; if files share a name, that of their folder is put before it.

    It takes LoadGen, and two seconds or more for each model.

    Example:
        >>> import hwsearch
        >>> hwsearch.bench(["dense.onnx", "best.onnx"], scenario="Offline", short=True)  # doctest: +SKIP

    Args:
        models: ONNX files.
        scenario: ``"SingleStream"`` (a query after the other), ``"MultiStream"`` (8 images a query), ``"Offline"`` (all images at
            once) or ``"Server"`` (queries at random times).
        backend: a backend or its name; its threads and its batch are what is measured.
        out: the folder of the logs.
        short: take about two seconds. The measurement is then stamped as non-compliant.
        target_qps: images a second that ``Server`` sends; if omitted, half of what the model can do. The highest number that is still
            valid is the device's figure.

    Returns:
        One measurement a model, in the same order.

    Raises:
        UnknownName: of the scenario.
        InvalidInput: no models, two of one name, or a rate that is not positive.
        FileError: a model cannot be used, or the logs cannot be written.
        MissingDependency: LoadGen is not installed.
    """
    if scenario not in SCENARIOS:
        raise UnknownName("scenario", scenario, SCENARIOS)
    names = _names(models)
    if target_qps is not None and not (math.isfinite(target_qps) and target_qps > 0):
        raise InvalidInput(f"target_qps must be positive, not {target_qps}.")
    device = load_backend(backend)
    require("mlperf_loadgen", feature="Measuring in the manner of MLPerf", extra="loadgen")
    for model in models:
        device.load(model).close()
    found = []
    for model, name in zip(models, names, strict=True):
        folder = Path(out, name, scenario)
        with claim(folder / "bench.json"):
            with device.load(model) as session:
                _run(session, scenario, folder, short, target_qps)
            one = _read(folder, os.fspath(model), scenario, short, device.describe())
            document = {"format": FORMAT, "version": VERSION, "stamp": one.stamp, **asdict(one)}
            write_atomic(folder / "bench.json", msgspec.json.format(msgspec.json.encode(document)) + b"\n")
        found.append(one)
    return found


def _names(models: Sequence[PathLike]) -> list[str]:
    """Different names for model files, for the folders of their logs.

    Raises:
        InvalidInput: no files, or two of one name in folders of one name.
    """
    paths = [Path(model).resolve() for model in models]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}-{path.stem}" for path in paths]
    if not names or len(set(names)) < len(names):
        raise InvalidInput(
            f"models must hold at least one file, and files of different names, not {[os.fspath(model) for model in models]}."
        )
    return names


class _System:
    """The system under test: it runs the model for every query.

    An error (or Ctrl-C) inside a query would end the process in LoadGen's hands, so it is kept, the queries that are left are answered
    at once, and :meth:`check` raises it.
    """

    def __init__(self, session: Session, loadgen: Any) -> None:
        self.session, self.loadgen = session, loadgen
        self.error: BaseException | None = None

    def issue(self, queries: Sequence[Any], worker: Executor | None) -> None:
        """Answer a query here, or have it answered elsewhere."""
        if worker is None:
            self.answer(queries)
        else:
            worker.submit(self.answer, queries)

    def answer(self, queries: Sequence[Any]) -> None:
        """Run the model on the images of a query, as many at once as it takes, and say when they are done."""
        for start in range(0, len(queries), self.session.batch):
            try:
                if self.error is None:
                    self.session.times(1)
            except BaseException as error:
                self.error = error
            done = [self.loadgen.QuerySampleResponse(query.id, 0, 0) for query in queries[start : start + self.session.batch]]
            self.loadgen.QuerySamplesComplete(done)

    def check(self) -> None:
        """Raise what went wrong."""
        if self.error is not None:
            raise self.error


def _run(session: Session, scenario: str, folder: Path, short: bool, target_qps: float | None) -> None:
    """Let LoadGen measure one model."""
    import mlperf_loadgen as loadgen

    write_atomic(folder / _LOG, b"")  # LoadGen makes no folders, and ends the process if it cannot write
    settings = loadgen.TestSettings()
    settings.FromConfig("", _RULES, scenario, 0)
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    if short:
        settings.min_duration_ms = _SHORT_MS
        settings.min_query_count = min(settings.min_query_count, _SHORT_QUERIES)
    session.times(3)
    fastest = float(session.times(10).min())
    # LoadGen prepares as many queries as these say that it will need, so they must not be too slow.
    settings.single_stream_expected_latency_ns = int(0.7e9 * fastest)
    settings.multi_stream_expected_latency_ns = int(0.7e9 * fastest * -(-settings.multi_stream_samples_per_query // session.batch))
    settings.offline_expected_qps = session.batch / fastest
    settings.server_target_qps = target_qps or 0.5 * session.batch / fastest
    outputs = loadgen.LogOutputSettings()
    outputs.outdir, outputs.copy_summary_to_stdout = os.fspath(folder), False
    logs = loadgen.LogSettings()
    logs.log_output, logs.enable_trace = outputs, False
    system = _System(session, loadgen)
    with ThreadPoolExecutor(1) as worker:
        # Queries of Server come at their own times, whether the one before is done or not.
        under_test = loadgen.ConstructSUT(lambda queries: system.issue(queries, worker if scenario == "Server" else None), lambda: None)
        library = loadgen.ConstructQSL(_SAMPLES, _SAMPLES, lambda samples: None, lambda samples: None)
        try:
            loadgen.StartTestWithLogSettings(under_test, library, settings, logs, os.fspath(folder / "audit.config"))
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(under_test)
    system.check()


def _read(folder: Path, model: str, scenario: str, short: bool, device: Device) -> Bench:
    """What LoadGen wrote into its logs.

    Raises:
        CorruptFile: the run was not finished.
    """
    path = folder / _LOG
    found: dict[str, Any] = {}
    for line in read_bytes(path, "log of LoadGen").decode(errors="replace").splitlines():
        if line.startswith(_MARK):
            with guarded(path, "log of LoadGen"):
                entry = parse_json(line[len(_MARK) :].encode(), path)
                found[entry["key"]] = entry["value"]
    what, unit, key, factor = _FIGURES[scenario]
    if key not in found or "result_validity" not in found:
        raise CorruptFile(f"{path} has no {key}: the run was not finished. Run it again.")
    checks = {
        "result_perf_constraints_met": "the latency bound is not met",
        "result_min_duration_met": "the run was too short",
        "result_min_queries_met": "there were too few queries",
        "early_stopping_met": "there were too few queries for early stopping",
    }
    missed = [words for name, words in checks.items() if found.get(name) is False]
    with guarded(path, "log of LoadGen"):
        figure = float(found[key]) * factor
        queries, duration_s = int(found.get("result_query_count", 0)), float(found.get("effective_min_duration_ms", 0)) * 1e-3
        if not (figure >= 0 and queries >= 0 and duration_s >= 0):
            raise CorruptFile(f"{path} says {figure:g} {unit} in {queries} queries, which is impossible.")
    return Bench(
        model=model,
        scenario=scenario,
        verdict=str(found["result_validity"]),
        reason=", ".join(missed),
        shortened=short,
        what=what,
        figure=figure,
        unit=unit,
        queries=queries,
        duration_s=duration_s,
        device=device,
        folder=os.fspath(folder),
    )
