"""The door through which files come in: what it accepts, and what it says about the rest."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hwsearch._files._reading import guarded, parse_array, parse_json, read_arrays, read_bytes
from hwsearch._files._writing import Journal, write_arrays
from hwsearch.errors import CorruptFile, FileError, MissingDependency


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "it is empty"),
        ('{"name": "Gerät"}'.encode("latin-1"), "not text in UTF-8 .byte 13 is 0xe4"),
        ('{"name": 1}'.encode("utf-16"), "not text in UTF-8"),
        (b"[" * 2000 + b"]" * 2000, "nested too deeply"),
        (b'{"size": ' + b"9" * 400 + b"}", r"999999999999\.\.\. of 400 characters is out of range"),
        (b"[9" + b"9" * 5000 + b"]", "out of range"),
        (b"[18446744073709551616]", "out of range"),
        (b"[1e999]", "the number 1e999 is out of range"),
        (b"[NaN]", "NaN and Infinity are not allowed"),
        (b"[-Infinity]", "NaN and Infinity are not allowed"),
        (b'["\\ud800"]', "surrogates not allowed"),
        (b'{"a": 1', "line 1 column 8"),
    ],
)
def test_json_from_elsewhere_is_refused_in_words(data: bytes, told: str) -> None:
    with pytest.raises(CorruptFile, match=rf"^a\.json.*{told}"):
        parse_json(data, "a.json")


def test_json_with_a_byte_order_mark_and_any_text_is_accepted() -> None:
    document = {"name": "Gerät 😀", "value": -(2**63), "other": 2**64 - 1, "small": 5e-324}
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(document).encode(), "a.json") == document
    assert parse_json(json.dumps(document, ensure_ascii=False).encode(), "a.json") == document


def test_a_journal_names_the_line_that_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": NaN}\n')
    with pytest.raises(CorruptFile, match=r"a\.jsonl, line 2 is not valid JSON: it holds NaN"):
        list(Journal(path))


@pytest.mark.parametrize("array", [np.arange(6, dtype=">f8").reshape(2, 3), np.asfortranarray(np.eye(3, dtype=np.int8)), np.array(True)])
def test_arrays_come_as_they_were(array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, array)
    found = parse_array(file.getvalue())
    assert np.array_equal(found, array)
    assert found.dtype.isnative
    assert found.flags.writeable


def npy(array: np.ndarray, **header: object) -> bytes:
    """An npy file whose header says what it is told to."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array) | header)
    return file.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (npy(np.zeros(3), shape=(10**12,)), "of the shape .1000000000000,. takes 8000000000000 bytes, and it holds 24"),
        (npy(np.zeros(3), shape=(10**12, 10**12)), "takes"),
        (npy(np.zeros(3), shape=(-3,)), "takes"),
        (npy(np.zeros(3), shape=(0, -1)), "takes"),
        (npy(np.zeros(4))[:-8], "takes 32 bytes, and it holds 24"),
        (npy(np.zeros(2, dtype=complex)), "type complex128"),
        (npy(np.array([1j])), "real numbers or text were expected"),
        (npy(np.zeros(1), descr="|O", shape=(1,)), "real numbers or text were expected"),
        (b"", "npz"),
    ],
)
def test_arrays_that_lie_are_refused(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "a.npz"
    write_arrays(path, {"format": "x", "version": 1}, {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("values.npy", data)
    with pytest.raises(CorruptFile, match=rf"a\.npz.*{told}"):
        read_arrays(path, "thing", format="x", version=1)


def test_paths_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", "a\0b", "x" * 300):
        with pytest.raises(FileError, match="Cannot read thing"):
            read_bytes(path, "thing")


def test_addresses_in_memory_are_left_out_of_what_is_said_of_a_file() -> None:
    with pytest.raises(CorruptFile, match=r"^a\.png is not a whole image: cannot identify image file\.$"), guarded("a.png", "image"):
        raise OSError(f"cannot identify image file {object()!r}")


def test_whatever_fails_behind_the_guard_is_the_fault_of_the_file() -> None:
    for error in (KeyError("rows"), OverflowError("too large"), RecursionError(), MemoryError(), AttributeError("x"), RuntimeError()):
        with pytest.raises(CorruptFile, match=r"^a\.json is not a whole table: .+\.$"), guarded("a.json", "table"):
            raise error
    with pytest.raises(MissingDependency), guarded("a.json", "table"):
        raise MissingDependency("reading", "x", "y")
    with pytest.warns(UserWarning, match="some"), guarded("a.json", "table"):
        warnings.warn("some", stacklevel=1)
