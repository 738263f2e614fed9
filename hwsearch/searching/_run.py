"""Run: how long a search takes, where it is kept, and who works for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from .._files._writing import PathLike


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a search is run, whatever it searches.

    Example:
        >>> import hwsearch
        >>> run = hwsearch.Run(steps=3, state="run.npz", progress=False)
        >>> parts = {"predictor": lambda X: X.sum(axis=1), "limits": {"macs": 1e6}, "run": run}
        >>> first = hwsearch.search("resnet_digits", "random", **parts)
        >>> hwsearch.search("resnet_digits", "random", **parts).best == first.best  # goes on from the file
        True

    Attributes:
        steps: steps in all; if omitted, the algorithm's own number.
        evaluations: the most times that the score is computed in all, for scores that take minutes or hours. Networks are priced first, and
            those that exceed a limit cost no evaluation. Each network is scored alone and kept in ``state`` as soon as it is known; one
            that was interrupted is scored again and counted once. A score that raises or is not finite has failed: it counts, and the
            search goes on without it. The default algorithm is then :class:`hwsearch.algorithms.Surrogate`, and nothing is polished.
        polish: whether to finish with the exhaustive neighbourhoods of the best rows (see :class:`hwsearch.algorithms.Local`); if omitted,
            whenever ``steps`` is omitted too and the optimum is not proven.
        state: a file that keeps the search after every step; if it exists, the search goes on from it. A search that verifies keeps what
            was measured instead, in ``<state>.verified.jsonl``, and searches again, which gives the same networks.
        executor: scores rows on its workers, for costly scores: any :class:`concurrent.futures.Executor` (a process pool, or that of a
            Dask, MPI or Ray cluster), or a function that makes one. Rows whose worker died are scored again. With ``evaluations``, no
            worker waits for another one, so the order of the answers, and with it the search, may differ from run to run.
        progress: whether to show progress bars, on a terminal or in a notebook.
    """

    steps: int | None = None
    evaluations: int | None = None
    polish: bool | None = None
    state: PathLike | None = None
    executor: Executor | Callable[[], Executor] | None = None
    progress: bool = True


ONCE = Run()
"""A run with everything as the algorithm has it, kept nowhere."""
