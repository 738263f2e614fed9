"""Program: the best sum of tables within limits, proven, as a mixed integer program.

Every option of a factor is a variable, every value of a gene that several factors share is another one, and the options that hold a
value add up to it. These marginals tie the factors together and keep the linear relaxation tight. Solved by HiGHS (Huangfu
and Hall, 2018) through ``scipy.optimize.milp``.

HiGHS meets a constraint within a tolerance, and hwsearch exactly. So HiGHS is given budgets that are a little wider than the limits, which
keeps its bounds and its proofs true, and a row that it finds beyond a limit is cut off by a cover inequality (Balas, 1975), which has
whole numbers only. Sums of costs are exact (:class:`hwsearch.spaces.TableSum`), and so is every comparison with a limit.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..costs._limits import Limit
from ..errors import Infeasible
from ..spaces._arrays import numbered
from ..spaces._genes import only
from ..spaces._lowering import canonical_table
from ..spaces._space import SearchSpace
from ..spaces._tables import TableSum
from ._factors import Factor, factors, reduce
from ._lagrange import bounds
from ._quiet import quiet

Cut = list[npt.NDArray[np.intp]]
"""For some factors, perhaps, options of which not every one of these factors may have one; empty for the other factors."""

_FINE = 1e4
"""Objective and costs are scaled to this range, of which the tolerances of HiGHS (1e-6) are a small part."""
_WHOLE = 1e6
"""Costs that are whole numbers of a step are given to HiGHS as they are up to this many steps."""
LARGE = 300
"""Options; programs with more are cut down to a core by their bounds, which takes a tenth of the time that HiGHS takes for all of them."""
_FOLDED = 10_000
"""Options; programs with more are left to HiGHS as they are, if there are no bounds."""
_PRESOLVED = 5_000
"""Columns; smaller programs are solved without HiGHS' presolve, which now and then cuts off the optimum and calls what is left optimal."""
_CORE = 3
"""Options a factor in the first core, on average."""
_SLOP = 1e-9
"""A bound is as uncertain as this, as a fraction of the range of the objective: what the tolerances of HiGHS come to."""


@dataclass(frozen=True, eq=False)
class Solution:
    """What solving a program gave.

    Attributes:
        row: the best row found, canonical, shape ``(genes,)``; ``None`` if time ran out before there was one.
        score: its sum of tables.
        bound: no row within the limits has a higher sum.
    """

    row: Rows | None
    score: float
    bound: float


