"""Export: one architecture with its weights as an ONNX file or a TensorRT engine, float or quantised, calibrated on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from torch import nn

from .._files._writing import PathLike, write_atomic
from .._registry import names
from ..backends._load import load_backend
from ..backends.base import Backend
from ..errors import InvalidInput, UnknownName, Unsupported, require
from ..networks._blocks import Block
from ..spaces._chain import boundary
from ..spaces._space import Architecture
from ._agreement import check_graph
from .data._images import Data
from .data._load import load_data
from .quantization._folded import FoldedBlock, FoldedLayer
from .quantization._quantize import Quantization
from .supernet._deploy import Deployed, deploy
from .supernet._plain import Boundary, Resize
from .supernet._supernet import Supernet, load_supernet

if TYPE_CHECKING:
    from ..backends._onnx._graph import BlockWeights, LayerWeights

_FILES = ("onnxruntime", "openvino", "tensorrt")


def export(
    architecture: Architecture,
    *,
    weights: PathLike | Supernet,
    out: PathLike,
    backend: str | Backend = "onnxruntime",
    data: PathLike | tuple[str, PathLike] | Data | None = None,
    precision: str | None = None,
    how: Quantization | None = None,
    batch: int | Literal["open"] | None = None,
) -> Path:
    """Write an architecture with its weights of the supernet as one ONNX file, or as a TensorRT engine.

    The graph is built by the function that also builds what is profiled, so what was measured is what is shipped. Its input
    ``"input"`` is ``float32`` of shape ``(batch, channels, resolution, resolution)``: images resized to ``resolution`` (bilinear,
    antialiased) and normalised as ``(pixel / 255 - mean) / std``. These numbers are in the file's metadata as JSON under
    ``"hwsearch.input"``, the architecture is under ``"hwsearch.architecture"``, and the bits of int8 weights are under
    ``"hwsearch.int8"``. Its output ``"output"`` holds the logits, shape ``(batch, classes)``.

    Int8 weights have as many bits as the integer arithmetic of the backend carries on this machine (8, or 7 where pairs of products
    saturate in 16 bits). The graph is run in its runtime before it is written, and has to give the logits of the evaluation in torch,
    within :data:`hwsearch.backends._onnx._flavours.TOLERANCES`.

    For TensorRT two files are written: the engine, and the ONNX file of the same name in TensorRT's flavour that it is built from, both for
    the backend's batch. That graph is run in ONNX Runtime and has to give what the evaluation in torch gives, and where a GPU is at hand
    the engine is run as well and has to give the same, within :data:`hwsearch.backends._onnx._flavours.TOLERANCES`; the note beside the
    engine says what was compared.

    Args:
        architecture: the network.
        weights: the supernet or its file.
        out: the ONNX file or the engine to write.
        backend: for which runtime: ``"onnxruntime"``, ``"openvino"``, or ``"tensorrt"``; or a backend with options of one's own.
        data: calibrate batch norms and quantisers on training images of these data; on those that the supernet carries where left out.
        precision: of all blocks, instead of those of the architecture; the file's metadata then holds it under ``"hwsearch.precision"``.

        how: how the network is quantised, as of :func:`hwsearch.nn.deploy`; whether with zero points, and the most bits of its weights,
            is for the backend to say.
        batch: how many images the file takes at once, or ``"open"`` for any number (not for TensorRT); the backend's if omitted.

    Returns:
        The path of the file.

    Raises:
        UnknownName: there is no such backend.
        InvalidInput: no architecture, a batch that is not positive, or an engine that is to be called ``.onnx``.
        Unsupported: the backend takes no files, or a precision that it does not run.
        FileError: the weights cannot be used; WrongSpace where they are of another space.
        BuildFailed: the file does not compute what was evaluated; or TensorRT's builder crashed, hung, ran out of memory or refused
            the network.
        MissingDependency: onnx or the runtime is not installed.
    """
    if not isinstance(architecture, Architecture):
        raise InvalidInput(f"architecture must be an Architecture, such as result.best, not {type(architecture).__name__}.")
    name = backend.name if isinstance(backend, Backend) else backend
    if name not in names("backend"):
        raise UnknownName("backend", name, names("backend"))
    if name not in _FILES:
        raise Unsupported(f"Export writes files for the backends {', '.join(map(repr, _FILES))}, not for {name!r}.")
    onnx = require("onnx", feature="Exporting to ONNX", extra="onnxruntime")
    from ..backends._onnx._check import BITS
    from ..backends._onnx._flavours import ONNXRUNTIME, TENSORRT
    from ..backends._onnx._graph import build
    from ..backends.tensorrt import TensorRT

    runtime = load_backend(backend)
    engine = runtime if isinstance(runtime, TensorRT) else None
    if engine is not None and Path(out).suffix == ".onnx":
        raise InvalidInput(
            f"{out} is where the graph goes, beside the engine. Name the engine, such as {Path(out).with_suffix('.engine')}."
        )
    images_at_once = _batch(batch, int(getattr(runtime, "batch", 1)), engine is not None)
    supernet = load_supernet(weights, architecture.space)
    normalize = supernet.normalize
    if data is None:
        images = supernet.calibration()
    else:
        data = load_data(data).normalized(supernet.normalize)
        normalize, images = data.normalize, data.normalize(data.calibration_images(0))
    assert normalize is not None
    blocks = architecture.blocks() if precision is None else at_precision(architecture.blocks(), precision)
    if engine is not None:
        engine.check(blocks)
    modules = supernet.extract(architecture.genes, None if supernet.settled else images)
    how = (how or Quantization()).on(runtime)
    flavour = ONNXRUNTIME.carried(how.weight_bits) if engine is None else TENSORRT
    network = deploy(modules if precision is None else _bounded(modules, blocks), blocks, images, how)
    numbers = block_weights(network)
    model = build(blocks, weights=numbers, batch=images_at_once, flavour=flavour)
    facts: dict[str, Any] = {
        "resolution": network.resolution,
        "resize": "bilinear, antialiased",
        "mean": normalize.mean,
        "std": normalize.std,
        "normalize": "(pixel / 255 - mean) / std",
    }
    document: dict[str, Any] = {"hwsearch.architecture": architecture.document(), "hwsearch.input": facts}
    if precision is not None:
        document["hwsearch.precision"] = precision
    if any(block.bits.quantized for block in blocks):
        document[BITS] = how.weight_bits
    onnx.helper.set_model_props(model, {key: msgspec.json.encode(value).decode() for key, value in document.items()})
    onnx.checker.check_model(model)
    if engine is not None:
        from ._engine import write_engine

        return write_engine(engine, model, network, images, out)
    check_graph(runtime, model, network, images, images_at_once, numbers, flavour)
    write_atomic(out, model.SerializeToString())
    return Path(out)


def _batch(asked: int | str | None, own: int, engine: bool) -> int | None:
    """How many images a file takes at once, where the backend takes ``own``; ``None`` if any number."""
    if asked is None:
        return own
    if asked == "open" and not engine:
        return None
    if isinstance(asked, bool) or not isinstance(asked, int | np.integer) or asked < 1:
        raise InvalidInput(f"batch must be a number of at least 1, or 'open' for an ONNX file, not {asked!r}.")
    if engine and asked != own:
        raise InvalidInput(f"The engine's batch is that of its backend: load_backend('tensorrt', batch={asked}).")
    return int(asked)


def at_precision(blocks: Sequence[Block], precision: str) -> tuple[Block, ...]:
    """The same network with all of its blocks at one precision, and one boundary between the image and them."""
    plain = [replace(block, precision=precision) for block in blocks if not block.boundary]
    return (*boundary("fp32", precision, plain[0].cin, plain[0].size), *plain)


def _bounded(network: nn.Sequential, blocks: Sequence[Block]) -> nn.Sequential:
    """The modules of a network with other boundaries between them."""
    modules = iter([module for module in network if not isinstance(module, Resize | Boundary)])
    return nn.Sequential(*(Boundary(block.kind, block.precision) if block.boundary else next(modules) for block in blocks))


def block_weights(network: Deployed) -> tuple[BlockWeights, ...]:
    """The numbers of a deployed network as :func:`hwsearch.backends._onnx._graph.build` takes them, one entry a block."""
    from ..backends._onnx._graph import BlockWeights, LayerWeights

    def quantizer(*place: Any) -> tuple[float | None, int]:
        found = network.quantizers.get(place)
        return (found.scale, found.zero) if found else (None, 0)

    def layer(number: int, place: str, folded: FoldedLayer) -> LayerWeights:
        weight, bias = (np.ascontiguousarray(tensor.numpy(), dtype=np.float32) for tensor in (folded.weight, folded.bias))
        steps = None if folded.steps is None else folded.steps.numpy()
        return LayerWeights(weight, bias, *quantizer(number, place), *quantizer(number, f"{place}.pre"), steps)

    def block(number: int, folded: FoldedBlock) -> BlockWeights:
        def part(name: str, layers: Sequence[FoldedLayer]) -> tuple[LayerWeights, ...]:
            return tuple(layer(number, f"{name}{index}", one) for index, one in enumerate(layers))

        body, excite = part("body", folded.body), part("excite", folded.excite)
        shortcut = None if folded.shortcut is None else part("shortcut", folded.shortcut)
        return BlockWeights(body, shortcut, *quantizer(number, "out"), excite)

    return tuple(block(number, folded) for number, folded in enumerate(network.blocks))
