"""How much each unit of each group matters, and which units to keep then.

An importance is a function of :class:`Evidence` that returns, for each searchable group, an array of shape ``(width,)``: the more, the
more important. What is removed is meant to be additive, so that scores of different groups can be weighed against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import fx

from ..._registry import find
from ...errors import InvalidInput
from ._axes import Labels
from ._evidence import Evidence, Loss, Scores, cross_entropy

if TYPE_CHECKING:
    from ._adopted import Adopted
    from ._cut import Cut

Importance = Callable[[Evidence], Scores]


def importance(
    adopted: Adopted,
    name: str | Importance,
    images: torch.Tensor | tuple[torch.Tensor, ...] | None = None,
    targets: torch.Tensor | None = None,
    loss: Loss = cross_entropy,
    cut: tuple[Cut, fx.GraphModule] | None = None,
    widths: Mapping[str, int] | None = None,
) -> Scores:
    """The importance of each unit of each searchable group, shape ``(width,)``.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import importance
        >>> first, last = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3)
        >>> _ = torch.nn.init.zeros_(first.weight[0]), torch.nn.init.zeros_(first.bias)
        >>> adopted = hwsearch.adopt(torch.nn.Sequential(first, torch.nn.ReLU(), last), torch.randn(1, 3, 8, 8))
        >>> {group: int(scores.argmin()) for group, scores in importance(adopted, "l1").items()}  # the unit that matters least
        {'g0': 0}

    Args:
        adopted: the network.
        name: of an importance, for example ``"l1"`` or ``"taylor"``, or a function of your own.
        images: example inputs, for an importance that looks at data; of a network of one batch size, as many as whole batches take.
        targets: one for each image.
        loss: of the outputs and the targets of some images, summed over them.
        cut: what was cut already, and the repaired network: an importance that looks at data then looks at that one, and gives 0 to what
            is gone.
        widths: how many units of each group will stay, for ``"lasso"``, which chooses for a number: these score highest.

    Raises:
        InvalidInput: the importance needs images or targets that are not given, or the images do not fit.
        UnknownName: there is no importance of that name.
    """
    score: Importance = find("importance", name) if isinstance(name, str) else name
    if images is not None:
        images = adopted.checked(images)
        targets = targets if targets is None or adopted.dynamic else targets[: len(images[0])]
    batch = Evidence.batch if adopted.dynamic else adopted.batch
    return score(Evidence(adopted, images, targets, loss, batch, cut, widths))


def allocate(adopted: Adopted, scores: Scores, macs: float, order: Scores | None = None) -> dict[str, Labels]:
    """The units to keep so that few enough multiply-accumulates are left and little importance is lost.

    One unit after the other is removed, each time the one whose importance is the least for the multiply-accumulates that it saves.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import allocate, importance
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> adopted = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> kept = allocate(adopted, importance(adopted, "l1"), macs=0.5 * adopted.macs())
        >>> {group: len(units) for group, units in kept.items()}
        {'g0': 16}

    Args:
        adopted: the network.
        scores: importance of each unit; groups that are not there keep all.
        macs: the most multiply-accumulates for one image.
        order: another importance, which says which units of a group go first, while ``scores`` says only how much the first, the second and
            so on cost: how many a group can lose and which ones are two questions. If omitted, ``scores`` answers both.

    Raises:
        InvalidInput: the network cannot be made so small.
    """
    first = {name: np.argsort(values if order is None else order[name], kind="stable") for name, values in scores.items()}
    costs = {name: np.sort(values) for name, values in scores.items()}
    kept = adopted.widths
    touched = {name: [kernel for kernel in adopted.kernels if name in kernel.groups] for name in costs}
    left = adopted.macs()

    def gain(name: str) -> tuple[float, float]:
        """What removing the next unit of a group costs for each multiply-accumulate, and how many it saves."""
        removed = len(costs[name]) - kept[name]
        fewer = kept | {name: kept[name] - 1}
        saved = sum(kernel.macs(kept) - kernel.macs(fewer) for kernel in touched[name])
        return float(costs[name][removed]) / max(saved, 1e-9), saved

    gains = {name: gain(name) for name in costs if kept[name] > 1}
    while left > macs:
        if not gains:
            raise InvalidInput(f"The network has {left:.4g} multiply-accumulates at least; {macs:.4g} cannot be reached.")
        name = min(gains, key=lambda each: gains[each][0])
        left -= gains[name][1]
        kept[name] -= 1
        mine = set(map(id, touched[name]))
        for other in list(gains):
            if other == name or any(id(kernel) in mine for kernel in touched[other]):
                gains[other] = gain(other) if kept[other] > 1 else (float("inf"), 0.0)
        gains = {other: found for other, found in gains.items() if kept[other] > 1}
    return {name: np.sort(units[len(units) - kept[name] :]) for name, units in first.items()}
