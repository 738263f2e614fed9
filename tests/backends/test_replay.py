"""The whole road of a device that is not at hand, on a recording of real measurements."""

import io
from dataclasses import asdict, replace

import numpy as np
import pytest
from recordings.record import EFFORT, PATH, SPACE
from rich.console import Console

import hwsearch
from hwsearch.backends import Roofline, load_backend
from hwsearch.backends.replay import Recording, Replay
from hwsearch.devices import load_table
from hwsearch.errors import CorruptFile, FileError, InvalidInput, NewerVersion, Unsupported, WrongDevice
from hwsearch.profiling import measure, profile
from hwsearch.reports._formats import describe
from hwsearch.testing import check_backend, example_blocks

NETWORKS = [SPACE.blocks(row) for rows in SPACE.enumerate() for row in rows]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return profile(SPACE, backend=Replay(PATH), out=tmp_path_factory.mktemp("replay") / "table.json", effort=EFFORT, progress=False)


def test_the_recording_is_small_and_of_a_real_device():
    assert PATH.stat().st_size < 100_000
    replay = Replay(PATH)
    assert replay.describe().runtime_version.startswith("onnxruntime ")
    assert replay.precisions == ("fp32", "int8")
    assert set(NETWORKS) <= set(replay.networks)


def test_replay_keeps_the_contract():
    check_backend(Replay(PATH), NETWORKS)


def test_a_table_made_from_a_recording_is_marked(table):
    assert table.missing(SPACE.unique_blocks) == ()
    assert (table.device.kind, table.device.runtime) == ("replay", "replay")
    assert "replay of " in repr(table)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(describe(table.source))
    assert "measured before, and played back from tiny-onnxruntime.jsonl" in console.export_text()
    real = asdict(table.device) | {"kind": "cpu", "runtime": "onnxruntime"}
    with pytest.raises(WrongDevice, match="kind is 'replay' and not 'cpu'"):
        load_table(table.source, device=type(table.device)(**real))


def test_the_same_recording_makes_the_same_table(table, tmp_path):
    again = profile(SPACE, backend=Replay(PATH), out=tmp_path / "again.json", effort=EFFORT, progress=False)
    assert (again.rows, again.checks, again.calibration) == (table.rows, table.checks, table.calibration)


def test_from_the_recording_to_the_searched_network_and_its_measurement(table):
    dense = hwsearch.searching.dense(SPACE, "fp32")
    limit = 0.9 * table.predict(dense.blocks())
    params = hwsearch.metric("params", SPACE)
    found = hwsearch.search(
        SPACE, device=table, predictor=lambda X: np.log(params(X)), limits={"latency_ms": limit}, run=hwsearch.Run(progress=False)
    )
    assert found.values["latency_ms"] <= limit
    slow, fast = measure([dense.blocks(), found.best.blocks()], backend=Replay(PATH), rounds=4)
    assert fast.latency_ms < slow.latency_ms
    assert slow.device.kind == "replay"


def test_what_was_not_recorded_is_not_made_up():
    replay = Replay(PATH)
    with pytest.raises(Unsupported, match="cannot run block"):
        replay.open(example_blocks("fp32")[:1])
    block = NETWORKS[0][0]
    with pytest.raises(Unsupported, match="is not in the recording: replay of "):
        replay.open((block, block.__class__("head", block.cout, 10, block.out_size)))
    with pytest.raises(Unsupported, match="was not measured alone"):
        replay.framed(example_blocks("fp32")[0])


def test_recording_and_playing_back_are_the_same_in_order_and_energy(tmp_path):
    class Drifting(Roofline):
        name = "roofline"
        runs = 0

        def _open(self, network):
            session, device = super()._open(network), self

            class Slower(type(session)):
                def times(self, runs):
                    device.runs += 1
                    return super().times(runs) * (1 + 0.001 * device.runs)

            session.__class__ = Slower
            return session

    heard = Recording(Drifting(), tmp_path / "recording.jsonl")
    effort = replace(EFFORT, precision=0.01)
    table = profile(SPACE, backend=heard, out=tmp_path / "table.json", effort=effort, progress=False)
    played = profile(SPACE, backend=Replay(tmp_path / "recording.jsonl"), out=tmp_path / "played.json", effort=effort, progress=False)
    assert played.rows.keys() == table.rows.keys()
    for key, row in table.rows.items():
        assert played.rows[key].latency_ms == pytest.approx(row.latency_ms, rel=1e-3)
        assert played.rows[key].energy_mj == row.energy_mj
    assert (played.energy, played.device.kind) == ("estimated", "replay")
    check_backend(Recording(Roofline(), tmp_path / "other.jsonl"))
    with pytest.raises(FileError, match="exists already"):
        Recording(Roofline(), tmp_path / "other.jsonl")


def test_files_that_are_no_recordings(tmp_path):
    path = tmp_path / "recording.jsonl"
    with pytest.raises(InvalidInput, match="Say which recording"):
        load_backend("replay")
    with pytest.raises(FileError, match="no recording"):
        load_backend("replay", path=path)
    path.write_text("")
    with pytest.raises(CorruptFile):
        Replay(path)
    path.write_text('{"format":"hwsearch-recording","version":2}\n')
    with pytest.raises(NewerVersion):
        Replay(path)
    path.write_text('{"format":"hwsearch-recording","version":1}\n')
    with pytest.raises(CorruptFile, match="not a whole recording"):
        Replay(path)
