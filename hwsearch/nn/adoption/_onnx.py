"""A graph as an ONNX model with its weights inside."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from ...errors import Unsupported
from ._run import execute
from ._state import get, put
from .rules.base import base_name

OPSET = 17


def to_onnx(network: fx.GraphModule, inputs: Sequence[torch.Tensor], *, open_batch: bool) -> bytes:
    """Write a graph as an ONNX model.

    The only input is called ``"input"`` and the only output ``"output"``; of several each has its number behind the name, from 0 on.
    Weights keep the names that they have in the graph.

    Args:
        network: the graph, from :func:`~hwsearch.nn.adoption._capture.capture` or from a cut.
        inputs: example inputs, whose sizes the model has.
        open_batch: whether the model takes any number of images.

    Raises:
        Unsupported: an operation has no counterpart in ONNX.
    """
    flat = _Flat(network).eval()
    with torch.no_grad():
        count = len(flat(*inputs))
    names = _numbered("input", len(inputs)), _numbered("output", count)
    axes = {name: {0: "batch"} for name in (*names[0], *names[1])} if open_batch else {}
    return written(flat, inputs, input_names=names[0], output_names=names[1], dynamic_axes=axes)


def written(network: nn.Module, inputs: Sequence[torch.Tensor], **naming: Any) -> bytes:
    """What PyTorch's exporter makes of a module: an ONNX model, in memory.

    Args:
        network: that takes and returns tensors.
        inputs: example inputs.
        naming: names of inputs and outputs, and open axes, as the exporter takes them.

    Raises:
        Unsupported: an operation has no counterpart in ONNX.
    """
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(network, tuple(inputs), file, dynamo=False, opset_version=OPSET, **naming)  # type: ignore[arg-type]
        except Exception as error:
            # The exporter of PyTorch fails in as many ways as there are operations.
            words = (str(error).splitlines() or ["nothing is said"])[0]
            raise Unsupported(f"The network cannot be written as an ONNX model: {type(error).__name__}: {words}") from error
    return file.getvalue()


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}{number}" for number in range(count)]


class _Flat(nn.Module):
    """A graph as a module that takes and returns tensors, one after the other, and has the graph's weights under their names."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__()
        self.run: list[fx.GraphModule] = [network]  # in a list, so that its weights are not found there as well
        for node in network.graph.find_nodes(op="get_attr"):
            put(self, str(node.target), get(network, str(node.target)))

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """The tensors among the outputs of the graph."""
        tensors = dict([*self.named_parameters(remove_duplicate=False), *self.named_buffers(remove_duplicate=False)])
        return execute(self.run[0], inputs, compute=_open_sizes, tensors=tensors)


def _open_sizes(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Numbers of images as the exporter follows them, and operations on these as functions of torch; else they would be numbers to it.

    All other sizes are numbers: a file is for images of one size.
    """
    target: Any = node.target
    if target is torch.ops.aten.sym_size.int:
        size = args[0].size(args[1])
        return int(size) if args[1] else size
    if isinstance(target, torch._ops.OpOverload) and any(_open(each) for each in args):
        if not isinstance(args[0], torch.Tensor):  # it makes a tensor of such sizes
            return getattr(torch, base_name(target))(*args, **kwargs)
        return getattr(args[0], base_name(target))(*args[1:], **kwargs)
    return NotImplemented


def _open(sizes: Any) -> bool:
    """Whether one of some sizes is followed by the exporter, to which it is a tensor."""
    return isinstance(sizes, list | tuple) and any(isinstance(each, torch.Tensor) and not each.ndim for each in sizes)
