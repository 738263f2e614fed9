"""Small ResNets of the kind that He et al. trained on CIFAR-10, with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

State = dict[str, npt.NDArray[Any]]


def weights(blocks: int) -> State:
    """A small network of the family with random weights."""
    rng = np.random.default_rng(0)
    state: State = {"linear.weight": rng.normal(size=(10, 64)), "linear.bias": rng.normal(size=10)}

    def convolution(prefix: str, number: int, cin: int, cout: int) -> None:
        state[f"{prefix}conv{number}.weight"] = rng.normal(size=(cout, cin, 3, 3)) * (2 / (9 * cin)) ** 0.5
        for name, low, high in (("weight", 0.5, 1.5), ("bias", -0.2, 0.2), ("running_mean", -0.2, 0.2), ("running_var", 0.5, 1.5)):
            state[f"{prefix}bn{number}.{name}"] = rng.uniform(low, high, size=cout)

    convolution("", 1, 3, 16)
    for stage, (before, width) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
        for block in range(blocks):
            convolution(f"layer{stage}.{block}.", 1, width if block else before, width)
            convolution(f"layer{stage}.{block}.", 2, width, width)
    return {name: array.astype(np.float32) for name, array in state.items()}
