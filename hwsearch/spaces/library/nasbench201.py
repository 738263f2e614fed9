"""NAS-Bench-201 (Dong and Yang, ICLR'20): 15,625 cells of six edges and five operations, for images of 32 px."""

from __future__ import annotations

from dataclasses import replace

from ...errors import check_count
from ...networks._blocks import Block
from .._builder import SpaceBuilder
from .._space import SearchSpace

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = tuple((node, source) for node in (1, 2, 3) for source in range(node))
"""The edges of a cell, each from an earlier node to a later one, in the order of the published strings."""
CELLS = 5
"""Cells of each of the three stages."""


def gene(node: int, source: int) -> str:
    """The name of an edge's gene."""
    return f"node{node}.from{source}"


def build(classes: int = 10) -> SearchSpace:
    """The space ``nasbench201``.

    A cell is no chain, so a slot holds the blocks of one edge in all cells.

    Args:
        classes: of the images; the published accuracies are of 10 and of 100.

    Raises:
        InvalidInput: no whole number of at least 1.
    """
    classes = check_count("classes", classes, least=1)
    builder = SpaceBuilder()
    builder.fixed("stem", Block("conv", 3, 16, 32, (), 3, activation="none"))
    for node, source in EDGES:
        name = gene(node, source)
        builder.slot(name, {"operation": builder.knob(name, OPERATIONS, role="operation")}, _edge)
    for number, width in enumerate((32, 64), start=1):
        builder.fixed(f"reduction{number}", Block("basic", width // 2, width, 64 // 2**number, (width,), 3, 2))
    builder.fixed("head", Block("head", 64, classes, 8))
    return replace(builder.space("nasbench201"), edges={gene(node, source): (source, node) for node, source in EDGES})


def _edge(operation: str) -> tuple[Block, ...]:
    """The operation of one edge in all cells of the three stages."""
    blocks = {
        "nor_conv_1x1": lambda width, size: Block("conv", width, width, size),
        "nor_conv_3x3": lambda width, size: Block("conv", width, width, size, (), 3),
        "avg_pool_3x3": lambda width, size: Block("avgpool", width, width, size, (), 3),
    }
    if operation not in blocks:
        return ()
    return tuple(blocks[operation](16 * 2**stage, 32 // 2**stage) for stage in range(3) for _ in range(CELLS))
