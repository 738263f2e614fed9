"""The HTML page of a search: the comparison, the answer, and the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _html
from .._files._writing import PathLike, write_atomic
from ..devices._table import LatencyTable
from ..searching._result import SearchResult
from . import _facts
from ._compared import Compared
from ._front import interactive_front
from ._search_figures import front_figure, history_figure, macs_figure, verification_figure
from ._table_figures import families, prediction_figure, staircase_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    result: SearchResult, table: LatencyTable | None = None, comparison: Sequence[Compared] = (), out: PathLike = "report.html"
) -> Path:
    """Write one self-contained HTML page about a search: a front that answers, the figures, the comparison and the answer.

    Args:
        result: of a search.
        table: of the device, for its staircase and its prediction error; if omitted, these figures are left out.
        comparison: finished networks, in the order in which they shall stand.
        out: the page to write.

    Returns:
        The path of the page.

    Raises:
        MissingDependency: matplotlib is not installed.

    Example:
        >>> import hwsearch
        >>> result = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}, run=hwsearch.Run(steps=3))
        >>> hwsearch.write_report(result, out="report.html").read_text().startswith("<!doctype html>")
        True
    """
    title = f"hwsearch: {result.best.space.name}"
    parts = [f"<h1>{_html.text(title)}</h1>", f"<p>{_html.text(result.verdict)}</p>", interactive_front(result)]
    parts += _drawings(_figures(result, table, comparison))
    parts += _tables_of_results(result, comparison)
    parts.append(f"<h2>The network found</h2><pre>{_html.text(result.best)}</pre>")
    if table is not None:
        parts.append(_html.table("How well the table predicts whole networks", (), list(_facts.error_facts(table).items())))
        parts.append(_html.table("Where it was measured", (), list(_facts.device_facts(table).items())))
    write_atomic(out, _html.page(title, parts).encode())
    return Path(out)


def _tables_of_results(result: SearchResult, comparison: Sequence[Compared]) -> Iterator[str]:
    """The comparison, the answer and what was verified, as HTML."""
    if comparison:
        rows = [network.cells() for network in comparison]
        caption = "Built, exported and measured: accuracy of the files on the test images, latency on the device"
        yield _html.table(caption, rows[0], [list(row.values()) for row in rows])
    yield _html.table("The answer, and how tight its limits are", *result.limit_rows())
    if result.verification is not None:
        yield _html.table("What was verified", *result.verification_rows())


def _figures(result: SearchResult, table: LatencyTable | None, comparison: Sequence[Compared]) -> Iterator[tuple[str, Figure]]:
    """The figures that there are data for, with their captions."""
    beside = ", and the networks that were built and measured" if comparison else ""
    yield f"The Pareto front that the search found, as predicted{beside}.", front_figure(result, comparison)
    if len(comparison) > 1:
        yield "What the networks take, against their multiply-accumulates: off the line these would mislead.", macs_figure(comparison)
    if result.verification is not None:
        for name in result.verification.tolerance:
            caption = "What was predicted of the best networks of each round, and what was then measured."
            yield caption, verification_figure(result, name)
    if table is not None and families(table):
        caption = "The staircase of one block: latency against width. Only the widest block on a stair is worth choosing."
        yield caption, staircase_figure(table)
    if table is not None and any(check.role == "check" for check in table.checks):
        yield "Predicted against measured latency of whole networks not used for fitting.", prediction_figure(table)
    if any(step["best_score"] is not None for step in result.history):
        yield "The history of the search.", history_figure(result)


def _drawings(figures: Iterator[tuple[str, Figure]]) -> Iterator[str]:
    """Figures with their captions, as HTML."""
    from ._canvas import svg

    for number, (caption, figure) in enumerate(figures, start=1):
        yield f"<figure>{svg(figure, caption, name=f'figure{number}')}<figcaption>{_html.text(caption)}</figcaption></figure>"
