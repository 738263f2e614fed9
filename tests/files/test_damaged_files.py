"""Damaged and foreign files: whatever is wrong with one, its reader raises an HwsearchError, and takes in nothing impossible."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from formats import WINGS, faults

from hwsearch.interop import ForeignDataWarning

MUTANTS = 100
"""Of each format; benchmarks/damaged_files.py reads many more."""


@pytest.mark.parametrize("wing", WINGS)
def test_whatever_is_wrong_with_a_file_is_told_as_an_error_of_ours(wing: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    found = []
    for number, format in enumerate(WINGS[wing](work)):
        folder = tmp_path / str(number)
        whole = folder / "whole"
        whole.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ForeignDataWarning)
            format.use(format.put(whole, format.whole))
        found += faults(format, folder, range(MUTANTS))
    assert not found, "\n".join(map(str, found))
