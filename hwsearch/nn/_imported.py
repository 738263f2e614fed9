"""Networks in ONNX files as torch modules, by the package onnx2torch."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import nn

from .._files._reading import guarded, read_bytes
from .._files._writing import PathLike
from ..errors import InvalidInput, Unsupported, require
from .data._vision import import_torchvision

_FEATURE, _EXTRA = "Adopting an ONNX file", "onnx-import"


def import_onnx(path: PathLike) -> tuple[nn.Module, list[torch.Tensor]]:
    """The network of an ONNX file in evaluation mode, and random example inputs of the sizes that the file names, always the same.

    Sizes that the file leaves open are 1.

    Raises:
        MissingDependency: onnx or onnx2torch is not installed.
        FileError: the file cannot be read, or is no ONNX model.
        Unsupported: it holds an operation that the package does not know, such as integer kernels.
    """
    import_torchvision()  # which the package imports, too
    onnx, onnx2torch = (require(each, feature=_FEATURE, extra=_EXTRA) for each in ("onnx", "onnx2torch"))
    data = read_bytes(path, "ONNX file")
    with guarded(path, "ONNX model"):
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
        known = {each.name for each in model.graph.initializer}
        inputs = [_example(each) for each in model.graph.input if each.name not in known]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: nn.Module = onnx2torch.convert(model).eval()
    except Exception as error:
        # The package fails in as many ways as there are operations.
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unsupported(
            f"{os.fspath(path)} cannot be made a torch module: {words} Adopt the module that the file was exported from, if you have it."
        ) from error
    return module, inputs


def _example(given: Any) -> torch.Tensor:
    """A random tensor of the size of an input."""
    kind = given.type.tensor_type
    if kind.elem_type != 1:  # FLOAT
        raise InvalidInput(f"Input {given.name!r} does not hold float32 numbers; only such networks are adopted.")
    shape = [each.dim_value or 1 for each in kind.shape.dim]
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
