"""The example of the MLPerf-style recipe, at toy size, from profile to LoadGen."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

for package in ("onnxruntime", "torch", "sklearn", "mlperf_loadgen"):
    pytest.importorskip(package)

EXAMPLE = Path(__file__).parent.parent / "examples" / "resnet50_mlperf.py"


def test_it_is_short_and_uses_no_private_name():
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) < 200
    assert not re.search(r"hwsearch[\w.]*\._|\b_[a-z]\w*\(|import _", text)


@pytest.mark.slow
def test_it_runs_to_the_measured_speed_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--toy", "--epochs", "1", "--out", str(tmp_path)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert "times as fast" in printed
    assert "non-compliant" in printed
    rows = json.loads((tmp_path / "compression.json").read_text())["networks"]
    assert [row["name"] for row in rows] == ["dense", "uniform", "macs only", "two stages", "joint"]
    assert all(row["measured"] for row in rows)
    for network in ("dense", "compressed"):
        assert (tmp_path / network / "best.onnx").exists()
        for scenario in ("SingleStream", "Offline"):
            assert (tmp_path / "bench" / f"{network}-best" / scenario / "mlperf_log_summary.txt").exists()
