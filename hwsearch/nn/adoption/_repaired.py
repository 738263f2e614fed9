"""The accuracy of cut networks for real: each is extracted, repaired and run on images held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..._types import Rows, Values
from ...algorithms._problem import Problem
from ...backends._load import load_backend
from ...backends.base import Backend
from ...devices._table import LatencyTable
from ...errors import InvalidInput, check_count
from ...searching.verify._verifier import Measured
from ..data._images import Data
from ..quantization._quantize import STANDARD as STANDARD_BITS
from ..quantization._quantize import Quantization
from ._adopted import Adopted
from ._evidence import Loss, cross_entropy
from ._examples import Examples, examples, opened
from ._importance import importance
from ._quantized import quantize
from ._state import digest, get

Metric = Callable[[nn.Module], float]
"""Judges a network; the more, the better."""


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How cut networks are judged, and at which of them a predictor looks.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import Probing
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32 * 36, 10)
        >>> space = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> few = Probing(importance="l1", images=32, held_out=32, widths=1, networks=10)
        >>> hwsearch.fit_predictor(space, data=torch.randn(64, 3, 8, 8), out="probed.npz", sampling=few, progress=False)
        <Predictor ... for 'Sequential': ...>

    Attributes:
        importance: tells which units matter (a name or a function, as :func:`~hwsearch.nn.adoption.importance` takes).
        images: how many images to tell importances from and to repair networks on, at most.
        held_out: how many other images to judge networks on, at most.
        metric: judges a network; the more, the better. If omitted, it is the share of images held out that a classifier gets right, or, if
            there are no targets, on which it says what the whole network says. Give your own for everything else: it is called with a
            network in evaluation mode, that takes what the adopted network takes, and returns a number.
        widths: at how many widths each gene is cut while all others are whole.
        networks: how many networks to judge in which many genes are cut at once, from 90 to 30 % of the multiply-accumulates.
        quantization: how kernels in int8 are quantised; if omitted as :func:`hwsearch.export` does for ONNX Runtime on this machine.

    Raises:
        InvalidInput: fewer than one image or width, or fewer than four networks.
    """

    importance: str | Callable[..., Any] = "reconstruction"
    images: int = 800
    held_out: int = 1000
    metric: Metric | None = None
    widths: int = 2
    networks: int = 16
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("held_out", 1), ("widths", 1), ("networks", 4)):
            check_count(name, getattr(self, name), least=least)


STANDARD = Probing()
"""Two widths a gene, 16 networks, 800 images to repair on and 1,000 to judge on."""


