"""Writes layers as products of smaller ones, whose ranks a search can then choose."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ...errors import InvalidInput, UnknownName
from ._factors import composed

WAYS = ("tucker", "spatial", "svd")
_LEAST = 4
"""Layers of a smaller rank stay as they are."""


class Factored(nn.Module):
    """A layer as a product of others; what stands between them is a rank of the layer.

    Modules around it that read its weight or bias, as transformer layers of PyTorch do, find what the layer in one piece would have.

    Args:
        factors: in order.
    """

    def __init__(self, factors: Sequence[nn.Module]) -> None:
        super().__init__()
        self.factors = nn.Sequential(*factors)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer makes of its input."""
        out: torch.Tensor = self.factors(x)
        return out

    @property
    def weight(self) -> torch.Tensor:
        """The weight of the layer in one piece."""
        return composed([each.get_parameter("weight") for each in self.factors])

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias of the layer."""
        bias: Any = self.factors[-1].bias
        return bias if isinstance(bias, torch.Tensor) else None


def low_rank(module: nn.Module, way: str = "tucker", *, layers: Sequence[str] = ("*",)) -> nn.Module:
    """A copy of a network in which layers are products of smaller ones at full rank, so that it still computes the same.

    :func:`hwsearch.adopt` then makes each rank a gene, whose largest value stands for the layer as it was, in one piece; smaller ones are
    offered where they take fewer multiply-accumulates. Linear layers and 1 x 1 convolutions become two by their singular values. Of larger
    convolutions, ``way`` tells what becomes of them. Convolutions in groups, of a size of 1 along one axis, or with ``padding="same"`` or a
    padding of other than zeros stay as they are, and so does a layer that shares its weight with another one. A layer that stands at
    several places, under several names, is one product at all of them.

    Args:
        module: the network; it stays as it is.
        way: ``"tucker"``: a 1 x 1 convolution, one of the same size between fewer channels, and a 1 x 1 convolution (Kim et al.,
            Compression of deep convolutional neural networks, ICLR'16); ``"spatial"``: an N x 1 convolution after a 1 x N one (Jaderberg
            et al., Speeding up convolutional neural networks with low rank expansions, BMVC'14); ``"svd"``: they stay.
        layers: names of layers, or patterns with ``*``, of which this is done.

    Raises:
        UnknownName: there is no such way.
        InvalidInput: the patterns stand for no layer that this can be done of.

    Example:
        >>> import hwsearch
        >>> import torch
        >>> from hwsearch.nn.adoption import low_rank
        >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32 * 36, 100))
        >>> space = hwsearch.adopt(low_rank(module, layers=["3"]), torch.randn(1, 3, 8, 8), step=16)
        >>> space.choices[-1].name, space.choices[-1].values
        ('3.rank', (16, 32, 48, 64, 80, 100))
    """
    if way not in WAYS:
        raise UnknownName("way of writing layers as products", way, WAYS)
    network = copy.deepcopy(module)
    holders = Counter(id(weight) for each in module.modules() for weight in each.parameters(recurse=False))
    named = [(name, each) for name, each in module.named_modules(remove_duplicate=False) if not _tied(each, holders)]
    picked = {each for name, each in named if any(fnmatchcase(name, pattern) for pattern in layers)}
    made = {each: Factored(factors).train(module.training) for each in picked if (factors := _factored(each, way))}
    if not made:
        raise InvalidInput(f"layers={list(layers)} stand for no convolution or linear layer of which {way!r} makes a product.")
    if module in made:
        return made[module]
    for name, each in named:
        if each in made:
            holder, _, last = name.rpartition(".")
            setattr(network.get_submodule(holder), last, made[each])
    return network


def _tied(layer: nn.Module, holders: Counter[int]) -> bool:
    """Whether other modules hold the weight of a layer, too."""
    return any(holders[id(weight)] > 1 for weight in layer.parameters(recurse=False))


def _factored(layer: nn.Module, way: str) -> list[nn.Module]:
    """The factors of a layer, in order; none if it stays as it is."""
    if type(layer) is nn.Linear:
        return _linear(layer) if min(layer.weight.shape) >= _LEAST else []
    if type(layer) is not nn.Conv2d or layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return []
    if layer.kernel_size == (1, 1):
        return _pointwise(layer) if layer.padding == (0, 0) and min(layer.weight.shape[:2]) >= _LEAST else []
    if min(layer.kernel_size) == 1 or way == "svd" or layer.out_channels < _LEAST:
        return []
    return _tucker(layer) if way == "tucker" else _spatial(layer)


def _split(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices whose product this is: the longer a column of the first and a row of the second, the more they matter."""
    left, values, right = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    return left * values.sqrt(), right * values.sqrt()[:, None]


