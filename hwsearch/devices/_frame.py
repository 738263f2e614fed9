"""The rows of a latency table as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from ..errors import require
from ..networks._blocks import Block
from ._device import Row

if TYPE_CHECKING:
    import pandas as pd


class HasRows(Protocol):
    """What holds measured blocks, such as a :class:`hwsearch.LatencyTable`."""

    @property
    def rows(self) -> Mapping[str, Row]: ...


def to_frame(table: HasRows) -> pd.DataFrame:
    """A pandas DataFrame with a row for each block that was measured: what it is, and its latency, spread, rounds, energy and error.

    Raises:
        MissingDependency: pandas is not installed.
    """
    frames = require("pandas", feature="LatencyTable.to_frame()", extra="pandas")
    found = []
    for key, row in table.rows.items():
        block = Block.parse(key)
        facts = {name: getattr(block, name, None) for name in ("kind", "precision", "cin", "cout", "size", "macs", "params")}
        found.append({"block": key, **facts, **vars(row), "error": row.error})
    frame: pd.DataFrame = frames.DataFrame(found)
    return frame
