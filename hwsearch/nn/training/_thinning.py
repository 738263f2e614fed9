"""Thinning: weights become zero while a network learns, as the recipe's sparsity says, and stay zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..pruning._layers import layers_of
from ..pruning._sparsity import Sparsity

_PREFIX = "stays."
MOVED = "movement"
"""What the optimiser's state is called that holds how training has moved a weight away from zero."""


class Thinning:
    """The zeros of a training.

    Args:
        sparsity: how many and which; ``None`` for none.
        network: what learns.
        optimizer: whose state holds how its weights have moved.

    Raises:
        InvalidInput: nothing of the network consists of such units.

    Attributes:
        masks: which weights stay, by the names of parameters; a weight that merely is zero may change.
    """

    def __init__(self, sparsity: Sparsity | None, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._sparsity, self._optimizer = sparsity, optimizer
        self._weights: dict[str, nn.Parameter] = {}
        self._share: float | None = None
        self.masks: dict[str, torch.Tensor] = {}
        self._moves: dict[str, torch.Tensor] = {}
        if sparsity is not None:
            chosen = layers_of(network) if sparsity.hold else sparsity.of(network)
            self._weights = {name: each for name, each in chosen.items() if each.requires_grad}

    @property
    def named(self) -> dict[str, torch.Tensor]:
        """The masks under the names that they have in a file."""
        return {f"{_PREFIX}{name}": each for name, each in self.masks.items()}

    def read(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over the masks of a training that was stopped; ``tensors`` are all of its file."""
        found = {name: tensors[f"{_PREFIX}{name}"] for name in self._weights if f"{_PREFIX}{name}" in tensors}
        self.masks = {name: each.to(self._weights[name].device) for name, each in found.items()}

    def settled(self, step: int, steps: int) -> bool:
        """Whether the whole share is zero, so that the network can be judged."""
        return self._sparsity is None or self._sparsity.hold or step == steps or step > self._sparsity.last(steps)

    @torch.no_grad()
    def before(self, step: int, steps: int) -> None:
        """Before the weights change: make more of them zero if it is time to, and note which are."""
        if self._sparsity is None or not self._weights:
            return
        if self._sparsity.hold:
            self.masks = self.masks or {name: each != 0 for name, each in self._weights.items()}
            return
        share = self._sparsity.reached(step, steps)
        if share != self._share:  # or nothing is known of it yet, since a training goes on: then this changes nothing
            moved = None
            if self._sparsity.by == "movement":
                moved = {name: self._moved(each) for name, each in self._weights.items()}
            self.masks = self._sparsity.masks(self._weights, share, moved, self.masks)
            for name, mask in self.masks.items():
                self._weights[name].mul_(mask)
            self._share = share
        if self._sparsity.by == "movement":
            self._moves = {name: -each * each.grad for name, each in self._weights.items() if each.grad is not None}

    @torch.no_grad()
    def after(self, averages: Mapping[str, torch.Tensor]) -> None:
        """After the weights have changed: what was zero is zero again, in their averages too."""
        for name, mask in self.masks.items():
            self._weights[name].mul_(mask)
            if name in averages:
                averages[name].mul_(mask)
        for name, step in self._moves.items():
            weight = self._weights[name]
            self._optimizer.state[weight][MOVED] = self._moved(weight) + step

    def _moved(self, weight: nn.Parameter) -> torch.Tensor:
        found = self._optimizer.state[weight].get(MOVED)
        return torch.zeros_like(weight) if found is None else found