@dataclass(frozen=True, eq=False)
class Program:
    """A sum of tables to make large, limits to meet, reduced once and solved for any budgets.

    Attributes:
        space: whose rows it chooses.
        limits: the limits; those on summed metrics may be solved at other budgets than their own.
        parts: the factors.
        sizes: gene -> number of its allowed indices, sums over genes included.
        unit: the range of the objective, by which it is divided.
    """

    space: SearchSpace
    limits: tuple[Limit, ...]
    parts: tuple[Factor, ...] = field(repr=False)
    sizes: Mapping[int, int] = field(repr=False)
    unit: float

    @property
    def summed(self) -> tuple[Limit, ...]:
        """The limits whose budgets may differ from solution to solution."""
        return tuple(limit for limit in self.limits if not limit.metric.peak)

    def slack(self, gap: float) -> float:
        """How far below the bound a sum may be that is proven up to a gap (as of :meth:`solve`)."""
        return (gap + 2 * _SLOP) * self.unit

    @classmethod
    def compile(cls, space: SearchSpace, score: TableSum, limits: Sequence[Limit]) -> Program:
        """Reduce a problem.

        Args:
            space: where to search.
            score: what is maximised; cells of inactive genes count as those at index zero.
            limits: the most that metrics may be. Those on maxima (peak memory) exclude cells of their tables.
        """
        summed = [limit for limit in limits if not limit.metric.peak]
        peaks = [limit for limit in limits if limit.metric.peak]
        excluded = [(axes, np.where(array > limit.at_most, np.inf, 0.0)) for limit in peaks for axes, array in limit.metric.tables]
        objective = -TableSum(tuple(canonical_table(space, entry) for entry in score))
        tables, derived = numbered([[*objective, *excluded], *(limit.metric.tables for limit in summed)], len(space.choices))
        sizes = {gene: len(allowed) for gene, allowed in enumerate(space.allowed)} | {link.column: len(link.total) for link in derived}
        parts = factors(tables, derived, space.allowed)
        spans = [float(np.ptp(part.costs[:, 0])) for part in parts if len(part)]
        return cls(space, tuple(limits), tuple(parts), sizes, max(sum(spans), 1e-12))

    def solve(self, budgets: Values | None = None, *, gap: float = 1e-6, seconds: float = 60.0) -> Solution:
        """The best row within the limits.

        Args:
            budgets: for each summed limit the most it may be, shape ``(summed limits,)``; the limits' own if omitted.
            gap: how far, as a fraction of the range of the sum, the best row may be from the bound.
            seconds: when to stop with what there is.

        Raises:
            Infeasible: proven; no row of the space meets the limits.
        """
        most = np.array([limit.at_most for limit in self.summed]) if budgets is None else np.asarray(budgets, dtype=np.float64)
        until = time.monotonic() + seconds
        parts = self._within(self.parts, most)
        known = bounds(parts, self.sizes, most) if sum(map(len, parts)) > LARGE else None
        if known is None:
            return self._search(self._reduced, most, gap, until)
        best = Solution(None, -np.inf, -known.least + _SLOP * self.unit)
        margin = known.margin(_CORE * len(parts))
        while True:
            kept = known.core(margin)
            core = [Factor(part.genes, part.rows[keep], part.costs[keep]) for part, keep in zip(parts, kept, strict=True)]
            every = all((keep | ~np.isfinite(option)).all() for keep, option in zip(kept, known.options, strict=True))
            beyond = -np.inf if every else -(known.least + margin) + _SLOP * self.unit  # no row without the core has a higher sum
            try:
                found = self._search(reduce(core, self.sizes), most, gap, until)
            except Infeasible:
                if every:
                    raise
                found = Solution(None, -np.inf, -np.inf)
            bound = max(found.bound, beyond)
            row, score = max((best, found), key=lambda each: each.score).row, max(best.score, found.score)
            best = Solution(row, score, max(min(best.bound, bound), score))
            if best.score >= beyond or time.monotonic() >= until:
                return best
            margin = 4 * margin + 1e-4 * self.unit if best.row is None else -best.score - known.least + 2 * _SLOP * self.unit

    @cached_property
    def _reduced(self) -> list[Factor]:
        """The factors reduced, unless there are very many options."""
        return reduce(self.parts, self.sizes) if sum(map(len, self.parts)) <= _FOLDED else list(self.parts)

    def _search(self, parts: Sequence[Factor], most: Values, gap: float, until: float) -> Solution:
        """The best row within limits that some factors make, or the best bound if time runs out.

        Raises:
            Infeasible: proven; they make no row within the limits.
        """
        parts = self._within(parts, most)
        cuts: list[Cut] = []
        bound = -sum(float(part.costs[:, 0].min()) for part in parts)
        while (left := until - time.monotonic()) > 0:
            if len(parts) == 1:  # every option left is a whole row within the limits
                best = int(parts[0].costs[:, 0].argmin())
                return Solution(self._row(parts, [best]), bound, bound)
            chosen, found = self._solve(parts, most, cuts, gap, left)
            bound = min(bound, found)
            if chosen is None:
                break
            used = sum(part.costs[option] for part, option in zip(parts, chosen, strict=True))
            beyond = np.flatnonzero(used[1:] > most)
            if not len(beyond):
                return Solution(self._row(parts, chosen), -float(used[0]), max(bound, -float(used[0])))
            cuts += [_cover([part.costs[:, 1 + limit] for part in parts], chosen, most[limit]) for limit in beyond]
        return Solution(None, -np.inf, bound)

    def _row(self, parts: Sequence[Factor], chosen: Sequence[int]) -> Rows:
        """The canonical row of one option of each factor, shape ``(genes,)``."""
        found = {
            gene: index
            for part, option in zip(parts, chosen, strict=True)
            for gene, index in zip(part.genes, part.rows[option], strict=True)
        }
        row = np.array([[found[gene] for gene in range(len(self.space.choices))]], dtype=np.uint8)
        return only(self.space.canonical(row))

    def _within(self, parts: Sequence[Factor], most: Values) -> list[Factor]:
        """Factors without options that break a limit even if every other factor takes its cheapest one.

        Raises:
            Infeasible: a factor has no option left.
        """
        left = list(parts)
        while all(map(len, left)):
            least = np.array([part.costs[:, 1:].min(axis=0) for part in left])
            kept = [
                (part.costs[:, 1:] + np.delete(least, index, axis=0).sum(axis=0) <= most).all(axis=1) for index, part in enumerate(left)
            ]
            if all(keep.all() for keep in kept):
                return left
            left = [Factor(part.genes, part.rows[keep], part.costs[keep]) for part, keep in zip(left, kept, strict=True)]
        raise Infeasible(self._proven(most))

    def _solve(
        self, parts: Sequence[Factor], most: Values, cuts: Sequence[Cut], gap: float, seconds: float
    ) -> tuple[list[int] | None, float]:
        """An option of each factor, within the limits but for HiGHS' tolerance (``None`` if time ran out), and the bound."""
        from scipy.optimize import milp

        model = _Model(parts)
        least = [part.costs.min(axis=0) for part in parts]
        worst = [float(part.costs[:, 0].max()) for part in parts]  # below which the objective is large, as the gap of HiGHS is relative
        objective = np.concatenate([part.costs[:, 0] - high for part, high in zip(parts, worst, strict=True)]) * (_FINE / self.unit)
        for limit, budget in enumerate(most, start=1):
            model.limit([part.costs[:, limit] - low[limit] for part, low in zip(parts, least, strict=True)], budget - sum(least)[limit])
        for cut in cuts:
            model.cut(cut)
        whole = np.concatenate([objective, np.zeros(model.columns - len(objective))])
        for presolve in (True, False) if model.columns > _PRESOLVED else (False,):
            with quiet():
                answer = milp(whole, **model.constraints(), options={"mip_rel_gap": gap, "time_limit": seconds, "presolve": presolve})
            if not _doubtful(answer, gap):
                break
        if answer.status == 2:
            raise Infeasible(self._proven(most))
        dual = answer.mip_dual_bound
        if dual is not None and np.isfinite(dual):
            bound = -(sum(worst) + float(dual) * self.unit / _FINE) + _SLOP * self.unit
        else:
            bound = -float(sum(least)[0])
        if answer.x is None:
            return None, bound
        return [int(np.argmax(answer.x[start : start + len(part)])) for part, start in zip(parts, model.starts, strict=True)], bound

    def _proven(self, most: Values) -> str:
        summed = [limit.metric.name for limit in self.summed]
        peaks = [str(limit) for limit in self.limits if limit.metric.peak]
        limits = " and ".join(dict.fromkeys([*(f"{name} <= {value:g}" for name, value in zip(summed, most, strict=True)), *peaks]))
        return f"{limits or 'The problem'} cannot be met: no {self.space.name!r} architecture does (proven). Raise a limit."