def _linear(layer: nn.Linear) -> list[nn.Module]:
    last, first = _split(layer.weight)
    made = nn.Linear(layer.in_features, len(first), bias=False), nn.Linear(len(first), layer.out_features, bias=layer.bias is not None)
    return _filled(made, (first, last), layer)


def _pointwise(layer: nn.Conv2d) -> list[nn.Module]:
    last, first = _split(layer.weight[:, :, 0, 0])
    made = nn.Conv2d(layer.in_channels, len(first), 1, _two(layer.stride), bias=False), _last(layer, len(first), 1)
    return _filled(made, (first[:, :, None, None], last[:, :, None, None]), layer)


def _spatial(layer: nn.Conv2d) -> list[nn.Module]:
    """1 x N, then N x 1."""
    (high, wide), (down, along), (above, beside), (skip, step) = map(_two, (layer.kernel_size, layer.stride, layer.padding, layer.dilation))
    cout, cin = layer.weight.shape[:2]
    last, first = _split(layer.weight.permute(0, 2, 1, 3).reshape(cout * high, cin * wide))
    rank = len(first)
    row = nn.Conv2d(cin, rank, (1, wide), (1, along), (0, beside), (1, step), bias=False)
    column = nn.Conv2d(rank, cout, (high, 1), (down, 1), (above, 0), (skip, 1), bias=layer.bias is not None)
    weights = first.reshape(rank, cin, 1, wide), last.reshape(cout, high, rank).permute(0, 2, 1)[..., None]
    return _filled((row, column), weights, layer)


def _tucker(layer: nn.Conv2d) -> list[nn.Module]:
    """1 x 1, the same size between other channels, 1 x 1; channels are told by the singular vectors of the unfolded weight (Tucker-2).

    Where few channels are read, there is no first one.
    """
    core = layer.weight.detach().double()
    outs = torch.linalg.svd(core.flatten(1), full_matrices=False)[0]
    core = torch.einsum("oiyx,or->riyx", core, outs)
    made: list[nn.Conv2d] = []
    weights: list[torch.Tensor] = []
    if layer.in_channels >= _LEAST:
        ins = torch.linalg.svd(layer.weight.detach().double().transpose(0, 1).flatten(1), full_matrices=False)[0]
        core = torch.einsum("riyx,is->rsyx", core, ins)
        lengths = core.square().sum((0, 2, 3)).pow(0.25).clamp_min(1e-12)  # the longer, the more a channel matters
        core, ins = core / lengths[None, :, None, None], ins * lengths
        made, weights = [nn.Conv2d(layer.in_channels, ins.shape[1], 1, bias=False)], [ins.T[:, :, None, None]]
    size, stride, padding, dilation = map(_two, (layer.kernel_size, layer.stride, layer.padding, layer.dilation))
    made.append(nn.Conv2d(core.shape[1], len(core), size, stride, padding, dilation, bias=False))
    made.append(_last(layer, len(core), 1))
    return _filled(made, [*weights, core, outs[:, :, None, None]], layer)


def _two(given: str | tuple[int, ...]) -> tuple[int, int]:
    """Two sizes of a convolution, down and along."""
    assert not isinstance(given, str)
    down, along = given
    return down, along


def _last(layer: nn.Conv2d, rank: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(rank, layer.out_channels, size, bias=layer.bias is not None)


def _filled(made: Sequence[nn.Linear | nn.Conv2d], weights: Sequence[torch.Tensor], layer: nn.Linear | nn.Conv2d) -> list[nn.Module]:
    """Layers with these weights; the last one has the bias of the layer that they stand for."""
    for each, weight in zip(made, weights, strict=True):
        each.weight = nn.Parameter(weight.to(layer.weight).contiguous(), layer.weight.requires_grad)
    if layer.bias is not None:
        made[-1].bias = nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    return list(made)
