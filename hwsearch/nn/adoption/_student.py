"""A network of the user's in training: in floats, with batch norms that go by the images of each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..training._maps import Inputs, Stages, noting
from ..training._norms import normalised
from ..training._processes import ALONE, Processes
from ._folding import name_of
from ._run import execute
from ._state import get
from .rules.base import bound

_STATISTICS = ("running_mean", "running_var")


class Student(ABC):
    """A network that learns.

    Attributes:
        network: what has the parameters.
        team: the processes whose images batch norms go by.
    """

    network: nn.Module
    team: Processes = ALONE

    @abstractmethod
    def __call__(self, inputs: Inputs, stages: Stages | None = None) -> list[torch.Tensor]:
        """The outputs in training, with gradients.

        Args:
            inputs: images.
            stages: notes the feature maps on the way, by the names of operations.
        """

    @abstractmethod
    def settle(self, batches: Iterable[Inputs]) -> None:
        """Have what is no parameter follow the parameters.

        Args:
            batches: training images.
        """

    @abstractmethod
    def result(self) -> fx.GraphModule:
        """The network as it is now, as it is judged and written."""

    def kept(self) -> dict[str, torch.Tensor]:
        """The tensors that training changes, by name."""
        return dict(self.network.named_parameters())


def uses(network: fx.GraphModule) -> Counter[str]:
    """How often each tensor of a graph is read."""
    found: Counter[str] = Counter()
    for node in network.graph.find_nodes(op="get_attr"):
        found[str(node.target)] += len(node.users)
    return found


class Floating(Student):
    """A graph in floats.

    In training, batch norms go by the images of the step, as they usually do; between steps they have the statistics of thousands of
    training images. A network that was repaired has others (see :mod:`hwsearch.nn.adoption._repair`): then scales and shifts are changed
    first, so that the network computes the same by the statistics of what it really sees.

    Args:
        network: the graph; training changes it.
        frozen: names of tensors that stay as they are; batch norms that have one of them keep their statistics.
        batches: training images, for the statistics.
    """

    def __init__(self, network: fx.GraphModule, frozen: Collection[str], batches: Iterable[Inputs]) -> None:
        self.network: fx.GraphModule = network
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in frozen and parameter.is_floating_point())
        count = uses(network)
        self.norms = {node: _facts(node) for node in network.graph.nodes if _own(network, node, count, frozen)}
        self._rebase(batches)

    def __call__(self, inputs: Inputs, stages: Stages | None = None) -> list[torch.Tensor]:
        """The outputs, with batch norms that go by these images."""
        after = noting(self.network, stages)
        return execute(self.network, inputs, compute=self._normed(None), after=after, grad=torch.is_grad_enabled())

    def _normed(self, share: float | None) -> Any:
        """Computes batch norms by what they see; with a share, their statistics move towards that by it."""

        def compute(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if node not in self.norms:
                return NotImplemented
            weight, bias, mean, variance = self._tensors(node)
            if share is None:
                return normalised(args[0], weight, bias, self.norms[node]["eps"], self.team)
            return F.batch_norm(args[0], mean, variance, weight, bias, True, share, self.norms[node]["eps"])

        return compute

    def _tensors(self, node: fx.Node) -> list[torch.Tensor]:
        """Scale, shift, mean and variance of a batch norm."""
        return [get(self.network, self.norms[node][each]) for each in ("weight", "bias", *_STATISTICS)]

    def settle(self, batches: Iterable[Inputs]) -> None:
        """Give batch norms the mean statistics of these images."""
        if not self.norms:
            return
        with torch.no_grad():
            for number, inputs in enumerate(batches, start=1):
                if number == 1:
                    for node in self.norms:  # what is not a number would stay so however little it weighs
                        for each in self._tensors(node)[2:]:
                            each.zero_()
                execute(self.network, inputs, compute=self._normed(1.0 / number))

    def _rebase(self, batches: Iterable[Inputs]) -> None:
        """Give batch norms the statistics of what they see, and such scales and shifts that they compute the same as before."""
        sums: dict[fx.Node, list[Any]] = {}

        def watch(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if node in self.norms:
                x = args[0].double().transpose(0, 1).flatten(1)
                found = [x.shape[1], x.sum(1), x.square().sum(1)]
                sums[node] = [a + b for a, b in zip(sums.get(node, (0, 0.0, 0.0)), found, strict=True)]
            return NotImplemented

        if self.norms:
            for inputs in batches:
                execute(self.network, inputs, compute=watch)
        with torch.no_grad():
            for node, (count, total, squares) in sums.items():
                weight, bias, mean, variance = self._tensors(node)
                seen = total / count
                spread = (squares / count - seen.square()).clamp_min(0.0)
                eps = self.norms[node]["eps"]
                factor = weight.double() / torch.sqrt(variance.double() + eps)
                bias.add_(factor * (seen - mean.double()))
                weight.copy_(factor * torch.sqrt(spread + eps))
                mean.copy_(seen)
                variance.copy_(spread)

    def result(self) -> fx.GraphModule:
        """The network itself."""
        return self.network

    def kept(self) -> dict[str, torch.Tensor]:
        """Parameters, and the statistics of batch norms."""
        statistics = {self.norms[node][each] for node in self.norms for each in _STATISTICS}
        return super().kept() | {name: get(self.network, name) for name in sorted(statistics)}


def _facts(norm: fx.Node) -> dict[str, Any]:
    """The names of a batch norm's tensors, and the number that is added to its variance."""
    return {name: str(each.target) if isinstance(each, fx.Node) else each for name, each in bound(norm).items()}


def _own(network: fx.GraphModule, node: fx.Node, count: Counter[str], frozen: Collection[str]) -> bool:
    """Whether a node is a batch norm whose scale, shift and statistics are its own and may change."""
    if name_of(node) != "batch_norm":
        return False
    given = bound(node)
    held = [given[each] for each in ("weight", "bias", *_STATISTICS)]
    if not all(isinstance(each, fx.Node) and each.op == "get_attr" for each in held):
        return False
    names = [str(each.target) for each in held]
    learns = all(get(network, name).requires_grad for name in names[:2])
    return learns and all(count[name] == 1 and name not in frozen for name in names)
