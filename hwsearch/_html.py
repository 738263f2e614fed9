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
body {{ font: 16px/1.5 system-ui, sans-serif; color: #22303c; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; }}
.wide {{ overflow-x: auto; margin: 1.5rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding-bottom: .4rem; }}
th, td {{ padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #e3e7eb; text-align: right; white-space: nowrap; }}
th:first-child {{ text-align: left; }} tbody th {{ font-weight: 400; }}
figure {{ margin: 2rem 0; }} svg {{ width: 100%; max-width: 46rem; height: auto; }}
figcaption {{ color: #5f6b7a; }}
pre {{ background: #f5f7f9; padding: 1rem; overflow-x: auto; border-radius: 6px; }}
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
