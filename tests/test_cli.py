"""The command line, on the analytic device: every command, its help, and its one-line errors."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import hwsearch
from hwsearch.cli import app

SPACE = "resnet_digits"
COMMANDS = (
    *("adopt", "profile", "train", "proxyless", "fit-predictor", "search", "extract", "compress", "export", "finish", "measure", "bench"),
    *("import", "show", "list", "devices", "zoo"),
)


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def complaint(*words: object) -> str:
    """What a command that fails says, which must be no traceback."""
    output = run(*words, code=1).output
    assert "Traceback" not in output
    return " ".join(output.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the analytic device and a predictor, made by the library."""
    folder = tmp_path_factory.mktemp("cli")
    space = hwsearch.load_space(SPACE)
    few = hwsearch.profiling.Effort(max_rounds=1, fits=12)
    hwsearch.profile(space, backend="roofline", out=folder / "roofline.json", effort=few, progress=False)
    X = space.sample(60, np.random.default_rng(0))
    hwsearch.Predictor.fit(space, X, 0.9 + 0.001 * X.sum(axis=1)).save(folder / "predictor.npz")
    return folder


@pytest.fixture(scope="module")
def result(folder: Path) -> Path:
    out = folder / "result.json"
    limits = ("--limit", "latency_ms=0.1", "--limit", "size_mb=0.05")
    run("search", SPACE, "-d", folder / "roofline.json", "-p", folder / "predictor.npz", *limits, "--steps", 5, "-o", out, "-q")
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    words = " ".join(run(command, "--help").output.split())
    assert f"Example: hwsearch {command} " in f"{words} "


