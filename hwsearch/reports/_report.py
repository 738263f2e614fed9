"""Pictures of a search and of a latency table, and the HTML page that holds them.

Every figure is a plain :class:`matplotlib.figure.Figure`, made without pyplot, so no screen is needed. Colours are those of Okabe
and Ito (2008), which stay apart for colour-blind readers; shapes tell the same story again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .. import _html
from .._files._writing import PathLike, write_atomic
from ..devices._calibration import network_class
from ..devices._device import Check, Row
from ..devices._table import LatencyTable
from ..errors import InvalidInput
from ..networks._blocks import Block
from ..searching._result import SearchResult
from . import _facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _PINK, _GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#5f6b7a"
_FINE = 4
_FINISHED = ((_ORANGE, "s"), (_GREEN, "^"), (_BLUE, "*"), (_PINK, "D"), (_GREY, "X"))
_SERIES = ((_ORANGE, "s"), (_BLUE, "o"), (_GREEN, "^"), (_PINK, "D"), (_GREY, "X"))


@dataclass(frozen=True)
class Compared:
    """One finished network in a comparison.

    Attributes:
        name: such as ``"dense"``, ``"uniform width"``, ``"searched"``.
        accuracy: on the test images, measured on the exported model, in [0, 1].
        predicted_ms, measured_ms: latency by the table, and on the device.
        spread_ms: of the measured latency.
        macs, params: as in :mod:`hwsearch.networks._blocks`.
        size_bytes: of the model file on disk.
    """

    name: str
    accuracy: float
    predicted_ms: float
    measured_ms: float
    spread_ms: float
    macs: float
    params: float
    size_bytes: int

    def cells(self) -> dict[str, str]:
        """The figures as text, by column title."""
        return {
            "network": self.name,
            "accuracy": f"{self.accuracy:.2%}",
            "predicted (ms)": f"{self.predicted_ms:.4f}",
            "measured (ms)": f"{self.measured_ms:.4f} ±{self.spread_ms:.4f}",
            "MACs": f"{self.macs / 1e6:,.2f} M",
            "params": f"{self.params:,.0f}",
            "bytes": f"{self.size_bytes:,}",
        }


def front_figure(result: SearchResult, comparison: Sequence[Compared] = ()) -> Figure:
    """The Pareto front: predicted accuracy against latency, or against the first limited metric where latency has no limit.

    Args:
        result: of a search.
        comparison: finished networks, drawn at their measured latency and test accuracy.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    from ._canvas import canvas

    front = result.front
    limited = [name for name in front.values if name in result.limits]
    cost = "latency_ms" if "latency_ms" in limited else (limited or list(front.values))[0]
    with canvas() as (figure, axes):
        order = np.argsort(front.values[cost])
        scale, label = _scored(front.scores)
        x, y = front.values[cost][order], scale * front.scores[order]
        axes.plot(x, y, "o", color=_BLUE, markersize=4, alpha=0.6, label=f"front, predicted ({len(front)} networks)")
        best = (result.values[cost], scale * result.best_score)
        axes.plot(*best, "o", markersize=11, fillstyle="none", linestyle="none", color=_BLUE, label=f"the answer, {result.word}")
        if cost in result.limits:
            axes.axvline(result.limits[cost], color=_GREY, linestyle="--", linewidth=1, label=f"limit: {result.limits[cost]:.4g}")
        for (color, marker), one in zip(_FINISHED, comparison if cost == "latency_ms" and scale != 1 else (), strict=False):
            axes.errorbar(
                one.measured_ms,
                scale * one.accuracy,
                xerr=one.spread_ms,
                color=color,
                marker=marker,
                markersize=12 if marker == "*" else 8,
                linestyle="none",
                label=f"{one.name}, measured",
            )
        axes.set_xlabel(_label(cost))
        axes.set_ylabel(label)
        axes.set_title(f"{label.partition(' (')[0].capitalize()} against {_label(cost).partition(' (')[0]}, {result.best.space.name}")
        _legend(axes)
    return figure


def families(table: LatencyTable) -> list[tuple[Block, str]]:
    """The families of a table: measured blocks that differ in one inner width only, largest family first.

    Returns:
        Pairs of the family's widest block and the name of the width that varies, ``"mid1"`` or ``"mid2"``.
    """
    members: dict[tuple[Block, str], list[Block]] = {}
    for block in map(Block.parse, table.rows):
        for index in range(len(block.mids)):
            members.setdefault((_with_mid(block, index, 1), f"mid{index + 1}"), []).append(block)
    found = [(max(blocks, key=lambda block: block.macs), axis, len(blocks)) for (_, axis), blocks in members.items() if len(blocks) > 1]
    found.sort(key=lambda one: (-one[2], -one[0].macs, one[0].key, one[1]))
    return [(block, axis) for block, axis, _ in found]


