"""What the header of a supernet's file says, read without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._files._reading import PathLike, guarded, parse_json, parse_tensor_header, read_bytes

_NO_WEIGHTS = re.compile(r"(calibration|momentum|average)\..*|.*running_(mean|var)")
_TRAINING = ("data", "train_images", "seed")


@dataclass(frozen=True)
class SupernetFacts:
    """What a supernet's file says, without its weights.

    Attributes:
        format: ``"hwsearch-supernet"``, or ``"hwsearch-training"`` of a training that is not finished.
        space, fingerprint: the name and the fingerprint of the space that it belongs to.
        training: ``data``, ``train_images`` and ``seed``, as far as they are known.
        recipe: the options of the training; of its phases only how many there are.
        weights: the number of weights.
    """

    format: str
    space: str
    fingerprint: str
    training: Mapping[str, Any]
    recipe: Mapping[str, Any]
    weights: int


def read_supernet_facts(path: PathLike) -> SupernetFacts:
    """Read the header of a supernet's weights, finished or in training.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile: it is truncated, or no supernet.
    """
    tensors, metadata = parse_tensor_header(read_bytes(path, "supernet"), path, "supernet")
    with guarded(path, "supernet file"):
        header = parse_json(metadata["hwsearch"].encode(), path)
        training = header.get("training") or {}
        return SupernetFacts(
            format=header["format"],
            space=header["space"],
            fingerprint=header["fingerprint"],
            training={name: training[name] for name in _TRAINING if name in training},
            recipe={name: len(value) if name == "phases" else value for name, value in (training.get("recipe") or {}).items()},
            weights=sum(int(np.prod(tensor["shape"])) for name, tensor in tensors.items() if not _NO_WEIGHTS.fullmatch(name)),
        )
