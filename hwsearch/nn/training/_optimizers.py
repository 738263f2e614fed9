"""Optimisers and schedules of the learning rate by name: hwsearch's own, and any of torch's."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.optim import SGD, Optimizer, lr_scheduler

from ...errors import InvalidInput, UnknownName

OURS: dict[str, Callable[[int, int], float]] = {
    "cosine": lambda step, steps: 0.5 * (1 + math.cos(math.pi * step / steps)),
    "linear": lambda step, steps: 1.0 - step / steps,
    "constant": lambda step, steps: 1.0,
}
"""Schedules by name: from a step after the warm-up, out of how many, to the part of the highest learning rate."""
_UNFIT = ("Optimizer", "LBFGS", "SparseAdam", "LRScheduler", "_LRScheduler", "ReduceLROnPlateau")
"""They want more than gradients and the number of the step."""


def known_optimizers() -> dict[str, type[Optimizer]]:
    """The optimisers of torch by their names in small letters; ``"sgd"`` is that of hwsearch, with Nesterov momentum."""
    return {name.lower(): kind for name, kind in _classes(torch.optim, Optimizer).items()}


def known_schedules() -> dict[str, type[Any]]:
    """The schedules of torch by their names."""
    return _classes(lr_scheduler, lr_scheduler.LRScheduler)


def _classes(module: Any, base: type[Any]) -> dict[str, type[Any]]:
    return {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, base) and name not in _UNFIT and not name.startswith("_")
    }


def make_optimizer(
    name: str, groups: Sequence[Mapping[str, Any]], learning_rate: float, momentum: float, options: Mapping[str, Any]
) -> Optimizer:
    """An optimiser.

    Args:
        name: ``"sgd"``, or the name of one of torch in small or capital letters.
        groups: parameters with their weight decay.
        learning_rate: to begin with.
        momentum: of ``"sgd"``.
        options: what else it takes.

    Raises:
        UnknownName: torch has none of that name.
        InvalidInput: it does not take these options.
    """
    parameters: list[dict[str, Any]] = [dict(group) for group in groups]
    if name == "sgd":
        options = {"momentum": momentum, "nesterov": momentum > 0, **options}
    known: dict[str, type[Any]] = {**known_optimizers(), "sgd": SGD}
    if name.lower() not in known:
        raise UnknownName("optimizer", name, known)
    try:
        made: Optimizer = known[name.lower()](parameters, lr=learning_rate, **options)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"The optimizer {name!r} does not take {dict(options)}: {error}.") from error
    return made


def rate_of(name: str, options: Mapping[str, Any], step: int, steps: int) -> float:
    """The part of the highest learning rate that a schedule has at a step after the warm-up.

    Args:
        name: one of :data:`OURS`, or of torch.
        options: what a schedule of torch takes; it counts steps, not epochs.
        step, steps: which step, out of how many.
    """
    if name in OURS:
        return OURS[name](step, steps)
    return _rates(name, json.dumps(dict(options), sort_keys=True), max(steps, step + 1))[step]


def check_schedule(name: str, options: Mapping[str, Any]) -> None:
    """Check that there is such a schedule and that it takes its options.

    Raises:
        UnknownName: there is none of that name.
        InvalidInput: it does not take these options.
    """
    if name not in OURS and name not in known_schedules():
        raise UnknownName("schedule", name, [*OURS, *known_schedules()])
    if name in OURS and options:
        raise InvalidInput(f"The schedule {name!r} takes no options, and {dict(options)} were given.")
    rate_of(name, options, 0, 1)


@lru_cache(maxsize=16)
def _rates(name: str, options: str, steps: int) -> tuple[float, ...]:
    """The rates of a schedule of torch, by playing it through."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    try:
        schedule: Any = known_schedules()[name](optimizer, **json.loads(options))
        rates = []
        for _ in range(steps):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            schedule.step()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"The schedule {name!r} does not take {options}: {error}.") from error
    return tuple(rates)


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A loss of the user's: from logits, shape ``(n, classes)``, and labels, shape ``(n,)``, to one number."""
