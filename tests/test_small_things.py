"""Small things that stood in the way of new users: point 9 of the roads in."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import hwsearch
from hwsearch._files._writing import check_writable
from hwsearch._progress import progress
from hwsearch.cli import app
from hwsearch.errors import CorruptFile, FileError, InvalidInput, UnknownName
from hwsearch.spaces import Chain, Stage

SPACE = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8)),), 10, channels=1).space()


def shell(*words: object, code: int = 1) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table") / "table.json"
    hwsearch.profile("resnet_digits", backend="roofline", out=out, effort=hwsearch.profiling.Effort(max_rounds=1, fits=12), progress=False)
    return out


def test_names_that_are_known_twice_are_listed_once() -> None:
    assert str(UnknownName("space", "x", ["b", "a", "b"])).endswith("Known: a, b.")


def test_options_of_a_runtime_that_are_wrong_are_named(tmp_path: Path) -> None:
    words = ("profile", "resnet_digits", "--out", tmp_path / "t.json", "--set")
    assert "Unknown option of backend 'onnxruntime' 'thread'. Did you mean 'threads'?" in shell(*words, "thread=4")
    assert "threads must be a whole number of at least 1, not 'abc'" in shell(*words, "threads=abc")


def test_the_shell_is_answered_in_words_of_the_shell(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out.safetensors")
    for words in (("train", "resnet_cifar", "--data", "cifar10", *out), ("train", "resnet_cifar", "--data", "imagefolder", *out)):
        said = shell(*words)
        assert f"--data {words[3]} FOLDER" in said
        assert "load_data(" not in said


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_supernet_is_not_shown_as_a_whole_one(tmp_path: Path, kept: float) -> None:
    from hwsearch.nn import Supernet

    path = tmp_path / "supernet.safetensors"
    Supernet(hwsearch.load_space("resnet_digits")).save(path)
    assert "supernet of resnet_digits" in shell("show", path, code=0)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert "is truncated" in shell("show", path)


def test_show_describes_onnx_models(tmp_path: Path) -> None:
    import onnx

    from hwsearch.backends import onnx_graph
    from hwsearch.networks import Block

    network = [Block("conv", 3, 8, 8, kernel=3, precision="fp32"), Block("head", 8, 10, 8, precision="fp32")]
    path = tmp_path / "best.onnx"
    onnx.save(onnx_graph(network, batch=2), path)
    said = shell("show", path, code=0)
    assert "2 x 3 x 8 x 8, float" in said
    assert "1 Conv" in said
    path.write_bytes(path.read_bytes()[:100])
    assert "CorruptFile" in shell("show", path)


def test_an_output_that_cannot_be_written_is_noticed_before_the_search(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **options: object) -> None:
        raise AssertionError("the search began")

    monkeypatch.setattr("hwsearch.searching._search.search", never)
    said = shell("search", "resnet_digits", "-d", table, "-p", tmp_path / "none.npz", "--out", tmp_path)
    assert f"FileError: Cannot write {tmp_path}: it is a folder" in said
    with pytest.raises(FileError, match="it is a folder"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new" / "file")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("name", ["best.onx", "best", "best.ONNX"])
def test_model_files_end_as_their_runtime_wants(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"model files of 'onnxruntime' end in .onnx. Call it .*best.onnx"):
        hwsearch.export(SPACE.architecture([0] * len(SPACE.choices)), out=tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_limit_that_excludes_nothing_is_said(table: Path) -> None:
    """Fifty milliseconds where no network takes one: seconds or another device were meant."""
    options: dict[str, Any] = {"device": table, "predictor": lambda X: X.sum(axis=1), "run": hwsearch.Run(steps=2)}
    loose = hwsearch.search("resnet_digits", limits={"latency_ms": 50, "macs": 1e6}, **options)
    (said,) = [caution for caution in loose.cautions if "excludes no network" in caution]
    assert "latency_ms <= 50 excludes no network: none of the space has more than" in said
    assert "Caution: The limit latency_ms <= 50" in loose.verdict
    slowest = hwsearch.metric("latency_ms", loose.best.space, hwsearch.load_table(table))
    assert slowest.upper_bound >= slowest(loose.front.X).max()
    tight = hwsearch.search("resnet_digits", limits={"latency_ms": float(slowest(loose.front.X).min())}, **options)
    assert not any("excludes" in caution for caution in tight.cautions)


def test_fronts_architectures_and_tables_show_themselves(table: Path) -> None:
    pytest.importorskip("pandas")
    found = hwsearch.search(SPACE, predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}, run=hwsearch.Run(steps=2))
    assert repr(found.front).startswith(f"<Front of 'small': {len(found.front)} networks, score ")
    assert "macs " in repr(found.front)
    assert repr(found.best).startswith("<Architecture of 'small': resolution=8, stem.out=8, ")
    frame = hwsearch.load_table(table).to_frame()
    assert len(frame) == len(hwsearch.load_table(table).rows)
    assert {"block", "kind", "precision", "macs", "latency_ms", "spread_ms", "energy_mj"} <= set(frame.columns)
    assert (frame["latency_ms"] > 0).all()


def test_a_short_budget_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second, where each round of eight things takes longer: three rounds of a few things, and not a whole first batch."""
    from hwsearch.profiling import _rounds

    clock = {"now": 0.0}

    class Slow(hwsearch.backends.Roofline):
        def _open(self, network: Any) -> Any:
            session = super()._open(network)
            times = session.times

            def slow(runs: int) -> Any:
                clock["now"] += 0.01 * runs
                return times(runs)

            session.times = slow  # type: ignore[method-assign]
            return session

    monkeypatch.setattr(_rounds.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr("hwsearch.profiling._profile.time.monotonic", lambda: clock["now"])
    effort = hwsearch.profiling.Effort(budget=0.5)
    table = hwsearch.profile("resnet_cifar", backend=Slow(), out=tmp_path / "t.json", effort=effort, progress=False)
    assert 0 < len(table.rows) <= 8
    assert clock["now"] < 20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_ends_full_although_there_was_less_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("searching", 160) as advance:
        advance(67)
    last = sys.stderr.getvalue().rsplit("searching", 1)[1]
    assert "67/67" in last

    def stopped() -> None:
        with progress("searching", 160) as advance:
            advance(67)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert "67/160" in sys.stderr.getvalue().rsplit("searching", 1)[1]


def test_progress_is_silent_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("searching", 10) as advance:
        advance(10)
    assert capfd.readouterr().err == ""


def test_progress_has_the_same_default_everywhere() -> None:
    import inspect

    verbs = [getattr(hwsearch, name) for name in hwsearch.__all__ if inspect.isfunction(getattr(hwsearch, name))]
    verbs += [hwsearch.Run, hwsearch.nn.score_networks, hwsearch.nn.tune, hwsearch.profiling.emit]
    shown = {
        verb.__name__: inspect.signature(verb).parameters["progress"].default
        for verb in verbs
        if "progress" in inspect.signature(verb).parameters
    }
    assert len(shown) >= 7
    assert set(shown.values()) == {True}


def test_progress_in_a_notebook_is_one_line_that_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    handle = types.SimpleNamespace(update=lambda data, raw: told.append(data["text/plain"]))

    def display(data: dict[str, str], raw: bool, display_id: bool) -> object:
        told.append(data["text/plain"])
        return handle

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr("hwsearch._progress._PERIOD_S", 0.0)
    with progress("training", 4) as advance:
        advance(1)
    assert told == ["training: 0 of 4, 0:00:00", "training: 1 of 4, 0:00:00, 0:00:00 left", "training: 1 of 1, 0:00:00"]


def test_the_shell_completes_commands() -> None:
    asked = {"_HWSEARCH_COMPLETE": "complete_bash", "COMP_WORDS": "hwsearch fit", "COMP_CWORD": "1"}
    code = "from hwsearch.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked, check=False)
    assert done.stdout.split() == ["fit-predictor"], done.stderr
    assert "--install-completion" in shell("--help", code=0)


def test_a_damaged_header_is_no_traceback(tmp_path: Path) -> None:
    """The check of lengths reads what a header says, which may be anything."""
    from hwsearch._files._reading import parse_tensor_header

    for header in (b'{"a": 3}', b'{"a": {"data_offsets": "x"}}', b'{"a": {"data_offsets": [0, 1e300]}}'):
        data = len(header).to_bytes(8, "little") + header
        with pytest.raises(CorruptFile):
            parse_tensor_header(data, tmp_path / "file", "supernet")
    assert np.isfinite(hwsearch.metric("macs", SPACE).upper_bound)


def test_tables_that_ship_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first search needs no profiling: the tables that come along are named, and those of the folder go first."""
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"predictor": lambda X: X.sum(axis=1), "limits": {"latency_ms": 0.3}, "run": hwsearch.Run(steps=2)}
    found = hwsearch.search("resnet_cifar", device="amd-epyc-onnxruntime", **options)
    assert found.values["latency_ms"] <= 0.3
    space = hwsearch.load_space("resnet_cifar")
    few = hwsearch.profiling.Effort(blocks=space.unique_blocks[:2])
    hwsearch.profile(space, backend="roofline", out="latency_tables/amd-epyc-onnxruntime.json", effort=few, progress=False)
    from hwsearch.algorithms._parts import find_table

    assert find_table("amd-epyc-onnxruntime").device.name == "roofline"
    with pytest.raises(FileError, match="no-such-device"):
        find_table("no-such-device")


def test_warnings_are_one_message_in_the_shell() -> None:
    code = """
import sys, warnings
from hwsearch.cli import _app
from hwsearch.profiling import BusyWarning
_app.app = lambda prog_name: (warnings.warn("This machine is busy.", BusyWarning), warnings.warn("Something else."))
_app.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, rest = done.stderr.split("\n", 1)
    assert first == "This machine is busy."
    assert "UserWarning: Something else." in rest
