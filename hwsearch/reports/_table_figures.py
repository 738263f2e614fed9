"""Figures of a latency table.

Every figure is a plain :class:`matplotlib.figure.Figure`, made without pyplot, so no screen is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..devices._calibration import network_class
from ..devices._device import Check, Row
from ..devices._table import LatencyTable
from ..errors import InvalidInput
from ..networks._blocks import Block
from ._palette import GREY, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FINE = 4
"""Widths are estimated in steps of this many channels between the measured ones."""


def families(table: LatencyTable) -> list[tuple[Block, str]]:
    """The families of a table: measured blocks that differ in one inner width only, largest family first.

    Example:
        >>> import hwsearch
        >>> from hwsearch.devices import Protocol, Row
        >>> from hwsearch.networks import Block
        >>> from hwsearch.reports import families
        >>> blocks = [Block("basic", 16, 16, 16, (width,), kernel=3) for width in (8, 16, 32)]
        >>> rows = {block.key: Row(0.1) for block in blocks}
        >>> table = hwsearch.LatencyTable(hwsearch.backends.Roofline().describe(), Protocol(), rows)
        >>> [(block.mids, axis) for block, axis in families(table)]
        [((32,), 'mid1')]

    Returns:
        Pairs of the family's widest block and the name of the width that varies, ``"mid1"`` or ``"mid2"``.
    """
    members: dict[tuple[Block, str], list[Block]] = {}
    for block in map(Block.parse, table.rows):
        for index in range(len(block.mids)):
            members.setdefault((_with_mid(block, index, 1), f"mid{index + 1}"), []).append(block)
    found = [(max(blocks, key=lambda block: block.macs), axis, len(blocks)) for (_, axis), blocks in members.items() if len(blocks) > 1]
    found.sort(key=lambda family: (-family[2], -family[0].macs, family[0].key, family[1]))
    return [(block, axis) for block, axis, _ in found]


def staircase_figure(table: LatencyTable, family: Block | None = None, axis: str = "mid1") -> Figure:
    """The staircase of one block: latency against an inner width, with the edges worth keeping marked.

    Hardware computes channels in tiles, so latency climbs in stairs, and only the widest block on a stair is worth choosing.

    Args:
        table: of a device; one that was made under a budget also shows what it estimates between the measured widths.
        family: any block of the family; if omitted, the largest family of the table.
        axis: the width that varies, ``"mid1"`` or ``"mid2"``.

    Raises:
        InvalidInput: the table holds fewer than two blocks of the family.
        MissingDependency: matplotlib is not installed.

    Example:
        >>> import hwsearch
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.devices import Protocol, Row
        >>> from hwsearch.networks import Block
        >>> from hwsearch.reports import staircase_figure
        >>> blocks = [Block("basic", 16, 16, 16, (width,), kernel=3) for width in range(4, 68, 4)]
        >>> rows = {block.key: Row(Roofline().latency_ms(block), 0.001, 8) for block in blocks}
        >>> table = hwsearch.LatencyTable(Roofline().describe(), Protocol(), rows)
        >>> staircase_figure(table).axes[0].get_title()
        'One basic block, 16 to 16 channels at 16 px'
    """
    from ._canvas import canvas

    if family is None:
        known = families(table)
        if not known:
            raise InvalidInput("The table holds no two blocks that differ in one inner width only, so there is no staircase to draw.")
        family, axis = known[0]
    lines = {name: line for name in table.precisions if len(line := _staircase(table, replace(family, precision=name), axis)) > 1}
    if not lines:
        raise InvalidInput(f"The table holds no two blocks that differ from {family.key} in {axis!r} only.")
    with canvas() as (figure, axes):
        for (color, marker), (precision, line) in zip(SERIES, lines.items(), strict=False):
            _draw_stairs(axes, table, replace(family, precision=precision), axis, line, {"color": color, "marker": marker})
        axes.set_xlabel("inner width (channels)")
        axes.set_ylabel("latency (ms)")
        axes.set_ylim(bottom=0)
        axes.set_title(f"One {family.kind} block, {family.cin} to {family.cout} channels at {family.size} px")
    return figure


def _draw_stairs(axes: Axes, table: LatencyTable, family: Block, axis: str, line: dict[int, Row], style: dict[str, Any]) -> None:
    """Draw the measured widths of one precision, what is estimated between them, and the edges of its stairs."""
    widths, color = list(line), style["color"]
    if table.sampled:
        fine = range(widths[0], widths[-1] + 1, _FINE)
        between = table.measured_ms([_with_mid(family, _index(axis), width) for width in fine])
        axes.plot(fine, between, color=color, linewidth=1.2, alpha=0.6, label=f"{family.precision}: estimated")
    axes.errorbar(
        widths,
        [row.latency_ms for row in line.values()],
        yerr=[row.spread_ms for row in line.values()],
        color=color,
        marker=".",
        linewidth=0 if table.sampled else 1.2,
        elinewidth=0.8,
        label=family.precision,
    )
    edges = table.edges(family, axis)
    axes.plot(
        edges,
        [line[width].latency_ms for width in edges],
        **style,
        markersize=9,
        fillstyle="none",
        linestyle="none",
        label=f"{family.precision}: edges worth keeping",
    )


def prediction_figure(table: LatencyTable) -> Figure:
    """Predicted against measured latency of whole networks that were not used for fitting.

    Example:
        >>> import hwsearch
        >>> from hwsearch.reports import prediction_figure
        >>> space = hwsearch.load_space("resnet_digits").restrict({"resolution": [8], "precision": ["int8"]})
        >>> few = hwsearch.profiling.Effort(max_rounds=1, checks=12, fits=12)
        >>> table = hwsearch.profile(space, backend="roofline", out="table.json", effort=few, progress=False)
        >>> prediction_figure(table).axes[0].get_xlabel()
        'measured latency (ms)'

    Raises:
        InvalidInput: the table holds no such networks.
        MissingDependency: matplotlib is not installed.
    """
    from ._canvas import canvas

    checks = [check for check in table.checks if check.role == "check"]
    if not checks:
        raise InvalidInput("The table holds no checks on whole networks; profile the space again to measure them.")
    with canvas() as (figure, axes):
        most = 1.05 * max(max(check.measured_ms, check.predicted_ms) for check in checks)
        line = np.array([0.0, most])
        axes.fill_between(line, 0.95 * line, 1.05 * line, color=GREY, alpha=0.15, linewidth=0, label="within 5 %")
        axes.plot(line, line, color=GREY, linewidth=1)
        for (color, marker), kind in zip(SERIES, ("fp32", "int8", "mixed"), strict=False):
            of_kind = [check for check in checks if network_class([Block.parse(key) for key in check.blocks]) == kind]
            if of_kind:
                axes.errorbar(
                    [check.measured_ms for check in of_kind],
                    [check.predicted_ms for check in of_kind],
                    xerr=[check.spread_ms for check in of_kind],
                    color=color,
                    marker=marker,
                    linestyle="none",
                    label=f"{kind} ({len(of_kind)} networks{_noisy(of_kind)})",
                )
        axes.set_xlabel("measured latency (ms)")
        axes.set_ylabel("predicted latency (ms)")
        axes.set_xlim(0, most)
        axes.set_ylim(0, most)
        axes.set_title(f"Whole networks on {table.device.name}")
    return figure


def _noisy(checks: Sequence[Check]) -> str:
    """How many measurements are noisy, as the end of a label; empty if none is."""
    count = sum(check.noisy for check in checks)
    return f", {count} of them noisy" if count else ""


def _with_mid(block: Block, index: int, width: int) -> Block:
    """The same block with another inner width."""
    return replace(block, mids=(*block.mids[:index], width, *block.mids[index + 1 :]))


def _staircase(table: LatencyTable, family: Block, axis: str) -> dict[int, Row]:
    """The measured blocks of a family, by width, ascending."""
    index = _index(axis)
    line = {
        block.mids[index]: row
        for block, row in ((Block.parse(key), row) for key, row in table.rows.items())
        if block.kind == family.kind and _with_mid(block, index, 1) == _with_mid(family, index, 1)
    }
    return dict(sorted(line.items()))


def _index(axis: str) -> int:
    """The place in ``Block.mids`` of the width ``"mid1"`` or ``"mid2"``."""
    return int(axis.removeprefix("mid")) - 1
