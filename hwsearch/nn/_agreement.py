"""Whether a model file computes what was evaluated, found by running it in its runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ..backends._onnx._flavours import TOLERANCES, Flavour
from ..backends.base import Backend
from ..errors import BuildFailed
from ..networks._blocks import Block
from ..spaces._chain import boundary
from .supernet._deploy import Deployed
from .supernet._plain import resize

if TYPE_CHECKING:
    from ..backends._onnx._weights import BlockWeights

Run = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
_IMAGES = 16
"""This many images are compared, or a batch if that is more."""


def outputs(run: Run, x: npt.NDArray[np.float32], batch: int | None) -> npt.NDArray[Any]:
    """What a model computes for any number of images.

    Args:
        run: takes the images of one batch and returns their outputs.
        x: shape ``(n, channels, h, w)``.
        batch: how many images ``run`` takes at once; ``None`` if it takes any number.

    Returns:
        Shape ``(n, ...)``. A last batch that is not full is filled up with its last image.
    """
    step = batch or 50
    parts = []
    for start in range(0, len(x), step):
        part = x[start : start + step]
        missing = step - len(part) if batch else 0
        parts.append(run(np.ascontiguousarray(np.concatenate([part, part[-1:].repeat(missing, axis=0)])))[: len(part)])
    return np.concatenate(parts)


def samples(network: Deployed, images: torch.Tensor, batch: int | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Some images at the network's resolution, whole batches of them, and the logits that were evaluated for them."""
    step = batch or 1
    count = -(-_IMAGES // step) * step
    with torch.inference_mode():
        x = resize(images[np.resize(np.arange(len(images)), count)], network.resolution).contiguous()
        return x.cpu().numpy(), network(x.to(network.device)).cpu().numpy()


def tolerance(network: Deployed) -> float:
    """How far the logits of a file may be from those of the evaluation (:data:`hwsearch.backends._onnx._flavours.TOLERANCES`)."""
    return max(TOLERANCES[folded.block.bits.dense] for folded in network.blocks)


def difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The norm of the difference, as a share of the norm of what was expected."""
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-6))


def compare(what: str, found: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float, where: Callable[[], str] = str) -> float:
    """The relative difference of some logits.

    Args:
        what: the name of what computed ``found``.
        found, expected: logits, shape ``(n, classes)``.
        tolerance: how large the difference may be.
        where: tells in words where it arises; asked only if it is too large.

    Raises:
        BuildFailed: it is too large.
    """
    apart = difference(found, expected)
    if not apart <= tolerance:
        raise BuildFailed(
            f"The {what} does not compute what was evaluated: its logits differ by {apart:.1%}, and {tolerance:.0%} are allowed.{where()} "
            "Please report this, with the architecture."
        )
    return apart


def check_graph(
    backend: Backend,
    model: Any,
    network: Deployed,
    images: torch.Tensor,
    batch: int | None,
    numbers: Sequence[BlockWeights],
    flavour: Flavour,
) -> float:
    """Run a model in its runtime and compare its logits with those of the evaluation.

    Args:
        backend: whose runtime runs it.
        model: an ONNX model.
        network: what was evaluated.
        images: normalised, shape ``(n, channels, h, w)``.
        batch: how many images the model takes; ``None`` if any number.
        numbers, flavour: what the model was built from, one entry a block.

    Returns:
        The relative difference of the logits.

    Raises:
        BuildFailed: they differ by more than :func:`tolerance` allows; it names the block where the difference arises.
    """
    x, expected = samples(network, images, batch)
    found = outputs(backend.runner(model), x, batch)
    return compare("exported file", found, expected, tolerance(network), lambda: _worst(backend, network, x, numbers, flavour))


def _worst(backend: Backend, network: Deployed, x: npt.NDArray[np.float32], numbers: Sequence[BlockWeights], flavour: Flavour) -> str:
    """The block after which a file and the evaluation have come apart the most."""
    from ..backends._onnx._graph import build
    from ..backends._onnx._weights import BlockWeights

    apart = []
    for end in range(1, len(network.blocks)):
        blocks = [folded.block for folded in network.blocks[:end]]
        last: Block = blocks[-1]
        closing = boundary(last.precision, "fp32", last.cout, last.out_size) if last.kind != "dequantize" else ()
        model = build([*blocks, *closing], weights=[*numbers[:end], *(BlockWeights() for _ in closing)], batch=len(x), flavour=flavour)
        with torch.inference_mode():
            expected = replace(network, blocks=network.blocks[:end])(torch.from_numpy(x).to(network.device)).cpu().numpy()
        apart.append(difference(backend.runner(model)(x), expected))
    if not apart:
        return ""
    worst = int(np.argmax(np.diff(apart, prepend=0.0)))
    return f" Most of it arises in block {worst}, {network.blocks[worst].block.key}: {apart[worst]:.1%} behind it."
