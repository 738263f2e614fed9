"""Memetic: evolution among local optima, found by climbing along the gradient of the score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..errors import InvalidInput
from ..spaces._keys import row_keys
from ..spaces._variation import splice
from ._additive import additive
from .evolution import founders

if TYPE_CHECKING:
    from ._problem import Problem

_FIRSTS = 8
"""Changes of one gene that a pair of changes may begin with."""
_PARTNERS = 2
"""Pairs that are looked at for each of these."""


@dataclass(frozen=True)
class MemeticState:
    """What memetic search remembers.

    Attributes:
        X: the best rows that could climb no further, best first, shape ``(p, genes)``.
        scores: theirs, shape ``(p,)``.
        climbing: the rows that still climb, shape ``(c, genes)``.
        climbed: their scores, shape ``(c,)``.
        asked: keys of the rows that were just asked for, ascending, shape ``(k,)``.
        asked_by: the climbing row that each may follow, or from ``c`` on the brood that it belongs to, shape ``(k,)``.
        best: the best score so far.
        step: steps taken.
        stale: steps since the best score rose.
    """

    X: Rows
    scores: Values
    climbing: Rows
    climbed: Values
    asked: npt.NDArray[np.uint64]
    asked_by: npt.NDArray[np.int64]
    best: float = -np.inf
    step: int = 0
    stale: int = 0


@dataclass(frozen=True)
class Memetic:
    """Evolution whose every child climbs to a local optimum before it is judged (Moscato, Caltech report 826, 1989).

    A score that knows its gradient (see :meth:`Predictor.gradient`) tells to first order what every change of one gene would bring, a sum
    of tables tells it exactly, and the limits' tables tell what it would cost; so the best of all changes of one gene or two are known
    beforehand, and only a few of them are scored. A row stops climbing when none of these was better, or all were met before.

    Children compete with those of the same parents only. If all competed with all, networks like the best so far (of its resolution, say)
    would soon be the only ones, whatever others would become when they have climbed.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import Memetic
        >>> space = hwsearch.load_space("resnet_digits")
        >>> parts = {"predictor": hwsearch.metric("params", space), "limits": {"macs": 1e6}}
        >>> result, optimum = (hwsearch.search(space, how, **parts) for how in (Memetic(climbers=50, steps=10), "exact"))
        >>> result.best_score > 0.9 * optimum.best_score
        True

    Attributes:
        climbers: rows that climb at the same time.
        parents: local optima that are kept, and bred from.
        founders: random rows scored at the start.
        brood: children of one pair of parents; those within the limits are scored, and only the best one climbs.
        tries: changes scored for each row and step.
        mutations: genes that are redrawn in a child, on average, after crossing.
        steps: the most steps of a search.
        patience: steps without a better score after which the search is done.

    Raises:
        InvalidInput: the problem's score neither knows its gradient nor is a sum of tables.
    """

    name: ClassVar[str] = "memetic"
    climbers: int = 320
    parents: int = 320
    founders: int = 4096
    brood: int = 16
    tries: int = 4
    mutations: float = 1.0
    steps: int = 130
    patience: int = 50

    def init(self, problem: Problem) -> MemeticState:
        """The state before the first step, without rows."""
        if not problem.has_gradient and additive(problem.score, problem.space) is None:
            raise InvalidInput(
                f"Memetic search climbs along the gradient of a score, and {problem.score!r} has none, nor is it a sum of tables. Use "
                "algorithm='evolution'."
            )
        rows, none = np.empty((0, len(problem.space.choices)), dtype=np.uint8), np.empty(0)
        return MemeticState(rows, none, rows, none, np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))

    def ask(self, state: MemeticState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, MemeticState]:
        """Founders at first; then the most promising changes of the rows that climb, and a brood of children for each free place."""
        if not len(state.climbing) and len(state.X) < 2:
            X = founders(problem, self.founders, rng)
            by = np.arange(len(X)) % self.climbers
        else:
            changed, of = promising(problem, state.climbing, self.tries)
            children, brood = self._children(state, problem, rng)
            X, by = np.concatenate([changed, children]), np.concatenate([of, len(state.climbing) + brood])
        keys, first = np.unique(row_keys(X), return_index=True)
        return X, replace(state, asked=keys, asked_by=by[first].astype(np.int64))

    def tell(self, state: MemeticState, X: Rows, scores: Values, costs: Values) -> MemeticState:
        """Let rows climb to better ones that they asked for, and the best of each brood begin; the others have arrived: keep the best."""
        by = state.asked_by[np.searchsorted(state.asked, row_keys(X))] if len(X) else state.asked_by[:0]
        order = np.lexsort((np.where(np.isnan(scores), np.inf, -scores), by))
        order = order[np.flatnonzero(np.diff(by[order], prepend=-1))]  # the best that each asked for
        before = np.append(state.climbed, np.full(max(0, by.max(initial=-1) + 1 - len(state.climbed)), -np.inf))
        order = order[scores[order] > before[by[order]]]
        climbing, climbed = X[order], scores[order]
        arrived = np.setdiff1d(np.arange(len(state.climbed)), by[order])
        pool = np.concatenate([state.X, state.climbing[arrived]])
        values = np.concatenate([state.scores, state.climbed[arrived]])
        kept = np.argsort(-values, kind="stable")
        kept = kept[np.sort(np.unique(row_keys(pool[kept]), return_index=True)[1])][: self.parents]
        best = max(state.best, float(np.max(climbed, initial=-np.inf)))
        return replace(
            state,
            X=pool[kept],
            scores=values[kept],
            climbing=climbing,
            climbed=climbed,
            best=best,
            step=state.step + 1,
            stale=0 if best > state.best else state.stale + 1,
        )

    def done(self, state: MemeticState) -> bool:
        """Whether the best score has not risen for ``patience`` steps."""
        return state.stale >= self.patience

    def _children(self, state: MemeticState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, npt.NDArray[np.intp]]:
        """Feasible children of local optima, and the brood of each; one pair of parents for each place that is free, once there are two."""
        room = self.climbers - len(state.climbing) if len(state.X) > 1 else 0
        first = np.minimum(rng.integers(len(state.X), size=room), rng.integers(len(state.X), size=room))
        second = rng.integers(len(state.X), size=room)
        brood = np.repeat(np.arange(room), self.brood)
        children = splice(problem.space, state.X[first[brood]], state.X[second[brood]], rng)
        children = problem.space.mutate(children, rng, self.mutations / len(problem.space.sizes))
        met = (problem.costs(children) <= 1.0).all(axis=1)
        return children[met], brood[met]


def promising(problem: Problem, X: Rows, most: int) -> tuple[Rows, npt.NDArray[np.intp]]:
    """The changes of one gene or two that, to first order, raise the scores of feasible rows most within the limits.

    A gene that wakes others wakes them at their first values.

    Args:
        problem: whose score knows its gradient.
        X: canonical rows that meet the limits, shape ``(n, genes)``.
        most: how many for each row.

    Returns:
        Canonical rows that meet the limits, shape ``(m, genes)``, and the row that each of them changes, shape ``(m,)``.
    """
    gene, value = problem.space.changes
    if not len(X) or not len(gene):
        return X[:0], np.empty(0, dtype=np.intp)
    gain = _gains(problem, X)
    price, room = _prices(problem, X)
    first, second, gains = _best(gene, gain, price, room)
    top = np.argsort(-gains, axis=1, kind="stable")[:, :most]
    possible = np.isfinite(np.take_along_axis(gains, top, axis=1))
    row, top = np.nonzero(possible)[0], top[possible]
    changed = problem.space.awake(X[row])
    for change in (first[row, top], second[row, top]):
        changed[np.arange(len(changed)), gene[change]] = value[change]
    changed = problem.space.canonical(changed)
    met = (problem.costs(changed) <= 1.0).all(axis=1)
    return changed[met], row[met]


def _gains(problem: Problem, X: Rows) -> Values:
    """What each change of one gene adds to the score, shape ``(n, changes)``; -inf for a change that changes nothing.

    To first order, by the gradient of the score; exactly, if the score is a sum of tables and has no gradient.
    """
    space = problem.space
    gene, value = space.changes
    active, awake = space.active(X), space.awake(X)
    slope = problem.gradient(X)
    if slope.shape[1]:
        starts = np.cumsum([0, *space.sizes[:-1]])
        own = np.take_along_axis(slope, starts + awake, axis=1)
        gain = slope[:, starts[gene] + value] - own[:, gene]
        for change in np.flatnonzero(space.needed[gene]):
            changed = awake.copy()
            changed[:, gene[change]] = value[change]
            gain[:, change] += np.where(space.active(changed), own, 0.0).sum(axis=1) - np.where(active, own, 0.0).sum(axis=1)
    else:
        tables = additive(problem.score, space)
        assert tables is not None  # checked by init
        gain = tables.changed(awake, gene, value) - tables(X)[:, None]
    return np.where(active[:, gene] & (X[:, gene] != value), gain, -np.inf)


def _prices(problem: Problem, X: Rows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What each change of one gene adds to each cost, shape ``(limits, n, changes)``, and what each may grow by, ``(limits, n)``."""
    gene, value = problem.space.changes
    awake, now = problem.space.awake(X), problem.costs(X)
    price = np.empty((now.shape[1], len(X), len(gene)), dtype=np.float32)
    for place, limit in enumerate(problem.limits):
        price[place] = limit.ratio(limit.metric.tables.changed(awake, gene, value)) - now[:, place, None]
    return price, (1.0 - now.T).astype(np.float32)


