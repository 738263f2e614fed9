"""Files that survive ``kill -9``: whole-file replacement and append-only journals.

Boards that are profiled have no msgspec, so journals do without it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._lock import temporary, writing
from ._reading import PathLike as PathLike
from ._reading import parse_json, read_bytes


def write_atomic(path: PathLike, data: bytes, *, sync: bool = True) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old file or the new one, never a part.

    The parent folder is made if it is missing. A new file has the mode that the umask says, and a replaced one keeps its own; a
    symbolic link stays one, and the file that it points to is replaced. A device or a pipe is written straight.

    Args:
        path: the file.
        data: its new content.
        sync: wait until it is on disk, which also survives a power cut; without, it survives the death of the process only.

    Raises:
        FileError: it cannot be written there, or a file of this name is read-only.
    """
    with writing(path):
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        known = os.stat(target) if os.path.lexists(target) else None
        if known is not None and not stat.S_ISREG(known.st_mode):
            with open(target, "wb") as device:
                device.write(data)
            return
        if known is not None and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only")
        left, file = temporary(target)
        try:
            with file:
                file.write(data)
                file.flush()
                if known is not None:
                    os.chmod(left, stat.S_IMODE(known.st_mode))
                if sync:
                    os.fsync(file.fileno())
                os.replace(left, target)
        except BaseException:
            left.unlink(missing_ok=True)
            raise


def check_writable(path: PathLike) -> None:
    """Check that a file can be written, before hours are spent on what shall stand in it; its folder is made if it is missing.

    Raises:
        FileError: it is a folder, or its folder cannot be written in.
    """
    with writing(path):
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, and a file is to be written")
        if not os.access(target if target.exists() else target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only" if target.exists() else "its folder is read-only")


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


class Journal:
    """An append-only file of JSON lines: what was appended stays, whatever happens to the process.

    A line that a killed writer left unfinished is dropped, both when reading and when appending again. Of a journal that another program
    wrote the last line counts without a line end too, and empty lines do not.

    Args:
        path: the file; its folder is made if it is missing.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)

    def __iter__(self) -> Iterator[Any]:
        for _, record in self.numbered():
            yield record

    def numbered(self) -> Iterator[tuple[int, Any]]:
        """The records with the numbers of their lines, from 1."""
        if not os.path.exists(self.path):
            return
        *lines, last = read_bytes(self.path, "journal").split(b"\n")
        for number, line in enumerate([*lines, last] if _is_record(last) else lines, start=1):
            if line.strip():
                yield number, parse_json(line, f"{self.path}, line {number}")

    def append(self, record: object) -> None:
        """Add one record and wait until it is on disk.

        Raises:
            FileError: it cannot be written there.
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        with open(self.path, "a+b") as file:
            end = file.seek(0, os.SEEK_END)
            whole = self._whole_lines(file, end)
            if whole != end:
                file.seek(whole)
                if _is_record(file.read()):
                    line = b"\n" + line
                else:
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
        """Delete the file if it exists."""
        self.path.unlink(missing_ok=True)


def _is_record(line: bytes) -> bool:
    """Whether a line without an end is a record, be it a wrong one, and not the beginning of one."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
