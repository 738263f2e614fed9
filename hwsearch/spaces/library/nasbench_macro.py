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


def build(classes: int = 10) -> SearchSpace:
    """The space ``nasbench_macro``.

    Args:
        classes: of the images; the published accuracies are of 10.

    Raises:
        InvalidInput: no whole number of at least 1.
    """
    classes = check_count("classes", classes, least=1)
    builder = SpaceBuilder()
    width, size = 32, 32
    builder.fixed("stem", Block("conv", 3, 32, 32, (), 3))
    for layer, first in enumerate((index == 0 for layers in STAGES for index in range(layers)), start=1):
        name = f"layer{layer}"
        cout, stride = (2 * width, 2) if first else (width, 1)
        builder.slot(name, {"operation": builder.knob(name, OPERATIONS, role="operation")}, partial(_layer, width, cout, size, stride))
        width, size = cout, size // stride
    builder.fixed("head", Block("conv", width, 1280, size), Block("head", 1280, classes, size))
    return builder.space("nasbench_macro")


def _layer(cin: int, cout: int, size: int, stride: int, operation: str) -> tuple[Block, ...]:
    if operation != "identity":
        expand, kernel = (3, 3) if operation == "mb3_k3" else (6, 5)
        return (Block("mbconv", cin, cout, size, (expand * cin,), kernel, stride),)
    if stride == 1:
        return ()
    return (Block("conv", cin, cout, size, stride=stride, activation="none"),)
