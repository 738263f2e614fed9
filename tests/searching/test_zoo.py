"""The zoo: an example comes along and is searched within seconds, without torch, training or measuring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hwsearch
from hwsearch.cli import app
from hwsearch.errors import UnknownName
from hwsearch.searching import examples

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("name", "limit"), [("cifar10", 0.2), ("digits", 0.05)])
def test_five_lines_search_without_training_or_measuring(tmp_path: Path, name: str, limit: float) -> None:
    """They import neither torch nor a runtime."""
    code = (
        f"import sys, hwsearch; example = hwsearch.load_example({name!r}); limit = {limit}\n"
        "result = hwsearch.search(example.space, device=example.table, predictor=example.predictor, limits={'latency_ms': limit})\n"
        "print(result.values['latency_ms'] <= limit, result.best_score, sorted({'torch', 'onnxruntime', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    within, score, loaded = done.stdout.split(maxsplit=2)
    card = examples()[name]
    assert (within, loaded.strip()) == ("True", "[]")
    assert 0.1 < float(score) < card.test_accuracy["largest"] + 0.1


@pytest.mark.parametrize(("name", "data"), [("cifar10", "cifar10"), ("digits", "harder-digits")])
def test_the_weights_are_those_of_the_space(name: str, data: str) -> None:
    """What is searched can be exported: its weights, and that they were trained."""
    pytest.importorskip("torch")
    from hwsearch.nn import Supernet

    example = hwsearch.load_example(name)
    supernet = Supernet.load(example.weights, example.space)
    assert supernet.facts["data"] == data
    assert supernet.space.allowed == example.space.allowed
    assert example.predictor.report is not None
    assert example.predictor.report.kendall_tau > 0.3


def test_it_is_listed_with_its_command_data_and_accuracy() -> None:
    done = CliRunner().invoke(app, ["zoo"], env={"COLUMNS": "250"})
    assert done.exit_code == 0
    for words in (
        "cifar10",
        "digits",
        "benchmarks/zoo.py cifar10 --folder CIFAR",
        "python benchmarks/zoo.py digits",
        "scikit-learn",
        "largest network",
        "CPU-minutes",
        "ONNX Runtime",
    ):
        assert words in done.output
    assert (ROOT / "benchmarks" / "zoo.py").exists()


def test_it_is_small_and_travels_in_the_wheel() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "zoo").rglob("*"))
    assert size < 10_000_000
    assert '"zoo" = "hwsearch/zoo"' in (ROOT / "pyproject.toml").read_text()


def test_an_example_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(UnknownName, match="Unknown example 'digit'. Did you mean 'digits'"):
        hwsearch.load_example("digit")
