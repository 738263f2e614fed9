"""Engines of trained networks, compared with what was evaluated before they are shipped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from .._store import PathLike, write_atomic
from ..backends import load_backend
from ..backends.onnx_flavours import TOLERANCES
from ..backends.onnxruntime import OnnxRuntime
from ..errors import BuildFailed
from .deploy import Deployed
from .plain import resize

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..backends.tensorrt import TensorRT

_IMAGES = 16
"""So many are compared, or a batch where that is more."""


def write_engine(runtime: TensorRT, model: ModelProto, network: Deployed, images: torch.Tensor, out: PathLike) -> Path:
    """Build the engine of a graph and write it, and the graph beside it; neither where they do not compute what was evaluated.

    The graph is run in ONNX Runtime, unless it holds bf16, which that does not run on CPUs; the engine where there is a GPU. Both have to
    give the logits of the evaluation, within :data:`hwsearch.backends.onnx_flavours.TOLERANCES`.

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
    with torch.inference_mode():
        count = -(-_IMAGES // runtime.batch) * runtime.batch
        x = resize(images[np.resize(np.arange(len(images)), count)], network.resolution).contiguous()
        expected = network(x).numpy()
    parts = np.split(x.numpy(), count // runtime.batch)
    tolerance, facts = max(TOLERANCES[precision] for precision in precisions), {}
    if "bf16" not in precisions:
        checker = load_backend("onnxruntime")
        assert isinstance(checker, OnnxRuntime)
        graph = checker.session(model)
        found = np.concatenate([graph.run(None, {"input": part})[0] for part in parts])
        facts["onnxruntime"] = _compare("graph", found, expected, tolerance)
    data = model.SerializeToString()
    source = Path(out).with_suffix(".onnx")
    write_atomic(source, data)
    try:
        if runtime.here:
            session = runtime.load(source)
            with session:
                found = np.concatenate([session.run(part) for part in parts])
            facts["engine"] = _compare("engine", found, expected, tolerance)
        return runtime.save(data, out, {"differences": facts, "tolerance": tolerance})
    except BuildFailed:
        source.unlink()
        raise


def _compare(what: str, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], tolerance: float) -> float:
    """The relative difference of some logits.

    Raises:
        BuildFailed: it is more than it may be.
    """
    difference = float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-6))
    if not difference <= tolerance:
        raise BuildFailed(
            f"The {what} does not compute what was evaluated: its logits differ by {difference:.1%}, and {tolerance:.0%} are allowed. "
            "Please report this, with the architecture."
        )
    return difference
