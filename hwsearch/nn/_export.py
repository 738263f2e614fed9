"""Export: one architecture with its weights as a model file, float or quantised, calibrated on real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import nn

from .._files._writing import PathLike, check_writable
from ..backends._load import load_backend
from ..backends._onnx._weights import BlockWeights, LayerWeights
from ..backends._trained import TrainedModel
from ..backends.base import Backend
from ..errors import InvalidInput, Unsupported
from ..networks._blocks import Block
from ..spaces._chain import boundary
from ..spaces._space import Architecture
from ._agreement import Agreement
from ._export_module import Tensors, export_module
from .data._images import DataLike, Normalize
from .quantization._folded import FoldedBlock, FoldedLayer
from .quantization._quantize import STANDARD, Quantization
from .supernet._deploy import Deployed, calibration_of, deploy
from .supernet._plain import Boundary, Resize
from .supernet._supernet import Supernet, WeightsLike, load_supernet


def export(
    network: Architecture | nn.Module,
    *,
    out: PathLike,
    weights: WeightsLike | None = None,
    backend: str | Backend = "onnxruntime",
    data: DataLike | Tensors | None = None,
    precision: str | Mapping[str, str] | None = None,
    quantization: Quantization = STANDARD,
    batch: int | Literal["open"] | None = None,
) -> Path:
    """Write a network as the model file of a runtime: an architecture with its weights of the supernet, or a torch module.

    Before it is written the file is run in its runtime, and must give the outputs of the evaluation in torch. Its metadata are described in
    ``docs/quickstart.md``.

    Args:
        network: an architecture; or a module, such as what ``Adopted.extract`` returns, which has its weights itself.
        out: the model file to write.
        weights: of an architecture: the supernet or its file.
        backend: for which runtime: a backend, or its name, that writes model files.
        data: calibrate batch norms and quantisers on training images of these data; if omitted, on those that the supernet carries.
            A module takes the sizes of its inputs from them; example inputs as tensors, one for each input, do as well; if omitted, the
            sizes are those that it was adopted with.
        precision: of all blocks, instead of those of the architecture; of a module (if omitted what :func:`hwsearch.extract` gave, or
            fp32) for all kernels or, by patterns of weights, for some: ``{"*": "int8", "head.*": "fp32"}``; the last that fits counts.
        quantization: how the network is quantised; the backend decides about zero points, and about the most bits of weights.
        batch: how many images the file takes at once, or ``"open"`` for any number (not for engines); the backend's if omitted.

    Returns:
        The path of the file.

    Raises:
        InvalidInput: a name that does not end as the backend's files do; neither of both, weights or example inputs that are missing, or
            a batch that is not positive or that the backend's files cannot take.
        Unsupported: the backend writes no model files or does not run a precision, a module cannot be ONNX, or weights have codebooks.
        FileError: the weights cannot be used; WrongSpace if they are of another space.
        BuildFailed: the file does not compute what was evaluated, or the runtime's builder failed.

    Example:
        >>> import hwsearch
        >>> from hwsearch.spaces import Chain, Stage
        >>> toy = Chain("toy", (8,), (8,), (Stage((1, 2), (8, 16), (8, 12)),), classes=10, precisions=("fp32", "int8"), channels=1).space()
        >>> supernet = hwsearch.train(toy, data="digits", out="toy-export.safetensors", recipe={"epochs": 1}, progress=False)
        >>> path = hwsearch.export(toy.architecture(supernet.largest), weights=supernet, out="best.onnx", batch="open")
    """
    runtime = load_writer(backend, out)
    at_once = _batch(batch, runtime.batch)
    if isinstance(network, nn.Module):
        return export_module(network, out, runtime, data, at_once, precision, quantization)
    if not isinstance(network, Architecture):
        raise InvalidInput(f"The network must be an Architecture, such as result.best, or a torch module, not {type(network).__name__}.")
    if weights is None or isinstance(precision, Mapping):
        raise InvalidInput("An architecture needs weights, its supernet, and one precision for all blocks or none.")
    supernet = load_supernet(weights, network.space)
    normalize, images = calibration_of(supernet, data)  # type: ignore[arg-type]  # tensors are refused there
    shipped = _deployed(network, precision, supernet, images, quantization.on(runtime))
    notes: dict[str, Any] = {"architecture": network.document(), "input": _input(shipped, normalize, at_once)}
    notes |= {} if precision is None else {"precision": precision}
    return _written(shipped, images, notes, quantization.on(runtime).weight_bits, runtime, out)


def _deployed(
    architecture: Architecture, precision: str | None, supernet: Supernet, images: torch.Tensor, quantization: Quantization
) -> Deployed:
    """The network as it is shipped, in one precision if that is asked for."""
    quantization.check_linear("Kernels for integers compute with")
    modules = supernet.extract(architecture.genes, None if supernet.settled else images)
    if precision is None:
        return deploy(modules, architecture.blocks(), images, quantization)
    blocks = at_precision(architecture.blocks(), precision)
    return deploy(_bounded(modules, blocks), blocks, images, quantization)


def _written(network: Deployed, images: torch.Tensor, notes: dict[str, Any], weight_bits: int, runtime: Backend, out: PathLike) -> Path:
    """The file of a deployed network; its notes say how many images it takes at once."""
    blocks, batch = tuple(folded.block for folded in network.blocks), notes["input"]["batch"]
    notes |= {"int8": weight_bits} if any(block.bits.quantized for block in blocks) else {}
    encoded = {f"hwsearch.{key}": msgspec.json.encode(value).decode() for key, value in notes.items()}
    model = TrainedModel(blocks, block_weights(network), batch, encoded)
    return runtime.write(model, out, Agreement(network, images, model, runtime))


def load_writer(backend: str | Backend, out: PathLike | None = None) -> Backend:
    """A backend that writes model files.

    Args:
        backend: it or its name.
        out: a model file that is to be written.

    Raises:
        UnknownName: there is no such backend.
        Unsupported: it writes no files.
        InvalidInput: the name of the file ends otherwise than those of the backend, by a slip perhaps.
        FileError: it cannot be written there.
    """
    runtime = load_backend(backend)
    if runtime.suffix is None:
        raise Unsupported(f"Backend {runtime.name!r} writes no model files. Export for a runtime that does, such as 'onnxruntime'.")
    if out is not None:
        check_writable(out)
        if Path(out).suffix != runtime.suffix:
            right = Path(out).with_suffix(runtime.suffix)
            raise InvalidInput(f"{out}: model files of {runtime.name!r} end in {runtime.suffix}. Call it {right}.")
    return runtime


def _input(network: Deployed, normalize: Normalize, batch: int | None) -> dict[str, Any]:
    """How images are prepared for a model file, and how many it takes at once."""
    return {
        "batch": batch,
        "resolution": network.resolution,
        "resize": "bilinear, antialiased",
        "mean": normalize.mean,
        "std": normalize.std,
        "normalize": "(pixel / 255 - mean) / std",
    }


def _batch(given: int | str | None, own: int) -> int | None:
    """How many images a file takes at once, if the backend takes ``own``; ``None`` if any number."""
    if given is None or given == "open":
        return own if given is None else None
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise InvalidInput(f"batch must be a number of at least 1, or 'open' for any number, not {given!r}.")
    return int(given)


def at_precision(blocks: Sequence[Block], precision: str) -> tuple[Block, ...]:
    """The same network with all of its blocks at one precision, and one boundary between the image and them."""
    plain = [replace(block, precision=precision) for block in blocks if not block.boundary]
    return (*boundary("fp32", precision, plain[0].cin, plain[0].size), *plain)


def _bounded(network: nn.Sequential, blocks: Sequence[Block]) -> nn.Sequential:
    """The modules of a network with other boundaries between them."""
    modules = iter([module for module in network if not isinstance(module, Resize | Boundary)])
    return nn.Sequential(*(Boundary(block.kind, block.precision) if block.boundary else next(modules) for block in blocks))


def block_weights(network: Deployed) -> tuple[BlockWeights, ...]:
    """The numbers of a deployed network as backends take them, one entry a block."""

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
