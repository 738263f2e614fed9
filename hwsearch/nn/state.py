"""State dicts: PyTorch and npz files read as numpy arrays, without running any code that they may hold."""

from __future__ import annotations

import os
import pickle
import zipfile
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .._reading import PathLike, read_bytes
from ..errors import CorruptFile, FileError


def read_state(path: PathLike) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of a state dict, in their order: a PyTorch file (perhaps under the key ``"state_dict"``) or an npz file.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile: it is neither, or holds more than tensors.
    """
    name = os.fspath(path)
    if name.endswith(".npz"):
        return _read_npz(name)
    try:
        loaded = torch.load(name, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise CorruptFile(f"{name} is no PyTorch state dict: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise FileError(f"Cannot read state dict {name}: {error.strerror or error}.") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CorruptFile(f"{name} is no state dict: a mapping of names to tensors was expected.")
    return {str(key): value.detach().numpy() for key, value in loaded.items()}


def _read_npz(name: str) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(BytesIO(read_bytes(name, "state dict")), allow_pickle=False) as file:
            return dict(file)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptFile(f"{name} is no npz file of arrays: {error}") from error
