"""Pictures and the HTML report: they show what the data says, and stand on their own."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch.backends import Roofline
from hwsearch.devices import Check, Protocol, Row
from hwsearch.errors import FileError, InvalidInput
from hwsearch.networks import Block
from hwsearch.reports import (
    Compared,
    families,
    front_figure,
    history_figure,
    macs_figure,
    prediction_figure,
    staircase_figure,
    write_report,
)
from hwsearch.reports._canvas import svg
from hwsearch.reports._formats import FORMATS, describe, find_architecture

FAMILY = Block("basic", 16, 16, 16, (8,), kernel=3)
COMPARISON = (
    Compared("dense", 0.99, 0.20, 0.21, 0.01, 4e6, 1e5, 400_000),
    Compared("searched <joint>", 0.98, 0.10, 0.11, 0.002, 2e6, 5e4, 200_000),
)


@pytest.fixture(scope="module")
def table() -> hwsearch.LatencyTable:
    """Every width of one block on a device with tiles of 16 channels, and twelve checks."""
    device = Roofline(bandwidth_gbs=1e6)
    rows = {}
    for width in range(4, 65, 4):
        for precision in ("fp32", "int8"):
            block = dataclasses.replace(FAMILY, mids=(width,), precision=precision)
            rows[block.key] = Row(device.latency_ms(block), 0.001, 8)
    checks = tuple(Check("check", (FAMILY.key,) * n, 0.1 * n, 0.01, 0.101 * n) for n in range(1, 13))
    return hwsearch.LatencyTable(device.describe(), Protocol(), rows, checks)


@pytest.fixture(scope="module")
def result(digits: hwsearch.SearchSpace, roofline_table: hwsearch.LatencyTable) -> hwsearch.SearchResult:
    return hwsearch.search(
        digits,
        device=roofline_table,
        predictor=lambda X: 0.9 + 0.001 * X.sum(axis=1),
        limits={"latency_ms": 0.1},
        run=hwsearch.Run(steps=5),
    )


def lines(figure: object) -> dict[str, np.ndarray]:
    """The curves of a figure by label, shape ``(points, 2)``."""
    (axes,) = figure.axes  # type: ignore[attr-defined]
    return {line.get_label(): np.asarray(line.get_xydata()) for line in axes.get_lines()}


def test_front_shows_every_network_and_the_limit(result: hwsearch.SearchResult) -> None:
    figure = front_figure(result, COMPARISON)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "latency (ms)"
    assert axes.get_ylabel() == "accuracy (%)"
    curves = lines(figure)
    front = next(points for label, points in curves.items() if label.startswith("front"))
    assert front.shape == (len(result.front), 2)
    assert front[:, 1].max() == pytest.approx(100 * result.best_score)
    assert curves["limit: 0.1"][:, 0] == pytest.approx(0.1)
    legend = axes.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert any(text.startswith("dense") for text in texts)


def test_front_without_a_latency_limit_names_another_cost(result: hwsearch.SearchResult) -> None:
    found = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1) / 100.0, limits={"size_mb": 0.05}, run=hwsearch.Run(steps=2))
    (axes,) = front_figure(found, COMPARISON).axes
    assert axes.get_xlabel() == "size (MB)"
    assert front_figure(found).axes[0].get_xlabel() == "size (MB)"


def test_scores_that_are_no_accuracy_are_drawn_as_they_are() -> None:
    found = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1) - 60.0, limits={"size_mb": 0.05}, run=hwsearch.Run(steps=2))
    (axes,) = front_figure(found).axes
    assert axes.get_ylabel() == "score"
    front = next(points for label, points in lines(front_figure(found)).items() if label.startswith("front"))
    assert front[:, 1].max() == found.best_score
    assert history_figure(found).axes[0].get_ylabel() == "best predicted score"


def test_staircase_marks_the_last_width_of_each_stair(table: hwsearch.LatencyTable) -> None:
    curves = lines(staircase_figure(table, FAMILY))
    assert curves["fp32: edges worth keeping"][:, 0].tolist() == [16, 32, 48, 64]
    assert curves["int8: edges worth keeping"][:, 0].tolist() == list(range(4, 65, 4))


def test_staircase_finds_a_family_by_itself(table: hwsearch.LatencyTable) -> None:
    family, axis = families(table)[0]
    assert (family.mids, axis) == ((64,), "mid1")
    assert lines(staircase_figure(table)).keys() == lines(staircase_figure(table, FAMILY)).keys()


def test_staircase_needs_two_widths(table: hwsearch.LatencyTable) -> None:
    with pytest.raises(InvalidInput, match="no two blocks"):
        staircase_figure(table, Block("basic", 24, 24, 16, (8,), kernel=3))
    with pytest.raises(InvalidInput, match="no two blocks"):
        staircase_figure(dataclasses.replace(table, rows={}, checks=()))


def test_prediction_shows_the_held_out_networks(table: hwsearch.LatencyTable) -> None:
    (axes,) = prediction_figure(table).axes
    points = next(np.asarray(line.get_xydata()) for line in axes.get_lines() if line.get_marker() == "s")
    assert points[:, 0] == pytest.approx([check.measured_ms for check in table.checks])
    assert points[:, 1] == pytest.approx([check.predicted_ms for check in table.checks])
    with pytest.raises(InvalidInput, match="no checks"):
        prediction_figure(dataclasses.replace(table, checks=()))


def test_history_never_falls(result: hwsearch.SearchResult) -> None:
    (points,) = lines(history_figure(result)).values()
    assert (np.diff(points[:, 1]) >= 0).all()
    assert points[-1, 1] == pytest.approx(100 * result.best_score)
    with pytest.raises(InvalidInput, match="no history"):
        history_figure(dataclasses.replace(result, history=()))


class Page(HTMLParser):
    """Collects the tags of a page, and fails where they do not nest."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_latency_is_drawn_against_multiply_accumulates_beside_what_these_would_tell() -> None:
    curves = lines(macs_figure(COMPARISON))
    dense = COMPARISON[0]
    told = next(points for label, points in curves.items() if label.startswith("as MACs tell"))
    assert told[-1][1] / told[-1][0] == pytest.approx(dense.measured_ms / (1e-6 * dense.macs))
    with pytest.raises(InvalidInput, match="at least one finished network"):
        macs_figure([])
    unknown = dataclasses.replace(dense, macs=0)
    assert not any(label.startswith("as MACs tell") for label in lines(macs_figure([unknown, unknown])))


