"""Regression models of predictors: fitted with scikit-learn, evaluated in plain numpy, stored as arrays.

All of them read the one-hot encoding of a space (:meth:`SearchSpace.features`), and are fitted to what
:func:`hwsearch.scores._inputs.reading` makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from .._types import Features, Values
from ..errors import CorruptFile, UnknownName, require
from ..spaces._space import SearchSpace
from ._inputs import reading
from ._perceptrons import Arrays, Examples, Perceptrons
from ._process import GaussianProcess
from ._transfer import interplay


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
        inputs = examples.features @ examples.reading.steps
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
        return cls(feature, left, right, value, np.ascontiguousarray(examples.reading.steps.T), start)


MODELS: dict[str, Any] = {"mlp": Perceptrons, "linear": Perceptrons, "trees": Trees, "gp": GaussianProcess}


def fit_model(kind: str, space: SearchSpace, features: Features, y: Values, seed: int, *, sums: bool = True, **options: Any) -> Model:
    """Fit a model.

    Args:
        kind: ``"mlp"``, ``"linear"``, ``"trees"`` or ``"gp"``.
        space: whose one-hot features it reads.
        features: one-hot rows, shape ``(n, features)``.
        y: standardised scores, shape ``(n,)``.
        seed: of everything random.
        sums: whether a Gaussian process reads sums over genes that mean the same; with a dozen networks they mislead.
        **options: of the kind.

    Raises:
        UnknownName: no such kind.
        MissingDependency: scikit-learn is not installed.
    """
    if kind not in MODELS:
        raise UnknownName("kind of predictor", kind, MODELS)
    if kind == "linear":
        options |= {"members": 0}
    elif kind == "mlp":
        options |= {"units": interplay(space)}
    examples = Examples(features, y, reading(space, kind, sums=sums), seed)
    threads = require("threadpoolctl", feature="Fitting a predictor", extra="torch")  # comes with scikit-learn
    with threads.threadpool_limits(1):  # the matrices are small: more threads only wait for each other
        model: Model = MODELS[kind].fit(examples, **options)
    return model
