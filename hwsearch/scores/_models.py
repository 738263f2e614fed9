"""Regression models of predictors: fitted with scikit-learn, evaluated in plain numpy, stored as arrays.

All of them read the one-hot encoding of a space (:meth:`SearchSpace.features`). Choices are ordered (wider, deeper), so they are fitted to
*steps*, features that are 1 at each value up to the chosen one: what going one value up brings is learned from far fewer networks than
what each value brings.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from .._gaussian import Posterior, squared_distances
from .._types import Features, Values
from ..errors import CorruptFile, UnknownName, require
from ._perceptrons import Arrays, Examples, Perceptrons


class Model(Protocol):
    """What a predictor asks of its model."""

    kind: ClassVar[str]

    def each(self, features: Features) -> Values:
        """Standardised scores by each member of an ensemble, shape ``(members, n)``; their standard deviation tells how unsure it is."""

    def arrays(self) -> Arrays:
        """Everything it knows, by name."""


@dataclass(frozen=True, eq=False)
class Trees:
    """Gradient-boosted regression trees (Friedman, 2001), several boostings on random halves of the networks.

    Attributes:
        feature: the one-hot features whose sum decides at a node, as a row of ``groups``; -1 at a leaf. Shape ``(members, trees, nodes)``.
        left, right: where to go when that sum is 0, or 1, shape as ``feature``.
        value: of a leaf, shape as ``feature``.
        groups: for each decision the features that are summed, shape ``(decisions, features)``.
        start: the value before any tree, shape ``(members,)``.
    """

    kind: ClassVar[str] = "trees"
    feature: npt.NDArray[np.int32] = field(repr=False)
    left: npt.NDArray[np.int32] = field(repr=False)
    right: npt.NDArray[np.int32] = field(repr=False)
    value: npt.NDArray[np.float32] = field(repr=False)
    groups: npt.NDArray[np.float32] = field(repr=False)
    start: Values = field(repr=False)

    def each(self, features: Features) -> Values:
        """As :meth:`Model.each`."""
        high = features @ self.groups.T > 0.5
        outputs = np.repeat(self.start[:, None], len(features), axis=1)
        rows = np.arange(len(features))
        for member in range(len(self.start)):
            for tree in range(self.feature.shape[1]):
                feature, left, right = self.feature[member, tree], self.left[member, tree], self.right[member, tree]
                node = np.zeros(len(features), dtype=np.intp)
                while (inner := feature[node] >= 0).any():
                    node = np.where(inner, np.where(high[rows, feature[node]], right[node], left[node]), node)
                outputs[member] += self.value[member, tree][node]
        return outputs

    def arrays(self) -> Arrays:
        """As :meth:`Model.arrays`."""
        return {name: getattr(self, name) for name in ("feature", "left", "right", "value", "groups", "start")}

    @classmethod
    def read(cls, arrays: Mapping[str, npt.NDArray[Any]], features: int) -> Trees:
        """The model of :meth:`arrays`, for that number of features.

        Raises:
            CorruptFile: the arrays do not fit together, or a tree leads nowhere.
            KeyError: one is missing.
        """
        trees = cls(*(arrays[name] for name in ("feature", "left", "right", "value", "groups", "start")))
        if any(array.dtype.kind not in "iu" for array in (trees.feature, trees.left, trees.right)):
            raise CorruptFile("the nodes of its trees are not whole numbers")
        shape = trees.feature.shape
        same = all(array.shape == shape for array in (trees.left, trees.right, trees.value))
        if len(shape) != 3 or not same or trees.groups.shape[1:] != (features,) or trees.start.shape != shape[:1]:
            raise CorruptFile(f"its trees do not fit together, or not {features} features")
        inner = trees.feature >= 0
        here = np.broadcast_to(np.arange(shape[2]), shape)
        for child in (trees.left, trees.right):
            if (inner & ((child <= here) | (child >= shape[2]))).any() or trees.feature.max(initial=-1) >= len(trees.groups):
                raise CorruptFile("one of its trees leads nowhere")
        return trees

    @classmethod
    def fit(cls, examples: Examples, members: int = 3, trees: int = 200, depth: int = 4) -> Trees:
        """Boost least squares with ``trees`` trees of at most ``depth`` decisions in each of the members."""
        ensemble = require("sklearn.ensemble", feature="Fitting a predictor", extra="torch")
        inputs = examples.features @ examples.steps
        nodes = 2 ** (depth + 1) - 1
        shape = (members, trees, nodes)
        feature, left, right = np.full(shape, -1, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        value, start = np.zeros(shape, np.float32), np.zeros(members)
        for member in range(members):
            model = ensemble.GradientBoostingRegressor(
                n_estimators=trees,
                max_depth=depth,
                learning_rate=0.06,
                subsample=0.5,
                max_features=0.5,
                random_state=examples.seed + member,
            ).fit(inputs, examples.y)
            start[member] = float(model.init_.constant_.ravel()[0])
            for number, fitted in enumerate(model.estimators_[:, 0]):
                tree, count = fitted.tree_, fitted.tree_.node_count
                leaf = tree.children_left < 0
                feature[member, number, :count] = np.where(leaf, -1, tree.feature)
                left[member, number, :count] = np.maximum(tree.children_left, 0)
                right[member, number, :count] = np.maximum(tree.children_right, 0)
                value[member, number, :count] = model.learning_rate * tree.value[:, 0, 0]
        return cls(feature, left, right, value, np.ascontiguousarray(examples.steps.T), start)


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A Gaussian process whose prior is a linear function plus a smooth one (Rasmussen and Williams, 2006, chapter 2).

    Its members are the posterior mean plus and minus one posterior standard deviation, so that their mean is the prediction and
    half of their distance is the standard deviation.

    Attributes:
        rows: the steps of the networks it was fitted on, shape ``(m, steps)``.
        alpha: weights of their covariances, shape ``(m,)``.
        half: lower Cholesky factor of their covariance, shape ``(m, m)``.
        steps: turns one-hot features into steps, shape ``(features, steps)``.
        terms: variance and length scale of the smooth part, variance and offset of the linear part, shape ``(4,)``.
    """

    kind: ClassVar[str] = "gp"
    rows: Features = field(repr=False)
    alpha: Values = field(repr=False)
    half: Values = field(repr=False)
    steps: Features = field(repr=False)
    terms: Values

    def each(self, features: Features) -> Values:
        """As :meth:`Model.each`."""
        inputs = features @ self.steps
        covariance = self._covariance(inputs, self.rows)
        posterior = Posterior(self.half, self.alpha)
        mean = posterior.mean(covariance)
        smooth, _, linear, offset = self.terms
        prior = smooth + linear * (offset + (inputs.astype(np.float64) ** 2).sum(axis=1))
        deviation = np.sqrt(np.maximum(posterior.variance(covariance, prior), 1e-12))
        return np.stack([mean - deviation, mean + deviation])

    def _covariance(self, a: Features, b: Features) -> Values:
        smooth, length, linear, offset = self.terms
        apart = squared_distances(a.astype(np.float64), b.astype(np.float64))
        result: Values = smooth * np.exp(-0.5 * apart / length**2) + linear * (offset + (a @ b.T).astype(np.float64))
        return result

    def gradient(self, features: Features) -> Values:
        """The derivatives of the prediction by the features, shape ``(n, features)``."""
        inputs, rows = (features @ self.steps).astype(np.float64), self.rows.astype(np.float64)
        smooth, length, linear, _ = self.terms
        pull = smooth * np.exp(-0.5 * squared_distances(inputs, rows) / length**2) * self.alpha / length**2
        result: Values = (pull @ rows - pull.sum(axis=1, keepdims=True) * inputs + linear * (self.alpha @ rows)) @ self.steps.T
        return result

    def arrays(self) -> Arrays:
        """As :meth:`Model.arrays`."""
        return {name: getattr(self, name) for name in ("rows", "alpha", "half", "steps", "terms")}

    @classmethod
    def read(cls, arrays: Mapping[str, npt.NDArray[Any]], features: int) -> GaussianProcess:
        """The model of :meth:`arrays`, for that number of features.

        Raises:
            CorruptFile: the arrays do not fit together.
            KeyError: one is missing.
        """
        process = cls(*(arrays[name] for name in ("rows", "alpha", "half", "steps", "terms")))
        m, steps = len(process.rows), process.steps.shape[-1]
        shapes = (process.rows.shape, process.alpha.shape, process.half.shape, process.steps.shape, process.terms.shape)
        if shapes != ((m, steps), (m,), (m, m), (features, steps), (4,)):
            raise CorruptFile(f"its arrays have the shapes {shapes}, which do not fit {features} features")
        if (process.terms < 0).any() or process.terms[1] == 0:
            raise CorruptFile(f"its variances and its length scale are {process.terms.tolist()}, which must be positive")
        return process

    @classmethod
    def fit(cls, examples: Examples) -> GaussianProcess:
        """Maximise the marginal likelihood of variances, length scale and noise."""
        gaussian = require("sklearn.gaussian_process", feature="Fitting a predictor", extra="torch")
        kernels = require("sklearn.gaussian_process.kernels", feature="Fitting a predictor", extra="torch")
        inputs = (examples.features @ examples.steps).astype(np.float32)
        smooth = kernels.ConstantKernel(0.5, (1e-3, 1e2)) * kernels.RBF(3.0, (0.3, 100.0))
        linear = kernels.ConstantKernel(0.1, (1e-5, 1e2)) * kernels.DotProduct(1.0, (1e-2, 1e2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a variance at the edge of its range is fine
            model = gaussian.GaussianProcessRegressor(
                smooth + linear + kernels.WhiteKernel(0.05, (1e-5, 1.0)), random_state=examples.seed, n_restarts_optimizer=1
            ).fit(inputs.astype(np.float64), examples.y)
        (constant, radial), (scale, dot) = ((part.k1, part.k2) for part in (model.kernel_.k1.k1, model.kernel_.k1.k2))
        terms = np.array([constant.constant_value, radial.length_scale, scale.constant_value, dot.sigma_0**2])
        return cls(inputs, np.asarray(model.alpha_), np.asarray(model.L_), examples.steps.astype(np.float32), terms)


MODELS: dict[str, Any] = {"mlp": Perceptrons, "linear": Perceptrons, "trees": Trees, "gp": GaussianProcess}


def fit_model(
    kind: str, sizes: Sequence[int], features: Features, y: Values, seed: int, shared: Features | None = None, **options: Any
) -> Model:
    """Fit a model.

    Args:
        kind: ``"mlp"``, ``"linear"``, ``"trees"`` or ``"gp"``.
        sizes: of the space's genes.
        features: one-hot rows, shape ``(n, features)``.
        y: standardised scores, shape ``(n,)``.
        seed: of everything random.
        shared: sums of features that tell what their genes bring in the place of steps, shape ``(features, sums)``; trees, which split at
            steps, do without.
        **options: of the kind.

    Raises:
        UnknownName: no such kind.
        MissingDependency: scikit-learn is not installed.
    """
    if kind not in MODELS:
        raise UnknownName("kind of predictor", kind, MODELS)
    steps = np.zeros((sum(sizes), sum(sizes)), dtype=np.float32)
    start = 0
    for size in sizes:
        steps[start : start + size, start : start + size] = np.tri(size, dtype=np.float32)
        start += size
    if shared is not None and kind != "trees":
        told = np.asarray(shared.any(axis=1))
        start = 0
        for size in sizes:
            if told[start : start + size].any():
                steps[start : start + size, start : start + size] = 0.0
            start += size
        steps = np.hstack([steps, shared])
    if kind == "linear":
        options |= {"members": 0, "units": None}
    elif kind != "mlp":
        options.pop("units", None)
    threads = require("threadpoolctl", feature="Fitting a predictor", extra="torch")  # comes with scikit-learn
    with threads.threadpool_limits(1):  # the matrices are small: more threads only wait for each other
        model: Model = MODELS[kind].fit(Examples(features, y, steps, seed), **options)
    return model
