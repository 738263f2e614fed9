"""The HTML of a report: one template, and tables that screen readers understand."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def text(value: object) -> str:
    """Any value, safe to stand in HTML."""
    return html.escape(str(value))


def table(caption: str, titles: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a caption; the first cell of a row is its heading. Without titles there is no head."""
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in titles)
    body = "".join(
        "<tr>" + f'<th scope="row">{text(row[0])}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    header = f"<thead><tr>{head}</tr></thead>" if any(titles) else ""
    return f'<div class="wide"><table><caption>{text(caption)}</caption>{header}<tbody>{body}</tbody></table></div>'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #22303c; --soft: #5f6b7a; --paper: #fff; --line: #e3e7eb; --box: #f5f7f9; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e4e9ee; --soft: #9aa7b4; --paper: #15191e; --line: #313a44; --box: #1e242b; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; }}
.wide {{ overflow-x: auto; margin: 1.5rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding-bottom: .4rem; max-width: min(60rem, 100vw - 2rem); }}
th, td {{ padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }}
th:first-child {{ text-align: left; }} tbody th {{ font-weight: 400; }}
figure {{ margin: 2rem 0; }} svg {{ width: 100%; max-width: 46rem; height: auto; }}
figure:not(.front) > svg {{ background: #fff; border-radius: 6px; }}
figcaption, .key {{ color: var(--soft); }}
pre {{ background: var(--box); padding: 1rem; white-space: pre-wrap; border-radius: 6px; }}
@media (prefers-color-scheme: dark) {{ figure:not(.front) > svg {{ filter: invert(.9) hue-rotate(180deg); }} }}
@media (max-width: 40rem) {{ th, td {{ padding-right: .6rem; white-space: normal; overflow-wrap: normal; }} }}
.front text {{ fill: var(--soft); font-size: 12px; }} .front .grid {{ stroke: var(--line); }}
.front circle {{ fill: hsl(var(--hue) 70% 50%); cursor: pointer; }} .front circle.out {{ opacity: .15; }}
.front circle.best {{ stroke: var(--ink); stroke-width: 3; }}
.sliders label {{ display: flex; flex-wrap: wrap; gap: .2rem .8rem; align-items: center; }}
.sliders input {{ flex: 1 1 12rem; max-width: 26rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page, with nothing to fetch from elsewhere."""
    return _PAGE.format(title=text(title), body="\n".join(parts))
