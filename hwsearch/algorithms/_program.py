"""Program: the best sum of tables within limits, proven, as a mixed integer program.

Every option of a factor is a variable, every value of a gene that several factors share is another one, and the options that hold a
value add up to it. These marginals tie the factors together and keep the linear relaxation tight. Solved by HiGHS (Huangfu
and Hall, 2018) through ``scipy.optimize.milp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .._minsum import Table
from ..errors import Infeasible
from ..metrics import Limit
from ..space import Rows, SearchSpace, only
from ._options import Factor, factors, reduce

Values = npt.NDArray[np.float64]


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
        parts: the reduced factors.
        unit: the range of the objective, by which it is divided.
    """

    space: SearchSpace
    limits: tuple[Limit, ...]
    parts: tuple[Factor, ...] = field(repr=False)
    unit: float

    @property
    def summed(self) -> tuple[Limit, ...]:
        """The limits whose budgets may differ from solution to solution."""
        return tuple(limit for limit in self.limits if not limit.metric.peak)

    @classmethod
    def compile(cls, space: SearchSpace, score: Sequence[Table], limits: Sequence[Limit]) -> Program:
        """Reduce a problem.

        Args:
            space: where to search.
            score: tables whose sum is to be made large.
            limits: the most that metrics may be. Those on maxima (peak memory) exclude cells of their tables.
        """
        summed = [limit for limit in limits if not limit.metric.peak]
        excluded = [(genes, array > limit.at_most) for limit in limits if limit.metric.peak for genes, array in limit.metric.tables]
        tables: list[Sequence[Table]] = [[(genes, -array) for genes, array in score]]
        tables += [limit.metric.tables for limit in summed]
        sizes = {gene: len(allowed) for gene, allowed in enumerate(space.allowed)}
        parts = reduce(factors(tables, excluded, space.allowed), sizes)
        spans = [float(np.ptp(part.costs[:, 0])) for part in parts if len(part)]
        return cls(space, tuple(limits), tuple(parts), max(sum(spans), 1e-12))

    def solve(
        self, budgets: Values | None = None, *, gap: float = 1e-6, seconds: float = 60.0, far: Sequence[tuple[Rows, int]] = ()
    ) -> Solution:
        """The best row within the limits.

        Args:
            budgets: for each summed limit the most it may be, shape ``(summed limits,)``; the limits' own where left out.
            gap: how far, as a fraction of the range of the sum, the best row may be from the bound.
            seconds: when to stop with what there is.
            far: rows, shape ``(genes,)``, and in how many genes at least the answer must differ from each.

        Raises:
            Infeasible: proven; no row of the space meets the limits.
        """
        most = np.array([limit.at_most for limit in self.summed]) if budgets is None else np.asarray(budgets, dtype=np.float64)
        margin, bound = 0.0, np.inf
        for _ in range(6):
            chosen, found = self._solve(most, margin, gap, seconds, far)
            bound = min(bound, found)
            if chosen is None:
                return Solution(None, -np.inf, bound)
            row = only(self.space.canonical(chosen[None]))
            used = np.array([float(limit.metric(row[None])[0]) for limit in self.summed])
            if (used <= most).all():  # HiGHS meets a limit within a tolerance; hwsearch meets it
                score = -float(sum(part.costs[self._option(part, chosen), 0] for part in self.parts))
                return Solution(row, score, max(bound, score))
            margin = 2e-6 + 4.0 * margin
        return Solution(None, -np.inf, bound)

    def _option(self, part: Factor, row: Rows) -> int:
        return int(np.flatnonzero((part.rows == row[list(part.genes)]).all(axis=1))[0])

    def _solve(self, most: Values, margin: float, gap: float, seconds: float, far: Sequence[tuple[Rows, int]]) -> tuple[Rows | None, float]:
        """A row (``None`` if time ran out) and the bound."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        parts = [_within(part, most, self.parts) for part in self.parts]
        if any(len(part) == 0 for part in parts):
            raise Infeasible(self._proven(most))
        shared = _shared(parts)
        starts = np.cumsum([0, *map(len, parts)])
        columns = {}
        end = int(starts[-1])
        for gene in shared:
            for value in np.unique(np.concatenate([part.columns([gene]) for part in parts if gene in part.genes])):
                columns[gene, int(value)] = end
                end += 1
        rows_of: list[npt.NDArray[np.intp]] = []
        columns_of: list[npt.NDArray[np.intp]] = []
        entries: list[Values] = []
        lower: list[float] = []
        upper: list[float] = []

        def constrain(where: npt.ArrayLike, factor: npt.ArrayLike, low: float, high: float) -> None:
            index = np.asarray(where, dtype=np.intp)
            rows_of.append(np.full(len(index), len(lower)))
            columns_of.append(index)
            entries.append(np.broadcast_to(np.asarray(factor, dtype=np.float64), index.shape))
            lower.append(low)
            upper.append(high)

        whole = np.zeros(end, dtype=np.intp)
        for gene in shared:
            of_gene = [column for (g, _), column in columns.items() if g == gene]
            constrain(of_gene, 1.0, 1.0, 1.0)
        whole[int(starts[-1]) :] = 1
        for part, start in zip(parts, starts, strict=False):
            visible = [gene for gene in part.genes if gene in shared]
            if visible:
                for gene in visible:
                    own = part.columns([gene])[:, 0]
                    for (g, value), column in columns.items():
                        if g == gene:
                            options = start + np.flatnonzero(own == value)
                            constrain([*options, column], [1.0] * len(options) + [-1.0], 0.0, 0.0)
            else:
                constrain(start + np.arange(len(part)), 1.0, 1.0, 1.0)
            _, inverse, count = np.unique(part.columns(visible), axis=0, return_inverse=True, return_counts=True)
            whole[start : start + len(part)] = count[inverse.reshape(-1)] > 1 if visible else 1
        every = np.arange(int(starts[-1]))
        costs = np.concatenate([part.costs for part in parts])
        for column, budget in enumerate(most):
            scale = budget if budget > 0 else 1.0
            constrain(every, costs[:, 1 + column] / scale, -np.inf, (budget / scale) - margin)
        for row, least in far:
            differ = np.concatenate([(part.rows != row[list(part.genes)])[:, _own(part, shared)].sum(axis=1) for part in parts])
            extra = [(column, float(value != row[gene])) for (gene, value), column in columns.items()]
            constrain([*every, *(c for c, _ in extra)], [*differ, *(w for _, w in extra)], float(least), np.inf)
        shape = (len(lower), end)
        matrix = coo_array((np.concatenate(entries), (np.concatenate(rows_of), np.concatenate(columns_of))), shape=shape).tocsr()
        offset = float(sum(part.costs[:, 0].min() for part in parts))
        objective = np.concatenate([*((part.costs[:, 0] - part.costs[:, 0].min()) / self.unit for part in parts), np.zeros(len(columns))])
        answer = milp(
            objective,
            integrality=whole,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, lower, upper),
            options={"mip_rel_gap": gap, "time_limit": seconds, "presolve": True},
        )
        if answer.status == 2:
            raise Infeasible(self._proven(most))
        dual = answer.mip_dual_bound
        bound = -(offset + float(dual) * self.unit) if dual is not None and np.isfinite(dual) else -offset
        if answer.x is None:
            return None, bound
        chosen = np.zeros(len(self.space.choices), dtype=np.uint8)
        for part, start in zip(parts, starts, strict=False):
            chosen[list(part.genes)] = part.rows[int(np.argmax(answer.x[start : start + len(part)]))]
        return chosen, bound

    def _proven(self, most: Values) -> str:
        summed = [limit.metric.name for limit in self.summed]
        peaks = [str(limit) for limit in self.limits if limit.metric.peak]
        together = " and ".join([*(f"{name} <= {value:g}" for name, value in zip(summed, most, strict=True)), *peaks])
        return f"{together or 'The problem'} cannot be met: no {self.space.name!r} architecture does (proven). Raise a limit."


def _shared(parts: Sequence[Factor]) -> list[int]:
    """Genes that several factors hold."""
    genes = [gene for part in parts for gene in part.genes]
    return sorted(gene for gene in set(genes) if genes.count(gene) > 1)


def _own(part: Factor, shared: Sequence[int]) -> list[int]:
    """Columns of the genes that only this factor holds."""
    return [column for column, gene in enumerate(part.genes) if gene not in shared]


def _within(part: Factor, most: Values, parts: Sequence[Factor]) -> Factor:
    """The factor without options that break a limit even if every other factor takes its cheapest one."""
    keep = np.ones(len(part), dtype=np.bool_)
    for column, budget in enumerate(most):
        others = sum(float(other.costs[:, 1 + column].min()) for other in parts if other is not part and len(other))
        keep &= part.costs[:, 1 + column] + others <= budget * (1 + 1e-12) + 1e-12
    return Factor(part.genes, part.rows[keep], part.costs[keep])
