"""torchvision, also beside a torch that it was not compiled for."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from ...errors import require


def import_torchvision() -> ModuleType:
    """Import torchvision, also beside a torch that it was not compiled for.

    With a CPU build of torch, torchvision's compiled operators may not load; its Python code then fails at import, since it
    registers shapes for two operators that do not exist. Naming those operators first lets the rest of it work.

    Raises:
        MissingDependency: torchvision is not installed.
    """
    try:
        return require("torchvision", feature="CIFAR-10, folders of images, mixup and cutmix", extra="torch")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    make_library: Any = torch.library.Library
    library = make_library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    return require("torchvision", feature="CIFAR-10, folders of images, mixup and cutmix", extra="torch")


def import_transforms() -> ModuleType:
    """``torchvision.transforms.v2``.

    Raises:
        MissingDependency: torchvision is not installed.
    """
    import_torchvision()
    return import_module("torchvision.transforms.v2")


_LIBRARIES: list[Any] = []
"""Operators are known for as long as their library is kept."""
