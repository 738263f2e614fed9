"""Files that survive ``kill -9``: whole-file replacement and append-only journals.

Boards that are profiled have no msgspec, so journals do without it.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CorruptFile, FileError, InvalidInput, NewerVersion

PathLike = str | os.PathLike[str]


def write_atomic(path: PathLike, data: bytes, *, sync: bool = True) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old file or the new one, never a part.

    The parent folder is made where it is missing.

    Args:
        path: the file.
        data: its new content.
        sync: wait until it is on disk, which also survives a power cut; without, it survives the death of the process only.

    Raises:
        FileError: it cannot be written there.
    """
    target = Path(path)
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a path that cannot be written into a FileError."""
    try:
        yield
    except OSError as error:
        raise FileError(f"Cannot write {path}: {error.strerror or error}. Name another place, or make room there.") from error


def sweep(path: PathLike) -> None:
    """Remove what writers of ``path`` that were killed have left beside it."""
    target = Path(path)
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        left.unlink(missing_ok=True)


def read_bytes(path: PathLike, what: str) -> bytes:
    """Read a file that the user named.

    Raises:
        FileError: there is no such file, or it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"Cannot read {what} {os.fspath(path)}: {error.strerror or error}.") from error


def check_header(document: object, *, format: str, version: int, path: PathLike) -> dict[str, Any]:
    """Check that a decoded JSON document is of ``format`` and not newer than ``version``.

    Raises:
        CorruptFile: it is another kind of document.
        NewerVersion: it was written by a newer hwsearch.
    """
    name = os.fspath(path)
    if not isinstance(document, dict) or document.get("format") != format:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise CorruptFile(f"{name} is not a {format} file (its format is {found!r}).")
    found = document.get("version")
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise CorruptFile(f"{name}: its version is {found!r}; a positive whole number was expected.")
    if found > version:
        raise NewerVersion(
            f"{name} has version {found}, and this hwsearch reads {format} up to version {version}. "
            "Update with: pip install --upgrade hwsearch"
        )
    return document


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: PathLike) -> None:
    """Check that a file comes from the arguments that are wanted now.

    Raises:
        InvalidInput: from others.
    """
    differing = sorted(key for key in wanted if found.get(key) != wanted[key])
    if differing:
        told = ", ".join(f"{key} {found.get(key)!r} there and {wanted[key]!r} here" for key in differing)
        raise InvalidInput(f"{path} comes from other arguments: {told}. Use the same ones, name another file, or delete it.")


def decode_json(data: bytes, path: PathLike) -> Any:
    """Decode JSON strictly (NaN and Infinity are not JSON).

    Raises:
        CorruptFile: empty, truncated or malformed, saying where.
    """
    import msgspec

    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        why = "it is empty" if not data.strip() else str(error)
        hint = " (NaN and Infinity are not allowed)" if b"NaN" in data or b"Infinity" in data else ""
        raise CorruptFile(f"{os.fspath(path)} is not valid JSON: {why}{hint}.") from error


def write_arrays(path: PathLike, header: dict[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an npz file of arrays with a JSON header, whole or not at all.

    Args:
        path: the file.
        header: JSON data with ``format`` and ``version``.
        arrays: by name; ``"header"`` is taken.
    """
    import msgspec

    packed: dict[str, Any] = {**arrays, "header": np.frombuffer(msgspec.json.encode(header), dtype=np.uint8)}
    buffer = io.BytesIO()
    np.savez(buffer, **packed)
    write_atomic(path, buffer.getvalue())


def read_arrays(path: PathLike, what: str, *, format: str, version: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read the header and the arrays that :func:`write_arrays` wrote.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile, NewerVersion: it is not of ``format``, or newer than ``version``.
    """
    data = read_bytes(path, what)
    if not data.startswith(b"PK"):
        raise CorruptFile(f"{os.fspath(path)} is not a {what} (an npz file with a header): it is another kind of file.")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        raw = arrays.pop("header").tobytes()
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError, AttributeError, RuntimeError) as error:
        raise CorruptFile(f"{os.fspath(path)} is not a {what} (an npz file with a header): {error}.") from error
    return check_header(decode_json(raw, path), format=format, version=version, path=path), arrays


class Journal:
    """An append-only file of JSON lines: what was appended stays, whatever happens to the process.

    A line that a killed writer left unfinished is dropped, both when reading and when appending again.

    Args:
        path: the file; its folder is made where it is missing.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)

    def __iter__(self) -> Iterator[Any]:
        if not self.path.exists():
            return
        lines = read_bytes(self.path, "journal").split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise CorruptFile(f"{self.path}, line {number}: {error}.") from error

    def append(self, record: object) -> None:
        """Add one record and wait until it is on disk.

        Raises:
            FileError: it cannot be written there.
        """
        with _writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        with open(self.path, "a+b") as file:
            end = file.seek(0, os.SEEK_END)
            whole = self._whole_lines(file, end)
            if whole != end:
                file.truncate(whole)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _whole_lines(file: Any, end: int) -> int:
        """The length of the file up to its last line end."""
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return int(start + found + 1)
            end = start
        return 0

    def remove(self) -> None:
        """Delete the file, where it exists."""
        self.path.unlink(missing_ok=True)