def test_help_lists_every_command_in_the_order_of_their_use() -> None:
    assert re.findall(r"^\W+([a-z-]+)  ", run("--help").output.partition("Commands")[2], re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize(
    "command", [("-m", "hwsearch", "--version"), ("-c", "import sys, hwsearch.cli; sys.argv[1:] = ['--version']; hwsearch.cli.main()")]
)
def test_the_version_by_entry_point_and_by_python_m(command: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"hwsearch {hwsearch.__version__}\n", "")


def test_python_m_is_called_hwsearch_in_its_help_and_its_errors() -> None:
    done = subprocess.run([sys.executable, "-m", "hwsearch", "show"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Usage: hwsearch show" in done.stderr


def test_profile_writes_the_table_and_shows_its_error(tmp_path: Path) -> None:
    out = tmp_path / "tables" / "roofline.json"
    output = run("profile", SPACE, "--backend", "roofline", "--out", out, "--checks", 12, "-q").output
    assert len(hwsearch.load_table(out).checks) >= 12
    assert "rank correlation" in output
    assert "mean absolute error" in output


def test_search_writes_what_the_library_finds(folder: Path, result: Path) -> None:
    expected = hwsearch.search(
        SPACE,
        device=folder / "roofline.json",
        predictor=folder / "predictor.npz",
        limits={"latency_ms": 0.1, "size_mb": 0.05},
        run=hwsearch.Run(steps=5),
    )
    found = hwsearch.load_result(result)
    assert found.best == expected.best
    assert found.limits == expected.limits


def test_search_keeps_its_state(folder: Path, tmp_path: Path) -> None:
    words = ("search", SPACE, "-d", folder / "roofline.json", "-p", folder / "predictor.npz", "--limit", "latency_ms=0.1", "-q")
    run(*words, "--steps", 3, "--state", tmp_path / "state.npz", "-o", tmp_path / "half.json")
    run(*words, "--steps", 6, "--state", tmp_path / "state.npz", "-o", tmp_path / "resumed.json")
    run(*words, "--steps", 6, "-o", tmp_path / "straight.json")
    resumed, straight = (hwsearch.load_result(tmp_path / f"{name}.json") for name in ("resumed", "straight"))
    assert resumed.best == straight.best
    assert resumed.history == straight.history


def test_search_verifies_and_shows_what_was_measured(folder: Path, tmp_path: Path) -> None:
    words = ("search", SPACE, "-d", folder / "roofline.json", "-p", folder / "predictor.npz", "--limit", "latency_ms=0.1", "-q")
    out = tmp_path / "verified.json"
    output = run(*words, "--verify", 3, "--tolerance", "latency_ms=0.05", "--steps", 5, "--state", tmp_path / "s", "-o", out).output
    assert "verified: the best networks of each round" in output
    found = hwsearch.load_result(out)
    assert found.verification is not None
    assert found.verification.tolerance == {"latency_ms": 0.05}
    assert found.values["latency_ms"] <= 0.1
    assert (tmp_path / "s.verified.jsonl").exists()
    assert "expected METRIC=NUMBER, such as score=0.005" in complaint(*words, "--verify", 3, "--tolerance", "score")
    assert "FileError: Cannot read" in complaint(*words, "--verify", 3, "--weights", tmp_path / "none.safetensors", "-o", out)


def test_show_every_kind_of_file(folder: Path, result: Path) -> None:
    table = run("show", folder / "roofline.json").output
    assert "held-out networks" in table
    assert "dequantize" in table
    shown = run("show", result).output
    assert "latency_ms" in shown
    assert "front:" in shown
    assert "Kendall tau" in run("show", folder / "predictor.npz").output
    found = hwsearch.load_result(result)
    dataclasses.replace(found, cautions=("The predictor is unsure.",)).save(folder / "doubtful.json")
    assert "Caution: The predictor is unsure." in " ".join(run("show", folder / "doubtful.json").output.split())
    best = found.best
    assert "resolution" in run("show", best.to_json(folder / "best.json")).output


def test_devices_lists_backends_and_tables(folder: Path) -> None:
    output = run("devices", "--tables", folder).output
    for name in ("roofline", "onnxruntime", "roofline.json"):
        assert name in output


def test_devices_describes_a_backend(folder: Path) -> None:
    output = run("devices", "onnxruntime", "tensor", "--tables", folder).output
    assert "fp32, int8" in output
    assert "Unknown backend 'tensor'. Did you mean 'tensorrt'?" in " ".join(output.split())


def test_devices_and_list_load_no_runtime(folder: Path) -> None:
    """They import no runtime: neither torch, which takes seconds, nor any other."""
    for words in (["devices", "--tables", str(folder)], ["list"]):
        code = (
            f"import sys; from hwsearch.cli import app; app({words!r}, standalone_mode=False); print(sorted(sys.modules), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(re.findall(r"'([\w.]+)'", done.stderr))
        assert "numpy" in loaded
        assert not loaded & {"torch", "onnx", "onnxruntime", "openvino", "sklearn", "matplotlib"}


def test_devices_says_how_to_make_the_first_table(tmp_path: Path) -> None:
    assert "hwsearch profile" in run("devices", "--tables", tmp_path).output


def test_errors_are_one_clear_message(folder: Path, tmp_path: Path) -> None:
    search = ("search", SPACE, "-p", folder / "predictor.npz", "-o", tmp_path / "result.json", "-q")
    table = ("-d", folder / "roofline.json")
    assert "Infeasible: latency_ms <= 1e-05 cannot be met" in complaint(*search, *table, "--limit", "latency_ms=0.00001")
    assert "Did you mean 'latency_ms'?" in complaint(*search, *table, "--limit", "latency=1")
    assert "expected METRIC=NUMBER" in complaint(*search, *table, "--limit", "latency_ms")
    assert "'fast' is not a number" in complaint(*search, *table, "--limit", "latency_ms=fast")
    assert "given twice" in complaint(*search, *table, "--limit", "macs=1e6", "--limit", "macs=2e6")
    assert "UnknownName: Unknown space 'resnet_digit'" in complaint("profile", "resnet_digit", "--out", tmp_path / "t.json")
    assert "Cannot read" in complaint("show", tmp_path / "nothing.json")
    (tmp_path / "other.json").write_text('{"format": "something else"}')
    assert "no file of hwsearch" in complaint("show", tmp_path / "other.json")
    (tmp_path / "cut.json").write_bytes((folder / "roofline.json").read_bytes()[:1000])
    assert "CorruptFile" in complaint("show", tmp_path / "cut.json")
    (tmp_path / "file").write_text("in the way")
    words = ("search", SPACE, "-p", folder / "predictor.npz", *table, "-q", "--steps", 1)
    assert "FileError: Cannot write" in complaint(*words, "-o", tmp_path / "file" / "result.json")
    assert "is not a predictor" in complaint("search", SPACE, "-p", tmp_path / "other.json", *table, "-q")
    assert not (tmp_path / "result.json").exists()


def test_negative_seeds_are_refused(tmp_path: Path) -> None:
    for command in ("profile", "train", "proxyless", "fit-predictor", "search"):
        assert "--seed" in run(command, SPACE, "--seed", -1, "-o", tmp_path / "out", code=2).output
    assert not list(tmp_path.iterdir())


def test_the_whole_road(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, fit, search, export and measure, each from the files of the ones before."""
    monkeypatch.chdir(tmp_path)
    weights, predictor, model = Path("supernet.safetensors"), Path("predictor.npz"), Path("best.onnx")
    output = run("train", SPACE, "--data", "digits", "--epochs", 1, "--batch", 512, "-o", weights, "-q").output
    assert f"supernet of {SPACE}" in output
    assert hwsearch.load_space(SPACE).fingerprint in output
    output = run("fit-predictor", SPACE, "-w", weights, "--data", "digits", "--samples", 10, "-o", predictor, "-q").output
    assert "Kendall tau" in output
    table = ("-d", folder / "roofline.json")
    run("search", SPACE, *table, "-p", predictor, "-l", "latency_ms=0.1", "--steps", 2, "-o", "result.json", "-q")
    output = run("export", "result.json", "-w", weights, "-o", model).output
    assert f"{model.stat().st_size:,} bytes" in " ".join(output.split())
    assert "best.onnx" in run("measure", model, "--rounds", 2).output


def test_data_with_a_folder(tmp_path: Path) -> None:
    """``--data cifar10 DIR`` works as it is written, and says what DIR must hold."""
    words = ("train", "resnet_cifar", "--data", "cifar10")
    assert "cifar-10-batches-py" in complaint(*words, tmp_path, "-o", tmp_path / "supernet.safetensors")
    assert "needs the folder" in complaint(*words, "-o", tmp_path / "supernet.safetensors")
