"""Whether a model file computes what was evaluated, found by running it in its runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..backends._onnx._flavours import TOLERANCES
from ..backends._onnx._weights import BlockWeights
from ..backends._trained import Runner, TrainedModel
from ..backends.base import Backend
from ..errors import BuildFailed
from ..spaces._chain import boundary
from .quantization._folded import FoldedLayer, Place, Visit
from .supernet._deploy import Deployed, Shipped
from .supernet._plain import resize

EXAMPLES = 16
"""This many images are compared, or a batch if that is more."""
NUDGE = 1e-6
"""The relative change of a result that stands for a runtime's other order of adding up."""
_SLACK = 2.0
_MOST = 0.5


def allowed(tolerance: float, own: float) -> float:
    """How far a file may be from its network: a tolerance, or more where the network itself moves more by next to nothing.

    A value between two steps of a grid falls to either of them in different runtimes, and some networks carry that on, layer after layer,
    until it is a tenth of the outputs. They do so in torch, too.

    Args:
        tolerance: of other networks.
        own: how far the network's own outputs move in torch when all results on the way are changed by :data:`NUDGE`.
    """
    return max(tolerance, min(_SLACK * own, _MOST))


def outputs(run: Runner, inputs: Sequence[npt.NDArray[Any]], batch: int | None) -> list[npt.NDArray[Any]]:
    """What a model computes for any number of images.

    Args:
        run: takes the inputs of one batch and returns their output, or a list of their outputs.
        inputs: one array for each input of the model, shapes ``(n, ...)``.
        batch: how many images ``run`` takes at once; ``None`` if it takes any number.

    Returns:
        One array for each output, shapes ``(n, ...)``. A last batch that is not full is filled up with its last image.
    """
    step = batch or 50
    parts = []
    for start in range(0, len(inputs[0]), step):
        part = [x[start : start + step] for x in inputs]
        count = len(part[0])
        missing = step - count if batch else 0
        found = run(*(np.ascontiguousarray(np.concatenate([x, x[-1:].repeat(missing, axis=0)])) for x in part))
        parts.append([each[:count] for each in (found if isinstance(found, list) else [found])])
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def drawn(images: torch.Tensor, batch: int | None) -> torch.Tensor:
    """Some of these images, from the first on and over again if they are few: whole batches of them."""
    step = batch or 1
    return images[np.resize(np.arange(len(images)), -(-EXAMPLES // step) * step)]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Compares what a model file computes with what its network was evaluated to compute, on some images.

    Attributes:
        network: what was evaluated.
        images: normalised, shape ``(n, channels, h, w)``.
        model: what the file is written from.
        backend: what writes it.
    """

    network: Deployed
    images: torch.Tensor
    model: TrainedModel
    backend: Backend

    @cached_property
    def tolerance(self) -> float:
        """How far the logits may be from those of the evaluation (:data:`hwsearch.backends._onnx._flavours.TOLERANCES`)."""
        return max(TOLERANCES[folded.block.bits.dense] for folded in self.network.blocks)

    @cached_property
    def _samples(self) -> npt.NDArray[np.float32]:
        """Some images at the network's resolution, whole batches of them."""
        return np.asarray(resize(drawn(self.images, self.model.batch), self.network.resolution).contiguous().cpu().numpy())

    def __call__(self, what: str, run: Runner) -> float:
        """The relative difference of the logits.

        Args:
            what: the name of what ``run`` runs.
            run: takes the images of one batch and returns their logits.

        Raises:
            BuildFailed: they differ by more than :attr:`tolerance`; the message names the block where the difference arises, if the backend
                runs files.
        """
        (found,) = outputs(run, [self._samples], self.model.batch)
        apart = difference(found, self._evaluated(self.network))
        most = self.tolerance if apart <= self.tolerance else allowed(self.tolerance, self._own)
        if not apart <= most:
            raise BuildFailed(
                f"The {what} does not compute what was evaluated: its logits differ by {apart:.1%}, and {most:.0%} are allowed."
                f"{self._worst() if self.backend.runs_files else ''} Please report this, with the architecture."
            )
        return apart

    @property
    def _own(self) -> float:
        """How far the logits of the evaluation move when all sums are changed by next to nothing."""
        return difference(self._evaluated(self.network, _Nudged(self.network)), self._evaluated(self.network))

    def _evaluated(self, network: Deployed, visit: Visit | None = None) -> npt.NDArray[Any]:
        """What the evaluation in torch computes for the images, of the whole network or of its first blocks."""
        with torch.inference_mode():
            x = torch.from_numpy(self._samples).to(self.network.device)
            return np.asarray((network(x) if visit is None else network.run(x, visit)).cpu().numpy())

    def _worst(self) -> str:
        """The block after which the file and the evaluation have come apart the most."""
        network, model, apart = self.network, self.model, []
        for end in range(1, len(network.blocks)):
            last = model.network[end - 1]
            closing = boundary(last.precision, "fp32", last.cout, last.out_size) if last.kind != "dequantize" else ()
            weights = (*model.weights[:end], *(BlockWeights() for _ in closing))
            part = replace(model, network=(*model.network[:end], *closing), weights=weights, batch=len(self._samples))
            found = self.backend.runner(self.backend.encode(part))(self._samples)
            apart.append(difference(found, self._evaluated(replace(network, blocks=network.blocks[:end]))))
        if not apart:
            return ""
        worst = int(np.argmax(np.diff(apart, prepend=0.0)))
        return f" Most of it arises in block {worst}, {network.blocks[worst].block.key}: {apart[worst]:.1%} behind it."


class _Nudged(Shipped):
    """Maps are rounded as they are shipped, but for values that lie between two steps."""

    def sums(self, place: Place, layer: FoldedLayer, y: torch.Tensor) -> torch.Tensor:
        """All of them a little larger."""
        return y * (1 + NUDGE)


def difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The norm of the difference, as a share of the norm of what was expected."""
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-6))
