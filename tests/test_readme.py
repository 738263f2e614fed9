"""The README's snippets run as they stand, in their order, with nothing prepared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hwsearch

ROOT = Path(__file__).resolve().parents[1]


def test_the_blocks_run_in_order_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing prepared: no block uses a file that none before it makes."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    seen = []
    for block in blocks:
        names: dict[str, Any] = {}
        exec(compile(block, "README.md", "exec"), names)
        seen.append(names)
    first, own, whole = seen
    assert first["result"].values["latency_ms"] <= 0.2
    assert first["result"].values["size_mb"] <= 0.3
    assert own["result"].status.name == "OPTIMAL"
    assert own["result"].values["macs"] <= 300_000
    assert sum(each.numel() for each in own["small"].parameters()) == own["result"].values["params"]
    assert whole["result"].tightness["latency_ms"] <= 1
    assert {"my-cpu.json", "supernet.safetensors", "predictor.npz", "best.onnx"} <= {path.name for path in tmp_path.iterdir()}


def test_the_readme_keeps_its_order() -> None:
    """First what it does and a picture, then how to install it, a first answer, one's own network, and which tool when."""
    text = (ROOT / "README.md").read_text()
    places = [
        text.index(part)
        for part in ("hwsearch finds", "![", "## Install", "load_example(", "## Compress your own network", "## Which tool when")
    ]
    assert places == sorted(places)
    assert all(tool in text for tool in ("ModelOpt", "Torch-Pruning", "NNCF", "Optuna"))


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
