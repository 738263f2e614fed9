"""A network of the user's from the shell: a folder that every command takes, and the network that comes back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import hwsearch
from hwsearch.cli import app
from hwsearch.errors import CorruptFile, InvalidInput, Unsupported, WrongSpace
from hwsearch.nn.adoption import load_network, save_adopted, save_network
from hwsearch.reports._formats import describe

BUILD = """
import torch

def build():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 48, 3), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(768, 10))

def number():
    return 3
"""


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    there = tmp_path_factory.mktemp("adopted")
    (there / "nets.py").write_text(BUILD)
    said = run("adopt", f"{there}/nets.py:build", "--input", "1x1x8x8", "--out", there / "net")
    assert "0.weight" in said
    assert "output of the network" in said
    return there


def test_the_whole_road_from_the_shell(folder: Path) -> None:
    net, out = folder / "net", folder / "small.safetensors"
    said = run("fit-predictor", net, "--data", "digits", "--out", folder / "p.npz", "--quiet")
    assert "held-out networks" in said
    run("search", net, "--predictor", folder / "p.npz", "--algorithm", "exact", "-l", "params=9000", "--out", folder / "r.json", "--quiet")
    assert "params" in run("show", folder / "r.json", "--space", net)
    said = run(
        "extract", net, folder / "r.json", "--predictor", folder / "p.npz", "--data", "digits", "--out", out, "--onnx", folder / "s.onnx"
    )
    small = load_network(out)
    params = sum(each.numel() for each in small.parameters())
    assert params <= 9000
    assert f"{params:,} parameters" in said
    assert small(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    assert (folder / "s.onnx").stat().st_size > 0
    space = hwsearch.load_space(net)
    assert hwsearch.load_result(folder / "r.json", space).values["params"] == params
    for group, scores in hwsearch.load_predictor(folder / "p.npz", space).space.learned.items():
        kept = small.meta["plan"]["keep"][group]
        assert set(kept) == set((-scores).argsort(kind="stable")[: len(kept)].tolist()), "the predictor of the search says which units stay"


def test_bits_from_the_shell(folder: Path, tmp_path: Path) -> None:
    """A folder that was adopted in both precisions is searched for bits, and the file of the result has them."""
    net, onnx = tmp_path / "net", tmp_path / "s.onnx"
    said = run("adopt", f"{folder}/nets.py:build", "--input", "1x1x8x8", "--precisions", "fp32,int8", "--out", net)
    assert "0.precision" in said
    assert "fp32 and int8" in run("adopt", f"{folder}/nets.py:build", "--input", "1x1x8x8", "--precisions", "int4", "--out", net, code=1)
    run("fit-predictor", net, "--data", "digits", "--out", tmp_path / "p.npz", "--quiet")
    result = tmp_path / "r.json"
    run("search", net, "--predictor", tmp_path / "p.npz", "-l", "size_mb=0.02", "--out", result, "--quiet")
    small = tmp_path / "small.safetensors"
    run("extract", net, result, "--predictor", tmp_path / "p.npz", "--data", "digits", "--out", small, "--onnx", onnx)
    bits = load_network(small).meta["plan"]["precisions"]
    assert bits
    space = hwsearch.load_space(net)
    assert bits == space.bits(hwsearch.load_result(result, space).best.genes)
    assert onnx.stat().st_size > 0


def test_a_folder_is_the_same_space_in_any_process(folder: Path, tmp_path: Path) -> None:
    layers = (nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.Hardswish(inplace=True), nn.Conv2d(24, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))
    module = nn.Sequential(*layers)
    space = hwsearch.adopt(module, torch.randn(2, 3, 8, 8), freeze=["5"], step=4)
    again = hwsearch.load_space(save_adopted(space, tmp_path / "net"))
    assert again.fingerprint == space.fingerprint
    assert (again.name, again.choices) == (space.name, space.choices)
    x = torch.randn(2, 3, 8, 8)
    row = space.row({next(iter(space.places.groups)): 12})
    with torch.no_grad():
        assert torch.equal(hwsearch.extract(again.architecture(row))(x), hwsearch.extract(space.architecture(row))(x))
    document = json.loads((tmp_path / "net" / "adopted.json").read_text())
    (tmp_path / "net" / "adopted.json").write_text(json.dumps(document | {"step": 8}))
    with pytest.raises(WrongSpace, match="Adopt the network anew"):
        hwsearch.load_space(tmp_path / "net")
    (tmp_path / "net" / "adopted.json").write_text(json.dumps(document | {"inputs": 2}))
    with pytest.raises(CorruptFile, match="example inputs"):
        hwsearch.load_space(tmp_path / "net")
    keyed = hwsearch.adopt(module, [], keywords={"input": torch.randn(2, 3, 8, 8)})
    with pytest.raises(InvalidInput, match="by keyword"):
        save_adopted(keyed, tmp_path / "keyed")


class Attending(nn.Module):
    """Attention over a sequence, between a layer that reads it and one that tells classes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention, self.last = nn.Linear(6, 32), nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def normed() -> nn.Module:
    weight_norm, spectral_norm = nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm
    return nn.Sequential(weight_norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), spectral_norm(nn.Conv2d(16, 24, 3)), nn.ReLU(), nn.Conv2d(24, 5, 1))


