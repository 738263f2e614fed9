"""The one door through which files come in: bytes, text, JSON, YAML and arrays, each checked before anything is made of it.

A file may come from another program, another machine or a broken disk. Whatever is wrong with it, the reader's user sees a
:class:`~hwsearch.errors.FileError` that names the file and says what is wrong; :func:`guarded` is what the readers themselves stand behind.
Nothing is unpickled. The module asks for numpy and the standard library only, since it travels to boards.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from ..errors import CorruptFile, FileError, HwsearchError, InvalidInput, MissingDependency, NewerVersion, require

PathLike = str | os.PathLike[str]

_KINDS = "biufU"
"""Kinds of numpy arrays that files may hold: truth values, whole numbers, real numbers, and text (the states of Optuna's samplers)."""


@contextmanager
def guarded(path: PathLike, what: str) -> Iterator[None]:
    """Within this block, whatever fails is the fault of the file.

    Args:
        path: the file, for the message.
        what: what the file should be, for the message.

    Raises:
        CorruptFile: something failed. Other file errors, missing packages and warnings pass as they are.
    """
    try:
        yield
    except (MissingDependency, Warning):
        raise
    except HwsearchError as error:
        if isinstance(error, FileError) and (os.fspath(path) in str(error) or not isinstance(error, CorruptFile)):
            raise
        raise CorruptFile(f"{os.fspath(path)}: {error}") from error
    except Exception as error:
        raise CorruptFile(f"{os.fspath(path)} is not a whole {what}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """What a foreign exception says about the file, in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it claims to hold more than fits into memory"
    if isinstance(error, KeyError) and isinstance(error.args[0], str):
        return f"{error} is missing or unknown"
    lines = re.sub(r" ?<[\w.]+ object at 0x[0-9a-f]+>", "", str(error)).strip().splitlines()  # which say nothing of the file
    return lines[0].rstrip(".") if lines else type(error).__name__


def read_bytes(path: PathLike, what: str) -> bytes:
    """Read a file that the user named.

    Args:
        path: the file.
        what: what it should be, for the message.

    Raises:
        FileError: there is no such file, or it cannot be read.
    """
    try:
        if stat.S_ISCHR(mode := os.stat(path).st_mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "it is a device and no file, which may have no end")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise FileError(f"Cannot read {what} {os.fspath(path)!s}: {getattr(error, 'strerror', None) or error}.") from error


def read_part(path: PathLike, what: str, start: int, size: int) -> bytes:
    """Read ``size`` bytes of a file from the byte ``start`` on.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile: it ends before.
    """
    try:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(size)
    except (OSError, ValueError) as error:
        raise FileError(f"Cannot read {what} {os.fspath(path)!s}: {getattr(error, 'strerror', None) or error}.") from error
    if len(data) < size:
        raise CorruptFile(f"{os.fspath(path)} ends before byte {start + size}: it has become shorter since it was first looked at.")
    return data


# -- text ------------------------------------------------------------------------------------------------------------------


def parse_text(data: bytes, path: PathLike) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        CorruptFile: it is in another encoding, or no text.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptFile(
            f"{os.fspath(path)} is not text in UTF-8 (byte {error.start} is 0x{data[error.start]:02x}). Save it as UTF-8."
        ) from error


def parse_json(data: bytes, path: PathLike) -> Any:
    """Decode JSON strictly: numbers are finite and fit into 64 bits, and strings are text that can be written again.

    Args:
        data: UTF-8, with or without a byte order mark.
        path: where it comes from, for messages.

    Raises:
        CorruptFile: it is empty, truncated or malformed; the message says where.
    """
    text = parse_text(data, path)
    try:
        if not text.strip():
            raise ValueError("it is empty")
        document = json.loads(text, parse_float=_finite, parse_int=_whole, parse_constant=_refuse)
        if "\\ud" in text.lower():
            json.dumps(document, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{os.fspath(path)} is not valid JSON: {_reason(error)}.") from error
    return document


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {_short(text)} is out of range")
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError(f"the number {_short(text)} is out of range")
    return value


def _refuse(text: str) -> float:
    raise ValueError(f"it holds {text} (NaN and Infinity are not allowed)")


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:12]}... of {len(text)} characters"


def read_json(path: PathLike, what: str) -> Any:
    """Read a JSON file; see :func:`parse_json`.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile: it is no JSON.
    """
    return parse_json(read_bytes(path, what), path)


def read_document(path: PathLike, what: str, *, format: str, version: int) -> dict[str, Any]:
    """Read a JSON file of hwsearch; see :func:`check_header`.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile, NewerVersion: it is not of ``format``, or newer than ``version``.
    """
    return check_header(read_json(path, what), format=format, version=version, path=path)


def read_yaml(path: PathLike, what: str, *, feature: str) -> Any:
    """Read a YAML file of plain values.

    Args:
        path: the file.
        what: what it should be, for messages.
        feature: what needs YAML, for the message if PyYAML is missing.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile: it is no YAML.
        MissingDependency: PyYAML is not installed.
    """
    yaml = require("yaml", feature=feature, extra="interop")
    text = parse_text(read_bytes(path, what), path)
    with guarded(path, f"{what} in YAML"):
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


# -- numbers ---------------------------------------------------------------------------------------------------------------

LARGEST = 1e12
"""No measurement in milliseconds or millijoules is above this (30 years, or a gigajoule), and no positive one is below its inverse."""
RANGE = f"({1 / LARGEST:g} to {LARGEST:g})"
"""The same in words."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether decoded JSON is a number; truth values, which Python counts among the whole numbers, are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether decoded JSON is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_amount(value: object, *, zero: bool = False) -> TypeGuard[int | float]:
    """Whether decoded JSON is a latency or an energy that some device may have.

    Args:
        value: the decoded JSON.
        zero: whether it may be zero, or next to nothing.
    """
    return is_number(value) and (0 if zero else 1 / LARGEST) <= value <= LARGEST


# -- headers ---------------------------------------------------------------------------------------------------------------


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
    if not is_whole(found) or found < 1:
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
        InvalidInput: it comes from others.
    """
    differing = sorted(key for key in wanted if found.get(key) != wanted[key])
    if differing:
        told = ", ".join(f"{key} {found.get(key)!r} there and {wanted[key]!r} here" for key in differing)
        raise InvalidInput(f"{path} comes from other arguments: {told}. Use the same ones, name another file, or delete it.")


# -- arrays ----------------------------------------------------------------------------------------------------------------

Arrays = dict[str, npt.NDArray[Any]]


def parse_array(data: bytes) -> npt.NDArray[Any]:
    """The array of the bytes of an npy file, in this machine's byte order.

    Raises:
        ValueError: it is no such file, holds other things than real numbers or text, or does not hold the number that its header claims.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version of the npy format is {version}, and 1 or 2 was expected")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    if dtype.kind not in _KINDS:
        raise ValueError(f"it holds values of the type {dtype}, and real numbers or text were expected")
    held, claimed = len(data) - file.tell(), math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or held != claimed:
        raise ValueError(f"an array of the shape {shape} takes {claimed} bytes, and it holds {held}")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return np.array(flat.reshape(shape, order="F" if by_columns else "C"), dtype.newbyteorder("="))


def parse_arrays(data: bytes, path: PathLike, what: str) -> Arrays:
    """The arrays of the bytes of an npz file, by name.

    Raises:
        CorruptFile: it is no such file, is damaged, or holds other things than real numbers or text.
    """
    if not data.startswith(b"PK"):
        raise CorruptFile(f"{os.fspath(path)} is not a {what} (an npz file of arrays): it is another kind of file.")
    with guarded(path, f"{what} (an npz file of arrays)"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename.removesuffix(".npy"): parse_array(archive.read(entry)) for entry in archive.infolist()}


def read_arrays(path: PathLike, what: str, *, format: str, version: int) -> tuple[dict[str, Any], Arrays]:
    """Read the JSON header and the arrays of an npz file that :func:`hwsearch._files._writing.write_arrays` wrote.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile, NewerVersion: it is not of ``format``, or newer than ``version``.
    """
    arrays = parse_arrays(read_bytes(path, what), path, what)
    if "header" not in arrays:
        raise CorruptFile(f"{os.fspath(path)} is not a {what} (an npz file with a header): it has no header.")
    return check_header(parse_json(arrays.pop("header").tobytes(), path), format=format, version=version, path=path), arrays


def parse_tensor_header(data: bytes, path: PathLike, what: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What the header of a safetensors file says.

    Returns:
        The description of each tensor by name, and the file's metadata.

    Raises:
        CorruptFile: it is no such file, or ends before its last tensor does.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise CorruptFile(f"{os.fspath(path)} is not a whole safetensors file: it is truncated, or another kind of file.")
    with guarded(path, f"{what} (a safetensors file)"):
        header = dict(parse_json(data[8 : 8 + length], path))
        metadata = dict(header.pop("__metadata__", {}))
        end = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
        if len(data) < end:
            raise CorruptFile(
                f"{os.fspath(path)} is not a whole safetensors file: it is truncated, with {len(data):,} of {end:,} bytes. Copy it again."
            )
        return header, metadata