class _Model:
    """The constraints of a program: one option for each factor, and one value for each gene that factors share.

    A gene that only one factor holds has its values as variables as well where these are fewer than the options that differ in it: then
    they have to be whole, and the options are.

    Args:
        parts: the factors; their options are the first columns.
    """

    def __init__(self, parts: Sequence[Factor]) -> None:
        self.starts = np.cumsum([0, *map(len, parts)])[:-1]
        self.columns = sum(map(len, parts))
        self._entries: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Values]] = []
        self._lower: list[float] = []
        self._upper: list[float] = []
        shared = set(_shared(parts))
        told = shared | {gene for part in parts for gene in _worth_telling(part, shared)}
        values = {gene: np.unique(np.concatenate([part.columns([gene]) for part in parts if gene in part.genes])) for gene in sorted(told)}
        places: dict[int, int] = {}
        for gene, own in values.items():
            places[gene] = self.columns
            self.columns += len(own)
            self._add(places[gene] + np.arange(len(own)), 1.0, 1.0, 1.0)
        self.whole = np.ones(self.columns, dtype=np.intp)
        for part, start in zip(parts, self.starts, strict=True):
            options = start + np.arange(len(part))
            visible = [gene for gene in part.genes if gene in told]
            for gene in visible:
                index = np.searchsorted(values[gene], part.columns([gene])[:, 0])
                every = np.arange(len(values[gene]))
                signs = np.repeat([1.0, -1.0], [len(options), len(every)])
                self._extend(np.append(index, every), np.append(options, places[gene] + every), signs, np.zeros(len(every)))
            if not visible:
                self._add(options, 1.0, 1.0, 1.0)
            else:
                self.whole[options] = _unsettled(part, visible)

    def limit(self, costs: Sequence[Values], room: float) -> None:
        """At most ``room`` of the costs, which are at least zero: exactly if they are small whole numbers, else a little more.

        HiGHS is not to be trusted with sums that are beyond the room by little more than its tolerance, which whole numbers never are.
        """
        every = np.concatenate(costs)
        if not every.sum() > room > 0:
            return
        index = np.arange(len(every))
        step = float(np.gcd.reduce(every.astype(np.int64))) if every.max() < 2**53 and (every == np.rint(every)).all() else 0.0
        if 0.0 < room <= step * _WHOLE:
            self._add(index, every / step, -np.inf, np.floor(room / step))
        else:
            self._add(index, every * (_FINE / room), -np.inf, _FINE * (1 + _SLOP))

    def cut(self, options: Cut) -> None:
        """Not an option of every one of some factors."""
        columns = [start + some for start, some in zip(self.starts, options, strict=True) if len(some)]
        self._add(np.concatenate(columns), 1.0, -np.inf, len(columns) - 1.0)

    def constraints(self) -> dict[str, Any]:
        """As arguments of :func:`scipy.optimize.milp`."""
        from scipy.optimize import Bounds, LinearConstraint
        from scipy.sparse import coo_array

        rows, columns, entries = (np.concatenate(each) for each in zip(*self._entries, strict=True))
        matrix = coo_array((entries, (rows, columns)), shape=(len(self._lower), self.columns)).tocsr()
        return {"integrality": self.whole, "bounds": Bounds(0, 1), "constraints": LinearConstraint(matrix, self._lower, self._upper)}

    def _add(self, columns: npt.ArrayLike, factor: npt.ArrayLike, low: float, high: float) -> None:
        """A constraint."""
        index = np.asarray(columns, dtype=np.intp)
        entries = np.broadcast_to(np.asarray(factor, dtype=np.float64), index.shape)
        self._entries.append((np.full(index.shape, len(self._lower)), index, entries))
        self._lower.append(low)
        self._upper.append(high)

    def _extend(self, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], entries: Values, equal: Values) -> None:
        """Several constraints, which are counted from 0: what each has to equal."""
        self._entries.append((len(self._lower) + rows, columns, entries))
        self._lower.extend(equal.tolist())
        self._upper.extend(equal.tolist())


