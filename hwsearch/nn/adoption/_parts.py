"""Kernels in parts: stretches of a kernel's operations whose precisions are chosen by different genes.

The sum at the end of a residual branch, for example, is in the format of the trunk. Where trunk and branch are in one precision, a runtime
computes the sum along with the branch's last convolution; where they are not, it converts in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from torch import fx

from ._folding import name_of
from ._formats import POOLS, able, origins, tensors_of
from ._genes import Places
from ._pieces import Piece, find_pieces, source_of


@dataclass(frozen=True)
class Part:
    """Operations of a kernel whose precision is that of one gene.

    Attributes:
        piece: with these operations alone.
        gene: of their precision; ``None`` where they are always in fp32.
        reads: the genes of the formats of the tensors that come from elsewhere.
        readers: of a pooling the genes of the precisions of all that read it. Where it is in floats and all of them read integers, ONNX
            Runtime converts before the pooling, which it then does in another way, and perhaps a hundred times as slowly.
    """

    piece: Piece
    gene: str | None
    reads: tuple[str | None, ...]
    readers: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Parted:
    """A kernel with its parts.

    Attributes:
        piece: all of it.
        parts: in order; a single one where one gene tells the precision of all.
        main: the part that the whole is named after: the one that multiplies, or else the first.
        reads: the genes of the formats of the tensors that come from outside of the kernel.
    """

    piece: Piece
    parts: tuple[Part, ...]
    main: int
    reads: tuple[str | None, ...]

    def named(self, values: Mapping[str, object]) -> dict[fx.Node, str]:
        """The slot that each operation stands in where genes have these values."""
        apart = len({values.get(part.gene or "", "fp32") for part in self.parts}) > 1
        return {node: part.piece.name if apart else self.piece.name for part in self.parts for node in part.piece.nodes}


def find_parts(network: fx.GraphModule, places: Places) -> tuple[Parted, ...]:
    """The kernels of a captured network, in its order, each with its parts.

    Args:
        network: the captured graph.
        places: which gene stands for which region.
    """
    kernels, bits = able(network), places.bits
    formats = {node: bits.get(kernels[kernel]) for node, kernel in origins(network, kernels).items()}
    precisions = formats | {kernel: bits.get(name) for kernel, name in kernels.items()}
    return tuple(
        _parted(piece, formats, precisions, bits.get(kernels.get(piece.main, "")))  # type: ignore[arg-type]
        for piece in find_pieces(network)
    )


def _parted(piece: Piece, formats: Mapping[fx.Node, str | None], precisions: Mapping[fx.Node, str | None], own: str | None) -> Parted:
    """One kernel in parts.

    Args:
        piece: the kernel.
        formats: the gene that tells the format of each result that can be on a grid.
        precisions: the gene that tells the precision of each operation that can compute with integers.
        own: the gene of the precision of the operation that multiplies.
    """
    after = False
    genes = {}
    for node in piece.nodes:
        after = after or node is piece.main
        # What follows a linear layer is in floats as its result is, and nothing is converted in between.
        genes[node] = own if node is piece.main or (after and node not in formats) else formats.get(node)
    parts = []
    for gene, nodes in groupby(piece.nodes, key=genes.__getitem__):
        held = list(nodes)
        main = piece.main if piece.main in held else None
        pools = main is None and gene is not None and name_of(held[-1]) in POOLS
        readers = tuple(dict.fromkeys(precisions.get(user) for user in held[-1].users)) if pools else ()
        parts.append(Part(Piece(main.name if main else held[0].name, held, main), gene, _reads(held, formats, gene), readers))
    number = next((place for place, part in enumerate(parts) if part.piece.main is not None), 0)
    parts[number].piece.name = piece.name
    return Parted(piece, tuple(parts), number, _reads(piece.nodes, formats, parts[number].gene))


def _reads(nodes: list[fx.Node], formats: Mapping[fx.Node, str | None], own: str | None) -> tuple[str | None, ...]:
    """The genes of the formats of the tensors that some operations read from elsewhere, other than their own gene."""
    outside = dict.fromkeys(source_of(each) for node in nodes for each in tensors_of(node))
    return tuple(formats.get(each) for each in outside if each not in nodes and formats.get(each) != own)
