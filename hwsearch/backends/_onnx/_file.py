"""Networks of blocks as ONNX graphs, and trained networks as ONNX files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import require
from .._trained import TrainedModel
from ..base import Network
from ._flavours import Flavour
from ._graph import build

if TYPE_CHECKING:
    from onnx import ModelProto

onnx = require("onnx", feature="Writing ONNX files", extra="onnxruntime")


def onnx_graph(network: Network, batch: int = 1) -> ModelProto:
    """The ONNX graph of a network of blocks with random weights: what a backend whose runtime reads ONNX opens.

    Quantised blocks are written as quantisers around float operations, as ONNX Runtime fuses them. The input is called ``"input"``, shape
    ``(batch, channels, size, size)``, and the output ``"output"``.

    Args:
        network: blocks in the order of execution.
        batch: images at once.

    Raises:
        Unsupported: ONNX Runtime's graphs do not hold one of the precisions.

    Example:
        >>> from hwsearch.backends import onnx_graph
        >>> from hwsearch.networks import Block
        >>> [node.op_type for node in onnx_graph([Block("conv", 3, 8, 8, kernel=3, precision="fp32")]).graph.node]
        ['Conv', 'Relu']
    """
    return build(network, batch=batch)


def encode(model: TrainedModel, flavour: Flavour) -> bytes:
    """The ONNX file of a trained network.

    Args:
        model: the network; its notes become the metadata of the file.
        flavour: of the runtime.

    Raises:
        Unsupported: the flavour does not hold one of the precisions.
    """
    if model.graph is None:
        graph = build(model.network, weights=model.weights, batch=model.batch, flavour=flavour)
    else:
        graph = onnx.load_from_string(model.graph)
    onnx.helper.set_model_props(graph, dict(model.notes))
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())
