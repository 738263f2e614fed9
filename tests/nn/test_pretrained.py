"""Dense trained networks of a space's family start a supernet and a finish, and go out as ONNX with equal outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hwsearch
from hwsearch.errors import FileError, InvalidInput, UnknownName
from hwsearch.nn import make_data, pretrained
from hwsearch.nn.data._vision import import_torchvision

torchvision = import_torchvision()
torch.set_num_threads(1)


def trained(name: str) -> torch.nn.Module:
    """A network of torchvision that has seen something: its batch norms have statistics of their own."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return network.eval()


def largest(space: hwsearch.SearchSpace, resolution: int) -> hwsearch.Architecture:
    """The largest network in fp32 at a resolution."""
    values = hwsearch.searching.dense(space, "fp32").values() | {"resolution": resolution}
    return space.architecture(space.encode(values))


@pytest.mark.slow
@pytest.mark.parametrize(("space", "name"), [("resnet50", "resnet50"), ("mobilenetv2", "mobilenet_v2")])
def test_torchvisions_networks_go_out_as_onnx_with_equal_outputs(space: str, name: str, tmp_path: Path) -> None:
    """One of the starts: state dict, module, export, and the outputs of ONNX Runtime beside those of torchvision."""
    import onnxruntime

    network, where = trained(name), hwsearch.load_space(space)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    supernet = pretrained(where, tmp_path / "weights.pth")
    rng = np.random.default_rng(0)
    data = make_data("noise", (rng.integers(0, 256, size=(30, 3, 128, 128), dtype=np.uint8), np.arange(30) % 3))
    path = hwsearch.export(largest(where, 128), weights=supernet, out=tmp_path / "dense.onnx", data=data)
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        right = network(x).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(found - right).max() <= 1e-4 * np.abs(right).max()


def test_mobilenetv2_is_the_known_one() -> None:
    dense = hwsearch.searching.dense(hwsearch.load_space("mobilenetv2"), "fp32")
    blocks = largest(dense.space, 224).blocks()
    known = torchvision.models.mobilenet_v2()
    # Batch norms are folded into biases, of which each channel has one and torchvision two.
    norms = sum(module.num_features for module in known.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert sum(block.params for block in blocks) in {3_504_872, 3_504_872 - norms}
    assert sum(block.macs for block in blocks) == pytest.approx(300.8e6, rel=0.005)


def test_a_supernet_and_a_finish_begin_with_them(tmp_path: Path) -> None:
    """On images of other classes and channels: the classifier begins anew, and everything else is taken over."""
    space = hwsearch.load_space("mobilenetv2", classes=2, channels=1, resolutions=(32,))
    network = trained("mobilenet_v2")
    start = pretrained(space, network)
    stem = start.block("stem").body[0].weight
    assert torch.equal(stem, network.state_dict()["features.0.0.weight"].sum(dim=1, keepdim=True))
    rng = np.random.default_rng(0)
    data = make_data("grey", (rng.integers(0, 256, size=(40, 32, 32), dtype=np.uint8), np.arange(40) % 2))
    recipe = {"epochs": 1, "batch": 32, "learning_rate": 1e-9, "random_networks": 0, "amp": None}
    done = hwsearch.train(space, data=data, out=tmp_path / "s.safetensors", weights=start, recipe=recipe, progress=False)
    assert torch.allclose(done.block("stem").body[0].weight, stem, atol=1e-5)
    smallest = space.architecture(start.smallest)
    finished = hwsearch.finish(smallest, data=data, out=tmp_path / "out", weights=start, recipe=recipe, progress=False)
    assert (tmp_path / "out" / finished.model).exists()


def test_weights_of_other_networks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="ResNet has 21 convolutions and linear layers and 20 batch norms; the largest"):
        pretrained("mobilenetv2", torchvision.models.resnet18())
    with pytest.raises(InvalidInput, match="has the shape"):
        pretrained("mobilenetv2", torchvision.models.mobilenet_v2(width_mult=0.75).state_dict())
    with pytest.raises(UnknownName, match="Did you mean 'mobilenet_v2'"):
        pretrained("mobilenetv2", "torchvision:mobilenetv2")
    with pytest.raises(FileError):
        pretrained("mobilenetv2", tmp_path / "none.pth")

    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(FileError, match="give their file instead"):
        pretrained("mobilenetv2", "torchvision:mobilenet_v2")