def _best(
    gene: npt.NDArray[np.intp], gain: Values, price: npt.NDArray[np.float32], room: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Values]:
    """For each row the best changes alone, and the best partners of each of its best changes: of another gene and within the limits.

    Args:
        gene: that each change is of, shape ``(changes,)``.
        gain, price, room: of :func:`_gains` and :func:`_prices`.

    Returns:
        The first and the second change (the same, if it is alone), and the gain of both, -inf if there is none, each of the shape
        ``(n, k)``.
    """
    every = np.arange(len(gain))
    firsts = np.argsort(-gain, axis=1, kind="stable")[:, :_FIRSTS]
    left = gain.copy()  # pairs are found once: what was first is no partner of later ones
    fits = np.logical_and.reduce(price <= room[:, :, None])
    found: list[tuple[npt.NDArray[np.intp] | None, Values]] = [(None, np.where(fits, gain, -np.inf))]
    for first in firsts.T:
        left[every, first] = -np.inf
        fits = gene[first][:, None] != gene
        for cost, free in zip(price, room, strict=True):
            fits &= cost <= (free - cost[every, first])[:, None]
        found.append((first, np.where(fits, left + gain[every, first][:, None], -np.inf)))
    columns = []
    for start, gains in found:
        for _ in range(_PARTNERS if start is not None else 2 * _PARTNERS):
            second = gains.argmax(axis=1)
            columns.append((second if start is None else start, second, gains[every, second]))
            gains[every, second] = -np.inf
    first, second, gains = (np.stack(each, axis=1) for each in zip(*columns, strict=True))
    return first, second, gains
