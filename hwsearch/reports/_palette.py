"""Colours and markers, those of Okabe and Ito (2008): colour-blind readers tell them apart, and shapes tell the same story again."""

from __future__ import annotations

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#5f6b7a"
SEARCHED = (BLUE, "*")
"""Of a finished network that a search found."""
COMPARED = ((ORANGE, "s"), (GREEN, "^"), (PINK, "D"), (GREY, "X"))
"""Of the finished networks beside it."""
SERIES = ((ORANGE, "s"), (BLUE, "o"), (GREEN, "^"), (PINK, "D"), (GREY, "X"))
"""Of several curves."""
