"""Sparsity: which share of the weights is zero, in which pattern, and how it grows while a network learns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ...errors import InvalidInput, UnknownName, check_count
from ._layers import layers_of
from ._masks import fits, lowest, lowest_of_each, pattern, spread_out, units_of
from ._spread import SPREADS, counts

SCORES = ("magnitude", "movement")
"""Weights matter by their magnitude, or by how training moves them away from zero: minus the sum over steps of weight times gradient (Sanh
et al., NeurIPS'20)."""
_RISES = 20
"""In at least about this number of steps the share rises, if the training is long enough."""
_LEAST = 1e-30
"""The score of the unit that matters least of those that are not zero already."""


@dataclass(frozen=True)
class Sparsity:
    """Which share of a network's weights is zero, and how that share grows while it learns.

    The share rises from 0 at ``begin`` to ``share`` at ``end`` as a cubic, fast at first and slow at last: ``share * (1 - (1 - t)**3)``
    (Zhu and Gupta, 2017, equation 1). With ``begin == end`` all of it is zero at once. What became zero stays zero, and of every layer at
    least one unit stays. What does not consist of several such units, such as 1x1 convolutions for rows of kernels, stays dense, as does
    everything but the weights of convolutions and linear layers. By filter the last layer stays dense too, since its filters are outputs.

    Attributes:
        share: of the units that are zero in the end, at least 0 and below 1; of ``"N:M"`` it is (M - N) / M, whatever is said.
        unit: what is zero together, one of :data:`hwsearch.nn.pruning.UNITS` or ``"N:M"``.
        spread: how the zeros are spread over layers, one of :data:`hwsearch.nn.pruning.SPREADS`; of ``"N:M"`` every layer has its own.
        by: what says how much a weight matters: ``"magnitude"`` or ``"movement"``; a unit matters as the mean of its weights. LAMP compares
            magnitudes only.
        begin, end: when the share begins to rise and when it is reached, as shares of the training.
        every: steps from one rise to the next; fewer in a short training, so that there are about 20 rises.
        dense: names, or patterns with ``*``, of parameters that stay dense, such as ``("*linear*",)``.
        hold: only keep the weights zero that are zero already, and make no others zero, for the tuning of a network that was pruned; then
            nothing else of this matters.

    Raises:
        InvalidInput: numbers that make no sense.
        UnknownName: there is no such unit, spread or score.

    Example:
        >>> from hwsearch.nn.pruning import Sparsity
        >>> [round(Sparsity(0.8, begin=0.0, end=0.5).at(step, 100), 3) for step in (0, 25, 50, 99)]
        [0.0, 0.7, 0.8, 0.8]
    """

    share: float = 0.5
    unit: str = "weight"
    spread: str = "layer"
    by: str = "magnitude"
    begin: float = 0.0
    end: float = 0.6
    every: int = 100
    dense: tuple[str, ...] = ()
    hold: bool = False

    def __post_init__(self) -> None:
        found = pattern(self.unit)
        if found is not None:
            object.__setattr__(self, "share", 1 - found[0] / found[1])
        for what, name, known in (("spread of sparsity", self.spread, SPREADS), ("score of sparsity", self.by, SCORES)):
            if name not in known:
                raise UnknownName(what, name, known)
        if not 0 <= self.share < 1:
            raise InvalidInput(f"share of a sparsity must be at least 0 and below 1, not {self.share}.")
        if not 0 <= self.begin <= self.end <= 1:
            raise InvalidInput(f"A sparsity begins and ends between 0 and 1, in this order, not at {self.begin} and {self.end}.")
        if self.by == "movement" and self.end == 0:
            raise InvalidInput("Before the first step nothing has moved: a sparsity by movement needs an end above 0.")
        if self.by == "movement" and self.spread == "lamp":
            raise InvalidInput("LAMP compares squares of magnitudes, which movements do not have: take the spread 'global' or 'layer'.")
        check_count("every", self.every, least=1)

    @classmethod
    def parse(cls, text: str) -> Sparsity:
        """Read a sparsity as the shell has it: ``"0.69"``, or ``"share:0.69,unit:filter,spread:lamp,begin:0,end:0.6"``.

        Args:
            text: the share, or fields with their values; names of ``dense`` stand with ``+`` between them.

        Raises:
            InvalidInput: a value that makes no sense.
            UnknownName: there is no such field.

        Example:
            >>> from hwsearch.nn.pruning import Sparsity
            >>> Sparsity.parse("unit:2:4,end:0.5").share
            0.5
        """
        kinds: dict[str, Callable[[str], Any]] = {"share": float, "begin": float, "end": float, "every": int, "unit": str, "spread": str}
        kinds |= {"by": str, "dense": lambda names: tuple(names.split("+")), "hold": lambda told: {"true": True, "false": False}[told]}
        given = {}
        for part in (text if ":" in text else f"share:{text}").split(","):
            name, _, value = part.partition(":")
            if name not in kinds:
                raise UnknownName("field of a sparsity", name, kinds)
            try:
                given[name] = kinds[name](value)
            except (ValueError, KeyError) as error:
                raise InvalidInput(f"{name} of a sparsity cannot be {value!r}; such as share:0.69,unit:filter,end:0.6.") from error
        return cls(**given)

    def at(self, step: int, steps: int) -> float:
        """The share that is zero after a number of steps out of ``steps``."""
        first, last = self.begin * steps, self.last(steps)
        if step >= last:
            return self.share
        if step < first:
            return 0.0
        return float(self.share * (1 - (1 - (step - first) / (last - first)) ** 3))

    def last(self, steps: int) -> int:
        """The step in which the whole share is zero."""
        return max(0, min(round(self.end * steps), steps - 1))

    def reached(self, step: int, steps: int) -> float:
        """The share that is zero in a step: that of the last rise, of which there is one every ``every`` steps."""
        first, last = round(self.begin * steps), self.last(steps)
        if step < first or step >= last:
            return self.at(step, steps)
        every = max(1, min(self.every, (last - first) // _RISES))
        return self.at(step - (step - first) % every, steps)

    def masks(
        self,
        weights: Mapping[str, torch.Tensor],
        share: float | None = None,
        scores: Mapping[str, torch.Tensor] | None = None,
        before: Mapping[str, torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Which weights stay.

        Args:
            weights: of layers, by name, shape ``(cout, cin)`` or ``(cout, cin, height, width)``.
            share: of the units that are zero; the final one if omitted.
            scores: how much each weight matters, shaped like the weights; their magnitude if omitted.
            before: which weights stayed so far: those that did not are the first to go. If omitted, those that are not zero.

        Returns:
            Booleans shaped like the weights, for each layer that consists of such units.
        """
        share = self.share if share is None else share
        chosen = {name: each.detach() for name, each in weights.items() if self.takes(name, each)}
        matter = self._ranked(chosen, scores, before or {name: each != 0 for name, each in chosen.items()})
        found = pattern(self.unit)
        if found is not None:
            kept = {name: lowest_of_each(each, round(share * found[1])) for name, each in matter.items()}
        else:
            gone = counts(matter, {name: tuple(each.shape) for name, each in chosen.items()}, share, self.spread)
            kept = {name: lowest(each, gone[name]) for name, each in matter.items()}
        return {name: spread_out(kept[name], each, self.unit) for name, each in chosen.items()}

    def _ranked(
        self, chosen: Mapping[str, torch.Tensor], scores: Mapping[str, torch.Tensor] | None, there: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """How much each unit matters, comparable over layers: 0 if none of it is there, above 0 otherwise."""
        given = {name: each.abs() if scores is None else scores[name].detach() for name, each in chosen.items()}
        found = {name: units_of(each.double(), self.unit) for name, each in given.items()}
        if scores is not None and found:  # some are below 0
            least, most = min(float(each.min()) for each in found.values()), max(float(each.max()) for each in found.values())
            found = {name: each - least + 1e-12 * (most - least) for name, each in found.items()}
        alive = {name: units_of(there[name].double(), self.unit) > 0 for name in found}
        return {name: torch.where(alive[name], each + _LEAST, torch.zeros_like(each)) for name, each in found.items()}

    def of(self, network: nn.Module) -> dict[str, nn.Parameter]:
        """The weights of a network that become sparse, by the names of parameters.

        Raises:
            InvalidInput: no layer consists of several such units.
        """
        layers = layers_of(network)
        inner = [*layers][:-1] if self.unit == "filter" else [*layers]
        chosen = {name: layers[name] for name in inner if self.takes(name, layers[name])}
        if not chosen:
            raise InvalidInput(f"No layer of the network, but those that stay dense, consists of several units of the kind {self.unit!r}.")
        return chosen

    def takes(self, name: str, weight: torch.Tensor) -> bool:
        """Whether the weights of a layer become sparse."""
        return weight.is_floating_point() and fits(weight, self.unit) and not any(fnmatchcase(name, each) for each in self.dense)


def prune(network: nn.Module, sparsity: Sparsity) -> dict[str, torch.Tensor]:
    """Make weights of a network zero, at once and in place.

    Args:
        network: any module.
        sparsity: how many and which; its schedule does not matter.

    Returns:
        Which weights stay, by the names of parameters.

    Raises:
        InvalidInput: it is by movement, which only training knows, or only holds zeros; or nothing of the network consists of such units.

    Example:
        >>> import torch
        >>> from hwsearch.nn.pruning import Sparsity, prune, sparsity_of
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 8, 3))
        >>> masks = prune(network, Sparsity(0.75, spread="global"))
        >>> round(sparsity_of(network), 3)
        0.75
    """
    if sparsity.by == "movement":
        raise InvalidInput("How weights move is known while a network learns only: give the sparsity to the recipe of a training.")
    if sparsity.hold:
        raise InvalidInput("A sparsity that holds zeros makes none: give it to the recipe of a training, or leave out hold.")
    weights = sparsity.of(network)
    masks = sparsity.masks(weights)
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].mul_(mask)
    return masks


def sparsity_of(network: nn.Module | Iterable[torch.Tensor]) -> float:
    """The share of zeros among the weights of convolutions and linear layers: of a network, or of these weights.

    Example:
        >>> import torch
        >>> from hwsearch.nn.pruning import Sparsity, prune, sparsity_of
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Linear(8, 8))
        >>> masks = prune(network, Sparsity(0.5))
        >>> sparsity_of(network), {name: int(mask.sum()) for name, mask in masks.items()}
        (0.5, {'0.weight': 144, '1.weight': 32})
    """
    given = layers_of(network).values() if isinstance(network, nn.Module) else network
    weights = [each for each in given if each.ndim > 1]
    return sum(int((each == 0).sum()) for each in weights) / max(1, sum(each.numel() for each in weights))
