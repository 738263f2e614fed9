"""Guaranteed: the reward of AMC for networks that lose no accuracy, as a score for any algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .._types import Rows, Score, Values
from ..costs._metrics import Metric
from ..errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Guaranteed:
    """The score ``-error x log(cost)`` (AMC, He et al., ECCV'18): small networks that lose hardly any accuracy, without a limit.

    The error weighs far more than the cost, of which only the logarithm counts; so what is found is about as accurate as the whole network
    and much cheaper.

    Args:
        accuracy: rows -> accuracy as a share from 0 to 1, such as a predictor.
        metric: the cost, above 1 of every network; such as ``hwsearch.metric("params", space)``.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import Guaranteed, Problem
        >>> space = hwsearch.load_space("resnet_digits")
        >>> score = Guaranteed(lambda X: 0.9 + 0.001 * X.mean(axis=1), hwsearch.metric("params", space))
        >>> problem = Problem.of(space, predictor=score)
    """

    accuracy: Score = field(repr=False)
    metric: Metric

    def __call__(self, X: Rows) -> Values:
        """Scores, shape ``(n,)``.

        Raises:
            InvalidInput: an accuracy that is no share, or a cost of at most 1, whose logarithm is no cost.
        """
        right, cost = np.asarray(self.accuracy(X), dtype=np.float64), self.metric(X)
        if ((right < 0) | (right > 1)).any():
            raise InvalidInput("Guaranteed needs accuracies from 0 to 1; divide percentages by 100.")
        if (cost <= 1).any():
            raise InvalidInput(
                f"Guaranteed needs costs above 1, and a network has {self.metric.name} = {cost.min():.4g}. Use a smaller unit."
            )
        return -(1.0 - right) * np.log(cost)
