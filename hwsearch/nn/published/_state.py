"""State dicts: PyTorch, safetensors and npz files read as numpy arrays, without running any code that they may hold."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load

from ..._files._reading import PathLike, guarded, parse_arrays, read_bytes
from ...errors import CorruptFile

_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights; an average of the weights goes before the weights themselves."""


def read_state(path: PathLike) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of a state dict, in their order.

    A checkpoint of a training script may hold them under a key such as ``"state_dict"``, ``"model"`` or ``"state_dict_ema"`` (the average
    of the weights is taken if there is one), and with names that begin with ``"module."``. Numbers of 8 and 16 bits with a floating
    point become ``float32``, which holds all of them exactly.

    Args:
        path: a PyTorch file, a safetensors file (``.safetensors``), or an npz file (``.npz``).

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile: it is none of these, holds more than tensors, or weights that are not finite.
    """
    name = os.fspath(path)
    data = read_bytes(name, "state dict")
    if name.endswith(".npz"):
        arrays = parse_arrays(data, name, "state dict")
    else:
        with guarded(name, "state dict of PyTorch"):
            loaded = load(data) if name.endswith(".safetensors") else _unwrapped(_torch(data))
            if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
                raise CorruptFile(f"{name} is no state dict: a mapping of names to tensors was expected.")
            arrays = {str(key).removeprefix("module."): _array(value) for key, value in loaded.items()}
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise CorruptFile(f"{name}: {key!r} holds values that are not finite, or no real numbers.")
    return arrays


def _torch(data: bytes) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files are stored in ways that PyTorch warns of
        try:
            return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError("it is damaged, or holds more than tensors, which is never run; save module.state_dict()") from error


def _unwrapped(loaded: object) -> object:
    """The state dict of a checkpoint that may hold other things beside it."""
    if isinstance(loaded, dict):
        for key in _WRAPPERS:
            if isinstance(loaded.get(key), Mapping):
                return loaded[key]
    return loaded


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor that holds its own numbers, as an array."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ValueError(f"a tensor is {tensor.layout} and {tensor.dtype} on {tensor.device}, and plain numbers were expected")
    small = tensor.is_floating_point() and tensor.element_size() < 4
    found: npt.NDArray[Any] = (tensor.detach().float() if small else tensor.detach()).resolve_neg().resolve_conj().numpy()
    return found
