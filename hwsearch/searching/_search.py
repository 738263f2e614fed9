"""search(): from limits to the best network within them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .._files import _writing
from .._files._lock import claim
from ..algorithms._load import load_algorithm
from ..algorithms._problem import Devices, Problem, Score, problem
from ..algorithms.base import Algorithm
from ..costs._metrics import Metric
from ..scores._predictor import Predictor
from ..spaces._space import SearchSpace
from ._loop import solve
from ._result import SearchResult
from .verify._loop import asked, verified_search

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..nn.data._images import Data
    from ..nn.supernet._supernet import Supernet
    from .verify._verifier import Verifier


def search(
    space: str | SearchSpace,
    *,
    predictor: Predictor | _writing.PathLike | Score,
    device: Devices | None = None,
    weights: Sequence[float] | None = None,
    metrics: Sequence[Metric] = (),
    limits: Mapping[str, float] | None = None,
    algorithm: str | Algorithm | None = None,
    seed: int = 0,
    steps: int | None = None,
    polish: bool | None = None,
    state: _writing.PathLike | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    verify: int = 0,
    supernet: _writing.PathLike | Supernet | None = None,
    data: _writing.PathLike | tuple[str, _writing.PathLike] | Data | None = None,
    tolerance: Mapping[str, float] | None = None,
    rounds: int = 4,
    verifier: Verifier | None = None,
    progress: bool = False,
) -> SearchResult:
    """Find the network with the best predicted score within the limits, and verify it.

    Args:
        space: a space or its name.
        predictor: a fitted predictor, the path of one, or any callable from rows ``(n, genes)`` to scores ``(n,)``, higher is better.
        device: a latency table, its path, or its name in ``latency_tables/``; or several of them, as in :func:`problem`.
        weights: of several devices, as in :func:`problem`.
        metrics: further costs to limit and to report, such as that of :func:`hwsearch.fit_metric`.
        limits: metric name -> the most it may be; see :data:`hwsearch.METRICS`.
        algorithm: a name (``"memetic"``, ``"evolution"``, ``"exact"``, ``"nsga2"``, ...) or an
            :class:`~hwsearch.algorithms.base.Algorithm`; where left out, memetic search for a score that knows its slopes, as fitted
            perceptrons and linear models do, and evolution for any other.
        seed: the same seed gives the same answer, bit for bit.
        steps: steps in all; the algorithm's own number where left out.
        polish: whether to finish with the exhaustive neighbourhoods of the best rows (see :class:`~hwsearch.algorithms.local.Local`);
            where left out, whenever ``steps`` is left out too and the optimum is not proven.
        state: a file that keeps the search after every step; where it exists the search goes on from it. A search that verifies keeps
            what was measured instead, in ``<state>.verified.jsonl``, and searches again, which gives the same networks.
        executor: scores rows on its workers, for costly scores: any :class:`concurrent.futures.Executor` (a process pool, or that of a
            Dask, MPI or Ray cluster), or a function that makes one. Rows whose worker died are scored again.
        verify: evaluate and measure so many of the best networks found, correct the predictions by what they turned out to be, and search
            again, until prediction and measurement agree. The answer is then the best network that was measured to be within the limits.
            A corrected score is no sum of tables, so ``"exact"`` is followed by ``"hybrid"`` after the first round.
        supernet: the trained weights in which networks are evaluated, at their precisions.
        data: the images (:func:`hwsearch.nn.load_data`) whose validation part they are evaluated on.
        tolerance: what is verified, and how far prediction and measurement of the answer may be apart: ``"score"`` by its value,
            ``"latency_ms"`` by a share of the prediction. Where left out, 0.005 and, where a device is named, 0.03. Latency is
            measured on this machine, which must be the device; ``{"score": 0.005}`` goes without.
        rounds: of searching and verifying, at most.
        verifier: evaluates and measures instead of ``supernet``, ``data`` and this machine.
        progress: show progress bars.

    Returns:
        The best architecture, the front, and where they came from.

    Raises:
        Infeasible: no architecture meets the limits (proven), or none that the search came across does.
        WrongDevice: latency shall be verified, and this machine is not the device.
        HwsearchError: as :func:`problem`, and as :func:`hwsearch.searching.load_state` where ``state`` is of another search.
    """

    def pose(score: Predictor | _writing.PathLike | Score, own: Sequence[Metric]) -> Problem:
        return problem(space, predictor=score, device=device, weights=weights, metrics=[*own, *metrics], limits=limits)

    posed = pose(predictor, ())
    spread = None
    if executor is not None:
        from ..scores._executor import Spread

        spread = Spread(posed.score, executor)
        posed = replace(posed, score=spread)
    sources = {"predictor": predictor, "device": device}
    try:
        if not verify and all(given is None for given in (supernet, data, tolerance, verifier)):
            method = load_algorithm(algorithm, posed)
            return solve(posed, method, seed=seed, steps=steps, polish=polish, state=state, progress=progress, sources=sources)
        checks = asked(posed, device, verify, supernet=supernet, data=data, tolerance=tolerance, rounds=rounds, verifier=verifier)
        with claim(None if state is None else f"{os.fspath(state)}.verified.jsonl"):
            return verified_search(
                posed,
                pose,
                checks,
                algorithm=algorithm,
                state=state,
                progress=progress,
                seed=seed,
                steps=steps,
                polish=polish,
                sources=sources,
            )
    finally:
        if spread is not None:
            spread.close()
