"""What people meet who use hwsearch for the first time: wrong names, wrong values, files of other kinds, a small folder, long outputs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import hwsearch
from hwsearch.backends import _load
from hwsearch.cli import app
from hwsearch.errors import FileError, InvalidInput, UnknownName
from hwsearch.reports import Compared, independent_images, paired_gain, write_report
from hwsearch.reports._formats import describe


def said(*words: object) -> str:
    done = CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "250"})
    return " ".join(done.output.split())


@pytest.fixture(scope="module")
def found() -> hwsearch.SearchResult:
    space = hwsearch.load_space("resnet_digits")
    limits = {"latency_ms": 0.05}
    return hwsearch.search(space, device=table(space), predictor=hwsearch.metric("macs", space), limits=limits, run=hwsearch.Run(steps=3))


def table(space: hwsearch.SearchSpace) -> hwsearch.LatencyTable:
    return hwsearch.profile(space, backend="roofline", out="roofline.json", progress=False)


@pytest.fixture(autouse=True, scope="module")
def in_a_folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("new"))
        yield


def test_an_argument_of_another_name_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(UnknownName, match="Unknown argument 'limit'. Did you mean 'limits'"):
        hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limit={"macs": 1e6})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("epochs", "abc", "epochs of a recipe must be a whole number, not 'abc'"),
        ("batch", 1.5, "batch of a recipe must be a whole number, not 1.5"),
        ("learning_rate", "fast", "learning_rate of a recipe must be a number, not 'fast'"),
        ("recompute", "maybe", "recompute of a recipe must be true or false, not 'maybe'"),
        ("optimizer_options", 1, "optimizer_options of a recipe must be a dictionary of options, not 1"),
        ("phases", 3, "phases of a recipe must be a tuple of Phase"),
        ("teacher", 5, "teacher of a recipe must be a supernet, a module, or a file, not 5"),
        ("class_weights", 1, "class_weights of a recipe must be a number for each class"),
    ],
)
def test_a_value_that_a_recipe_cannot_have_is_told_in_words(field: str, value: object, told: str) -> None:
    pytest.importorskip("torch")
    from hwsearch.nn.training._recipe import recipe_for

    with pytest.raises(InvalidInput, match=told):
        recipe_for("digits", {field: value})
    assert told in said("train", "resnet_digits", "--set", f"{field}={value}", "-q")


def test_bf16_is_computed_only_where_a_cpu_has_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import torch

    from hwsearch.nn.training import _amp

    for flags, has in (("flags : fpu avx2 fma", False), ("flags : avx512f avx512_bf16", True), ("Features : fp asimd bf16", True)):
        file = tmp_path / str(len(flags))
        file.write_text(flags)
        assert _amp._has_bf16(file) is has
    assert _amp._has_bf16(tmp_path / "nothing")
    for amp, there in ((None, False), ("bf16", _amp._has_bf16(_amp._CPU))):
        with _amp.mixed("cpu", amp):
            assert torch.is_autocast_enabled("cpu") is there


def test_show_says_what_it_can_show_of_files_of_other_kinds(tmp_path: Path) -> None:
    for name, content in (("a.csv", "a,b\n1,2\n"), ("a.py", "import sys\n"), ("a.txt", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(FileError, match=f"{name} is no file of hwsearch, and no ONNX model"):
            describe(tmp_path / name)


def test_devices_lists_the_tables_that_come_with_hwsearch(tmp_path: Path) -> None:
    told = said("devices", "--tables", tmp_path)
    assert "amd-epyc-onnxruntime-resnet50-b8" in told
    assert "None of this machine is in" in told


def test_backends_of_gpus_are_not_said_to_be_here_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "find_spec", lambda name: name)
    monkeypatch.setattr(_load, "_DRIVER", tmp_path / "none")
    assert _load.runtime_here("tensorrt") == "is installed, but there is no NVIDIA GPU"
    monkeypatch.setattr(_load, "_DRIVER", tmp_path)
    assert _load.runtime_here("tensorrt") == _load.runtime_here("onnxruntime") == "is here"
    monkeypatch.setattr(_load, "_installed", lambda name: False)
    assert _load.runtime_here("onnxruntime-cuda") == "needs the package onnxruntime-gpu"
    monkeypatch.setattr(_load, "find_spec", lambda name: None)
    assert _load.runtime_here("tensorrt") == "is not installed"


def test_counts_that_stand_for_a_score_are_shown_as_counts(found: hwsearch.SearchResult) -> None:
    count = f"{found.best_score:,.0f}"
    assert "," in count
    assert count in repr(found)
    assert f"{count}.0" not in found._repr_html_()
    assert {row[0]: row[1:3] for row in found.limit_rows()[1]}["score"] == (count, "predicted")


def test_the_report_says_how_each_value_is_known_and_names_no_networks_that_are_not_there(
    found: hwsearch.SearchResult, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    known = {row[0]: row[2] for row in found.limit_rows()[1]}
    assert (known["latency_ms"], known["macs"]) == ("predicted", "counted")
    alone = write_report(found, out=tmp_path / "alone.html").read_text()
    assert "how known" in alone
    assert "built and measured." not in alone
    beside = Compared("searched", 0.9, 0.04, 0.04, 0.001, 1e6, 1e4, 100)
    assert "networks that were built and measured." in write_report(found, None, [beside], tmp_path / "beside.html").read_text()


def test_a_supernet_is_told_in_one_line() -> None:
    pytest.importorskip("torch")
    told = repr(hwsearch.nn.Supernet("resnet_digits"))
    assert told.startswith("<Supernet of 'resnet_digits': ")
    assert told.endswith("not trained>")
    assert "\n" not in told


def test_small_folders_get_a_recipe_of_their_own(tmp_path: Path) -> None:
    imaging = pytest.importorskip("PIL.Image")
    pytest.importorskip("torch")
    from hwsearch.nn import load_data
    from hwsearch.nn.data._folder import _MANY, FolderData

    for label in ("cat", "dog"):
        for number in range(12):
            path = tmp_path / label / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            imaging.new("RGB", (20, 16), (10 * number, 0, 0)).save(path)
    data = load_data(tmp_path)
    assert (data.name, data.recipe, data.size) == ("imagefolder", "photographs", 224)
    assert load_data("imagefolder:size=32,channels=1", tmp_path).calibration_images(0).shape[1:] == (1, 32, 32)
    assert FolderData({"train": [("a", 0)] * _MANY}, 1, 8, 0).recipe == "imagefolder"
    with pytest.raises(InvalidInput, match="imagefolder:size=64,channels=1"):
        load_data("imagefolder:height=32", tmp_path)


def test_a_predictor_whose_space_is_not_here_is_shown_all_the_same(tmp_path: Path) -> None:
    space = hwsearch.load_space("resnet_digits")
    X = space.sample(40, np.random.default_rng(0))
    for name in ("resnet_digits", "mine"):
        file = hwsearch.Predictor.fit(replace(space, name=name), X, X.mean(axis=1), kind="linear").save(tmp_path / f"{name}.npz")
        told = said("show", file)
        assert f"predictor of {name}" in told
        assert "held-out networks" in told


def test_images_of_one_source_count_for_less() -> None:
    rng = np.random.default_rng(0)
    alone, of = rng.random(400) < 0.7, np.arange(400)
    assert independent_images(alone, of) > 350
    assert 350 <= independent_images(np.tile(alone, 5), np.tile(of, 5)) <= 410  # five copies tell nothing new
    other = np.where(rng.random(400) < 0.1, ~alone, alone)
    gain, error = paired_gain(other, alone, of)
    again, same = paired_gain(np.tile(other, 5), np.tile(alone, 5), np.tile(of, 5))
    assert gain == pytest.approx(again)
    assert error == pytest.approx(same)
    assert 0.01 < error < 0.03
