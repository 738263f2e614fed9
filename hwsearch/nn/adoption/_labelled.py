"""Files of cut networks for measuring: each operation bears the name of the slot that it belongs to, in whatever precision it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import fx

from ...backends._onnx._conversions import name_conversions
from ...spaces._genes import Value
from ..quantization._quantize import Quantization
from ._cut import Cut
from ._genes import Places
from ._onnx import written
from ._parts import find_parts
from ._pieces import scoped
from ._quantized import quantize

_ROUGH = Quantization(ranges="minmax", correction="none")
"""What a kernel takes does not depend on its numbers, so that the fastest way of choosing them will do."""


def labelled_file(
    cut: Cut, places: Places, values: Mapping[str, Value], integral: Collection[str], inputs: Sequence[torch.Tensor]
) -> bytes:
    """The ONNX file of a network for one image, whose operations are named after their slots.

    Args:
        cut: the network.
        places: which gene stands for which region.
        values: of its genes.
        integral: names of the slots whose kernels are in int8.
        inputs: examples, which kernels in int8 are calibrated on.
    """
    network, bits = cut.build(), places.precisions(values)
    slots: dict[str, str] = {}
    parts = find_parts(cut.network, places)
    owners = {parted.piece.main.name: parted.piece.name for parted in parts if parted.piece.main is not None}
    ends = {owners[each.nodes[first]]: owners[each.nodes[last]] for each, first, last in cut.ends.values()}
    for parted in parts:
        for node, slot in parted.named(values).items():
            if node in cut.places:  # what comes before the first factor of a layer is part of the layer
                slots.setdefault(cut.places[node].name, ends.get(slot, slot))
    if bits:
        network = quantize(network, inputs, bits, _ROUGH)
    owner: dict[fx.Node, str] = {node: slots[node.name] for node in network.graph.nodes if node.name in slots}
    model = written(scoped(network, owner), tuple(each[:1] if each.ndim else each for each in inputs))
    return name_conversions(model, integral) if bits else model
