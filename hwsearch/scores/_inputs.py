"""What models of scores read: one-hot features turned into what is easier to learn from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .._types import Features
from ..spaces._genes import Choice
from ..spaces._space import SearchSpace
from ._transfer import rounding

Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a kind of model reads in place of one-hot features, and how these columns belong together.

    Attributes:
        steps: the matrix that one-hot features are multiplied with, shape ``(features, columns)``.
        block: for each column the number of its gene, or of its sum over genes, shape ``(columns,)``.
        value: for each column the number of its value, which is the same in all genes that mean the same, or -1, shape ``(columns,)``.
        genes: columns of single genes; those behind them describe a network as a whole.
    """

    steps: Features = field(repr=False)
    block: Numbers = field(repr=False)
    value: Numbers = field(repr=False)
    genes: int

    def beside(self, count: int) -> Reading:
        """The same with further features behind, each of which is a column that describes a network as a whole."""
        features, columns = self.steps.shape
        steps = np.zeros((features + count, columns + count), dtype=np.float32)
        steps[:features, :columns] = self.steps
        steps[features:, columns:] = np.eye(count)
        block = np.concatenate([self.block, self.block.max(initial=-1) + 1 + np.arange(count)])
        return Reading(steps, block, np.concatenate([self.value, np.full(count, -1)]), self.genes)


def reading(space: SearchSpace, kind: str, *, sums: bool = True) -> Reading:
    """What a kind of model reads of a space.

    A gene whose values are ordered (wider, deeper) becomes *steps*, features that are 1 at each value up to the chosen one: what going one
    value up brings is learned from far fewer networks than what each value brings. A gene without order stays one-hot. Precisions become
    the noise of their rounding, but for trees, which split at steps. A Gaussian process also reads sums over genes that have the same role
    and the same values, such as how many edges of a cell are convolutions, unless ``sums`` is false; values of such genes have one number.
    """
    starts = np.cumsum([0, *space.sizes]).tolist()
    noise = None if kind == "trees" else rounding(space)
    parts: list[Features] = []
    values: list[Numbers] = []
    alike: dict[object, list[int]] = {}
    for number, (start, choice) in enumerate(zip(starts, space.choices, strict=False)):
        size = len(choice.values)
        part = np.zeros((starts[-1], size), dtype=np.float32)
        part[start : start + size] = np.tri(size) if choice.ordered else np.eye(size)
        if noise is not None and noise[start : start + size].any():
            part[:] = 0.0
        elif not choice.is_precision:
            alike.setdefault(_meaning(choice), []).append(number)
        parts.append(part)
        values.append(np.full(size, -1))
    if noise is not None:
        parts += [noise[:, column : column + 2] for column in range(0, noise.shape[1], 2)]
        values += [np.full(2, -1)] * (len(parts) - len(values))
    genes = sum(part.shape[1] for part in parts)
    known = 0
    for some in alike.values():
        if len(some) > 1 and kind == "gp" and sums:
            shared = known + np.arange(parts[some[0]].shape[1])
            known += len(shared)
            for number in some:
                values[number] = shared
            parts.append(np.sum([parts[number] for number in some], axis=0, dtype=np.float32))
            values.append(shared)
    block = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    return Reading(np.hstack(parts), block, np.concatenate(values), genes)


def _meaning(choice: Choice) -> object:
    """What genes have in common whose values mean the same."""
    return choice.role, choice.values