def traced() -> nn.Module:
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(plain.eval(), torch.randn(2, 3, 8, 8))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("make", "size"), [(normed, (2, 3, 8, 8)), (traced, (2, 3, 8, 8)), (Attending, (2, 7, 6))])
def test_modules_of_any_make_come_back_out_of_a_folder(make: Callable[[], nn.Module], size: tuple[int, ...], tmp_path: Path) -> None:
    space = hwsearch.adopt(make(), torch.randn(size))
    again = hwsearch.load_space(save_adopted(space, tmp_path / "net"))
    assert (again.fingerprint, again.choices) == (space.fingerprint, space.choices)


def test_a_module_without_values_is_told_to_load_them() -> None:
    with pytest.raises(Unsupported, match="to_empty"):
        hwsearch.adopt(nn.Linear(3, 4, device="meta"), torch.randn(2, 3))


def test_weights_of_the_user_are_taken(folder: Path, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 48, 3), nn.ReLU(), nn.Flatten(), nn.Linear(768, 10))
    save_file(module.state_dict(), tmp_path / "own.safetensors")
    torch.save(module.state_dict(), tmp_path / "own.pth")
    for file in ("own.safetensors", "own.pth"):
        run("adopt", f"{folder}/nets.py:build", "--input", "1x1x8x8", "--weights", tmp_path / file, "--out", tmp_path / "net")
        kept = load_network(tmp_path / "net" / "network.safetensors")
        assert torch.equal(kept.get_parameter("0.weight"), module[0].weight)
    save_file({"0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    told = ("adopt", f"{folder}/nets.py:build", "--input", "1x1x8x8", "--out", tmp_path / "net", "--weights")
    assert "do not fit the network" in run(*told, tmp_path / "other.safetensors", code=1)


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        ("nets.py", "1x1x8x8", "names no network"),
        ("nothing.py:build", "1x1x8x8", "no file"),
        ("{}/nets.py:biuld", "1x1x8x8", "Did you mean 'build'"),
        ("{}/nets.py:number", "1x1x8x8", "returned int, not a torch module"),
        ("{}/nets.py:build", "1x1x8xa", "expected positive sizes"),
        ("torchvision:no_such_network", "1x3x8x8", "network of torchvision"),
    ],
)
def test_mistakes_are_named(folder: Path, tmp_path: Path, network: str, size: str, message: str) -> None:
    assert message in run("adopt", network.format(folder), "--input", size, "--out", tmp_path / "net", code=1)


def test_results_and_extracted_networks_are_finished_exported_and_shown(folder: Path, tmp_path: Path) -> None:
    """As they come out of a search in the folder, and as the file that extract wrote."""
    space = hwsearch.load_space(folder / "net")
    first = next(iter(space.places.groups))
    space.architecture(space.row({first: 16})).to_json(tmp_path / "a.json")
    common = ("--data", "digits", "--epochs", 1, "--quiet")
    said = run("finish", tmp_path / "a.json", "--space", folder / "net", *common, "--precision", "int8", "--out", tmp_path / "done")
    assert "teacher, fp32" in said
    assert "at its precisions" in said
    assert "kernels in int8 3" in run("show", tmp_path / "done" / "tuned.safetensors")
    assert "judged after steps 0:" in run("show", tmp_path / "done" / "float.safetensors")
    assert "finished network of" in run("show", tmp_path / "done")
    assert "fingerprint of the space" in run("show", folder / "net")
    run("export", tmp_path / "a.json", "--space", folder / "net", "--batch", "open", "--out", tmp_path / "cut.onnx")
    small = tmp_path / "done" / "cut.safetensors"
    run("export", small, "--data", "digits", "--precision", "int8", "--precision", "0=fp32", "--out", tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < (tmp_path / "cut.onnx").stat().st_size
    run("finish", small, "--teacher", folder / "net", *common, "--set", "distill=1", "--out", tmp_path / "again")
    assert load_network(tmp_path / "again" / "float.safetensors").meta["facts"]["recipe"]["distill"] == 1


def test_mistakes_with_networks_of_ones_own_are_named(folder: Path, tmp_path: Path) -> None:
    space = hwsearch.load_space(folder / "net")
    result, small = tmp_path / "a.json", tmp_path / "small.safetensors"
    space.architecture(space.row()).to_json(result)
    save_network(space.extract({}), small)
    assert "--space" in run("export", result, code=1)
    assert "--space" in run("finish", result, "--out", tmp_path / "done", code=1)
    assert "leave out --space" in run("export", small, "--space", folder / "net", code=1)
    assert "space of supernets" in run("export", result, "--space", "resnet_digits", code=1)
    assert "images to calibrate on" in run("export", small, "--precision", "int8", "--out", tmp_path / "a.onnx", code=1)
    assert "networks of a supernet" in run("export", small, "--coded", code=1)
    told = run("fit-predictor", folder / "net", "--data", "digits", "--samples", 20, "--out", tmp_path / "p.npz", code=1)
    assert "--samples: for supernets only" in told


def test_files_whose_header_is_of_any_length_are_shown(folder: Path, tmp_path: Path) -> None:
    """One length in 32 begins with the byte that ONNX models begin with."""
    network = load_network(folder / "net" / "network.safetensors")
    first = set()
    for more in range(0, 256, 8):
        network.meta["facts"] = {"data": "x" * more}
        save_network(network, tmp_path / "a.safetensors")
        first.add((tmp_path / "a.safetensors").read_bytes()[0])
        describe(tmp_path / "a.safetensors")
    assert 8 in first
