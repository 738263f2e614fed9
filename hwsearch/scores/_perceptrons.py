"""A linear model with perceptrons on top: the model of predictors that knows its gradient, and that can be built upon another one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .._types import Features, Values
from ..errors import CorruptFile, require
from ._inputs import Reading

Arrays = dict[str, npt.NDArray[Any]]
Layers = tuple[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]], ...]

_FREE = 30.0
"""An input this large is hardly held back by a ridge regression."""
_PARTS = 5
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


@dataclass(frozen=True, eq=False)
class Examples:
    """Networks with their scores, as models are fitted to them.

    Attributes:
        features: one-hot rows, and perhaps further features, shape ``(n, features)``.
        y: standardised scores, shape ``(n,)``.
        reading: turns features into what models read.
        seed: of everything random.
    """

    features: Features
    y: Values
    reading: Reading
    seed: int


@dataclass(frozen=True, eq=False)
class Perceptrons:
    """A linear model plus the mean of an ensemble of perceptrons.

    Attributes:
        linear: weights of the features and, last, the intercept, shape ``(features + 1,)``.
        members: a stack of layers ``(weight (in, out), bias (out,))`` with ReLUs between, for each member; none makes it linear.
    """

    kind: ClassVar[str] = "mlp"
    linear: npt.NDArray[np.float32] = field(repr=False)
    members: tuple[Layers, ...] = field(repr=False, default=())

    def each(self, features: Features) -> Values:
        """As :meth:`Model.each`."""
        outputs = np.empty((max(1, len(self.members)), len(features)))
        outputs[:] = features @ self.linear[:-1] + self.linear[-1]
        for output, layers in zip(outputs, self.members, strict=False):
            output += self._hidden(layers, features)[-1][:, 0]
        return outputs

    def gradient(self, features: Features) -> Features:
        """The derivatives of the mean over the members by the features, shape ``(n, features)``."""
        total = np.zeros(features.shape, dtype=np.float32)
        for layers in self.members:
            hidden = self._hidden(layers, features)
            slope = np.ones_like(hidden[-1])
            for depth in reversed(range(len(layers))):
                slope = slope @ layers[depth][0].T
                if depth:
                    slope *= hidden[depth - 1] > 0
            total += slope
        total /= max(1, len(self.members))
        total += self.linear[:-1]
        return total

    @staticmethod
    def _hidden(layers: Layers, features: Features) -> list[Features]:
        """What each layer gives, after its ReLU."""
        found, hidden = [], features
        for depth, (weight, bias) in enumerate(layers):
            hidden = hidden @ weight
            hidden += bias
            if depth < len(layers) - 1:
                np.maximum(hidden, 0.0, out=hidden)
            found.append(hidden)
        return found

    def arrays(self) -> Arrays:
        """As :meth:`Model.arrays`."""
        found: Arrays = {"linear": self.linear}
        for number, layers in enumerate(self.members):
            for depth, (weight, bias) in enumerate(layers):
                found[f"member{number}.weight{depth}"] = weight
                found[f"member{number}.bias{depth}"] = bias
        return found

    @classmethod
    def read(cls, arrays: Mapping[str, npt.NDArray[Any]], features: int) -> Perceptrons:
        """The model of :meth:`arrays`, for that number of features.

        Raises:
            CorruptFile: the layers do not fit together.
            KeyError: one is missing.
        """
        members: list[Layers] = []
        while f"member{len(members)}.weight0" in arrays:
            prefix = f"member{len(members)}."
            depth = sum(name.startswith(f"{prefix}weight") for name in arrays)
            members.append(tuple((arrays[f"{prefix}weight{d}"], arrays[f"{prefix}bias{d}"]) for d in range(depth)))
        linear = arrays["linear"]
        for layers in (((linear[:-1, None], linear[-1:]),), *members):
            width = features
            for weight, bias in layers:
                if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                    raise CorruptFile(f"a layer has the shape {weight.shape}, but {width} inputs were expected")
                width = weight.shape[1]
        return cls(linear, tuple(members))

    @classmethod
    def fit(
        cls,
        examples: Examples,
        hidden: Sequence[int] = (64, 64),
        members: int = 5,
        base: Perceptrons | None = None,
        units: tuple[Features, Features, Features] | None = None,
    ) -> Perceptrons:
        """A ridge regression, and perceptrons fitted to what it leaves, each without a part of the networks, on which it is judged.

        The prediction of a base is one more input of the ridge regression, whose weight is hardly held back. The result is then mixed with
        the base alone, in the share that orders most pairs of unseen networks correctly: few networks can do more harm than good.

        Args:
            examples: what is fitted.
            hidden: widths of their hidden layers.
            members: how many; 0 gives a linear model.
            base: what was learned from other scores of the space.
            units: a layer of ReLUs, and sums of them that are further inputs of the ridge regression; see
                :func:`hwsearch.scores._transfer.interplay`.
        """
        features, steps, y = examples.features, examples.reading.steps, examples.y
        inputs = (features @ steps).astype(np.float64)
        given, known = inputs, np.zeros(len(y))
        if units is not None:
            given = np.hstack([given, np.maximum(features @ units[0] + units[1], 0.0) @ units[2]])
        if base is not None:
            base = base.standard(features)
            known = base.each(features).mean(axis=0)
            given = np.column_stack([given, _FREE * known])
        ridge = _ridge(given, y)
        ensemble = _Ensemble(members or (_PARTS if base is not None else 0), members, tuple(hidden), examples.seed)
        judged = _judged(given, inputs, y, ensemble)
        stacks = tuple(_stack(model, steps, unit * judged.belief) for model, unit in judged.members if judged.belief > 0)
        inner = inputs.shape[1]
        own = cls(np.concatenate([steps @ ridge.coef_[:inner], [ridge.intercept_]]).astype(np.float32), stacks)
        if units is not None:
            sums = ridge.coef_[inner : inner + units[2].shape[1]]
            out = (units[2] @ sums[:, None]).astype(np.float32)
            own = own.plus(cls(np.zeros_like(own.linear), (((units[0], units[1]), (out, np.zeros(1, np.float32))),)))
        if base is None:
            return own
        gain = float(known @ y) / max(float(known @ known), 1e-12)
        share = _share(y, judged.plain + judged.belief * judged.added, gain * known)
        return own.times(share).plus(base, share * float(ridge.coef_[-1]) * _FREE + (1 - share) * gain)

    def standard(self, features: Features) -> Perceptrons:
        """The same, with mean 0 and standard deviation 1 on some networks (or as it is if it gives all of them the same score)."""
        outputs = self.each(features).mean(axis=0)
        unit = 1.0 / (float(outputs.std()) or 1.0)
        scaled = self.times(unit)
        scaled.linear[-1] -= np.float32(outputs.mean() * unit)
        return scaled

    def times(self, factor: float) -> Perceptrons:
        """The same, with its output multiplied."""
        return Perceptrons(self.linear * np.float32(factor), tuple(_scaled(layers, factor) for layers in self.members))

    def plus(self, other: Perceptrons, factor: float = 1.0) -> Perceptrons:
        """The sum of this and a multiple of another one, member by member."""
        other = other.times(factor)
        linear = self.linear + other.linear
        if not self.members or not other.members:
            return Perceptrons(linear, self.members or other.members)
        count = math.lcm(len(self.members), len(other.members))
        pairs = [(self.members[index % len(self.members)], other.members[index % len(other.members)]) for index in range(count)]
        return Perceptrons(linear, tuple(_beside(*pair) for pair in pairs))

    def reading(self, sources: Sequence[int]) -> Perceptrons:
        """The same for other features: for each of them the feature whose place it takes, or -1 if it makes no difference."""

        def taken(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            padded: npt.NDArray[np.float32] = np.concatenate([weight, np.zeros_like(weight[:1])])
            return padded[list(sources)]

        members = tuple(((taken(layers[0][0]), layers[0][1]), *layers[1:]) for layers in self.members)
        return Perceptrons(np.concatenate([taken(self.linear[:-1]), self.linear[-1:]]), members)


def _ridge(inputs: Values, y: Values) -> Any:
    """A ridge regression, its penalty chosen by leaving networks out."""
    linear_model = require("sklearn.linear_model", feature="Fitting a predictor", extra="torch")
    return linear_model.RidgeCV(np.logspace(-2, 3, 16)).fit(inputs, y)


@dataclass(frozen=True)
class _Ensemble:
    """How many regressions are judged, of how many members, what widths their hidden layers have, and their seed."""

    parts: int
    members: int
    hidden: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class _Judged:
    """Perceptrons, and what was predicted of networks by models that had not seen them.

    Attributes:
        members: scikit-learn's perceptrons, and the unit of what each adds to the regression.
        plain: predictions of the regression, shape ``(n,)``.
        added: what the members add to it, shape ``(n,)``.
        belief: how far to believe the members: wholly if scores are exact, little if they are noise.
    """

    members: Sequence[tuple[Any, float]]
    plain: Values
    added: Values
    belief: float


def _judged(given: Values, inputs: Values, y: Values, how: _Ensemble) -> _Judged:
    """Fit perceptrons to what ridge regressions leave, each without one fold of the networks.

    Args:
        given: inputs of the regressions, shape ``(n, k)``.
        inputs: of the perceptrons, shape ``(n, steps)``.
        y: standardised scores, shape ``(n,)``.
        how: how many regressions, and which perceptrons.
    """
    neural_network = require("sklearn.neural_network", feature="Fitting a predictor", extra="torch")
    members: list[tuple[Any, float]] = []
    plain, added = np.zeros(len(y)), np.zeros(len(y))
    fold = np.random.default_rng(how.seed).permutation(len(y)) % max(2, how.parts)
    for index in range(how.parts):
        out = fold == index
        part = _ridge(given[~out], y[~out])
        plain[out] = part.predict(given[out])
        if index >= how.members:
            continue
        left = y[~out] - part.predict(given[~out])
        unit = float(left.std()) or 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stopping at max_iter is the regularisation, not a failure
            model = neural_network.MLPRegressor(
                hidden_layer_sizes=how.hidden, alpha=1.0, solver="lbfgs", max_iter=300, random_state=how.seed + index
            ).fit(inputs[~out], left / unit)
        added[out] = model.predict(inputs[out]) * unit
        members.append((model, unit))
    belief = float(np.clip(added @ (y - plain) / max(float(added @ added), 1e-12), 0.0, 1.0))
    return _Judged(members, plain, added, belief)


def _stack(model: Any, steps: Features, factor: float) -> Layers:
    """The layers of scikit-learn's perceptrons, which read steps, for one-hot features, and with their output multiplied."""
    weights = [weight.astype(np.float32) for weight in model.coefs_]
    weights[0] = steps @ weights[0]
    return _scaled(tuple(zip(weights, (bias.astype(np.float32) for bias in model.intercepts_), strict=True)), factor)


