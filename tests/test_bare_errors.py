"""Wrong input of every kind ends as one sentence of ours, and never as an exception of Python, of numpy or of the operating system."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch.backends import load_backend
from hwsearch.errors import FileError, InvalidInput
from hwsearch.nn import load_data

BAD_NAMES = ["a\0b", "n" * 300, "a\ud800"]


def score(X: np.ndarray) -> np.ndarray:
    return X.sum(axis=1).astype(float)


@pytest.mark.parametrize("weights", [[np.nan, 1], ["a", 1], [np.inf, 1], [1j, 1], [1], [-1, 2], [0, 0], [[1, 2]], [None, 1]])
def test_weights_of_devices_are_finite_numbers(weights: list, roofline_table: hwsearch.LatencyTable, digits: hwsearch.SearchSpace) -> None:
    other = replace(roofline_table, device=replace(roofline_table.device, name="other"))
    with pytest.raises(InvalidInput, match="weights must hold a finite number"):
        hwsearch.search(
            digits, predictor=score, device=[roofline_table, other], weights=weights, limits={"latency_ms": 1.0}, run=hwsearch.Run(steps=1)
        )


@pytest.mark.parametrize("option", ["threads", "batch"])
@pytest.mark.parametrize("value", ["2", 2.5, 0, -1, None, True, 10**30])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_threads_and_batch_are_whole_numbers(backend: str, option: str, value: object) -> None:
    pytest.importorskip(backend)
    with pytest.raises(InvalidInput, match=option):
        load_backend(backend, **{option: value})


def test_numpys_whole_numbers_will_do() -> None:
    pytest.importorskip("onnxruntime")
    assert load_backend("onnxruntime", threads=np.int64(2)).describe().threads == 2


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_no_file_can_have_are_told_by_every_reader(name: str, digits: hwsearch.SearchSpace) -> None:
    for use in (
        hwsearch.load_table,
        lambda path: hwsearch.search(digits, predictor=score, device=path, limits={"latency_ms": 1.0}, run=hwsearch.Run(steps=1)),
        lambda path: hwsearch.search(digits, predictor=path, run=hwsearch.Run(steps=1)),
        lambda path: hwsearch.search(digits, predictor=score, run=hwsearch.Run(steps=1, state=path)),
        lambda path: load_data(("cifar10", path)),
        lambda path: load_data(("imagefolder", path)),
        lambda path: load_backend("replay", path=path),
    ):
        with pytest.raises(FileError):
            use(name)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no /dev/zero")
def test_a_device_without_end_is_not_read() -> None:
    with pytest.raises(FileError, match="a device and no file"):
        hwsearch.load_table("/dev/zero")


def command(*words: str, stdout: object = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[bytes]:
    program = "import sys; from hwsearch.cli import main; sys.argv[0] = 'hwsearch'; main()"
    return subprocess.run([sys.executable, "-c", program, *words], stdout=stdout, stderr=subprocess.PIPE, env=os.environ | environment)


def test_a_terminal_of_ascii_shows_what_it_can(roofline_table: hwsearch.LatencyTable, tmp_path: Path) -> None:
    replace(roofline_table, device=replace(roofline_table.device, name="Ger\u00e4t")).save(tmp_path / "t.json")
    done = command("show", str(tmp_path / "t.json"), PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Ger?t" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_behind_standard_output_is_told_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = command("devices", stdout=full)
    assert done.returncode == 1
    assert done.stderr.decode().split() == ["Cannot", "write", "to", "standard", "output:", "No", "space", "left", "on", "device."]
