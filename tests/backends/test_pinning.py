"""A process that measures can be kept on one core, and the table says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hwsearch.backends import load_backend
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
