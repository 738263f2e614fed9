"""Images of a batch mixed in pairs, and their labels with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..data._vision import import_transforms
from ._recipe import Recipe


def blended(recipe: Recipe, classes: int, x: torch.Tensor, y: torch.Tensor, drawn: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup or cutmix, if the recipe has them; a coin decides where it has both.

    Args:
        recipe: what it has.
        classes: how many there are.
        x: images, shape ``(n, channels, h, w)``.
        y: labels, shape ``(n,)``.
        drawn: what seeds the coin and the shares.

    Returns:
        The images, and the share of each class, shape ``(n, classes)``; images and labels as they are where the recipe has neither.
    """
    ways = [(name, alpha) for name, alpha in (("MixUp", recipe.mixup), ("CutMix", recipe.cutmix)) if alpha]
    if not ways:
        return x, y
    state = np.random.SeedSequence(drawn).generate_state(2)
    name, alpha = ways[int(state[0]) % len(ways)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(state[1]))
        mix: Callable[..., tuple[torch.Tensor, torch.Tensor]] = getattr(import_transforms(), name)(alpha=alpha, num_classes=classes)
        mixed = mix(x, y)
    return mixed
