"""Harder digits: scikit-learn's scanned digits turned, scaled, moved and covered with noise, thousands of them.

They take no download, and small networks still get many of them wrong, so that differences between networks can be told from luck. From
the shell: ``hwsearch train resnet_digits --data examples/harder_digits.py:harder_digits``.

The 1,797 digits are split first, and varied then: no digit of the test is among those that were trained on. Images of one digit are not
independent of each other, so what is computed from the test has to know which digit an image comes from (:func:`sources`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from hwsearch.nn import ArrayData, make_data

SIDE = 16
"""Height and width of the images, px; a scanned digit has 8."""
DIGITS = {"train": 897, "val": 300, "test": 600}
"""How many of the scanned digits are for what."""
VARIANTS = {"train": 12, "val": 10, "test": 20}
"""How many images are made of each, one after the other."""


def harder_digits(seed: int | str = 0) -> ArrayData:
    """Images of 16x16 px: 10,764 to train, 3,000 to validate and 12,000 to test.

    Args:
        seed: of the split and of all variations: each seed is a task of its own. As text, too, as it comes from
            ``data=("examples/harder_digits.py:harder_digits", "3")``.
    """
    rng = np.random.default_rng([int(seed), 0xD161])
    scans, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    splits, start = {}, 0
    for split, count in DIGITS.items():
        index = np.repeat(order[start : start + count], VARIANTS[split])
        splits[split] = (varied(scans[index].reshape(-1, 1, 8, 8) / 16.0, rng), labels[index])
        start += count
    return make_data("harder-digits", splits["train"], splits["val"], splits["test"], shift=1)


def sources(split: str) -> npt.NDArray[np.int64]:
    """Which digit each image of a split was made of, shape ``(n,)``."""
    return np.repeat(np.arange(DIGITS[split]), VARIANTS[split])


def varied(scans: npt.NDArray[np.float64], rng: np.random.Generator) -> torch.Tensor:
    """Each scan turned by up to 20 degrees, 10 to 14 px wide and high, moved by up to 2 px, at 60 to 100 % contrast, under noise.

    Args:
        scans: from 0 to 1, shape ``(n, 1, 8, 8)``.
        rng: where the randomness comes from.

    Returns:
        ``uint8``, shape ``(n, 1, 16, 16)``.
    """
    n = len(scans)
    angle = rng.uniform(-math.pi / 9, math.pi / 9, n)
    scale = SIDE / rng.uniform(10, 14, (2, n))  # from canvas to scan
    cos, sin = np.cos(angle), np.sin(angle)
    moves = rng.uniform(-2, 2, (2, n)) * 2 / SIDE
    turned = np.stack([np.stack([scale[0] * cos, -scale[0] * sin], 1), np.stack([scale[1] * sin, scale[1] * cos], 1)], 1)
    moved = -np.einsum("nij,jn->ni", turned, moves)
    affine = torch.from_numpy(np.concatenate([turned, moved[..., None]], 2)).float()
    grid = F.affine_grid(affine, [n, 1, SIDE, SIDE], align_corners=False)
    drawn = F.grid_sample(torch.from_numpy(scans).float(), grid, align_corners=False).numpy()
    contrast = rng.uniform(0.6, 1.0, (n, 1, 1, 1))
    noise = rng.normal(0, 1, drawn.shape) * rng.uniform(0.05, 0.2, (n, 1, 1, 1))
    return torch.from_numpy(np.rint(255 * np.clip(0.2 + 0.8 * contrast * drawn + noise, 0, 1)).astype(np.uint8))
