"""Damaged files: from a whole file of a known kind to one that is a little, or very, wrong.

Half of the mutants are damaged as bytes (cut, flipped, of another encoding), half as what they say (a number that is impossible, a key that
is missing, an array of another length), since that is what gets past a parser.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Random = np.random.Generator

_RAW = {"@huge": "9" * 400, "@large": "1" + "0" * 18, "@nan": "NaN", "@infinite": "1e999", "@minus": "-Infinity", "@surrogate": '"\\ud800"'}
"""What cannot be written by a JSON encoder, and marks that stand for it until the text is made."""
_VALUES: tuple[Any, ...] = (
    *_RAW,
    *(None, True, False, 0, -1, 1, 2, 255, 256, 2**31, 2**63, -(2**63), 0.5, -0.5, 1e-320, 1e300, -1e300, "", "x", "\x00", "ä", "0", "-1"),
    *("9" * 400, "fp32", [], {}, [None], [[]], {"a": 1}, [0] * 50),
)


def mutated(kind: str, data: bytes, rng: Random) -> bytes:
    """A mutant of a file of a kind: ``json``, ``jsonl``, ``yaml``, ``csv``, ``csv.gz``, ``npz``, ``npy``, ``safetensors``, ``torch``,
    or ``bytes`` of which nothing is known."""
    meaning = _MEANINGS.get(kind)
    if meaning is None or rng.random() < 0.4:
        return _bytes(data, rng)
    for _ in range(int(rng.integers(1, 3))):
        data = meaning(data, rng)
    return data


# -- as bytes --------------------------------------------------------------------------------------------------------------


def _bytes(data: bytes, rng: Random) -> bytes:
    at, to = sorted(map(int, rng.integers(0, len(data) + 1, 2)))
    near = min(len(data), at + int(rng.integers(1, 20)))
    flipped = bytearray(data)
    for place in rng.integers(0, max(1, len(data)), int(rng.integers(1, 6))):
        if data:
            flipped[place] ^= 1 << int(rng.integers(8))
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at],
        lambda: data[at:],
        lambda: bytes(flipped),
        lambda: data[:at] + data[near:],
        lambda: data[:at] + data[at:near] * 2 + data[near:],
        lambda: data[:at] + rng.bytes(near - at) + data[near:],
        lambda: data[:at] + bytes(near - at) + data[near:],
        lambda: data[:at] + b"\xff" * (near - at) + data[near:],
        lambda: data[:at] + b"\xe4" + data[at:],
        lambda: data[:at] + b"[" * 2000 + data[at:],
        lambda: data[:at] + b"9" * 400 + data[at:],
        lambda: data[:at] + data[to:],
        lambda: data + data,
        lambda: data + rng.bytes(8),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.decode("latin-1").encode("utf-16"),
        lambda: b"",
        lambda: rng.bytes(64),
    )
    return ways[int(rng.integers(len(ways)))]()


# -- as documents ----------------------------------------------------------------------------------------------------------


def _place(document: Any, rng: Random) -> tuple[Any, Any] | None:
    """A container of a document and one of its keys, as likely near the top as in a long list far below; ``None`` where there is none."""
    found, node = None, document
    while isinstance(node, dict | list) and node and (found is None or rng.random() < 0.7):
        key = list(node)[int(rng.integers(len(node)))] if isinstance(node, dict) else int(rng.integers(len(node)))
        found, node = (node, key), node[key]
    return found


def changed(document: Any, rng: Random) -> Any:
    """The document with one thing changed, in place where it can be."""
    place = _place(document, rng)
    if place is None or rng.random() < 0.02:
        return _VALUES[int(rng.integers(len(_VALUES)))]
    where, key = place
    value = where[key]
    way = rng.random()
    if way < 0.2:
        del where[key]
    elif way < 0.6:
        where[key] = _VALUES[int(rng.integers(len(_VALUES)))]
    elif way < 0.7 and isinstance(where, list):
        where.insert(key, value)
    elif way < 0.7:
        where[f"{key}x" if isinstance(key, str) else key] = where.pop(key)
    elif way < 0.8:
        other, its = _place(document, rng) or place
        where[key] = json.loads(json.dumps(other[its]))
    else:
        where[key] = _tweaked(value, rng)
    return document


def _tweaked(value: Any, rng: Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        more = value + 0.5 if abs(value) < 2**63 else value  # no float is as large as the whole numbers that JSON may hold
        return (-value, value * 10**6, more, str(value), value + 1, value - 1, [value])[int(rng.integers(7))]
    if isinstance(value, str):
        at = int(rng.integers(len(value) + 1))
        return (value[:at], value[:at] + "9" * 30 + value[at:], value[:at] + "-" + value[at + 1 :], value + value, [value])[
            int(rng.integers(5))
        ]
    if isinstance(value, list):
        return (value[:-1], value + value, value[::-1], dict.fromkeys(map(str, value), 1))[int(rng.integers(4))]
    return list(value.values()) if rng.random() < 0.5 else list(value)


def _json(document: Any) -> bytes:
    text = json.dumps(document)
    for mark, raw in _RAW.items():
        text = text.replace(f'"{mark}"', raw)
    return text.encode()


def _json_changed(data: bytes, rng: Random) -> bytes:
    try:
        document = json.loads(data)
    except ValueError:
        return _bytes(data, rng)
    return _json(changed(document, rng))


def _lines_changed(data: bytes, rng: Random) -> bytes:
    lines = data.splitlines()
    if not lines:
        return data
    at, way = int(rng.integers(len(lines))), rng.random()
    if way < 0.1:
        del lines[at]
    elif way < 0.2:
        lines.insert(at, lines[int(rng.integers(len(lines)))])
    else:
        lines[at] = _json_changed(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def _yaml_changed(data: bytes, rng: Random) -> bytes:
    import yaml

    document = changed(yaml.safe_load(data), rng)
    return (
        _json(document)
        if rng.random() < 0.5
        else yaml.safe_dump(document).replace("'@nan'", ".nan").replace("'@infinite'", ".inf").encode()
    )


def _csv_changed(data: bytes, rng: Random) -> bytes:
    head, *lines = data.decode().split("\r\n")
    at = 0 if rng.random() < 0.2 else int(rng.integers(1, max(2, len(lines))))
    rows = [head, *lines]
    cells = next(csv.reader([rows[at]]), []) or [""]
    cells = changed(cells, rng)
    rows[at] = ",".join(map(str, cells)) if isinstance(cells, list) else str(cells)
    return "\r\n".join(rows).encode()


def _gzip_changed(data: bytes, rng: Random) -> bytes:
    return gzip.compress(_csv_changed(gzip.decompress(data), rng), 1, mtime=0)


# -- as arrays -------------------------------------------------------------------------------------------------------------


def _array_changed(array: npt.NDArray[Any], rng: Random) -> npt.NDArray[Any]:
    types = ("float64", "float32", "float16", "int64", "int32", "uint8", "int8", "bool", "complex128", ">f4", "U4", "uint64")
    flat = array.ravel()
    special = (np.nan, np.inf, -np.inf, -1.0, 0.0, 1e30, 255.0, 65536.0, 1e19)
    way = int(rng.integers(9))
    with np.errstate(all="ignore"):
        if way == 0:
            return array.astype(types[int(rng.integers(len(types)))])
        if way == 1:
            return flat
        if way == 2:
            return array[None]
        if way == 3:
            return array[:-1] if array.ndim else np.array([])
        if way == 4:
            return np.concatenate([flat, flat])
        if way == 5:
            return array.T
        if way == 6:
            return np.zeros((0, *array.shape[1:]), dtype=array.dtype)
        wide = array.astype(np.float64) if array.dtype.kind in "iub" and rng.random() < 0.3 else array.copy()
        value = np.float64(special[int(rng.integers(len(special)))])
        if wide.dtype.kind in "biuf":
            filled = np.asarray(value).astype(wide.dtype)
            if way == 7 and wide.size:
                wide.reshape(-1)[int(rng.integers(wide.size))] = filled
            else:
                wide[...] = filled
        return wide


def _npy(array: npt.NDArray[Any], rng: Random | None = None) -> bytes:
    file = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    if rng is not None:
        claims = ((10**12,), (10**12, 10**12), (-1,), (2, -1), (0,), ("a",), 3, (1.5,), (True,), (10**400,))
        key = ("shape", "descr", "fortran_order")[int(rng.integers(3))]
        descr = ("|O", "<f8", "<c16", "|V2", "<U3", [("a", "<f8")], "x", 3, "<M8[s]", ">i2")
        header[key] = {"shape": claims, "descr": descr, "fortran_order": (1, None, "x", True)}[key][int(rng.integers(4))]
    np.lib.format.write_array_header_2_0(file, header)
    return file.getvalue() + array.tobytes()


def _npy_changed(data: bytes, rng: Random) -> bytes:
    try:
        array = np.load(io.BytesIO(data))
    except Exception:  # a second change of what is no file any more
        return _bytes(data, rng)
    return _npy(array, rng) if rng.random() < 0.2 else _npy(_array_changed(array, rng))


def _npz_changed(data: bytes, rng: Random) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        names = list(parts)
        name = "header.npy" if "header.npy" in parts and rng.random() < 0.5 else names[int(rng.integers(len(names)))]
        way = rng.random()
        if way < 0.1:
            del parts[name]
        elif way < 0.2:
            parts[f"x{name}"] = parts.pop(name)
        elif way < 0.25:
            parts[name] = parts[names[int(rng.integers(len(names)))]]
        elif name == "header.npy" and way < 0.9:
            header = np.load(io.BytesIO(parts[name])).tobytes()
            parts[name] = _npy(np.frombuffer(_json_changed(header, rng), dtype=np.uint8))
        else:
            parts[name] = _npy_changed(parts[name], rng)
    except Exception:  # a second change of what is no file any more
        return _bytes(data, rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return buffer.getvalue()


def _safetensors_changed(data: bytes, rng: Random) -> bytes:
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
        meta = header.get("__metadata__", {})
        way = rng.random()
        if way < 0.6 and "hwsearch" in meta:
            meta["hwsearch"] = _json_changed(meta["hwsearch"].encode(), rng).decode()
        elif way < 0.85 or not body:
            header = changed(header, rng)
        else:
            at = int(rng.integers(len(body) // 4)) * 4
            body[at : at + 4] = struct.pack("<f", (float("nan"), float("inf"), -1.0, 1e30)[int(rng.integers(4))])
        text = _json(header)
    except Exception:  # a second change of what is no file any more
        return _bytes(data, rng)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def _torch_changed(data: bytes, rng: Random) -> bytes:
    import torch

    try:
        state = torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # a second change of what is no file any more
        return _bytes(data, rng)
    if not isinstance(state, dict) or not state:
        return _bytes(data, rng)
    names = list(state)
    name = names[int(rng.integers(len(names)))]
    value = state[name]
    way = int(rng.integers(8))
    if way == 0:
        del state[name]
    elif way == 1:
        state[f"{name}x"] = state.pop(name)
    elif way == 2:
        state = {("state_dict", "model", "state_dict_ema", "other")[int(rng.integers(4))]: state, "epoch": 3}
    elif way == 3:
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    elif way == 4 and isinstance(value, torch.Tensor):
        types = (torch.complex64, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.float8_e4m3fn)
        state[name] = value.to(types[int(rng.integers(len(types)))])
    elif way == 5 and isinstance(value, torch.Tensor):
        whole = value.float()
        odd = (
            whole.to_sparse,
            lambda: torch.quantize_per_tensor(whole, 0.1, 0, torch.qint8),
            lambda: whole.to("meta"),
            lambda: whole.reshape(-1)[:0],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch is about to give up tensors of this kind
            state[name] = odd[int(rng.integers(len(odd)))]()
    elif way == 6 and isinstance(value, torch.Tensor):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # complex numbers lose a part
            state[name] = torch.from_numpy(np.array(_array_changed(np.zeros(value.shape, np.float32), rng).astype(np.float32)))
    else:
        state[name] = _VALUES[len(_RAW) + int(rng.integers(len(_VALUES) - len(_RAW)))]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


_MEANINGS: dict[str, Callable[[bytes, Random], bytes]] = {
    "json": _json_changed,
    "jsonl": _lines_changed,
    "yaml": _yaml_changed,
    "csv": _csv_changed,
    "csv.gz": _gzip_changed,
    "npz": _npz_changed,
    "npy": _npy_changed,
    "safetensors": _safetensors_changed,
    "torch": _torch_changed,
}
