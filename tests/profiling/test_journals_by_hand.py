"""Journals of profiling that another program wrote: what is wrong with them is told by line (point 17)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwsearch._files._writing import Journal
from hwsearch.errors import CorruptFile, FileError, HwsearchError
from hwsearch.profiling import Effort, collect, emit
from hwsearch.spaces import Chain, Stage

SMALL = Chain("small", (8,), (8,), (Stage((1,), (8, 12), (4, 8)),), 10, channels=1).space()
DEVICE = {"name": "mine", "kind": "cpu", "hardware": "X", "runtime": "own", "runtime_version": "1", "threads": 1, "batch": 1}
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of jobs, which takes a while to write."""
    folder = emit(SMALL, tmp_path_factory.mktemp("board") / "jobs", effort=Effort(max_rounds=3, checks=12, fits=4), progress=False)
    assert folder is not None
    (folder / "results").mkdir()
    return folder


@pytest.fixture
def lines(jobs: Path) -> Lines:
    """A journal as it is documented."""
    plan = json.loads((jobs / "plan.json").read_text())
    times = {name: [1.0 + index / 100, 0.1] for index, name in enumerate(sorted(plan["things"]))}
    return [plan["run"] | {"device": DEVICE, "energy": "unavailable"}, *({"round": number, "times": times} for number in (1, 2, 3))]


def text_of(lines: Lines) -> str:
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def written(jobs: Path, text: str) -> Path:
    (jobs / "results" / "journal.jsonl").write_bytes(text.encode())
    return jobs


@pytest.mark.parametrize(
    "change", [str.rstrip, lambda text: text.replace("\n", "\r\n"), lambda text: text + "\n\n", lambda text: "\ufeff" + text]
)
def test_line_ends_are_as_editors_leave_them(change: Callable[[str], str], jobs: Path, lines: Lines, tmp_path: Path) -> None:
    table = collect(SMALL, written(jobs, change(text_of(lines))), out=tmp_path / "t.json")
    assert {row.rounds for row in table.rows.values()} == {3}


def test_a_last_line_without_an_end_is_kept_when_another_is_appended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.path.write_bytes(b'{"a":1}\n{"b":2}')
    journal.append({"c": 3})
    assert list(journal) == [{"a": 1}, {"b": 2}, {"c": 3}]
    journal.path.write_bytes(b'{"a":1}\n{"b":{"c":2}')
    assert list(journal) == [{"a": 1}], "a line that a killed writer began is no record"
    journal.append({"c": 3})
    assert list(journal) == [{"a": 1}, {"c": 3}]


def first(line: dict[str, Any]) -> str:
    return min(line["times"])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([float("nan"), 0.1], "line 4 is not valid JSON: it holds NaN"),
        ([float("inf"), 0.1], "line 4 is not valid JSON: it holds Infinity"),
        ([0.0, 0.1], r"line 4: latency_ms of '\w+' is 0.0; a number above 0 \(1e-12 to 1e\+12\) was expected"),
        ([1.0, 0], r"line 4: sentinel_ms of '\w+' is 0; a number above 0"),
        ([1e300, 0.1], r"line 4: latency_ms of '\w+' is 1e\+300"),
        ([1.0, 1e-320], r"line 4: sentinel_ms of '\w+' is 1e-320"),
        ([-1.0, 0.1], r"line 4: latency_ms of '\w+' is -1.0"),
        ([1.0, 0.1, -5], r"line 4: energy_mj of '\w+' is -5"),
        (["1.0", 0.1], r"line 4: latency_ms of '\w+' is '1.0'"),
        ([True, 0.1], r"line 4: latency_ms of '\w+' is True"),
        ([None, 0.1], r"line 4: latency_ms of '\w+' is None"),
        ([1.0], r"line 4: the reading of '\w+' is \[1.0\]; \[latency_ms, sentinel_ms\]"),
        (1.0, r"line 4: the reading of '\w+' is 1.0"),
        ({"latency_ms": 1.0}, r"line 4: the reading of '\w+' is \{"),
    ],
)
@pytest.mark.parametrize("end", ["\n", ""])
def test_an_impossible_reading_is_named(value: object, said: str, end: str, jobs: Path, lines: Lines, tmp_path: Path) -> None:
    lines[3] = {"round": 3, "times": lines[3]["times"] | {first(lines[3]): value}}
    with pytest.raises(CorruptFile, match=rf"results/journal\.jsonl, {said}"):
        collect(SMALL, written(jobs, text_of(lines).rstrip() + end), out=tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"times": {}}, "its round is None"),
        ({"round": 0, "times": {}}, "its round is 0"),
        ({"round": "3", "times": {}}, "its round is '3'"),
        ({"round": 3}, "is not a round"),
        ({"round": 3, "times": []}, "is not a round"),
        ([3], "is not a round"),
        ({"round": 3, "times": {}, "failed": ["x"]}, r"what failed is \['x'\]"),
        ({"round": 3, "times": {}, "seconds": "long"}, "its seconds are 'long'"),
    ],
)
def test_a_line_that_is_no_round_is_named(line: Any, said: str, jobs: Path, lines: Lines, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=rf"results/journal\.jsonl, line 4:? {said}"):
        collect(SMALL, written(jobs, text_of([*lines[:3], line])), out=tmp_path / "t.json")


@pytest.mark.parametrize("key", ["device", "energy", "protocol", "backend", "options", "checks", "seed", "blocks", "fingerprint"])
def test_a_first_line_that_lacks_something_is_named(key: str, jobs: Path, lines: Lines, tmp_path: Path) -> None:
    del lines[0][key]
    with pytest.raises(CorruptFile, match=rf"journal\.jsonl.*{key}"):
        collect(SMALL, written(jobs, text_of(lines)), out=tmp_path / "t.json")


@pytest.mark.parametrize(
    "change",
    [{"energy": "much"}, {"options": 3}, {"backend": "nonsense"}, {"checks": "many"}, {"blocks": ["x"]}, {"protocol": {"runs": 0}}],
)
def test_a_first_line_of_nonsense_is_refused(change: dict[str, Any], jobs: Path, lines: Lines, tmp_path: Path) -> None:
    with pytest.raises(HwsearchError):
        collect(SMALL, written(jobs, text_of([lines[0] | change, *lines[1:]])), out=tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []


def test_what_is_lacking_is_told(jobs: Path, lines: Lines, tmp_path: Path) -> None:
    name = first(lines[1])
    for line in lines[1:]:
        line["times"] = {"x" + other if other == name else other: reading for other, reading in line["times"].items()}
    said = rf"mine has not finished: 1 of \d+ networks lack rounds\. '{name}' has 0; it needs 3 .*names of no network, such as 'x{name}'"
    with pytest.raises(FileError, match=said):
        collect(SMALL, written(jobs, text_of(lines)), out=tmp_path / "t.json")
