"""Trained networks of the family of a space, such as torchvision's ResNet-50, as the weights that a supernet or a finish begins with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..._files._writing import PathLike
from ...backends._torch_blocks import GraphBlock, GraphLayer
from ...errors import FileError, InvalidInput, UnknownName
from ...spaces._load import load_space
from ...spaces._space import SearchSpace
from ..data._images import Normalize
from ..data._vision import import_torchvision
from ..supernet._supernet import Supernet
from ._state import read_state

IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NORM = ("weight", "bias", "running_mean", "running_var")
_LIBRARY = "torchvision:"

State = Mapping[str, torch.Tensor]


def pretrained(space: str | SearchSpace, source: PathLike | nn.Module | State, *, normalize: Normalize = IMAGENET) -> Supernet:
    """The weights of a trained network that is the largest of a space, for ``weights=`` of train, finish and export.

    Layers are told by their order and their sizes, so any implementation that makes its layers in the order in which they run will do:
    torchvision's and timm's ResNet-50 for ``resnet50``, and torchvision's MobileNetV2 for ``mobilenetv2``. A classifier of other
    classes begins anew; where the images have one channel and the network three, the weights of the first layer are summed.

    What comes back computes what the trained network does, for the largest network only; smaller ones take its first channels, and have to
    be trained.

    Args:
        space: a space, or its name.
        source: ``"torchvision:resnet50"`` and the like, whose weights torchvision looks for on this machine and then on the web; a torch
            module; a state dict, or the file of one.
        normalize: how the network wants its images: as ImageNet's, if omitted.

    Raises:
        UnknownName: torchvision has no network of that name.
        FileError: the weights cannot be read, or torchvision cannot reach them.
        InvalidInput: a layer has another size than that of the largest network, or there are more or fewer of them.

    Example:
        >>> import torch
        >>> from hwsearch.nn import Supernet, pretrained
        >>> images, untrained = torch.randn(16, 1, 16, 16), Supernet("resnet_digits", seed=1)
        >>> dense = untrained.extract(untrained.largest, images)  # or any trained module with the layers of the largest network
        >>> supernet = pretrained("resnet_digits", dense)  # or "torchvision:resnet50", for the space resnet50
        >>> torch.allclose(supernet.extract(supernet.largest)(images), dense(images), atol=1e-4)
        True
    """
    supernet = Supernet(load_space(space))
    state, name = _state(source)
    supernet.settled = True  # the statistics of the batch norms come from the state
    network = supernet.extract(supernet.largest)
    with torch.no_grad():
        _fill(list(_layers(network)), state, name)
    supernet.settle(network)
    grey = supernet.space.blocks(supernet.largest)[0].cin == 1 < len(normalize.mean)
    supernet.normalize = Normalize((_mean(normalize.mean),), (_mean(normalize.std),)) if grey else normalize
    supernet.facts = {"source": name}
    return supernet


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _state(source: PathLike | nn.Module | State) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors by name, and what they are called in messages."""
    if isinstance(source, nn.Module):
        return dict(source.state_dict()), type(source).__name__
    if isinstance(source, Mapping):
        return dict(source), "the state dict"
    name = os.fspath(source)
    if name.startswith(_LIBRARY):
        return dict(_of_torchvision(name.removeprefix(_LIBRARY)).state_dict()), name
    return {key: torch.from_numpy(array) for key, array in read_state(name).items()}, Path(name).name


def _of_torchvision(name: str) -> Any:
    """A network of torchvision with its best weights."""
    models = import_torchvision().models
    if name not in models.list_models():
        raise UnknownName("network of torchvision", name, models.list_models())
    try:
        return models.get_model(name, weights="DEFAULT")
    except (OSError, RuntimeError) as error:
        raise FileError(
            f"torchvision cannot load the weights of {name}: {error}. Where there is no network, give their file instead, from "
            "https://download.pytorch.org/models."
        ) from error


def _layers(network: nn.Sequential) -> Iterator[GraphLayer]:
    """The layers with weights, in the order in which networks make them: body, squeeze-and-excite, shortcut."""
    for block in network:
        if isinstance(block, GraphBlock):
            for layer in (*block.body, *block.excite, *block.shortcut):
                assert isinstance(layer, GraphLayer)
                if isinstance(layer.op, nn.Conv2d | nn.Linear):
                    yield layer


def _fill(layers: list[GraphLayer], state: Mapping[str, torch.Tensor], name: str) -> None:
    """Copy the tensors of a state dict into layers.

    Raises:
        InvalidInput: they do not fit.
    """
    weights = [key for key, tensor in state.items() if key.endswith("weight") and tensor.ndim > 1]
    norms = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
    if len(weights) != len(layers) or len(norms) != sum(layer.norm is not None for layer in layers):
        normed = sum(layer.norm is not None for layer in layers)
        raise InvalidInput(
            f"{name} has {len(weights)} convolutions and linear layers and {len(norms)} batch norms; the largest network of the space has "
            f"{len(layers)} and {normed}. The weights of another network cannot be taken."
        )
    rest = iter(norms)
    for number, (layer, key) in enumerate(zip(layers, weights, strict=True)):
        last, op, tensor = number == len(layers) - 1, layer.op, state[key].float()
        assert isinstance(op, nn.Conv2d | nn.Linear)
        if number == 0 and tensor.shape[1] == 3 and op.weight.shape[1] == 1:
            tensor = tensor.sum(dim=1, keepdim=True)
        if last and tensor.shape[1:] == op.weight.shape[1:] and tensor.shape != op.weight.shape:
            continue  # a classifier of other classes
        _into(op.weight, tensor, key, name)
        if op.bias is not None:
            _into(op.bias, state[key.removesuffix("weight") + "bias"].float(), f"{key.removesuffix('weight')}bias", name)
        if layer.norm is not None:
            prefix = next(rest)
            for what in _NORM:
                _into(getattr(layer.norm, what), state[prefix + what].float(), prefix + what, name)


def _into(tensor: torch.Tensor, found: torch.Tensor, key: str, name: str) -> None:
    if found.shape != tensor.shape:
        raise InvalidInput(f"{name}: {key!r} has the shape {tuple(found.shape)}, and that of the space {tuple(tensor.shape)}.")
    tensor.copy_(found)
