"""Export of networks that are torch modules: what is cut out of a user's own network, or any module with example inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from .._files._writing import PathLike
from ..backends._onnx._flavours import TOLERANCES
from ..backends._trained import Runner, TrainedModel
from ..backends.base import Backend
from ..errors import BuildFailed, InvalidInput
from ._agreement import EXAMPLES, NUDGE, allowed, difference, drawn, outputs
from .adoption._capture import as_graph
from .adoption._examples import gathered, opened
from .adoption._onnx import to_onnx
from .adoption._quantized import planned, quantize, rounds
from .adoption._run import After, execute
from .data._images import Data, DataLike, Normalize
from .data._load import load_data
from .quantization._quantize import Quantization

Tensors = torch.Tensor | Sequence[torch.Tensor]
"""Example inputs, one tensor for each input of a network, shapes ``(n, ...)``."""
_CALIBRATION = 512
"""How many of a user's inputs are taken at most, where they come in batches."""
_ADVICE = "If the network takes batches of one size only, name it, such as export(..., batch=1)."


def export_module(
    network: nn.Module,
    out: PathLike,
    backend: Backend,
    data: DataLike | Tensors | None,
    batch: int | None,
    precision: str | Mapping[str, str] | None,
    quantization: Quantization,
) -> Path:
    """Write a module as the model file of a runtime; :func:`hwsearch.export` describes it.

    Args:
        network: the module.
        out: the file.
        backend: for which runtime.
        data: images, or example inputs; those of the sizes that an adopted network was adopted with if omitted.
        batch: how many images the file takes at once; ``None`` for any number.
        precision: of all kernels, or of some by their names or patterns; if omitted, what the network was extracted with, or fp32.
        quantization: how those in int8 are quantised.
    """
    examples, normalize = _examples(network, data)
    inputs = tuple(drawn(each, batch) for each in examples)
    count = batch or (len(examples[0]) if 1 < len(examples[0]) < EXAMPLES else 2)  # other than that of the comparison
    traced = [each[:count] for each in inputs]
    graph, notes, lowest = as_graph(network, traced), _notes(network, traced, normalize, batch), "fp32"
    if rounds(graph):
        if precision is not None:
            raise InvalidInput("The network is rounded already: leave out precision, or export the network in floats that it comes from.")
        precision, lowest = "fp32", "int8"
    precision = precision or planned(network) or "fp32"
    if precision != "fp32":
        if data is None:
            raise InvalidInput("data is missing: int8 needs images to calibrate on (hwsearch.nn.load_data), or inputs as tensors.")
        quantization, lowest = quantization.on(backend), "int8"
        graph = quantize(graph, examples, precision, quantization)
        notes |= {"hwsearch.precision": msgspec.json.encode(precision).decode(), "hwsearch.int8": str(quantization.weight_bits)}
    model = TrainedModel((), (), batch, notes, to_onnx(graph, traced, open_batch=batch is None))
    return backend.write(model, out, GraphAgreement(graph, inputs, batch, lowest))


def _notes(network: nn.Module, inputs: Sequence[torch.Tensor], normalize: Normalize | None, batch: int | None) -> dict[str, str]:
    """What the file says of itself."""
    sizes = [tuple(each.shape[1:]) for each in inputs]
    square = len(sizes) == 1 and len(sizes[0]) == 3 and sizes[0][1] == sizes[0][2]
    facts: dict[str, Any] = {"batch": batch, "sizes": sizes, "resolution": sizes[0][1] if square else None}
    facts |= {"resize": "bilinear, antialiased"} if square else {}
    if normalize is not None:
        facts |= {"mean": normalize.mean, "std": normalize.std, "normalize": "(pixel / 255 - mean) / std"}
    notes = {"input": facts} | ({"plan": _meta(network)["plan"]} if "plan" in _meta(network) else {})
    return {f"hwsearch.{key}": msgspec.json.encode(value).decode() for key, value in notes.items()}


def _meta(network: nn.Module) -> Mapping[str, Any]:
    return network.meta if isinstance(network, fx.GraphModule) else {}


