"""The front of a search as a picture that answers: pointing at a network shows it, and a slider for each limit shows the best within."""

from __future__ import annotations

from importlib.resources import files

import msgspec
import numpy as np

from .._html import text
from ..searching._result import BY_TABLE, SearchResult

_MOST = 400
"""Points of a front that are drawn, from all over it."""


def interactive_front(result: SearchResult) -> str:
    """The front of a search as HTML with a script of its own, which fetches nothing from elsewhere.

    Args:
        result: of the search. Across goes its first limited metric, and a second one is shown by colour.
    """
    front = result.front
    shown = [name for name in front.values if name in result.limits] or list(front.values)[:1]
    some = np.unique(np.linspace(0, len(front) - 1, min(len(front), _MOST)).astype(int))
    points = [
        {
            "score": float(front.scores[index]),
            "values": {name: float(front.values[name][index]) for name in shown},
            "network": str(front[int(index)]),
        }
        for index in some
    ]
    title = f"The front that the search found: {len(front)} networks, as predicted"
    known = {name: "predicted" if name.startswith(BY_TABLE) else "counted" for name in shown}
    data = msgspec.json.encode({"title": title, "metrics": shown, "known": known, "points": points}).decode().replace("<", "\\u003c")
    script = files("hwsearch.reports").joinpath("_front.js").read_text(encoding="utf-8")
    return (
        f'<figure class="front"><script type="application/json">{data}</script><div class="plot"></div><div class="sliders"></div>'
        f'<pre class="told" aria-live="polite"></pre><figcaption>{text(title)}. Point at a network to see it; move a limit to see the '
        f"best network within.</figcaption></figure><script>{script}</script>"
    )
