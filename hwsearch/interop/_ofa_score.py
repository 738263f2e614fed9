"""Once-for-All's accuracy predictor of ResNet-50, read between its own widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .._files._writing import PathLike
from .._types import Flags, Rows, Values
from ..errors import InvalidInput
from ..scores._predictor import Predictor
from ..spaces._chain import divisible
from ..spaces._genes import Value
from ..spaces._space import SearchSpace
from ..spaces.library.ofa_resnet50 import EXPANDS, RESOLUTIONS, SCALES
from ..spaces.library.ofa_resnet50 import build as ofa_resnet50
from ._ofa import ofa_predictor

_FULL = {"stem": 64, "stage1": 256, "stage2": 512, "stage3": 1024, "stage4": 2048}
"""Full widths of the stem and of the stages."""
_LEAST = {"stage1": 2, "stage2": 2, "stage3": 4, "stage4": 2}
"""Least depths that Once-for-All trained."""


@dataclass(frozen=True, eq=False)
class OfaScore:
    """An accuracy on ImageNet as Once-for-All's predictor predicts it, interpolated; see :func:`ofa_resnet50_score`.

    Example:
        >>> import hwsearch, numpy as np, torch
        >>> from hwsearch.interop import ofa_resnet50_score
        >>> layers = [torch.nn.Linear(82, 400), torch.nn.ReLU(), torch.nn.Linear(400, 1)]  # the published one is trained
        >>> torch.save(torch.nn.Sequential(*layers).state_dict(), "ofa-score.pth")
        >>> space = hwsearch.load_space("resnet50")
        >>> score = ofa_resnet50_score("ofa-score.pth", space)
        >>> score.extrapolates(space.sample(4, np.random.default_rng(0))).shape  # which networks are beyond the published widths
        (4,)

    Attributes:
        space: whose rows it takes.
        predictor: the published one.
        reach: how far beyond the published widths it still predicts, as a fraction of them.
    """

    space: SearchSpace
    predictor: Predictor = field(repr=False)
    reach: float = 0.0

    def __call__(self, X: npt.ArrayLike) -> Values:
        """Predicted accuracies of the rows ``X`` (shape ``(n, genes)``), shape ``(n,)``; minus the distance where :meth:`extrapolates`."""
        rows = self.space.check(X)
        features, beyond = self._place(rows)
        mean = self.predictor.model.each(features).mean(axis=0) * self.predictor.scale + self.predictor.mean
        return np.asarray(np.where(beyond.max(axis=1) > self.reach, -beyond.sum(axis=1), mean))

    def extrapolates(self, X: npt.ArrayLike) -> Flags:
        """Which rows have a width or a depth that Once-for-All did not train anything near, shape ``(n,)``."""
        return np.asarray(self._place(self.space.check(X))[1].max(axis=1) > self.reach)

    @cached_property
    def values(self) -> dict[str, tuple[Value, ...]]:
        """Gene -> its values that networks may have which are not :meth:`extrapolates`, as :meth:`SearchSpace.restrict` takes them."""
        low, high = 1 - self.reach, 1 + self.reach
        found: dict[str, tuple[float, float]] = {"resolution": (RESOLUTIONS[0] * low, RESOLUTIONS[-1] * high)}
        for name, full in _FULL.items():
            least = divisible(full * SCALES[0])
            found[f"{name}.out"] = least * low, full * high
            found[f"{name}.*.mid?"] = divisible(least * EXPANDS[0]) * low * low, divisible(full * EXPANDS[-1]) * high * high
        for name, depth in _LEAST.items():
            found[f"{name}.depth"] = depth * low, np.inf
        return {
            choice.name: tuple(value for value in choice.values if low <= float(value) <= high)
            for pattern, (low, high) in found.items()
            for choice in self.space.choices
            if fnmatchcase(choice.name, pattern)
        }

    def _place(self, X: Rows) -> tuple[npt.NDArray[np.float32], Values]:
        """The features of the published predictor, between one hots, and how far each gene is beyond the published ones (relative)."""
        theirs = self.predictor.space
        offset = dict(zip((choice.name for choice in theirs.choices), np.cumsum([0, *theirs.sizes]).tolist(), strict=False))
        features = np.zeros((len(X), sum(theirs.sizes)), dtype=np.float32)
        beyond: list[Values] = []

        def put(gene: str, weights: Values) -> None:
            features[:, offset[gene] : offset[gene] + weights.shape[-1]] = weights

        weights, over = _between(self._values("resolution", X), np.array([RESOLUTIONS], dtype=np.float64))
        put("resolution", weights)
        beyond.append(over)
        weights, over = _between(self._values("stem.out", X), _knots([_FULL["stem"]], SCALES))
        for name in ("stem1.width", "stem3.width"):  # both at the scale of the plain stem
            put(name, weights)
        beyond.append(over)
        features[:, offset["stem2.depth"]] = 1.0
        for stage, least in _LEAST.items():
            depth, column = self._values(f"{stage}.depth", X), self.space.position[f"{stage}.out"]
            weights, over = _between(self._values(f"{stage}.out", X), _knots([_FULL[stage]], SCALES))
            put(f"{stage}.width", weights)
            beyond += [over, np.maximum(1 - depth / least, 0.0)]
            knots = _knots(self.space.choices[column].values, EXPANDS)[X[:, column]]
            for number in range(1, int(depth.max(initial=0)) + 1):
                mids = [self._values(f"{stage}.block{number}.{mid}", X) for mid in ("mid1", "mid2")]
                active = depth >= number
                weights, _ = _between(np.sqrt(mids[0] * mids[1]), knots)
                put(f"{stage}.block{number}.expand", weights * active[:, None])
                beyond += [_beyond(mid, knots) * active for mid in mids]
        return features, np.stack(beyond, axis=1)

    def _values(self, name: str, X: Rows) -> Values:
        column = self.space.position[name]
        return np.array(self.space.choices[column].values, dtype=np.float64)[X[:, column]]


def ofa_resnet50_score(file: PathLike, space: SearchSpace, *, reach: float = 0.0) -> OfaScore:
    """A score for the space ``resnet50`` from Once-for-All's accuracy predictor of its own ResNet-50 space.

    What comes out is an *interpolated prediction*, and no accuracy that any network was measured to have:

    - Once-for-All trained three widths a stage (0.65, 0.8, 1) and three expand ratios a block (0.2, 0.25, 0.35). A width between two of
      them is encoded between their one hots, linearly. Networks that have only published widths get exactly the published prediction.
    - Its blocks have one inner width. Of two, the geometric mean is taken: it keeps the MACs of the 3x3, so that an uneven pair has no
      advantage on paper.
    - Its networks are ResNet-50-D with three convolutions in the stem, the middle one optional. The plain stem is encoded as that without
      the optional one, at the same width relative to the full one; the difference of the stems and shortcuts is not in the prediction.
    - It knows no precisions: int8 networks are to be compared with int8 networks.
    - Its predictions stand about four points above what the networks reach (0.8096 is predicted for the one of 1.2 GMACs, whose published
      accuracy is 77.1 %). Differences mean more than values.

    Rows with a width or depth beyond the published ones are *outside*: what they get, minus their distance, is below every prediction, so
    that a search walks back inside and never ends outside.

    Example:
        >>> import hwsearch, numpy as np, torch
        >>> from hwsearch.interop import ofa_resnet50_score
        >>> layers = [torch.nn.Linear(82, 400), torch.nn.ReLU(), torch.nn.Linear(400, 1)]  # the published one is trained
        >>> torch.save(torch.nn.Sequential(*layers).state_dict(), "resnet50_acc_predictor.pth")
        >>> space = hwsearch.load_space("resnet50")
        >>> ofa_resnet50_score("resnet50_acc_predictor.pth", space)(space.sample(4, np.random.default_rng(0))).shape
        (4,)

    Args:
        file: the published PyTorch state dict; it is loaded without running any code of it.
        space: ``resnet50``, at any step.
        reach: how far beyond the published widths the prediction, extrapolated linearly there, is still believed: a fraction of them.

    Raises:
        InvalidInput: the space is no ``resnet50``, or ``reach`` is negative.
        FileError, CorruptFile, MissingDependency: as :func:`ofa_predictor`.
    """
    genes = {"resolution", *(f"{name}.out" for name in _FULL), *(f"{name}.depth" for name in _LEAST)}
    if space.name != "resnet50" or not genes <= set(space.position):
        raise InvalidInput(f"Once-for-All's predictor of ResNet-50 is interpolated for the space 'resnet50', not for {space.name!r}.")
    if not 0 <= reach < 1:
        raise InvalidInput(f"reach must be at least 0 and below 1, not {reach}.")
    return OfaScore(space, ofa_predictor(file, ofa_resnet50()), reach)


def _knots(full: Sequence[Value], ratios: tuple[float, ...]) -> Values:
    """The published widths of layers of full widths, shape ``(len(full), len(ratios))``."""
    return np.array([[divisible(round(float(value) * ratio)) for ratio in ratios] for value in full], dtype=np.float64)


def _between(values: Values, knots: Values) -> tuple[Values, Values]:
    """Linear interpolation between ascending knots, linear extrapolation beyond.

    Args:
        values: shape ``(n,)``.
        knots: shape ``(n, k)`` or ``(1, k)``.

    Returns:
        Weights that sum to one, shape ``(n, k)``; and how far beyond the last knot values are, relative to it, shape ``(n,)``.
    """
    last = knots.shape[1] - 1
    weights = np.zeros((len(values), last + 1))
    for left in range(last):
        low, high = knots[:, left], knots[:, left + 1]
        here = ((values >= low) | (left == 0)) & ((values < high) | (left == last - 1))
        share = here * (values - low) / np.maximum(high - low, 1e-9)
        weights[:, left] += here - share
        weights[:, left + 1] += share
    return weights, _beyond(values, knots)


def _beyond(values: Values, knots: Values) -> Values:
    """How far values are beyond the first or the last knot, relative to it, shape ``(n,)``."""
    return np.asarray(np.maximum(np.maximum(1 - values / knots[:, 0], values / knots[:, -1] - 1), 0.0))