def _examples(network: nn.Module, data: DataLike | Tensors | None) -> tuple[list[torch.Tensor], Normalize | None]:
    """Example inputs, and how images become those, if that is known.

    Raises:
        InvalidInput: there are none, and the network does not say which sizes it takes.
    """
    inputs = (_meta(network).get("plan") or {}).get("inputs")
    if isinstance(data, torch.Tensor):
        return [data], None
    if isinstance(data, Sequence) and data and all(isinstance(each, torch.Tensor) for each in data):
        tensors = [each for each in data if isinstance(each, torch.Tensor)]
        return tensors if inputs is None or len(tensors) != len(inputs) + 1 else tensors[:-1], None  # the last ones are labels
    if data is not None:
        found = opened(data, [each["size"] for each in inputs or ()])
        if inputs is not None and not isinstance(found, Data):
            return list(gathered(found, len(inputs), _CALIBRATION)[0]), None
        images: Data = load_data(found)
        return [images.normalize(images.calibration_images(0))], images.normalize
    if inputs is None:
        raise InvalidInput(
            "data is missing: give images (hwsearch.nn.load_data), or example inputs as tensors, such as torch.randn(16, 3, 224, 224)."
        )
    return [_example(each["size"], getattr(torch, each["dtype"])) for each in inputs], None


def _example(size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Random numbers, or zeros for whole numbers, which may stand for words."""
    shape = (EXAMPLES, *size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)


@dataclass(frozen=True, eq=False)
class GraphAgreement:
    """Compares what a model file computes with what its graph computes in torch.

    Attributes:
        graph: what was evaluated.
        inputs: for each input of the graph, shapes ``(n, ...)``, whole batches.
        batch: how many images are computed at once; ``None`` for all.
        precision: the lowest one in the graph.
    """

    graph: fx.GraphModule
    inputs: tuple[torch.Tensor, ...]
    batch: int | None
    precision: str = "fp32"

    @property
    def tolerance(self) -> float:
        """How far the outputs may be from those in torch (:data:`hwsearch.backends._onnx._flavours.TOLERANCES`)."""
        return TOLERANCES[self.precision]

    @cached_property
    def _evaluated(self) -> list[npt.NDArray[Any]]:
        try:
            return outputs(self._run, self._arrays, self.batch)
        except RuntimeError as error:
            count = self.batch or len(self.inputs[0])
            raise InvalidInput(f"The network does not run on a batch of {count} in torch. {_ADVICE} PyTorch says: {error}") from error

    @property
    def _own(self) -> float:
        """How far the outputs move in torch when all results are changed by next to nothing."""
        found = outputs(partial(self._run, after=_nudged), self._arrays, self.batch)
        return max(difference(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(found, self._evaluated, strict=True))

    def _run(self, *arrays: npt.NDArray[Any], after: After | None = None) -> list[npt.NDArray[Any]]:
        return [each.numpy() for each in execute(self.graph, tuple(torch.from_numpy(each) for each in arrays), after=after)]

    @property
    def _arrays(self) -> list[npt.NDArray[Any]]:
        return [each.numpy() for each in self.inputs]

    def __call__(self, what: str, run: Runner) -> float:
        """The largest relative difference of an output.

        Raises:
            BuildFailed: it is larger than :attr:`tolerance` and than what the network's own rounding explains, or nothing is computed.
            InvalidInput: the network takes other batches.
        """
        wanted = self._evaluated
        try:
            found = outputs(run, self._arrays, self.batch)
        except Exception as error:
            # Runtimes have errors of their own.
            raise BuildFailed(f"The {what} does not run. {_ADVICE} The runtime says: {error}") from error
        apart = max(difference(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(found, wanted, strict=True))
        most = self.tolerance if apart <= self.tolerance else allowed(self.tolerance, self._own)
        if not apart <= most:
            raise BuildFailed(
                f"The {what} does not compute what the network computes in torch: its outputs differ by {apart:.1%}, and "
                f"{most:.0%} are allowed. {_ADVICE}"
            )
        return apart


def _nudged(node: fx.Node, value: Any) -> Any:
    """The result of an operation, changed by next to nothing."""
    changes = node.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point()
    return value * (1 + NUDGE) if changes else value
