"""Engines of trained networks, compared with what was evaluated before they are shipped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .._files._writing import PathLike, write_atomic
from ..errors import BuildFailed
from ._agreement import compare, outputs, samples, tolerance
from .supernet._deploy import Deployed

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..backends.tensorrt import TensorRT


def write_engine(runtime: TensorRT, model: ModelProto, network: Deployed, images: torch.Tensor, out: PathLike) -> Path:
    """Build the engine of a graph and write it, and the graph beside it; neither where they do not compute what was evaluated.

    The graph is run in ONNX Runtime as it is written, without integer products, which saturate on some CPUs and on no GPU; not if it holds
    bf16, which that does not run on CPUs. The engine is run where there is a GPU. Both have to give the logits of the evaluation, within
    :data:`hwsearch.backends._onnx._flavours.TOLERANCES`.

    Args:
        runtime: what builds it.
        model: the graph, in TensorRT's flavour.
        network: what was evaluated.
        images: normalised, shape ``(n, channels, h, w)``.
        out: the engine's file.

    Returns:
        The path of the engine.

    Raises:
        BuildFailed: the builder failed, or the graph or the engine computes something else.
        MissingDependency: onnxruntime is not installed.
    """
    precisions = {folded.block.bits.dense for folded in network.blocks}
    x, expected = samples(network, images, runtime.batch)
    allowed, facts = tolerance(network), {}
    if "bf16" not in precisions:
        from ..backends.onnxruntime import OnnxRuntime

        facts["onnxruntime"] = compare("graph", outputs(OnnxRuntime().as_written(model), x, runtime.batch), expected, allowed)
    data = model.SerializeToString()
    source = Path(out).with_suffix(".onnx")
    write_atomic(source, data)
    try:
        if runtime.here:
            session = runtime.session(source)
            with session:
                found = outputs(session.run, x, runtime.batch)
            facts["engine"] = compare("engine", found, expected, allowed)
        return runtime.save(data, out, {"differences": facts, "tolerance": allowed})
    except BuildFailed:
        source.unlink()
        raise