def staircase_figure(table: LatencyTable, family: Block | None = None, axis: str = "mid1") -> Figure:
    """The staircase of one block: latency against an inner width, with the edges worth keeping marked.

    Hardware computes channels in tiles, so latency climbs in stairs; only the widest block on a stair is worth choosing.

    Args:
        table: of a device; one that was made under a budget also shows what it estimates between the measured widths.
        family: any block of the family; the largest family of the table where it is ``None``.
        axis: the width that varies, ``"mid1"`` or ``"mid2"``.

    Raises:
        InvalidInput: the table holds fewer than two blocks of the family.
        MissingDependency: matplotlib is not installed.
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
        for (color, marker), (precision, line) in zip(_SERIES, lines.items(), strict=False):
            widths = list(line)
            edges = table.edges(replace(family, precision=precision), axis)
            if table.sampled:
                fine = range(widths[0], widths[-1] + 1, _FINE)
                index = int(axis.removeprefix("mid")) - 1
                between = table.measured_ms([_with_mid(replace(family, precision=precision), index, width) for width in fine])
                axes.plot(fine, between, color=color, linewidth=1.2, alpha=0.6, label=f"{precision}: estimated")
            axes.errorbar(
                widths,
                [row.latency_ms for row in line.values()],
                yerr=[row.spread_ms for row in line.values()],
                color=color,
                marker=".",
                linewidth=0 if table.sampled else 1.2,
                elinewidth=0.8,
                label=precision,
            )
            axes.plot(
                edges,
                [line[width].latency_ms for width in edges],
                marker,
                color=color,
                markersize=9,
                fillstyle="none",
                linestyle="none",
                label=f"{precision}: edges worth keeping",
            )
        axes.set_xlabel("inner width (channels)")
        axes.set_ylabel("latency (ms)")
        axes.set_ylim(bottom=0)
        axes.set_title(f"One {family.kind} block, {family.cin} to {family.cout} channels at {family.size} px")
        _legend(axes)
    return figure


def prediction_figure(table: LatencyTable) -> Figure:
    """Predicted against measured latency of whole networks that were not used for fitting.

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
        axes.fill_between(line, 0.95 * line, 1.05 * line, color=_GREY, alpha=0.15, linewidth=0, label="within 5 %")
        axes.plot(line, line, color=_GREY, linewidth=1)
        for (color, marker), kind in zip(_SERIES, ("fp32", "int8", "mixed"), strict=False):
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
        _legend(axes)
    return figure


def _scored(scores: npt.NDArray[np.float64]) -> tuple[float, str]:
    """By what scores are multiplied for an axis, and its label: shares of one, which a predictor may exceed a little, are accuracies."""
    return (100.0, "accuracy (%)") if scores.min() >= 0.0 and scores.max() <= 1.1 else (1.0, "score")


def history_figure(result: SearchResult) -> Figure:
    """The search as it went: best predicted accuracy against the networks evaluated.

    Raises:
        InvalidInput: the result has no history.
        MissingDependency: matplotlib is not installed.
    """
    from ._canvas import canvas

    steps = [step for step in result.history if step.get("best_score") is not None]
    if not steps:
        raise InvalidInput("The result has no history to draw: no step found a network within the limits.")
    scale, label = _scored(result.front.scores)
    with canvas() as (figure, axes):
        axes.step(
            [step["evaluated"] for step in steps],
            [scale * step["best_score"] for step in steps],
            where="post",
            color=_BLUE,
            label=f"best within the limits ({len(result.history)} steps)",
        )
        axes.set_xlabel("networks evaluated")
        axes.set_ylabel(f"best predicted {label}")
        axes.set_title("History of the search")
        _legend(axes)
    return figure


def _noisy(checks: Sequence[Check]) -> str:
    """How many measurements are noisy, in words; nothing where none is."""
    count = sum(check.noisy for check in checks)
    return f", {count} of them noisy" if count else ""


