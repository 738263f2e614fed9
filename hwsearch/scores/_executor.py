"""Scores computed by an executor's workers, some of which may die."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from .._types import Rows, Score
from ..errors import WorkersLost

_ROWS = 8
"""Rows of a task. It does not depend on the number of workers, since numerical libraries round batches of other lengths otherwise."""


class ScoreOnWorkers:
    """A score whose rows are computed by the workers of an executor.

    What searches ask of a score besides (its gradient, standard deviation, tables and so on) is computed here. A score that has an
    attribute ``chunk`` is given that number of rows at once, as it would split them itself. When a worker dies, the rows that it had are
    scored again; a process pool, which a dead worker breaks for good, is replaced by a new one like it.

    Args:
        score: rows ``(n, genes)`` -> scores ``(n,)``; it must be able to travel to the workers.
        executor: any executor, or a function that makes one.
        tries: how often a row is tried before the search gives up.
    """

    def __init__(self, score: Score, executor: Executor | Callable[[], Executor], tries: int = 4) -> None:
        self.score = score
        self.tries = tries
        self._make = None if isinstance(executor, Executor) else executor
        self._executor = executor if isinstance(executor, Executor) else executor()
        self._mine = self._make is not None

    def __repr__(self) -> str:
        return f"{self.score!r} on {type(self._executor).__name__}"

    @property
    def workers(self) -> int:
        """How many tasks the executor works on at the same time, as far as that is known."""
        return getattr(self._executor, "_max_workers", None) or os.cpu_count() or 1

    @property
    def gradient(self) -> Any:
        """Derivatives of the score by the features; ``None`` if the score does not know them, as of the next four."""
        return getattr(self.score, "gradient", None)

    @property
    def std(self) -> Any:
        """Standard deviations of the score's predictions."""
        return getattr(self.score, "std", None)

    @property
    def extrapolates(self) -> Any:
        """Which rows differ from everything that the score was fitted on."""
        return getattr(self.score, "extrapolates", None)

    @property
    def tables(self) -> Any:
        """The tables whose sum the score is."""
        return getattr(self.score, "tables", None)

    @property
    def report(self) -> Any:
        """How well the score did on networks that it was not fitted on."""
        return getattr(self.score, "report", None)

    def __call__(self, X: Rows) -> npt.NDArray[Any]:
        """The scores of rows, shape ``(n,)``.

        Raises:
            WorkersLost: workers died at every try.
        """
        rows = getattr(self.score, "chunk", _ROWS)
        parts = [X[start : start + rows] for start in range(0, len(X), rows)] or [X]
        found: dict[int, npt.NDArray[Any]] = {}
        for _ in range(self.tries):
            waiting: dict[int, Future[npt.ArrayLike]] = {}
            lost: BaseException | None = None
            for index, part in enumerate(parts):
                if index not in found:
                    try:
                        waiting[index] = self._executor.submit(self.score, part)
                    except BrokenExecutor as error:
                        lost = error
            for index, future in waiting.items():
                try:
                    found[index] = np.asarray(future.result())
                except Exception as error:
                    if not _is_loss(error):
                        raise
                    lost = error
            if lost is None:
                return np.concatenate([found[index] for index in range(len(parts))])
            self._renew()
        raise WorkersLost(
            f"Workers died {self.tries} times in a row while they scored {len(X)} rows; {len(parts) - len(found)} of {len(parts)} tasks "
            "are missing. Look at their memory, or score fewer rows at once."
        ) from lost

    def submit(self, X: Rows) -> Future[Any]:
        """The scores of rows, shape ``(n,)``, as soon as a worker has computed them."""
        try:
            return self._executor.submit(self.score, X)
        except BrokenExecutor:
            self._renew()
            return self._executor.submit(self.score, X)

    def is_lost(self, future: Future[Any]) -> bool:
        """Whether the worker died that was to compute it."""
        error = future.exception() if not future.cancelled() else CancelledError()
        return isinstance(error, Exception) and _is_loss(error)

    def _renew(self) -> None:
        """Replace an executor that a dead worker broke; others find new workers themselves."""
        old = self._executor
        if self._make is not None:
            self.close()
            self._executor = self._make()
        elif isinstance(old, ProcessPoolExecutor) and getattr(old, "_broken", False):
            kept = {name: getattr(old, f"_{name}", None) for name in ("max_workers", "mp_context", "initializer")}
            self._executor = ProcessPoolExecutor(**kept, initargs=getattr(old, "_initargs", ()))
            self._mine = True

    def close(self) -> None:
        """Shut down an executor that was made here; one that was given is its owner's."""
        if self._mine:
            self._executor.shutdown()


def _is_loss(error: Exception) -> bool:
    """Whether it says that a worker died (and not that the score failed)."""
    return isinstance(error, BrokenExecutor | CancelledError) or type(error).__name__ == "KilledWorker"
