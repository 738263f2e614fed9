"""Decisions: a problem as a sequence of decisions, a gene each, for agents that choose one value after the other.

The actions, the state that an agent sees, and the ways of keeping to the limits are those of AMC (He et al., ECCV'18, section 3) and HAQ
(Wang et al., CVPR'19, section 3), for any genes and any limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .._types import Flags, Rows, Values
from ..costs._metrics import Metric, values_of
from ..errors import InvalidInput, UnknownName
from ..networks._precision import Precision
from ..spaces._elimination import TooWideError
from ..spaces._space import SearchSpace
from ._layers_of import TOLD, layers_of, with_active
from ._problem import Problem
from ._to_go import CostToGo

Numbers = npt.NDArray[np.float32]
Act = Callable[[Numbers], Values]
"""What chooses actions from 0 to 1, shape ``(n,)``, by what is observed, shape ``(n, features)``."""
WALLS = ("clip", "lower")
_BY_SIZE = ("width", "expand", "resolution")


@dataclass(frozen=True, eq=False)
class Decisions:
    """A problem as a sequence of decisions, a gene each, in the order of the genes; genes with one allowed value need none.

    Attributes:
        problem: what is searched.
        wall: how limits are kept: ``"clip"`` takes for each decision the nearest value with which the limits can still be met (AMC);
            ``"lower"`` lets decisions be and, if the network exceeds a limit, takes one gene after the other, from the last to the first
            and again, one value nearer to a network that meets them (HAQ).

    Raises:
        UnknownName: there is no such wall.
    """

    problem: Problem = field(repr=False)
    wall: str = "clip"

    def __post_init__(self) -> None:
        if self.wall not in WALLS:
            raise UnknownName("wall", self.wall, WALLS)

    @property
    def space(self) -> SearchSpace:
        """Where it is decided."""
        return self.problem.space

    @cached_property
    def genes(self) -> tuple[int, ...]:
        """The columns of the genes that are decided."""
        return tuple(gene for gene, allowed in enumerate(self.space.allowed) if len(allowed) > 1)

    @cached_property
    def ascending(self) -> tuple[npt.NDArray[np.intp], ...]:
        """The places of each gene's allowed values, by size: numbers ascend, precisions by their bits, words stay as they are."""
        return tuple(_ascending(self.space, gene) for gene in range(len(self.space.choices)))

    @cached_property
    def _rank(self) -> tuple[npt.NDArray[np.intp], ...]:
        """The rank by size of each place."""
        return tuple(np.argsort(order) for order in self.ascending)

    @cached_property
    def largest(self) -> Rows:
        """The places of the largest network, inactive genes at their largest value, shape ``(genes,)``."""
        return np.array([order[-1] for order in self.ascending], dtype=np.uint8)

    @cached_property
    def refuges(self) -> Rows:
        """The places of networks that are cheap, among them one that meets the limits if one is known, shape ``(k, genes)``."""
        least = np.array([order[0] for order in self.ascending], dtype=np.uint8)[None]
        known = np.unique(self.space.awake(self.problem.seeds), axis=0)
        ranks = self.space.redraws[2]
        places = np.stack([ranks[gene][known[:, gene]] for gene in range(len(ranks))], axis=1).astype(np.uint8)
        return np.concatenate([places, least])

    @cached_property
    def _to_go(self) -> tuple[CostToGo | None, ...]:
        """What each limited metric can still become; ``None`` if its tables are too entangled."""
        sizes = tuple(map(len, self.space.allowed))
        found: list[CostToGo | None] = []
        for limit in self.problem.limits:
            try:
                found.append(CostToGo(limit.metric.tables.within(self.space.allowed), sizes))
            except TooWideError:
                found.append(None)
        return tuple(found)

    @property
    def exact(self) -> bool:
        """Whether the wall "clip" offers every value with which the limits can still be met, and no other.

        So it is within one limit on a sum whose tables are not too entangled. Otherwise it offers the values with which one of a few cheap
        networks, each in the place of what is not decided yet, meets all limits; so none that leads beyond them, but perhaps not all.
        """
        return len(self._to_go) == 0 or (len(self._to_go) == 1 and self._to_go[0] is not None)

    @cached_property
    def watched(self) -> tuple[Metric, ...]:
        """The metrics whose course an agent sees: the limited ones, or the first that the problem has if none is limited."""
        limited = tuple(limit.metric for limit in self.problem.limits)
        return limited or self.problem.metrics[:1]

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The names of what an agent sees, each scaled to lie between 0 and 1."""
        courses = [f"{what}_{place}" for place in range(len(self.watched)) for what in ("share", "reduced", "left")]
        return ("index", *TOLD, *courses, "last_action")

    @cached_property
    def _standing(self) -> Numbers:
        """What does not change of what an agent sees, a line for each decision, shape ``(decisions, features)``."""
        if not self.genes:
            return np.zeros((0, len(self.features)), dtype=np.float32)
        found = np.zeros((len(self.genes), len(self.features)))
        found[:, 0] = np.linspace(0.0, 1.0, len(self.genes))
        largest, least = (self._rows(row[None])[0] for row in (self.largest, self.refuges[-1]))
        found[:, 1 : 1 + len(TOLD)] = layers_of(self.space, largest, least, self.genes)
        wholes = np.stack([with_active(self.space, largest, gene) for gene in self.genes])
        reduced = wholes.copy()
        reduced[np.arange(len(wholes)), self.genes] = least[list(self.genes)]
        shares = self._shares(wholes) - self._shares(reduced)
        found[:, 1 + len(TOLD) : -1 : 3] = shares
        scaled = found[:, 1:-1]
        low, high = scaled.min(axis=0), scaled.max(axis=0)
        found[:, 1:-1] = np.where(high > low, (scaled - low) / np.where(high > low, high - low, 1.0), scaled > 0)
        return found.astype(np.float32)

    def _rows(self, places: Rows) -> Rows:
        """Rows of indices, not canonical, shape ``(n, genes)``."""
        values = self.space.redraws[1]
        return values[np.arange(len(values)), places]

    def _shares(self, rows: Rows) -> Values:
        """The watched metrics as shares of those of the largest network, shape ``(n, metrics)``."""
        if not self.watched:
            return np.zeros((len(rows), 0))
        values = values_of(self.watched, self.space.canonical(rows))
        whole = values_of(self.watched, self.space.canonical(self._rows(self.largest[None])))
        return np.nan_to_num(values / np.where(whole > 0, whole, 1.0), nan=1.0, posinf=1.0)

    def start(self, n: int = 1) -> Walk:
        """Some networks before the first decision."""
        return Walk(self, n)

    def met(self, places: Rows) -> Flags:
        """Which networks meet all limits, shape ``(n,)``."""
        return np.asarray((self.problem.costs(self.space.canonical(self._rows(places))) <= 1.0).all(axis=1))

    def lowered(self, places: Rows) -> Rows:
        """The networks, those beyond a limit with one gene after the other a value nearer to the refuge, until the limits are met."""
        places = places.copy()
        goal = self.refuges[next(iter(np.flatnonzero(self.met(self.refuges))), -1)]
        moving = True
        while moving:
            moving = False
            for gene in reversed(self.genes):
                rank, order, aim = self._rank[gene], self.ascending[gene], self._rank[gene][goal[gene]]
                over = np.flatnonzero(~self.met(places))
                now = rank[places[over, gene]]
                moving |= bool((now != aim).any())
                places[over, gene] = order[now + np.sign(aim - now)]
        return places


class Walk:
    """Networks that are decided gene by gene, all at the same gene.

    Args:
        plan: the decisions.
        n: how many networks.

    Attributes:
        turn: decisions taken so far.
        places: what was decided, as places among the allowed values; later genes have their first one, shape ``(n, genes)``.
    """

    def __init__(self, plan: Decisions, n: int) -> None:
        self.plan, self.turn = plan, 0
        self.places: Rows = np.zeros((n, len(plan.space.choices)), dtype=np.uint8)
        self._last = np.ones(n)
        self._now = [np.full(n, to_go.lowest if to_go else 0.0) for to_go in plan._to_go]

    @property
    def gene(self) -> int:
        """The column of the next gene.

        Raises:
            InvalidInput: all are decided.
        """
        if self.done:
            raise InvalidInput("All genes are decided. Begin anew: reset() an environment, or start() other networks.")
        return self.plan.genes[self.turn]

    @property
    def done(self) -> bool:
        """Whether all genes are decided."""
        return self.turn == len(self.plan.genes)

    @property
    def active(self) -> Flags:
        """Of which networks the next gene counts, shape ``(n,)``."""
        found: Flags = self.plan.space.active(self.plan._rows(self.places))[:, self.gene]
        return found

    def observe(self) -> Numbers:
        """What an agent sees before the next decision, shape ``(n, features)``; see :attr:`Decisions.features`."""
        seen = np.repeat(self.plan._standing[self.turn][None], len(self.places), axis=0)
        rest = np.zeros(self.places.shape[1], dtype=np.bool_)
        rest[self.gene :] = True
        most, least = (
            self.plan._shares(self.plan._rows(np.where(rest, row, self.places))) for row in (self.plan.largest, self.plan.refuges[0])
        )
        start = 1 + len(TOLD)
        seen[:, start + 1 : -1 : 3] = np.clip(1.0 - most, 0.0, 1.0)
        seen[:, start + 2 : -1 : 3] = np.clip(most - least, 0.0, 1.0)
        seen[:, -1] = self._last
        return seen

    def act(self, actions: Values) -> None:
        """Decide the next gene.

        Args:
            actions: from 0, the least value, to 1, the largest, shape ``(n,)``; those of networks where the gene does not count are
                ignored.

        Raises:
            InvalidInput: actions of another shape or that are no numbers.
        """
        given = np.asarray(actions, dtype=np.float64)
        if given.shape != (len(self.places),) or not np.isfinite(given).all():
            raise InvalidInput(f"One action from 0 to 1 is needed for each of {len(self.places)} networks, not {actions!r}.")
        gene, order, active = self.gene, self.plan.ascending[self.gene], self.active
        wanted = _wanted(self.plan.space, gene, order, np.clip(given, 0.0, 1.0))
        rank = self._nearest(wanted) if self.plan.wall == "clip" else wanted
        self.places[:, gene] = np.where(active, order[rank], 0)
        for place, to_go in enumerate(self.plan._to_go):
            if to_go is not None:
                least = to_go.after(gene, self.places, self._now[place])
                self._now[place] = least[np.arange(len(least)), self.places[:, gene]]
        self._last = np.where(active, (rank + 1) / len(order), self._last)
        self.turn += 1

    def rows(self) -> Rows:
        """The networks as canonical rows within the limits, shape ``(n, genes)``."""
        places = self.plan.lowered(self.places) if self.plan.wall == "lower" else self.places
        return self.plan.space.canonical(self.plan._rows(places))

    def _nearest(self, wanted: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """The rank nearest to the wanted one with which the limits can still be met; the lower one of two."""
        order = self.plan.ascending[self.gene]
        far = np.abs(np.arange(len(order)) - wanted[:, None] + 0.25)
        may = self._may()[:, order]
        return np.asarray(np.where(may, far, far + (2 * len(order)) * ~may).argmin(axis=1))

    def _may(self) -> Flags:
        """With which values of the next gene the limits can still be met, as far as is known, shape ``(n, values)``."""
        plan, gene = self.plan, self.gene
        may = np.ones((len(self.places), len(plan.space.allowed[gene])), dtype=np.bool_)
        for limit, to_go, now in zip(plan.problem.limits, plan._to_go, self._now, strict=True):
            if to_go is not None:
                may &= to_go.after(gene, self.places, now) <= limit.at_most
        if plan.exact:
            return may
        shown = np.zeros_like(may)
        for refuge in plan.refuges:
            trial = np.repeat(np.where(np.arange(len(refuge)) < gene, self.places, refuge), may.shape[1], axis=0).astype(np.uint8)
            trial[:, gene] = np.tile(np.arange(may.shape[1]), len(may))
            shown |= plan.met(trial).reshape(may.shape)
        return np.where(shown.any(axis=1, keepdims=True), shown, may)


def play(plan: Decisions, n: int, act: Act) -> tuple[Rows, Numbers, npt.NDArray[np.intp]]:
    """Decide some networks.

    Args:
        plan: the decisions.
        n: how many networks.
        act: chooses actions by observations.

    Returns:
        Canonical rows, shape ``(n, genes)``; what was seen, what was seen next, the action and whether it was the last one, for each
        decision that counted, shape ``(decisions, 2 * features + 2)``; and the network of each.
    """
    walk, seen, acted, counted = plan.start(n), [], [], []
    while not walk.done:
        seen.append(walk.observe())
        counted.append(walk.active)
        acted.append(np.asarray(act(seen[-1]), dtype=np.float64))
        walk.act(acted[-1])
    lines, owners = [], []
    for network in range(n):
        turns = [turn for turn, active in enumerate(counted) if active[network]]
        for turn, after in itertools.zip_longest(turns, turns[1:]):
            following = seen[turn if after is None else after][network]
            lines.append(np.concatenate([seen[turn][network], following, [acted[turn][network], after is None]]))
            owners.append(network)
    width = 2 * len(plan.features) + 2
    return walk.rows(), np.array(lines, dtype=np.float32).reshape(-1, width), np.array(owners, dtype=np.intp)


def _ascending(space: SearchSpace, gene: int) -> npt.NDArray[np.intp]:
    choice = space.choices[gene]
    values = [choice.values[index] for index in space.allowed[gene]]
    key: list[object]
    if choice.is_precision and all(isinstance(value, str) for value in values):
        bits = [Precision.parse(str(value)) for value in values]
        key = [(each.weight_bits * each.activation_bits, each.fineness) for each in bits]
    elif all(isinstance(value, int | float) for value in values):
        key = list(values)
    else:
        key = list(range(len(values)))
    return np.array(sorted(range(len(values)), key=lambda place: key[place]), dtype=np.intp)  # type: ignore[arg-type,return-value]


def _wanted(space: SearchSpace, gene: int, order: npt.NDArray[np.intp], actions: Values) -> npt.NDArray[np.intp]:
    """The rank that each action stands for: widths by size, at least what is requested (AMC); other genes in equal parts (HAQ).

    Sizes begin one step below the least value, which stands for all of that step and so comes up as often as its neighbour.
    """
    choice = space.choices[gene]
    if choice.role in _BY_SIZE:
        values = np.array([float(choice.values[space.allowed[gene][place]]) for place in order])
        below = values[0] - (values[1] - values[0])
        wanted = below + actions * (values[-1] - below)
        return np.asarray(np.searchsorted(values, wanted - 1e-9 * values[-1]))
    return np.minimum((actions * len(order)).astype(np.intp), len(order) - 1)
