"""Trained networks, as backends write them into model files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..networks._blocks import Block
from ._onnx._weights import BlockWeights

Runner = Callable[..., Any]
"""Takes the inputs of a model for one batch, one array each, and returns its output; a list of arrays if there are several outputs."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained network, as backends write it into model files.

    Example:
        >>> import numpy as np
        >>> from hwsearch.backends import BlockWeights, LayerWeights, TrainedModel, load_backend
        >>> from hwsearch.networks import Block
        >>> layer = LayerWeights(np.ones((10, 8), np.float32), np.zeros(10, np.float32))
        >>> model = TrainedModel((Block("head", 8, 10, 4),), (BlockWeights((layer,)),), notes={"author": "me"})
        >>> runtime = load_backend("onnxruntime")
        >>> run = runtime.runner(runtime.encode(model))
        >>> run(np.ones((1, 8, 4, 4), np.float32)).tolist()
        [[8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]]

    Attributes:
        network: its blocks, in the order of execution.
        weights: the numbers of each block.
        batch: how many images the file takes at once; ``None`` for any number.
        notes: what the file says of itself, by key.
        graph: an ONNX model with the weights inside, for a network that is not made of blocks; then there are no blocks above.
    """

    network: tuple[Block, ...]
    weights: tuple[BlockWeights, ...]
    batch: int | None = 1
    notes: Mapping[str, str] = field(default_factory=dict)
    graph: bytes | None = None


class Check(Protocol):
    """Compares what a written model computes with what the trained network does."""

    @property
    def tolerance(self) -> float:
        """The largest relative difference that is allowed."""

    def __call__(self, what: str, run: Runner) -> float:
        """The relative difference of the logits.

        Args:
            what: the name of what ``run`` runs, for messages.
            run: takes the images of one batch and returns their logits.

        Raises:
            BuildFailed: the difference is larger than ``tolerance``.
        """
