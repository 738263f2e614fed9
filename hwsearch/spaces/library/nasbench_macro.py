"""NAS-Bench-Macro (Su et al., CVPR'21): chains of eight layers for images of 32 px, identities or inverted bottlenecks; 6,561 of them."""

from __future__ import annotations

from functools import partial

from ...errors import check_count
from ...networks._blocks import Block
from .._builder import SpaceBuilder
from .._space import SearchSpace

OPERATIONS = ("identity", "mb3_k3", "mb6_k5")
STAGES = (2, 3, 3)
"""Layers of each stage; the first one halves the feature map and doubles the width."""


def build(classes: int = 10, size: int = 32) -> SearchSpace:
    """The space ``nasbench_macro``.

    Args:
        classes: of the images; the published accuracies are of 10.
        size: of the images, px; the published accuracies are of 32.

    Raises:
        InvalidInput: no whole number of at least 1.
    """
    classes, size = check_count("classes", classes, least=1), check_count("size", size, least=1)
    builder = SpaceBuilder()
    width = 32
    builder.fixed("stem", Block("conv", 3, 32, size, (), 3))
    for layer, first in enumerate((index == 0 for layers in STAGES for index in range(layers)), start=1):
        name = f"layer{layer}"
        cout, stride = (2 * width, 2) if first else (width, 1)
        operation = {"operation": builder.knob(name, OPERATIONS, role="operation")}
        builder.slot(name, operation, partial(_bottleneck, width, cout, size, stride))
        if first:
            builder.slot(f"{name}.identity", operation, partial(_shrunk, width, cout, size))  # of its own, since it is of another kind
        width, size = cout, -(-size // stride)
    builder.fixed("head", Block("conv", width, 1280, size), Block("head", 1280, classes, size))
    return builder.space("nasbench_macro")


def _bottleneck(cin: int, cout: int, size: int, stride: int, operation: str) -> tuple[Block, ...]:
    if operation == "identity":
        return ()
    expand, kernel = (3, 3) if operation == "mb3_k3" else (6, 5)
    return (Block("mbconv", cin, cout, size, (expand * cin,), kernel, stride),)


def _shrunk(cin: int, cout: int, size: int, operation: str) -> tuple[Block, ...]:
    """What stands for an identity that halves the feature map."""
    return (Block("conv", cin, cout, size, stride=2, activation="none"),) if operation == "identity" else ()