def test_report_is_one_whole_page(result: hwsearch.SearchResult, table: hwsearch.LatencyTable, tmp_path: Path) -> None:
    path = write_report(result, table, COMPARISON, tmp_path / "new" / "report.html")
    text = path.read_text()
    page = Page(text)
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == 5
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    assert "searched &lt;joint&gt;" in text
    assert "98.00%" in text
    assert not re.search(r"(src|href)=\"https?:", re.sub(r"xmlns(:\w+)?=\"[^\"]*\"", "", text)), "the page must fetch nothing"
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers)), "identifiers of two pictures collide"


def test_report_says_why_a_score_should_not_be_trusted(result: hwsearch.SearchResult, tmp_path: Path) -> None:
    doubtful = dataclasses.replace(result, cautions=("The predictor is <unsure>.",))
    text = write_report(doubtful, out=tmp_path / "report.html").read_text()
    assert "Caution: The predictor is &lt;unsure&gt;." in text
    assert "<title>hwsearch: resnet_digits</title>" in text
    assert "Caution" not in write_report(result, out=tmp_path / "report.html").read_text()


def test_report_without_a_table_leaves_its_pictures_out(result: hwsearch.SearchResult, tmp_path: Path) -> None:
    page = Page(write_report(result, out=tmp_path / "report.html").read_text())
    assert sum(tag == "svg" for tag, _ in page.tags) == 2


def test_pictures_are_repeatable(result: hwsearch.SearchResult) -> None:
    assert svg(front_figure(result), "front") == svg(front_figure(result), "front")


