"""Networks that come as ONNX files."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import hwsearch
from hwsearch.cli import app
from hwsearch.errors import FileError, InvalidInput, MissingDependency, Unsupported
from hwsearch.nn.data._vision import import_torchvision

torch.set_num_threads(1)
import_torchvision()  # which onnx2torch imports, too


class Residual(nn.Module):
    """As in a ResNet: a shortcut that is projected, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        self.one = nn.ModuleList([nn.Conv2d(16, 24, 3, 1, 1), nn.Conv2d(24, 16, 3, 1, 1)])
        self.two = nn.ModuleList([nn.Conv2d(16, 24, 3, 2, 1), nn.Conv2d(24, 32, 3, 1, 1)])
        self.project, self.head = nn.Conv2d(16, 32, 1, 2), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        x = F.relu(x + self.one[1](F.relu(self.one[0](x))))
        x = F.relu(self.project(x) + self.two[1](F.relu(self.two[0](x))))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Inverted(nn.Module):
    """As in a MobileNetV3: depthwise convolutions, squeeze-and-excite, hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.wide = nn.Sequential(nn.Conv2d(16, 48, 1), nn.ReLU6(), nn.Conv2d(48, 48, 3, 1, 1, groups=48), nn.ReLU6())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 16, 1), nn.ReLU(), nn.Conv2d(16, 48, 1), nn.Hardsigmoid())
        self.narrow, self.head = nn.Conv2d(48, 16, 1), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.wide(x)
        x = x + self.narrow(y * self.squeeze(y))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def written(module: nn.Module, path: Path, size: tuple[int, ...] = (1, 3, 32, 32), **options: object) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), torch.randn(size), path, dynamo=False, opset_version=17, input_names=["input"], **options)
    return path


@pytest.mark.parametrize("kind", [Residual, Inverted])
def test_an_onnx_file_is_the_same_space_as_its_module(kind: type[nn.Module], tmp_path: Path) -> None:
    """Equal outputs, whole and cut, equal widths, and back into a file."""
    pytest.importorskip("onnx2torch")
    torch.manual_seed(0)
    module, x = kind().eval(), torch.randn(4, 3, 32, 32)
    file = written(module, tmp_path / "a.onnx", dynamic_axes={"input": {0: "n"}})
    space, plain = hwsearch.adopt(file), hwsearch.adopt(module, torch.randn(1, 3, 32, 32))
    assert space.dynamic
    with torch.no_grad():
        assert torch.allclose(space.extract({})(x), module(x), atol=1e-5)
    assert sorted(choice.values for choice in space.choices) == sorted(choice.values for choice in plain.choices)
    narrow = dict.fromkeys(space.places.groups, 8)
    small = hwsearch.extract(space.architecture(space.row(narrow)), data=x)
    again = hwsearch.adopt(written(small, tmp_path / "b.onnx"), x[:1])
    with torch.no_grad():
        assert torch.allclose(again.extract({})(x[:1]), small(x[:1]), atol=1e-5)


def test_an_onnx_file_is_adopted_from_the_shell(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    file = written(Residual(), tmp_path / "a.onnx")
    done = CliRunner().invoke(app, ["adopt", str(file), "--out", str(tmp_path / "net")], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert hwsearch.load_space(tmp_path / "net").inputs[0].shape[1:] == (3, 32, 32)
    told = CliRunner().invoke(app, ["adopt", str(file), "--out", str(tmp_path / "net"), "--weights", str(file)])
    assert "brings its weights along" in told.output.replace("\n", " ")


def test_what_is_wrong_with_an_onnx_file_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(FileError, match="ONNX model"):
        hwsearch.adopt(tmp_path / "a.onnx")
    with pytest.raises(FileError):
        hwsearch.adopt(tmp_path / "nowhere.onnx")
    int8 = hwsearch.export(nn.Conv2d(3, 8, 3), out=tmp_path / "int8.onnx", data=torch.randn(16, 3, 8, 8), precision="int8")
    with pytest.raises(Unsupported, match="cannot be made a torch module"):
        hwsearch.adopt(int8)


def test_the_missing_importer_and_missing_inputs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(MissingDependency, match=r"onnx2torch.*pip install 'hwsearch\[onnx-import\]'"):
        hwsearch.adopt(tmp_path / "a.onnx")
    with pytest.raises(InvalidInput, match="inputs are missing"):
        hwsearch.adopt(nn.Conv2d(3, 8, 3))