def _unsettled(part: Factor, told: Sequence[int]) -> npt.NDArray[np.bool_]:
    """The options that are not alone with their values of some genes; those that are alone are whole if these values are."""
    _, inverse, count = np.unique(part.columns(told), axis=0, return_inverse=True, return_counts=True)
    return np.asarray(count[inverse.reshape(-1)] > 1)


def _worth_telling(part: Factor, shared: Collection[int]) -> list[int]:
    """The genes that a factor has for itself, if their values are fewer variables that have to be whole than its options are."""
    own = [gene for gene in part.genes if gene not in shared]
    if not own or len(own) == len(part.genes):
        return []
    values = sum(len(np.unique(part.columns([gene]))) for gene in own)
    return own if values < _unsettled(part, [gene for gene in part.genes if gene in shared]).sum() else []


def _doubtful(answer: Any, gap: float) -> bool:
    """Whether HiGHS' presolve may have misled it: it found nothing possible, or ended without telling the bound that it reached."""
    apart = 0.0 if answer.status else float(answer.fun - answer.mip_dual_bound)
    return bool(answer.status == 2 or apart > gap * abs(answer.fun or 0.0) + 1e-6)


def _cover(costs: Sequence[Values], chosen: Sequence[int], most: float) -> Cut:
    """Options of some factors that together exceed a limit whatever the other factors do; no row within the limit has one of each.

    Args:
        costs: what each option of each factor adds, exactly.
        chosen: an option of each factor, together beyond the limit.
        most: the limit.
    """
    least = [float(cost.min()) for cost in costs]
    most_of = [float(cost[option]) for cost, option in zip(costs, chosen, strict=True)]
    total = sum(most_of)
    cut: Cut = [np.empty(0, dtype=np.intp)] * len(costs)
    by_surplus = sorted(range(len(costs)), key=lambda index: most_of[index] - least[index])
    inside = []
    for index in by_surplus:  # leave out what the others exceed the limit without
        without = total - most_of[index] + least[index]
        if without > most:
            total = without
        else:
            inside.append(index)
    for index in inside:  # and take in the cheapest options that still exceed it
        enough = total - most_of[index] + costs[index] > most
        cut[index] = np.flatnonzero(enough)
        total += float(costs[index][enough].min()) - most_of[index]
    return cut


def _shared(parts: Sequence[Factor]) -> list[int]:
    """Genes that several factors hold."""
    genes = [gene for part in parts for gene in part.genes]
    return sorted(gene for gene in set(genes) if genes.count(gene) > 1)
