"""The pages of the reference, made when the site is built: a page for each package with a face, and on it every name that it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FACES = {
    "hwsearch": "The library: every verb, and what it takes and gives.",
    "hwsearch.spaces": "What may vary, and what network each variation is.",
    "hwsearch.networks": "What a device runs, on paper.",
    "hwsearch.devices": "A device, and what its blocks cost there.",
    "hwsearch.profiling": "How networks are measured.",
    "hwsearch.backends": "The runtimes, and what a backend of your own is made of.",
    "hwsearch.costs": "Costs as sums of small tables, and limits on them.",
    "hwsearch.scores": "Accuracy from genes.",
    "hwsearch.algorithms": "What to try next.",
    "hwsearch.searching": "From a problem to an answer.",
    "hwsearch.nn": "Supernets, training, quantisation, data and export: all that needs torch.",
    "hwsearch.nn.adoption": "Networks of your own: what can be cut, and how they are repaired.",
    "hwsearch.nn.pruning": "Zeros among weights: patterns, how they are spread over layers, and how they grow.",
    "hwsearch.nn.reinforcement": "Search by reinforcement learning: AMC and HAQ.",
    "hwsearch.interop": "What others have measured, trained or found.",
    "hwsearch.reports": "Figures and pages.",
    "hwsearch.testing": "Contract suites for plug-ins.",
}
"""Package -> what it is about."""


def names(face: str) -> list[str]:
    """The names that a face shows, but for packages, as its stub or its module imports them."""
    folder = ROOT.joinpath(*face.split("."))
    stub = folder / "__init__.pyi"
    text = (stub if stub.exists() else folder / "__init__.py").read_text()
    shown: list[str] = []
    for module, imported in re.findall(r"^from (\.\S*) import (.+)$", text, re.MULTILINE):
        if module != ".":
            shown += [name.split(" as ")[-1].strip() for name in imported.split(",")]
    return sorted(shown, key=str.lower)


def pages() -> dict[str, str]:
    """The pages by their place in the documents."""
    classes = re.findall(r"^class (\w+)", (ROOT / "hwsearch" / "errors.py").read_text(), re.MULTILINE)
    errors = ["# hwsearch.errors", "Every exception that hwsearch raises on purpose.", *(f"::: hwsearch.errors.{name}" for name in classes)]
    found = {"reference/errors.md": "\n\n".join(errors) + "\n"}
    for face, about in FACES.items():
        place = face.removeprefix("hwsearch.").replace(".", "-")
        found[f"reference/{place}.md"] = "\n\n".join([f"# {face}", about, *(f"::: {face}.{name}" for name in names(face))]) + "\n"
    return found


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages; called by mkdocs."""
    from mkdocs.structure.files import File

    for place, text in pages().items():
        files.append(File.generated(config, place, content=text))
    return files