@dataclass(frozen=True, eq=False)
class Repaired:
    """Judges rows of an adopted network by what they are once they are extracted and repaired: a slow score.

    Attributes:
        space: the network.
        images: to repair on, one tensor for each input.
        metric: judges the repaired networks.
        targets: of the images to repair on, if there are some, for importances that look at a loss.
        label: names images and metric.
    """

    space: Adopted
    images: tuple[torch.Tensor, ...]
    metric: Metric
    label: str
    targets: torch.Tensor | None = None
    quantization: Quantization = STANDARD_BITS

    @classmethod
    def of(cls, space: Adopted, data: Examples, probing: Probing) -> Repaired:
        """Take images to repair on and others to judge on.

        Raises:
            InvalidInput: there are too few images, they do not fit, or the network is no classifier and there is no metric.
        """
        held: tuple[tuple[torch.Tensor, ...], torch.Tensor | None] | None = None
        data = opened(data, [each.shape[1:] for each in space.inputs])
        if isinstance(data, Data):
            inputs, targets = examples(space, data, probing.images)
            if probing.metric is None:
                held = examples(space, data, probing.held_out, held_out=True)
        else:
            inputs, targets = examples(space, data, probing.images + (0 if probing.metric else probing.held_out))
            if probing.metric is None:
                n = min(probing.images, len(inputs[0]) // 2)
                held = tuple(each[n:] for each in inputs), None if targets is None else targets[n:]
                inputs, targets = tuple(each[:n] for each in inputs), None if targets is None else targets[:n]
        label = digest((*inputs, *(() if held is None else (*held[0], *(() if held[1] is None else (held[1],))))))
        metric = probing.metric or Right.of(space, *held)  # type: ignore[misc]
        label = f"{label} {getattr(probing.metric, '__qualname__', 'accuracy')}"
        if "int8" not in space.precisions:
            return cls(space, inputs, metric, label, targets)
        quantization = probing.quantization or STANDARD_BITS.on(load_backend("onnxruntime"))
        return cls(space, inputs, metric, f"{label}, {quantization}", targets, quantization)

    def knowing(self, scores: dict[str, Any]) -> Repaired:
        """The same, keeping the units that matter most by these importances."""
        return replace(self, space=self.space.knowing(scores))

    def importances(self, name: Any, loss: Loss = cross_entropy) -> dict[str, Any]:
        """Importances of units, told from the images to repair on."""
        found = importance(self.space, name, self.images, self.targets, loss)
        return {group: np.asarray(found[group], dtype=np.float64) for group in self.space.places.groups}

    def __call__(self, X: Rows) -> Values:
        """The metric of rows, shape ``(n,)``."""
        return np.array([self.judge(self._made(row)) for row in X])

    def _made(self, row: Rows) -> nn.Module:
        """The network of a row, repaired and then quantised as the row says."""
        network, bits = self.space.extract(*self.space.plan(row), images=self.images), self.space.bits(row)
        return quantize(network, self.space.at_once(self.images), bits, self.quantization) if bits else network

    def judge(self, network: nn.Module) -> float:
        """The metric of a network.

        Raises:
            InvalidInput: the metric is no finite number.
        """
        with torch.no_grad():
            value = float(self.metric(network))
        if not np.isfinite(value):
            raise InvalidInput(f"The metric returned {value}; a finite number was expected.")
        return value


@dataclass(frozen=True, eq=False)
class Right:
    """The share of some images that a classifier gets right.

    Attributes:
        images: one tensor for each input.
        targets: the right classes, shape ``(n,)``.
        batch: images at once.
    """

    images: tuple[torch.Tensor, ...]
    targets: torch.Tensor
    batch: int

    @classmethod
    def of(cls, space: Adopted, images: tuple[torch.Tensor, ...], targets: torch.Tensor | None) -> Right:
        """The metric on some images; without targets, the whole network says what is right.

        Raises:
            InvalidInput: the network is no classifier.
        """
        bare = cls(space.checked(images), torch.empty(0), space.batch)
        said = bare.said(space.network)
        return replace(bare, targets=said if targets is None else targets[: len(said)])

    def said(self, network: nn.Module) -> torch.Tensor:
        """The classes that a network gives the images, shape ``(n,)``."""
        found = []
        with torch.no_grad():
            for start in range(0, len(self.images[0]), self.batch):
                outputs = network(*(each[start : start + self.batch] for each in self.images))
                first = next((each for each in torch.utils._pytree.tree_leaves(outputs) if isinstance(each, torch.Tensor)), None)
                if first is None or first.ndim != 2:
                    raise InvalidInput(
                        "The network is no classifier, with one number a class as its first output: give Probing(metric=...)."
                    )
                found.append(first.argmax(1))
        return torch.cat(found)

    def __call__(self, network: nn.Module) -> float:
        """The share."""
        return float((self.said(network) == self.targets).double().mean())


@dataclass(frozen=True)
class RepairVerifier:
    """Verifies a search in an adopted network: the best rows are extracted, repaired and judged for real, and measured if asked to.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import Probing, RepairVerifier, additive, importance
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32 * 36, 10)
        >>> space = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> problem = hwsearch.Problem.of(space, predictor=additive(space, importance(space, "l1")), limits={"params": 7000})
        >>> judge = RepairVerifier(torch.randn(64, 3, 8, 8), Probing(importance="l1", images=32, held_out=32))
        >>> verify = hwsearch.Verify(judge, networks=2, rounds=1, tolerance={"score": 0.01})
        >>> 0 <= hwsearch.search(problem, "exact", verify=verify).best_score <= 1
        True

    Attributes:
        data: as :func:`hwsearch.extract` takes it.
        probing: how many images to take, and the metric.
        backend: measures instead of the one that the device's table names.
    """

    data: Examples
    probing: Probing = STANDARD
    backend: str | Backend | None = None

    def __call__(self, problem: Problem, table: LatencyTable | None) -> _Verified:
        """For a problem and the table of this machine, ``None`` if latencies are not verified.

        Raises:
            InvalidInput: the problem's space is no adopted network.
            WrongDevice: the table was measured elsewhere, or its runtime is not here.
        """
        if not isinstance(problem.space, Adopted):
            raise InvalidInput(f"{problem.space.name!r} is no adopted network.")
        measured = None if table is None else Measured(problem.space, table, self.backend)
        found = Repaired.of(problem.space, self.data, self.probing)
        return _Verified(found if problem.space.learned else found.knowing(found.importances(self.probing.importance)), measured)


class _Verified:
    """What :class:`RepairVerifier` makes."""

    def __init__(self, repaired: Repaired, measured: Measured | None) -> None:
        self._repaired, self._measured = repaired, measured
        names = [f"repaired networks of {digest_of(repaired.space)} on {repaired.label}"]
        self.name = "; ".join([*names, *([] if measured is None else [measured.name])])

    def score(self, X: Rows) -> Values:
        """The metric of rows, shape ``(n,)``."""
        return self._repaired(X)

    def latency_ms(self, X: Rows) -> Values:
        """Milliseconds of the files of the networks, shape ``(n,)``.

        Raises:
            InvalidInput: it was made without a table.
        """
        if self._measured is None:
            raise InvalidInput("This verifier was made without the table of a device, so it cannot measure.")
        return self._measured.latency_ms(X)


def digest_of(space: Adopted) -> str:
    """A hash of a network's weights, 16 hexadecimal digits."""
    names = dict.fromkeys(str(node.target) for node in space.network.graph.find_nodes(op="get_attr"))
    return digest(tuple(get(space.network, name) for name in names))
