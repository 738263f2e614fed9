"""What stands on the shelf: the smaller members of a network's family, and what a module of any kind multiplies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...errors import UnknownName
from ._capture import capture
from ._groups import analyse

_FAMILIES = (
    ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    ("resnext50_32x4d", "resnext101_32x8d"),
    ("wide_resnet50_2", "wide_resnet101_2"),
    ("mobilenet_v3_small", "mobilenet_v3_large"),
    ("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    tuple(f"efficientnet_b{number}" for number in range(8)),
    ("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"),
    ("densenet121", "densenet169", "densenet201"),
    ("vgg11", "vgg13", "vgg16", "vgg19"),
    ("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    ("squeezenet1_1", "squeezenet1_0"),
    tuple(f"regnet_y_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf", "128gf")),
    tuple(f"regnet_x_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")),
    ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    ("swin_t", "swin_s", "swin_b"),
    ("swin_v2_t", "swin_v2_s", "swin_v2_b"),
    ("vit_b_32", "vit_b_16"),
    ("vit_l_32", "vit_l_16"),
    ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101"),
    ("fcn_resnet50", "fcn_resnet101"),
)
"""Networks of torchvision, the cheapest of each family first."""


def siblings(name: str) -> tuple[str, ...]:
    """The cheaper members of the family of a network of torchvision, the nearest one first: what to compare a cut network with.

    Example:
        >>> from hwsearch.nn.adoption import siblings
        >>> siblings("resnet50"), siblings("mobilenet_v3_large"), siblings("densenet121")
        (('resnet34', 'resnet18'), ('mobilenet_v3_small',), ())

    Args:
        name: of the network, as in ``torchvision.models``.

    Raises:
        UnknownName: its family is not known.
    """
    for family in _FAMILIES:
        if name in family:
            return family[: family.index(name)][::-1]
    raise UnknownName("network of torchvision", name, [each for family in _FAMILIES for each in family])


def count(module: nn.Module, inputs: torch.Tensor | Sequence[Any], keywords: Mapping[str, Any] | None = None) -> tuple[float, int]:
    """The multiply-accumulates of a module for one image, and its parameters, without proving anything.

    Example:
        >>> import torch
        >>> from hwsearch.nn.adoption import count
        >>> count(torch.nn.Conv2d(3, 8, 3), torch.randn(1, 3, 10, 10))
        (13824.0, 224)

    Args:
        module: any PyTorch module.
        inputs: an example input, or all positional ones.
        keywords: example inputs by keyword.

    Raises:
        Unsupported: the module cannot be captured.
    """
    given = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    captured = capture(module, given, dict(keywords or {}))
    analysis = analyse(captured.network, captured.batch, {})
    widths = {group.id: group.width for group in analysis.groups}
    return sum(kernel.macs(widths) for kernel in analysis.kernels), sum(each.numel() for each in module.parameters())
