"""The executed notebooks as pages, made when the site is built: what was typed, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("quickstart", "your_own_network")


def pages() -> dict[str, str]:
    """The pages by their place in the documents."""
    return {f"notebooks/{name}.md": page(name) for name in NOTEBOOKS}


def page(name: str) -> str:
    """A notebook of ``examples/`` as Markdown."""
    cells = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text())["cells"]
    link = f"*Executed as it stands here: `examples/{name}.ipynb`.*"
    parts = [part for cell in cells for part in _cell(cell)]
    return "\n\n".join([parts[0], link, *parts[1:]]) + "\n"


def _cell(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *(_output(output) for output in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    """What a cell gave: a picture, a table, or text."""
    data = {kind: "".join(text) for kind, text in output.get("data", {"text/plain": output.get("text", "")}).items()}
    if "image/png" in data:
        picture = data["image/png"].replace("\n", "")
        return f'<img alt="What the cell above draws" src="data:image/png;base64,{picture}">'
    if "text/html" in data:
        return f'<div class="output">{data["text/html"]}</div>'.replace("\n\n", "\n")
    return f"```text\n{data['text/plain'].rstrip()}\n```"


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages; called by mkdocs."""
    from mkdocs.structure.files import File

    for place, text in pages().items():
        files.append(File.generated(config, place, content=text))
    return files