def _share(y: Values, one: Values, other: Values) -> float:
    """The share of ``one`` in a mixture with ``other`` that orders most pairs of ``y`` correctly, shapes ``(n,)``; the greatest of them."""
    upper = np.triu_indices(len(y), 1)
    truth = np.sign(y[upper[0]] - y[upper[1]])

    def right(share: float) -> float:
        mixed = share * one + (1 - share) * other
        return float((truth * np.sign(mixed[upper[0]] - mixed[upper[1]])).sum())

    return max(_SHARES, key=right)


def _scaled(layers: Layers, factor: float) -> Layers:
    """The layers with their output multiplied."""
    weight, bias = layers[-1]
    return (*layers[:-1], (weight * np.float32(factor), bias * np.float32(factor)))


def _beside(one: Layers, other: Layers) -> Layers:
    """Layers whose output is the sum of those of two perceptrons, which stand side by side in them."""
    one, other = _deepened(one, len(other)), _deepened(other, len(one))
    made: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = []
    for depth, ((a, b), (c, d)) in enumerate(zip(one, other, strict=True)):
        last = depth == len(one) - 1
        if depth == 0:
            weight = np.hstack([a, c])
        elif last:
            weight = np.vstack([a, c])
        else:
            weight = np.block([[a, np.zeros((len(a), c.shape[1]), a.dtype)], [np.zeros((len(c), a.shape[1]), a.dtype), c]])
        made.append((weight, b + d if last else np.concatenate([b, d])))
    return tuple(made)


def _deepened(layers: Layers, depth: int) -> Layers:
    """The same with at least ``depth`` layers: those that are added pass on what they get, which is not negative."""
    width = len(layers[-1][0])
    passing = (np.eye(width, dtype=np.float32), np.zeros(width, dtype=np.float32))
    return (*layers[:-1], *[passing] * (depth - len(layers)), layers[-1])
