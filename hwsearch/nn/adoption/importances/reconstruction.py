"""Which units a network can do without once their readers have been fitted anew: backward elimination in closed form.

A reader that is fitted by least squares makes up for a removed channel with the others, so that only the part of the channel that the
others do not determine is lost. What that part is worth is told by the derivatives at the reader's input. Of the channels ``x`` of a group
(with a constant beside them) let ``H`` be the inverse of their second moments, and ``F`` the second moments of the derivatives. Removing
unit ``u`` leaves a residual of covariance ``inv(H_uu)``, and costs ``trace(inv(H_uu) F_uu)``; the others then stand for it, which changes
``H`` and ``F`` by a term of the rank of the unit (Hassibi and Stork, Optimal brain surgeon, 1993; Wang et al., EigenDamage, 2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .._axes import Labels
from .._evidence import Evidence, Read, Scores
from .._groups import Group

_RIDGE = 1e-3
"""Added to the channels' second moments, relative to their mean, so that they can be inverted."""
_LARGEST = 1024
"""Channels beyond which those of a group are taken for independent of each other, since time goes with the cube."""


def score(evidence: Evidence) -> Scores:
    """Expected squared change of the network's outputs when a unit is removed and its readers are fitted anew; needs no labels.

    The units of a group are removed one after the other, the cheapest first. A unit's score is what its removal costs after all with less
    have gone, so that the sum of the scores of those that are removed is what is lost.
    """
    images = 0
    places = {unit: (group, place) for group in evidence.groups for place, unit in enumerate(group.units.tolist())}
    readings: dict[tuple[str, str, str], Reading] = {}
    for n, reads in evidence.of_outputs().reads():
        images += n
        for read in reads:
            for group, channels in _channels(read, places):
                key = (group.id, read.reader, read.node)
                readings.setdefault(key, Reading(group.width, channels)).add(read, channels)
    scores = {}
    for group in evidence.groups:
        mine = [reading for (name, *_), reading in readings.items() if name == group.id]
        scores[group.id] = eliminate(group.width, mine, images)
    return scores


def _channels(read: Read, places: dict[int, tuple[Group, int]]) -> list[tuple[Group, list[list[int]]]]:
    """For each group on the axis of a tensor, the channels of each of its units."""
    found: dict[str, tuple[Group, list[list[int]]]] = {}
    for channel, unit in enumerate(read.units.tolist()):
        if unit in places:
            group, place = places[unit]
            found.setdefault(group.id, (group, [[] for _ in range(group.width)]))[1][place].append(channel)
    return list(found.values())


class Reading:
    """Second moments at one place where a group is read.

    Attributes:
        moments: of the channels and of a constant, shape ``(d + 1, d + 1)``.
        slopes: of the derivatives, with zeros for the constant, of the same shape.
        units: the unit of each channel, shape ``(d,)``.
        n: how many positions.
    """

    def __init__(self, width: int, channels: list[list[int]]) -> None:
        self.units = np.repeat(np.arange(width), [len(each) for each in channels])
        self.large = len(self.units) > _LARGEST
        self.moments: Any = 0.0
        self.slopes: Any = 0.0
        self.n = 0

    def add(self, read: Read, channels: list[list[int]]) -> None:
        """Add the images of one batch."""
        order = torch.tensor([channel for each in channels for channel in each])
        value, slope = (each.movedim(read.dim, -1).reshape(-1, each.shape[read.dim])[:, order] for each in (read.value, read.slope))
        one = torch.ones(len(value), 1, dtype=value.dtype)
        value, slope = torch.cat([value, one], 1), torch.cat([slope, 0 * one], 1)
        self.moments = self.moments + self._products(value)
        self.slopes = self.slopes + self._products(slope)
        self.n += len(value)

    def _products(self, x: torch.Tensor) -> torch.Tensor:
        return x.double().square().sum(0) if self.large else (x.T @ x).double()

    def costs(self, width: int, images: int) -> Any:
        """Of each unit alone, where channels are taken for independent; shape ``(width,)``."""
        return np.bincount(self.units, (self.moments * self.slopes)[:-1].numpy() / self.n / images, minlength=width)

    def state(self, images: int) -> tuple[torch.Tensor, torch.Tensor, Labels]:
        """The inverse of the channels' moments, the derivatives' moments of one image, and the unit of each channel."""
        moments = self.moments / self.n
        moments.diagonal()[:-1].add_(_RIDGE * moments.diagonal()[:-1].mean().clamp_min(1e-30))
        return torch.linalg.inv(moments), self.slopes / images, self.units


def eliminate(width: int, readings: list[Reading], images: int) -> Any:
    """Remove one unit after the other, each time the one that costs least, and return what each costs, shape ``(width,)``."""
    left = np.zeros(width, dtype=bool)
    left[np.concatenate([np.empty(0, dtype=np.int64), *(reading.units for reading in readings)])] = True
    states = [reading.state(images) for reading in readings if not reading.large]
    alone = sum((reading.costs(width, images) for reading in readings if reading.large), np.zeros(width))
    order, costs = [], []
    while left.any():
        cost = alone.copy()
        for inverse, slopes, units in states:
            cost += _costs(inverse, slopes, units, left)
        unit = int(np.argmin(np.where(left, cost, np.inf)))
        left[unit] = False
        order.append(unit)
        costs.append(float(cost[unit]))
        for inverse, slopes, units in states:
            _remove(inverse, slopes, torch.from_numpy(np.flatnonzero(units == unit)))
    scores = np.zeros(width)
    scores[order] = convex(costs)
    return scores


def _costs(inverse: torch.Tensor, slopes: torch.Tensor, units: Labels, left: Any) -> Any:
    cost = np.zeros(len(left))
    channels = np.flatnonzero(left[units])
    if not len(channels):
        return cost
    each = np.bincount(units[channels]).max()
    if each == 1:
        cost[units[channels]] = (slopes.diagonal() / inverse.diagonal().clamp_min(1e-30))[torch.from_numpy(channels)].numpy()
        return cost
    for unit in np.unique(units[channels]):
        mine = torch.from_numpy(np.flatnonzero(units == unit))
        cost[unit] = float(torch.linalg.solve(inverse[mine][:, mine], slopes[mine][:, mine]).trace())
    return cost


def _remove(inverse: torch.Tensor, slopes: torch.Tensor, gone: torch.Tensor) -> None:
    """Let the other channels stand for some that are removed; in place."""
    if not len(gone):
        return
    stand = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
    inverse -= inverse[:, gone] @ stand
    inverse[gone], inverse[:, gone] = 0.0, 0.0
    across = slopes[:, gone] @ stand
    slopes += stand.T @ slopes[gone][:, gone] @ stand - across - across.T


def convex(costs: list[float]) -> Any:
    """Costs in the order of removal, made to rise strictly: neighbours out of order share their mean (the lower convex hull of the sum)."""
    runs: list[tuple[float, int]] = []
    for cost in costs:
        runs.append((cost, 1))
        while len(runs) > 1 and runs[-2][0] >= runs[-1][0]:
            (a, m), (b, n) = runs[-2:]
            runs[-2:] = [((a * m + b * n) / (m + n), m + n)]
    flat = np.concatenate([np.full(n, mean) for mean, n in runs]) if runs else np.empty(0)
    return np.maximum(flat, 0.0) + np.arange(1, len(flat) + 1) * 1e-9 * max(1e-30, float(flat.max(initial=0.0)))
