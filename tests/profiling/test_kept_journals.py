"""Plans, journals and results of boards that the first version of their formats wrote are still read.

The files in ``kept`` are of a space of 16 blocks: jobs for a board that has ONNX Runtime and what came back from it, the table that was
made of that, and the journals of two interrupted runs on a Roofline, without a budget and with one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hwsearch import load_table, profile
from hwsearch._files._writing import Journal
from hwsearch.backends import Roofline
from hwsearch.profiling import Effort, collect
from hwsearch.profiling.remote import _board
from hwsearch.spaces import Chain, Stage

KEPT = Path(__file__).with_name("kept")
SMALL = Chain("small", (8,), (8,), (Stage((1,), (8, 12), (4, 8)),), 10, channels=1).space()


def test_what_an_earlier_version_measured_on_a_board_makes_the_same_table(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copy(KEPT / "journal.jsonl", tmp_path)
    table, kept = collect(SMALL, tmp_path, out=tmp_path / "t.json"), load_table(KEPT / "table.json")
    assert (table.device, table.protocol, table.energy) == (kept.device, kept.protocol, kept.energy)
    assert table.rows == kept.rows
    assert [(check.role, check.blocks, check.measured_ms) for check in table.checks] == [
        (check.role, check.blocks, check.measured_ms) for check in kept.checks
    ]
    assert [check.predicted_ms for check in table.checks] == pytest.approx([check.predicted_ms for check in kept.checks], rel=1e-3)


def test_a_plan_of_an_earlier_version_is_read() -> None:
    plan = _board.read_plan(KEPT)
    assert (plan["run"]["space"], plan["run"]["checks"]) == ("small", 12)
    measured = list(Journal(KEPT / "journal.jsonl"))[1:]
    assert set(plan["things"]) == {name for record in measured for name in record["times"]}


@pytest.mark.parametrize(("name", "options"), [("whole", {}), ("sample", {"budget": 30.0, "error": 1e-9})])
def test_a_run_that_an_earlier_version_began_goes_on(name: str, options: dict[str, float], tmp_path: Path, monkeypatch) -> None:
    known = list(Journal(KEPT / f"{name}.partial.jsonl"))
    shutil.copy(KEPT / f"{name}.partial.jsonl", tmp_path / "t.json.partial.jsonl")
    written: list[dict[str, object]] = []
    append = Journal.append
    monkeypatch.setattr(Journal, "append", lambda self, record: written.append(record) or append(self, record))
    effort = Effort(max_rounds=8, checks=12, fits=4, **options)  # type: ignore[arg-type]
    table = profile(SMALL, backend=Roofline(), out=tmp_path / "t.json", effort=effort, progress=False)
    assert written[0]["round"] == known[-1]["round"] + 1, "what was measured is not measured again"
    assert table.missing(SMALL.unique_blocks) == ()
    assert table.error()["networks"] >= 4
