"""A cut network survives in a file, without the user's class; damaged and foreign files are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from masking import draw, enliven
from safetensors.torch import load, save
from test_adopt import CASES, IMAGE, Keyed

import hwsearch
from hwsearch.errors import CorruptFile, InvalidInput, NewerVersion
from hwsearch.nn.adoption import load_network, save_network

LOADING = """
import sys, torch
from hwsearch.nn.adoption import load_network
network = load_network(sys.argv[1])
assert not any(name.startswith("test_") for name in sys.modules)
with torch.no_grad():
    torch.save([network(*inputs) for inputs in torch.load(sys.argv[2])], sys.argv[3])
"""


@pytest.mark.parametrize("name", CASES)
def test_a_loaded_network_computes_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    module, shapes, _ = CASES[name]
    enliven(module)
    inputs = [torch.randn(shape) for shape in shapes]
    adopted = hwsearch.adopt(module, inputs)
    cut = adopted.extract(draw(adopted, np.random.default_rng(0)))
    save_network(cut, tmp_path / "cut.safetensors")
    again = load_network(tmp_path / "cut.safetensors")
    with torch.no_grad():
        found, wanted = (torch.utils._pytree.tree_flatten(network(*inputs)) for network in (again, cut))
    assert found[1] == wanted[1]
    assert all(torch.equal(x, y) for x, y in zip(found[0], wanted[0], strict=True))
    assert {key: each.requires_grad for key, each in again.named_parameters()} == {
        key: each.requires_grad for key, each in cut.named_parameters()
    }


def test_a_fresh_process_loads_it_without_the_class(tmp_path: Path) -> None:
    module = enliven(CASES["option-A shortcut"][0])
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    cut = adopted.extract(draw(adopted, np.random.default_rng(0)))
    inputs = [[torch.randn(IMAGE)], [torch.randn(5, *IMAGE[1:])]]
    save_network(cut, tmp_path / "cut.safetensors")
    torch.save(inputs, tmp_path / "inputs")
    command = [sys.executable, "-c", LOADING, *(str(tmp_path / name) for name in ("cut.safetensors", "inputs", "outputs"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(hwsearch.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert all(torch.equal(x, cut(*y)) for x, y in zip(torch.load(tmp_path / "outputs"), inputs, strict=True))


def test_the_plan_in_the_file_cuts_the_whole_network_again(tmp_path: Path) -> None:
    module = enliven(Keyed())
    keywords = {"residual": True, "scale": torch.rand(2)}
    adopted = hwsearch.adopt(module, torch.randn(IMAGE), keywords=keywords)
    cut = adopted.extract(draw(adopted, np.random.default_rng(0)), branches=["b1"])
    save_network(cut, tmp_path / "cut.safetensors")
    again = load_network(tmp_path / "cut.safetensors")
    plan = again.meta["plan"]
    assert plan["branches"] == ["b1"]
    other = hwsearch.adopt(Keyed(), torch.randn(IMAGE), keywords=keywords)
    assert plan["fingerprint"] == adopted.graph_fingerprint == other.graph_fingerprint
    same = adopted.extract(plan["keep"], plan["branches"])
    image = torch.randn(IMAGE)
    with torch.no_grad():
        found = [network(image, **keywords)["class"] for network in (cut, again, same)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert hwsearch.adopt(again, torch.randn(IMAGE), keywords={"scale": torch.rand(2), "residual": True}).report.share == 1.0


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    adopted = hwsearch.adopt(CASES["residual sum"][0], torch.randn(IMAGE))
    path = tmp_path / "cut.safetensors"
    save_network(adopted.extract({}), path)
    data = path.read_bytes()
    for end in (0, 4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(CorruptFile):
            load_network(path)
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["hwsearch"]

    def rewritten(change: object) -> None:
        document = json.loads(header)
        change(document)  # type: ignore[operator]
        path.write_bytes(save(tensors, metadata={"hwsearch": json.dumps(document)}))

    rewritten(lambda document: document.update(version=99))
    with pytest.raises(NewerVersion):
        load_network(path)
    for target in ("aten.no_such_operation.default", "aten.from_file.default", "python.eval", "os.system.default"):
        rewritten(lambda document, target=target: document["nodes"][-2].update(target=target))
        with pytest.raises(CorruptFile):
            load_network(path)
    rewritten(lambda document: document["nodes"].pop(3))
    with pytest.raises(CorruptFile):
        load_network(path)
    path.write_bytes(save(tensors))
    with pytest.raises(CorruptFile, match="something else"):
        load_network(path)


def test_containers_of_the_users_own_are_refused_in_words(tmp_path: Path) -> None:
    from collections import namedtuple

    from test_adopt import Net, conv, head
    from torch import nn

    Pair = namedtuple("Pair", "a b")
    module = Net(lambda m, x: Pair(m.a(x), head(m.a(x), m)), a=conv(3, 8), out=nn.Linear(8, 5))
    cut = hwsearch.adopt(module, torch.randn(IMAGE)).extract({})
    with pytest.raises(InvalidInput, match="tuples, lists and dicts"):
        save_network(cut, tmp_path / "cut.safetensors")
