"""Measuring in the manner of MLPerf, with the real LoadGen."""

import json

import pytest
from typer.testing import CliRunner

import hwsearch
from hwsearch.backends import Roofline, Session
from hwsearch.cli import app
from hwsearch.errors import FileError, InvalidInput, UnknownName
from hwsearch.networks import Block
from hwsearch.profiling._mlperf import SCENARIOS

pytest.importorskip("mlperf_loadgen")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small network and one that takes far longer."""
    from hwsearch.backends._onnx._graph import build

    folder = tmp_path_factory.mktemp("models")
    for name, width, size in (("fast", 8, 16), ("slow", 64, 48)):
        network = (Block("conv", 3, width, size, (), 3), Block("basic", width, width, size, (width,), 3), Block("head", width, 10, size))
        (folder / f"{name}.onnx").write_bytes(build(network).SerializeToString())
    return folder / "slow.onnx", folder / "fast.onnx"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_leaves_loadgens_logs_and_its_verdict(models, tmp_path, scenario):
    (found,) = hwsearch.bench(models[1:], scenario=scenario, out=tmp_path, short=True, target_qps=200 if scenario == "Server" else None)
    folder = tmp_path / "fast" / scenario
    summary = (folder / "mlperf_log_summary.txt").read_text()
    assert f"Result is : {found.verdict}" in summary
    assert f"Scenario : {scenario}" in summary
    assert bool(found.reason) == (found.verdict == "INVALID")
    assert found.figure > 0
    document = json.loads((folder / "bench.json").read_text())
    assert document["format"] == "hwsearch-bench"
    assert document["verdict"] == found.verdict
    assert document["shortened"] is True
    assert "non-compliant" in document["stamp"]


def test_models_are_compared_and_the_stamp_is_shown(models, tmp_path):
    slow, fast = hwsearch.bench(models, out=tmp_path / "a", short=True)
    assert fast.speedup(slow) > 1 > slow.speedup(fast)
    done = CliRunner().invoke(app, ["bench", *map(str, models), "--short", "--out", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert "non-compliant" in done.output
    assert "VALID" in done.output
    assert (tmp_path / "b" / "slow" / "SingleStream" / "mlperf_log_detail.txt").exists()


def test_full_length_follows_mlperfs_rules(models, tmp_path, monkeypatch):
    import mlperf_loadgen

    asked = []
    monkeypatch.setattr(mlperf_loadgen, "StartTestWithLogSettings", lambda sut, qsl, settings, *rest: asked.append(settings))
    for scenario in SCENARIOS:
        with pytest.raises(FileError, match="not finished"):
            hwsearch.bench(models[1:], scenario=scenario, out=tmp_path)
    assert [settings.min_duration_ms for settings in asked] == [600_000] * 4
    single, multi, offline, server = asked
    assert single.single_stream_target_latency_percentile == 0.9
    assert (multi.min_query_count, multi.multi_stream_samples_per_query) == (662, 8)
    assert offline.min_query_count == 24_576
    assert server.server_target_latency_ns == 15_000_000


def test_an_error_inside_a_query_is_raised_after_the_run(models, tmp_path):
    class Broken(Session):
        def __init__(self):
            self.runs = 0

        def times(self, runs):
            self.runs += runs
            if self.runs > 20:
                raise RuntimeError("the device went away")
            return Roofline().open(()).times(runs)

    class Fails(Roofline):
        def load(self, path):
            return Broken()

    with pytest.raises(RuntimeError, match="went away"):
        hwsearch.bench(models[1:], backend=Fails(), out=tmp_path, short=True)


def test_what_cannot_be_measured_is_refused_at_once(models, tmp_path):
    with pytest.raises(UnknownName, match="SingleStream"):
        hwsearch.bench(models, scenario="Singlestream", out=tmp_path)
    with pytest.raises(InvalidInput, match="different names"):
        hwsearch.bench([models[0], models[0]], out=tmp_path)
    with pytest.raises(InvalidInput, match="target_qps"):
        hwsearch.bench(models, scenario="Server", target_qps=-1.0, out=tmp_path)
    with pytest.raises(FileError, match="no model file"):
        hwsearch.bench([models[0], tmp_path / "missing.onnx"], out=tmp_path)
    assert not list(tmp_path.iterdir())
