"""The site: every public name in the reference, every page in the navigation, every link to something that is there."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from test_docstrings import FACES, described

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


PAGES = runpy.run_path(str(DOCS / "reference_pages.py"))
NOTEBOOKS = runpy.run_path(str(DOCS / "notebook_pages.py"))


def test_every_public_name_is_in_the_reference() -> None:
    """The pages are made of the faces when the site is built, so that nobody has to keep a list."""
    assert set(PAGES["FACES"]) == {"hwsearch", *(f"hwsearch.{name}" for name in FACES)}
    for face in PAGES["FACES"]:
        module = importlib.import_module(face)
        public = {name for name in module.__all__ if type(getattr(module, name)).__name__ != "module"}
        assert sorted(PAGES["names"](face)) == sorted(public), face
    assert "\n::: hwsearch.nn.Watch\n" in PAGES["pages"]()["reference/nn.md"]


SKIPPED = {
    "hwsearch.bench": "takes seconds by a load generator that has no wheels everywhere",
    "hwsearch.profiling.bench": "the same",
    "hwsearch.interop.ofa_supernet": "reads weights that others publish",
}
"""Public names whose examples are shown and not run, and why."""


def test_every_public_name_has_an_example() -> None:
    """In its own docstring, or in the text below a constant or a type; all but a few are run (``test_docstrings.py``)."""
    shown = re.findall(r"^::: (\S+)$", "\n".join(PAGES["pages"]().values()), re.MULTILINE)
    assert len(shown) > 250
    texts = {}
    for name in shown:
        face, _, own = name.rpartition(".")
        thing = getattr(importlib.import_module(face), own)
        described_alone = inspect.isclass(thing) or inspect.isfunction(thing)
        texts[name] = (thing.__doc__ or "") if described_alone else described(face, own)[1]
    assert not [name for name, text in texts.items() if not re.search(r"^ *Example:\n +>>> ", text, re.MULTILINE)]
    assert {name for name, text in texts.items() if "+SKIP" in text} == set(SKIPPED)


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(
        [*(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")), *PAGES["pages"](), *NOTEBOOKS["pages"]()]
    )


def test_executed_notebooks_are_pages() -> None:
    """With what each cell gave: text, tables and pictures."""
    page = NOTEBOOKS["pages"]()["notebooks/quickstart.md"]
    assert page.startswith("# Quickstart")
    for part in (
        "```python\nfrom pathlib",
        '<img alt="What the cell above draws" src="data:image/png;base64,iVBOR',
        '<div class="output"><p><b>Best',
    ):
        assert part in page
    assert page.count("```") % 2 == 0


def _anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as they are made from their words."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def test_links_lead_somewhere() -> None:
    pages = [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    lost = []
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)):
            if link.startswith(("http:", "https:", "mailto:")):
                continue
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
                lost.append(f"{page.name}: {link}")
    assert not lost, "\n".join(lost)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """As ``make docs`` does it, where mkdocs and its plug-ins are installed."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, exc_type=ImportError)
    words = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path))
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "nn" / "index.html").exists()
