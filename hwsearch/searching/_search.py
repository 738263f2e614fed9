"""search(): from limits to the best network within them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Unpack

from .._files._lock import claim
from ..algorithms._load import load_algorithm
from ..algorithms._problem import Posing, Problem
from ..algorithms.base import Algorithm
from ..errors import InvalidInput
from ..scores._executor import ScoreOnWorkers
from ..spaces._space import SearchSpace
from ._loop import solve
from ._result import SearchResult
from ._run import ONCE, Run
from .verify._loop import verified_search, what_to_check
from .verify._verifier import Verify


def search(
    problem: Problem | str | SearchSpace,
    algorithm: str | Algorithm | None = None,
    *,
    seed: int = 0,
    verify: Verify | None = None,
    run: Run = ONCE,
    **posing: Unpack[Posing],
) -> SearchResult:
    """Find the network with the best predicted score within the limits, and verify it on request.

    Args:
        problem: a problem; or a space or its name, with the other arguments of :meth:`hwsearch.Problem.of` by name: ``predictor``,
            ``device``, ``limits``, ``metrics``, ``weights``.
        algorithm: a name (``"memetic"``, ``"evolution"``, ``"exact"``, ``"nsga2"``, ...) or an :class:`hwsearch.algorithms.Algorithm`; if
            omitted, memetic search for a score that knows its gradient, as fitted perceptrons and linear models do, evolution for any
            other, and :class:`hwsearch.algorithms.Surrogate` within a budget of ``run.evaluations``.
        seed: the same seed gives the same answer, bit for bit.
        verify: evaluate and measure the best networks found, correct the predictions by what they turned out to be, and search again,
            until prediction and measurement agree. The answer is then the best network that was measured to be within the limits. A
            corrected score is no sum of tables, so ``"exact"`` is followed by ``"hybrid"`` after the first round.
        run: how many steps, where the search is kept, on which workers rows are scored, and whether progress is shown.

    Returns:
        The best architecture, the front, and where they came from.

    Raises:
        Infeasible: no architecture meets the limits (proven), or none that the search came across does.
        WrongDevice: latency shall be verified, and this machine is not the device.
        HwsearchError: as :meth:`hwsearch.Problem.of`, and as :func:`hwsearch.searching.load_state` if ``run.state`` is of another search.

    Example:
        >>> import hwsearch
        >>> result = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}, run=hwsearch.Run(steps=3))
        >>> result.values["macs"] <= 1e6
        True
    """
    task = Problem.of(problem, **posing)
    if verify is not None and run.evaluations is not None:
        raise InvalidInput("A search that verifies evaluates its networks anyway, so it takes no evaluations=. Leave out one of them.")
    checks = None if verify is None else what_to_check(task, verify)
    with on_workers(task, run) as spread:
        if checks is None:
            return solve(spread, load_algorithm(algorithm, spread, costly=run.evaluations is not None), seed=seed, run=run)
        with claim(None if run.state is None else f"{os.fspath(run.state)}.verified.jsonl"):
            return verified_search(spread, checks, algorithm, seed=seed, run=run)


@contextmanager
def on_workers(problem: Problem, run: Run) -> Iterator[Problem]:
    """The problem with its score computed by the executor of a run, if it has one."""
    if run.executor is None:
        yield problem
        return
    spread = ScoreOnWorkers(problem.score, run.executor)
    try:
        yield replace(problem, score=spread)
    finally:
        spread.close()
