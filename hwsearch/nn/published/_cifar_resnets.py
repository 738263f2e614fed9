"""Trained residual networks for CIFAR-10 (He et al., CVPR'16), read into supernets of one network."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..._files._writing import PathLike
from ...backends._torch_blocks import GraphBlock, GraphLayer
from ...errors import CorruptFile
from ...spaces._space import SearchSpace
from ..data._images import DataLike, Normalize
from ..data._load import load_data
from ..supernet._supernet import Supernet
from ._state import read_state

IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NORM = ("weight", "bias", "running_mean", "running_var")


def read(file: PathLike, space_of: Callable[[int], SearchSpace], widths: Sequence[int], data: DataLike | None) -> Supernet:
    """Read a network; see :func:`hwsearch.interop.cifar_resnet`.

    Args:
        file: the state dict.
        space_of: the space from the number of blocks of a stage.
        widths: of the stages.
        data: for calibration.
    """
    name = os.fspath(file)
    state = {key: torch.from_numpy(array) for key, array in read_state(file).items()}
    numbers = [int(match[1]) for key in state if (match := re.fullmatch(r"layer3\.(\d+)\.conv1\.weight", key))]
    if not numbers:
        raise CorruptFile(f"{name} holds no residual network for CIFAR-10: it has no tensor 'layer3.0.conv1.weight'.")
    supernet = Supernet(space_of(max(numbers) + 1))
    supernet.settled = True
    network = supernet.extract(supernet.largest)
    source = _Source(state, name)
    stem, *blocks, head = [module for module in network if isinstance(module, GraphBlock)]
    with torch.no_grad():
        source.convolution(stem.body[0], "conv1", "bn1")
        for number, block in enumerate(blocks):
            prefix = f"layer{number // (len(blocks) // len(widths)) + 1}.{number % (len(blocks) // len(widths))}"
            for index, layer in enumerate(block.body, start=1):
                source.convolution(layer, f"{prefix}.conv{index}", f"{prefix}.bn{index}")
            for layer in block.shortcut:
                _copy_channels(layer)
        linear = head.body[0].op
        assert isinstance(linear, nn.Linear)
        source.into(linear.weight, "linear.weight")
        source.into(linear.bias, "linear.bias")
    supernet.settle(network)
    supernet.normalize, supernet.facts = IMAGENET, {"source": os.path.basename(name)}
    if data is not None:
        supernet.images = load_data(data).calibration_images(0)
    return supernet


class _Source:
    """The tensors of a file, each checked when it is taken."""

    def __init__(self, state: dict[str, torch.Tensor], name: str) -> None:
        self.state, self.name = state, name

    def into(self, tensor: torch.Tensor, key: str) -> None:
        found = self.state.get(key)
        if found is None or found.shape != tensor.shape:
            what = "is not there" if found is None else f"has the shape {tuple(found.shape)}, not {tuple(tensor.shape)}"
            raise CorruptFile(f"{self.name} is no residual network for CIFAR-10: its tensor {key!r} {what}.")
        tensor.copy_(found)

    def convolution(self, layer: nn.Module, conv: str, norm: str) -> None:
        assert isinstance(layer, GraphLayer)
        assert isinstance(layer.op, nn.Conv2d)
        self.into(layer.op.weight, f"{conv}.weight")
        for key in _NORM:
            self.into(getattr(layer.norm, key), f"{norm}.{key}")


def _copy_channels(layer: nn.Module) -> None:
    """Make a 1x1 convolution copy its input channels to the middle of its output channels, and nothing to the others."""
    assert isinstance(layer, GraphLayer)
    assert isinstance(layer.op, nn.Conv2d)
    assert isinstance(layer.norm, nn.BatchNorm2d)
    weight = layer.op.weight
    before = (weight.shape[0] - weight.shape[1]) // 2
    weight.zero_()
    weight[before : before + weight.shape[1], :, 0, 0] = torch.eye(weight.shape[1])
    for key, value in zip(_NORM, (1.0, 0.0, 0.0, 1.0 - layer.norm.eps), strict=True):
        getattr(layer.norm, key).fill_(value)
