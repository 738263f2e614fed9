"""Networks for images of any size: what is resized to the size of another map follows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from masking import enliven
from torch import nn
from torch.nn import functional as F

import hwsearch
from hwsearch.nn.adoption import load_network, save_network


class Pyramid(nn.Module):
    """Two maps, the smaller one resized to the larger one, and labels of pixels at the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)
        self.side, self.top, self.out = nn.Conv2d(16, 12, 1), nn.Conv2d(24, 12, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = F.relu(self.fine(x))
        coarse = F.relu(self.coarse(fine))
        merged = self.side(fine) + F.interpolate(self.top(coarse), size=fine.shape[-2:], mode="nearest")
        return {"out": F.interpolate(self.out(F.relu(merged)), size=x.shape[-2:], mode="bilinear", align_corners=False)}


class Flat(nn.Module):
    """Takes images of one size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.conv(x)).flatten(1))


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return enliven(Pyramid())


@pytest.fixture(scope="module")
def space(module: nn.Module) -> hwsearch.nn.adoption.Adopted:
    return hwsearch.adopt(module, torch.randn(1, 3, 16, 24), precisions=("fp32", "int8"))


@pytest.mark.parametrize("size", [(16, 24), (17, 50), (64, 20), (5, 3)])
def test_a_network_follows_images_of_other_sizes_whole_cut_and_from_its_file(
    size: tuple[int, int], module: nn.Module, space: hwsearch.nn.adoption.Adopted, tmp_path: Path
) -> None:
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(space.extract({})(x), module(x))
        half = {group.id: group.width // 2 for group in space.groups if group.searchable}
        assert len(half) == 3
        small = space.extract(half, images=torch.randn(40, 3, 16, 24))
        assert small(x)["out"].shape == (2, 5, *size)
        save_network(small, tmp_path / "small.safetensors")
        assert torch.equal(load_network(tmp_path / "small.safetensors")(x)["out"], small(x)["out"])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_its_files_are_for_the_size_of_the_example(precision: str, space: hwsearch.nn.adoption.Adopted, tmp_path: Path) -> None:
    """And hold nothing that computes sizes while it runs."""
    network, images = space.extract({}), torch.randn(32, 3, 16, 24)
    hwsearch.export(network, out=tmp_path / "net.onnx", data=images, precision=precision)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images[:1].numpy()})
    with torch.no_grad():
        wanted = network(images[:1])["out"].numpy()
    error = float(np.square(found - wanted).mean() / wanted.var())
    assert error < (1e-9 if precision == "fp32" else 0.02), error


def test_a_network_of_one_size_stays_as_it_is() -> None:
    adopted = hwsearch.adopt(Flat(), torch.randn(1, 3, 8, 8))
    assert adopted.dynamic
    with pytest.raises(RuntimeError):
        adopted.network(torch.randn(1, 3, 16, 16))
