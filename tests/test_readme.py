"""The README's snippets run as they stand, with the measuring and the training that the second one builds on rehearsed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import hwsearch
from hwsearch.backends import Network, Session
from hwsearch.backends.onnxruntime import OnnxRuntime
from hwsearch.nn import Normalize, Supernet

ROOT = Path(__file__).resolve().parents[1]


class Rehearsal(OnnxRuntime):
    """This machine under ONNX Runtime, by name only: the latencies are those of the analytic device, and take no time."""

    def _open(self, network: Network) -> Session:
        return hwsearch.backends.Roofline().open(network)


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a whole latency table of this machine, an untrained supernet and a predictor."""
    monkeypatch.chdir(tmp_path)
    space = hwsearch.load_space("resnet_cifar")
    hwsearch.profile(space, backend=Rehearsal(), out="latency_tables/my-cpu.json", progress=False)
    X = space.sample(100, np.random.default_rng(0))
    hwsearch.Predictor.fit(space, X, 0.5 + 0.005 * X.sum(axis=1)).save("predictor.npz")
    supernet = Supernet(space)
    supernet.normalize = Normalize((0.5,) * 3, (0.25,) * 3)
    supernet.images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    supernet.save("supernet.safetensors")
    return tmp_path


def snippets() -> list[str]:
    """The Python blocks of the README: a first answer, for a network of the user's, and for a space that comes along."""
    minute, first, second = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return [first, second, minute]


def test_a_first_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is prepared, nothing is profiled and nothing is trained."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(snippets()[2], "README.md", "exec"), names)
    result = names["result"]
    assert isinstance(result, hwsearch.SearchResult)
    assert result.values["latency_ms"] <= 0.2
    assert result.values["size_mb"] <= 0.1


def test_own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first block needs nothing but an empty folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(snippets()[0], "README.md", "exec"), names)
    result, small = names["result"], names["small"]
    assert isinstance(result, hwsearch.SearchResult)
    assert isinstance(small, torch.nn.Module)
    assert result.status.name == "OPTIMAL"
    assert result.values["macs"] <= 300_000
    assert sum(each.numel() for each in small.parameters()) == result.values["params"]


def test_snippet(prepared: Path) -> None:
    code = snippets()[1]
    before = (prepared / "latency_tables" / "my-cpu.json").read_bytes()
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    result = names["result"]
    assert isinstance(result, hwsearch.SearchResult)
    assert result.values["latency_ms"] <= 1.5
    assert result.values["size_mb"] <= 0.4
    assert (prepared / "best.onnx").stat().st_size > 0
    assert (prepared / "latency_tables" / "my-cpu.json").read_bytes() == before, "a whole table is not measured again"


@pytest.mark.parametrize("name", ["quickstart", "your_own_network"])
def test_notebook_was_executed_whole(name: str) -> None:
    """As it stands in the repository it shows what each cell gives, in order, without an error."""
    notebook = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds == {"execute_result", "stream"}
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert set(re.findall(r"hwsearch\.([a-zA-Z_]+)\(", code)) <= set(hwsearch.__all__)
