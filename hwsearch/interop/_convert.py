"""Foreign files into hwsearch's own, as the command line does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .._files._writing import PathLike
from ..errors import UnknownName
from ..spaces._load import load_space
from ..spaces._space import SearchSpace
from ._apq import apq_table
from ._ofa import ofa_latency, ofa_predictor
from ._ofa_architecture import ofa_architecture
from ._tfnas import tfnas_table

_Writer = Callable[[PathLike, PathLike, SearchSpace, int | None], Path]
_WRITERS: dict[str, _Writer] = {
    "apq-table": lambda file, out, space, resolution: apq_table(file).save(out),
    "ofa-architecture": lambda file, out, space, resolution: ofa_architecture(file, space, resolution).to_json(out),
    "ofa-latency": lambda file, out, space, resolution: ofa_latency(file).save(out),
    "ofa-predictor": lambda file, out, space, resolution: ofa_predictor(file, space).save(out),
    "tfnas-table": lambda file, out, space, resolution: tfnas_table(file).save(out),
}
KINDS: tuple[str, ...] = tuple(_WRITERS)
"""The kinds of foreign file that become files of hwsearch.

Example:
    >>> from hwsearch.interop import KINDS
    >>> KINDS
    ('apq-table', 'ofa-architecture', 'ofa-latency', 'ofa-predictor', 'tfnas-table')
"""


def convert(
    kind: str, file: PathLike, out: PathLike, *, space: str | SearchSpace = "ofa_mobilenetv3", resolution: int | None = None
) -> Path:
    """Turn a foreign file into one of hwsearch: a latency table, a predictor or an architecture.

    Example:
        >>> import hwsearch, json
        >>> from pathlib import Path
        >>> from hwsearch.interop import convert
        >>> setting = {"ks": [3] * 20, "e": [4] * 20, "d": [2] * 5, "r": [160]}
        >>> size = Path("net.json").write_text(json.dumps(setting))
        >>> path = convert("ofa-architecture", "net.json", out="architecture.json")
        >>> hwsearch.Architecture.from_json(path, hwsearch.load_space("ofa_mobilenetv3")).values()["resolution"]
        160

    Args:
        kind: one of :data:`KINDS`; the function of that name in :mod:`hwsearch.interop` says what is read and which errors are raised.
        file: the foreign file or folder.
        out: the file to write.
        space: of a predictor or an architecture.
        resolution: of an architecture, px.

    Raises:
        UnknownName: no such kind.
    """
    if kind not in _WRITERS:
        raise UnknownName("kind of foreign file", kind, _WRITERS)
    return _WRITERS[kind](file, out, load_space(space), resolution)
