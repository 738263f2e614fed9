"""Trained networks as ONNX files."""

from __future__ import annotations

from ...errors import require
from .._trained import TrainedModel
from ._flavours import Flavour
from ._graph import build

onnx = require("onnx", feature="Writing ONNX files", extra="onnxruntime")


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
