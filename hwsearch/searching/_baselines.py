"""Networks to compare a search with: the largest one, and uniform widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Unpack

import numpy as np

from .._types import Rows
from ..algorithms._problem import Posing, Problem
from ..costs._limits import together
from ..errors import Infeasible
from ..spaces._load import load_space
from ..spaces._space import Architecture, SearchSpace


def dense(space: str | SearchSpace, precision: str = "fp32") -> Architecture:
    """The largest network of a space, which may be restricted: every gene at its last value, precisions as given.

    Example:
        >>> from hwsearch.searching import dense
        >>> network = dense("resnet_digits", "int8")
        >>> network.values()["resolution"], {block.precision for block in network.blocks()[1:-2]}
        (16, {'int8'})

    Raises:
        InvalidInput: the space does not offer the precision.
    """
    where = load_space(space)
    row = np.array([allowed[-1] for allowed in where.allowed], dtype=np.uint8)
    return where.architecture(row).at_precision(precision)


def uniform(problem: Problem | str | SearchSpace, **posing: Unpack[Posing]) -> Architecture:
    """The best uniform-width network within limits: what people do without a search.

    Every width is the same fraction of the largest, every block has the same precision, and depth and resolution are full; where no
    width is feasible so, depths and resolution go one value down, and so on. For each precision the widest feasible network is
    kept, and of these the one with the best predicted score is returned.

    Example:
        >>> import hwsearch
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> people = hwsearch.searching.uniform(problem)
        >>> {value for name, value in people.values().items() if name.endswith("precision")}
        {'int8'}

    Args:
        problem: as in :func:`hwsearch.search`.

    Raises:
        Infeasible: no uniform-width network meets the limits.
    """
    return next(_best_by_step(Problem.of(problem, **posing)))[0]


def scaled(problem: Problem | str | SearchSpace, **posing: Unpack[Posing]) -> Architecture:
    """The best network within limits of which everything is scaled alike: uniform widths at each step of depth and resolution.

    A stronger comparison than :func:`uniform`, which gives up depth and resolution only where it has to: here all depths and the
    resolution are full, or all one value down, and so on, and of the widest feasible network of each step and precision the one with
    the best predicted score is returned (Tan and Le 2019, arXiv:1905.11946, scale all three together).

    Example:
        >>> import hwsearch
        >>> widest = lambda X: X[:, 4].astype(float)  # a score that likes nothing but a wide first stage
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=widest, limits={"macs": 2e6})
        >>> problem.space.choices[4].name
        'stage1.out'
        >>> [hwsearch.searching.uniform(problem).values()[name] for name in ("resolution", "stage1.out")]
        [16, 8]
        >>> [hwsearch.searching.scaled(problem).values()[name] for name in ("resolution", "stage1.out")]
        [12, 16]

    Args:
        problem: as in :func:`hwsearch.search`.

    Raises:
        Infeasible: no network scaled so meets the limits.
    """
    return max(_best_by_step(Problem.of(problem, **posing)), key=itemgetter(1))[0]


def widths(space: SearchSpace, fraction: float, *, precision: str, shrink: int = 0) -> Rows:
    """The row, shape ``(genes,)``, whose widths are all nearest to a fraction of the largest.

    Args:
        space: the space.
        fraction: 1 for the full width.
        precision: of every block.
        shrink: how many values below the largest the resolution and the depths are.
    """
    row = np.array([allowed[-1] for allowed in space.allowed], dtype=np.uint8)
    for gene, choice in enumerate(space.choices):
        if choice.role == "width":
            values = np.array([float(choice.values[index]) for index in space.allowed[gene]])
            row[gene] = space.allowed[gene][int(np.argmin(np.abs(values - fraction * values[-1])))]
        elif shrink and not choice.is_precision:
            row[gene] = space.allowed[gene][max(0, len(space.allowed[gene]) - 1 - shrink)]
    return space.architecture(row).at_precision(precision).genes


def _ladder(space: SearchSpace) -> Iterator[dict[str, Rows]]:
    """Uniform-width rows by precision, widest first; full depth and resolution first, then everything one value smaller, and so on."""
    precisions = _precisions(space)
    others = (len(allowed) for gene, allowed in enumerate(space.allowed) if space.choices[gene].role != "width")
    steps = max(others, default=1)
    for shrink in range(steps):
        ladder = {}
        for precision in precisions:
            rows = [widths(space, fraction, precision=precision, shrink=shrink) for fraction in np.linspace(1.0, 0.02, 99)]
            ladder[precision] = np.stack(list({row.tobytes(): row for row in rows}.values()))
        yield ladder


def _best_by_step(task: Problem) -> Iterator[tuple[Architecture, float]]:
    """Of each step of the ladder that has feasible networks: the best of the widest one of each precision, and its predicted score."""
    nothing = True
    for rows in _ladder(task.space):
        found = _widest(task, rows)
        if len(found):
            nothing = False
            scores, _ = task.evaluate(found)
            best = int(np.argmax(scores))
            yield task.space.architecture(found[best]), float(scores[best])
    if nothing:
        raise Infeasible(f"No uniform-width network of {task.space.name!r} meets {together(task.limits)}. Raise the limits.")


def _widest(task: Problem, ladder: Mapping[str, Rows]) -> Rows:
    kept = []
    for rows in ladder.values():
        scores, _ = task.evaluate(rows)
        feasible = np.flatnonzero(~np.isnan(scores))
        kept += [rows[feasible[0]]] if len(feasible) else []
    return np.array(kept, dtype=np.uint8).reshape(-1, len(task.space.choices))


def _precisions(space: SearchSpace) -> tuple[str, ...]:
    """The precisions that every precision gene may have."""
    genes = [gene for gene, choice in enumerate(space.choices) if choice.is_precision]
    if not genes:
        return ("fp32",)
    shared = set.intersection(*({str(space.choices[gene].values[index]) for index in space.allowed[gene]} for gene in genes))
    return tuple(sorted(shared))
