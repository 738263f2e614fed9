"""The canvas that all figures are drawn on; the only module that imports matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._html import text
from ..errors import require

require("matplotlib", feature="Drawing figures", extra="plot")

from matplotlib import rc_context  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

_STYLE: Any = {
    "axes.edgecolor": "#8a94a0",
    "axes.grid": True,
    "axes.labelcolor": "#22303c",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": "#e3e7eb",
    "legend.frameon": False,
    "xtick.color": "#22303c",
    "ytick.color": "#22303c",
}


class Picture(Figure):
    """A matplotlib figure that notebooks show, with or without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


@contextmanager
def canvas() -> Iterator[tuple[Figure, Axes]]:
    """A figure in the style of the house with one pair of axes to draw on; what has a label gets into its legend."""
    with rc_context(_STYLE):
        figure = Picture(figsize=(7.0, 4.4), dpi=120)
        axes = figure.add_subplot()
        yield figure, axes
        if axes.get_legend_handles_labels()[0]:
            axes.legend()


def svg(figure: Figure, caption: str, *, name: str = "figure") -> str:
    """A figure as SVG text to stand inside an HTML page.

    Args:
        figure: to draw.
        caption: what it shows, for readers who cannot see it.
        name: different for each figure of a page, so that their identifiers stay apart.
    """
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "hwsearch", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    tag, rest = re.sub(r"\s*<metadata>.*?</metadata>", "", drawing[drawing.index("<svg") :], flags=re.DOTALL).split(">", 1)
    tag = re.sub(r' (width|height)="[^"]*"', "", tag).replace("<svg", f'<svg role="img" aria-label="{text(caption)}"')
    return tag + ">" + re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", rest)