def verification_figure(result: SearchResult, name: str = "score") -> Figure:
    """Predicted against measured scores or latencies of the networks that a search verified, by round.

    Args:
        result: of a search that verified.
        name: ``"score"`` or ``"latency_ms"``.

    Raises:
        InvalidInput: the search did not verify this.
        MissingDependency: matplotlib is not installed.
    """
    from ._canvas import canvas

    if result.verification is None or name not in result.verification.tolerance:
        raise InvalidInput(f"The search did not verify {name}; search again with verify=8 and a tolerance for it.")
    scale, label = _scored(result.front.scores) if name == "score" else (1.0, _label(name))
    turns = [scale * np.array([(one.measured[name], one.predicted[name]) for one in turn.networks]) for turn in result.verification.rounds]
    everything = np.concatenate(turns)
    with canvas() as (figure, axes):
        axes.plot(*2 * [[everything.min(), everything.max()]], color=_GREY, linewidth=1, label="foretold as measured")
        for number, points in enumerate(turns):
            color, marker = _SERIES[number % len(_SERIES)]
            axes.plot(*points.T, marker, color=color, alpha=0.5, label=f"round {number + 1} ({len(points)} networks)")
            axes.plot(*points[0], marker, color=color, markersize=11, fillstyle="none")
        axes.set_xlabel(f"measured {label}")
        axes.set_ylabel(f"predicted {label}")
        axes.set_title(f"Predicted against measured {label.partition(' (')[0]}; the foretold best of each round is ringed")
        _legend(axes)
    return figure


def write_report(
    result: SearchResult, table: LatencyTable | None = None, comparison: Sequence[Compared] = (), out: PathLike = "report.html"
) -> Path:
    """Write one self-contained HTML page: the comparison, the answer, and the pictures.

    Args:
        result: of a search.
        table: of the device, for the staircase and the prediction error; without it those pictures are left out.
        comparison: finished networks, in the order in which they shall stand.
        out: the page to write.

    Returns:
        The path of the page.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    from ._canvas import svg

    pictures = [
        ("The Pareto front that the search found, and the networks that were built and measured.", front_figure(result, comparison))
    ]
    if result.verification is not None:
        words = "What the search foretold of its best networks in each round, and what they turned out to be."
        pictures += [(words, verification_figure(result, name)) for name in result.verification.tolerance]
    if table is not None and families(table):
        words = "The staircase of one block: latency against width. Only the widest block on a stair is worth choosing."
        pictures.append((words, staircase_figure(table)))
    if table is not None and any(check.role == "check" for check in table.checks):
        pictures.append(("Predicted against measured latency of whole networks not used for fitting.", prediction_figure(table)))
    if any(step["best_score"] is not None for step in result.history):
        pictures.append(("The history of the search.", history_figure(result)))

    title = f"hwsearch: {result.best.space.name}"
    parts = [f"<h1>{_html.text(title)}</h1>", f"<p>{_html.text(result.verdict)}</p>"]
    if comparison:
        rows = [one.cells() for one in comparison]
        parts.append(
            _html.table(
                "Built, exported and measured: accuracy of the files on the test images, latency on the device",
                rows[0],
                [list(row.values()) for row in rows],
            )
        )
    parts.append(_html.table("The answer, and how tight its limits are", *result.limit_rows()))
    if result.verification is not None:
        parts.append(_html.table("What was verified", *result.verification_rows()))
    for number, (words, figure) in enumerate(pictures, start=1):
        drawing = svg(figure, words, name=f"figure{number}")
        parts.append(f"<figure>{drawing}<figcaption>{_html.text(words)}</figcaption></figure>")
    parts.append(f"<h2>The network found</h2><pre>{_html.text(result.best)}</pre>")
    if table is not None:
        parts.append(_html.table("How well the table predicts whole networks", (), list(_facts.error_facts(table).items())))
        parts.append(_html.table("Where it was measured", (), list(_facts.device_facts(table).items())))
    write_atomic(out, _html.page(title, parts).encode())
    return Path(out)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _label(cost: str) -> str:
    name, _, unit = cost.rpartition("_")
    return f"{name.replace('_', ' ')} ({ {'ms': 'ms', 'mj': 'mJ', 'mb': 'MB'}[unit] })" if unit in ("ms", "mj", "mb") else cost


def _with_mid(block: Block, index: int, width: int) -> Block:
    """The same block with another inner width."""
    return replace(block, mids=(*block.mids[:index], width, *block.mids[index + 1 :]))


def _staircase(table: LatencyTable, family: Block, axis: str) -> dict[int, Row]:
    """The measured blocks of a family, by width, ascending."""
    index = int(axis.removeprefix("mid")) - 1
    line = {
        block.mids[index]: row
        for block, row in ((Block.parse(key), row) for key, row in table.rows.items())
        if block.kind == family.kind and _with_mid(block, index, 1) == _with_mid(family, index, 1)
    }
    return dict(sorted(line.items()))
