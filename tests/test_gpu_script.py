"""The GPU script, dry: the same pieces on a CPU with tiny networks, stopped by its own clock and taken up again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu" / "run_all.sh"


def pieces(out):
    return {path.name for path in (out / "done").glob("*")}


@pytest.mark.slow
def test_the_gpu_script_runs_in_pieces_and_leaves_tables_results_and_a_page(tmp_path):
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHON": sys.executable}
    program = SCRIPT.with_name("run.py")
    first = subprocess.run(
        [sys.executable, program, "--dry", "--out", out, "--minutes", "0.15"], capture_output=True, text=True, check=False
    )
    assert first.returncode == 75, first.stdout + first.stderr
    begun = {path: path.stat().st_mtime_ns for path in (out / "done").glob("*")}
    rest = subprocess.run([SCRIPT, "--dry", "--out", out], env=environment, capture_output=True, text=True, check=False)
    failures = {path.name: path.read_text() for path in (out / "failed").glob("*")}
    assert rest.returncode == 0, f"{failures} {rest.stdout} {rest.stderr}"
    assert {path: path.stat().st_mtime_ns for path in begun} == begun, "what was done was not done again"
    assert {"facts", "profile-resnet50-onnxruntime-b2", "compare-torch-eager-b1", "train", "deploy", "summary"} <= pieces(out)
    names = {path.name for path in (out / "tables").glob("*")}
    devices = ("onnxruntime-b1", "torch-eager-b1")
    once = {f"{space}-{device}.json" for space in ("resnet50", "resnet_cifar") for device in devices}
    assert names == once | {"resnet50-onnxruntime-b2.json"}
    compared = json.loads((out / "results" / "compare-onnxruntime-b2.json").read_text())
    assert compared["batch"] == 2
    assert compared["table_error"]["networks"] == 12
    rows = {row["network"]: row for row in compared["networks"]}
    assert {"dense fp32", "dense int8", "searched"} <= set(rows)
    assert rows["searched"]["macs"] <= 1.648 / 4.089 * rows["dense fp32"]["macs"]
    page = (out / "summary.md").read_text()
    assert "A dry run on a CPU" in page
    assert "| torch-eager | 1 | searched |" in page
    assert "test accuracy" in page


def test_a_piece_that_fails_is_noted_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import run

    script = tmp_path / "piece.py"
    script.write_text("import sys; print('no room on the GPU'); sys.exit('train' in sys.argv)\n")
    monkeypatch.setattr(run, "__file__", str(script))
    monkeypatch.setattr(run.Run, "pieces", lambda self: dict.fromkeys(["facts", "train", "summary"]))
    assert run.main(["--dry", "--out", str(tmp_path / "out")]) == 1
    assert pieces(tmp_path / "out") == {"facts", "summary"}
    assert (tmp_path / "out" / "failed" / "train.txt").read_text() == "no room on the GPU"
    script.write_text("import time; time.sleep(60)\n")
    assert run.main(["--dry", "--out", str(tmp_path / "other"), "--minutes", "0.001"]) == run.MORE
    assert pieces(tmp_path / "other") == set()