def test_notebooks_show_pictures_without_pyplot(result: hwsearch.SearchResult) -> None:
    assert front_figure(result)._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_a_new_file_format_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"format": "mine", "figure": 7}')
    with pytest.raises(FileError, match="no file of hwsearch"):
        describe(tmp_path / "mine.json")
    monkeypatch.setitem(FORMATS, "mine", (lambda path: json.loads(Path(path).read_text()), lambda found, path: f"figure {found['figure']}"))
    assert describe(tmp_path / "mine.json") == "figure 7"
    with pytest.raises(FileError, match="holds no architecture"):
        find_architecture(tmp_path / "mine.json")


@pytest.mark.parametrize("text", ['{"format": ["mine"]}', '{"format": 1}', "[]", "7", "{}"])
def test_json_without_a_format_is_no_file_of_hwsearch(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FileError, match="no file of hwsearch"):
        describe(tmp_path / "x.json")


def test_the_front_of_the_report_answers(tmp_path: Path) -> None:
    """What the page holds, and what its script answers: the best network within the limits that the sliders say."""
    import json
    import re
    import shutil
    import subprocess

    limits = {"macs": 6e5, "params": 2e4}
    result = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits=limits, run=hwsearch.Run(steps=6))
    page = hwsearch.write_report(result, out=tmp_path / "report.html").read_text()
    assert page.index('class="front"') < page.index("<table")
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"""(src|href)=["']?http""", page)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    assert data["metrics"] == ["macs", "params"]
    assert len(data["points"]) == len(result.front)
    assert data["points"][0]["network"] == str(result.best)
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, which runs the script of the page")
    script = Path(hwsearch.__file__).parent / "reports" / "_front.js"
    ask = f"""
        const front = require({str(script)!r}), points = {json.dumps(data["points"])};
        const middle = points[Math.floor(points.length / 2)].values;
        const ticks = front.ticks(0, 1, 5);
        console.log(JSON.stringify([front.within(points, {{}}), front.within(points, middle), front.within(points, {{macs: 0}}), ticks]));
    """
    done = subprocess.run([node, "-e", ask], capture_output=True, text=True, check=True)
    everything, some, nothing, ticks = json.loads(done.stdout)
    assert (everything, nothing, ticks) == (0, -1, [0, 0.2, 0.4, 0.6, 0.8, 1])
    most = data["points"][len(data["points"]) // 2]["values"]
    allowed = [number for number, point in enumerate(data["points"]) if all(point["values"][name] <= most[name] for name in most)]
    assert some == max(allowed, key=lambda number: data["points"][number]["score"])


LOOK = """<script>
const said = document.querySelector(".told"), circles = document.querySelectorAll("circle"), slider = document.querySelector("input");
circles[circles.length - 1].dispatchEvent(new Event("mouseenter"));
const hovered = said.textContent;
slider.value = (Number(slider.min) + Number(slider.max)) / 2;
slider.dispatchEvent(new Event("input"));
const out = document.querySelectorAll("circle.out").length, best = document.querySelectorAll("circle.best").length;
const fits = document.documentElement.scrollWidth <= window.innerWidth;
document.title = `best ${best}, hover ${hovered !== said.textContent}, slider ${out > 0}, fits ${fits}`;
</script></body>"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, True)])
def test_the_report_in_a_browser(tmp_path: Path, width: int, dark: bool) -> None:
    """In a headless Chromium, where there is one, wide and narrow: no errors on the console, pointing at a network tells it, the sliders
    choose another, and nothing is wider than the page."""
    import shutil
    import subprocess

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    limits = {"macs": 6e5, "params": 2e4}
    result = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits=limits, run=hwsearch.Run(steps=4))
    page = hwsearch.write_report(result, out=tmp_path / "report.html")
    page.write_text(page.read_text().replace("</body>", LOOK))
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path / 'profile'}"]
    words += [f"--window-size={width},900", *(["--force-dark-mode"] if dark else [])]
    done = subprocess.run([*words, "--enable-logging=stderr", "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "<title>best 1, hover true, slider true, fits true</title>" in done.stdout
    assert "CONSOLE" not in done.stderr
    subprocess.run([*words, f"--screenshot={tmp_path / 'report.png'}", page.as_uri()], capture_output=True, timeout=120, check=True)
    assert (tmp_path / "report.png").stat().st_size > 10_000
