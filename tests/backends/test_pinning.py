"""A process that measures can be kept on one core and do without huge pages, and the table says so."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hwsearch.backends import _process, load_backend
from hwsearch.errors import InvalidInput

pytest.importorskip("onnxruntime")
if not hasattr(os, "sched_getaffinity"):
    pytest.skip("this system cannot keep a process on a core", allow_module_level=True)


def test_a_core_is_kept_to_and_recorded() -> None:
    core = max(os.sched_getaffinity(0))
    code = (
        f"import os; from hwsearch.backends import load_backend; backend = load_backend('onnxruntime', core={core})\n"
        "print(sorted(os.sched_getaffinity(0)), backend.describe().facts['pinned to core'], backend.options['core'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"[{core}]", str(core), str(core)]


@pytest.mark.parametrize(
    ("options", "told"),
    [({"core": 100_000}, "core must be one that this process may use"), ({"core": 0, "threads": 2}, "2 threads do not fit")],
)
def test_a_core_that_cannot_be_kept_to_is_refused(options: dict[str, int], told: str) -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(InvalidInput, match=told):
        load_backend("onnxruntime", **options)
    assert os.sched_getaffinity(0) == before
    assert "pinned to core" not in load_backend("onnxruntime").describe().facts


def told(code: str, *words: str) -> str:
    """What a process of its own prints."""
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout.strip()


WITHOUT = """
import subprocess, sys
from hwsearch.backends import load_backend
backend = load_backend("onnxruntime", huge_pages=False)
status = "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('THP_enabled')])"
exec(status)
print(subprocess.run([sys.executable, "-c", status], capture_output=True, text=True).stdout.strip())
print(backend.describe().facts["huge pages"], backend.options["huge_pages"])
"""


def test_a_process_does_without_huge_pages_and_says_so() -> None:
    """It itself, and what it starts; others are what the system makes them."""
    first, second, last = told(WITHOUT).splitlines()
    if first != "[]":  # which older kernels do not tell
        assert first == second == "['0']"
    assert last == "never False"
    assert "huge_pages" not in load_backend("onnxruntime").options
    assert load_backend("onnxruntime").describe().facts.get("huge pages", "") == _process.huge_pages()


def test_the_policy_of_huge_pages_is_read_as_linux_shows_it(tmp_path: Path) -> None:
    policy = tmp_path / "enabled"
    for text, name in (("always [madvise] never\n", "madvise"), ("[always] madvise never\n", "always"), ("what?\n", "")):
        policy.write_text(text)
        assert _process.huge_pages(policy) == name
    assert _process.huge_pages(tmp_path / "nowhere") == ""


def test_a_system_that_cannot_do_without_huge_pages_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="huge_pages must be true or false, not 'no'"):
        load_backend("onnxruntime", huge_pages="no")
    monkeypatch.setattr(_process, "_prctl", lambda *what, told=False: 0)
    with pytest.raises(InvalidInput, match="Leave huge_pages out"):
        load_backend("onnxruntime", huge_pages=False)


def test_a_table_of_another_policy_is_told_apart() -> None:
    """Before anything is measured; tables that do not tell it are taken as before."""
    here = load_backend("onnxruntime").describe()
    always, never, silent = ({**here.facts, "huge pages": each} for each in ("always", "never", ""))
    first, second, third = (replace(here, facts={name: each for name, each in facts.items() if each}) for facts in (always, never, silent))
    assert first.difference(second) == "huge pages is 'never' and not 'always'"
    assert not first.same_as(second)
    assert first.same_as(third)
    assert third.same_as(second)
