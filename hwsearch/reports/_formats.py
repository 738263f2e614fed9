"""The formats of hwsearch's files: how each is read, and how it is shown on a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

from rich.console import RenderableType

from .._files._reading import PathLike, parse_arrays, parse_json, parse_tensor_header, read_bytes
from ..devices._table import load_table
from ..devices._table_file import FORMAT as TABLE
from ..errors import FileError, WrongSpace
from ..scores._predictor import FORMAT as PREDICTOR
from ..scores._predictor_file import load_predictor, read_told
from ..scores._report import Report
from ..searching._finished import FORMAT as FINISHED
from ..searching._finished import load_finished
from ..searching._result import FORMAT as RESULT
from ..searching._result import load_result
from ..spaces._load import space_of_file
from ..spaces._space import ARCHITECTURE_FORMAT as ARCHITECTURE
from ..spaces._space import Architecture, SearchSpace
from . import _terminal
from ._adopted_facts import FOLDER, NETWORK, read_folder_facts, read_network_facts
from ._supernet_facts import read_supernet_facts

_ONNX = "ONNX"
_Reader = Callable[[PathLike], Any]
_Renderer = Callable[[Any, PathLike], RenderableType]


def _load_architecture(path: PathLike, space: SearchSpace | None = None) -> Architecture:
    return Architecture.from_json(path, space or space_of_file(_header(path).get("space"), path))


def _read_onnx(path: PathLike) -> dict[str, str]:
    from ..backends._onnx._check import facts

    return facts(path)


def _load_coded(path: PathLike) -> Any:
    from ..nn.quantization._coded import load_coded

    return load_coded(path)


def _read_predictor(path: PathLike, space: SearchSpace | None = None) -> tuple[str, Report | None]:
    """The space and the report of a predictor, which is checked as a whole where its space is here."""
    try:
        found = load_predictor(path, space)
    except WrongSpace:
        if space is not None:
            raise
        return read_told(path)
    return found.space.name, found.report


FORMATS: dict[str, tuple[_Reader, _Renderer]] = {
    TABLE: (load_table, _terminal.latency_table),
    RESULT: (load_result, _terminal.search_result),
    FINISHED: (load_finished, _terminal.finished),
    ARCHITECTURE: (_load_architecture, _terminal.architecture),
    PREDICTOR: (_read_predictor, _terminal.predictor),
    _ONNX: (_read_onnx, _terminal.model),
    "hwsearch-coded": (_load_coded, _terminal.coded),
    "hwsearch-supernet": (read_supernet_facts, _terminal.supernet),
    "hwsearch-training": (read_supernet_facts, _terminal.supernet),
    NETWORK: (read_network_facts, _terminal.adopted),
    FOLDER: (read_folder_facts, _terminal.adopted),
}
"""Format, as the header of a file names it -> how it is read, and how what was read is shown. Nothing else knows which files there are."""

_OF_SPACES = (RESULT, FINISHED, ARCHITECTURE, PREDICTOR)
"""Files whose readers take the space of their networks."""

_FOLDERS = ("adopted.json", "finished.json")
"""The file that tells what a folder is."""

_ARCHITECTURES: dict[str, Callable[[Any], Architecture | None]] = {
    ARCHITECTURE: lambda found: found,
    RESULT: lambda found: found.best,
    FINISHED: lambda found: found.architecture,
}


def describe(path: PathLike, space: SearchSpace | None = None) -> RenderableType:
    """Any file of hwsearch, and any ONNX model, as text for a terminal.

    Args:
        path: the file; or the folder of an adopted or of a finished network.
        space: whose networks it holds; found by its name if omitted.

    Raises:
        FileError: it cannot be read, or is no file of hwsearch.
    """
    inside = [os.path.join(path, name) for name in _FOLDERS if os.path.isfile(os.path.join(path, name))]
    path = inside[0] if inside else path
    found = _format(path, FORMATS, "is no file of hwsearch that can be shown")
    return FORMATS[found][1](_read(found, path, space), path)


def _read(found: str, path: PathLike, space: SearchSpace | None) -> Any:
    """A file of a format."""
    read: Any = FORMATS[found][0]
    return read(path, space) if space is not None and found in _OF_SPACES else read(path)


def is_network(path: PathLike) -> bool:
    """Whether a file holds a network of the user's with its weights, as :func:`hwsearch.nn.adoption.save_network` writes it.

    Raises:
        FileError: it cannot be read.
    """
    return _header(path).get("format") == NETWORK


def find_architecture(path: PathLike, space: SearchSpace | None = None) -> Architecture:
    """The architecture in a file: that of an architecture file or a finished network, or the best one of a search result.

    Args:
        path: the file.
        space: whose architecture it is; found by its name if omitted.

    Raises:
        FileError: it cannot be read, or is another kind of file.
    """
    found = _format(path, _ARCHITECTURES, "holds no architecture: give a search result or an architecture file")
    architecture = _ARCHITECTURES[found](_read(found, path, space))
    if architecture is None:
        raise FileError(f"{os.fspath(path)} holds no architecture, but a network of your own: take the file of its weights beside it.")
    return architecture


def _format(path: PathLike, known: Collection[str], complaint: str) -> str:
    """The format that the header of a file names.

    Raises:
        FileError: it cannot be read, or its format is none of those that are known.
    """
    found = _header(path).get("format")
    if not isinstance(found, str) or found not in known:
        raise FileError(f"{os.fspath(path)} {complaint} (its format is {found!r}).")
    return found


def _header(path: PathLike) -> dict[str, Any]:
    """The header of a file: in an npz or safetensors file of hwsearch, or its JSON document itself; empty if there is none.

    Raises:
        FileError: the file cannot be read, or is damaged.
    """
    data = read_bytes(path, "file")
    tensors = data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 2**32  # the length of a header, which may begin as ONNX does
    if data.startswith(b"\x08") and not tensors:  # the first field of an ONNX model, its version, as protobuf writes it
        return {"format": _ONNX}
    if data.startswith(b"PK"):
        arrays = parse_arrays(data, path, "file of hwsearch")
        text = arrays["header"].tobytes() if "header" in arrays else b"{}"
    elif tensors:
        text = str(parse_tensor_header(data, path, "supernet")[1].get("hwsearch", "{}")).encode()
    elif data.lstrip()[:1] in (b"{", b"["):
        text = data
    else:
        raise FileError(f"{os.fspath(path)} is no file of hwsearch, and no ONNX model: those are JSON, npz, safetensors or ONNX files.")
    document = parse_json(text, path)
    return document if isinstance(document, dict) else {}
